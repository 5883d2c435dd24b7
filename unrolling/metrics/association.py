"""How closely two quantities follow each other: correlation, what a third explains of it, and its interval.

The paper judges its proxy by Pearson correlations of e and v (section 8.3) without intervals.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from unrolling._checks import InputError, check_choice, check_integer
from unrolling.metrics._inputs import check_numbers
from unrolling.seeding import make_generator

#: Variance below which a column is constant up to rounding; over all points its variance is about 1.
_NOTHING_LEFT = 1e-12


@dataclass(frozen=True)
class Correlation:
    """A correlation with its 95 % bootstrap interval.

    Attributes:
        value: The correlation, between -1 and 1.
        low: 2.5 % quantile over the bootstrap's draws.
        high: 97.5 % quantile.
        count: Number of points.
    """

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class CorrelationDifference:
    """How much better one proxy of a target does than another, with its 95 % bootstrap interval.

    Attributes:
        difference: Correlation of the first with the target minus that of the second.
        low: 2.5 % quantile over the bootstrap's draws.
        high: 97.5 % quantile.
        p: Two-sided bootstrap p-value: twice the share of draws on the rarer side of 0.
    """

    difference: float
    low: float
    high: float
    p: float


def correlate(
    x: ArrayLike,
    y: ArrayLike,
    *,
    method: str = "pearson",
    given: ArrayLike | None = None,
    clusters: Sequence[Hashable] | None = None,
    num_draws: int = 2000,
    seed: int = 0,
) -> Correlation:
    r"""Return the correlation of ``x`` and ``y`` with a percentile bootstrap interval.

    With ``given`` it is the partial correlation: of what least squares on those columns and a constant leave
    of ``x`` and of ``y``. For one column z it is

    .. math:: r_{xy \cdot z} = \frac{r_{xy} - r_{xz} r_{yz}}{\sqrt{(1 - r_{xz}^2)(1 - r_{yz}^2)}}

    A draw of the bootstrap takes as many points as there are, with replacement; with ``clusters`` it takes
    whole clusters, which is right where points of one cluster share randomness (Field and Welsh,
    *Bootstrapping clustered data*, 2007). Everything, ranks included, is computed anew in each draw. A draw
    in which ``x`` or ``y`` is constant, or nothing is left of it, has no correlation and does not count; this
    happens with few points only. Where it happens, or with fewer than about ten units, take the interval as
    a rough one: it is too narrow.

    Args:
        x: Shape (points,).
        y: Shape (points,).
        method: ``"pearson"``, or ``"spearman"``: the same on ranks, those of ``given`` too; equal values
            share their mean rank.
        given: Shape (points,) or (points, columns).
        clusters: Each point's cluster, any label; at least three clusters.
        num_draws: Draws of the bootstrap.
        seed: Of the draws; equal seeds and numbers of points (or clusters) give the same draws.

    Raises:
        InputError: If there are fewer than three points (and one more for each column of ``given``), lengths
            differ, a value is not finite, or ``x`` or ``y`` is constant or a linear function of ``given``.

    Example:
        >>> correlate([1, 2, 3, 4], [1, 4, 9, 16], method="spearman").value
        1.0
        >>> time, noise = [1, 2, 3, 4, 5], [0.1, -0.2, 0.0, 0.2, -0.1]  # noise is not correlated with time
        >>> x, y = ([t + sign * n for t, n in zip(time, noise)] for sign in (1, -1))
        >>> round(correlate(x, y).value, 2), round(correlate(x, y, given=time).value, 2)
        (0.98, -1.0)
    """
    columns = {"x": _column("x", x), "y": _column("y", y)}
    table = _table(columns, given)
    found = _one_value(table, method)
    weights = draw_counts(len(table), clusters, num_draws, seed)
    low, high = _interval(_correlations(weights, table, method))
    return Correlation(value=found, low=low, high=high, count=len(table))


def compare_correlations(
    target: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    *,
    method: str = "pearson",
    given: ArrayLike | None = None,
    clusters: Sequence[Hashable] | None = None,
    num_draws: int = 2000,
    seed: int = 0,
) -> CorrelationDifference:
    """Return how much more closely ``first`` follows ``target`` than ``second`` does.

    The bootstrap is paired: both correlations of a draw are of the same points, so what moves both of them
    cancels, and the interval is that of the difference. Options, draws that do not count and errors are those
    of :func:`correlate`. Correlations keep their sign: a proxy at -0.9 is worse than one at 0.1.

    Args:
        target: What both are proxies of, shape (points,).
        first: Shape (points,).
        second: Shape (points,).
        method: ``"pearson"`` or ``"spearman"``.
        given: Columns for partial correlations.
        clusters: Each point's cluster.
        num_draws: Draws of the bootstrap; p is at least 2 / (draws + 1).
        seed: Of the draws.

    Example:
        >>> compare_correlations([1, 2, 3, 4], [1, 2, 3, 4], [4, 3, 2, 1]).difference
        2.0
    """
    aim = _column("target", target)
    tables = [
        _table({"target": aim, name: _column(name, proxy)}, given)
        for name, proxy in (("first", first), ("second", second))
    ]
    values = [_one_value(table, method) for table in tables]
    weights = draw_counts(len(aim), clusters, num_draws, seed)
    one, other = (_correlations(weights, table, method) for table in tables)
    differences = one - other
    low, high = _interval(differences)
    counted = differences[np.isfinite(differences)]
    rarer = min(int((counted <= 0).sum()), int((counted >= 0).sum()))
    return CorrelationDifference(
        difference=values[0] - values[1],
        low=low,
        high=high,
        p=min(1.0, 2 * (1 + rarer) / (1 + len(counted))),
    )


def _column(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Return ``values`` as a finite float64 column that is not constant."""
    column = check_numbers(name, values)
    if column.ndim != 1 or len(column) < 3:
        raise InputError(
            f"`{name}` must hold one number for each of at least 3 points, got shape {column.shape}."
        )
    if not np.isfinite(column).all():
        raise InputError(f"`{name}` must be finite, got NaN or infinity. Leave such points out.")
    if column.min() == column.max():
        raise InputError(
            f"`{name}` is {column[0]:g} at all {len(column)} points: no correlation exists. Choose points "
            "at which it varies."
        )
    return column


def _table(columns: dict[str, NDArray[np.float64]], given: ArrayLike | None) -> NDArray[np.float64]:
    """Return the two columns and those of ``given``, shape (points, columns), with mean 0 and variance 1."""
    names, (first, second) = list(columns), columns.values()
    if len(first) != len(second):
        raise InputError(
            f"`{names[0]}` and `{names[1]}` must be equally long, got {len(first)} and {len(second)} points."
        )
    parts = [first, second]
    if given is not None:
        controls = check_numbers("given", given)
        if controls.ndim not in (1, 2) or len(controls) != len(first):
            raise InputError(
                f"`given` must have shape ({len(first)},) or ({len(first)}, columns), got {controls.shape}."
            )
        parts += [_column("given", column) for column in controls.reshape(len(first), -1).T]
    if len(first) < len(parts) + 1:
        raise InputError(
            f"{len(first)} points are too few for a correlation given {len(parts) - 2} column(s): expected "
            f"at least {len(parts) + 1}."
        )
    table = np.column_stack(parts)
    return (table - table.mean(axis=0)) / table.std(axis=0)


def draw_counts(
    count: int, clusters: Sequence[Hashable] | None = None, num_draws: int = 2000, seed: int = 0
) -> NDArray[np.float64]:
    """Return how often each draw of the bootstrap takes each point, shape (draws, points).

    Args:
        count: Number of points.
        clusters: Each point's cluster, see :func:`correlate`.
        num_draws: Draws of the bootstrap.
        seed: Of the draws.
    """
    check_integer("num_draws", num_draws, minimum=40)  # fewer have no 2.5 % quantile
    codes: dict[Hashable, int] = {}
    labels = range(count) if clusters is None else clusters
    if not isinstance(labels, Iterable):
        raise InputError(f"`clusters` must name one for each of {count} points, got {labels!r}.")
    unit_of_point = [codes.setdefault(label, len(codes)) for label in labels]
    if len(unit_of_point) != count:
        raise InputError(f"`clusters` must name one for each of {count} points, got {len(unit_of_point)}.")
    units = len(codes)
    if units < 3:
        raise InputError(f"`clusters` must name at least 3 different ones, got {units}.")
    taken = torch.randint(units, (num_draws, units), generator=make_generator(seed, "bootstrap")).numpy()
    cells = (taken + units * np.arange(num_draws)[:, None]).ravel()
    counts = np.bincount(cells, minlength=num_draws * units).reshape(num_draws, units)
    return counts[:, unit_of_point].astype(np.float64)


def _one_value(table: NDArray[np.float64], method: str) -> float:
    value = float(_correlations(np.ones((1, len(table))), table, method)[0])
    if not np.isfinite(value):
        raise InputError("one of the columns is a linear function of `given`: nothing is left to correlate.")
    return value


def _correlations(
    weights: NDArray[np.float64], table: NDArray[np.float64], method: str
) -> NDArray[np.float64]:
    """Return each draw's correlation of the first two columns given the others; NaN where none exists."""
    columns = table[None]
    if check_choice("method", method, ("pearson", "spearman")) == "spearman":
        columns = np.stack([_ranks(weights, column) for column in table.T], axis=2)
    shares = weights / weights.sum(axis=1, keepdims=True)
    centred = columns - shares[:, None, :] @ columns
    moments = (shares[:, :, None] * centred).swapaxes(1, 2) @ centred
    sizes, axes = np.linalg.eigh(moments[:, 2:, 2:])
    inverses = np.where(sizes > _NOTHING_LEFT, 1 / np.where(sizes > _NOTHING_LEFT, sizes, 1), 0)
    along = axes.swapaxes(1, 2) @ moments[:, 2:, :2]
    left = moments[:, :2, :2] - (along * inverses[:, :, None]).swapaxes(1, 2) @ along
    exists = (left[:, 0, 0] > _NOTHING_LEFT) & (left[:, 1, 1] > _NOTHING_LEFT)
    scale = np.sqrt(np.where(exists, left[:, 0, 0] * left[:, 1, 1], 1.0))
    return np.where(exists, np.clip(left[:, 0, 1] / scale, -1, 1), np.nan)


def _ranks(weights: NDArray[np.float64], column: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each point's rank in each draw, as a share of its points; equal values share their mean rank."""
    _, group, sizes = np.unique(column, return_inverse=True, return_counts=True)
    starts = np.cumsum(sizes) - sizes
    taken = np.add.reduceat(weights[:, np.argsort(group, kind="stable")], starts, axis=1)
    return ((taken.cumsum(axis=1) - (taken - 1) / 2) / weights.sum(axis=1, keepdims=True))[:, group]


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)
