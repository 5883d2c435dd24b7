"""How far two runs of one setting lie apart that differ in the seed alone."""

import dataclasses
import math
from functools import cache

import numpy as np
import pandas as pd

from unrolling.runs.collect import published_store
from unrolling.runs.config import RunConfig
from unrolling.runs.frames import final_frame
from unrolling.studies.decide import ENOUGH_SEEDS

#: Quantities in points; of all others the noise is that of the logarithm.
IN_POINTS = ("accuracy", "accuracy_pretrained")
PROFILE = "small"
#: Runs whose samples of sigma are rougher read nothing off them.
ROUGHEST = 0.05


@cache
def seed_noise(column: str) -> float:
    r"""Return the standard deviation of a quantity of one run over seeds, of its logarithm or in points.

    It is the median, over the settings of the committed ``small`` runs with at least three seeds, of the
    standard deviation between their seeds at the last step. The ratio or difference of two single runs has
    :math:`\sqrt 2` times that.

    It assumes that larger runs vary as these do. They are on small images and few of them, and their test
    sets are small, so that the accuracy of larger runs is likely to vary less. Runs that share a seed, as
    those with and without a penalty, share some of their noise; that makes their ratios vary less too.

    Args:
        column: A column of :func:`~unrolling.runs.collect.final_frame`, as ``e`` or ``accuracy``.

    Returns:
        The noise; infinity where no such runs are here.
    """
    runs, settings = _committed()
    if runs.empty:
        return math.inf
    values = 100 * runs[column] if column in IN_POINTS else np.log(runs[column].where(runs[column] > 0))
    grouped = values.groupby([runs[name] for name in settings])
    return float(grouped.std()[grouped.count() >= ENOUGH_SEEDS].median())


def ratio_noise(column: str) -> float:
    """Return the noise of the logarithm of the ratio, or of the difference, of two single runs."""
    return math.sqrt(2) * seed_noise(column)


@cache
def _committed() -> tuple[pd.DataFrame, list[str]]:
    runs = final_frame(published_store(PROFILE))
    settings = [setting.name for setting in dataclasses.fields(RunConfig) if setting.name != "seed"]
    return (runs if runs.empty else runs[runs["sigma_rtol"] <= ROUGHEST]), settings
