"""Section 8.2 and Table 4: what becomes of the SD loss's effect as pre-training grows."""

import numpy as np
import pandas as pd
from scipy import stats

from unrolling.metrics.association import correlate
from unrolling.paper import Finding, NotTestable, replicate_band
from unrolling.runs import after_epochs
from unrolling.runs.frames import final_frame
from unrolling.store import Record
from unrolling.studies.decide import (
    ENOUGH_SEEDS,
    Estimate,
    above,
    agree,
    all_of,
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
from unrolling.studies.frames import TRAJECTORY, effects, labels, relative_to_plain, up_to
from unrolling.studies.influence_of_pretraining.frames import cells, fading
from unrolling.studies.ledger import check
from unrolling.studies.noise import ratio_noise, seed_noise
from unrolling.studies.printed import printed_rows
from unrolling.studies.training_with_sd_loss.claims import stays
from unrolling.studies.training_with_sd_loss.frames import sigma_ratios, weight_changes

PAGE = "10_influence_of_pretraining"
#: E11: what the largest strength leaves of e, less than.
HALF = 0.5
RESNET = {"experiment": "influence_of_pretraining", "part": "table4"}
VGG = {"experiment": "influence_of_pretraining", "part": "table4_vgg"}
CIFAR100 = {"experiment": "influence_of_pretraining", "part": "table4_cifar100"}
TABLE_4 = {"experiment": "influence_of_pretraining", "part": ("table4", "table4_vgg", "table4_cifar100")}
OTHERS = {"experiment": "influence_of_pretraining", "part": ("table4_vgg", "table4_cifar100")}


@check("E11", page=PAGE, **TABLE_4)
def strongest_penalty_halves_the_error(records: list[Record]) -> Finding:
    """Compare e at the largest gamma with that at 0, for every setting and N."""
    rows = after_epochs(records)
    found = _at_the_largest_gamma(effects(rows, "e_root"))
    sizes = _at_the_largest_gamma(effects(rows, "e"))
    printed = _at_the_largest_gamma(effects(printed_rows(), "e"))
    largest = max(found, key=lambda own: own.value)
    return Finding(
        propositions={
            "e is less than half of that without, at each N in each setting": all_of(
                below(own, HALF) for own in found
            )
        },
        value=largest.value,
        value_is=f"largest e(gamma) / e(0) of {len(found)} settings and N, roots of the eigenvalue, "
        "geometric "
        "mean over seeds",
        interval=largest.interval,
        reason=f"It is so in {sum(own.value < 0.5 for own in found)} of {len(found)} cases, with the "
        f"eigenvalue itself in {sum(own.value < 0.5 for own in sizes)}. In the paper's own Table 4 it is so "
        "in "
        f"{sum(own.value < 0.5 for own in printed)} of {len(printed)}, and the largest ratio there is "
        f"{max(own.value for own in printed):.2f}.",
    )


def _at_the_largest_gamma(found: dict[tuple, Estimate]) -> list[Estimate]:
    """Return the ratios to gamma = 0 of each setting and N at the largest gamma of its data set and model."""
    largest: dict[tuple, float] = {}
    for cell in found:
        largest[cell[:2]] = max(cell[-1], largest.get(cell[:2], 0.0))
    return [own.to(np.exp) for cell, own in found.items() if cell[-1] == largest[cell[:2]]]


@check("E18", page=PAGE, profile="paper", **TABLE_4)
def table_4_within_the_replicate_noise(records: list[Record]) -> Finding:
    """Compare every cell of Table 4 with the printed one, e with the square root that was printed."""
    rows = after_epochs(records)
    keys = ["dataset", "model", "pretrain_epochs", "strength"]
    units = np.sqrt(rows["num_classes"] * (rows["num_classes"] - 1))
    logs = np.log(rows[["e", "e_root"]]).add_prefix("log_")
    rows = rows.assign(strength=(rows["gamma"] * units).round(2)).join(logs)
    ours = rows.groupby(keys).agg(
        log_e=("log_e", "mean"), log_e_root=("log_e_root", "mean"), seeds=("seed", "nunique")
    )
    both = printed_rows().set_index(keys).join(ours)
    widths = {seeds: np.log(replicate_band(int(seeds))[1]) for seeds in both["seeds"].unique()}
    agrees, agrees_size = (
        (both[column] - np.log(both["e"])).abs() <= both["seeds"].map(widths)
        for column in ("log_e_root", "log_e")
    )
    trained = both[both.index.get_level_values("pretrain_epochs") >= 10]
    # The largest gamma is where accuracy collapses, and where it varies most from run to run.
    kept = trained[trained["gamma"] < trained.groupby("dataset")["gamma"].transform("max")]
    runs = rows.set_index(keys)["accuracy_pretrained"]
    points = [
        over_seeds(100 * (runs.loc[[cell]] - printed), seed_noise("accuracy_pretrained"))
        for cell, printed in kept["accuracy_pretrained"].items()
    ]
    near = agrees.to_numpy(dtype=float)
    trajectories = both.reset_index()[["dataset", "model", "strength"]].itertuples(index=False, name=None)
    share = bootstrap(lambda taken: float(np.average(near, weights=taken)), list(trajectories))
    close = sum(abs(own.value) <= 2 for own in points)
    return Finding(
        propositions={
            "e is within the replicate noise in at least 80 % of the cells": at_least(share, 0.8),
            "the accuracy is within 2 points where N >= 10, below the largest gamma": all_of(
                within(own, -2, 2) for own in points
            ),
        },
        value=share.value,
        value_is=f"share of {len(both)} cells whose e, roots of the eigenvalue, is within the replicate "
        "noise",
        interval=share.interval,
        reason=f"e is within the noise in {int(agrees.sum())} of {len(both)} cells, with the eigenvalue "
        f"itself in {int(agrees_size.sum())}; the accuracy of M_N, which the table prints, is within 2 "
        f"points in {close} of {len(points)}. The interval of the share is a bootstrap over the trainings.",
    )


#: Samples of sigma in an epoch below which a batch size says more about its short epoch than about itself.
ENOUGH_SAMPLES = 5


@check("E19", page=PAGE, experiment="proxy", part="grid")
def results_are_consistent_across_batch_sizes(records: list[Record]) -> Finding | NotTestable:
    """Compare the sign of the effect, and Pearson's correlation of e and v, between batch sizes."""
    counts: dict[int, int] = {}
    for record in records:
        sampled = sum(step < record.result["steps_per_epoch"] for step in record.result["sigma"]["step"])
        size = int(record.config["batch_size"])
        counts[size] = min(sampled, counts.get(size, sampled))
    every = after_epochs(records)
    rows = every[every["batch_size"].map(counts) >= ENOUGH_SAMPLES]
    if not {32} < set(rows["batch_size"]):
        return NotTestable(
            f"An epoch has {ENOUGH_SAMPLES} samples of sigma at too few batch sizes to compare b = 32 with: "
            f"{counts}."
        )
    logs = rows.assign(ratio=np.log(relative_to_plain(rows, "e")))
    one_sign = []
    for _, own in logs[logs["gamma"] > 0].groupby(["gamma", "pretrain_epochs"]):
        means = own.groupby(["batch_size", "seed"])["ratio"].mean().groupby("batch_size")
        one_sign.append(_same_sign([over_seeds(of_size, ratio_noise("e")) for _, of_size in means]))
    pearson = {int(size): _pearson(own) for size, own in rows.groupby("batch_size")}
    seeds = rows.groupby(["batch_size", "seed"])[["e", "v"]].apply(lambda own: own["e"].corr(own["v"]))
    apart = {size: over_seeds((seeds[size] - seeds[32]).to_numpy()) for size in pearson if size != 32}
    furthest = max(apart.values(), key=lambda own: abs(own.value))
    left_out = {int(size): float(own["e"].corr(own["v"])) for size, own in every.groupby("batch_size")}
    return Finding(
        propositions={
            "at each gamma and N, the mean effect on e has one sign": all_of(one_sign),
            "Pearson of e and v has one sign": _same_sign(list(pearson.values())),
            "Pearson of e and v differs by less than 0.15 from that of b = 32": all_of(
                within(own, -0.15, 0.15) for own in apart.values()
            ),
        },
        value=furthest.value,
        value_is="largest difference of Pearson's correlation from that of b = 32, mean over seeds",
        interval=furthest.interval,
        reason="Of one seed, over all models, N and strengths, Pearson of e and v is "
        + ", ".join(f"{own.value:.2f} at b = {size}" for size, own in pearson.items())
        + f"; the effect on e has one sign for all of them at {one_sign.count(True)} of {len(one_sign)} "
        "gamma "
        f"and N, different ones at {one_sign.count(False)}. "
        + _left_out({size: value for size, value in left_out.items() if size not in pearson}, counts),
    )


def _left_out(values: dict[int, float], counts: dict[int, int]) -> str:
    told = "; ".join(
        f"b = {size} with {counts[size]} ({value:.2f} over all its runs)" for size, value in values.items()
    )
    return f"A batch size with fewer than {ENOUGH_SAMPLES} samples of sigma in the epoch does not count: " + (
        f"{told}." if told else "here all have more."
    )


def _same_sign(estimates: list[Estimate]) -> bool | None:
    """Return whether numbers have one sign: False if two have opposite ones, None if one may be either."""
    signs = {above(own, 0) for own in estimates}
    return False if {True, False} <= signs else None if None in signs else True


def _pearson(rows: pd.DataFrame) -> Estimate:
    """Return Pearson's correlation of e and v, mean over seeds."""
    if rows["seed"].nunique() >= ENOUGH_SEEDS:
        return correlation_over_seeds([own["e"].corr(own["v"]) for _, own in rows.groupby("seed")])
    trajectories = labels(rows, TRAJECTORY)
    if len(set(trajectories)) < 3:
        return Estimate(float(rows["e"].corr(rows["v"])))
    return of_correlation(correlate(rows["e"], rows["v"], clusters=trajectories))


@check("A04", page=PAGE, **RESNET)
def figure_8_at_every_amount_of_pretraining(records: list[Record]) -> Finding:
    """Repeat what Figure 8 shows of sigma_avg and of the change in weights, at every N."""
    rows = final_frame(records)
    sigma = sigma_ratios(records).reset_index()
    sigma = sigma[up_to(sigma["gamma"], 15)]
    furthest, furthest_size = (
        (sigma[column] - 1).abs().groupby(sigma["pretrain_epochs"]).max()
        for column in ("rooted", "sigma_avg")
    )
    moderate = set(sigma["gamma"])
    changes = weight_changes(records).droplevel(["dataset", "model", "batch_size"])
    roots = [own for cell, own in effects(rows, "sigma_root").items() if cell[-1] in moderate]
    weights = effects(rows, "weight_change")
    strongest = max(cell[-1] for cell in weights)
    falls = [order(own, "gamma", "weight_change") for _, own in rows.groupby("pretrain_epochs")]
    worst = max(roots, key=lambda own: abs(np.expm1(own.value))).to(np.expm1)
    return Finding(
        propositions={
            "sigma_avg stays within 25 %, at each N": all_of(stays(own) for own in roots),
            "the change in weights falls with gamma, at each N": all_of(
                at_most(rank, -0.9) for rank in falls
            ),
            "at the largest gamma less than half of it is left, at each N": all_of(
                below(own.to(np.exp), 0.5) for cell, own in weights.items() if cell[-1] == strongest
            ),
        },
        value=worst.value,
        value_is="largest relative change of sigma_avg, roots of the eigenvalue, geometric mean over seeds",
        interval=worst.interval,
        reason="; ".join(
            f"N = {n}: sigma_avg up to {100 * furthest[n]:.0f} % away from that at gamma = 0 (with the "
            f"eigenvalue itself {100 * furthest_size[n]:.0f} %), {own['ratio']:.2f} of the change in weights "
            "left at the largest gamma"
            for n, own in changes.iterrows()
        )
        + ".",
    )


def _reduction(records: list[Record], pretrain_epochs: int, low: float, high: float) -> Finding:
    rows = after_epochs(records)
    (left,), (size,), reported = (
        [
            own.to(np.exp)
            for (data, model, n, _, gamma), own in effects(of, column).items()
            if n == pretrain_epochs and abs(gamma - 0.527) < 0.03 and (own_only or (data, model) == PRINTED)
        ]
        for of, column, own_only in ((rows, "e_root", True), (rows, "e", True), (printed_rows(), "e", False))
    )
    reported = reported[0].value
    reduction = left.to(lambda ratio: 1 - ratio)
    return Finding(
        propositions={f"e is lower by {100 * low:.0f} to {100 * high:.0f} %": within(reduction, low, high)},
        value=reduction.value,
        value_is="reduction of e at the paper's gamma = 5, roots of the eigenvalue, geometric mean over "
        "seeds",
        interval=reduction.interval,
        reason=f"With the eigenvalue itself it is {100 * (1 - size.value):.0f} %. The printed "
        f"{100 * (1 - reported):.0f} % are a ratio of {reported:.2f}, {_within(reported)} the "
        f"{replicate_band()[0]:.2f} to {replicate_band()[1]:.2f} that two runs of one setting of the paper "
        "may have.",
    )


#: The network and the data of the two printed reductions.
PRINTED = ("cifar10", "vgg19")


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
    ranks, sizes = _fading_by_seed(records, "e_root"), _fading_by_seed(records, "e")
    printed = printed_rows()
    atypical = (printed["dataset"] == "cifar10") & (printed["model"] == "resnet18")
    reported = fading(cells(printed[~atypical]))["spearman"] > 0
    share = share_over_seeds(ranks["spearman"] > 0, ranks["seed"], labels(ranks, ["dataset", "model"]))
    return Finding(
        propositions={"the effect shrinks in at least 80 % of the pairs": at_least(share, 0.8)},
        value=share.value,
        value_is="share of pairs of setting and gamma where e(gamma) / e(0), roots of the eigenvalue, rises "
        "with N, mean over seeds",
        interval=share.interval,
        reason=f"With the eigenvalue itself it rises in {100 * (sizes['spearman'] > 0).mean():.0f} %. In the "
        f"paper's own Table 4 it does in {int(reported.sum())} of {len(reported)}, "
        f"{100 * reported.mean():.0f} %.",
    )


def _fading_by_seed(records: list[Record], column: str) -> pd.DataFrame:
    """Return :func:`fading` of each seed, with the seed as a column."""
    rows = after_epochs(records)
    return pd.concat(
        [fading(cells(own, column)).assign(seed=seed) for seed, own in rows.groupby("seed")],
        ignore_index=True,
    )


@check("A08", page=PAGE, **RESNET)
def resnet_is_atypical(records: list[Record]) -> Finding:
    """Rank e(gamma) / e(0) against N for the residual network, below the largest strength."""
    ranks, sizes = (
        own[up_to(own["gamma"], 15)].groupby("gamma")["spearman"]
        for own in (_fading_by_seed(records, column) for column in ("e_root", "e"))
    )
    found = {gamma: range_of(own) for gamma, own in ranks}
    largest = max(found.values(), key=lambda own: own.value)
    if ranks.size().min() >= ENOUGH_SEEDS:
        held = all_of(at_most(own, 0) for own in found.values())
    else:
        held = agree([1 + own.value for own in found.values()], 1)
    return Finding(
        propositions={"the effect does not shrink, at any gamma up to 15": held},
        value=largest.value,
        value_is="largest Spearman of N and e(gamma) / e(0), roots of the eigenvalue, mean over seeds",
        interval=largest.interval,
        reason="Spearman, with the eigenvalue itself in brackets, is "
        + ", ".join(
            f"{own.value:.2f} ({sizes.mean()[gamma]:.2f}) at gamma = {gamma:.2f} (Eq. 10)"
            for gamma, own in found.items()
        )
        + "; above 0 the effect fades.",
    )


@check("A09", page=PAGE, **TABLE_4)
def weights_move_less_after_more_pretraining(records: list[Record]) -> Finding:
    """Rank the change in weights without the penalty against N."""
    rows = after_epochs(records)
    ranks = {
        setting: range_of(
            [
                float(stats.spearmanr(run["pretrain_epochs"], run["weight_change"]).statistic)
                for _, run in own.groupby("seed")
            ]
        )
        for setting, own in rows[rows["gamma"] == 0].groupby(["dataset", "model"])
    }
    largest = max(ranks.values(), key=lambda own: own.value)
    if rows["seed"].nunique() >= ENOUGH_SEEDS:
        held = all_of(at_most(rank, -0.8) for rank in ranks.values())
    else:
        held = agree([1 + rank.value for rank in ranks.values()], 0.2)
    return Finding(
        propositions={"w_t is closer to w_0, in each setting": held},
        value=largest.value,
        value_is="largest Spearman of N and ||w_t - w_0|| over settings, mean over seeds",
        interval=largest.interval,
        reason="Spearman is "
        + ", ".join(f"{rank.value:.2f} ({model} on {data})" for (data, model), rank in ranks.items())
        + ".",
    )


@check("A10", page=PAGE, profile="paper", **CIFAR100)
def effect_diminishes_less_for_the_resnet(records: list[Record]) -> Finding:
    """Compare the rise of e(gamma) / e(0) from 10 to 50 epochs between the two networks."""
    rows = after_epochs(records)
    rises, sizes, printed = (
        _rises(cells(of, column))
        for of, column in ((rows, "e_root"), (rows, "e"), (_cifar100(printed_rows()), "e"))
    )
    medians = rises.median()
    if rows["seed"].nunique() >= ENOUGH_SEEDS:
        by_seed = [_rises(cells(own, "e_root")).median() for _, own in rows.groupby("seed")]
        difference = over_seeds([own["vgg19"] - own["resnet18"] for own in by_seed])
    else:
        table = rises.to_numpy()

        def apart(taken: np.ndarray) -> float:
            drawn = np.median(np.repeat(table, taken.astype(int), axis=0), axis=0)
            return float(drawn[list(rises).index("vgg19")] - drawn[list(rises).index("resnet18")])

        difference = bootstrap(apart, list(rises.index))
    return Finding(
        propositions={"the ratio rises less for ResNet-18 than for VGG-19": above(difference, 0)},
        value=difference.value,
        value_is="median rise of e(gamma) / e(0), roots of the eigenvalue, for VGG-19 less that for "
        "ResNet-18",
        interval=difference.interval,
        reason=f"The median rises are {medians['resnet18']:.2f} (ResNet-18) and {medians['vgg19']:.2f} "
        f"(VGG-19), with the eigenvalue itself {sizes.median()['resnet18']:.2f} and "
        f"{sizes.median()['vgg19']:.2f}; in the printed table they are {printed.median()['resnet18']:.2f} "
        "and "
        f"{printed.median()['vgg19']:.2f}.",
    )


def _cifar100(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["dataset"] == "cifar100"]


def _rises(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rise of the ratio from 10 to 50 epochs, a row for each gamma and a column for each model."""
    ratios = table.set_index(["gamma", "model", "pretrain_epochs"])["ratio"].unstack()
    return (ratios[50] - ratios[10]).unstack("model")
