"""The numbers in the sentences of the two pages, by the names under which they are glued."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from unrolling.store import Record
from unrolling.studies.frames import reach
from unrolling.studies.unlearning_error.frames import FORMS, break_even, every_other, halving, linearity
from unrolling.studies.unlearning_error.readings import THIS_PAGE

Numbers = dict[str, float | int]


def _ends(prefix: str, values: pd.Series) -> Numbers:
    return {f"{prefix}-low": float(values.min()), f"{prefix}-high": float(values.max())}


def cost_numbers(costs: pd.DataFrame, runs: Sequence[Record]) -> Numbers:
    """Return the price of a sample and of e, and what every other sample would have changed."""
    factor = pd.Series([every_other(run) for run in runs])
    return (
        _ends("cost", costs["gradients"])
        | _ends("here", costs["of_retraining"])
        | {"200": float(costs["every_200"].max()), "every": runs[0].config["sigma_every"]}
        | {"other-median": float(factor.median()), "other-worst": float(factor.max())}
    )


def halves_at_the_end(traces: pd.DataFrame) -> pd.Series:
    """Return e(t / 2) / e(t) at the last step of each run."""
    halves = halving(traces)
    return halves.loc[halves["step"] == halves.groupby("address")["step"].transform("max"), "halved"]


def parabola(traces: pd.DataFrame) -> float:
    """Return the R^2 of a straight line fitted to t^2 at the recorded steps."""
    steps = traces["step"].drop_duplicates()
    return float(np.corrcoef(steps, steps**2)[0, 1] ** 2)


def growth_numbers(traces: pd.DataFrame) -> Numbers:
    """Return how straight e is, and what half of the steps leave of it."""
    return (
        _ends("r2", linearity(traces)["r_squared"])
        | _ends("half", halving(traces)["halved"])
        | _ends("end", halves_at_the_end(traces))
        | {"parabola": parabola(traces)}
    )


def bound_numbers(points: pd.DataFrame, *, smooth: str) -> Numbers:
    """Return the powers of ten over which each form of e over v runs, and how tight e* is.

    Args:
        points: What :func:`~unrolling.studies.unlearning_error.frames.reach` returns.
        smooth: The network without kinks, of which the tightness is taken at sizes below 1.
    """
    tight = points[(points["model"] == smooth) & (points["size"] < 1)]
    ratios = {column: points[column] / points["v"] for column in FORMS}
    spans = {f"span-{name}": float(np.log10(ratio.max() / ratio.min())) for name, ratio in ratios.items()}
    return _ends("tight", tight["e_targeted"] / tight["v"]) | spans


def reach_numbers(points: pd.DataFrame, stored: pd.DataFrame, traces: pd.DataFrame) -> Numbers:
    """Return where the update does harm, and where the runs of Figure 3 end.

    Args:
        points: What :func:`~unrolling.studies.unlearning_error.frames.reach` returns of the page's runs.
        stored: The same of the stored runs on photographs.
        traces: The traces of the runs of Figure 3.
    """
    final = reach(traces[traces["step"] == traces["step"].max()])
    large = points.loc[points["size"] > 10, "ratio"]
    return (
        _ends("harm", break_even(points)["size"].dropna())
        | {"harm-cifar-low": float(break_even(stored)["size"].min())}
        | {"large-share": float(100 * (large >= 1).mean()), "large-median": float(large.median())}
        | {"fig3-small": float(final["size"].min()), "fig3-size": float(final["size"].max())}
        | _ends("fig3", final["ratio"])
    )


def unsettled_numbers(runs: Sequence[Record]) -> Numbers:
    """Return in how many runs, and of how many, some sample of sigma did not meet its tolerance."""
    return {"unsettled": sum(not run.result["sigma_converged"] for run in runs), "all-runs": len(runs)}


def reading_numbers(
    errors: dict[str, pd.DataFrame], relative: dict[str, pd.DataFrame], *, plain: str, normed: str
) -> Numbers:
    """Return how far the readings of sigma lie apart, without and with batch norm.

    Args:
        errors: By network, e under each reading over the steps.
        relative: By network, the same over the e of the page, with end, low and high.
        plain: The network without batch norm.
        normed: The one with it.
    """
    apart, close = relative[normed], relative[plain].drop(index="root of it")
    growth = errors[normed].iloc[-1] / errors[normed].iloc[0]
    return {
        "w0-end": float(1 / apart.loc["at w_0", "end"]),
        "train-first": float(apart.loc["training mode", "high"]),
        "train-end": float(apart.loc["training mode", "end"]),
        "growth-eval": float(growth[THIS_PAGE]),
        "growth-train": float(growth["training mode"]),
        "tanh-low": float(close["low"].min()),
        "tanh-high": float(close["high"].max()),
    }


def spread_numbers(spread: pd.DataFrame) -> Numbers:
    """Return how many samples 10 % needs, and after the last epoch how sigma goes with the batch's loss."""
    last = spread[spread["epochs"] == spread["epochs"].max()].set_index("network")["with_loss"]
    return {
        "k-low": int(spread["needed"].min()),
        "k-high": int(spread["needed"].max()),
        "steep-mlp": float(last["mlp"]),
        "steep-vgg": float(last["vgg-small"]),
    }
