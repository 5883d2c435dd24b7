"""The numbers in the sentences of the pages on text: by name, section by section."""

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd

from unrolling.losses import collapse_gamma
from unrolling.metrics.intervals import fisher_interval, rank_correlation, t_interval
from unrolling.number_text import interval_text
from unrolling.studies.frames import relative_to_plain, seed_means
from unrolling.studies.printed import printed_rows
from unrolling.studies.text.frames import masks_apart, relative
from unrolling.studies.text.tables import correlations

Numbers = dict[str, float | int | str]

#: An accuracy below it is not that of a good classifier.
GOAL = 0.8
#: The strengths of Table 2 at which it loses accuracy, or begins to.
LAST = (1.0, 1.25, 1.5)


def listed(values: Iterable[float]) -> str:
    """Return numbers for a sentence; "none" if there are none."""
    return ", ".join(f"{value:g}" for value in values) or "none"


def left_of_e(rows: pd.DataFrame, gamma: float) -> str:
    """Return what is left of e at a strength, of that without a penalty, for a sentence.

    Args:
        rows: What :func:`~unrolling.studies.text.frames.relative` returns.
        gamma: The strength, as the runs name it.
    """
    return interval_text(t_interval(rows.loc[rows["gamma"] == gamma, "e_ratio"], log=True), 2)


def points_lost(rows: pd.DataFrame) -> list[float]:
    """Return the points of accuracy lost at :data:`LAST`, of means over seeds."""
    means = 100 * rows.groupby("gamma")["accuracy"].mean()
    return [float(means[0.0] - means[gamma]) for gamma in LAST]


def points_text(points: Iterable[float]) -> str:
    """Return points of accuracy for a sentence."""
    return ", ".join(f"{value:z.1f}" for value in points).replace("-", "−")


def good_strengths(rows: pd.DataFrame) -> pd.Index:
    """Return the strengths at which the accuracy, on average over seeds, reaches :data:`GOAL`."""
    means = rows.groupby("gamma")["accuracy"].mean()
    return means[means >= GOAL].index


def of_starting_points(pretrained: pd.DataFrame, untrained: pd.DataFrame) -> Numbers:
    """Return the accuracies with and without an encoder to start from."""
    return {
        "plain-before": interval_text(t_interval(100 * pretrained["accuracy_pretrained"])),
        "untrained": interval_text(t_interval(100 * untrained["accuracy"])),
    }


def of_epochs(epochs: pd.DataFrame, test_size: int) -> Numbers:
    """Return which epoch is best, and by how much.

    Args:
        epochs: What :func:`~unrolling.studies.text.frames.over_epochs` returns.
        test_size: The number of test texts.
    """
    mean = epochs.mean()
    return {
        "best-epoch": int(mean.idxmax()),
        "best": float(mean.max()),
        "third": float(mean[3]),
        "best-seeds": ", ".join(map(str, epochs.idxmax(axis=1))),
        "one-review": 100 / test_size,
    }


def of_dropout(cases: pd.DataFrame) -> Numbers:
    """Return how far apart masks bring two trainings, and what the update leaves of it.

    Args:
        cases: As :func:`~unrolling.studies.text.tables.by_dropout` takes them.
    """
    apart = masks_apart(cases)
    nothing, v = (
        cases.pivot(index="seed", columns="dropout", values=column) for column in ("v_nothing", "v")
    )
    left = {f"{kind}-ratio": interval_text(t_interval(v[kind] / nothing[kind], log=True), 2) for kind in v}
    return left | {
        "apart": interval_text(t_interval(apart, log=True), 3),
        "shared-off": interval_text(t_interval(nothing["shared"] / nothing["off"], log=True), 2),
        "masks": interval_text(t_interval(np.sqrt(apart**2 - 1), log=True), 2),
    }


def of_printed() -> Numbers:
    """Return what Table 2 itself says of the drop of e that the text calls 40 %."""
    left = float(relative(printed_rows("table2")).set_index("gamma").loc[1.5, "e_ratio"])
    return {"printed-times": 1 / left, "printed-drop": 100 * (1 - left)}


def of_strengths(own: pd.DataFrame, released: pd.DataFrame) -> Numbers:
    """Return what the strength does to e, to v against doing nothing, and to the accuracy.

    Args:
        own: What :func:`~unrolling.studies.text.frames.relative` returns, in the units of Eq. 10.
        released: The same in the released code's.
    """
    both = pd.concat([own, released])
    logs = np.log(both["against_nothing"]).groupby(both["strength"].round(3)).mean()
    largest = float(own["gamma"].max())
    at_one = own[own["gamma"] == 1]
    return {
        "largest": largest,
        "drop-largest": left_of_e(own, largest),
        "drop-half": left_of_e(own, 0.5),
        "drop-one": left_of_e(own, 1.0),
        "goal": 100 * GOAL,
        "good": listed(good_strengths(own)),
        "good-released": listed(good_strengths(released)),
        "helps": listed(logs[logs < 0].index),
        "harms": listed(logs[logs >= 0].index),
        "update-norm": (at_one["learning_rate"] * at_one["forget_gradient_norm"]).mean(),
        "update-apart": at_one["v_nothing"].mean(),
    }


def of_head(own: pd.DataFrame, released: pd.DataFrame) -> Numbers:
    """Return what gamma = 1 does to the linear head's e and its factors, and what the update does.

    Args:
        own: As for :func:`of_strengths`, of the linear head.
        released: The same in the released code's units.
    """
    against = pd.concat([own, released])["against_nothing"]
    factors = {
        column: t_interval(relative_to_plain(own, column)[own["gamma"] == 1], log=True)[0]
        for column in ("weight_change", "sigma_avg")
    }
    return {
        "head-e": left_of_e(own, 1.0),
        **{f"head-{column}": ratio for column, ratio in factors.items()},
        "head-low": against.min(),
        "head-high": against.max(),
    }


def of_collapse(own: pd.DataFrame, released: pd.DataFrame, test_size: int) -> Numbers:
    """Return the accuracies at and beyond the collapse, and which of them guessing would reach.

    Args:
        own: As for :func:`of_strengths`.
        released: The same in the released code's units.
        test_size: The number of test texts.
    """
    both = pd.concat([own, released])
    beyond = both.loc[both["strength"] >= collapse_gamma(2), "percent"]
    guessing = 50 + 100 * 1.96 * math.sqrt(0.25 / test_size)
    lost = {"own": own, "released": released, "paper": printed_rows("table2")}
    return {
        "beyond-runs": len(beyond),
        "beyond-low": beyond.min(),
        "beyond-high": beyond.max(),
        "guessing": guessing,
        "beyond-guessing": int((beyond <= guessing).sum()),
        **{f"lost-{name}": points_text(points_lost(rows)) for name, rows in lost.items()},
    }


def of_correlations(whole: pd.DataFrame, whole_released: pd.DataFrame, head: pd.DataFrame) -> Numbers:
    """Return how closely e and v go together, here and recomputed from Table 2.

    Args:
        whole: A row per run of the whole model, in the units of Eq. 10.
        whole_released: The same in the released code's.
        head: Those of the linear head, in the units of Eq. 10.
    """
    mild = whole[whole["gamma"] < 1]
    frames = {
        "own": whole,
        "below": mild,
        "released": whole_released,
        "head": head,
        "again": printed_rows("table2"),
    }
    found = {row.pop("rows"): row for row in correlations(frames)}
    own, again = found["own"], found["again"]
    low, high = fisher_interval(again["Pearson"][0], again["points"])
    return {
        "again": again["Pearson"][0],
        "again-interval": f"[{low:.3f}, {high:.3f}]",
        "again-spearman": again["Spearman"][0],
        "again-logs": again["on logarithms"][0],
        "ten": interval_text(own["Pearson"], 2),
        "ten-spearman": interval_text(own["Spearman"], 2),
        "ten-logs": interval_text(own["on logarithms"], 2),
        **{f"ten-{name}": interval_text(found[name]["Pearson"], 2) for name in ("below", "released", "head")},
        "ten-nothing": interval_text(own["e with v of doing nothing"], 2),
        "ten-nothing-released": interval_text(found["released"]["e with v of doing nothing"], 2),
    }


def of_ranks(mild: Iterable[pd.DataFrame]) -> Numbers:
    """Return the rank correlations of the strength with e and v, of means over seeds.

    Args:
        mild: Runs up to the collapse, in either unit.
    """
    means = [seed_means(rows, ["e", "v"]) for rows in mild]
    return {
        f"rank-{column}": " and ".join(
            f"{rank_correlation(rows['gamma'], rows[column]):.2f}".replace("-", "−") for rows in means
        )
        for column in "ev"
    }
