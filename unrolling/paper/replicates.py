"""How far apart two runs of the same setting lie in the paper's own tables."""

import math
from typing import NamedTuple

import numpy as np

from unrolling._checks import check_integer
from unrolling.paper.tables import reported_table

_QUANTILE = 1.96  # 95 % of a normal distribution lie within this many standard deviations


class ReplicateNoise(NamedTuple):
    r"""Spread between runs of one setting, estimated from the paper's tables.

    Attributes:
        log_e: Standard deviation of :math:`\ln e` of one run.
        accuracy: Standard deviation of the accuracy of one run, in percentage points, of trained models.
        pairs: How many settings are printed twice.
    """

    log_e: float
    accuracy: float
    pairs: int


def replicate_noise() -> ReplicateNoise:
    r"""Return how much e and the accuracy vary between two runs of the paper.

    Its rows :math:`\lambda = 0` of Table 3 and :math:`\gamma = 0` of Table 4 are the same training without
    a penalty, run twice and printed twice. From n such pairs,

    .. math:: s^2 = \frac{1}{2n} \sum_k (\ln e_k - \ln e'_k)^2 .

    That Table 3 has the same t as Table 4 is an assumption: its caption does not say.
    """
    keys = ["dataset", "model", "pretrain_epochs"]
    plain = [table[table["strength"] == 0] for table in map(reported_table, ("table3", "table4"))]
    pairs = plain[0].merge(plain[1], on=keys, suffixes=("", "_again"))
    log_e = np.log(pairs["unlearning_error"] / pairs["unlearning_error_again"])
    accuracy = (pairs["accuracy"] - pairs["accuracy_again"])[pairs["pretrain_epochs"] > 0]
    return ReplicateNoise(*(math.sqrt((x**2).mean() / 2) for x in (log_e, accuracy)), len(pairs))


def replicate_band(num_runs: int = 1) -> tuple[float, float]:
    r"""Return the 95 % band of the ratio of e of one printed run to the mean of others, if nothing differs.

    .. math:: \exp\bigl(\pm 1.96 \, s \sqrt{1 + 1 / S}\bigr)

    Args:
        num_runs: S, the runs behind the (geometric) mean; 1 for the ratio of two printed cells.
    """
    check_integer("num_runs", num_runs, minimum=1)
    half = _QUANTILE * replicate_noise().log_e * math.sqrt(1 + 1 / num_runs)
    return math.exp(-half), math.exp(half)
