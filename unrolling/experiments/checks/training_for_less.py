"""Section 6.1: what fewer steps of training do to the unlearning error and to the accuracy (Figure 3)."""

import numpy as np
import pandas as pd

from unrolling.experiments.collect import trace_frame
from unrolling.experiments.ledger import check
from unrolling.experiments.unlearning_error import halving, linearity
from unrolling.paper import Finding
from unrolling.store import Record

PAGE = "04_unlearning_error"
RUNS = {"experiment": "unlearning_error", "part": "settings"}
SETTING = ["dataset", "model"]


@check("S01", page=PAGE, **RUNS)
def unlearning_error_grows_linearly(records: list[Record]) -> Finding:
    """Fit a line to e over t in every run, and beside it rank them."""
    traces = trace_frame(records)
    means = linearity(traces).groupby(SETTING, sort=False)[["r_squared", "spearman"]].mean()
    steps = traces["step"].drop_duplicates()
    parabola = float(np.corrcoef(steps, steps**2)[0, 1] ** 2)
    least = means["r_squared"].min()
    return Finding(
        propositions={
            "R^2 of e over t is at least 0.95 in each setting": bool((means["r_squared"] >= 0.95).all()),
            "e rises with t in each setting": bool((means["spearman"] >= 0.99).all()),
        },
        value=float(least),
        value_is=f"smallest R^2 of {len(means)} settings, mean over seeds",
        reason=f"R^2 lies between {least:.3f} and {means['r_squared'].max():.3f}; the parabola t^2 has "
        f"{parabola:.2f} at the same steps, so R^2 hardly tells the two apart. See S02.",
    )


@check("S02", page=PAGE, **RUNS)
def fewer_steps_lower_the_error_in_proportion(records: list[Record]) -> Finding:
    """Compare e at whole epochs with e after half as many steps."""
    (per_epoch,) = {record.result["steps_per_epoch"] for record in records}
    halves = halving(trace_frame(records))
    halves = halves[halves["step"].isin([per_epoch * epochs for epochs in (2, 3, 4, 5)])]
    means = halves.groupby([*SETTING, "step"], sort=False)["halved"].mean()
    within = means.between(0.35, 0.65)
    last = halves.loc[halves["step"] == halves["step"].max(), "halved"]
    return Finding(
        propositions={
            "half of the steps leave 0.35 to 0.65 of e, in each setting and epoch": bool(within.all())
        },
        value=float(last.mean()),
        value_is="e(t/2) / e(t) at the end of training, mean over settings and seeds",
        reason=f"It is so in {int(within.sum())} of {len(within)} cases; the ratio lies between "
        f"{means.min():.2f} and {means.max():.2f}. {'More' if means.median() < 0.5 else 'Less'} than half of "
        "e is saved in the median case: the distance travelled grows with t as well.",
    )


@check("S03", page=PAGE, **RUNS)
def fewer_steps_cost_accuracy(records: list[Record]) -> Finding:
    """Compare the accuracy after one epoch with that after five, relative to its spread over seeds."""
    (per_epoch,) = {record.result["steps_per_epoch"] for record in records}
    traces = trace_frame(records)
    one, five = (
        traces[traces["step"] == epochs * per_epoch].set_index([*SETTING, "seed"])["accuracy"]
        for epochs in (1, 5)
    )
    gain = (five - one).groupby(SETTING).mean()
    spread = pd.concat([accuracy.groupby(SETTING).std() for accuracy in (one, five)], axis=1).max(axis=1)
    clear = gain > 2 * spread
    return Finding(
        propositions={
            "five epochs are more accurate than one in each setting": bool((gain > 0).all()),
            "by more than 2 standard deviations over seeds in each": bool(clear.all()),
        },
        value=float(100 * gain.min()),
        value_is="smallest gain of the settings in points, mean over seeds",
        reason=f"The gain is {100 * gain.min():.1f} to {100 * gain.max():.1f} points; it "
        f"exceeds 2 standard deviations in {int(clear.sum())} of {len(clear)} settings.",
    )
