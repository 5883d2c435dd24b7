r"""Slow exact references: closed forms and dense matrices to test the fast code and the notebooks against."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from unrolling._checks import InputError, check_integer, check_real
from unrolling.parameters import Params, from_vector, to_vector
from unrolling.surroundings import plain_autograd


def sd_loss_minimum(gamma: float, num_classes: int) -> tuple[float, float]:
    r"""Return where the SD loss (Eq. 10) of one example is least: ``(probability of its label, logit gap)``.

    **Derivation.** Cross-entropy and the standard deviation (a norm of the centred logits) are both convex in
    the logits, and neither notices a permutation of the wrong classes. So some minimum gives all wrong
    classes one logit, and the label's logit exceeds it by a gap s. Along that line

    .. math:: L(s) = \ln(1 + (c - 1) e^{-s}) + \gamma \frac{\sqrt{c - 1}}{c} |s| , \qquad
              L'(s) = -(1 - p_y) + q , \quad q = \gamma \frac{\sqrt{c - 1}}{c} \quad (s > 0) .

    Setting it to 0 gives :math:`p_y = 1 - q` and :math:`s = \ln((c - 1)(1 - q) / q)`. At s = 0,
    :math:`1 - p_y = (c - 1) / c`, so that s > 0 exactly if :math:`\gamma < \gamma^* = \sqrt{c - 1}`. From
    there on the minimum is at equal logits: s = 0 and :math:`p_y = 1 / c`.

    Args:
        gamma: Strength >= 0, in the units of Eq. 10. At 0 the minimum is at infinity: ``(1.0, inf)``.
        num_classes: The number of classes c.

    Example:
        >>> [round(sd_loss_minimum(gamma, 2)[1], 3) for gamma in (0.01, 0.1, 1, 5)]  # Figures 5 and 6
        [5.293, 2.944, 0.0, 0.0]
    """
    gamma = check_real("gamma", gamma, minimum=0)
    c = check_integer("num_classes", num_classes, minimum=2)
    if gamma >= math.sqrt(c - 1):
        return 1 / c, 0.0
    q = gamma * math.sqrt(c - 1) / c
    return 1 - q, math.log((c - 1) * (1 - q) / q) if q else math.inf


def minimum_norm_update(x: Tensor, gap: float) -> tuple[Tensor, Tensor]:
    r"""Return the smallest update of two weight rows that sets their outputs on ``x`` ``gap`` apart (Eq. 12).

    .. math:: u_1 = -u_2 = \frac{\epsilon}{2 \|x\|^2} x , \qquad
              \|u_1\|^2 + \|u_2\|^2 = \frac{\epsilon^2}{2 \|x\|^2}

    The rows start from equal outputs. (The preprint prints the norm as :math:`\epsilon^2 \|x\|^2 / 2`.)

    Args:
        x: The input, shape (k,), not zero.
        gap: The wanted difference :math:`\epsilon = (u_1 - u_2) \cdot x`.
    """
    if x.ndim != 1 or not bool(x.any()):
        raise InputError(f"`x` must be a vector other than zero, got shape {tuple(x.shape)}.")
    update = check_real("gap", gap) / (2 * x.dot(x)) * x
    return update, -update


def dense_hessian(loss: Callable[[Params], Tensor], params: Params) -> Tensor:
    """Return the Hessian of ``loss`` at ``params`` as a dense symmetric matrix, shape (n, n).

    One backward pass per parameter: for tens to a few thousand of them. Rows follow
    :func:`~unrolling.parameters.to_vector`.

    Args:
        loss: ``loss(params) -> scalar``.
        params: Where to take the Hessian; left as they are.
    """
    with plain_autograd():
        vector = to_vector(params).detach()
        matrix = torch.autograd.functional.hessian(lambda v: loss(from_vector(v, params)), vector)
    return (matrix + matrix.T) / 2
