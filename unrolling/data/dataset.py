"""What every loader returns: tensors, class names, and a fingerprint of the content they came from."""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from unrolling._checks import DataError, InputError, check_integer, shown


def content_fingerprint(*parts: str | Tensor) -> str:
    """Return 16 hex digits of the SHA-256 of strings and tensors, with their types and shapes."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            # A file's name may have bytes that are no text.
            digest.update(f"text {len(part)} {part}".encode("utf-8", "surrogatepass"))
        else:
            digest.update(f"{part.dtype} {tuple(part.shape)} ".encode())
            digest.update(part.contiguous().reshape(-1).numpy())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification problem D with its test set.

    Attributes:
        name: The name it was loaded by.
        train_inputs: Shape ``(train, *example)``, standardised; images are float32 (channels, height, width).
        train_labels: int64 class numbers of shape (train,).
        test_inputs: Shape ``(test, *example)``.
        test_labels: int64 class numbers of shape (test,).
        class_names: The name of every class, in the order of the labels.
        fingerprint: 16 hex digits of the SHA-256 of the source's pixels and labels. It does not depend on
            where or in which container they were.
        description: One line that says what the data are, fit for a caption.
        train_lengths: For text, the tokens of every training example, int64 of shape (train,).
    """

    name: str
    train_inputs: Tensor = field(repr=False)
    train_labels: Tensor = field(repr=False)
    test_inputs: Tensor = field(repr=False)
    test_labels: Tensor = field(repr=False)
    class_names: tuple[str, ...] = field(repr=False)
    fingerprint: str
    description: str
    train_lengths: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for part, inputs, labels in (
            ("train", self.train_inputs, self.train_labels),
            ("test", self.test_inputs, self.test_labels),
        ):
            if not isinstance(inputs, Tensor) or not inputs.ndim or inputs.is_complex():
                kind = f"{inputs.dtype} tensor" if isinstance(inputs, Tensor) else type(inputs).__name__
                raise InputError(
                    f"{self.name}: {part} inputs must be a tensor of real examples, got a {kind}."
                )
            got = f"inputs of shape {tuple(inputs.shape)}"
            check_labels(self.name, part, len(inputs), labels, self.class_names, got)
            # The extremes carry every NaN and infinity, and need no second array of this size.
            if not inputs.numel():
                raise InputError(f"{self.name}: {part} inputs must not be empty, got {got}.")
            if not torch.stack(inputs.aminmax()).isfinite().all():
                raise InputError(f"{self.name}: {part} inputs must be finite, got NaN or infinity.")
        if (self.train_inputs.shape[1:], self.train_inputs.dtype) != (
            self.test_inputs.shape[1:],
            self.test_inputs.dtype,
        ):
            raise InputError(
                f"{self.name}: train and test inputs must be alike, got {self.train_inputs.dtype} of shape "
                f"{tuple(self.train_inputs.shape[1:])} and {self.test_inputs.dtype} of shape "
                f"{tuple(self.test_inputs.shape[1:])}."
            )
        lengths = self.train_lengths
        if lengths is None:
            return
        if not isinstance(lengths, Tensor) or lengths.shape != self.train_labels.shape:
            got = tuple(lengths.shape) if isinstance(lengths, Tensor) else shown(lengths)
            raise InputError(
                f"{self.name}: expected one length per train input, a tensor, got {got} for "
                f"{len(self.train_labels)} inputs."
            )

    @property
    def num_classes(self) -> int:
        """Number of classes, c."""
        return len(self.class_names)

    def subset(self, num_train: int, num_test: int, generator: torch.Generator) -> "Dataset":
        """Return a random part in which the classes keep their shares, up to rounding.

        Examples stay in their order and keep the standardisation of the full training set. From equal
        generators a smaller training part is contained in a larger one.

        Args:
            num_train: Training examples to keep.
            num_test: Test examples to keep.
            generator: Source of the choice, on the CPU.

        Raises:
            InputError: If more examples are asked for than there are.
        """
        train, test = choose_subset(self.train_labels, self.test_labels, num_train, num_test, generator)
        return replace(
            self,
            train_inputs=self.train_inputs[train],
            train_labels=self.train_labels[train],
            test_inputs=self.test_inputs[test],
            test_labels=self.test_labels[test],
            fingerprint=content_fingerprint(self.fingerprint, train, test),
            description=subset_description(self, num_train, num_test),
            train_lengths=None if self.train_lengths is None else self.train_lengths[train],
        )

    def more_training_data(
        self, num_train: int, num_more: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return training inputs and labels that :meth:`subset` leaves out: a shadow model's data.

        Args:
            num_train: Training examples of the subset.
            num_more: Further examples. The classes keep their shares, up to rounding.
            generator: As the subset's was when it was drawn.

        Raises:
            InputError: If more examples are asked for than there are besides the subset.
        """
        index = choose_more(self.train_labels, num_train, num_more, generator)
        return self.train_inputs[index], self.train_labels[index]


def check_labels(
    name: str, part: str, count: int, labels: Tensor, class_names: tuple[str, ...], got: str
) -> None:
    """Check that there is one label per example and that all labels have a class.

    Args:
        name: Name of the data set.
        part: ``"train"`` or ``"test"``.
        count: Number of examples.
        labels: Their labels.
        class_names: The name of every class.
        got: What the examples are, for the message.

    Raises:
        InputError: If not, or if there are fewer than two classes.
    """
    if not isinstance(class_names, tuple | list) or not all(isinstance(label, str) for label in class_names):
        raise InputError(f"{name}: class_names must be a tuple of texts, got {shown(class_names)}.")
    if not isinstance(labels, Tensor):
        raise InputError(f"{name}: {part} labels must be an int64 tensor, got a {type(labels).__name__}.")
    if len(class_names) < 2:
        raise InputError(f"{name}: expected at least two classes, got {class_names}.")
    if not count or labels.shape != (count,):
        raise InputError(
            f"{name}: expected one label per {part} input and at least one input, got {got} and labels of "
            f"shape {tuple(labels.shape)}."
        )
    if labels.dtype != torch.int64:
        raise InputError(f"{name}: {part} labels must be int64, got {labels.dtype}.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(class_names):
        raise InputError(
            f"{name}: {part} labels must be in 0..{len(class_names) - 1} ({len(class_names)} class names), "
            f"got {low}..{high}."
        )


def choose_subset(
    train_labels: Tensor, test_labels: Tensor, num_train: int, num_test: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the training and test indices, ascending, of :meth:`Dataset.subset`."""
    check_integer("num_train", num_train, minimum=1, maximum=len(train_labels))
    check_integer("num_test", num_test, minimum=1, maximum=len(test_labels))
    _check_generator(generator)
    train, test = (_shuffled(labels, generator) for labels in (train_labels, test_labels))
    return train[:num_train].sort().values, test[:num_test].sort().values


def choose_more(train_labels: Tensor, num_train: int, num_more: int, generator: torch.Generator) -> Tensor:
    """Return the indices, ascending, of :meth:`Dataset.more_training_data`."""
    check_integer("num_train", num_train, minimum=1, maximum=len(train_labels))
    left = len(train_labels) - num_train
    if check_integer("num_more", num_more, minimum=1) > left:
        raise InputError(
            f"num_more must be at most {left}, what {num_train} of {len(train_labels)} training "
            f"examples leave, got {num_more}. Choose a smaller subset to train on."
        )
    _check_generator(generator)
    return _shuffled(train_labels, generator)[num_train : num_train + num_more].sort().values


def _check_generator(generator: Any) -> None:
    if not isinstance(generator, torch.Generator):
        raise InputError(
            f"generator must be a torch.Generator, got {shown(generator)}. Make one: make_generator(seed)."
        )


def subset_description(dataset: Any, num_train: int, num_test: int) -> str:
    """Return the description of a part of a data set, of images or texts."""
    return (
        f"{dataset.description}; {num_train:,} of {len(dataset.train_labels):,} training and "
        f"{num_test:,} of {len(dataset.test_labels):,} test examples"
    )


def _shuffled(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Return all indices in a random order, any beginning of which takes nearly the same share of a class."""
    shuffled = torch.randperm(len(labels), generator=generator)
    # The k-th of n members of a class, in shuffled order, sits at (k - 1/2) / n on a common scale.
    position = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        members = (labels[shuffled] == label).nonzero().squeeze(1)
        position[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return shuffled[position.argsort(stable=True)]


def channel_statistics(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the population standard deviation of every channel, float64.

    From the exact histogram of the pixel values, so the result does not depend on the order of a sum.

    Args:
        pixels: uint8, shape (images, channels, height, width).
    """
    values = torch.arange(256, dtype=torch.float64)
    counts = torch.zeros(pixels.shape[1], 256, dtype=torch.float64)
    for images in pixels.split(1000):  # bincount works on int64 copies, eight times the size
        for channel, count in zip(images.unbind(1), counts, strict=True):
            count += torch.bincount(channel.reshape(-1), minlength=256)
    shares = counts / counts.sum(dim=1, keepdim=True)
    mean = shares @ values
    return mean, (shares * (values - mean[:, None]).square()).sum(dim=1).sqrt()


def image_dataset(
    name: str,
    description: str,
    class_names: tuple[str, ...],
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
) -> Dataset:
    """Standardise each channel with the training set's mean and standard deviation, and fingerprint.

    The paper's released code uses the widely copied CIFAR-10 values 0.2023, 0.1994, 0.2010, which are
    smaller than the per-channel standard deviations (about 0.247, 0.243, 0.262); here they are computed.

    Args:
        name: Name of the data set.
        description: One line about it.
        class_names: In the order of the labels.
        train: uint8 pixels of shape (images, channels, height, width) and int64 labels.
        test: The same for the test set.

    Raises:
        DataError: If a channel has the same value in all training pixels.
    """
    mean, std = channel_statistics(train[0])
    if not std.all():
        raise DataError(
            f"{name}: cannot standardise, all training pixels of a channel are equal (per-channel "
            f"standard deviations {std.tolist()}). Check the images."
        )
    mean, std = (statistic.float().view(-1, 1, 1) for statistic in (mean, std))
    inputs = [pixels.float().sub_(mean).div_(std) for pixels, _ in (train, test)]
    return Dataset(
        name=name,
        train_inputs=inputs[0],
        train_labels=train[1],
        test_inputs=inputs[1],
        test_labels=test[1],
        class_names=class_names,
        fingerprint=content_fingerprint(*train, *test),
        description=description,
    )
