"""Figures 7 and 8, Tables 1 and 4: what the SD loss does to the unlearning error and to its factors."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from unrolling._checks import InputError
from unrolling.losses import gamma_from_released
from unrolling.runs.frames import after_epochs as after_epochs
from unrolling.runs.frames import final_frame
from unrolling.store import Record
from unrolling.studies.decide import Estimate, over_seeds
from unrolling.studies.decide import rank_correlation as rank_correlation
from unrolling.studies.noise import ratio_noise

#: Runs that share these settings, and the seed, differ in gamma only.
SETTING = ["dataset", "model", "pretrain_epochs", "batch_size"]


def after_steps(traces: pd.DataFrame, num_steps: int) -> pd.DataFrame:
    """Return one row per run: what was recorded after exactly ``num_steps`` steps.

    Args:
        traces: What :func:`unrolling.runs.trace_frame` returns.
        num_steps: t; it must be a recorded step of every run.
    """
    rows = traces[traces["step"] == num_steps].reset_index(drop=True)
    if len(rows) != traces["address"].nunique():
        recorded = sorted(traces["step"].unique())
        raise InputError(f"not every run recorded step {num_steps}; recorded steps are {recorded}.")
    return rows


def plain_value(rows: pd.DataFrame, column: str, *, keys: Sequence[str] = (*SETTING, "seed")) -> np.ndarray:
    """Return for each row the value of ``column`` at gamma = 0 with the same ``keys``.

    Args:
        rows: One row per run, with the columns gamma and ``keys``.
        column: What to look up.
        keys: What a run and its plain run have in common.
    """
    keys = list(keys)
    plain = rows[rows["gamma"] == 0].set_index(keys)[column]
    if plain.index.has_duplicates or not set(map(tuple, rows[keys].to_numpy())) <= set(plain.index):
        raise InputError(f"every {' and '.join(keys)} needs exactly one run with gamma = 0 to compare with.")
    return plain.loc[pd.MultiIndex.from_frame(rows[keys])].to_numpy()


def relative_to_plain(
    rows: pd.DataFrame, column: str, *, keys: Sequence[str] = (*SETTING, "seed")
) -> pd.Series:
    """Return ``column`` divided by its :func:`plain_value`."""
    return rows[column] / plain_value(rows, column, keys=keys)


def effects(rows: pd.DataFrame, column: str) -> dict[tuple, Estimate]:
    r"""Return what the penalty does to a column, by setting and gamma > 0.

    Args:
        rows: One row per run, as :func:`after_epochs` returns them.
        column: For example ``e_root``.

    Returns:
        For the values of :data:`SETTING` and gamma, the logarithm of the ratio to gamma = 0, over seeds.
    """
    logs = rows.assign(log=np.log(relative_to_plain(rows, column)))
    return _over_seeds(logs, "log", ratio_noise(column))


def accuracy_losses(rows: pd.DataFrame, column: str = "accuracy") -> dict[tuple, Estimate]:
    """Return :func:`accuracy_loss` as estimates over seeds, in points."""
    lost = rows.assign(lost=100 * (plain_value(rows, column) - rows[column]))
    return _over_seeds(lost, "lost", ratio_noise(column))


def _over_seeds(rows: pd.DataFrame, column: str, noise: float) -> dict[tuple, Estimate]:
    grouped = rows[rows["gamma"] > 0].groupby([*SETTING, "gamma"], sort=False)[column]
    return {cell: over_seeds(own, noise) for cell, own in grouped}


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


def up_to(gammas: pd.Series, printed: float) -> pd.Series:
    """Return which strengths are at most one that the paper prints for ten classes, in its code's units.

    Args:
        gammas: Strengths in the units of Eq. 10.
        printed: For example 15, a strength of Table 1.
    """
    return gammas <= 1.001 * gamma_from_released(printed, 10)  # the profiles round to five digits


def accuracy_loss(rows: pd.DataFrame, column: str = "accuracy") -> pd.Series:
    """Return the loss of accuracy against gamma = 0 in points, mean over seeds, by setting and gamma > 0.

    Args:
        rows: What :func:`after_epochs` returns.
        column: ``accuracy`` for the model after the t steps, ``accuracy_pretrained`` for M_N.
    """
    lost = rows.assign(lost=100 * (plain_value(rows, column) - rows[column]))
    return lost[lost["gamma"] > 0].groupby([*SETTING, "gamma"], sort=False)["lost"].mean()


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
