"""What the stored runs on real reviews say, in sentences and numbers."""

import numpy as np
import pandas as pd

from unrolling._checks import DataError
from unrolling.metrics.intervals import t_interval
from unrolling.runs.collect import published
from unrolling.runs.profiles import load_profile
from unrolling.store import Record
from unrolling.studies.printed import printed_correlation, printed_rows
from unrolling.studies.text.frames import figure_10, relative
from unrolling.studies.text.numbers import (
    GOAL,
    LAST,
    Numbers,
    good_strengths,
    left_of_e,
    listed,
    points_lost,
    points_text,
)

Pair = tuple[pd.DataFrame, pd.DataFrame]


def stored_runs(experiment: str, part: str) -> list[Record]:
    """Return the runs of a grid that are stored with the project, on real reviews.

    Args:
        experiment: The experiment's name, in the profile ``small``.
        part: Its grid.

    Raises:
        DataError: If a run is missing.
    """
    wanted = load_profile("small").experiment(experiment).configs(part)
    found = published(wanted, "small")
    if len(found) < len(wanted):
        raise DataError(
            f"expected {len(wanted)} stored runs of {part!r} of {experiment!r} in results/small, found "
            f"{len(found)}: compute the others with profile small and store them there."
        )
    return found


def of_errors(own: pd.DataFrame) -> str:
    """Return what the strength does to e, to the accuracy and to v, in sentences.

    Args:
        own: The whole model's runs in the units of Eq. 10.
    """
    rows = relative(own)
    largest = rows["gamma"].max()
    means = rows.groupby("gamma")["percent"].mean()
    good = good_strengths(rows)
    strongest = (
        f"At the largest of them e is {left_of_e(rows, good.max())} of that without a penalty. "
        if any(good > 0)
        else ""
    )
    return (
        f"On real reviews e at γ = {largest:g} is {left_of_e(rows, largest)} of that without a penalty; the "
        f"accuracy is {means[0.0]:.1f} % without and {means[largest]:.1f} % there. The strengths "
        f"at which it reaches {100 * GOAL:.0f} % are: {listed(good)}. {strongest}"
        f"v is {rows['against_nothing'].min():.2f} to {rows['against_nothing'].max():.2f} times that of "
        "doing nothing."
    )


def of_units(pair: Pair) -> str:
    """Return which units of gamma come nearer to the printed accuracies, in sentences.

    Args:
        pair: The whole model's runs, as :func:`~unrolling.studies.text.frames.by_scale` returns them.
    """
    ours = dict(zip(("Eq. 10", "the released code"), pair, strict=True))
    table = points_lost(printed_rows("table2"))
    lost = {units: points_lost(rows) for units, rows in ours.items()}
    off = {units: float(np.abs(np.subtract(points, table)).mean()) for units, points in lost.items()}
    pearson = {units: figure_10(rows)["seed means"].value for units, rows in ours.items()}
    return (
        f"At γ = {listed(LAST)} the printed table loses {points_text(table)} points of accuracy; ours lose "
        f"{points_text(lost['Eq. 10'])} with these numbers in the units of Eq. 10 and "
        f"{points_text(lost['the released code'])} in those of the released code. The units of "
        f"{min(off, key=off.get)} come nearer: {min(off.values()):.1f} points off on average against "
        f"{max(off.values()):.1f}. Pearson's correlation of e and v is {pearson['Eq. 10']:.2f} in the units "
        f"of Eq. 10 and {pearson['the released code']:.2f} in the released ones, where the paper has "
        f"{printed_correlation('Fig10', 'IMDB')}."
    )


def of_index(pair: Pair) -> Numbers:
    """Return the numbers that the book's first page shows.

    Args:
        pair: As for :func:`of_units`.
    """
    numbers: Numbers = {"printed": points_lost(printed_rows("table2"))[0]}
    for name, rows in zip(("own", "released"), pair, strict=True):
        left = relative(rows).loc[rows["gamma"] == 1, "e_ratio"]
        numbers |= {
            name: points_lost(rows)[0],
            f"{name}-pearson": figure_10(rows)["seed means"].value,
            f"{name}-e": t_interval(left, log=True)[0],
        }
    return numbers


def update_size(own: pd.DataFrame) -> float:
    r"""Return :math:`\eta t \sigma` without a penalty, mean over seeds: where it is large no update helps."""
    plain = own[own["gamma"] == 0]
    return float((plain["learning_rate"] * plain["step"] * plain["sigma_avg"]).mean())
