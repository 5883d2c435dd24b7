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


def factor_shares(rows: pd.DataFrame, *, e: str = "e", sigma: str = "sigma_avg") -> pd.DataFrame:
    r"""Split the drop of e into its two factors, exactly, run by run.

    At equal t and :math:`\eta`, Eq. 9 gives
    :math:`\Delta \log e = \Delta \log \|w_t - w_0\|_2 + \Delta \log \sigma_{avg}` against gamma = 0.

    Args:
        rows: One row per run.
        e: The column of e; ``e_root`` goes with ``sigma_root``.
        sigma: The column of :math:`\sigma_{avg}`.

    Returns:
        For every run with gamma > 0: its setting, gamma, seed, the three differences ``log_e``,
        ``log_weight_change`` and ``log_sigma``, and ``share``, the part of the drop that is the weights'.
    """
    penalised = rows["gamma"] > 0
    shares = rows.loc[penalised, [*SETTING, "gamma", "seed"]].reset_index(drop=True)
    for name, column in (("log_e", e), ("log_weight_change", "weight_change"), ("log_sigma", sigma)):
        shares[name] = np.log(relative_to_plain(rows, column)[penalised].to_numpy())
    return shares.assign(share=shares["log_weight_change"] / shares["log_e"])


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
