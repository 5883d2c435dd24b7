"""Section 9: the accuracy of the training that the paper started from, and of plain SGD."""

import pandas as pd

from unrolling.experiments.collect import final_frame
from unrolling.experiments.ledger import check
from unrolling.experiments.proxy import t_interval
from unrolling.paper import Finding
from unrolling.store import Record

RECIPE = {"page": "10_other_methods", "experiment": "amnesiac", "part": "recipe"}


def accuracies(records: list[Record]) -> pd.DataFrame:
    """Return the test accuracy of M_N in percent, a row per seed and a column per recipe."""
    return 100 * final_frame(records).pivot(index="seed", columns="recipe", values="accuracy_pretrained")


@check("K06", **RECIPE, profile="paper")  # a printed number: no other profile says anything about it
def enhancements_reach_the_reported_accuracy(records: list[Record]) -> Finding:
    """Measure the accuracy with momentum, weight decay, a schedule and augmentation."""
    full = accuracies(records)["full"]
    return Finding(
        propositions={"the accuracy is at least 92.5 %": bool(full.mean() >= 92.5)},
        value=float(full.mean()),
        value_is=f"test accuracy with all of them in percent, mean of {len(full)} seeds",
        interval=t_interval(full),
        reason=f"It lies between {full.min():.1f} and {full.max():.1f} %, with the same rate to start with, "
        "batch size and number of epochs as plain SGD.",
    )


@check("K07", **RECIPE)
def plain_sgd_costs_accuracy(records: list[Record]) -> Finding:
    """Compare the accuracy of plain SGD with that of the full recipe, seed by seed."""
    table = accuracies(records)
    lost = table["full"] - table["plain"]
    others = [name for name in table if name not in ("full", "plain")]
    between = "".join(f" With the recipe '{name}' it is {table[name].mean():.1f} %." for name in others)
    return Finding(
        propositions={"plain SGD is more than 5 points less accurate": bool(lost.mean() > 5)},
        value=float(lost.mean()),
        value_is=f"points of accuracy, full recipe minus plain SGD, mean of {len(lost)} seeds",
        interval=t_interval(lost),
        reason=f"Plain SGD has {table['plain'].mean():.1f} %, the full recipe {table['full'].mean():.1f} %."
        + between,
    )
