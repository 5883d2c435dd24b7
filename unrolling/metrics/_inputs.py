"""Checks of what the metrics take: scores, outputs and labels, brought to float64 on the CPU."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unrolling._checks import InputError

#: Outputs of shape (examples, classes) and the true labels of shape (examples,).
LabelledOutputs = tuple[Tensor, Tensor]


def check_values(name: str, values: object, *, ndim: int = 1) -> Tensor:
    """Return ``values`` in float64 if they are a finite, non-empty tensor with ``ndim`` dimensions."""
    if not isinstance(values, Tensor) or values.ndim != ndim or not values.numel():
        came = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise InputError(f"`{name}` must be a non-empty tensor with {ndim} dimension(s), got {came}.")
    result = values.detach().to("cpu", torch.float64)
    if not bool(result.isfinite().all()):
        raise InputError(f"`{name}` must be finite, got NaN or infinity among its values.")
    return result


def check_numbers(name: str, values: object) -> NDArray[np.float64]:
    """Return numbers in a list, array or tensor as a float64 array of their shape."""
    try:
        plain = values.detach().cpu() if isinstance(values, Tensor) else values
        return np.asarray(plain, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"`{name}` must be numbers, got a {type(values).__name__}: {reason}.") from error


def check_outputs(name: str, outputs: object) -> Tensor:
    """Return ``outputs`` in float64 if their shape is (examples, classes) with at least two classes."""
    result = check_values(name, outputs, ndim=2)
    if result.shape[1] < 2:
        raise InputError(f"`{name}` must have one column for each of at least two classes, got 1 column.")
    return result


def check_probabilities(name: str, probabilities: object) -> Tensor:
    """Return ``probabilities`` in float64 if every row is a distribution over the classes."""
    result = check_outputs(name, probabilities)
    # A softmax in half precision is off by about 1e-3; logits are off by far more.
    if bool((result < 0).any()) or float((result.sum(dim=1) - 1).abs().max()) > 1e-2:
        raise InputError(
            f"`{name}` must hold probabilities: rows >= 0 that sum to 1. Are these logits? "
            "Use logits.double().softmax(dim=1)."
        )
    return result


def check_labels(labels: object, outputs: Tensor) -> Tensor:
    """Return ``labels`` if they hold one class number for each row of ``outputs``."""
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != outputs.shape[:1]:
        came = (
            f"{labels.dtype} of shape {tuple(labels.shape)}"
            if isinstance(labels, Tensor)
            else type(labels).__name__
        )
        raise InputError(f"labels must be int64 class numbers of shape ({len(outputs)},), got {came}.")
    result = labels.detach().to("cpu")
    if int(result.min()) < 0 or int(result.max()) >= outputs.shape[1]:
        raise InputError(
            f"labels must lie between 0 and {outputs.shape[1] - 1}, one for each column of the outputs; got "
            f"{int(result.min())} to {int(result.max())}."
        )
    return result


def check_labelled(name: str, pair: object, check: Callable[[str, object], Tensor]) -> LabelledOutputs:
    """Return a pair of outputs that pass ``check`` and their labels."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise InputError(f"`{name}` must be a pair (outputs, labels), got {type(pair).__name__}.")
    outputs = check(name, pair[0])
    return outputs, check_labels(pair[1], outputs)
