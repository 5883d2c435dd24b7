"""Section 8.3: whether e is a proxy of v, over steps, strengths and settings (Figures 9, 11, 12)."""

import numpy as np
import pandas as pd
from scipy import stats

from unrolling.experiments.collect import trace_frame
from unrolling.experiments.ledger import check
from unrolling.experiments.proxy import (
    CHECKPOINT,
    SETTING,
    after_epochs,
    against_plain,
    concordance,
    concordance_within,
    labels,
    mean_correlation,
    over_steps,
    seed_means,
    straightness,
    t_interval,
    within,
)
from unrolling.experiments.unlearning_error import reach
from unrolling.metrics.association import compare_correlations, correlate
from unrolling.paper import Finding
from unrolling.store import Record

PAGE = "07_proxy"
STEPS = {"page": PAGE, "experiment": "proxy", "part": "steps"}
STRENGTH = {"page": PAGE, "experiment": "proxy", "part": "strength"}
GRID = {"page": PAGE, "experiment": "proxy", "part": "grid"}
FACTORS = {"weight_change": "||w_t - w_0||", "sigma_avg": "sigma_avg", "step": "t"}


# Figure 9: over the steps


def correlate_over_steps(records: list[Record], pretrain_epochs: int) -> Finding:
    """Decide one panel of Figure 9."""
    runs = over_steps(trace_frame(records))
    own = runs[runs["pretrain_epochs"] == pretrain_epochs]
    mean, low, high = mean_correlation(own["raw"])
    return Finding(
        propositions={"Pearson's correlation is at least 0.9, mean over seeds": mean >= 0.9},
        value=mean,
        value_is=f"Pearson's correlation of e and v over the steps, mean over {len(own)} seeds, N = "
        f"{pretrain_epochs} epochs",
        interval=(low, high) if len(own) > 1 else None,
        reason=f"t alone has {mean_correlation(own['steps_v'])[0]:.2f} with v. Given t, "
        f"{mean_correlation(own['given_steps'])[0]:.2f} is left of the correlation of e and v; their changes "
        f"from record to record have {mean_correlation(own['increments'])[0]:.2f}.",
    )


@check("V01", **STEPS)
def errors_correlate_over_steps_without_pretraining(records: list[Record]) -> Finding:
    """Correlate e and v over the recorded steps of the runs with the shortest pre-training, none."""
    return correlate_over_steps(records, min(record.config["pretrain_epochs"] for record in records))


@check("V02", **STEPS)
def errors_correlate_over_steps_after_pretraining(records: list[Record]) -> Finding:
    """Correlate e and v over the recorded steps of the runs with the longest pre-training."""
    return correlate_over_steps(records, max(record.config["pretrain_epochs"] for record in records))


@check("V03", **STEPS)
def both_errors_grow_with_the_steps(records: list[Record]) -> Finding:
    """Rank e and v over the recorded steps of each run."""
    panels = over_steps(trace_frame(records)).groupby("pretrain_epochs")
    means = panels[["rank_e", "rank_v"]].mean()
    given = {n: mean_correlation(own["given_steps"])[0] for n, own in panels}
    e, v = means["rank_e"], means["rank_v"]
    return Finding(
        propositions={
            "e rises with t in both panels": bool((e >= 0.95).all()),
            "v rises with t in both panels": bool((v >= 0.95).all()),
        },
        value=float(min(e.min(), v.min())),
        value_is="smallest rank correlation with t, mean over seeds",
        reason=f"The rank correlation with t is at least {e.min():.2f} for e and {v.min():.2f} for v. What "
        "both owe to t is no evidence that one stands for the other: given t their correlation is "
        + " and ".join(f"{value:.2f} (N = {n})" for n, value in given.items())
        + ".",
    )


# Figure 11: over the strengths


def family(records: list[Record], name: str) -> pd.DataFrame:
    """Return the runs of one family of networks after one epoch."""
    return after_epochs([record for record in records if record.config["model"].startswith(name)])


def correlate_over_strengths(points: pd.DataFrame, least: float) -> Finding:
    """Decide one panel of Figure 11, or Figure 10, from the runs of one setting after one epoch."""
    means = seed_means(points, ["e", "v"])
    found = correlate(means["e"], means["v"])
    seeds = [correlate(own["e"], own["v"]).value for _, own in points.groupby("seed")]
    return Finding(
        propositions={f"Pearson's correlation of the seed means is at least {least:g}": found.value >= least},
        value=found.value,
        value_is=f"Pearson's correlation over {found.count} strengths, means over {len(seeds)} seeds",
        interval=(found.low, found.high),
        reason=f"In single seeds it lies between {min(seeds):.2f} and {max(seeds):.2f}. A correlation of "
        f"{found.count} points is known poorly, whatever its value; its bootstrap interval is a rough one.",
    )


@check("V04", **STRENGTH)
def errors_correlate_over_strengths_for_resnet(records: list[Record]) -> Finding:
    """Correlate e and v over the strengths after one epoch, for the ResNet."""
    return correlate_over_strengths(family(records, "resnet"), 0.9)


@check("V05", **STRENGTH)
def errors_correlate_over_strengths_for_vgg(records: list[Record]) -> Finding:
    """Correlate e and v over the strengths after one epoch, for the VGG."""
    return correlate_over_strengths(family(records, "vgg"), 0.6)


@check("V07", **STRENGTH)
def both_errors_are_small_at_the_largest_strength(records: list[Record]) -> Finding:
    """Compare e and v at the largest strength with those at 0, after one epoch."""
    means = seed_means(after_epochs(records), ["e", "v"]).set_index(["model", "gamma"])[["e", "v"]]
    largest = means.index.get_level_values("gamma").max()
    ratios = means.xs(largest, level="gamma") / means.xs(0.0, level="gamma")
    return Finding(
        propositions={
            f"{name} at the largest strength is below half of that at 0, for each model": bool(
                (ratios[name] < 0.5).all()
            )
            for name in ("e", "v")
        },
        value=float(ratios.max().max()),
        value_is=f"largest ratio of gamma = {largest:g} to 0, e or v, of {len(ratios)} models",
        reason="; ".join(
            f"{model}: e falls to {row['e']:.2f} of its value at 0, v to {row['v']:.2f}"
            for model, row in ratios.iterrows()
        )
        + ".",
    )


# Figure 12: over settings


def correlate_over_settings(records: list[Record], least: float, least_low: float) -> Finding:
    """Decide one panel of Figure 12."""
    points = after_epochs(records)
    found = correlate(points["e"], points["v"], clusters=labels(points, CHECKPOINT))
    inside = within(points, ["e", "v"], CHECKPOINT)
    left = correlate(inside["e"], inside["v"], clusters=labels(inside, CHECKPOINT))
    clusters = points.groupby(CHECKPOINT).ngroups
    return Finding(
        propositions={
            f"Pearson's correlation is at least {least:g}": found.value >= least,
            f"the lower end of its clustered interval is at least {least_low:g}": found.low >= least_low,
        },
        value=found.value,
        value_is=f"Pearson's correlation over {points.groupby([*SETTING, 'gamma']).ngroups} settings and "
        f"{points['seed'].nunique()} seeds, after one epoch",
        interval=(found.low, found.high),
        reason=f"The interval takes {clusters} clusters of one model and N. Between points of one cluster "
        f"{left.value:.2f} [{left.low:.2f}, {left.high:.2f}] is left, on logarithms.",
    )


@check("V08", **GRID)
def errors_correlate_over_settings(records: list[Record]) -> Finding:
    """Correlate e and v over all settings, with an interval over clusters of one model and N."""
    return correlate_over_settings(records, 0.8, 0.6)


@check("V09", **(GRID | {"part": "grid_cifar100"}), profile="paper")
def errors_correlate_over_settings_of_the_harder_data(records: list[Record]) -> Finding:
    """The same for CIFAR-100."""
    return correlate_over_settings(records, 0.75, 0.5)


@check("V10", **GRID)
def relation_is_almost_linear(records: list[Record]) -> Finding:
    """Fit a line and a parabola to v over e, on the axes of Figure 12."""
    points = after_epochs(records)
    r_squared, gain = straightness(points["e"], points["v"])
    slope = float(np.polyfit(np.log(points["e"]), np.log(points["v"]), 1)[0])
    return Finding(
        propositions={
            "R^2 of the straight line is at least 0.75": r_squared >= 0.75,
            "a quadratic term adds at most 0.05 to the adjusted R^2": gain <= 0.05,
        },
        value=r_squared,
        value_is=f"R^2 of a straight line through {len(points)} points",
        reason=f"A quadratic term adds {gain:.2f} to the adjusted R^2. On logarithmic axes the slope is "
        f"{slope:.2f}, where v proportional to e would have 1.",
    )


@check("V11", **GRID)
def penalised_models_have_lower_errors(records: list[Record]) -> Finding:
    """Compare each setting's runs with a penalty with those without, and test the sign over settings."""
    points = after_epochs(records)
    logs = {name: against_plain(points, name) for name in ("e", "v")}
    tests = {name: stats.wilcoxon(log).pvalue for name, log in logs.items()}
    ratios = {name: float(np.exp(log.median())) for name, log in logs.items()}
    lower = {name: int((log < 0).sum()) for name, log in logs.items()}
    return Finding(
        propositions={
            f"{name} is lower with the SD loss, Wilcoxon p < 0.05": bool(
                ratios[name] < 1 and tests[name] < 0.05
            )
            for name in ("e", "v")
        },
        value=max(ratios.values()),
        value_is=f"larger of the medians, over {len(logs['e'])} settings, of e and v with the penalty over "
        "without",
        reason=" ".join(
            f"{name} is lower in {lower[name]} of {len(logs[name])} settings of model, N and b, by a median "
            f"factor of {ratios[name]:.2f} (p = {tests[name]:.2g})."
            for name in ("e", "v")
        ),
    )


@check("V12", **GRID)
def lower_unlearning_error_means_lower_verification_error(records: list[Record]) -> Finding:
    """Count the pairs of runs that e and v order alike: all, within a model, within a setting and seed."""
    points = after_epochs(records)
    pooled = concordance(points["e"], points["v"])
    models = {model: concordance(own["e"], own["v"]) for model, own in points.groupby("model")}
    strengths = concordance_within(points, [*SETTING, "seed"])
    seeds = concordance_within(points, [*SETTING, "gamma"])
    return Finding(
        propositions={
            "at least 0.7 of all pairs are ordered alike": pooled >= 0.7,
            "at least 0.5 within each architecture": min(models.values()) >= 0.5,
        },
        value=pooled,
        value_is=f"share of all pairs of {len(points)} runs that e and v order alike",
        reason=", ".join(f"{model}: {share:.2f}" for model, share in models.items())
        + f". Of pairs that differ in the strength alone {strengths:.2f} are ordered alike, of pairs that "
        f"differ in the seed alone {seeds:.2f}; tossing a coin would give 0.5.",
    )


@check("V13", **GRID)
def unlearning_error_beats_its_factors(records: list[Record]) -> Finding:
    """Compare the correlation of e and v with that of each factor of e and v, in the same draws."""
    points = after_epochs(records)
    clusters = labels(points, CHECKPOINT)
    alone = {name: correlate(points[name], points["v"]).value for name in FACTORS}
    found = {
        name: compare_correlations(points["v"], points["e"], points[name], clusters=clusters)
        for name in FACTORS
    }
    inside = within(points, ["e", "weight_change", "v"], [*SETTING, "seed"])
    strengths = {name: correlate(inside[name], inside["v"]).value for name in ("e", "weight_change")}
    nearest = min(found.values(), key=lambda difference: difference.difference)
    return Finding(
        propositions={
            f"e follows v more closely than {FACTORS[name]}": difference.difference > 0
            and difference.p < 0.05
            for name, difference in found.items()
        },
        value=nearest.difference,
        value_is="smallest difference of Pearson's correlation with v, e minus a factor of it",
        interval=(nearest.low, nearest.high),
        reason=f"e has {correlate(points['e'], points['v']).value:.2f} with v, "
        + ", ".join(
            f"{FACTORS[name]} {alone[name]:.2f} (p = {difference.p:.2g})"
            for name, difference in found.items()
        )
        + f". Between the strengths of one setting and seed, on logarithms, e has {strengths['e']:.2f} and "
        f"||w_t - w_0|| {strengths['weight_change']:.2f}.",
    )


@check("V14", **GRID)
def unlearning_beats_doing_nothing(records: list[Record]) -> Finding:
    """Compare v with the distance of the model that nothing was done to, after one epoch."""
    points = reach(after_epochs(records)).assign(log=lambda frame: np.log(frame["ratio"]))
    settings = np.exp(seed_means(points, ["log"])["log"])
    clusters = points.groupby(CHECKPOINT)["log"].mean()
    ends = t_interval(clusters)
    mean = float(np.exp(clusters.mean()))
    return Finding(
        propositions={
            "the mean ratio is below 1 with its 95 % interval": bool(ends is not None and ends[1] < 0),
            "the ratio is below 1 in each setting, mean over seeds": bool((settings < 1).all()),
        },
        value=mean,
        value_is=f"v over that of doing nothing, geometric mean over {len(clusters)} clusters of one model "
        "and N",
        interval=None if ends is None else (float(np.exp(ends[0])), float(np.exp(ends[1]))),
        reason=f"The update helps in {int((settings < 1).sum())} of {len(settings)} settings. Here eta t "
        f"sigma_avg is {points['size'].min():.2g} to {points['size'].max():.2g}; its rank correlation with "
        f"the ratio is {correlate(points['size'], points['ratio'], method='spearman').value:.2f}.",
    )
