"""How differently two models behave: their outputs, their accuracies, and how fast one relearns."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unrolling._checks import InputError, check_integer, check_real
from unrolling.metrics._inputs import check_labels, check_outputs, check_probabilities
from unrolling.parameters import Params, check_params


@dataclass(frozen=True)
class OutputDistance:
    """Mean and largest distance of two models' outputs over a set of examples."""

    mean: float
    max: float


def output_distance(unlearned: Tensor, retrained: Tensor) -> OutputDistance:
    r"""Return the l2 distances of two models' softmax outputs on the same examples.

    .. math:: \|M''(x) - M'(x)\|_2 \in [0, \sqrt 2]

    This is section 3.1's output space: the mean can be small while one forgotten example stands out, so look
    at both, on the forgotten, the retained and the test data in turn.

    Args:
        unlearned: Probabilities of M'', shape (examples, classes).
        retrained: Probabilities of M' on the same examples, same shape.

    Example:
        >>> first, second = torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([[0.4, 0.6], [0.5, 0.5]])
        >>> distance = output_distance(first, second)
        >>> round(distance.mean, 4), round(distance.max, 4)  # 0.6 sqrt 2 and 0
        (0.4243, 0.8485)
    """
    first, second = check_probabilities("unlearned", unlearned), check_probabilities("retrained", retrained)
    _check_same_shape(first, second)
    distances = torch.linalg.vector_norm(first - second, dim=1)
    return OutputDistance(mean=float(distances.mean()), max=float(distances.max()))


def accuracy_gap(unlearned: Tensor, retrained: Tensor, labels: Tensor) -> float:
    r"""Return the accuracy of M'' minus that of M' on the same examples, between -1 and 1.

    Unlearning aims at 0 on every set of data. Above 0 on the forgotten examples some of them are still known;
    below 0 the model does worse on them than one that never saw them, which gives them away as well.

    Args:
        unlearned: Logits or probabilities of M'', shape (examples, classes).
        retrained: The same of M'.
        labels: int64 class numbers of shape (examples,).
    """
    first, second = check_outputs("unlearned", unlearned), check_outputs("retrained", retrained)
    _check_same_shape(first, second)
    truth = check_labels(labels, first)
    right = [(outputs.argmax(dim=1) == truth).double().mean() for outputs in (first, second)]
    return float(right[0] - right[1])


@dataclass(frozen=True)
class RelearnTime:
    """How long a model took to learn the forgotten data again.

    Attributes:
        steps: Steps until the loss was low enough; ``max_steps`` if it never was.
        reached: Whether it was.
        loss: The loss on the forgotten data after these steps.
    """

    steps: int
    reached: bool
    loss: float


def relearn_time(
    params: Params,
    step: Callable[[Params, int], Params],
    forget_loss: Callable[[Params], Tensor],
    *,
    target: float,
    max_steps: int,
) -> RelearnTime:
    r"""Return how many steps of training on the forgotten data bring its loss down to ``target``.

    A model that has only hidden what it knew relearns faster than M', which never knew; so compare the time
    of M'' with that of M' under the same steps. Source: Golatkar, Achille and Soatto, *Eternal Sunshine of
    the Spotless Net*, 2020, who take the original model's loss, with some slack, as the target.

    Args:
        params: Weights to start from; only read.
        step: ``step(params, index) -> params``, one training step, number ``index`` from 0, for example
            ``lambda p, i: add(p, gradient(losses[i], p), -learning_rate)``. It must return new weights.
        forget_loss: ``loss(params) -> scalar`` on all forgotten data; evaluated before every step.
        target: Loss at which the data counts as known again, for example the original model's.
        max_steps: When to give up.

    Example:
        >>> halve = lambda p, i: {"w": p["w"] / 2}
        >>> relearn_time({"w": torch.tensor(8.0)}, halve, lambda p: p["w"], target=1.0, max_steps=10)
        RelearnTime(steps=3, reached=True, loss=1.0)
    """
    check_params(params)
    goal, most = check_real("target", target), check_integer("max_steps", max_steps)
    for index in range(most + 1):
        with torch.no_grad():
            loss = float(forget_loss(params))
        if loss <= goal or index == most:
            break
        params = step(params, index)
        check_params(params, "step(params, index)")
    return RelearnTime(steps=index, reached=loss <= goal, loss=loss)


def _check_same_shape(unlearned: Tensor, retrained: Tensor) -> None:
    if unlearned.shape != retrained.shape:
        raise InputError(
            "`unlearned` and `retrained` must be outputs on the same examples, got shapes "
            f"{tuple(unlearned.shape)} and {tuple(retrained.shape)}."
        )
