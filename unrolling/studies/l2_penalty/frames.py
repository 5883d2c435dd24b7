r"""Figures 4 and 16, Table 3: what a penalty on the weights does to the unlearning error and its factors.

The strength of every penalty is the runs' setting ``gamma``; the runs without penalty have ``gamma`` 0.
"""

import math

import numpy as np
import pandas as pd

from unrolling.paper import replicate_band
from unrolling.runs.frames import error_from_roots, settings_of
from unrolling.store import Record
from unrolling.studies.frames import plain_value, relative_to_plain
from unrolling.studies.printed import printed_rows

SETTING = ["dataset", "model", "pretrain_epochs"]
CELL = ["loss", *SETTING, "gamma"]
COMPARED = ("e", "e_root", "weight_norm", "weight_change", "sigma_avg", "v")

#: The penalties of section 6.1: as the text prints it, and as the released code trains it.
PENALTIES = {"l2": "lambda ||w|| as printed", "weight_decay": "weight decay as released"}


def against_plain(rows: pd.DataFrame) -> pd.DataFrame:
    """Compare each penalised run with the plain run of the same seed, data, model and pre-training.

    Args:
        rows: One row per run at equal t, those with ``gamma`` = 0 included.

    Returns:
        For each run with ``gamma`` > 0: :data:`CELL` and seed; each of :data:`COMPARED` divided by that of
        the plain run; ``accuracy_lost``, by how many points less accurate the penalised :math:`M_{N+t}` is.
    """
    keys = [*SETTING, "seed"]
    compared = rows[[*CELL, "seed"]].copy()
    for column in COMPARED:
        compared[column] = relative_to_plain(rows, column, keys=keys)
    plain = plain_value(rows, "accuracy", keys=keys)
    compared["accuracy_lost"] = 100 * (plain - rows["accuracy"])
    return compared[rows["gamma"] > 0].reset_index(drop=True)


def cell_means(compared: pd.DataFrame) -> pd.DataFrame:
    """Return the means over seeds of what :func:`against_plain` returned, a row per cell.

    Ratios multiply, so their mean is the geometric one; that of ``accuracy_lost``, in points, is not.
    """
    logs = compared.assign(**{column: np.log(compared[column]) for column in COMPARED})
    means = logs.groupby(CELL, sort=False)[[*COMPARED, "accuracy_lost"]].mean()
    return means.assign(**{column: np.exp(means[column]) for column in COMPARED}).reset_index()


def printed_cells() -> pd.DataFrame:
    """Return Table 3 with the package's names for data sets and models.

    Returns:
        ``dataset``, ``model``, ``pretrain_epochs``, ``gamma``, ``e``, ``accuracy`` in percent; ``ratio``, e
        over that of strength 0; ``beyond``, 1 or -1 where the ratio is above or below what two single runs of
        one configuration may differ by, else 0. What the paper leaves empty is NaN.
    """
    cells = printed_rows("table3")
    cells["ratio"] = relative_to_plain(cells, "e", keys=SETTING)
    logs = np.log(cells["ratio"])
    beyond = np.sign(logs).where(logs.abs() > math.log(replicate_band()[1]), 0).where(logs.notna())
    columns = [*SETTING, "gamma", "e", "accuracy", "ratio"]
    return cells.assign(accuracy=100 * cells["accuracy_pretrained"])[columns].assign(beyond=beyond)


def beside_table_3(records: list[Record], num_steps: int) -> pd.DataFrame:
    r"""Return the cells of Table 3 that these runs are about, with e as printed and as found.

    Args:
        records: Runs with any penalty and without; those of other data, models or strengths are left out.
        num_steps: t.

    Returns:
        A row per cell of the paper that is not empty and each of :data:`PENALTIES`: ``e`` as printed;
        ``found``, the geometric mean over seeds of :func:`error_from_roots`; ``seeds``; ``within``, whether
        the two differ by no more than :func:`unrolling.paper.replicate_band`.
    """
    ours = pd.DataFrame([settings_of(record) for record in records])
    ours["log_found"] = [math.log(error_from_roots(record, num_steps)) for record in records]
    means = ours.groupby(CELL)["log_found"].agg(["mean", "size"]).reset_index()
    # A run without penalty belongs to both penalties.
    plain, penalised = means[means["gamma"] == 0], means[means["gamma"] > 0]
    means = pd.concat([penalised, *(plain.assign(loss=penalty) for penalty in PENALTIES)])
    cells = means[means["loss"].isin(PENALTIES)].merge(printed_cells().dropna(), on=[*SETTING, "gamma"])
    distance = (cells["mean"] - np.log(cells["e"])).abs()
    band = cells["size"].map(lambda seeds: math.log(replicate_band(seeds)[1]))
    return cells[[*CELL, "e"]].assign(
        found=np.exp(cells["mean"]), seeds=cells["size"], within=distance <= band
    )
