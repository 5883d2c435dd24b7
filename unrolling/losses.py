r"""Training losses: Eq. 1, Eq. 10 and its released variant, the two l2 regularisers, footnote 6's penalty.

Pure functions of logits and labels come first. :class:`Objective` turns a name and a strength into the
``loss_fn(model, batch)`` that the trainer, the trackers and the curvature use.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unrolling._checks import InputError, check_choice, check_integer, check_logits, check_real

#: No label; PyTorch's own default, -100, would leave such examples out in silence.
_NO_LABEL = torch.iinfo(torch.int64).min


def _check_logits_and_labels(logits: Tensor, labels: Tensor) -> None:
    check_logits(logits)
    if not len(logits):
        raise InputError("the batch is empty: the mean loss needs at least one example.")
    if not isinstance(labels, Tensor):
        raise InputError(f"`labels` must be a tensor of int64 class numbers, got {type(labels).__name__}.")
    if labels.shape != logits.shape[:1]:
        raise InputError(f"`labels` must have shape ({logits.shape[0]},), got {tuple(labels.shape)}.")
    if labels.dtype != torch.int64:
        raise InputError(f"`labels` must be int64 class numbers, got {labels.dtype}. Use labels.long().")


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Return the mean cross-entropy, Eq. 1: :math:`-\log \mathrm{softmax}(M(x))_y`.

    Eq. 1 writes M(x) for probabilities, Eq. 10 for logits; here it is logits throughout.

    Args:
        logits: Shape (batch, classes).
        labels: int64 class numbers of shape (batch,).

    Raises:
        InputError: If shapes or dtypes are not as above, or a label is no class (on a GPU CUDA says so).
    """
    _check_logits_and_labels(logits, labels)
    try:
        return F.cross_entropy(logits, labels, ignore_index=_NO_LABEL)
    except IndexError as error:
        raise InputError(
            f"`labels` must be from 0 to {logits.shape[1] - 1}, one for each logit: {error}"
        ) from error


def _root(square: Tensor) -> Tensor:
    """Return the square root, with 0 for its gradient and Hessian where it is 0: a subgradient of a norm."""
    zero = square == 0
    # Two wheres: the inner one keeps infinity out of the backward pass, where 0 * inf would be NaN.
    return torch.where(zero, 0.0, torch.where(zero, 1.0, square).sqrt())


def logit_std(logits: Tensor) -> Tensor:
    r"""Return each example's population standard deviation of its logits (Eq. 10 and 11), shape (batch,).

    .. math:: s(x) = \sqrt{\frac{1}{c} \sum_{i=1}^c (M(x)_i - \mu)^2}

    Where all logits are equal the square root has no derivative. There the value is 0 and we take 0, the
    element of least norm of the subdifferential, as the gradient (and 0 as the Hessian).
    """
    check_logits(logits)
    return _root(logits.var(dim=1, correction=0))


def sd_loss(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    r"""Return the standard deviation loss, Eq. 10 (Eq. 11 for two classes), averaged over the batch.

    .. math:: L_{SD} = L_{CE} + \gamma \sqrt{\textstyle\sum_i (M(x)_i - \mu)^2 / c}

    At :math:`\gamma \ge \sqrt{c - 1}` its minimum is at equal logits for every example: nothing is learnt.

    Args:
        logits: Shape (batch, classes).
        labels: int64 class numbers of shape (batch,).
        gamma: Strength >= 0, in the units of Eq. 10.

    Example:
        >>> logits, labels = torch.tensor([[1.0, -1.0]]), torch.tensor([0])
        >>> sd_loss(logits, labels, 1.0) - cross_entropy(logits, labels)
        tensor(1.)
    """
    check_real("gamma", gamma, minimum=0)
    value = cross_entropy(logits, labels)
    return value + gamma * logit_std(logits).mean() if gamma else value


def gamma_from_released(gamma_released: float, num_classes: int) -> float:
    r"""Return the strength of Eq. 10 that equals ``gamma_released`` of the released code.

    .. math:: \gamma = \gamma_{released} / \sqrt{c (c - 1)}

    The released code sums *unbiased* standard deviations and divides by batch times classes.

    Example:
        >>> round(gamma_from_released(20.0, 10), 4)  # the largest strength of Table 1
        2.1082
    """
    classes = check_integer("num_classes", num_classes, minimum=2)
    return check_real("gamma_released", gamma_released, minimum=0) / math.sqrt(classes * (classes - 1))


def sd_loss_released(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    r"""Return the SD loss as the authors' released code computes it.

    .. math:: L = L_{CE} + \frac{\gamma}{b c} \sum_{x} \sqrt{\frac{1}{c - 1} \sum_i (M(x)_i - \mu)^2}

    It is Eq. 10 at a strength smaller by :math:`\sqrt{c (c - 1)}`, see
    :func:`~unrolling.losses.gamma_from_released`.
    """
    check_real("gamma", gamma, minimum=0)
    _check_logits_and_labels(logits, labels)
    return sd_loss(logits, labels, gamma_from_released(gamma, logits.shape[1]))


def collapse_gamma(num_classes: int) -> float:
    r"""Return :math:`\sqrt{c - 1}`: from this strength of Eq. 10 on, equal logits are optimal."""
    return math.sqrt(check_integer("num_classes", num_classes, minimum=2) - 1)


def logit_hessian_penalty(logits: Tensor) -> Tensor:
    r"""Return :math:`\sum_i (p_i (1 - p_i))^2`, averaged over the batch: footnote 6's penalty.

    Footnote 6 regularises "the sum of the diagonal entries of the Hessian of CE loss with respect to the
    logits squared"; here the square is that of each entry. :math:`p` is the softmax of the logits.
    """
    return _logit_hessian_diagonal(logits).square().sum(dim=1).mean()


def logit_hessian_trace(logits: Tensor) -> Tensor:
    r"""Return :math:`\sum_i p_i (1 - p_i)`, averaged over the batch: footnote 6's penalty, read otherwise.

    Here "squared" belongs to the logits and means the second derivative: the trace of that Hessian.
    """
    return _logit_hessian_diagonal(logits).sum(dim=1).mean()


def _logit_hessian_diagonal(logits: Tensor) -> Tensor:
    check_logits(logits)
    probabilities = logits.softmax(dim=1)
    return probabilities * (1 - probabilities)


def _squared_l2_norm(model: nn.Module) -> Tensor:
    # Inside functional_call the weights are plain tensors; a frozen weight is still a Parameter.
    weights = [p for p in model.parameters() if p.requires_grad or not isinstance(p, nn.Parameter)]
    if not weights:
        raise InputError("the model has no trainable parameters, and so no l2 norm.")
    return torch.stack([p.square().sum() for p in weights]).sum()


def l2_norm(model: nn.Module) -> Tensor:
    r"""Return :math:`\|w\|_2` over all trainable parameters, the penalty section 6.1 prints (not squared).

    At w = 0, where it has no derivative, gradient and Hessian are taken to be 0.
    """
    return _root(_squared_l2_norm(model))


def half_squared_l2_norm(model: nn.Module) -> Tensor:
    r"""Return :math:`\|w\|_2^2 / 2`, whose gradient is w: the weight decay that the released code uses."""
    return _squared_l2_norm(model) / 2


_LOGIT_LOSSES = {
    "cross_entropy": lambda logits, labels, strength: cross_entropy(logits, labels),
    "sd": sd_loss,
    "sd_released": sd_loss_released,
    "logit_hessian": lambda logits, labels, strength: (
        cross_entropy(logits, labels) + strength * logit_hessian_penalty(logits)
    ),
    "logit_hessian_trace": lambda logits, labels, strength: (
        cross_entropy(logits, labels) + strength * logit_hessian_trace(logits)
    ),
}
_WEIGHT_PENALTIES = {"l2": l2_norm, "weight_decay": half_squared_l2_norm}

LOSSES: dict[str, str] = {
    "cross_entropy": "Eq. 1",
    "sd": "Eq. 10, gamma in its units",
    "sd_released": "Eq. 10 as in the released code, gamma in that code's units",
    "l2": "Eq. 1 + lambda * ||w||_2, as section 6.1 prints it",
    "weight_decay": "Eq. 1 + lambda / 2 * ||w||_2^2, as the released code trains it",
    "logit_hessian": "Eq. 1 + strength * sum of (p (1 - p))^2, footnote 6",
    "logit_hessian_trace": "Eq. 1 + strength * sum of p (1 - p), footnote 6 read otherwise",
}


@dataclass(frozen=True)
class Objective:
    """A training loss with its strength: ``objective(model, (inputs, labels)) -> scalar``.

    Attributes:
        name: A key of :data:`LOSSES`.
        strength: gamma or lambda, in the units of that loss.
    """

    name: str
    strength: float = 0.0

    def __post_init__(self) -> None:
        check_choice("loss", self.name, LOSSES)
        check_real("loss strength", self.strength, minimum=0)
        if self.name == "cross_entropy" and self.strength:
            raise InputError(
                f"loss 'cross_entropy' has no strength, got {self.strength}; expected 0, or another loss."
            )

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean loss of ``model`` over the batch (inputs, labels).

        Raises:
            InputError: If the batch is no such pair, or the model's output is not one tensor of logits.
        """
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise InputError(f"the batch must be a pair (inputs, labels), got {type(batch).__name__}.")
        inputs, labels = batch
        logits = model(inputs)
        if self.name in _WEIGHT_PENALTIES:
            value = cross_entropy(logits, labels)
            return value + self.strength * _WEIGHT_PENALTIES[self.name](model) if self.strength else value
        return _LOGIT_LOSSES[self.name](logits, labels, self.strength)
