"""The mean over seeds with its interval, and how such numbers are written."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np
from scipy import stats

from unrolling._checks import InputError


@dataclass(frozen=True)
class Missing:
    """A cell of a table with no number, and why."""

    reason: str


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    r"""Return ``(mean, low, high)``: the t-interval of the mean over seeds.

    .. math:: \bar x \pm t_{n-1,\,(1 + level)/2} \; s / \sqrt n

    with s the unbiased standard deviation. It supposes independent and roughly normal values. One value has
    no interval: low and high are then NaN.

    Example:
        >>> [round(x, 3) for x in interval([1.0, 2.0, 3.0])]
        [2.0, -0.484, 4.484]
    """
    sample = np.asarray(values, dtype=float)
    if sample.ndim != 1 or sample.size == 0 or not np.isfinite(sample).all():
        raise InputError(f"`values` must be finite numbers, at least one, got {values!r}.")
    if not 0 < level < 1:
        raise InputError(f"level must be between 0 and 1, got {level}.")
    mean = float(sample.mean())
    if sample.size == 1:
        return mean, math.nan, math.nan
    half = stats.t.ppf((1 + level) / 2, sample.size - 1) * sample.std(ddof=1) / math.sqrt(sample.size)
    return mean, mean - float(half), mean + float(half)


def ratio_interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Return ``(mean, low, high)`` of ratios: geometric mean and :func:`interval` of the logarithms.

    Example:
        >>> round(ratio_interval([0.5, 2.0])[0], 3)
        1.0
    """
    mean, low, high = np.exp(interval(np.log(ratios)))
    return float(mean), float(low), float(high)


def number_text(value: float, digits: int) -> str:
    """Return an integer as it is, other numbers with ``digits`` significant digits, zeros included."""
    shown = str(value) if isinstance(value, Integral) else f"{value:#.{digits}g}".removesuffix(".")
    return shown.replace("-", "−")


def interval_text(estimate: tuple[float, float, float], digits: int = 3) -> str:
    """Return ``(mean, low, high)`` as text for a sentence.

    Example:
        >>> interval_text((1.25, 1.0, 1.5), 2)
        '1.2 [1.0, 1.5]'
    """
    mean, low, high = estimate
    shown = number_text(mean, digits)
    if math.isfinite(low) and math.isfinite(high):  # one seed has no interval
        shown += f" [{number_text(low, digits)}, {number_text(high, digits)}]"
    return shown
