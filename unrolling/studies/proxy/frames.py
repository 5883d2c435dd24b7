r"""Figures 9, 11 and 12: how closely e follows v, over steps, over strengths and over settings."""

import math
from collections.abc import Callable, Hashable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from unrolling._checks import InputError
from unrolling.metrics.association import correlate
from unrolling.runs.frames import after_epochs as after_epochs
from unrolling.studies.frames import CHECKPOINT, SETTING, TRAJECTORY, labels


def clusterings(points: pd.DataFrame) -> list[list[Hashable]]:
    """Return the ways in which runs of a grid share randomness: each run's cluster in each of them.

    Runs of one model and N start from the same point in spite of the strength, those of one model, N and b
    take the same batches, those of one training differ in N alone, and those of one seed share their data
    and order.
    """
    ways = (CHECKPOINT, SETTING, TRAJECTORY, ["seed"])
    return [labels(points, columns) for columns in ways]


def over_steps(traces: pd.DataFrame) -> pd.DataFrame:
    """Return how e and v go together over the steps of each run, and what the steps explain of it.

    Args:
        traces: What :func:`unrolling.runs.trace_frame` returns.

    Returns:
        A row per run: pretrain_epochs, model and seed; ``raw``, Pearson's correlation of e and v;
        ``steps_e`` and ``steps_v``, that of t with either; ``given_steps``, of e and v given t;
        ``increments``, of their changes between records; ``rank_e`` and ``rank_v``, the rank correlation of
        t with either. (On ranks nothing need be left of e given t: it may rise at every record.)
    """
    rows = []
    for _, trace in traces.groupby("address", sort=False):
        step, e, v = trace["step"], trace["e"], trace["v"]

        # Values only: points of one series are not independent, so no interval of theirs would be right.
        rows.append(
            trace.iloc[0][["pretrain_epochs", "model", "seed"]].to_dict()
            | {
                "raw": correlate(e, v).value,
                "steps_e": correlate(step, e).value,
                "steps_v": correlate(step, v).value,
                "given_steps": correlate(e, v, given=step).value,
                "increments": correlate(np.diff(e), np.diff(v)).value,
                "rank_e": correlate(step, e, method="spearman").value,
                "rank_v": correlate(step, v, method="spearman").value,
            }
        )
    return pd.DataFrame(rows)


def concordance(x: ArrayLike, y: ArrayLike) -> float:
    """Return the share of all pairs of points that ``x`` and ``y`` order alike; ties count for neither.

    Args:
        x: Shape (points,).
        y: Shape (points,).

    Example:
        >>> concordance([1, 2, 3], [10, 30, 20])  # the last two change places
        0.6666666666666666
    """
    return concordance_of_draws(x, y)(np.ones(len(np.asarray(x))))


def concordance_of_draws(x: ArrayLike, y: ArrayLike) -> Callable[[NDArray[np.float64]], float]:
    """Return a function of how often each point is taken, shape (points,), that is :func:`concordance` then.

    The pairs are compared once, not in every draw of a bootstrap.
    """
    first, second = (np.asarray(values, dtype=float) for values in (x, y))
    product = np.sign(np.subtract.outer(first, first)) * np.sign(np.subtract.outer(second, second))
    if not product.any():
        raise InputError("no two points differ in both `x` and `y`: there is no order to compare.")
    # Counts of pairs are whole numbers, which float32 holds up to 16 million.
    alike, ordered = (product > 0).astype(np.float32), (product != 0).astype(np.float32)

    def share(taken: NDArray[np.float64]) -> float:
        counts = taken.astype(np.float32)
        pairs = float(counts @ ordered @ counts)
        return float(counts @ alike @ counts) / pairs if pairs else math.nan

    return share


def concordance_within(points: pd.DataFrame, by: Sequence[str]) -> float:
    """Return the share of pairs that e and v order alike, of those pairs that agree in ``by``."""
    groups = [own for _, own in points.groupby(list(by)) if len(own) > 1]
    counts = np.array([len(own) * (len(own) - 1) / 2 for own in groups])
    return float(np.average([concordance(own["e"], own["v"]) for own in groups], weights=counts))


def straightness(x: ArrayLike, y: ArrayLike, taken: ArrayLike | None = None) -> tuple[float, float]:
    r"""Return :math:`R^2` of a straight line, and what a quadratic term adds to the adjusted :math:`R^2`.

    .. math:: R^2_{adj} = 1 - (1 - R^2) \frac{n - 1}{n - 1 - k}

    with k terms beside the constant.

    Args:
        x: Shape (points,).
        y: Shape (points,).
        taken: How often each point counts, in a draw of a bootstrap; once by default.
    """
    first, second = (np.asarray(values, dtype=float) for values in (x, y))
    counts = np.ones(len(first)) if taken is None else np.asarray(taken, dtype=float)
    powers = np.vander((first - first.mean()) / first.std(), 3, increasing=True)
    n, roots = counts.sum(), np.sqrt(counts)
    total = counts @ (second - np.average(second, weights=counts)) ** 2
    plain, adjusted = [], []
    for terms in (1, 2):
        columns = powers[:, : terms + 1]
        found = np.linalg.lstsq(columns * roots[:, None], second * roots, rcond=None)[0]
        plain.append(1 - float(counts @ (second - columns @ found) ** 2 / total))
        adjusted.append(1 - (1 - plain[-1]) * float((n - 1) / (n - 1 - terms)))
    return plain[0], adjusted[1] - adjusted[0]


def against_plain(points: pd.DataFrame, column: str) -> pd.Series:
    """Return, per setting, the mean of a column with a penalty over that without, as a logarithm.

    Both means are of logarithms: over all strengths above 0 and all seeds, and over all seeds.
    """
    logs = np.log(points[column])
    plain = logs[points["gamma"] == 0].groupby([points[name] for name in SETTING]).mean()
    penalised = logs[points["gamma"] > 0].groupby([points[name] for name in SETTING]).mean()
    if not plain.index.equals(penalised.index):
        raise InputError("every setting needs runs with gamma = 0 and with gamma > 0 to compare.")
    return penalised - plain
