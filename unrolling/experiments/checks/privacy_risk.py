"""Sections 4.3 and 8.4: whether the privacy risk score of what is forgotten follows v, and gamma."""

import numpy as np
import pandas as pd

from unrolling.experiments.ledger import check
from unrolling.experiments.privacy_risk import (
    PRINTED_TRIPLETS,
    SETTING,
    TRIPLET,
    by_strength,
    fisher_interval,
    mean_over_seeds,
    opposed,
    opposed_in_every_seed,
    rank_correlation,
    ranks_over_strength,
    score_frame,
)
from unrolling.metrics.association import Correlation, correlate
from unrolling.paper import Finding
from unrolling.store import Record

PAGE = "09_privacy_risk"
FIGURE_2 = {"page": PAGE, "experiment": "privacy_risk", "part": "amnesiac"}
FIGURE_13 = {"page": PAGE, "experiment": "privacy_risk", "part": "strength"}


def amnesiac_means(records: list[Record]) -> dict[str, pd.DataFrame]:
    """Return a row per setting of Figure 2, mean over the seeds, by data set."""
    scores = score_frame(records).query("unlearning == 'amnesiac'")
    means = mean_over_seeds(scores, TRIPLET)
    return {str(name): own for name, own in means.groupby("dataset", sort=False)}


def weakly_correlated(dataset: str, means: pd.DataFrame, printed: float) -> Finding:
    """Correlate score and v over the settings of one data set."""
    found: Correlation = correlate(means["score"], means["distance"])
    damage = correlate(means["score"], means["accuracy_test"])
    low, high = fisher_interval(printed, PRINTED_TRIPLETS)
    return Finding(
        propositions={
            "the correlation is weak, |r| < 0.5": abs(found.value) < 0.5,
            "its 95 % interval contains 0": found.low <= 0 <= found.high,
        },
        value=found.value,
        value_is=f"Pearson correlation of score and v on {dataset}, {found.count} settings",
        interval=(found.low, found.high),
        reason=f"With {PRINTED_TRIPLETS} points the printed {printed:.2f} has the interval [{low:.2f}, "
        f"{high:.2f}]: it can neither support nor exclude a relation. Here the score of M'' correlates with "
        f"its test accuracy at {damage.value:.2f} [{damage.low:.2f}, {damage.high:.2f}]"
        + (": a low score comes with a damaged model." if damage.low > 0 else "."),
    )


@check("P01", **FIGURE_2)
def score_and_v_are_weakly_correlated(records: list[Record]) -> Finding:
    """Correlate score and v over the settings on the first data set: CIFAR-10 in the paper's profile."""
    name, means = next(iter(amnesiac_means(records).items()))
    return weakly_correlated(name, means, -0.29)


@check("P02", **FIGURE_2)
def score_and_v_are_weakly_correlated_on_the_other_data(records: list[Record]) -> Finding:
    """Correlate them on the last data set: CIFAR-100 in the paper's profile, the only one in the others."""
    name, means = list(amnesiac_means(records).items())[-1]
    return weakly_correlated(name, means, -0.02)


@check("P03", **FIGURE_2)
def score_and_v_have_no_monotonic_relation(records: list[Record]) -> Finding:
    """Rank the settings of each data set by score and by v."""
    found = {
        name: correlate(means["score"], means["distance"], method="spearman")
        for name, means in amnesiac_means(records).items()
    }
    strongest = max(found.values(), key=lambda rank: abs(rank.value))
    return Finding(
        propositions={"the rank correlation is weak on each data set": abs(strongest.value) < 0.5},
        value=strongest.value,
        value_is=f"Spearman correlation of score and v over {strongest.count} settings, strongest data set",
        interval=(strongest.low, strongest.high),
        reason="Mean over the seeds; "
        + ", ".join(
            f"{each} {rank.value:.2f} [{rank.low:.2f}, {rank.high:.2f}]" for each, rank in found.items()
        )
        + ". A weak correlation is not what the paper's conclusion needs: see P04.",
    )


@check("P04", **FIGURE_2)
def a_lower_score_does_not_imply_a_lower_v(records: list[Record]) -> Finding:
    """Count the pairs of settings in which the one with the lower score has the larger v."""
    scores = score_frame(records).query("unlearning == 'amnesiac'")
    shares = {n: opposed(m["score"], m["distance"]) for n, m in amnesiac_means(records).items()}
    always = {n: opposed_in_every_seed(own, TRIPLET) for n, own in scores.groupby("dataset", sort=False)}
    harmed = (scores["score"] < scores["score_before"]) & (scores["distance"] > scores["v_nothing"])
    least = min(shares.values())
    return Finding(
        propositions={"at least a quarter of the pairs are opposed, on each data set": least >= 0.25},
        value=least,
        value_is="share of pairs with the lower score and the larger v, smallest data set",
        reason=f"In {100 * min(always.values()):.0f} % of all pairs it is so in every seed. And within a "
        f"run: in {int(harmed.sum())} of {len(scores)} runs amnesiac unlearning lowers the score and leaves "
        "M'' further from M' than M was.",
    )


def text(values: pd.Series) -> str:
    """Return the range of some numbers."""
    return f"{values.min():.2f} to {values.max():.2f}"


@check("R01", **FIGURE_13)
def unlearning_halves_the_score(records: list[Record]) -> Finding:
    """Compare the score before and after single-gradient unlearning without a penalty."""
    plain = by_strength(score_frame(records)).query("gamma == 0")
    within = plain["remaining"].between(1 / 3, 1 / 1.4)
    return Finding(
        propositions={"the score falls by a factor of 1.4 to 3 in each setting": bool(within.all())},
        value=float(plain["remaining"].median()),
        value_is=f"score after / before, median of {len(plain)} settings",
        reason=f"It is {text(plain['remaining'])}, within that range in {int(within.sum())} of {len(plain)} "
        f"settings. The test accuracy of M'' is "
        f"{text(100 * plain['accuracy_test'])} %, its v {text(plain['ratio'])} times that of doing nothing, "
        f"and its score lower than that of M' in {int((plain['score'] < plain['score_retrained']).sum())}.",
    )


@check("R02", **FIGURE_13)
def a_stronger_penalty_lowers_the_score(records: list[Record]) -> Finding:
    """Average the rank correlation of gamma and the score before unlearning over the settings."""
    ranks = ranks_over_strength(by_strength(score_frame(records)), SETTING)["before"]
    return Finding(
        propositions={"the score falls with gamma, on average over the settings": float(ranks.mean()) < 0},
        value=float(ranks.mean()),
        value_is=f"mean Spearman correlation of gamma and the score before, {len(ranks)} settings",
        reason=f"It is {text(ranks)} over the settings, negative in {int((ranks < 0).sum())} of "
        f"{len(ranks)}.",
    )


@check("R03", **FIGURE_13)
def the_score_has_no_monotonic_relation_to_the_strength(records: list[Record]) -> Finding:
    """Look at the signs and sizes of the rank correlations before and after unlearning."""
    ranks = ranks_over_strength(by_strength(score_frame(records)), SETTING)[["before", "after"]]
    values = ranks.to_numpy().ravel()
    size = float(np.median(np.abs(values)))
    return Finding(
        propositions={
            "the rank correlations have both signs": bool((values > 0).any() and (values < 0).any()),
            "their median size is below 0.6": size < 0.6,
        },
        value=size,
        value_is=f"median absolute Spearman correlation of gamma and score, {len(values)} values",
        reason=f"Before unlearning they are {text(ranks['before'])}, after it {text(ranks['after'])}. With "
        "so few strengths a rank correlation is coarse: chance alone often makes it large.",
    )


@check("R04", **FIGURE_13)
def with_a_penalty_unlearning_has_no_consistent_effect(records: list[Record]) -> Finding:
    """Count the cells with a penalty in which the score falls."""
    penalised = by_strength(score_frame(records)).query("gamma > 0")
    share = float((penalised["remaining"] < 1).mean())
    return Finding(
        propositions={"the score falls in a quarter to three quarters of the cells": 0.25 <= share <= 0.75},
        value=share,
        value_is=f"share of {len(penalised)} settings and strengths in which the score falls",
        reason=f"Score after / before is {text(penalised['remaining'])} with a penalty; the test accuracy of "
        f"M'' is {text(100 * penalised['accuracy_test'])} %.",
    )


@check("R05", **FIGURE_13)
def the_penalty_is_needed_to_lower_v_not_the_score(records: list[Record]) -> Finding:
    """Compare the score without a penalty before and after, and v without and with the largest penalty."""
    means = by_strength(score_frame(records))
    plain = means.query("gamma == 0").set_index(SETTING)
    strong = means[means["gamma"] == means["gamma"].max()].set_index(SETTING)
    falls = plain["distance"] / strong["distance"]
    follows = [rank_correlation(own["gamma"], own["ratio"]) for _, own in means.groupby(SETTING)]
    return Finding(
        propositions={
            "without a penalty the score falls by a factor of 1.4 in each setting": bool(
                (plain["remaining"] <= 1 / 1.4).all()
            ),
            "v is more than 1.5 times that at the largest gamma in each setting": bool((falls > 1.5).all()),
        },
        value=float(falls.median()),
        value_is=f"v at gamma 0 / v at the largest gamma, median of {len(falls)} settings",
        reason=f"The quotient of v is {text(falls)}. Relative to doing nothing v is "
        f"{text(plain['ratio'])} at gamma 0 and {text(strong['ratio'])} at the largest; it rises with gamma "
        f"in {sum(rank > 0 for rank in follows)} of {len(follows)} settings.",
    )
