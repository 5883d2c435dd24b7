"""Table 4 and the influence of N: whether the effect of the SD loss lasts as pre-training grows."""

import numpy as np
import pandas as pd

from unrolling.metrics.intervals import rank_correlation
from unrolling.studies.frames import SETTING, relative_to_plain


def cells(rows: pd.DataFrame, column: str = "e") -> pd.DataFrame:
    r"""Return one row per cell of a table like Table 4: setting and gamma > 0, seeds taken together.

    Args:
        rows: One row per run, as :func:`~unrolling.runs.frames.after_epochs` returns.
        column: The column of e; what is printed is to be compared with ``e_root``.

    Returns:
        The columns of :data:`SETTING`, gamma and num_classes; ``ratio``, the geometric mean over seeds of
        :math:`e(\gamma) / e(0)`; ``low`` and ``high``, the least and the largest of the seeds; ``seeds``.
    """
    ratios = rows.assign(ratio=relative_to_plain(rows, column))
    grouped = ratios[ratios["gamma"] > 0].groupby([*SETTING, "gamma", "num_classes"], sort=False)["ratio"]
    return grouped.agg(
        ratio=lambda values: float(np.exp(np.log(values).mean())), low="min", high="max", seeds="size"
    ).reset_index()


def fading(table: pd.DataFrame) -> pd.DataFrame:
    r"""Return whether the effect fades with pre-training: a row per data set, model and gamma.

    Args:
        table: What :func:`cells` returns.

    Returns:
        ``dataset``, ``model``, ``gamma``, ``num_classes``, and ``spearman``, the rank correlation of N and
        :math:`e(\gamma) / e(0)`. Above 0 the SD loss loses its effect as N grows, below 0 it gains.
    """
    keys = ["dataset", "model", "gamma", "num_classes"]
    return (
        table.groupby(keys, sort=False)[["pretrain_epochs", "ratio"]]
        .apply(lambda cell: rank_correlation(cell["pretrain_epochs"], cell["ratio"]))
        .rename("spearman")
        .reset_index()
    )
