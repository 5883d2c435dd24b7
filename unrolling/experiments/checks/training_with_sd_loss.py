"""Sections 8.1 and 8.2: what the SD loss does to e, its factors and the accuracy (Figures 7, 8, Table 1)."""

import math

from scipy import stats

from unrolling.experiments.collect import trace_frame
from unrolling.experiments.influence_of_pretraining import cells, printed_rows
from unrolling.experiments.ledger import check
from unrolling.experiments.training_with_sd_loss import (
    SETTING,
    accuracy_loss,
    after_epochs,
    factor_shares,
    growth,
    rank_correlation,
    sigma_ratios,
    up_to,
    weight_changes,
)
from unrolling.losses import gamma_from_released
from unrolling.paper import Finding, replicate_band
from unrolling.store import Record

PAGE = "06_training_with_sd_loss"
#: Steps between samples of sigma in the claim on the cost of e.
CADENCE = 200
#: Gradients that a Hessian-vector product is worth: it is the derivative of one, forward and backward.
PER_PRODUCT = 2
RESNET = {"experiment": "training_with_sd_loss", "part": "strength"}
VGG = {"experiment": "training_with_sd_loss", "part": "strength_vgg"}
TABLE_1 = {"experiment": "training_with_sd_loss", "part": ("strength", "strength_vgg")}
SETTINGS = {"experiment": "training_with_sd_loss", "part": ("strength", "strength_vgg", "strength_cifar100")}
TABLE_4 = {"experiment": "influence_of_pretraining", "part": ("table4", "table4_vgg", "table4_cifar100")}


@check("E01", page=PAGE, **TABLE_4)
def sd_loss_lowers_the_error(records: list[Record]) -> Finding:
    """Count the cells of Table 4 with a lower e than without the penalty."""
    table, printed = cells(after_epochs(records)), cells(printed_rows())
    lower = table["ratio"] < 1
    p = float(stats.binomtest(int(lower.sum()), len(table), alternative="greater").pvalue)
    clear = printed["ratio"] < replicate_band()[0]
    return Finding(
        propositions={
            "e is lower in at least 75 % of the cells": bool(lower.mean() >= 0.75),
            "a sign test has p below 0.01": p < 0.01,
        },
        value=float(lower.mean()),
        value_is=f"share of {len(table)} cells with a lower e, geometric mean over seeds",
        reason=f"e is lower in {int(lower.sum())} of {len(table)} cells (sign test p = {p:.1g}; it takes the "
        "cells for independent, though those of one N share their e(0)). In the paper's own Table 4 it is in "
        f"{int((printed['ratio'] < 1).sum())} of {len(printed)}, and in {int(clear.sum())} by more than two "
        "of its runs differ by chance.",
    )


@check("E02", page=PAGE, **TABLE_4)
def penalty_to_accuracy_is_moderate(records: list[Record]) -> Finding:
    """Look for the largest loss of accuracy over all strengths and amounts of pre-training."""
    rows = after_epochs(records)
    lost, before = accuracy_loss(rows), accuracy_loss(rows, "accuracy_pretrained")
    printed = accuracy_loss(printed_rows("table1"), "accuracy_pretrained")
    within = int((lost < 3).sum())
    return Finding(
        propositions={"the accuracy falls by less than 3 points": bool((lost < 3).all())},
        value=float(lost.max()),
        value_is="largest loss of accuracy after the t steps, in points, mean over seeds",
        reason=f"It is so in {within} of {len(lost)} cells; the largest loss is {lost.max():z.1f} points, "
        f"and {before.max():z.1f} for M_N, whose accuracy the paper's tables print. In its own Table 1 up to "
        f"{printed.max():.1f} points are lost.",
    )


@check("E03", page=PAGE, **SETTINGS)
def error_grows_with_the_steps(records: list[Record]) -> Finding:
    """Rank e and t in every run."""
    ranks = growth(trace_frame(records)).groupby([*SETTING, "gamma"], sort=False)["spearman"].mean()
    return Finding(
        propositions={"e grows with t at each gamma, in each setting": bool((ranks >= 0.99).all())},
        value=float(ranks.min()),
        value_is=f"smallest Spearman of t and e of {len(ranks)} settings and strengths, mean over seeds",
        reason=f"Spearman is at least 0.99 in {int((ranks >= 0.99).sum())} of {len(ranks)} cases.",
    )


@check("E04", page=PAGE, **SETTINGS)
def stronger_penalty_slows_the_growth(records: list[Record]) -> Finding:
    """Fit a line to e over t in every run, and rank its slope against gamma."""
    slopes = growth(trace_frame(records)).groupby([*SETTING, "gamma"])["slope"].mean().reset_index()
    ranks = {
        setting: rank_correlation(own["gamma"], own["slope"]) for setting, own in slopes.groupby(SETTING)
    }
    return Finding(
        propositions={
            "the slope falls with gamma, in each setting": all(rank <= -0.8 for rank in ranks.values())
        },
        value=max(ranks.values()),
        value_is=f"largest Spearman of gamma and the mean slope of {len(ranks)} settings",
        reason="Spearman of gamma and the slope is "
        + ", ".join(f"{rank:.2f} ({model} on {data})" for (data, model, *_), rank in ranks.items())
        + ".",
    )


def _falls_to_less_than_half(records: list[Record], model: str) -> Finding:
    rows = after_epochs(records)
    means = rows.groupby("gamma")["e"].mean().sort_index()
    table = cells(rows)
    strongest = table.loc[table["gamma"].idxmax()]
    steps = means.diff().dropna()
    rises = [f"{gamma:g}" for gamma in steps.index[steps >= 0]]
    return Finding(
        propositions={
            "e falls strictly from strength to strength": not rises,
            "at the largest it is less than half of that without": bool(strongest["ratio"] < 0.5),
        },
        value=float(strongest["ratio"]),
        value_is=f"e at gamma = {strongest['gamma']:.3g} over e at 0, geometric mean of {model}'s seeds",
        reason=f"e goes from {means.iloc[0]:.3g} to {means.iloc[-1]:.3g}, to between {strongest['low']:.2f} "
        f"and {strongest['high']:.2f} of it by seed"
        + (f"; it does not fall from the strength before to {', '.join(rises)}." if rises else "."),
    )


@check("E05", page=PAGE, **RESNET)
def table_1_resnet(records: list[Record]) -> Finding:
    """Follow e over the strengths for the residual network."""
    return _falls_to_less_than_half(records, "the ResNet")


@check("E06", page=PAGE, **VGG)
def table_1_vgg(records: list[Record]) -> Finding:
    """Follow e over the strengths for the VGG."""
    return _falls_to_less_than_half(records, "the VGG")


@check("E07", page=PAGE, profile="paper", **TABLE_1)
def baseline_accuracies(records: list[Record]) -> Finding:
    """Compare the accuracy of M_N without the penalty with the printed one."""
    rows = after_epochs(records)
    columns = ["accuracy", "accuracy_pretrained"]
    plain = 100 * rows[rows["gamma"] == 0].groupby("model", sort=False)[columns].mean()
    table = printed_rows("table1")
    printed = 100 * table[table["gamma"] == 0].set_index("model")["accuracy_pretrained"]
    differences = (plain["accuracy_pretrained"] - printed).abs()
    return Finding(
        propositions={
            f"M_N is within 1.5 points of the printed one for {model}": bool(difference <= 1.5)
            for model, difference in differences.items()
        },
        value=float(differences.max()),
        value_is="largest difference from the printed accuracy in points, mean over seeds",
        reason="M_N and the model t steps later have "
        + ", ".join(
            f"{own['accuracy_pretrained']:.1f} and {own['accuracy']:.1f} % ({model})"
            for model, own in plain.iterrows()
        )
        + ".",
    )


@check("E08", page=PAGE, **TABLE_1)
def moderate_penalties_cost_up_to_5_points(records: list[Record]) -> Finding:
    """Look for the largest loss of accuracy among the strengths that the paper calls up to 5."""
    lost = accuracy_loss(after_epochs(records)).reset_index(name="points")
    moderate = lost[up_to(lost["gamma"], 5)]
    worst = moderate.groupby("model", sort=False)["points"].max()
    return Finding(
        propositions={
            f"{model} loses at most 5 points": bool(points <= 5) for model, points in worst.items()
        },
        value=float(worst.max()),
        value_is="largest loss of accuracy after the t steps, in points, mean over seeds",
        reason=f"The paper's 5 is {gamma_from_released(5, 10):.2f} in Eq. 10. Up to it the largest loss is "
        + ", ".join(f"{points:z.1f} points ({model})" for model, points in worst.items())
        + ".",
    )


@check("E09", page=PAGE, **TABLE_1)
def strong_penalties_cost_more(records: list[Record]) -> Finding:
    """Compare the loss of accuracy above and up to the paper's gamma = 5."""
    lost = accuracy_loss(after_epochs(records)).reset_index(name="points")
    strong = ~up_to(lost["gamma"], 5)
    least = lost[strong].groupby("model", sort=False)["points"].min()
    most = lost[~strong].groupby("model", sort=False)["points"].max()
    gaps = least - most
    return Finding(
        propositions={
            f"{model}: every strength above 5 costs more than any up to 5": bool(gap > 0)
            for model, gap in gaps.items()
        },
        value=float(gaps.min()),
        value_is="smallest loss above 5 less the largest up to 5, in points",
        reason="The smallest loss above and the largest up to it are "
        + ", ".join(f"{least[model]:z.1f} and {most[model]:z.1f} points ({model})" for model in gaps.index)
        + ".",
    )


@check("E10", page=PAGE, **TABLE_1)
def accuracy_falls_with_the_strength(records: list[Record]) -> Finding:
    """Rank the mean accuracy against gamma."""
    rows = after_epochs(records)
    means = rows.groupby(["model", "gamma"])[["accuracy", "accuracy_pretrained"]].mean()
    ranks = means.groupby("model").agg(lambda own: rank_correlation(range(len(own)), own))
    return Finding(
        propositions={
            f"it falls for {model}": bool(rank <= -0.9) for model, rank in ranks["accuracy"].items()
        },
        value=float(ranks["accuracy"].max()),
        value_is="largest Spearman of gamma and the accuracy after the t steps, mean over seeds",
        reason="Spearman of gamma and the accuracy after the t steps, that of M_N in brackets, is "
        + ", ".join(
            f"{own['accuracy']:.2f} ({own['accuracy_pretrained']:.2f}) for {model}"
            for model, own in ranks.iterrows()
        )
        + ".",
    )


@check("A01", page=PAGE, **RESNET)
def singular_values_stay(records: list[Record]) -> Finding:
    """Compare the mean of sigma with that at gamma = 0, as defined and with the released root."""
    ratios = sigma_ratios(records)
    ratios = ratios[up_to(ratios.index.get_level_values("gamma"), 15)]
    furthest, rooted = (float((ratios[name] - 1).abs().max()) for name in ("sigma_avg", "rooted"))
    return Finding(
        propositions={"sigma_avg stays within 25 %": furthest <= 0.25},
        value=furthest,
        value_is="largest relative change of sigma_avg, geometric mean over seeds",
        reason=f"Over the strengths up to the paper's 15, sigma_avg is {ratios['sigma_avg'].min():.2f} to "
        f"{ratios['sigma_avg'].max():.2f} times that at gamma = 0. The paper's code averages square roots, "
        f"which halves such changes on a logarithmic scale: there it is {ratios['rooted'].min():.2f} to "
        f"{ratios['rooted'].max():.2f}, at most {100 * rooted:.0f} % away.",
    )


@check("A02", page=PAGE, **RESNET)
def weights_change_less(records: list[Record]) -> Finding:
    """Rank the change in weights against gamma, and compare its ends."""
    (change,) = weight_changes(records).itertuples()
    return Finding(
        propositions={
            "the change in weights falls with gamma": bool(change.rank <= -0.9),
            "at the largest it is less than half of that without": bool(change.ratio < 0.5),
        },
        value=float(change.ratio),
        value_is="change in weights at the largest gamma over that at 0, means over seeds",
        reason=f"Spearman of gamma and the change in weights is {change.rank:.2f}; at the largest gamma "
        f"{change.ratio:.2f} of the change is left.",
    )


@check("A03", page=PAGE, **SETTINGS)
def effect_comes_through_the_weights(records: list[Record]) -> Finding:
    """Split the drop of log e into that of the change in weights and that of sigma_avg."""
    shares = factor_shares(after_epochs(records))
    sums = shares.groupby(["model", "dataset"], sort=False)[["log_e", "log_weight_change"]].sum()
    share = sums["log_weight_change"] / sums["log_e"]
    return Finding(
        propositions={
            f"at least 0.7 of the drop of log e is the weights', for {model} on {data}": bool(
                sums.loc[(model, data), "log_e"] < 0 and own >= 0.7
            )
            for (model, data), own in share.items()
        },
        value=float(share.min()),
        value_is="smallest share of the drop of log e, summed over strengths and seeds, that is the weights'",
        reason="The weights' share is "
        + ", ".join(f"{own:.2f} ({model} on {data})" for (model, data), own in share.items())
        + "; the rest is sigma_avg's, and above 1 sigma_avg works against it.",
    )


@check("K09", page=PAGE, **RESNET)
def error_is_cheaper_than_retraining(records: list[Record]) -> Finding:
    """Count gradients: of e with a sample of sigma every 200 steps, and of training M' from the start."""
    shares, shares_of_t, products = [], [], []
    for record in records:
        run = record.result
        products.append(run["sigma_hvps"] / len(run["sigma"]["step"]))
        samples = math.ceil(run["steps"] / CADENCE)
        gradients = samples * (1 + PER_PRODUCT * products[-1])
        shares.append(gradients / (run["pretrain_steps"] + run["steps"]))
        shares_of_t.append(gradients / run["steps"])
    dearest = max(shares)
    return Finding(
        propositions={"e costs less than a tenth of retraining": dearest < 0.1},
        value=dearest,
        value_is=f"gradients of e over those of retraining, the largest of {len(records)} runs",
        reason=f"A sample takes {sum(products) / len(products):.1f} Hessian-vector products on average, "
        f"counted as {PER_PRODUCT} gradients each. Where M' starts from the same M_N, as in section 8.3, "
        f"only the t steps are repeated, and the largest share of those is {max(shares_of_t):.2g}.",
    )
