r"""Section 4.1 by enumeration: the weights after every ordering of a small data set, and their density."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad, vmap

from unrolling._checks import InputError, check_integer, check_real
from unrolling.batches import BatchOrder

_MOST_ORDERINGS = 100_000
_POINTS_AT_ONCE = 4096


def orderings(num_examples: int, num_epochs: int) -> list[BatchOrder]:
    r"""Return all :math:`(n!)^m` orderings I of n examples over m epochs, with batches of one example.

    The orderings I' of section 4.1 are these with one example taken out, ``order.without_example(i)``;
    each of the :math:`((n - 1)!)^m` different ones then appears :math:`n^m` times.

    Args:
        num_examples: Size n of the data set.
        num_epochs: Epochs, m.

    Raises:
        InputError: If there are more than 100,000 orderings.

    Example:
        >>> [[batch[0] for batch in order] for order in orderings(2, 2)]
        [[0, 1, 0, 1], [0, 1, 1, 0], [1, 0, 0, 1], [1, 0, 1, 0]]
    """
    check_integer("num_examples", num_examples, minimum=1)
    check_integer("num_epochs", num_epochs, minimum=1)
    if num_epochs * math.lgamma(num_examples + 1) > math.log(_MOST_ORDERINGS):
        raise InputError(
            f"{num_examples} examples have more than {_MOST_ORDERINGS:,} orderings over {num_epochs} epochs; "
            "choose fewer of either."
        )
    epochs = itertools.permutations(range(num_examples))
    return [
        BatchOrder(tuple((example,) for epoch in chosen for example in epoch))
        for chosen in itertools.product(epochs, repeat=num_epochs)
    ]


def weights_after(
    orders: Sequence[BatchOrder],
    loss: Callable[[Tensor, Tensor], Tensor],
    examples: Tensor,
    initial_weights: Tensor,
    *,
    learning_rate: float,
) -> Tensor:
    r"""Return the final weights :math:`w_I` of plain SGD for every ordering, shape (orderings, weights).

    Args:
        orders: Orderings of the same length with one example a step; see :func:`orderings`.
        loss: ``loss(weights, example) -> scalar``, built from PyTorch operations on one vector of weights.
        examples: The data set, one example in each row.
        initial_weights: :math:`w_0`, shape (weights,).
        learning_rate: :math:`\eta`, constant.

    Raises:
        InputError: If there is no ordering, their lengths differ, a step has not exactly one example, or
            training diverges.

    Example:
        >>> x = torch.tensor([[1.0], [3.0]])
        >>> def loss(w, x):
        ...     return (w - x).square().sum() / 2
        >>> weights_after(orderings(2, 1), loss, x, torch.zeros(1), learning_rate=0.5)
        tensor([[1.7500],
                [1.2500]])
    """
    eta = check_real("learning_rate", learning_rate, above=0)
    if initial_weights.ndim != 1:
        raise InputError(f"`initial_weights` must be a vector, got shape {tuple(initial_weights.shape)}.")
    if not orders or any(len(order) != len(orders[0]) for order in orders):
        raise InputError("`orders` must be at least one ordering, all with the same number of steps.")
    if any(len(batch) != 1 for order in orders for batch in order):
        raise InputError("`orders` must have one example in every step: section 4.1 is for batch size 1.")
    weights = initial_weights.detach().expand(len(orders), -1)
    slopes = vmap(grad(loss))
    for batches in zip(*orders, strict=True):
        current = torch.tensor([example for (example,) in batches], device=examples.device)
        weights = weights - eta * slopes(weights, examples[current])
    if not bool(weights.isfinite().all()):
        raise InputError(f"weights are not finite after SGD at learning_rate {eta:g}; try a smaller one.")
    return weights


def log10_peak_density(noise: float, num_weights: int) -> float:
    r"""Return :math:`\log_{10}` of the largest value of a Gaussian density, :math:`(2 \pi s^2)^{-D/2}`.

    Args:
        noise: Standard deviation s of each weight.
        num_weights: Dimension D.
    """
    s = check_real("noise", noise, above=0)
    size = check_integer("num_weights", num_weights, minimum=1)
    return -size / 2 * math.log10(2 * math.pi * s**2)


def log10_lipschitz_constant(noise: float, num_weights: int) -> float:
    r"""Return :math:`\log_{10} L` of a Gaussian density, for Lemma 1 and Corollary 1 (Eq. 2 and 3).

    .. math:: L = \max_w \|\nabla \mathbb{P}_I(w)\|_2 = (2 \pi s^2)^{-D/2} \, \frac{e^{-1/2}}{s}

    The gradient is steepest at distance s from the centre. In units of the peak density, L is
    :math:`e^{-1/2} / s` in every dimension, so :math:`L v` exceeds the peak from
    :math:`v = \sqrt{e} \, s \approx 1.65 \, s` on, and a bound by it is vacuous there. The logarithm is
    returned because L itself leaves the range of floating point numbers.

    Args:
        noise: Standard deviation s of each weight.
        num_weights: Dimension D.

    Example:
        >>> round(log10_lipschitz_constant(1.0, 1000), 1)
        -399.3
    """
    return log10_peak_density(noise, num_weights) - math.log10(math.e) / 2 - math.log10(noise)


@dataclass(frozen=True, eq=False)
class WeightDensity:
    r"""The density of the final weights: a mixture, over all orderings I, of Gaussians around :math:`w_I`.

    .. math:: \mathbb{P}(w) = \frac{1}{K} \sum_I \mathbb{P}_I(w) , \qquad
              \mathbb{P}_I(w) = (2 \pi s^2)^{-D/2} \, e^{-\|w - w_I\|^2 / 2 s^2}

    Attributes:
        centres: :math:`w_I`, shape (K orderings, D weights).
        noise: s, the standard deviation of the noise g on each weight.
    """

    centres: Tensor
    noise: float

    def __post_init__(self) -> None:
        if self.centres.ndim != 2 or not self.centres.numel():
            raise InputError(
                f"`centres` must have shape (orderings, weights), got {tuple(self.centres.shape)}."
            )
        check_real("noise", self.noise, above=0)

    def __call__(self, points: Tensor) -> Tensor:
        """Return the density at ``points`` of shape (number, D), shape (number,)."""
        if points.ndim != 2 or points.shape[1] != self.centres.shape[1]:
            raise InputError(
                f"`points` must have shape (number, {self.centres.shape[1]}), got {tuple(points.shape)}."
            )
        peak = 10 ** log10_peak_density(self.noise, self.centres.shape[1])
        parts = []
        for part in points.split(_POINTS_AT_ONCE):
            squares = (part[:, None] - self.centres).square().sum(dim=2)
            parts.append(peak * (-squares / (2 * self.noise**2)).exp().mean(dim=1))
        return torch.cat(parts)


def grid_over(*densities: WeightDensity, points_per_axis: int) -> tuple[Tensor, float]:
    """Return a regular grid over all centres with a margin of eight noises, and the volume of its cell.

    With cells below one noise a sum over the grid times that volume is an integral to many digits.

    Args:
        densities: At least one density; all have the same dimension, in practice at most 2.
        points_per_axis: Points along each weight.

    Returns:
        Points of shape (points_per_axis ** D, D) and the volume of a cell.
    """
    check_integer("points_per_axis", points_per_axis, minimum=2)
    centres = torch.cat([density.centres for density in densities])
    margin = 8 * max(density.noise for density in densities)
    low, high = centres.amin(dim=0) - margin, centres.amax(dim=0) + margin
    axes = [
        torch.linspace(a, b, points_per_axis, dtype=centres.dtype)
        for a, b in zip(low.tolist(), high.tolist(), strict=True)
    ]
    return torch.cartesian_prod(*axes).reshape(-1, len(axes)), float(
        ((high - low) / (points_per_axis - 1)).prod()
    )


def largest_difference(first: WeightDensity, second: WeightDensity, points: Tensor) -> float:
    r"""Return :math:`\max |\mathbb{P}(w) - \mathbb{P}'(w)|` over ``points`` (Eq. 2, 3 and 13-16).

    It is at most the supremum norm.
    """
    return float((first(points) - second(points)).abs().max())
