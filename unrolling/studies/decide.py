r"""When runs decide a proposition about a number: its interval lies on one side of the threshold.

A proposition is True, False, or None: open. From three seeds on the interval is over them. It is the 95 %
t-interval of a ratio, a difference, a share or a correlation. Of a rank correlation, and of what is read
along a trajectory, it is the range of the seeds: these are bounded and take few values, and every seed has
to agree.

Of one or two seeds, whose own spread says next to nothing, it is

* of a ratio, a difference or a level: the value and twice the measured noise on either side, see
  :mod:`unrolling.studies.noise`;
* of a correlation, an order or a share over settings: a bootstrap over trajectories, that is over trainings.
  Runs that differ in N alone are one training continued;
* of what is read along a single trajectory, as how straight e is over t: none. There :func:`agree` decides,
  where all trajectories agree with a margin.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from unrolling._checks import InputError
from unrolling.metrics.association import Correlation, correlate, draw_counts
from unrolling.metrics.intervals import mean_correlation, rank_correlation, t_interval

#: Seeds from which on their own spread is used: a t-interval of two is 13 standard errors wide.
ENOUGH_SEEDS = 3
#: Thresholds are met up to this: Spearman's -0.9 of five points is -0.8999999999999998.
_ROUNDING = 1e-9


class Estimate(NamedTuple):
    """A number with its 95 % interval; the ends are infinite where nothing is known of it."""

    value: float
    low: float = -math.inf
    high: float = math.inf

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval as a :class:`~unrolling.paper.Finding` carries it, None where there is none."""
        return (self.low, self.high) if math.isfinite(self.low) and math.isfinite(self.high) else None

    def to(self, change: Callable[[float], float]) -> "Estimate":
        """Return the estimate of a monotonic function of the number, as ``np.exp``.

        Example:
            >>> Estimate(2.0, 1.0, 4.0).to(lambda x: 1 - x)
            Estimate(value=-1.0, low=-3.0, high=0.0)
        """
        low, high = sorted((float(change(self.low)), float(change(self.high))))
        return Estimate(float(change(self.value)), low, high)


# Estimates


def over_seeds(values: ArrayLike, noise: float = math.inf) -> Estimate:
    r"""Return the mean of a number over seeds.

    The interval is the t-interval over three seeds and more. Of k = 1 or 2 it is
    :math:`\bar x \pm 2 s / \sqrt k`.

    Args:
        values: One for each seed.
        noise: s, the standard deviation of one such value over seeds, from elsewhere. Of a difference of two
            runs it is :math:`\sqrt 2` times that of one. Infinite where it is not known.
    """
    known = pd.Series(np.asarray(values, dtype=float))
    mean = float(known.mean())
    if len(known) >= ENOUGH_SEEDS:
        return Estimate(*t_interval(known))
    half = 2 * noise / math.sqrt(len(known))
    return Estimate(mean, mean - half, mean + half)


def range_of(values: ArrayLike) -> Estimate:
    """Return the mean of a bounded number over seeds with their range; of fewer than three it is open."""
    known = np.asarray(values, dtype=float)
    mean = float(known.mean())
    if len(known) < ENOUGH_SEEDS:
        return Estimate(mean)
    return Estimate(mean, float(known.min()), float(known.max()))


def correlation_over_seeds(values: Sequence[float]) -> Estimate:
    """Return the mean of correlations, one for each seed, see :func:`mean_correlation`.

    Fewer than three seeds leave its interval open.
    """
    mean, low, high = mean_correlation(values)
    return Estimate(mean, low, high) if len(values) >= ENOUGH_SEEDS else Estimate(mean)


def order(runs: pd.DataFrame, x: str, y: str) -> Estimate:
    """Return Spearman's correlation of two columns over the settings of one family of trainings.

    From three seeds on it is the mean of the seeds' own, with their range. Of fewer it is that of the means
    over seeds, with the interval of a bootstrap over the settings, each of which is a training of its own.

    Args:
        runs: A row for each run, with a column ``seed``; a seed has one run at each value of ``x``.
        x: What makes a setting, as ``gamma``.
        y: What is ranked.
    """
    if runs["seed"].nunique() >= ENOUGH_SEEDS:
        return range_of([rank_correlation(own[x], own[y]) for _, own in runs.groupby("seed")])
    means = runs.groupby(x)[y].mean()
    if len(means) < 3:
        return Estimate(rank_correlation(means.index, means))
    if means.nunique() == 1:  # it follows nothing in any draw
        return Estimate(0.0, 0.0, 0.0)
    return of_correlation(correlate(means.index, means, method="spearman"))


def of_correlation(found: Correlation) -> Estimate:
    """Return a correlation and its bootstrap interval."""
    return Estimate(found.value, found.low, found.high)


def bootstrap(
    statistic: Callable[[NDArray[np.float64]], float],
    clusters: Sequence[Hashable],
    *,
    num_draws: int = 1000,
) -> Estimate:
    """Return a statistic of points with its percentile bootstrap interval over clusters of them.

    Fewer than three clusters leave it open. A draw in which the statistic is NaN does not count.

    Args:
        statistic: Of how often each point is taken, shape (points,).
        clusters: Each point's cluster.
        num_draws: Draws of the bootstrap.
    """
    value = statistic(np.ones(len(clusters)))
    if len(set(clusters)) < 3:
        return Estimate(value)
    drawn = [statistic(taken) for taken in draw_counts(len(clusters), clusters, num_draws)]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def widest(estimates: Iterable[Estimate]) -> Estimate:
    """Return the one with the widest finite interval; that of the first if none has one.

    Points can share randomness in several ways. Each clustering respects one of them, and an interval that
    forgets one is too narrow.
    """
    found = list(estimates)
    return max(found, key=lambda own: own.high - own.low if own.interval else -1.0)


def clustered(
    statistic: Callable[[NDArray[np.float64]], float], clusterings: Iterable[Sequence[Hashable]]
) -> Estimate:
    """Return :func:`bootstrap` under the clustering with the widest interval."""
    return widest(bootstrap(statistic, clusters) for clusters in clusterings)


def share_over_seeds(held: pd.Series, seeds: pd.Series, trajectories: Sequence[Hashable]) -> Estimate:
    """Return the share of points at which something holds, with its interval.

    Args:
        held: Whether it does, of each point and seed.
        seeds: The point's seed.
        trajectories: The training that the point belongs to; a bootstrap over them serves fewer than three
            seeds.
    """
    shares = held.astype(float).groupby(seeds.to_numpy()).mean()
    if len(shares) >= ENOUGH_SEEDS:
        return over_seeds(shares)
    numbers = held.to_numpy(dtype=float)
    return bootstrap(lambda taken: float(np.average(numbers, weights=taken)), trajectories)


# Propositions


def at_least(estimate: Estimate, threshold: float) -> bool | None:
    """Return whether a number is at least ``threshold``; None if its interval holds both answers.

    Example:
        >>> at_least(Estimate(0.95, 0.92, 0.97), 0.9), at_least(Estimate(0.95, 0.85, 0.97), 0.9)
        (True, None)
    """
    limit = threshold - _ROUNDING
    return True if estimate.low >= limit else False if estimate.high < limit else None


def at_most(estimate: Estimate, threshold: float) -> bool | None:
    """Return whether a number is at most ``threshold``; None if its interval holds both answers."""
    limit = threshold + _ROUNDING
    return True if estimate.high <= limit else False if estimate.low > limit else None


def above(estimate: Estimate, threshold: float) -> bool | None:
    """Return whether a number is above ``threshold``; None if its interval holds both answers."""
    return negation(at_most(estimate, threshold))


def below(estimate: Estimate, threshold: float) -> bool | None:
    """Return whether a number is below ``threshold``; None if its interval holds both answers."""
    return negation(at_least(estimate, threshold))


def within(estimate: Estimate, low: float, high: float) -> bool | None:
    """Return whether a number is from ``low`` to ``high``; None if its interval holds both answers."""
    return all_of([at_least(estimate, low), at_most(estimate, high)])


def negation(part: bool | None) -> bool | None:
    """Return the opposite; what is open stays open."""
    return None if part is None else not part


def all_of(parts: Iterable[bool | None]) -> bool | None:
    """Return whether all parts hold: False if one does not, else None if one is open.

    Example:
        >>> all_of([True, None]), all_of([False, None]), all_of([True, True])
        (None, False, True)
    """
    known = list(parts)
    return False if False in known else None if None in known else True


def any_of(parts: Iterable[bool | None]) -> bool | None:
    """Return whether some part holds: True if one does, else None if one is open."""
    return negation(all_of(negation(part) for part in parts))


def agree(deviations: Iterable[float], allowed: float) -> bool | None:
    """Decide from single trajectories whether a number stays within a deviation of its ideal.

    True where every trajectory deviates by at most half of what is allowed, False where every one does by
    more than one and a half times that, else None. The margin stands for the spread between trajectories,
    which few of them do not show.

    Args:
        deviations: Of each trajectory, as 1 - r of a correlation.
        allowed: As 1 - 0.9 where r must be at least 0.9.

    Example:
        >>> agree([0.01, 0.04], 0.1), agree([0.01, 0.08], 0.1), agree([0.2, 0.3], 0.1)
        (True, None, False)
    """
    known = list(deviations)
    if not known:
        raise InputError("a proposition about trajectories needs at least one, got none.")
    return True if max(known) <= allowed / 2 else False if min(known) > 1.5 * allowed else None


def each_at_least(
    values: pd.DataFrame | pd.Series, groups: pd.Series | Sequence[Hashable], threshold: float
) -> bool | None:
    """Decide whether a correlation or R^2, read along trajectories, is at least a threshold in each setting.

    From three seeds on it is the range of each setting's seeds that decides, of fewer :func:`agree`.

    Args:
        values: One for each run.
        groups: The run's setting.
        threshold: Below 1.
    """
    settings = [own for _, own in pd.Series(np.asarray(values)).groupby(list(groups))]
    if min(map(len, settings)) >= ENOUGH_SEEDS:
        return all_of(at_least(range_of(own), threshold) for own in settings)
    return agree([1 - own.mean() for own in settings], 1 - threshold)


def t_test(values: ArrayLike) -> float:
    """Return the two-sided p-value of a t-test of a mean of 0 over seeds; it is 0 where nothing spreads.

    Example:
        >>> round(t_test([1.0, 2.0, 3.0]), 4)
        0.0742
    """
    known = np.asarray(values, dtype=float)
    error = float(known.std(ddof=1)) / math.sqrt(len(known))
    return float(2 * stats.t.sf(abs(known.mean()) / error, len(known) - 1)) if error else 0.0


def holm(p_values: Sequence[float]) -> list[float]:
    r"""Return p-values corrected for their number by Holm's method, in their order.

    With :math:`p_{(1)} \le \dots \le p_{(m)}`, the k-th becomes
    :math:`\max_{j \le k} \min(1, (m - j + 1) p_{(j)})`.

    Example:
        >>> [round(p, 3) for p in holm([0.04, 0.01, 0.03])]
        [0.06, 0.03, 0.06]
    """
    ranks = np.argsort(p_values)
    corrected = np.empty(len(p_values))
    factors = len(p_values) - np.arange(len(p_values))
    corrected[ranks] = np.maximum.accumulate(np.minimum(1, factors * np.asarray(p_values)[ranks]))
    return corrected.tolist()
