r"""What the options of the protocol, and the conventions of the released code, do to e, v and their relation.

A *reading* says which runs to take and which of their columns to call e and v. It is compared with the
reading that the other pages use, run by run: same seed, same strength.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from unrolling._checks import InputError, check_choice
from unrolling.losses import gamma_from_released
from unrolling.metrics.association import correlate
from unrolling.metrics.intervals import t_interval
from unrolling.runs import after_epochs
from unrolling.store import Record
from unrolling.studies.influence_of_pretraining import claims as influence_of_pretraining
from unrolling.studies.proxy import claims as proxy
from unrolling.studies.training_with_sd_loss import claims as training_with_sd_loss

#: Conventions for sigma_avg, given the dominant eigenvalues that a run sampled, in the order of its steps.
SIGMA: dict[str, Callable[[NDArray[np.float64]], float]] = {
    "mean": lambda eigenvalues: float(np.abs(eigenvalues).mean()),
    "root": lambda eigenvalues: math.nan if eigenvalues.min() < 0 else float(np.sqrt(eigenvalues).mean()),
    "last": lambda eigenvalues: float(abs(eigenvalues[-1])),
    "first": lambda eigenvalues: float(abs(eigenvalues[0])),
}


@dataclass(frozen=True)
class Reading:
    """One option of the protocol, or one convention of the released code, on its own.

    Attributes:
        name: What a table calls it.
        text: What the paper's text says, in our words.
        code: What this reading does instead.
        source: Rows of the audit for a released convention; empty for an option of the protocol.
        part: The grid of experiment ``conventions`` with its runs.
        sigma: Its convention for sigma_avg, one of :data:`SIGMA`.
        v: The recorded column that it calls v.
        num_epochs: m; it reads the end of this epoch.
        base: What it is compared with; None for :data:`TEXT`.
    """

    name: str
    text: str
    code: str
    source: str = ""
    part: str = "text"
    sigma: str = "mean"
    v: str = "v"
    num_epochs: int = 1
    base: "Reading | None" = None


#: What the other pages read: the text's protocol, after one epoch.
TEXT = Reading("as on the other pages", "", "")
TWO_EPOCHS = Reading(
    "two epochs",
    "t is one epoch (Tables 1, 2 and 4) or five (Figures 7 and 8)",
    "t is two epochs, and x* is trained on twice",
    num_epochs=2,
)
AMNESIAC = Reading(
    "amnesiac, two epochs",
    "the gradient at w_0, m times (5.1)",
    "the updates that were applied, undone",
    v="v_amnesiac",
    num_epochs=2,
    base=TWO_EPOCHS,
)
LONGER = Reading("more pre-training", "", "", part="longer")

#: Options of the protocol that the paper leaves open, or decides without saying what they change.
PROTOCOL: tuple[Reading, ...] = (
    Reading(
        "x* left out of pre-training too",
        "M and M' start from one M_N that has seen x*",
        "they start from one M_N that has not",
        part="without_forgotten",
    ),
    Reading(
        "M' retrained from scratch",
        "M' starts from M_N (8.3), though unlearning is defined by retraining (3.1)",
        "M' starts from M_0 and never sees x*",
        part="retrained",
    ),
    Reading(
        "batch in the middle", "x* is the first batch of an epoch", "it is one in the middle", part="middle"
    ),
    Reading("last batch", "x* is the first batch of an epoch", "it is the last one", part="last"),
    Reading("three batches", "one batch is forgotten", "three are, the first ones", part="several"),
    Reading("one point", "one batch is forgotten", "one point of it is", part="point"),
    TWO_EPOCHS,
    Reading(
        "gradient at the end",
        "the gradient at w_0, m times (5.1)",
        "the gradient at w_t, once (8.3)",
        v="v_final_gradient",
    ),
    AMNESIAC,
)

#: Conventions of the released code that differ from the text.
RELEASED: tuple[Reading, ...] = (
    Reading(
        "scale of gamma",
        "mean over the batch of the population standard deviation",
        "sum of the unbiased one, over batch times classes: the same number is a weaker penalty",
        source="A1.1",
        part="released_scale",
    ),
    Reading(
        "square root of the eigenvalue",
        "the induced norm, called the square root of the largest eigenvalue",
        "square root of the signed eigenvalue; none where it is negative",
        source="A1.2, A1.8",
        sigma="root",
    ),
    Reading(
        "last sample of sigma",
        "sigma_avg is a mean",
        "stored beside it: the last sample",
        "A1.5",
        sigma="last",
    ),
    Reading(
        "first sample of sigma",
        "every Hessian at w_0",
        "along the way; so do the other pages, and this reading is the text's, on one batch",
        source="A1.6",
        sigma="first",
    ),
    Reading(
        "Hessian on fixed images",
        "the Hessian of each step's batch",
        "some scripts: that of the first images of the training set, at every step",
        source="A1.7",
        part="fixed_images",
    ),
    Reading(
        "fixed images, first sample",
        "every Hessian at w_0",
        "along the way; this reading is the text's, on the fixed images",
        source="A1.6, A1.7",
        part="fixed_images",
        sigma="first",
    ),
    Reading(
        "momentum",
        "no momentum (section 9)",
        "some scripts: 0.9, and weight decay 5e-4; unlearning does not know of it",
        source="A2.2",
        part="momentum",
    ),
    Reading(
        "momentum, known to unlearning",
        "no momentum (section 9)",
        "as above, but the gradient enters 1 / (1 - 0.9) times; not in the code",
        source="A2.2",
        part="momentum",
        v="v_momentum",
    ),
    Reading(
        "cosine pre-training",
        "no schedule (section 9)",
        "the pre-training script: cosine schedule and weight decay 5e-4",
        source="A2.3",
        part="cosine",
        base=LONGER,
    ),
    Reading(
        "fixed order",
        "the data in a random order",
        "the t steps go through the data set in its own order",
        source="A2.5",
        part="fixed_order",
    ),
    Reading(
        "frozen statistics",
        "nothing is said of batch norm",
        "one script: evaluation mode from the first measurement on, for the training too",
        source="A2.7",
        part="frozen_statistics",
    ),
    Reading(
        "test statistics",
        "nothing is said of batch norm",
        "testing in training mode: the running statistics at w_0 come from test images",
        source="A2.9",
        part="test_statistics",
    ),
    Reading(
        "amnesiac after the step, two epochs",
        "amnesiac unlearning subtracts the logged updates",
        "it adds gradients taken just after the steps",
        source="A3.3",
        v="v_amnesiac_released",
        num_epochs=2,
        base=AMNESIAC,
    ),
    Reading(
        "wrong batch left out",
        "M' is trained without what M'' unlearns",
        "one script: M' leaves out another batch",
        source="A3.4",
        part="wrong_batch",
    ),
)


def read(records: Sequence[Record], reading: Reading = TEXT) -> pd.DataFrame:
    """Return a row per run, under the names e, v, v_nothing, sigma and weight_change.

    ``e`` is Eq. 9 with the reading's sigma_avg, computed from the stored samples: Eq. 9 is linear in it. It
    is NaN where sigma_avg is. Both accuracies, seed, gamma and learning_rate are there as well.

    Args:
        records: The runs of the reading's part.
        reading: Which columns to take, and after how many epochs.
    """
    summary = SIGMA[check_choice("convention for sigma", reading.sigma, SIGMA)]
    rows = after_epochs(records, reading.num_epochs)
    samples = [_samples(record, step) for record, step in zip(records, rows["step"], strict=True)]
    sigma = np.array([summary(eigenvalues) for eigenvalues in samples])
    kept = ["seed", "gamma", "learning_rate", "v_nothing", "weight_change", "accuracy_pretrained", "accuracy"]
    return rows[kept].assign(e=rows["e"] * sigma / rows["sigma_avg"], sigma=sigma, v=rows[reading.v])


def effect(own: pd.DataFrame, base: pd.DataFrame) -> pd.DataFrame:
    r"""Return what a reading changes, a row per seed.

    Args:
        own: What :func:`read` returns for the reading.
        base: The same for the reading to compare with; runs are paired by seed and gamma.

    Returns:
        ``e``, ``v`` and ``v_nothing``, their ratio to ``base`` (geometric mean over the strengths); ``left``,
        v over v of doing nothing (geometric mean too); ``correlation``, Pearson's of e and v over the
        strengths; ``difference``, the correlation minus that of ``base`` over the same strengths. Both are
        NaN with fewer than three strengths. Runs without e, because sigma has no root, are left out.

    Raises:
        InputError: If a run has no partner.
    """
    keys = ["seed", "gamma"]
    pairs = own.merge(base, on=keys, suffixes=("", "_base"), validate="one_to_one")
    if len(pairs) < len(own):
        raise InputError("every run needs a run of the same seed and gamma in `base` to compare with.")
    rows = []
    for seed, runs in pairs.dropna(subset=["e", "e_base"]).groupby("seed"):
        correlation = _pearson(runs["e"], runs["v"])
        rows.append(
            {
                "seed": seed,
                "e": _geometric_mean(runs["e"] / runs["e_base"]),
                "v": _geometric_mean(runs["v"] / runs["v_base"]),
                "v_nothing": _geometric_mean(runs["v_nothing"] / runs["v_nothing_base"]),
                "left": _geometric_mean(runs["v"] / runs["v_nothing"]),
                "correlation": correlation,
                "difference": correlation - _pearson(runs["e_base"], runs["v_base"]),
            }
        )
    return pd.DataFrame(rows)


def effects(runs: Mapping[str, Sequence[Record]], readings: Iterable[Reading]) -> pd.DataFrame:
    """Return :func:`effect` of several readings, with the reading's name as column ``label``.

    Args:
        runs: The runs of each grid of experiment ``conventions``, by part.
        readings: For example :data:`PROTOCOL` or :data:`RELEASED`.
    """
    found = []
    for reading in readings:
        base = reading.base or TEXT
        own = effect(read(runs[reading.part], reading), read(runs[base.part], base))
        found.append(own.assign(label=reading.name))
    return pd.concat(found, ignore_index=True)


def criteria(own: pd.DataFrame) -> dict[str, float]:
    """Return, under one reading, the number that decides each of these claims, under the claim's id.

    E01: share of runs with gamma > 0 whose e is below that at gamma = 0. E11: e at the largest gamma over e
    at 0. A01: largest relative change of sigma_avg up to the released gamma = 15. A03: the weights' share of
    the fall of log e at the largest gamma; NaN if e does not fall. V04: Pearson's correlation of e and v.
    V07: the larger of the two ratios, of e and of v, at the largest gamma to 0. V14: the upper end of the
    95 % t-interval, over the seeds, of v over v of doing nothing; NaN with one seed.

    Ratios are geometric means over seeds, correlations means. Runs without e are left out, and so are seeds
    without one at gamma = 0. The ledger decides the claims on its own grids, with intervals and with roots.
    """
    own = own.dropna(subset=["e"])
    plain = own[own["gamma"] == 0].set_index("seed")
    own = own[own["seed"].isin(plain.index)]
    ratios = own[own["gamma"] > 0].reset_index(drop=True)
    for column in ("e", "v", "sigma", "weight_change"):
        ratios[column] /= plain.loc[ratios["seed"], column].to_numpy()
    by_gamma = np.exp(
        np.log(ratios.set_index("gamma")[["e", "v", "sigma", "weight_change"]]).groupby("gamma").mean()
    )
    strongest = by_gamma.loc[by_gamma.index.max()]
    logs = np.log(strongest)
    moderate = by_gamma.loc[by_gamma.index <= gamma_from_released(15, 10), "sigma"]
    left = np.log(own["v"] / own["v_nothing"]).groupby(own["seed"]).mean()
    correlations = [_pearson(runs["e"], runs["v"]) for _, runs in own.groupby("seed")]
    return {
        "E01": float((ratios["e"] < 1).mean()),
        "E11": float(strongest["e"]),
        "A01": float((moderate - 1).abs().max()),
        "A03": float(logs["weight_change"] / logs["e"]) if logs["e"] < 0 else math.nan,
        "V04": float(np.mean(correlations)),
        "V07": float(max(strongest["e"], strongest["v"])),
        "V14": math.exp(t_interval(left)[2]),
    }


#: The criteria of the claims' ledger on these numbers, with the thresholds of its checks.
MET: dict[str, Callable[[float], bool]] = {
    "E01": lambda share: share >= training_with_sd_loss.LOWER_IN,
    "E11": lambda ratio: ratio < influence_of_pretraining.HALF,
    "A01": lambda change: change <= training_with_sd_loss.UNCHANGED,
    "A03": lambda share: share >= training_with_sd_loss.WEIGHTS_SHARE,
    "V04": lambda correlation: correlation >= proxy.CLOSE,
    "V07": lambda ratio: ratio < proxy.HALF,
    "V14": lambda ratio: ratio < 1,
}


def over_learning_rates(records: Sequence[Record]) -> pd.DataFrame:
    r"""Return how e and v after one epoch change with the learning rate, a row per seed.

    Returns:
        For e, e_corrected and v the local exponent p of :math:`\eta^p`, the slope of a straight line on
        logarithmic scales; ``printed`` and ``corrected``, Pearson's correlation of log e and of
        log e_corrected with log v.
    """
    rows = []
    for seed, runs in after_epochs(records).groupby("seed"):
        logs = np.log(runs[["learning_rate", "e", "e_corrected", "v"]])
        slopes = {
            name: float(np.polyfit(logs["learning_rate"], logs[name], 1)[0])
            for name in ("e", "e_corrected", "v")
        }
        printed, corrected = (_pearson(logs[name], logs["v"]) for name in ("e", "e_corrected"))
        rows.append({"seed": seed, **slopes, "printed": printed, "corrected": corrected})
    return pd.DataFrame(rows)


def negative_samples(records: Iterable[Record]) -> pd.DataFrame:
    """Return per amount of pre-training how many samples are of a negative dominant eigenvalue.

    Returns:
        pretrain_epochs; ``samples`` and ``negative``, how many of them; ``runs`` and ``lost``, how many runs
        have at least one, so that a mean of square roots is NaN.
    """
    signs = pd.DataFrame(
        {
            "pretrain_epochs": record.config["pretrain_epochs"],
            "samples": len(record.result["sigma"]["eigenvalue"]),
            "negative": sum(eigenvalue < 0 for eigenvalue in record.result["sigma"]["eigenvalue"]),
        }
        for record in records
    )
    signs = signs.assign(runs=1, lost=(signs["negative"] > 0).astype(int))
    return signs.groupby("pretrain_epochs").sum().reset_index()


def _samples(record: Record, num_steps: int) -> NDArray[np.float64]:
    """Return the dominant eigenvalues that a run sampled in its first ``num_steps`` steps."""
    sigma = record.result["sigma"]
    pairs = zip(sigma["step"], sigma["eigenvalue"], strict=True)
    return np.array([eigenvalue for step, eigenvalue in pairs if step < num_steps])


def _geometric_mean(ratios: pd.Series) -> float:
    return float(np.exp(np.log(ratios).mean()))


def _pearson(x: pd.Series, y: pd.Series) -> float:
    """Return Pearson's correlation, or NaN with fewer than three points."""
    return correlate(x, y, num_draws=40).value if len(x) > 2 else math.nan  # the interval is not used
