"""Section 8.3: whether e is a proxy of v, over steps, strengths and settings (Figures 9, 11, 12)."""

from collections.abc import Hashable, Sequence
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from unrolling.metrics.association import compare_correlations, correlate
from unrolling.metrics.intervals import mean_correlation
from unrolling.paper import Finding
from unrolling.runs import after_epochs
from unrolling.runs.frames import trace_frame
from unrolling.store import Record
from unrolling.studies.decide import (
    ENOUGH_SEEDS,
    Estimate,
    agree,
    all_of,
    at_least,
    at_most,
    below,
    clustered,
    correlation_over_seeds,
    each_at_least,
    holm,
    of_correlation,
    over_seeds,
    range_of,
    t_test,
    widest,
)
from unrolling.studies.frames import CHECKPOINT, SETTING, effects, logs_within, reach, seed_means
from unrolling.studies.ledger import check
from unrolling.studies.noise import ratio_noise
from unrolling.studies.proxy.frames import (
    clusterings,
    concordance,
    concordance_of_draws,
    concordance_within,
    over_steps,
    straightness,
)

PAGE = "11_proxy"
#: V04: Pearson's correlation, at least.
CLOSE = 0.9
#: V07: what the largest strength leaves of e and of v, less than.
HALF = 0.5
STEPS = {"page": PAGE, "experiment": "proxy", "part": "steps"}
STRENGTH = {"page": PAGE, "experiment": "proxy", "part": "strength"}
GRID = {"page": PAGE, "experiment": "proxy", "part": "grid"}
FACTORS = {"weight_change": "||w_t - w_0||", "sigma_avg": "sigma_avg", "step": "t"}


# Figure 9: over the steps


def panel(correlations: Sequence[float]) -> tuple[Estimate, bool | None]:
    """Return the mean of correlations along trajectories, one a seed, and whether it is at least 0.9."""
    found = correlation_over_seeds(correlations)
    if len(correlations) >= ENOUGH_SEEDS:
        return found, at_least(found, 0.9)
    return found, agree([1 - value for value in correlations], 0.1)


def correlate_over_steps(records: list[Record], pretrain_epochs: int) -> Finding:
    """Decide one panel of Figure 9."""
    traces = trace_frame(records)
    runs, rooted = over_steps(traces), over_steps(traces.assign(e=traces["e_root"]))
    own = runs[runs["pretrain_epochs"] == pretrain_epochs]
    roots = rooted.loc[rooted["pretrain_epochs"] == pretrain_epochs, "raw"]
    found, held = panel(own["raw"].tolist())
    return Finding(
        propositions={"Pearson's correlation is at least 0.9, mean over seeds": held},
        value=found.value,
        value_is=f"Pearson's correlation of e and v over the steps, mean over {len(own)} seeds, N = "
        f"{pretrain_epochs} epochs",
        interval=found.interval,
        reason=f"With the roots of the eigenvalue in e it is {mean_correlation(roots)[0]:.2f}. t alone has "
        f"{mean_correlation(own['steps_v'])[0]:.2f} with v. Given t, "
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
    runs = over_steps(trace_frame(records))
    panels = runs.groupby("pretrain_epochs")
    given = {n: mean_correlation(own["given_steps"])[0] for n, own in panels}
    ranks = {name: [range_of(own[name]) for _, own in panels] for name in ("rank_e", "rank_v")}
    e, v = (min(own, key=lambda rank: rank.value) for own in ranks.values())
    least = min(e, v, key=lambda rank: rank.value)
    return Finding(
        propositions={
            f"{name[-1]} rises with t in both panels": each_at_least(
                runs[name], runs["pretrain_epochs"], 0.95
            )
            for name in ranks
        },
        value=least.value,
        value_is="smallest rank correlation with t, mean over seeds",
        interval=least.interval,
        reason=f"The rank correlation with t is at least {e.value:.2f} for e and {v.value:.2f} for v. What "
        "both owe to t is no evidence that one stands for the other: given t their correlation is "
        + " and ".join(f"{value:.2f} (N = {n})" for n, value in given.items())
        + ".",
    )


# Figure 11: over the strengths


def family(records: list[Record], name: str) -> pd.DataFrame:
    """Return the runs of one family of networks after one epoch."""
    return after_epochs([record for record in records if record.config["model"].startswith(name)])


def correlate_over_strengths(points: pd.DataFrame, least: float) -> Finding:
    """Decide one panel of Figure 11, or Figure 10, from the runs of one setting after one epoch.

    The printed correlation is one of single runs, and so is that of each seed here.
    """
    means = seed_means(points, ["e", "e_root", "v"])
    of_means = correlate(means["e"], means["v"])
    roots = correlate(means["e_root"], means["v"]).value
    seeds = [correlate(own["e"], own["v"]).value for _, own in points.groupby("seed")]
    found = correlation_over_seeds(seeds) if len(seeds) >= ENOUGH_SEEDS else of_correlation(of_means)
    return Finding(
        propositions={f"Pearson's correlation is at least {least:g}": at_least(found, least)},
        value=found.value,
        value_is=f"Pearson's correlation over {of_means.count} strengths, mean over {len(seeds)} seeds",
        interval=found.interval,
        reason=f"In single seeds it lies between {min(seeds):.2f} and {max(seeds):.2f}; that of the means "
        "over "
        f"seeds is {of_means.value:.2f}, with the roots of the eigenvalue in e {roots:.2f}. A correlation of "
        f"{of_means.count} points is known poorly, whatever its value.",
    )


@check("V04", **STRENGTH)
def errors_correlate_over_strengths_for_resnet(records: list[Record]) -> Finding:
    """Correlate e and v over the strengths after one epoch, for the ResNet."""
    return correlate_over_strengths(family(records, "resnet"), CLOSE)


@check("V05", **STRENGTH)
def errors_correlate_over_strengths_for_vgg(records: list[Record]) -> Finding:
    """Correlate e and v over the strengths after one epoch, for the VGG."""
    return correlate_over_strengths(family(records, "vgg"), 0.6)


@check("V07", **STRENGTH)
def both_errors_are_small_at_the_largest_strength(records: list[Record]) -> Finding:
    """Compare e and v at the largest strength with those at 0, after one epoch."""
    rows = after_epochs(records)
    largest = rows["gamma"].max()
    ratios: dict[str, dict[str, Estimate]] = {
        column: {
            cell[1]: own.to(np.exp) for cell, own in effects(rows, column).items() if cell[-1] == largest
        }
        for column in ("e_root", "v", "e")
    }
    worst = max((own for of in ("e_root", "v") for own in ratios[of].values()), key=lambda own: own.value)
    return Finding(
        propositions={
            f"{name} at the largest strength is below half of that at 0, for each model": all_of(
                below(own, HALF) for own in ratios[column].values()
            )
            for name, column in (("e", "e_root"), ("v", "v"))
        },
        value=worst.value,
        value_is=f"largest ratio of gamma = {largest:g} to 0, e (roots of the eigenvalue) or v, of "
        f"{len(ratios['v'])} models",
        interval=worst.interval,
        reason="; ".join(
            f"{model}: e falls to {ratios['e_root'][model].value:.2f} of its value at 0 (with the eigenvalue "
            f"itself to {ratios['e'][model].value:.2f}), v to {ratios['v'][model].value:.2f}"
            for model in ratios["v"]
        )
        + ".",
    )


# Figure 12: over settings


def widest_correlation(x: ArrayLike, y: ArrayLike, ways: Sequence[Sequence[Hashable]]) -> Estimate:
    """Return Pearson's correlation with the widest interval of several clusterings."""
    enough = [clusters for clusters in ways if len(set(clusters)) >= 3]
    if not enough:
        return Estimate(float(np.corrcoef(x, y)[0, 1]))
    return widest(of_correlation(correlate(x, y, clusters=clusters)) for clusters in enough)


def correlate_over_settings(records: list[Record], least: float, least_low: float) -> Finding:
    """Decide one panel of Figure 12."""
    points = after_epochs(records)
    found = widest_correlation(points["e"], points["v"], clusterings(points))
    inside = logs_within(points, ["e", "v"], CHECKPOINT)
    left = correlate(inside["e"], inside["v"]).value
    lower = points[points["e"] <= points["e"].quantile(0.9)]
    others = (
        correlate(lower["e"], lower["v"]).value,
        correlate(points["e"], points["v"], method="spearman").value,
        correlate(np.log(points["e"]), np.log(points["v"])).value,
        correlate(points["e_root"], points["v"]).value,
    )
    return Finding(
        propositions={
            f"Pearson's correlation is at least {least:g}, and its interval above {least_low:g}": True
            if found.value >= least and found.low >= least_low
            else (None if found.high >= least else False)
        },
        value=found.value,
        value_is=f"Pearson's correlation over {points.groupby([*SETTING, 'gamma']).ngroups} settings and "
        f"{points['seed'].nunique()} seeds, after one epoch",
        interval=found.interval,
        reason="The interval is the widest of those over clusters of one model and N, of one model, N and "
        "b, of "
        "one training, and of one seed. "
        f"Without the tenth of the points with the largest e {others[0]:.2f} is left; on ranks it is "
        f"{others[1]:.2f}, of logarithms {others[2]:.2f}, with the roots of the eigenvalue in e "
        f"{others[3]:.2f}. "
        f"Between points of one model and N {left:.2f} is left, on logarithms.",
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
    e, v = points["e"].to_numpy(), points["v"].to_numpy()

    def part(number: int, taken: NDArray[np.float64]) -> float:
        return straightness(e, v, taken)[number]

    ways = clusterings(points)
    r_squared, gain = (clustered(partial(part, number), ways) for number in (0, 1))
    slope = float(np.polyfit(np.log(e), np.log(v), 1)[0])
    low = points["e"] <= points["e"].quantile(0.9)
    return Finding(
        propositions={
            "R^2 of the straight line is at least 0.75": at_least(r_squared, 0.75),
            "a quadratic term adds at most 0.05 to the adjusted R^2": at_most(gain, 0.05),
        },
        value=r_squared.value,
        value_is=f"R^2 of a straight line through {len(points)} points",
        interval=r_squared.interval,
        reason=f"A quadratic term adds {gain.value:.2f} to the adjusted R^2. On logarithmic axes the slope "
        "is "
        f"{slope:.2f}, where v proportional to e would have 1. Without the tenth of the points with the "
        "largest "
        f"e R^2 is {straightness(e[low], v[low])[0]:.2f}, on ranks "
        f"{straightness(stats.rankdata(e), stats.rankdata(v))[0]:.2f}.",
    )


@check("V11", **GRID)
def penalised_models_have_lower_errors(records: list[Record]) -> Finding:
    """Compare the runs with a penalty with those of their setting and seed without, at each N."""
    points = after_epochs(records)
    found = {name: effect_at_each(points, name) for name in ("e", "v")}
    estimates = [own for ratios, _ in found.values() for own in ratios.values()]
    largest = max(estimates, key=lambda own: own.value).to(np.exp)
    return Finding(
        propositions={
            f"N = {n}: {name} is lower with the SD loss": held[n]
            for name, (_, held) in found.items()
            for n in held
        },
        value=largest.value,
        value_is="largest, over N, of e and v with the penalty over without, geometric mean",
        interval=largest.interval,
        reason=" ".join(
            f"With the penalty {name} is "
            + ", ".join(f"{np.exp(own.value):.2f} times as large at N = {n}" for n, own in ratios.items())
            + "."
            for name, (ratios, _) in found.items()
        ),
    )


def effect_at_each(points: pd.DataFrame, column: str) -> tuple[dict[int, Estimate], dict[int, bool | None]]:
    """Return the logarithm of a column with a penalty over without at each N, and whether it is below 0.

    The mean is over models, batch sizes and strengths. From three seeds on it is a t-test over them that
    decides, with Holm's correction over N.
    """
    logs = np.log(points[column])
    keys = [*SETTING, "seed"]
    plain = logs[points["gamma"] == 0].groupby([points[name] for name in keys]).mean()
    penalised = logs[points["gamma"] > 0].groupby([points[name] for name in keys]).mean()
    by_seed = (penalised - plain).groupby(["pretrain_epochs", "seed"]).mean()
    estimates = {int(n): over_seeds(own, ratio_noise(column)) for n, own in by_seed.groupby(level=0)}
    if points["seed"].nunique() < ENOUGH_SEEDS:
        return estimates, {n: below(own, 0) for n, own in estimates.items()}
    tests = [t_test(own) for _, own in by_seed.groupby(level=0)]
    decided = dict(zip(estimates, holm(tests), strict=True))
    return estimates, {n: estimates[n].value < 0 if p < 0.05 else None for n, p in decided.items()}


@check("V12", **GRID)
def lower_unlearning_error_means_lower_verification_error(records: list[Record]) -> Finding:
    """Count the pairs of runs that e and v order alike: all, within a model, within a setting and seed."""
    points = after_epochs(records)
    pooled = _concordance(points)
    models = {model: _concordance(own) for model, own in points.groupby("model")}
    lower = points[points["e"] <= points["e"].quantile(0.9)]
    strengths = concordance_within(points, [*SETTING, "seed"])
    seeds = ""
    if points["seed"].nunique() > 1:
        share = concordance_within(points, [*SETTING, "gamma"])
        seeds = f", of pairs that differ in the seed alone {share:.2f}"
    return Finding(
        propositions={
            "at least 0.7 of all pairs are ordered alike": at_least(pooled, 0.7),
            "at least 0.5 within each architecture": all_of(at_least(own, 0.5) for own in models.values()),
        },
        value=pooled.value,
        value_is=f"share of all pairs of {len(points)} runs that e and v order alike",
        interval=pooled.interval,
        reason=", ".join(f"{model}: {share.value:.2f}" for model, share in models.items())
        + f". Without the tenth of the points with the largest e {concordance(lower['e'], lower['v']):.2f} "
        "of "
        f"all pairs are. Of pairs that differ in the strength alone {strengths:.2f} are ordered "
        f"alike{seeds}; "
        "tossing a coin would give 0.5.",
    )


def _concordance(points: pd.DataFrame) -> Estimate:
    return clustered(concordance_of_draws(points["e"], points["v"]), clusterings(points))


@check("V13", **GRID)
def unlearning_error_beats_its_factors(records: list[Record]) -> Finding:
    """Compare the correlation of e and v with that of each factor of e and v, in the same draws."""
    points = after_epochs(records)
    alone = {name: correlate(points[name], points["v"]).value for name in FACTORS}
    ways = [clusters for clusters in clusterings(points) if len(set(clusters)) >= 3]
    found = {}
    for name in FACTORS:
        compared = [
            compare_correlations(points["v"], points["e"], points[name], clusters=clusters)
            for clusters in ways
        ]
        found[name] = max(compared, key=lambda own: own.p)
    inside = logs_within(points, ["e", "weight_change", "v"], [*SETTING, "seed"])
    strengths = {name: correlate(inside[name], inside["v"]).value for name in ("e", "weight_change")}
    nearest = min(found.values(), key=lambda difference: difference.difference)
    corrected = dict(zip(found, holm([own.p for own in found.values()]), strict=True))
    return Finding(
        propositions={
            f"e follows v more closely than {FACTORS[name]}": own.difference > 0
            if corrected[name] < 0.05
            else None
            for name, own in found.items()
        },
        value=nearest.difference,
        value_is="smallest difference of Pearson's correlation with v, e minus a factor of it",
        interval=(nearest.low, nearest.high),
        reason=f"e has {correlate(points['e'], points['v']).value:.2f} with v, "
        + ", ".join(f"{FACTORS[name]} {alone[name]:.2f} (p = {corrected[name]:.2g})" for name in found)
        + f", p corrected for three by Holm. Between the strengths of one setting and seed, on logarithms, e "
        f"has {strengths['e']:.2f} and ||w_t - w_0|| {strengths['weight_change']:.2f}.",
    )


@check("V14", **GRID)
def unlearning_beats_doing_nothing(records: list[Record]) -> Finding:
    """Compare v with the distance of the model that nothing was done to, after one epoch."""
    points = reach(after_epochs(records)).assign(log=lambda frame: np.log(frame["ratio"]))
    logs = points["log"].to_numpy()
    mean = clustered(lambda taken: float(np.average(logs, weights=taken)), clusterings(points)).to(np.exp)
    settings = [
        over_seeds(own, ratio_noise("v")).to(np.exp)
        for _, own in points.groupby([*SETTING, "gamma"], sort=False)["log"]
    ]
    return Finding(
        propositions={
            "the mean ratio is below 1": below(mean, 1),
            "the ratio is below 1 in each setting, mean over seeds": all_of(
                below(own, 1) for own in settings
            ),
        },
        value=mean.value,
        value_is=f"v over that of doing nothing, geometric mean over {len(points)} runs",
        interval=mean.interval,
        reason=f"The update helps in {sum(own.value < 1 for own in settings)} of {len(settings)} settings. "
        "Here "
        f"eta t sigma_avg is {points['size'].min():.2g} to {points['size'].max():.2g}; its rank correlation "
        f"with the ratio is {correlate(points['size'], points['ratio'], method='spearman').value:.2f}.",
    )
