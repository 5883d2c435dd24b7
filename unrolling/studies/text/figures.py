"""The figures of the pages on text: Table 2 over the strengths, Figure 10, and accuracy over the epochs."""

from collections.abc import Mapping
from itertools import cycle

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from unrolling.losses import collapse_gamma, gamma_from_released
from unrolling.plotting import GAMMA_MAP, REFERENCE, ink, unlearning_vs_verification
from unrolling.studies.frames import seed_means
from unrolling.studies.printed import printed_rows
from unrolling.studies.text.frames import relative

#: What the points of a figure are, for who downloads them.
POINTS = ["loss", "gamma", "strength", "seed", "e", "v", "v_nothing", "accuracy"]

_PANELS = {
    "e_ratio": "$e / e(0)$",
    "v_ratio": "$v / v(0)$",
    "against_nothing": "$v$ / $v$ of doing nothing",
    "percent": "accuracy of $M_{N+t}$, %",
}
_UNITS = {"sd": "here, γ of Eq. 10", "sd_released": "here, γ released"}


def over_strength(runs: pd.DataFrame, fig: Figure) -> None:
    """Draw Table 2 over the strength: a marker per run, and the printed rows as lines, in both units.

    Args:
        runs: What :func:`~unrolling.studies.text.frames.relative` returns, of both units.
        fig: An empty figure.
    """
    axes = fig.subplots(2, 2)
    for ax, (column, label) in zip(axes.flat, _PANELS.items(), strict=True):
        _points(runs, ax, column)
        if column != "against_nothing":  # not printed
            _printed_lines(ax, column)
        ax.axvline(collapse_gamma(2), **REFERENCE)
        ax.set(xlabel="strength γ (units of Eq. 10)", ylabel=label)
        if column != "percent":
            ax.set_yscale("log")
    nothing = axes[1, 0]
    nothing.axhline(1, **REFERENCE)
    nothing.set_yticks([0.2, 0.5, 1, 2, 4], ["0.2", "0.5", "1", "2", "4"])
    nothing.minorticks_off()
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)


def _points(runs: pd.DataFrame, ax: Axes, column: str) -> None:
    for (loss, name), marker in zip(_UNITS.items(), "os", strict=True):
        sns.scatterplot(
            runs[runs["loss"] == loss],
            x="strength",
            y=column,
            marker=marker,
            facecolor="none",
            edgecolor=ink(),
            linewidth=1,
            s=16,
            label=name,
            legend=False,
            ax=ax,
        )


def _printed_lines(ax: Axes, column: str) -> None:
    printed = relative(printed_rows("table2"))
    weaker = printed.assign(strength=[gamma_from_released(gamma, 2) for gamma in printed["gamma"]])
    for rows, style, units in ((printed, "-", "Eq. 10's"), (weaker, "--", "the released")):
        sns.lineplot(
            rows,
            x="strength",
            y=column,
            estimator=None,
            linestyle=style,
            color=GAMMA_MAP(0.0),
            lw=1,
            label=f"Table 2 in {units} units",
            legend=False,
            ax=ax,
        )


def side_by_side(panels: Mapping[str, pd.DataFrame], fig: Figure) -> None:
    """Draw Figure 10 of several settings: v over e, a marker per run, a line through the means over seeds.

    Args:
        panels: A row per run of one setting, or the printed rows, by the panel's title.
        fig: An empty figure.
    """
    axes = fig.subplots(1, len(panels))
    for ax, (title, rows) in zip(axes, panels.items(), strict=True):
        unlearning_vs_verification(rows, ax, num_classes=2)
        means = seed_means(rows, ["e", "v"]).sort_values("gamma")
        sns.lineplot(means, x="e", y="v", sort=False, estimator=None, color=ink(), lw=0.8, ax=ax)
        ax.set_title(title)
        ax.get_legend().remove()
        # Where a label every 1, 2, 5 would be too many
        if rows["e"].max() > 100 * rows["e"].min():
            ax.xaxis.set_major_locator(LogLocator())
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=7)


def accuracy_over_epochs(epochs: pd.DataFrame, ax: Axes) -> None:
    """Draw the accuracy over the epochs, a line with markers of its own per seed; the third epoch is dotted.

    Args:
        epochs: In long form: seed, epoch and percent, a row per seed and epoch.
        ax: Where to draw.
    """
    names = epochs["seed"].map("seed {}".format)
    sns.lineplot(
        epochs,
        x="epoch",
        y="percent",
        estimator=None,
        style=names,
        markers=dict(zip(names.unique(), cycle("osD^v"), strict=False)),
        dashes=False,
        markeredgewidth=0,
        color=ink(),
        lw=0.8,
        ax=ax,
    )
    ax.axvline(3, **REFERENCE)
    ax.set(xlabel="epoch", ylabel="test accuracy, %")
    ax.legend(title="")
