"""What the studies share: what a setting is, and a run's numbers beside those of its plain run."""

from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd

from unrolling._checks import InputError
from unrolling.losses import gamma_from_released
from unrolling.studies.decide import Estimate, over_seeds
from unrolling.studies.noise import ratio_noise

#: Runs that share these settings, and the seed, differ in gamma only.
SETTING = ["dataset", "model", "pretrain_epochs", "batch_size"]
#: Settings that differ only in batch size and strength: they share much of their randomness with each other.
CHECKPOINT = ["dataset", "model", "pretrain_epochs"]
#: What a training is: runs that differ in N alone are one training continued.
TRAJECTORY = ["dataset", "model", "batch_size", "gamma", "seed"]


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


def seed_means(points: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return these columns' means over the seeds of each setting and strength."""
    return points.groupby([*SETTING, "gamma"], sort=False)[list(columns)].mean().reset_index()


def logs_within(points: pd.DataFrame, columns: Sequence[str], by: Sequence[str]) -> pd.DataFrame:
    """Return the logarithms of these columns less their means over each group, and the groups' columns.

    Their correlation is that of the logarithms given the groups: what is left once groups are told apart.
    """
    logs = np.log(points[list(columns)])
    means = logs.groupby([points[name] for name in by]).transform("mean")
    return (logs - means).join(points[list(by)])


def labels(frame: pd.DataFrame, columns: Sequence[str]) -> list[Hashable]:
    """Return each row's cluster: its values in these columns."""
    return list(frame[list(columns)].itertuples(index=False, name=None))


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


def accuracy_loss(rows: pd.DataFrame, column: str = "accuracy") -> pd.Series:
    """Return the loss of accuracy against gamma = 0 in points, mean over seeds, by setting and gamma > 0.

    Args:
        rows: What :func:`after_epochs` returns.
        column: ``accuracy`` for the model after the t steps, ``accuracy_pretrained`` for M_N.
    """
    lost = rows.assign(lost=100 * (plain_value(rows, column) - rows[column]))
    return lost[lost["gamma"] > 0].groupby([*SETTING, "gamma"], sort=False)["lost"].mean()


def up_to(gammas: pd.Series, printed: float) -> pd.Series:
    """Return which strengths are at most one that the paper prints for ten classes, in its code's units.

    Args:
        gammas: Strengths in the units of Eq. 10.
        printed: For example 15, a strength of Table 1.
    """
    return gammas <= 1.001 * gamma_from_released(printed, 10)  # the profiles round to five digits


def reach(traces: pd.DataFrame) -> pd.DataFrame:
    r"""Return the traces with the columns ``size`` and ``ratio``.

    ``size`` is :math:`\eta t \sigma_{avg}`, the dimensionless size of a training; ``ratio`` is v after
    single-gradient unlearning over v of doing nothing: above 1 the update has made things worse.
    """
    return traces.assign(
        size=traces["learning_rate"] * traces["step"] * traces["sigma_avg"],
        ratio=traces["v"] / traces["v_nothing"],
    )


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
