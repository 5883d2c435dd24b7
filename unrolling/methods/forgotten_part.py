r"""What of a training is due to the forgotten examples F: the steps on them, and their part of a loss."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable

from unrolling.batches import BatchOrder
from unrolling.curvature import Loss

Batch = tuple[int, ...]


def steps_with(order: BatchOrder, gone: Collection[int]) -> tuple[int, ...]:
    """Return the steps whose batch holds some of F, in ascending order.

    Args:
        order: The batch of every step.
        gone: F, numbers of examples.
    """
    wanted = frozenset(gone)
    return tuple(step for step, batch in enumerate(order) if not wanted.isdisjoint(batch))


def times_seen(order: BatchOrder, steps: Iterable[int]) -> dict[Batch, int]:
    """Return how many of ``steps`` trained on each batch, by batch in the order of first steps."""
    return dict(Counter(order[step] for step in steps))


def split(batch: Iterable[int], gone: Collection[int]) -> tuple[Batch, Batch]:
    """Return what stays of a batch, and what of F is in it, each in the order of the batch.

    Args:
        batch: Numbers of examples.
        gone: F; a set is fastest.
    """
    numbers = tuple(map(int, batch))
    return tuple(i for i in numbers if i not in gone), tuple(i for i in numbers if i in gone)


def forgotten_part(loss_on: Callable[[Batch], Loss], batch: Iterable[int], gone: Collection[int]) -> Loss:
    r"""Return what retraining takes from a step's loss, :math:`L_B - L_{B \setminus F}`; both are means.

    To first order, a step on the batch B takes the gradient of this part more from M than from M'. Where the
    whole batch is F's, it is the step's loss, and single-gradient unlearning is the paper's.

    Args:
        loss_on: From numbers of examples to their *mean* loss ``loss(params) -> scalar``, as trained on.
        batch: B, numbers of examples.
        gone: F.
    """
    numbers = tuple(map(int, batch))
    whole, (kept, _) = loss_on(numbers), split(numbers, gone)
    if not kept:
        return whole
    rest = loss_on(kept)
    return lambda params: whole(params) - rest(params)
