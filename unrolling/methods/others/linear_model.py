r"""Regularised linear models and their minimisers, for the methods whose guarantees rest on convexity."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from unrolling._checks import InputError, UnrollingError, check_choice


@dataclass(frozen=True)
class LinearLoss:
    r"""The loss :math:`\ell(z, y)` of a linear model's output :math:`z = w^\top x`, and its constants.

    Attributes:
        slope: :math:`\partial \ell / \partial z`, element by element.
        curvature: :math:`\partial^2 \ell / \partial z^2`, element by element.
        slope_bound: C, the largest absolute slope.
        curvature_lipschitz: :math:`\gamma`, the Lipschitz constant of the curvature in z.
    """

    slope: Callable[[Tensor, Tensor], Tensor]
    curvature: Callable[[Tensor, Tensor], Tensor]
    slope_bound: float
    curvature_lipschitz: float


LINEAR_LOSSES: dict[str, LinearLoss] = {
    "logistic": LinearLoss(
        slope=lambda z, y: -y * torch.sigmoid(-y * z),
        curvature=lambda z, y: torch.sigmoid(z) * torch.sigmoid(-z),
        slope_bound=1.0,
        # The largest |s(1-s)(1-2s)|. Guo et al. use 1/4, which is the largest curvature: valid, but 2.6 times
        # what their theorem asks for.
        curvature_lipschitz=1 / (6 * math.sqrt(3)),
    ),
    "least_squares": LinearLoss(
        slope=lambda z, y: z - y,
        curvature=lambda z, y: torch.ones_like(z),
        slope_bound=math.inf,
        curvature_lipschitz=0.0,
    ),
}


def linear_gradient(loss: LinearLoss, weights: Tensor, inputs: Tensor, targets: Tensor, l2: float) -> Tensor:
    r"""Return :math:`\sum_i \nabla \ell(w^\top x_i, y_i) + \lambda n w`, shape (d,)."""
    return inputs.T @ loss.slope(inputs @ weights, targets) + l2 * len(inputs) * weights


def linear_hessian(loss: LinearLoss, weights: Tensor, inputs: Tensor, targets: Tensor, l2: float) -> Tensor:
    r"""Return :math:`\sum_i \ell''(w^\top x_i, y_i) x_i x_i^\top + \lambda n I`, shape (d, d)."""
    curvature = loss.curvature(inputs @ weights, targets)
    identity = torch.eye(inputs.shape[1], dtype=inputs.dtype, device=inputs.device)
    return (inputs.T * curvature) @ inputs + l2 * len(inputs) * identity


class LinearMinimum(NamedTuple):
    """Where the training loss is least, and what it took to get there.

    Attributes:
        weights: w, shape (d,).
        residual: Norm of the gradient there.
        gradients: Gradients over all examples that were computed.
        hessians: Hessians over all examples.
    """

    weights: Tensor
    residual: float
    gradients: int
    hessians: int


def minimise_linear(
    inputs: Tensor, targets: Tensor, noise: Tensor, *, loss: str, l2: float, tolerance: float
) -> LinearMinimum:
    r"""Return the minimiser of a regularised loss with a linear term, by Newton's method from 0.

    .. math:: \mathcal{L}_b(w) = \sum_i \ell(w^\top x_i, y_i) + \frac{\lambda n}{2} \|w\|^2 + b^\top w

    A step is halved until it shrinks the gradient; as :math:`\mathcal{L}_b` is strongly convex, a short
    enough one always does.

    Args:
        inputs: Shape (n, d).
        targets: Shape (n,).
        noise: b, shape (d,).
        loss: A key of :data:`LINEAR_LOSSES`.
        l2: :math:`\lambda`.
        tolerance: Stop at a gradient of this norm.

    Raises:
        UnrollingError: If rounding keeps the gradient above ``tolerance``.
    """
    terms = LINEAR_LOSSES[check_choice("loss", loss, LINEAR_LOSSES)]

    def slope(weights: Tensor) -> Tensor:
        return linear_gradient(terms, weights, inputs, targets, l2) + noise

    weights = torch.zeros_like(noise)
    current = slope(weights)
    gradients, hessians = 1, 0
    while (residual := float(current.norm())) > tolerance:
        step = torch.linalg.solve(linear_hessian(terms, weights, inputs, targets, l2), current)
        hessians += 1
        length = 1.0
        while True:
            candidate = slope(weights - length * step)
            gradients += 1
            if float(candidate.norm()) <= (1 - length / 4) * residual:
                break
            length /= 2
            if length < 1e-6:
                raise UnrollingError(
                    f"training stopped at a gradient of norm {residual:.1e}, above the tolerance of "
                    f"{tolerance:.1e}: rounding allows no less. Use a larger tolerance or float64."
                )
        weights, current = weights - length * step, candidate
    return LinearMinimum(weights, residual, gradients, hessians)


def check_linear_data(inputs: Tensor, targets: Tensor, loss: str) -> None:
    """Raise unless the data fit the loss; the logistic one's bounds ask for inputs of norm at most 1."""
    if inputs.ndim != 2 or targets.shape != inputs.shape[:1] or targets.dtype != inputs.dtype:
        raise InputError(
            "`inputs` must have shape (n, d) and `targets` shape (n,) and the same dtype, got "
            f"{tuple(inputs.shape)} {inputs.dtype} and {tuple(targets.shape)} {targets.dtype}."
        )
    if loss != "logistic":
        return
    if not bool((targets.abs() == 1).all()):
        raise InputError("`targets` must be -1 or 1 for the logistic loss. From 0 and 1: 2 * targets - 1.")
    longest = float(inputs.norm(dim=1).max())
    if longest > 1 + 4 * torch.finfo(inputs.dtype).eps:
        raise InputError(
            f"every input must have norm at most 1, the longest has {longest:.4g}. "
            "Divide all by a bound that was fixed without looking at them."
        )
