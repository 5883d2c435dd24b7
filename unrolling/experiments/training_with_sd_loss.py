"""Figures 7 and 8, Tables 1 and 4: what the SD loss does to the unlearning error and to its factors."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from unrolling._checks import InputError


def after_steps(traces: pd.DataFrame, num_steps: int) -> pd.DataFrame:
    """Return one row per run: what was recorded after exactly ``num_steps`` steps.

    Args:
        traces: What :func:`unrolling.experiments.trace_frame` returns.
        num_steps: t; it must be a recorded step of every run.
    """
    rows = traces[traces["step"] == num_steps].reset_index(drop=True)
    if len(rows) != traces["address"].nunique():
        recorded = sorted(traces["step"].unique())
        raise InputError(f"not every run recorded step {num_steps}; recorded steps are {recorded}.")
    return rows


def plain_value(
    rows: pd.DataFrame, column: str, *, keys: Sequence[str] = ("seed", "pretrain_epochs")
) -> np.ndarray:
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
    rows: pd.DataFrame, column: str, *, keys: Sequence[str] = ("seed", "pretrain_epochs")
) -> pd.Series:
    """Return ``column`` divided by its :func:`plain_value`."""
    return rows[column] / plain_value(rows, column, keys=keys)


def factor_shares(rows: pd.DataFrame) -> pd.DataFrame:
    r"""Split the drop of e into its two factors, exactly, run by run.

    At equal t and :math:`\eta`, Eq. 9 gives
    :math:`\Delta \log e = \Delta \log \|w_t - w_0\|_2 + \Delta \log \sigma_{avg}` against gamma = 0.

    Returns:
        For every run with gamma > 0: gamma, seed, the three differences ``log_e``, ``log_weight_change`` and
        ``log_sigma``, and ``share``, the part of the drop that the change in weights accounts for.
    """
    penalised = rows["gamma"] > 0
    shares = rows.loc[penalised, ["gamma", "seed"]].reset_index(drop=True)
    for name, column in (("log_e", "e"), ("log_weight_change", "weight_change"), ("log_sigma", "sigma_avg")):
        shares[name] = np.log(relative_to_plain(rows, column)[penalised].to_numpy())
    return shares.assign(share=shares["log_weight_change"] / shares["log_e"])
