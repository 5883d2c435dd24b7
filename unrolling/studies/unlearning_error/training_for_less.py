"""Section 6.1: what fewer steps of training do to the unlearning error and to the accuracy (Figure 3)."""

import numpy as np

from unrolling.paper import Finding
from unrolling.runs.frames import trace_frame
from unrolling.store import Record
from unrolling.studies.decide import (
    ENOUGH_SEEDS,
    above,
    agree,
    all_of,
    each_at_least,
    over_seeds,
    range_of,
    within,
)
from unrolling.studies.ledger import check
from unrolling.studies.noise import ratio_noise
from unrolling.studies.unlearning_error.frames import halving, linearity

PAGE = "04_unlearning_error"
RUNS = {"experiment": "unlearning_error", "part": "settings"}
SETTING = ["dataset", "model"]


@check("S01", page=PAGE, **RUNS)
def unlearning_error_grows_linearly(records: list[Record]) -> Finding:
    """Fit a line to e over t in every run, and beside it rank them."""
    traces = trace_frame(records)
    runs = linearity(traces)
    settings = runs.groupby(SETTING, sort=False)
    straight = [range_of(own) for _, own in settings["r_squared"]]
    least = min(straight, key=lambda own: own.value)
    steps = traces["step"].drop_duplicates()
    parabola = float(np.corrcoef(steps, steps**2)[0, 1] ** 2)
    return Finding(
        propositions={
            "R^2 of e over t is at least 0.95 in each setting": each_at_least(
                runs["r_squared"], settings.ngroup(), 0.95
            ),
            "e rises with t in each setting": each_at_least(runs["spearman"], settings.ngroup(), 0.95),
        },
        value=least.value,
        value_is=f"smallest R^2 of {len(straight)} settings, mean over seeds",
        interval=least.interval,
        reason=f"R^2 lies between {least.value:.3f} and {max(own.value for own in straight):.3f}; the "
        "parabola "
        f"t^2 has {parabola:.2f} at the same steps, so R^2 hardly tells the two apart. See S02.",
    )


@check("S02", page=PAGE, **RUNS)
def fewer_steps_lower_the_error_in_proportion(records: list[Record]) -> Finding:
    """Compare e at whole epochs with e after half as many steps."""
    (per_epoch,) = {record.result["steps_per_epoch"] for record in records}
    halves = halving(trace_frame(records))
    halves = halves[halves["step"].isin([per_epoch * epochs for epochs in (2, 3, 4, 5)])]
    cases = halves.groupby([*SETTING, "step"], sort=False)["halved"]
    means, last = cases.mean(), halves[halves["step"] == halves["step"].max()]
    near = means.between(0.35, 0.65)
    if cases.size().min() >= ENOUGH_SEEDS:
        held = all_of(within(over_seeds(own), 0.35, 0.65) for _, own in cases)
    else:
        held = agree((means - 0.5).abs(), 0.15)
    found = over_seeds(last.groupby("seed")["halved"].mean())
    return Finding(
        propositions={"half of the steps leave 0.35 to 0.65 of e, in each setting and epoch": held},
        value=found.value,
        value_is="e(t/2) / e(t) at the end of training, mean over settings and seeds",
        interval=found.interval,
        reason=f"It is so in {int(near.sum())} of {len(near)} cases; the ratio lies between "
        f"{means.min():.2f} and {means.max():.2f}. {'More' if means.median() < 0.5 else 'Less'} than half of "
        "e is saved in the median case: the distance travelled grows with t as well.",
    )


@check("S03", page=PAGE, **RUNS)
def fewer_steps_cost_accuracy(records: list[Record]) -> Finding:
    """Compare the accuracy after five epochs with that of the same run after one."""
    (per_epoch,) = {record.result["steps_per_epoch"] for record in records}
    traces = trace_frame(records)
    one, five = (
        traces[traces["step"] == epochs * per_epoch].set_index([*SETTING, "seed"])["accuracy"]
        for epochs in (1, 5)
    )
    gains = [over_seeds(own, ratio_noise("accuracy")) for _, own in (100 * (five - one)).groupby(SETTING)]
    least = min(gains, key=lambda own: own.value)
    clear = sum(above(own, 0) is True for own in gains)
    return Finding(
        propositions={
            "five epochs are more accurate than one in each setting": all_of(above(own, 0) for own in gains)
        },
        value=least.value,
        value_is="smallest gain of the settings in points, mean over seeds",
        interval=least.interval,
        reason=f"The gain is {least.value:.1f} to {max(own.value for own in gains):.1f} points; its interval "
        f"lies above 0 in {clear} of {len(gains)} settings.",
    )
