r"""Figure 3 and what lies beyond it: how e grows, how far unlearning reaches, how many sigmas one needs."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from unrolling._checks import InputError, check_real

_RUN = ["address", "dataset", "model", "seed"]


def linearity(traces: pd.DataFrame) -> pd.DataFrame:
    r"""Return how linear :math:`e` is in t, a row per run.

    Args:
        traces: What :func:`unrolling.runs.trace_frame` returns.

    Returns:
        The run's address, data set, model and seed; ``r_squared`` of the straight line fitted to e over t;
        ``spearman``, the rank correlation of t and e.
    """
    rows = []
    for run, trace in traces.groupby(_RUN, sort=False):
        if len(trace) < 3:
            raise InputError(f"a line needs at least 3 recorded steps, run {run[0]} has {len(trace)}.")
        rows.append(
            dict(zip(_RUN, run, strict=True))
            | {
                "r_squared": float(np.corrcoef(trace["step"], trace["e"])[0, 1] ** 2),
                "spearman": float(stats.spearmanr(trace["step"], trace["e"]).statistic),
            }
        )
    return pd.DataFrame(rows)


def halving(traces: pd.DataFrame) -> pd.DataFrame:
    r"""Return what half of the steps leave of the unlearning error, :math:`e(t / 2) / e(t)`.

    Were e proportional to t, all would be one half.

    Args:
        traces: What :func:`unrolling.runs.trace_frame` returns.

    Returns:
        A row per run and recorded step t whose half was recorded as well: the run's address, data set, model
        and seed, ``step``, and the ratio as ``halved``.
    """
    columns = [*_RUN, "step", "e"]
    half = traces[columns].assign(step=2 * traces["step"])
    both = traces[columns].merge(half, on=[*_RUN, "step"], suffixes=("", "_half"))
    return both.assign(halved=both["e_half"] / both["e"])[[*_RUN, "step", "halved"]]


def break_even(points: pd.DataFrame) -> pd.DataFrame:
    r"""Return from which size on single-gradient unlearning can be worse than doing nothing.

    Args:
        points: What :func:`reach` returns.

    Returns:
        A row per model and seed: ``size``, the smallest :math:`\eta t \sigma_{avg}` of a point with a ratio
        of at least 1, and ``largest``, the largest of any point. ``size`` is NaN where no ratio reaches 1.
    """
    rows = []
    for (model, seed), own in points.groupby(["model", "seed"], sort=False):
        harmful = own.loc[own["ratio"] >= 1, "size"]
        rows.append({"model": model, "seed": seed, "size": harmful.min(), "largest": own["size"].max()})
    return pd.DataFrame(rows)


def samples_needed(pool: Sequence[float], tolerance: float) -> int:
    r"""Return how many random samples of sigma give its mean to a relative error of ``tolerance``.

    The mean of k independent draws from the pool is off by :math:`s / (\bar \sigma \sqrt k)`, root mean
    square and relative, with :math:`\bar \sigma` and s the pool's mean and standard deviation. So

    .. math:: k = \lceil (s / (\bar \sigma \cdot tolerance))^2 \rceil .

    Args:
        pool: Values of sigma, for example of every batch of an epoch at the same weights.
        tolerance: Root-mean-square relative error that is allowed.

    Example:
        >>> samples_needed([1.0, 3.0], 0.1)  # mean 2, standard deviation 1
        25
    """
    values = np.asarray(pool, dtype=float)
    if values.ndim != 1 or values.size == 0 or not (np.isfinite(values).all() and (values > 0).all()):
        raise InputError(f"`pool` must be positive numbers, at least one, got {pool!r}.")
    check_real("tolerance", tolerance, above=0)
    return max(1, math.ceil((values.std() / values.mean() / tolerance) ** 2))
