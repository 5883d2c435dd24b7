"""Sections 8.1 and 8.2: what the SD loss does to e, its factors and the accuracy (Figures 7, 8, Table 1)."""

import math

import numpy as np
import pandas as pd

from unrolling.losses import gamma_from_released
from unrolling.paper import Finding, replicate_band
from unrolling.runs import after_epochs
from unrolling.runs.frames import final_frame, trace_frame
from unrolling.store import Record
from unrolling.studies.decide import (
    Estimate,
    above,
    all_of,
    at_least,
    at_most,
    below,
    each_at_least,
    order,
    over_seeds,
    range_of,
    share_over_seeds,
    within,
)
from unrolling.studies.frames import (
    SETTING,
    accuracy_loss,
    accuracy_losses,
    effects,
    factor_shares,
    plain_value,
    relative_to_plain,
    up_to,
)
from unrolling.studies.influence_of_pretraining.frames import cells
from unrolling.studies.ledger import check
from unrolling.studies.noise import ratio_noise, seed_noise
from unrolling.studies.printed import printed_rows
from unrolling.studies.training_with_sd_loss.frames import growth, sigma_ratios

PAGE = "09_training_with_sd_loss"
#: E01: the share of cells with a lower e, at least.
LOWER_IN = 0.75
#: A01: what sigma_avg may change by.
UNCHANGED = 0.25
#: A03: the weights' share of the drop of log e, at least.
WEIGHTS_SHARE = 0.7
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
    """Count the cells of Table 4 with a lower e than without the penalty, at each N."""
    rows, printed = after_epochs(records), cells(printed_rows())
    penalised = rows.assign(ratio=relative_to_plain(rows, "e_root"), size=relative_to_plain(rows, "e"))
    penalised = penalised[penalised["gamma"] > 0]
    shares = {
        n: share_over_seeds(own["ratio"] < 1, own["seed"], _trainings(own))
        for n, own in penalised.groupby("pretrain_epochs")
    }
    sizes = (penalised["size"] < 1).groupby(penalised["pretrain_epochs"]).mean()
    clear = printed["ratio"] < replicate_band()[0]
    least = _least(shares.values())
    return Finding(
        propositions={
            f"N = {n}: e is lower in at least 75 % of the cells": at_least(share, LOWER_IN)
            for n, share in shares.items()
        },
        value=least.value,
        value_is="smallest share of cells with a lower e, roots of the eigenvalue, of all N; mean over seeds",
        interval=least.interval,
        reason="e is lower in "
        + ", ".join(
            f"{100 * share.value:.0f} % at N = {n} (with the eigenvalue itself {100 * sizes[n]:.0f} %)"
            for n, share in shares.items()
        )
        + " of the cells. In the paper's own Table 4 it is in "
        f"{int((printed['ratio'] < 1).sum())} of {len(printed)}, and in {int(clear.sum())} by more than two "
        "of its runs differ by chance.",
    )


def _trainings(rows: pd.DataFrame) -> list[tuple[str, ...]]:
    """Return what training without the penalty each run is compared with; N is on the way of one."""
    return list(rows[["dataset", "model", "batch_size"]].itertuples(index=False, name=None))


def _least(estimates) -> Estimate:
    return min(estimates, key=lambda own: own.value)


def _most(estimates) -> Estimate:
    return max(estimates, key=lambda own: own.value)


@check("E02", page=PAGE, **TABLE_4)
def penalty_to_accuracy_is_moderate(records: list[Record]) -> Finding:
    """Look for the largest loss of accuracy over all strengths and amounts of pre-training."""
    rows = after_epochs(records)
    lost, before = accuracy_losses(rows), accuracy_loss(rows, "accuracy_pretrained")
    printed = accuracy_loss(printed_rows("table1"), "accuracy_pretrained")
    largest = _most(lost.values())
    moderate = sum(own.value < 3 for own in lost.values())
    return Finding(
        propositions={
            "the accuracy falls by less than 3 points": all_of(below(own, 3) for own in lost.values())
        },
        value=largest.value,
        value_is="largest loss of accuracy after the t steps, in points, mean over seeds",
        interval=largest.interval,
        reason=f"It is so in {moderate} of {len(lost)} cells; the largest loss is {largest.value:z.1f} "
        f"points, and {before.max():z.1f} for M_N, whose accuracy the paper's tables print. In its own "
        f"Table 1 up to {printed.max():.1f} points are lost.",
    )


@check("E03", page=PAGE, **SETTINGS)
def error_grows_with_the_steps(records: list[Record]) -> Finding:
    """Rank e and t in every run."""
    runs = growth(trace_frame(records))
    cases = runs.groupby([*SETTING, "gamma"], sort=False)["spearman"]
    least = _least(range_of(own) for _, own in cases)
    high = int((cases.mean() >= 0.95).sum())
    return Finding(
        propositions={
            "e grows with t at each gamma, in each setting": each_at_least(
                runs["spearman"], cases.ngroup(), 0.95
            )
        },
        value=least.value,
        value_is=f"smallest Spearman of t and e of {len(cases)} settings and strengths, mean over seeds",
        interval=least.interval,
        reason=f"Spearman is at least 0.95 in {high} of {len(cases)} cases, at "
        f"{trace_length(records)} recorded steps.",
    )


def trace_length(records: list[Record]) -> str:
    """Return how many steps the runs recorded."""
    lengths = sorted({len(record.result["trace"]["step"]) for record in records})
    return " or ".join(map(str, lengths))


@check("E04", page=PAGE, **SETTINGS)
def stronger_penalty_slows_the_growth(records: list[Record]) -> Finding:
    """Fit a line to e over t in every run, and rank its slope against gamma."""
    slopes = growth(trace_frame(records))
    ranks = {setting: order(own, "gamma", "slope") for setting, own in slopes.groupby(SETTING)}
    largest = _most(ranks.values())
    return Finding(
        propositions={
            "the slope falls with gamma, in each setting": all_of(
                at_most(rank, -0.8) for rank in ranks.values()
            )
        },
        value=largest.value,
        value_is=f"largest Spearman of gamma and the slope of {len(ranks)} settings, mean over seeds",
        interval=largest.interval,
        reason="Spearman of gamma and the slope is "
        + ", ".join(f"{rank.value:.2f} ({model} on {data})" for (data, model, *_), rank in ranks.items())
        + ".",
    )


def _falls_to_less_than_half(records: list[Record], model: str) -> Finding:
    rows = after_epochs(records)
    means = rows.groupby("gamma")["e_root"].mean().sort_index()
    rank, found = order(rows, "gamma", "e_root"), effects(rows, "e_root")
    strongest = max(found, key=lambda cell: cell[-1])
    left = found[strongest].to(np.exp)
    sizes = cells(rows)
    (size,) = sizes.loc[sizes["gamma"] == strongest[-1], "ratio"]
    steps = means.diff().dropna()
    rises = [f"{gamma:g}" for gamma in steps.index[steps >= 0]]
    return Finding(
        propositions={
            "e falls with gamma": at_most(rank, -0.9),
            "at the largest it is less than half of that without": below(left, 0.5),
        },
        value=left.value,
        value_is=f"e at gamma = {strongest[-1]:.3g} over e at 0, roots of the eigenvalue, geometric mean of "
        f"{model}'s seeds",
        interval=left.interval,
        reason=f"e goes from {means.iloc[0]:.3g} to {means.iloc[-1]:.3g}; with the eigenvalue itself to "
        f"{size:.2g} of it. Spearman of gamma and e is {rank.value:.2f}"
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
    plain = rows[rows["gamma"] == 0].set_index("model")
    table = printed_rows("table1")
    printed = table[table["gamma"] == 0].set_index("model")["accuracy_pretrained"]
    differences = {
        model: over_seeds(
            100 * (own["accuracy_pretrained"] - printed[model]), seed_noise("accuracy_pretrained")
        )
        for model, own in plain.groupby(level="model", sort=False)
    }
    furthest = max(differences.values(), key=lambda own: abs(own.value))
    means = 100 * plain.groupby(level="model", sort=False)[["accuracy", "accuracy_pretrained"]].mean()
    return Finding(
        propositions={
            f"M_N is within 1.5 points of the printed one for {model}": within(difference, -1.5, 1.5)
            for model, difference in differences.items()
        },
        value=furthest.value,
        value_is="largest difference from the printed accuracy in points, mean over seeds",
        interval=furthest.interval,
        reason="M_N and the model t steps later have "
        + ", ".join(
            f"{own['accuracy_pretrained']:.1f} and {own['accuracy']:.1f} % ({model})"
            for model, own in means.iterrows()
        )
        + ".",
    )


@check("E08", page=PAGE, **TABLE_1)
def moderate_penalties_cost_up_to_5_points(records: list[Record]) -> Finding:
    """Look for the largest loss of accuracy among the strengths that the paper calls up to 5."""
    moderate: dict[str, list[Estimate]] = {}
    for (_, model, *_, gamma), lost in accuracy_losses(after_epochs(records)).items():
        if _is_up_to(gamma, 5):
            moderate.setdefault(model, []).append(lost)
    worst = {model: _most(own) for model, own in moderate.items()}
    largest = _most(worst.values())
    return Finding(
        propositions={
            f"{model} loses at most 5 points": all_of(at_most(lost, 5) for lost in own)
            for model, own in moderate.items()
        },
        value=largest.value,
        value_is="largest loss of accuracy after the t steps, in points, mean over seeds",
        interval=largest.interval,
        reason=f"The paper's 5 is {gamma_from_released(5, 10):.2f} in Eq. 10. Up to it the largest loss is "
        + ", ".join(f"{lost.value:z.1f} points ({model})" for model, lost in worst.items())
        + ".",
    )


def _is_up_to(gamma: float, printed: float) -> bool:
    return bool(up_to(pd.Series([gamma]), printed).item())


@check("E09", page=PAGE, **TABLE_1)
def strong_penalties_cost_more(records: list[Record]) -> Finding:
    """Compare the loss of accuracy of each strength above the paper's gamma = 5 with each up to it."""
    rows = after_epochs(records)
    rows = rows.assign(lost=100 * (plain_value(rows, "accuracy") - rows["accuracy"]))
    gaps, told = {}, []
    for model, own in rows[rows["gamma"] > 0].groupby("model", sort=False):
        lost = own.pivot(index="seed", columns="gamma", values="lost")
        mild = up_to(lost.columns.to_series(), 5)
        gaps[model] = [
            over_seeds(lost[strong] - lost[weak], ratio_noise("accuracy"))
            for strong in lost.columns[~mild]
            for weak in lost.columns[mild]
        ]
        least, most = lost.mean()[~mild].min(), lost.mean()[mild].max()
        told.append(f"{least:z.1f} and {most:z.1f} points ({model})")
    smallest = _least(_least(own) for own in gaps.values())
    return Finding(
        propositions={
            f"{model}: every strength above 5 costs more than any up to 5": all_of(
                above(gap, 0) for gap in own
            )
            for model, own in gaps.items()
        },
        value=smallest.value,
        value_is="smallest loss above 5 less the largest up to 5, in points",
        interval=smallest.interval,
        reason=f"The smallest loss above and the largest up to it are {', '.join(told)}.",
    )


@check("E10", page=PAGE, **TABLE_1)
def accuracy_falls_with_the_strength(records: list[Record]) -> Finding:
    """Rank the accuracy against gamma."""
    ranks = {
        model: [order(own, "gamma", column) for column in ("accuracy", "accuracy_pretrained")]
        for model, own in after_epochs(records).groupby("model")
    }
    largest = _most(after for after, _ in ranks.values())
    return Finding(
        propositions={f"it falls for {model}": at_most(after, -0.9) for model, (after, _) in ranks.items()},
        value=largest.value,
        value_is="largest Spearman of gamma and the accuracy after the t steps, mean over seeds",
        interval=largest.interval,
        reason="Spearman of gamma and the accuracy after the t steps, that of M_N in brackets, is "
        + ", ".join(
            f"{after.value:.2f} ({before.value:.2f}) for {model}" for model, (after, before) in ranks.items()
        )
        + ".",
    )


@check("A01", page=PAGE, **RESNET)
def singular_values_stay(records: list[Record]) -> Finding:
    """Compare the mean of sigma with that at gamma = 0, with the released root and as defined."""
    ratios = sigma_ratios(records)
    ratios = ratios[up_to(ratios.index.get_level_values("gamma"), 15)]
    found = [
        own for cell, own in effects(final_frame(records), "sigma_root").items() if _is_up_to(cell[-1], 15)
    ]
    furthest = max(found, key=lambda own: abs(math.expm1(own.value))).to(np.expm1)
    size = float((ratios["sigma_avg"] - 1).abs().max())
    return Finding(
        propositions={"sigma_avg stays within 25 %": all_of(stays(own) for own in found)},
        value=furthest.value,
        value_is="largest relative change of sigma_avg, roots of the eigenvalue, geometric mean over seeds",
        interval=furthest.interval,
        reason="The paper's code averages square roots: over the strengths up to its 15 that mean is "
        f"{ratios['rooted'].min():.2f} to {ratios['rooted'].max():.2f} times that at gamma = 0. The mean of "
        f"the eigenvalue itself is {ratios['sigma_avg'].min():.2f} to {ratios['sigma_avg'].max():.2f} times "
        f"that, up to {100 * size:.0f} % away: the root halves such changes on a logarithmic scale.",
    )


def stays(change: Estimate) -> bool | None:
    """Return whether a ratio, of which this is the logarithm, is within 25 % of 1."""
    return within(change.to(np.exp), 1 - UNCHANGED, 1 + UNCHANGED)


@check("A02", page=PAGE, **RESNET)
def weights_change_less(records: list[Record]) -> Finding:
    """Rank the change in weights against gamma, and compare its ends."""
    rows = final_frame(records)
    rank, found = order(rows, "gamma", "weight_change"), effects(rows, "weight_change")
    left = found[max(found, key=lambda cell: cell[-1])].to(np.exp)
    return Finding(
        propositions={
            "the change in weights falls with gamma": at_most(rank, -0.9),
            "at the largest it is less than half of that without": below(left, 0.5),
        },
        value=left.value,
        value_is="change in weights at the largest gamma over that at 0, geometric mean over seeds",
        interval=left.interval,
        reason=f"Spearman of gamma and the change in weights is {rank.value:.2f}; at the largest gamma "
        f"{left.value:.2f} of the change is left.",
    )


@check("A03", page=PAGE, **SETTINGS)
def effect_comes_through_the_weights(records: list[Record]) -> Finding:
    """Split the drop of log e into that of the change in weights and that of sigma_avg."""
    rows = after_epochs(records)
    drops, shares = _weights_share(factor_shares(rows, e="e_root", sigma="sigma_root"))
    _, sizes = _weights_share(factor_shares(rows))
    least = _least(shares.values())
    return Finding(
        propositions={
            f"at least 0.7 of the drop of log e is the weights', for {model} on {data}": all_of(
                [below(drops[model, data], 0), at_least(share, WEIGHTS_SHARE)]
            )
            for (model, data), share in shares.items()
        },
        value=least.value,
        value_is="smallest share of the drop of log e, roots of the eigenvalue, that is the weights'; summed "
        "over strengths, mean over seeds",
        interval=least.interval,
        reason="The weights' share is "
        + ", ".join(
            f"{share.value:.2f} ({model} on {data}; with the eigenvalue itself "
            f"{sizes[model, data].value:.2f})"
            for (model, data), share in shares.items()
        )
        + "; the rest is sigma_avg's, and above 1 sigma_avg works against it.",
    )


def _weights_share(shares: pd.DataFrame) -> tuple[dict[tuple, Estimate], dict[tuple, Estimate]]:
    """Return the mean drop of log e, and the weights' share of it, by model and data set."""
    drops, found = {}, {}
    for key, own in shares.groupby(["model", "dataset"], sort=False):
        means = own.groupby("seed")[["log_e", "log_weight_change"]].mean()
        drops[key] = over_seeds(means["log_e"], ratio_noise("e_root"))
        # By first order at a share of 0.7 of what the two factors, which make e, vary by themselves.
        noise = math.hypot(0.3 * ratio_noise("weight_change"), 0.7 * ratio_noise("sigma_root"))
        share = means["log_weight_change"] / means["log_e"]
        found[key] = over_seeds(share, noise / abs(drops[key].value or 1))
    return drops, found


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
