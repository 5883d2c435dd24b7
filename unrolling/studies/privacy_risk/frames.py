r"""Figures 2 and 13: whether a lower privacy risk score of the forgotten batch goes with a lower v."""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from unrolling.metrics.intervals import rank_correlation
from unrolling.runs.frames import final_frame
from unrolling.store import Record

#: The weights whose score is taken, by their name in a record, and the column of v that belongs to them.
MODELS = {
    "trained": "v_nothing",
    "single_gradient": "v",
    "amnesiac": "v_amnesiac",
    "final_gradient": "v_final_gradient",
}

#: What makes a setting of Figure 2 and of Figure 13; beside it vary the seed, and in Figure 13 the strength.
TRIPLET = ["dataset", "model", "pretrain_epochs", "epochs", "batch_size", "learning_rate"]
SETTING = ["dataset", "model"]

#: Triplets of Figure 2 on a data set, at most: the released job list has 7 strengths and 2 networks.
PRINTED_TRIPLETS = 14


def score_frame(records: Iterable[Record]) -> pd.DataFrame:
    """Return one row per run and model.

    Returns:
        The settings of the run and what :func:`unrolling.runs.final_frame` adds; ``unlearning``, the
        model's name; its scores and ``accuracy_test`` as :func:`unrolling.runs.shadow.privacy_risk`
        returns them; ``distance``, its v; the same for what it is compared with, ``score_before`` of M and
        ``score_retrained`` of M', ``score_unseen``, the mean score of M for images that nobody trained on;
        and ``signal``, the area under the ROC curve of M's scores.
    """
    rows = []
    for record, run in zip(records := list(records), final_frame(records).to_dict("records"), strict=True):
        privacy = record.result["privacy"]
        for name, v in MODELS.items():
            own = {
                "accuracy_test" if key == "accuracy" else key: value for key, value in privacy[name].items()
            }
            rows.append(
                run
                | own
                | {
                    "unlearning": name,
                    "distance": run[v],
                    "score_before": privacy["trained"]["score"],
                    "score_retrained": privacy["retrained"]["score"],
                    "score_unseen": privacy["signal"]["nonmembers"],
                    "signal": privacy["signal"]["auc"],
                }
            )
    return pd.DataFrame(rows)


def mean_over_seeds(scores: pd.DataFrame, setting: Sequence[str]) -> pd.DataFrame:
    """Return the means over the seeds of each setting, with the setting's values as columns."""
    scored = ["score", "score_before", "score_retrained", "score_unseen"]
    columns = [*scored, "distance", "accuracy_test", "signal"]
    return scores.groupby(list(setting), sort=False)[columns].mean().reset_index()


def opposed(score: ArrayLike, distance: ArrayLike, taken: ArrayLike | None = None) -> float:
    r"""Return the share of all pairs in which the lower score goes with the larger distance.

    Where score and distance have nothing to do with each other it is one half; it is
    :math:`(1 - \tau) / 2` with Kendall's :math:`\tau` if no values are equal. A pair of equal values is not
    opposed.

    Args:
        score: Shape (points,).
        distance: Shape (points,).
        taken: How often each point counts, in a draw of a bootstrap; once by default. A point is no pair
            with itself.

    Example:
        >>> opposed([0.1, 0.2, 0.3], [1.0, 3.0, 2.0])  # one of three pairs: the last two
        0.3333333333333333
    """
    x, y = np.asarray(score, dtype=float), np.asarray(distance, dtype=float)
    i, j = np.triu_indices(len(x), 1)
    weights = np.ones(len(x)) if taken is None else np.asarray(taken, dtype=float)
    pairs = weights[i] * weights[j]
    return float(np.average((x[i] - x[j]) * (y[i] - y[j]) < 0, weights=pairs)) if pairs.any() else np.nan


def opposed_in_every_seed(scores: pd.DataFrame, setting: Sequence[str]) -> float:
    """Return the share of pairs of settings in which one has the lower score and the larger v in every seed.

    Args:
        scores: One row per run, of one kind of model.
        setting: The columns that make a setting.
    """
    tables = [scores.pivot(index="seed", columns=list(setting), values=c) for c in ("score", "distance")]
    pairs = list(itertools.combinations(range(tables[0].shape[1]), 2))
    score, distance = (
        np.sign([table.to_numpy()[:, i] - table.to_numpy()[:, j] for i, j in pairs]) for table in tables
    )
    lower = (score < 0).all(axis=1) & (distance > 0).all(axis=1)
    higher = (score > 0).all(axis=1) & (distance < 0).all(axis=1)
    return float((lower | higher).mean())


def by_strength(scores: pd.DataFrame) -> pd.DataFrame:
    """Return what single-gradient unlearning does in each setting and strength of Figure 13.

    Args:
        scores: What :func:`score_frame` returns.

    Returns:
        The means over the seeds, see :func:`mean_over_seeds`; ``remaining``, the score after over that
        before; ``ratio``, v over v of doing nothing.
    """
    after, before = (
        mean_over_seeds(scores[scores["unlearning"] == name], [*SETTING, "gamma"])
        for name in ("single_gradient", "trained")
    )
    return after.assign(
        remaining=after["score"] / after["score_before"], ratio=after["distance"] / before["distance"]
    )


def ranks_over_strength(means: pd.DataFrame, setting: Sequence[str]) -> pd.DataFrame:
    r"""Return the rank correlation of :math:`\gamma` with the score before and after unlearning.

    Args:
        means: A row per setting and strength, see :func:`mean_over_seeds`.
        setting: The columns that make a setting, without ``gamma``.

    Returns:
        A row per setting with its values, ``before`` and ``after``.
    """
    rows = [
        dict(zip(setting, name, strict=True))
        | {
            "before": rank_correlation(own["gamma"], own["score_before"]),
            "after": rank_correlation(own["gamma"], own["score"]),
        }
        for name, own in means.groupby(list(setting), sort=False)
    ]
    return pd.DataFrame(rows)
