"""One epoch on a few images, as the pages take e apart on it: the batches, and networks at their start."""

from dataclasses import dataclass

from torch import Tensor, nn

from unrolling._checks import InputError
from unrolling.batches import BatchOrder, make_batch_order
from unrolling.losses import Objective
from unrolling.models import build_model
from unrolling.runs.inputs import load_images
from unrolling.seeding import make_generator, seeded
from unrolling.training import Batch


@dataclass(frozen=True)
class OneEpoch:
    """The training images and labels in double precision, and the order of their batches.

    Attributes:
        inputs: Images.
        labels: Their classes.
        num_classes: The number of classes.
        order: The batches of one epoch.
        seed: Of the order and of the networks' weights.
        description: Which images they are, in words.
    """

    inputs: Tensor
    labels: Tensor
    num_classes: int
    order: BatchOrder
    seed: int
    description: str

    #: Mean cross-entropy.
    loss_fn = Objective("cross_entropy")

    def network(self, name: str, **options: int) -> nn.Module:
        """Return a network at its initial weights, the same ones at each call."""
        shape = tuple(self.inputs.shape[1:])
        with seeded(self.seed, "weights"):
            return build_model(name, self.num_classes, input_shape=shape, **options).double()

    def batch(self, step: tuple[int, ...]) -> Batch:
        """Return the images and labels of a step."""
        return self.inputs[list(step)], self.labels[list(step)]


def one_epoch(dataset: str, *, train_size: int = 960, batch_size: int = 32, seed: int = 0) -> OneEpoch:
    """Return one epoch of a data set of images.

    Args:
        dataset: Its name.
        train_size: How many images, the same for every seed.
        batch_size: b.
        seed: See :class:`OneEpoch`.

    Raises:
        InputError: If there are so few images that the epoch is a single step, after which e is 0.
    """
    data = load_images(dataset).subset(train_size, 100, make_generator(0, "subset"))
    order = make_batch_order(train_size, batch_size, 1, make_generator(seed, "batch order"))
    if len(order) < 2:
        raise InputError(
            "an epoch must have 2 steps at least, since e is 0 after one: take a batch_size below "
            f"{train_size}, got {batch_size}."
        )
    return OneEpoch(
        inputs=data.train_inputs.double(),
        labels=data.train_labels,
        num_classes=data.num_classes,
        order=order,
        seed=seed,
        description=f"{data.name}: {data.description}",
    )
