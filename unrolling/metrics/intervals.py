"""Intervals over seeds, of means, ratios and correlations; and the rank correlation that has no gaps."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from unrolling._checks import InputError, check_integer, check_real


def t_interval(values: ArrayLike, *, log: bool = False) -> tuple[float, float, float]:
    r"""Return the mean over seeds and its 95 % t-interval: (mean, low, high).

    .. math:: \bar x \pm t_{n-1,\,0.975} \; s / \sqrt n

    with s the unbiased standard deviation. It supposes independent and roughly normal values. One value has
    no interval: low and high are then NaN.

    Args:
        values: One for each seed.
        log: Take it of the logarithms and turn it back, as is right for ratios; the mean is then geometric.

    Example:
        >>> [round(x, 3) for x in t_interval([1.0, 2.0, 3.0])]
        [2.0, -0.484, 4.484]
    """
    sample = np.asarray(values, dtype=float)
    if log:
        sample = np.log(sample)
    if sample.ndim != 1 or sample.size == 0 or not np.isfinite(sample).all():
        kind = "finite numbers above 0" if log else "finite numbers"
        raise InputError(f"`values` must be {kind}, at least one, got {values!r}.")
    mean, half = sample.mean(), math.nan
    if sample.size > 1:
        half = stats.t.ppf(0.975, sample.size - 1) * sample.std(ddof=1) / math.sqrt(sample.size)
    ends = np.array([mean, mean - half, mean + half])
    middle, low, high = map(float, np.exp(ends) if log else ends)
    return middle, low, high


def mean_correlation(values: Sequence[float]) -> tuple[float, float, float]:
    r"""Return the mean of correlations, one for each seed, and its 95 % t-interval: (mean, low, high).

    Both are taken of :math:`\operatorname{artanh} r` and turned back, so that they stay between -1 and 1. One
    value has no interval: low and high are then NaN.

    Example:
        >>> [round(x, 2) for x in mean_correlation([0.0, 0.8])]  # artanh 0.8 is ln 3, so its half gives 0.5
        [0.5, -1.0, 1.0]
    """
    z = np.arctanh(np.clip(np.asarray(values, dtype=float), -1 + 1e-12, 1 - 1e-12))  # 1 itself has none
    mean, low, high = map(math.tanh, t_interval(z))
    return mean, low, high


def fisher_interval(correlation: float, count: int, level: float = 0.95) -> tuple[float, float]:
    r"""Return the interval of a Pearson correlation of which only the value and the count are known.

    .. math:: \tanh\left(\operatorname{artanh} r \pm z_{(1 + level) / 2} / \sqrt{n - 3}\right)

    It supposes n independent points of a bivariate normal distribution (Fisher, 1921). As in
    :func:`scipy.stats.pearsonr`, three points and fewer say nothing, and points on a line leave no doubt.

    Args:
        correlation: r, from -1 to 1.
        count: n, at least 2.
        level: Between 0 and 1.

    Example:
        >>> [round(end, 2) for end in fisher_interval(0.81, 6)]
        [-0.0, 0.98]
    """
    check_integer("count", count, minimum=2)
    if not (abs(check_real("correlation", correlation)) <= 1 and 0 < check_real("level", level) < 1):
        raise InputError(
            f"expected a correlation from -1 to 1 and a level between 0 and 1, got {correlation} and {level}."
        )
    if count <= 3:
        return -1.0, 1.0
    if abs(correlation) == 1:
        return float(correlation), float(correlation)
    half = float(stats.norm.ppf((1 + level) / 2)) / math.sqrt(count - 3)
    return math.tanh(math.atanh(correlation) - half), math.tanh(math.atanh(correlation) + half)


def rank_correlation(x: ArrayLike, y: ArrayLike) -> float:
    """Return Spearman's rank correlation; 0 where one of the two is constant, and so follows nothing.

    There :func:`scipy.stats.spearmanr`, whose value it is elsewhere, has none.
    """
    first, second = (np.asarray(values, dtype=float) for values in (x, y))
    if any((values == values[0]).all() for values in (first, second)):
        return 0.0
    return float(stats.spearmanr(first, second).statistic)
