"""Section 8.2 and Table 4: what becomes of the SD loss's effect as pre-training grows."""

import numpy as np
import pandas as pd
from scipy import stats

from unrolling.experiments.influence_of_pretraining import cells, fading, printed_rows
from unrolling.experiments.ledger import check
from unrolling.experiments.training_with_sd_loss import (
    SETTING,
    after_epochs,
    rank_correlation,
    relative_to_plain,
    sigma_ratios,
    up_to,
    weight_changes,
)
from unrolling.paper import Finding, replicate_band
from unrolling.store import Record

PAGE = "14_influence_of_pretraining"
RESNET = {"experiment": "influence_of_pretraining", "part": "table4"}
VGG = {"experiment": "influence_of_pretraining", "part": "table4_vgg"}
CIFAR100 = {"experiment": "influence_of_pretraining", "part": "table4_cifar100"}
TABLE_4 = {"experiment": "influence_of_pretraining", "part": ("table4", "table4_vgg", "table4_cifar100")}
OTHERS = {"experiment": "influence_of_pretraining", "part": ("table4_vgg", "table4_cifar100")}


@check("E11", page=PAGE, **TABLE_4)
def strongest_penalty_halves_the_error(records: list[Record]) -> Finding:
    """Compare e at the largest gamma with that at 0, for every setting and N."""
    found, printed = (_at_the_largest_gamma(rows) for rows in (after_epochs(records), printed_rows()))
    half = found["ratio"] < 0.5
    return Finding(
        propositions={"e is less than half of that without, at each N in each setting": bool(half.all())},
        value=float(found["ratio"].max()),
        value_is=f"largest e(gamma) / e(0) of {len(found)} settings and N, geometric mean over seeds",
        reason=f"It is so in {int(half.sum())} of {len(found)} cases. In the paper's own Table 4 it is so in "
        f"{int((printed['ratio'] < 0.5).sum())} of {len(printed)}, and the largest ratio there is "
        f"{printed['ratio'].max():.2f}.",
    )


def _at_the_largest_gamma(rows: pd.DataFrame) -> pd.DataFrame:
    table = cells(rows)
    return table[table["gamma"] == table.groupby(["dataset", "model"])["gamma"].transform("max")]


@check("E18", page=PAGE, profile="paper", **TABLE_4)
def table_4_within_the_replicate_noise(records: list[Record]) -> Finding:
    """Compare every cell of Table 4 with the printed one."""
    rows = after_epochs(records)
    keys = ["dataset", "model", "pretrain_epochs", "strength"]
    units = np.sqrt(rows["num_classes"] * (rows["num_classes"] - 1))
    rows = rows.assign(strength=(rows["gamma"] * units).round(2), log_e=np.log(rows["e"]))
    ours = rows.groupby(keys).agg(
        log_e=("log_e", "mean"), accuracy=("accuracy_pretrained", "mean"), seeds=("seed", "nunique")
    )
    both = printed_rows().set_index(keys).join(ours)
    widths = {seeds: np.log(replicate_band(int(seeds))[1]) for seeds in both["seeds"].unique()}
    within = (both["log_e"] - np.log(both["e"])).abs() <= both["seeds"].map(widths)
    trained = both[both.index.get_level_values("pretrain_epochs") >= 10]
    # The largest gamma is where accuracy collapses, and where it varies most from run to run.
    kept = trained[trained["gamma"] < trained.groupby("dataset")["gamma"].transform("max")]
    points = 100 * (kept["accuracy"] - kept["accuracy_pretrained"]).abs()
    return Finding(
        propositions={
            "e is within the replicate noise in at least 80 % of the cells": bool(within.mean() >= 0.8),
            "the accuracy is within 2 points where N >= 10, below the largest gamma": bool(
                (points <= 2).all()
            ),
        },
        value=float(within.mean()),
        value_is=f"share of {len(both)} cells whose e is within the replicate noise",
        reason=f"e is within the noise in {int(within.sum())} of {len(both)} cells; the accuracy of M_N, "
        f"which the table prints, is within 2 points in {int((points <= 2).sum())} of {len(points)}.",
    )


@check("E19", page=PAGE, experiment="proxy", part="grid")
def results_are_consistent_across_batch_sizes(records: list[Record]) -> Finding:
    """Compare the sign of the effect, and Pearson's correlation of e and v, between batch sizes."""
    rows = after_epochs(records)
    logs = rows.assign(ratio=np.log(relative_to_plain(rows, "e")))
    effects = logs[logs["gamma"] > 0].groupby(["gamma", "batch_size"])["ratio"].mean().unstack()
    pearson = {
        int(size): float(stats.pearsonr(own["e"], own["v"]).statistic)
        for size, own in rows.groupby("batch_size")
    }
    apart = max(abs(value - pearson[32]) for value in pearson.values())
    return Finding(
        propositions={
            "at each gamma, the mean effect on e has one sign": bool(
                (np.sign(effects).nunique(axis=1) == 1).all()
            ),
            "Pearson of e and v has one sign": len({np.sign(value) for value in pearson.values()}) == 1,
            "Pearson of e and v differs by less than 0.15 from that of b = 32": apart < 0.15,
        },
        value=apart,
        value_is="largest difference of Pearson's correlation from that of b = 32",
        reason="Over all models, N, strengths and seeds, Pearson of e and v is "
        + ", ".join(f"{value:.2f} at b = {size}" for size, value in pearson.items())
        + f"; the mean effect on e lies between {np.exp(effects.min().min()):.2f} and "
        f"{np.exp(effects.max().max()):.2f} times.",
    )


@check("A04", page=PAGE, **RESNET)
def figure_8_at_every_amount_of_pretraining(records: list[Record]) -> Finding:
    """Repeat what Figure 8 shows of sigma_avg and of the change in weights, at every N."""
    sigma = sigma_ratios(records)["sigma_avg"].reset_index()
    sigma = sigma[up_to(sigma["gamma"], 15)]
    furthest = (sigma["sigma_avg"] - 1).abs().groupby(sigma["pretrain_epochs"]).max()
    changes = weight_changes(records).droplevel(["dataset", "model", "batch_size"])
    return Finding(
        propositions={
            "sigma_avg stays within 25 %, at each N": bool((furthest <= 0.25).all()),
            "the change in weights falls with gamma, at each N": bool((changes["rank"] <= -0.9).all()),
            "at the largest gamma less than half of it is left, at each N": bool(
                (changes["ratio"] < 0.5).all()
            ),
        },
        value=float(furthest.max()),
        value_is="largest relative change of sigma_avg, geometric mean over seeds",
        reason="; ".join(
            f"N = {n}: sigma_avg up to {100 * furthest[n]:.0f} % away from that at gamma = 0, "
            f"{own['ratio']:.2f} of the change in weights left at the largest gamma"
            for n, own in changes.iterrows()
        )
        + ".",
    )


def _reduction(records: list[Record], pretrain_epochs: int, low: float, high: float) -> Finding:
    table, printed = (
        own[(own["pretrain_epochs"] == pretrain_epochs) & ((own["gamma"] - 0.527).abs() < 0.03)]
        for own in (cells(after_epochs(records)), cells(printed_rows()))
    )
    (cell,) = table.itertuples()  # one network, one data set
    reported = printed.set_index(["dataset", "model"]).loc[("cifar10", "vgg19"), "ratio"]
    return Finding(
        propositions={
            f"e is lower by {100 * low:.0f} to {100 * high:.0f} %": bool(low <= 1 - cell.ratio <= high)
        },
        value=1 - cell.ratio,
        value_is=f"reduction of e at gamma = {cell.gamma:.2f} (Eq. 10), geometric mean of {cell.seeds} seeds",
        reason=f"By seed it is {100 * (1 - cell.high):.0f} to {100 * (1 - cell.low):.0f} %. The printed "
        f"{100 * (1 - reported):.0f} % are a ratio of {reported:.2f}, {_within(reported)} the "
        f"{replicate_band()[0]:.2f} to {replicate_band()[1]:.2f} that two runs of one setting of the paper "
        "may have.",
    )


def _within(ratio: float) -> str:
    low, high = replicate_band()
    return "within" if low <= ratio <= high else "outside"


@check("A05", page=PAGE, **VGG)
def reduction_after_10_epochs(records: list[Record]) -> Finding:
    """Compare e at the paper's gamma = 5 with that at 0 after ten epochs."""
    return _reduction(records, 10, 0.10, 0.30)


@check("A06", page=PAGE, profile="paper", **VGG)
def reduction_after_30_epochs(records: list[Record]) -> Finding:
    """Compare e at the paper's gamma = 5 with that at 0 after thirty epochs."""
    return _reduction(records, 30, -0.10, 0.15)


@check("A07", page=PAGE, **OTHERS)
def effect_diminishes(records: list[Record]) -> Finding:
    """Rank e(gamma) / e(0) against N for every setting and gamma."""
    found = fading(cells(after_epochs(records)))
    printed = printed_rows()
    atypical = (printed["dataset"] == "cifar10") & (printed["model"] == "resnet18")
    reported = fading(cells(printed[~atypical]))
    shares = [float((own["spearman"] > 0).mean()) for own in (found, reported)]
    return Finding(
        propositions={"the effect shrinks in at least 80 % of the pairs": shares[0] >= 0.8},
        value=shares[0],
        value_is=f"share of {len(found)} pairs of setting and gamma where e(gamma) / e(0) rises with N",
        reason=f"It rises in {int((found['spearman'] > 0).sum())} of {len(found)} pairs. In the paper's own "
        f"Table 4 it does in {int((reported['spearman'] > 0).sum())} of {len(reported)}, "
        f"{100 * shares[1]:.0f} %.",
    )


@check("A08", page=PAGE, **RESNET)
def resnet_is_atypical(records: list[Record]) -> Finding:
    """Rank e(gamma) / e(0) against N for the residual network, below the largest strength."""
    ranks = fading(cells(after_epochs(records)))
    ranks = ranks[up_to(ranks["gamma"], 15)]
    return Finding(
        propositions={
            "the effect does not shrink, at any gamma up to 15": bool((ranks["spearman"] <= 0).all())
        },
        value=float(ranks["spearman"].max()),
        value_is="largest Spearman of N and e(gamma) / e(0), geometric mean over seeds",
        reason="Spearman is "
        + ", ".join(f"{row.spearman:.2f} at gamma = {row.gamma:.2f} (Eq. 10)" for row in ranks.itertuples())
        + "; above 0 the effect fades.",
    )


@check("A09", page=PAGE, **TABLE_4)
def weights_move_less_after_more_pretraining(records: list[Record]) -> Finding:
    """Rank the change in weights without the penalty against N."""
    rows = after_epochs(records)
    means = rows[rows["gamma"] == 0].groupby([*SETTING])["weight_change"].mean().reset_index()
    ranks = {
        setting: rank_correlation(own["pretrain_epochs"], own["weight_change"])
        for setting, own in means.groupby(["dataset", "model"])
    }
    return Finding(
        propositions={"w_t is closer to w_0, in each setting": all(rank <= -0.8 for rank in ranks.values())},
        value=max(ranks.values()),
        value_is="largest Spearman of N and ||w_t - w_0|| over settings, means over seeds",
        reason="Spearman is "
        + ", ".join(f"{rank:.2f} ({model} on {data})" for (data, model), rank in ranks.items())
        + ".",
    )


@check("A10", page=PAGE, profile="paper", **CIFAR100)
def effect_diminishes_less_for_the_resnet(records: list[Record]) -> Finding:
    """Compare the rise of e(gamma) / e(0) from 10 to 50 epochs between the two networks."""
    rises, printed = (
        _rises(cells(of_dataset)) for of_dataset in (after_epochs(records), _cifar100(printed_rows()))
    )
    difference = float(rises["vgg19"] - rises["resnet18"])
    return Finding(
        propositions={"the ratio rises less for ResNet-18 than for VGG-19": difference > 0},
        value=difference,
        value_is="median rise of e(gamma) / e(0) for VGG-19 less that for ResNet-18",
        reason=f"The median rises are {rises['resnet18']:.2f} (ResNet-18) and {rises['vgg19']:.2f} (VGG-19); "
        f"in the printed table they are {printed['resnet18']:.2f} and {printed['vgg19']:.2f}.",
    )


def _cifar100(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["dataset"] == "cifar100"]


def _rises(table: pd.DataFrame) -> pd.Series:
    ratios = table.set_index(["model", "gamma", "pretrain_epochs"])["ratio"].unstack()
    return (ratios[50] - ratios[10]).groupby("model").median()
