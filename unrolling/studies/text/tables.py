"""The tables of the pages on text, row by row: Table 2, its correlations, and the runs without a penalty."""

import math
from collections.abc import Mapping

import pandas as pd

from unrolling.losses import gamma_from_released
from unrolling.metrics.association import correlate
from unrolling.metrics.intervals import t_interval
from unrolling.number_text import Missing
from unrolling.studies.frames import seed_means
from unrolling.studies.text.frames import beside_table_2, figure_10

Row = dict[str, object]


def table_2(rows: pd.DataFrame, *, released: bool = False, heading: str = "γ") -> list[Row]:
    """Return Table 2 of our runs and, beside it, what the paper prints: a row per strength.

    Args:
        rows: A row per run of one setting.
        released: Whether their strengths are in the released code's units; those of Eq. 10 then stand beside.
        heading: That of the strengths.
    """
    shown = []
    for gamma, cells in beside_table_2(rows).groupby("gamma"):
        cells, own = cells.set_index("quantity"), rows[rows["gamma"] == gamma]
        in_eq_10 = {"of Eq. 10": f"{gamma_from_released(gamma, 2):.3g}"} if released else {}
        shown.append(
            {
                heading: f"{gamma:g}",
                **in_eq_10,
                "e": _ours(cells.loc["e"]),
                "e / e(0)": _ours(cells.loc["ratio"]),
                "v": _ours(cells.loc["v"]),
                "v, doing nothing": t_interval(own["v_nothing"]),
                "v / doing nothing": t_interval(own["v"] / own["v_nothing"], log=True),
                "M_N+t, %": _ours(cells.loc["accuracy"], 100),
                "paper: e": _printed(cells.loc["e"]),
                "paper: e / e(0)": _printed(cells.loc["ratio"]),
                "paper: v": _printed(cells.loc["v"]),
                "paper: %": _printed(cells.loc["accuracy"], 100),
            }
        )
    return shown


def _ours(cell: pd.Series, scale: float = 1.0) -> tuple[float, ...]:
    return tuple(scale * cell[name] for name in ("mean", "low", "high"))


def _printed(cell: pd.Series, scale: float = 1.0) -> float | Missing:
    return Missing("no such row") if math.isnan(cell["printed"]) else scale * float(cell["printed"])


def correlations(settings: Mapping[str, pd.DataFrame]) -> list[Row]:
    """Return how closely e and v go together over the strengths, and e with v of doing nothing.

    Args:
        settings: The runs of each row, or the printed ones, by its heading.
    """
    return [_correlations(name, rows) for name, rows in settings.items()]


def _correlations(name: str, rows: pd.DataFrame) -> Row:
    found = figure_10(rows)
    row: Row = {"rows": name, "points": found["seed means"].count}
    for key, heading in (
        ("seed means", "Pearson"),
        ("ranks of the seed means", "Spearman"),
        ("logarithms within seeds", "on logarithms"),
    ):
        row[heading] = (found[key].value, found[key].low, found[key].high)
    row["e with v of doing nothing"] = Missing("not printed")
    if "v_nothing" in rows:
        means = seed_means(rows, ["e", "v_nothing"])
        nothing = correlate(means["e"], means["v_nothing"])
        row["e with v of doing nothing"] = (nothing.value, nothing.low, nothing.high)
    return row


def starting_points(frames: Mapping[str, pd.DataFrame]) -> list[Row]:
    """Return what plain SGD makes of different M_0: a row each.

    Args:
        frames: Runs without a penalty after one epoch, by what they start from.
    """
    return [
        {
            "M_0": name,
            "M_N, %": t_interval(100 * rows["accuracy_pretrained"]),
            "M_N+t, %": t_interval(100 * rows["accuracy"]),
            "weight change": t_interval(rows["weight_change"]),
            "e": t_interval(rows["e"]),
            "v": t_interval(rows["v"]),
            "v, doing nothing": t_interval(rows["v_nothing"]),
        }
        for name, rows in frames.items()
    ]


def by_dropout(cases: pd.DataFrame) -> list[Row]:
    """Return what dropout does, a row per kind.

    Args:
        cases: Runs without a penalty after one epoch; their setting ``dropout`` says which kind.
    """
    return [
        {
            "dropout": kind,
            "v, doing nothing": t_interval(rows["v_nothing"]),
            "v": t_interval(rows["v"]),
            "v / doing nothing": t_interval(rows["v"] / rows["v_nothing"], log=True),
            "e": t_interval(rows["e"]),
            "M_N+t, %": t_interval(100 * rows["accuracy"]),
        }
        for kind, rows in cases.groupby("dropout", sort=False)
    ]


def by_epoch(epochs: pd.DataFrame) -> list[Row]:
    """Return the accuracy after each epoch.

    Args:
        epochs: What :func:`~unrolling.studies.text.frames.over_epochs` returns.
    """
    return [{"epoch": int(epoch), "accuracy, %": t_interval(values)} for epoch, values in epochs.items()]
