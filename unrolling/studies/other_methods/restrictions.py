"""Section 9: the accuracy of the training that the paper started from, and of plain SGD."""

import pandas as pd

from unrolling.paper import Finding
from unrolling.runs.frames import final_frame
from unrolling.store import Record
from unrolling.studies.decide import above, at_least, over_seeds
from unrolling.studies.ledger import check
from unrolling.studies.noise import ratio_noise, seed_noise

RECIPE = {"page": "16_other_methods", "experiment": "amnesiac", "part": "recipe"}


def accuracies(records: list[Record]) -> pd.DataFrame:
    """Return the test accuracy of M_N in percent, a row per seed and a column per recipe."""
    return 100 * final_frame(records).pivot(index="seed", columns="recipe", values="accuracy_pretrained")


@check("K06", **RECIPE, profile="paper")  # a printed number: no other profile says anything about it
def enhancements_reach_the_reported_accuracy(records: list[Record]) -> Finding:
    """Measure the accuracy with momentum, weight decay, a schedule and augmentation."""
    full = accuracies(records)["full"]
    found = over_seeds(full, seed_noise("accuracy_pretrained"))
    return Finding(
        propositions={"the accuracy is at least 92.5 %": at_least(found, 92.5)},
        value=found.value,
        value_is=f"test accuracy with all of them in percent, mean of {len(full)} seeds",
        interval=found.interval,
        reason=f"It lies between {full.min():.1f} and {full.max():.1f} %, with the same rate to start with, "
        "batch size and number of epochs as plain SGD.",
    )


@check("K07", **RECIPE)
def plain_sgd_costs_accuracy(records: list[Record]) -> Finding:
    """Compare the accuracy of plain SGD with that of the full recipe, seed by seed."""
    table = accuracies(records)
    lost = table["full"] - table["plain"]
    found = over_seeds(lost, ratio_noise("accuracy_pretrained"))
    others = [name for name in table if name not in ("full", "plain")]
    between = "".join(f" With the recipe '{name}' it is {table[name].mean():.1f} %." for name in others)
    return Finding(
        propositions={"plain SGD is more than 5 points less accurate": above(found, 5)},
        value=found.value,
        value_is=f"points of accuracy, full recipe minus plain SGD, mean of {len(lost)} seeds",
        interval=found.interval,
        reason=f"Plain SGD has {table['plain'].mean():.1f} %, the full recipe {table['full'].mean():.1f} %."
        + between,
    )
