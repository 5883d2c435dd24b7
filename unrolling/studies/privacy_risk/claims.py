"""Sections 4.3 and 8.4: whether the privacy risk score of what is forgotten follows v, and gamma."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from unrolling.metrics.association import correlate
from unrolling.metrics.intervals import fisher_interval, rank_correlation
from unrolling.paper import Finding
from unrolling.store import Record
from unrolling.studies.decide import (
    ENOUGH_SEEDS,
    Estimate,
    above,
    all_of,
    any_of,
    at_least,
    at_most,
    below,
    bootstrap,
    correlation_over_seeds,
    of_correlation,
    order,
    over_seeds,
    range_of,
    share_over_seeds,
    within,
)
from unrolling.studies.frames import labels
from unrolling.studies.ledger import check
from unrolling.studies.noise import ratio_noise
from unrolling.studies.printed import printed_correlation
from unrolling.studies.privacy_risk.frames import (
    PRINTED_TRIPLETS,
    SETTING,
    TRIPLET,
    by_strength,
    mean_over_seeds,
    opposed,
    opposed_in_every_seed,
    score_frame,
)

PAGE = "15_privacy_risk"
FIGURE_2 = {"page": PAGE, "experiment": "privacy_risk", "part": "amnesiac"}
#: What a training of Figure 2 is: settings that differ in N, or in m, are on the way of one.
TRAINING = ["dataset", "model", "batch_size", "learning_rate"]
FIGURE_13 = {"page": PAGE, "experiment": "privacy_risk", "part": "strength"}


def amnesiac_scores(records: list[Record]) -> dict[str, pd.DataFrame]:
    """Return a row per run of Figure 2, by data set."""
    scores = score_frame(records).query("unlearning == 'amnesiac'")
    return {str(name): own for name, own in scores.groupby("dataset", sort=False)}


def of_settings(scores: pd.DataFrame, method: str) -> Estimate:
    """Return the correlation of score and v over settings, means over seeds, of one data set.

    The interval is the wider of a bootstrap over trainings and, from three seeds on, that over the seeds' own
    correlations.
    """
    means = mean_over_seeds(scores, TRIPLET)
    trainings = labels(means, TRAINING)
    if len(set(trainings)) < 3:
        return Estimate(correlate(means["score"], means["distance"], method=method).value)
    found = of_correlation(correlate(means["score"], means["distance"], method=method, clusters=trainings))
    seeds = [
        correlate(own["score"], own["distance"], method=method).value for _, own in scores.groupby("seed")
    ]
    if len(seeds) < ENOUGH_SEEDS:
        return found
    over = range_of(seeds) if method == "spearman" else correlation_over_seeds(seeds)
    return found._replace(low=min(found.low, over.low), high=max(found.high, over.high))


def weak(correlation: Estimate) -> bool | None:
    """Return whether a correlation is between -0.5 and 0.5."""
    return all_of([above(correlation, -0.5), below(correlation, 0.5)])


def weakly_correlated(dataset: str, scores: pd.DataFrame, printed: float) -> tuple[Estimate, Finding]:
    """Correlate score and v over the settings of one data set."""
    means = mean_over_seeds(scores, TRIPLET)
    found = of_settings(scores, "pearson")
    damage = correlate(means["score"], means["accuracy_test"])
    low, high = fisher_interval(printed, PRINTED_TRIPLETS)
    return found, Finding(
        propositions={"the correlation is weak, between -0.5 and 0.5": weak(found)},
        value=found.value,
        value_is=f"Pearson correlation of score and v on {dataset}, {len(means)} settings",
        interval=found.interval,
        reason=f"With {PRINTED_TRIPLETS} points the printed {printed:.2f} has the interval [{low:.2f}, "
        f"{high:.2f}]: it can neither support nor exclude a relation. Here the score of M'' correlates with "
        f"its test accuracy at {damage.value:.2f} [{damage.low:.2f}, {damage.high:.2f}]"
        + (": a low score comes with a damaged model." if damage.low > 0 else "."),
    )


@check("P01", **FIGURE_2)
def score_and_v_are_weakly_correlated(records: list[Record]) -> Finding:
    """Correlate score and v over the settings on the first data set: CIFAR-10 in the paper's profile."""
    name, scores = next(iter(amnesiac_scores(records).items()))
    correlation, found = weakly_correlated(name, scores, printed_correlation("Fig2", "CIFAR-10"))
    return replace(found, propositions={**found.propositions, "it is negative": below(correlation, 0)})


@check("P02", **FIGURE_2, profile="paper")
def score_and_v_are_weakly_correlated_on_the_other_data(records: list[Record]) -> Finding:
    """Correlate them on CIFAR-100, which the profile of the paper's scale alone has."""
    name, scores = list(amnesiac_scores(records).items())[-1]
    return weakly_correlated(name, scores, printed_correlation("Fig2", "CIFAR-100"))[1]


@check("P03", **FIGURE_2)
def score_and_v_have_no_monotonic_relation(records: list[Record]) -> Finding:
    """Rank the settings of each data set by score and by v."""
    found = {name: of_settings(scores, "spearman") for name, scores in amnesiac_scores(records).items()}
    strongest = max(found.values(), key=lambda rank: abs(rank.value))
    return Finding(
        propositions={
            "the rank correlation is weak on each data set": all_of(weak(rank) for rank in found.values())
        },
        value=strongest.value,
        value_is="Spearman correlation of score and v over settings, strongest data set",
        interval=strongest.interval,
        reason="Mean over the seeds; "
        + ", ".join(
            f"{each} {rank.value:.2f} [{rank.low:.2f}, {rank.high:.2f}]" for each, rank in found.items()
        )
        + ". A weak correlation is not what the paper's conclusion needs: see P04.",
    )


@check("P04", **FIGURE_2)
def a_lower_score_does_not_imply_a_lower_v(records: list[Record]) -> Finding:
    """Count the pairs of settings in which the one with the lower score has the larger v."""
    by_data = amnesiac_scores(records)
    shares = {name: opposed_share(scores) for name, scores in by_data.items()}
    always = [opposed_in_every_seed(own, TRIPLET) for own in by_data.values()]
    scores = pd.concat(by_data.values())
    harmed = (scores["score"] < scores["score_before"]) & (scores["distance"] > scores["v_nothing"])
    least = min(shares.values(), key=lambda share: share.value)
    return Finding(
        propositions={
            "at least a quarter of the pairs are opposed, on each data set": all_of(
                at_least(share, 0.25) for share in shares.values()
            )
        },
        value=least.value,
        value_is="share of pairs with the lower score and the larger v, smallest data set",
        interval=least.interval,
        reason=f"In {100 * min(always):.0f} % of all pairs it is so in every seed. And within a "
        f"run: in {int(harmed.sum())} of {len(scores)} runs amnesiac unlearning lowers the score and leaves "
        "M'' further from M' than M was.",
    )


def opposed_share(scores: pd.DataFrame) -> Estimate:
    """Return the share of opposed pairs of settings, means over seeds, bootstrapped over trainings."""
    means = mean_over_seeds(scores, TRIPLET)
    score, distance = means["score"].to_numpy(), means["distance"].to_numpy()
    return bootstrap(partial(opposed, score, distance), labels(means, TRAINING))


def text(values: pd.Series) -> str:
    """Return the range of some numbers."""
    return f"{values.min():.2f} to {values.max():.2f}"


@check("R01", **FIGURE_13)
def unlearning_halves_the_score(records: list[Record]) -> Finding:
    """Compare the score before and after single-gradient unlearning without a penalty."""
    scores = score_frame(records)
    plain = by_strength(scores).query("gamma == 0")
    ratios = _by_setting(scores.query("gamma == 0"), lambda own: own["score"] / own["score_before"])
    near = plain["remaining"].between(1 / 3, 1 / 1.4)
    return Finding(
        propositions={
            "the score falls by a factor of 1.4 to 3 in each setting": all_of(
                within(own, 1 / 3, 1 / 1.4) for own in ratios
            )
        },
        value=float(plain["remaining"].median()),
        value_is=f"score after / before, median of {len(plain)} settings",
        reason=f"It is {text(plain['remaining'])}, within that range in {int(near.sum())} of {len(plain)} "
        f"settings, over seeds from {min(own.low for own in ratios):.2f} to "
        f"{max(own.high for own in ratios):.2f}. "
        f"The test accuracy of M'' is {text(100 * plain['accuracy_test'])} %, its v {text(plain['ratio'])} "
        "times that of doing nothing, "
        f"and its score lower than that of M' in {int((plain['score'] < plain['score_retrained']).sum())}.",
    )


def _by_setting(
    scores: pd.DataFrame, number: Callable[[pd.DataFrame], pd.Series], *, model: str = "single_gradient"
) -> list[Estimate]:
    """Return a number of each setting over seeds, of the model after one kind of unlearning."""
    own = scores[scores["unlearning"] == model]
    grouped = number(own).groupby([own[name] for name in SETTING], sort=False)
    return [over_seeds(of_setting) for _, of_setting in grouped]


def _ranks(scores: pd.DataFrame, column: str) -> dict[tuple, Estimate]:
    """Return the rank correlation of gamma and a score, by setting."""
    own = scores[scores["unlearning"] == "single_gradient"]
    return {
        setting: order(of_setting, "gamma", column)
        for setting, of_setting in own.groupby(SETTING, sort=False)
    }


@check("R02", **FIGURE_13)
def a_stronger_penalty_lowers_the_score(records: list[Record]) -> Finding:
    """Average the rank correlation of gamma and the score before unlearning over the settings."""
    scores = score_frame(records)
    ranks = pd.Series({setting: rank.value for setting, rank in _ranks(scores, "score_before").items()})
    if scores["seed"].nunique() >= ENOUGH_SEEDS:
        mean = over_seeds(
            [
                np.mean([rank.value for rank in _ranks(own, "score_before").values()])
                for _, own in scores.groupby("seed")
            ]
        )
    else:
        values = ranks.to_numpy()
        mean = bootstrap(lambda taken: float(np.average(values, weights=taken)), list(ranks.index))
    return Finding(
        propositions={"the score falls with gamma, on average over the settings": below(mean, 0)},
        value=mean.value,
        value_is=f"mean Spearman correlation of gamma and the score before, {len(ranks)} settings",
        interval=mean.interval,
        reason=f"It is {text(ranks)} over the settings, negative in {int((ranks < 0).sum())} of "
        f"{len(ranks)}.",
    )


@check("R03", **FIGURE_13)
def the_score_has_no_monotonic_relation_to_the_strength(records: list[Record]) -> Finding:
    """Look at the signs and sizes of the rank correlations before and after unlearning."""
    scores = score_frame(records)
    before, after = (list(_ranks(scores, column).values()) for column in ("score_before", "score"))
    every = [*before, *after]
    size = over_seeds(
        [
            np.median(
                [abs(rank.value) for c in ("score_before", "score") for rank in _ranks(own, c).values()]
            )
            for _, own in scores.groupby("seed")
        ]
    )
    return Finding(
        propositions={
            "the rank correlations have both signs": all_of(
                [any_of(above(rank, 0) for rank in every), any_of(below(rank, 0) for rank in every)]
            ),
            "their median size is below 0.6": below(size, 0.6),
        },
        value=size.value,
        value_is=f"median absolute Spearman correlation of gamma and score, {len(every)} values, mean over "
        "seeds",
        interval=size.interval,
        reason=f"Before unlearning they are {_span(before)}, after it {_span(after)}. With "
        "so few strengths a rank correlation is coarse: chance alone often makes it large.",
    )


def _span(ranks: list[Estimate]) -> str:
    return text(pd.Series([rank.value for rank in ranks]))


@check("R04", **FIGURE_13)
def with_a_penalty_unlearning_has_no_consistent_effect(records: list[Record]) -> Finding:
    """Count the cells with a penalty in which the score falls."""
    scores = score_frame(records)
    penalised = by_strength(scores).query("gamma > 0")
    own = scores.query("gamma > 0 and unlearning == 'single_gradient'")
    share = share_over_seeds(own["score"] < own["score_before"], own["seed"], labels(own, SETTING))
    return Finding(
        propositions={
            "the score falls in a quarter to three quarters of the cells": within(share, 0.25, 0.75)
        },
        value=share.value,
        value_is=f"share of {len(penalised)} settings and strengths in which the score falls, mean over "
        "seeds",
        interval=share.interval,
        reason=f"Score after / before is {text(penalised['remaining'])} with a penalty; the test accuracy of "
        f"M'' is {text(100 * penalised['accuracy_test'])} %.",
    )


@check("R05", **FIGURE_13)
def the_penalty_is_needed_to_lower_v_not_the_score(records: list[Record]) -> Finding:
    """Compare the score without a penalty before and after, and v without and with the largest penalty."""
    scores = score_frame(records)
    means = by_strength(scores)
    plain = means.query("gamma == 0")
    strong = means[means["gamma"] == means["gamma"].max()]
    ratios = _by_setting(scores.query("gamma == 0"), lambda own: own["score"] / own["score_before"])
    unlearned = scores[scores["unlearning"] == "single_gradient"].set_index([*SETTING, "seed"])
    at_ends = [unlearned.loc[unlearned["gamma"] == gamma, "distance"] for gamma in (0, means["gamma"].max())]
    falls = [
        over_seeds(own, ratio_noise("v")).to(np.exp)
        for _, own in np.log(at_ends[0] / at_ends[1]).groupby(SETTING, sort=False)
    ]
    follows = [rank_correlation(own["gamma"], own["ratio"]) for _, own in means.groupby(SETTING)]
    least = min(falls, key=lambda own: own.value)
    return Finding(
        propositions={
            "without a penalty the score falls by a factor of 1.4 in each setting": all_of(
                at_most(own, 1 / 1.4) for own in ratios
            ),
            "v is more than 1.5 times that at the largest gamma in each setting": all_of(
                above(own, 1.5) for own in falls
            ),
        },
        value=least.value,
        value_is=f"v at gamma 0 / v at the largest gamma, smallest of {len(falls)} settings",
        interval=least.interval,
        reason=f"The quotient of v is {_span(falls)}. Relative to doing nothing v is "
        f"{text(plain['ratio'])} at gamma 0 and {text(strong['ratio'])} at the largest; it rises with gamma "
        f"in {sum(rank > 0 for rank in follows)} of {len(follows)} settings.",
    )
