r"""Unlearning error in its three forms (Eq. 9), and the verification error that it stands for."""

from unrolling._checks import check_integer, check_real
from unrolling.parameters import Params, check_same_parameters, distance


def unlearning_error(
    *, learning_rate: float, weight_change: float, sigma_avg: float, num_steps: int
) -> float:
    r"""Return the unlearning error exactly as Eq. 9 prints it: the bound of Eq. 8 with the mean sigma.

    .. math:: e = \eta^2 \cdot \frac{\|w_t - w_0\|_2}{t} \cdot \sigma_{avg} \cdot \frac{t^2 - t}{2}

    It is zero at t = 1 and wherever the loss is linear. See :func:`unlearning_error_corrected` for the power
    of :math:`\eta` that follows from the derivation.

    Args:
        learning_rate: :math:`\eta`.
        weight_change: :math:`\|w_t - w_0\|_2`, the l2 norm over all trainable parameters.
        sigma_avg: Mean over steps of the Hessian's largest singular value.
        num_steps: t, SGD steps since w_0.

    Example:
        >>> unlearning_error(learning_rate=0.5, weight_change=2.0, sigma_avg=8.0, num_steps=5)
        8.0
    """
    eta = check_real("learning_rate", learning_rate, above=0)
    change = check_real("weight_change", weight_change, minimum=0)
    sigma = check_real("sigma_avg", sigma_avg, minimum=0)
    t = check_integer("num_steps", num_steps, minimum=1)
    return eta**2 * change * sigma * (t - 1) / 2


def unlearning_error_corrected(
    *, learning_rate: float, weight_change: float, sigma_avg: float, num_steps: int
) -> float:
    r"""Return Eq. 8 and 9 with the factor that Eq. 7 loses: :math:`e / \eta`.

    To first order :math:`\sum_{j<i} g_j = -(w_i - w_0) / \eta`, where Eq. 7 puts
    :math:`i (w_t - w_0) / t`. With the :math:`1 / \eta` restored, Eq. 8 bounds the
    second sum's leading term, unless the gradients of different steps largely cancel.

    .. math:: e / \eta = \eta \, \|w_t - w_0\|_2 \, \sigma_{avg} \, \frac{t - 1}{2}

    Args and units are those of :func:`unlearning_error`.
    """
    printed = unlearning_error(
        learning_rate=learning_rate, weight_change=weight_change, sigma_avg=sigma_avg, num_steps=num_steps
    )
    return printed / learning_rate


def targeted_unlearning_error(
    *, learning_rate: float, sigma_avg: float, num_steps: int, gradient_norm: float
) -> float:
    r"""Return the bound on those terms alone that contain the forgotten batch.

    .. math:: e_* = \eta^2 (t - 1) \, \sigma_{avg} \, \|\nabla \mathcal{L}(w_0, \hat x_1)\|_2

    Eq. 9 bounds all :math:`t (t - 1) / 2` products of the second sum; when the forgotten batch comes first,
    only the t - 1 products of a Hessian with that batch's gradient are left by single-gradient unlearning,
    to leading order. Not in the paper.

    Args:
        learning_rate: :math:`\eta`.
        sigma_avg: Mean over steps of the Hessian's largest singular value.
        num_steps: t, SGD steps since w_0.
        gradient_norm: l2 norm of the gradient of the forgotten batch's mean loss at w_0.
    """
    eta = check_real("learning_rate", learning_rate, above=0)
    sigma = check_real("sigma_avg", sigma_avg, minimum=0)
    t = check_integer("num_steps", num_steps, minimum=1)
    return eta**2 * (t - 1) * sigma * check_real("gradient_norm", gradient_norm, minimum=0)


def verification_error(unlearned: Params, retrained: Params) -> float:
    r"""Return :math:`v = \|w'' - w'\|_2`, the distance to the retrained model (section 3.2).

    Args:
        unlearned: Weights w'' after unlearning; pass w_t itself for the error of doing nothing.
        retrained: Weights w' of the model retrained without the data.
    """
    check_same_parameters(unlearned, retrained, ("unlearned", "retrained"))
    return distance(unlearned, retrained)
