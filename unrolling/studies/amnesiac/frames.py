r"""Figures 14 and 15: whether e follows the v of methods that it was not derived for (section 9)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from unrolling.metrics.association import Correlation, correlate
from unrolling.studies.frames import CHECKPOINT, labels, logs_within
from unrolling.studies.proxy.frames import over_steps

#: Columns of a trace that hold a verification error, and what M'' was made by.
METHODS: dict[str, str] = {
    "v": "single gradient",
    "v_amnesiac": "amnesiac",
    "v_amnesiac_released": "amnesiac, as released",
    "v_nothing": "doing nothing",
}


class Following(NamedTuple):
    """How closely e follows one method's v over settings, and what the method achieves.

    Attributes:
        pearson: Correlation of e and v.
        spearman: The same on ranks.
        inside: Correlation of their logarithms within clusters of one model and one pre-training.
        ratio: Geometric mean of v over v of doing nothing; below 1 the method helps.
        helped: Share of the points at which it helps.
    """

    pearson: Correlation
    spearman: Correlation
    inside: Correlation
    ratio: float
    helped: float


def follow(points: pd.DataFrame, column: str) -> Following:
    """Return how closely e follows a method's v over the settings of a grid.

    The intervals are from a bootstrap over clusters of one data set, model and pre-training.

    Args:
        points: What :func:`unrolling.studies.proxy.frames.after_epochs` returns.
        column: A key of :data:`METHODS`.
    """
    clusters = labels(points, CHECKPOINT)
    left = logs_within(points, ["e", column], CHECKPOINT)
    ratio = points[column] / points["v_nothing"]
    return Following(
        pearson=correlate(points["e"], points[column], clusters=clusters),
        spearman=correlate(points["e"], points[column], clusters=clusters, method="spearman"),
        inside=correlate(left["e"], left[column], clusters=labels(left, CHECKPOINT)),
        ratio=float(np.exp(np.log(ratio).mean())),
        helped=float((ratio < 1).mean()),
    )


def follow_over_steps(traces: pd.DataFrame, columns: Sequence[str] = tuple(METHODS)) -> pd.DataFrame:
    """Return :func:`unrolling.studies.proxy.frames.over_steps` for several methods, one below the other.

    Args:
        traces: What :func:`unrolling.runs.trace_frame` returns.
        columns: Keys of :data:`METHODS`; the result has the key in its column ``method``.
    """
    frames = [over_steps(traces.assign(v=traces[column])).assign(method=column) for column in columns]
    return pd.concat(frames, ignore_index=True)
