"""The batch order as a value: the paper's I, which one can print, store and remove an example from."""

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from unrolling._checks import InputError, check_examples, check_integer

#: Numbers of examples in any form: a list, range, set, array or tensor of integers, or one integer.
Examples: TypeAlias = Collection[int] | torch.Tensor | np.ndarray | int

_POOL = 50  # batches that are sorted by length together


@dataclass(frozen=True)
class BatchOrder:
    r"""The data of every SGD step, :math:`\hat x_1, \hat x_2, \dots, \hat x_t` (section 8.1).

    Attributes:
        steps: For each step the indices of its examples in the data set.
    """

    steps: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        # Lists, arrays and tensors of numbers are batches too; but batches are compared, and keys of dicts.
        if not all(type(step) is tuple and all(type(i) is int for i in step[:1]) for step in self.steps):
            steps = tuple(tuple(int(example) for example in step) for step in self.steps)
            object.__setattr__(self, "steps", steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        return iter(self.steps)

    def __getitem__(self, step: int) -> tuple[int, ...]:
        check_integer("step", step, maximum=len(self.steps) - 1)
        return self.steps[step]

    def steps_of_batch(self, batch: Examples) -> tuple[int, ...]:
        """Return the steps that train on exactly this batch; m of them when it is seen in m epochs."""
        wanted = check_examples("batch", batch)
        found = tuple(i for i, step in enumerate(self.steps) if step == wanted)
        if not found:
            raise InputError(
                f"the batch {wanted[:4]}... is at no step of this order of {len(self)} steps: expected its "
                "examples, all of them and in its order."
            )
        return found

    def without_batch(self, batch: Examples) -> "BatchOrder":
        r"""Return the order of the retrained model M': every step on ``batch`` is left out (section 8.3)."""
        left_out = set(self.steps_of_batch(batch))
        return BatchOrder(tuple(step for i, step in enumerate(self.steps) if i not in left_out))

    def without(self, examples: Examples) -> "BatchOrder":
        r"""Return I': ``examples`` are removed in place, as section 4.1 does; emptied steps disappear."""
        gone = set(
            self._present("examples", examples) if self.steps else check_examples("examples", examples)
        )
        steps = (tuple(i for i in step if i not in gone) for step in self.steps)
        return BatchOrder(tuple(step for step in steps if step))

    def without_example(self, example: int) -> "BatchOrder":
        r"""Return I': one example is removed in place, as section 4.1 does; emptied steps disappear."""
        return self.without([example])

    def check(self, name: str, forget: Examples, *, total: int | None = None) -> tuple[int, ...]:
        """Return the examples to forget as plain ints, if they are some but not all of this order's.

        Args:
            name: Of the argument, for messages.
            forget: Whole numbers in any form, or one of them; with ``total`` a mask as well.
            total: How many examples the data set has.

        Raises:
            InputError: If ``forget`` is empty, everything, or names an example that is at no step, or twice.
        """
        numbers = self._present(name, forget, total=total)
        if len(numbers) == len(self._trained):
            raise InputError(
                f"`{name}` holds every example of this order; nothing would be left to train on."
            )
        return numbers

    def _present(self, name: str, examples: Examples, *, total: int | None = None) -> tuple[int, ...]:
        numbers = check_examples(name, examples, total=total)
        if missing := set(numbers) - self._trained:
            raise InputError(
                f"`{name}`: example {min(missing)} is at no step of this order; there is nothing to forget."
            )
        return numbers

    @property
    def _trained(self) -> set[int]:
        return set(itertools.chain.from_iterable(self.steps))


def make_batch_order(
    num_examples: int,
    batch_size: int,
    num_epochs: int,
    generator: torch.Generator,
    *,
    reshuffle: bool = False,
    lengths: Sequence[int] | torch.Tensor | None = None,
) -> BatchOrder:
    """Draw the batches of ``num_epochs`` epochs.

    Args:
        num_examples: Size n of the data set.
        batch_size: Examples per step, b; the last batch of an epoch may be smaller.
        num_epochs: Epochs, m; zero gives an empty order.
        generator: Source of the permutation.
        reshuffle: Draw new batches for every epoch. The default keeps the first epoch's batches and their
            order, so that one batch can be removed from all epochs (section 8.3).
        lengths: Tokens of every example. With them a full batch holds examples of similar length, so that
            it carries little padding: the permutation is cut into pools of 50 batches, each pool is sorted
            by length and cut into batches, and the batches of all pools are shuffled.

    Raises:
        InputError: If the batch is larger than the data, or there is not one length per example.
    """
    check_integer("num_examples", num_examples, minimum=1)
    check_integer("batch_size", batch_size, minimum=1)
    check_integer("num_epochs", num_epochs)
    if not isinstance(generator, torch.Generator):
        raise InputError(
            f"`generator` must be a torch.Generator, such as make_generator(seed), got {generator!r:.40}."
        )
    if batch_size > num_examples:
        raise InputError(
            f"batch_size must be at most the number of examples ({num_examples}), got {batch_size}. "
            "Choose a smaller batch or more data."
        )

    if lengths is not None:
        lengths = torch.as_tensor(lengths)
        if lengths.shape != (num_examples,):
            raise InputError(
                f"lengths must hold one number per example ({num_examples}), got shape "
                f"{tuple(lengths.shape)}."
            )

    def epoch() -> tuple[tuple[int, ...], ...]:
        order = torch.randperm(num_examples, generator=generator)
        if lengths is not None:
            order = _by_length(order, lengths, batch_size, generator)
        return tuple(tuple(batch.tolist()) for batch in order.split(batch_size))

    if not reshuffle:
        return BatchOrder((epoch() if num_epochs else ()) * num_epochs)
    return BatchOrder(sum((epoch() for _ in range(num_epochs)), ()))


def _by_length(
    order: torch.Tensor, lengths: torch.Tensor, batch_size: int, generator: torch.Generator
) -> torch.Tensor:
    """Return ``order`` rearranged such that its batches hold examples of similar length."""
    # What fills no batch stays at the end, where it is random: the longest texts of a pool would be there.
    num_batches = len(order) // batch_size
    full, rest = order[: num_batches * batch_size], order[num_batches * batch_size :]
    pools = [pool[lengths[pool].argsort(stable=True)] for pool in full.split(_POOL * batch_size)]
    batches = torch.cat(pools).view(num_batches, batch_size)
    return torch.cat([batches[torch.randperm(num_batches, generator=generator)].flatten(), rest])
