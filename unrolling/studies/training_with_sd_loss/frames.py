"""Figures 7 and 8, Tables 1 and 4: what the SD loss does to the unlearning error and to its factors."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from unrolling._checks import InputError
from unrolling.metrics.intervals import rank_correlation
from unrolling.runs.frames import after_epochs as after_epochs
from unrolling.runs.frames import final_frame
from unrolling.store import Record
from unrolling.studies.frames import SETTING, relative_to_plain


def growth(traces: pd.DataFrame) -> pd.DataFrame:
    r"""Return how :math:`e` grows over the steps, a row per run.

    Args:
        traces: What :func:`unrolling.runs.trace_frame` returns.

    Returns:
        The run's address, setting, gamma and seed; ``spearman``, the rank correlation of t and e; and
        ``slope``, that of the straight line fitted to e over t.
    """
    keys = ["address", *SETTING, "gamma", "seed"]
    rows = []
    for run, trace in traces.groupby(keys, sort=False):
        if len(trace) < 3:
            raise InputError(f"growth needs at least 3 recorded steps, run {run[0]} has {len(trace)}.")
        rows.append(
            dict(zip(keys, run, strict=True))
            | {
                "spearman": rank_correlation(trace["step"], trace["e"]),
                "slope": float(np.polyfit(trace["step"], trace["e"], 1)[0]),
            }
        )
    return pd.DataFrame(rows)


def sigma_ratios(records: Sequence[Record]) -> pd.DataFrame:
    r"""Return how :math:`\sigma_{avg}` at the end compares with that at gamma = 0, by setting and gamma > 0.

    Returns:
        ``sigma_avg``, the geometric mean of the ratio over seeds, and ``rooted``, the same with the root of
        every sample, as the released code has it.
    """
    rows = final_frame(records).rename(columns={"sigma_root": "rooted"})
    columns = ["sigma_avg", "rooted"]
    logs = rows.assign(**{name: np.log(relative_to_plain(rows, name)) for name in columns})
    return np.exp(logs[logs["gamma"] > 0].groupby([*SETTING, "gamma"], sort=False)[columns].mean())


def weight_changes(records: Sequence[Record]) -> pd.DataFrame:
    r"""Return how the change in weights at the end follows gamma, by setting.

    Returns:
        ``rank``, Spearman's correlation of gamma and the mean over seeds of :math:`\|w_t - w_0\|_2`, and
        ``ratio``, that mean at the largest gamma over that at 0.
    """
    means = final_frame(records).groupby([*SETTING, "gamma"])["weight_change"].mean()
    return pd.DataFrame(
        {
            "rank": means.groupby(SETTING).agg(lambda own: rank_correlation(range(len(own)), own)),
            "ratio": means.groupby(SETTING).last() / means.groupby(SETTING).first(),
        }
    )
