r"""Figures as ``(DataFrame, ax) -> ax``: one style, one colour per strength gamma, every seed visible.

A frame is in long form: columns ``gamma`` (in the units of Eq. 10), ``seed``, and whatever is drawn
(``step``, ``e``, ``v``, ...).
"""

import math
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from unrolling._checks import InputError, check_integer, check_real
from unrolling.intervals import interval, ratio_interval

# Every colour between these anchors keeps a contrast of 3:1 with a white and with a near-black page, and
# goes from blue to yellow, the one direction that every kind of red-green blindness leaves in order.
GAMMA_MAP = LinearSegmentedColormap.from_list(
    "gamma", ["#2a78e4", "#8a63d2", "#c74a94", "#d8561f", "#bd8400"]
)
NO_PENALTY = "#7f7f7f"
REFERENCE = {"color": NO_PENALTY, "linestyle": (0, (2, 2)), "linewidth": 1.2}

# Blue for nearer to exact unlearning, orange for further away than doing nothing: the same direction.
LEFT_MAP = LinearSegmentedColormap.from_list("left", ["#1c4f8f", "#6c9fd4", "#ebe9e4", "#e59a3c", "#8a4b08"])
LEFT_RANGE = (0.01, 100.0)  # what lies beyond has the colour of the end

_EFFECT = "#2a78e4"

LABELS = {
    "step": "SGD step $t$",
    "gamma": r"strength $\gamma$ (units of Eq. 10)",
    "e": "unlearning error $e$ (Eq. 9)",
    "v": r"verification error $v$",
    "weight_change": r"weight change $\|\mathbf{w}_t - \mathbf{w}_0\|_2$",
}

_STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "font.size": 10,
    "axes.titlesize": 10,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "mathtext.fontset": "dejavusans",
}
_INK = {"light": ("#1f2328", "#d5d9de"), "dark": ("#e4e6e9", "#3d4248")}  # text, grid
_LINES = ["--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2))]  # solid is for no penalty
_MARKERS = ["s", "^", "D", "v", "P", "X"]


@contextmanager
def theme(name: str) -> Iterator[None]:
    """Apply the book's matplotlib style for the ``"light"`` or ``"dark"`` page, on a clear background."""
    if name not in _INK:
        raise InputError(f"unknown theme {name!r}: expected one of {', '.join(_INK)}.")
    ink, grid = _INK[name]
    inked = ["text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"]
    with mpl.rc_context(_STYLE | dict.fromkeys(inked, ink) | {"grid.color": grid}):
        yield


def ink() -> str:
    """Return the text colour of the theme in use, for lines that stand for no gamma."""
    return mpl.rcParams["text.color"]


def gamma_color(gamma: float, num_classes: int) -> str:
    r"""Return the colour of strength ``gamma``, the same in every figure.

    The position on the map is :math:`\sqrt{\gamma / \gamma^*}` with :math:`\gamma^* = \sqrt{c - 1}`, where
    equal logits become optimal; the root spreads the small strengths. All of :math:`\gamma \ge \gamma^*`
    shares the last colour, and 0 (no penalty) has a grey of its own.

    Args:
        gamma: Strength >= 0, in the units of Eq. 10.
        num_classes: The number of classes c.

    Example:
        >>> gamma_color(0.0, 10)
        '#7f7f7f'
        >>> gamma_color(0.5, 2) == gamma_color(1.5, 10)  # both are half of gamma*
        True
    """
    check_real("gamma", gamma, minimum=0)
    check_integer("num_classes", num_classes, minimum=2)
    if gamma == 0:
        return NO_PENALTY
    return to_hex(GAMMA_MAP(min(1.0, math.sqrt(gamma / math.sqrt(num_classes - 1)))))


def gamma_styles(gammas: Iterable[float], num_classes: int) -> dict[float, dict]:
    """Return ``{gamma: {"color", "linestyle", "marker"}}``: line and marker repeat what the colour says."""
    positive = sorted({float(gamma) for gamma in gammas} - {0.0})
    styles = {0.0: {"color": NO_PENALTY, "linestyle": "-", "marker": "o"}} if 0.0 in set(gammas) else {}
    for i, gamma in enumerate(positive):
        styles[gamma] = {
            "color": gamma_color(gamma, num_classes),
            "linestyle": _LINES[i % len(_LINES)],
            "marker": _MARKERS[i % len(_MARKERS)],
        }
    return styles


def _check_columns(frame: pd.DataFrame, *columns: str) -> None:
    absent = [column for column in columns if column not in frame.columns]
    if absent:
        raise InputError(
            f"`frame` must have the columns {', '.join(columns)}; {', '.join(absent)} is not among "
            f"{', '.join(map(str, frame.columns))}."
        )


def lines_over_steps(frame: pd.DataFrame, ax: Axes, y: str, *, num_classes: int) -> Axes:
    """Draw column ``y`` over ``step``: one thin line per seed, coloured by gamma.

    Args:
        frame: Long form with columns gamma, seed, step and ``y``.
        ax: Where to draw.
        y: The column to draw.
        num_classes: The number of classes c, which fixes the colours (see :func:`gamma_color`).
    """
    _check_columns(frame, "gamma", "seed", "step", y)
    styles = gamma_styles(frame["gamma"], num_classes)
    for gamma, style in styles.items():
        label = f"γ = {gamma:g}"
        for _, run in frame[frame["gamma"] == gamma].groupby("seed"):
            run = run.sort_values("step")
            ax.plot(
                run["step"], run[y], color=style["color"], linestyle=style["linestyle"], lw=1.2, label=label
            )
            label = None  # one entry per gamma in the legend
    ax.set(xlabel=LABELS["step"], ylabel=LABELS.get(y, y))
    ax.legend()
    return ax


def points_over_gamma(frame: pd.DataFrame, ax: Axes, y: str, *, num_classes: int) -> Axes:
    """Draw column ``y`` over gamma: every seed a dot, the mean over seeds a dash, its 95 % t-interval a bar.

    Args:
        frame: Long form with columns gamma, seed and ``y``: one row per run.
        ax: Where to draw.
        y: The column to draw.
        num_classes: The number of classes c, which fixes the colours (see :func:`gamma_color`).
    """
    _check_columns(frame, "gamma", "seed", y)
    for gamma, style in gamma_styles(frame["gamma"], num_classes).items():
        values = frame.loc[frame["gamma"] == gamma, y].to_numpy(dtype=float)
        ax.plot(
            np.full(values.size, gamma),
            values,
            color=style["color"],
            marker=style["marker"],
            linestyle="none",
            alpha=0.6,
            markersize=5,
        )
        mean, low, high = interval(values)
        ax.vlines(gamma, low, high, color=style["color"], lw=2)
        ax.plot([gamma], [mean], color=style["color"], marker="_", markersize=14, markeredgewidth=2)
    ax.set(xlabel=LABELS["gamma"], ylabel=LABELS.get(y, y))
    return ax


def unlearning_vs_verification(
    frame: pd.DataFrame, ax: Axes, *, num_classes: int, x: str = "e", y: str = "v"
) -> Axes:
    """Draw verification error over unlearning error, one marker per run, both axes logarithmic.

    Args:
        frame: Long form with columns gamma, ``x`` and ``y``: one row per run.
        ax: Where to draw.
        num_classes: The number of classes c, which fixes the colours (see :func:`gamma_color`).
        x: The column with the unlearning error.
        y: The column with the verification error.
    """
    _check_columns(frame, "gamma", x, y)
    for gamma, style in gamma_styles(frame["gamma"], num_classes).items():
        runs = frame[frame["gamma"] == gamma]
        ax.plot(
            runs[x],
            runs[y],
            color=style["color"],
            marker=style["marker"],
            linestyle="none",
            label=f"γ = {gamma:g}",
        )
    ax.set(xscale="log", yscale="log", xlabel=LABELS.get(x, x), ylabel=LABELS.get(y, y))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    ax.legend()
    return ax


def overview(frame: pd.DataFrame, fig: Figure, *, num_classes: int) -> Figure:
    """Draw what the SD loss does to e, to v, and to v relative to doing nothing, over gamma, side by side.

    Args:
        frame: One row per run with columns gamma, seed, e, v and v_nothing.
        fig: An empty figure.
        num_classes: The number of classes c, which fixes the colours (see :func:`gamma_color`).
    """
    relative = frame.assign(ratio=frame["v"] / frame["v_nothing"])
    titles = {
        "e": "Proxy",
        "v": "Distance to retraining",
        "ratio": "Against doing nothing",
    }
    for ax, (column, title) in zip(fig.subplots(1, 3), titles.items(), strict=True):
        points_over_gamma(relative, ax, column, num_classes=num_classes)
        ax.set(title=title, ylim=(0, None))
    ax.axhline(1, **REFERENCE)
    ax.set_ylabel("$v$ / $v$ of doing nothing")
    return fig


def forest(frame: pd.DataFrame, ax: Axes, *, none: float, log: bool = False) -> Axes:
    """Draw an effect per row: every seed a dot, the mean over seeds a dash, its 95 % t-interval a bar.

    Args:
        frame: Long form with columns label, seed and value. Labels stand from top to bottom in their order;
            a NaN is not drawn, and a label with nothing else keeps its empty row.
        ax: Where to draw.
        none: The value of no effect, a dashed line.
        log: For ratios: logarithmic axis, geometric mean, and the interval of the logarithms.
    """
    _check_columns(frame, "label", "seed", "value")
    labels = list(dict.fromkeys(frame["label"]))
    for row, label in enumerate(labels):
        values = frame.loc[frame["label"] == label, "value"].dropna().to_numpy(dtype=float)
        if not len(values):
            continue
        mean, low, high = ratio_interval(values) if log else interval(values)
        ax.plot(values, np.full(values.size, row), marker="o", ms=3.5, ls="none", alpha=0.5, color=_EFFECT)
        ax.hlines(row, low, high, color=_EFFECT, lw=2)
        ax.plot([mean], [row], color=_EFFECT, marker="|", ms=10, mew=2)
    ax.axvline(none, **REFERENCE)
    if log:
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:g}")
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    return ax


def matrix(cells: pd.DataFrame, ax: Axes) -> Axes:
    """Draw metrics by methods: a number in each cell, and how far it is from exact unlearning as its colour.

    The colour is the column ``left``, on a logarithmic scale: 1, grey, is as far as doing nothing. A cell
    without colour has a metric that cannot tell doing nothing from retraining; a dash stands where the metric
    has no value for this method, a cross where the method does not apply at all. Numbers have two significant
    digits, or one where two take too much room.

    Args:
        cells: One row per method and metric, with the columns method, metric, space, value and left, in the
            order of the figure. Metrics of one ``space`` stand together.
        ax: Where to draw. Its figure also gets the scale. A cell needs about 0.4 by 0.25 inches.
    """
    _check_columns(cells, "method", "metric", "space", "value", "left")
    methods, metrics = (list(dict.fromkeys(cells[name])) for name in ("method", "metric"))
    table = cells.set_index(["metric", "method"])
    left = table["left"].unstack().loc[metrics, methods].to_numpy(dtype=float)
    shown = ax.imshow(
        np.ma.masked_invalid(np.clip(left, *LEFT_RANGE)),
        cmap=LEFT_MAP,
        norm=LogNorm(*LEFT_RANGE),
        aspect="auto",
    )
    applies = cells["value"].notna().groupby(cells["method"]).any()
    for row, metric in enumerate(metrics):
        for column, method in enumerate(methods):
            value, share = table.loc[(metric, method), ["value", "left"]]
            mark = "–" if applies[method] else "×"
            ax.text(
                column,
                row,
                _short(value) if pd.notna(value) else mark,
                ha="center",
                va="center",
                fontsize=8,
                color=ink() if np.isnan(share) else _readable_on(shown.to_rgba(share)),
            )
    spaces = cells.drop_duplicates("metric").groupby("space", sort=False).size()
    ends = spaces.cumsum()
    for space, end in ends.items():
        middle = end - spaces[space] / 2 - 0.5
        ax.text(len(methods) - 0.35, middle, space, rotation=270, ha="left", va="center", fontsize=8.5)
        if end < len(metrics):
            ax.axhline(end - 0.5, color=ink(), lw=0.8)
    ax.xaxis.tick_top()
    titles = [name.replace("_", " ") for name in methods]
    ax.set_xticks(range(len(methods)), titles, rotation=50, ha="left", rotation_mode="anchor", fontsize=9)
    titles = ["\n".join(textwrap.wrap(name.replace("_", " "), 18)) for name in metrics]
    ax.set_yticks(range(len(metrics)), titles, fontsize=8.5, linespacing=1.15)
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    bar = ax.figure.colorbar(
        shown, ax=ax, location="bottom", fraction=0.02, pad=0.01, aspect=60, ticks=[0.01, 0.1, 1, 10, 100]
    )
    bar.ax.set_xticklabels(["0.01 or exact", "0.1", "1: as nothing", "10", "100 or more"], fontsize=9)
    bar.outline.set_visible(False)
    return ax


def _short(value: float) -> str:
    """Return a number in at most four characters besides its sign, five with an exponent of two digits."""
    size = abs(value)
    if size and not 0.01 <= size < 1000:
        mantissa, exponent = f"{size:.0e}".split("e")
        text = f"{mantissa}e{int(exponent)}"
    else:
        two = f"{size:.0f}" if size >= 100 else f"{size:.2g}"
        text = two if len(two) <= 4 else f"{size:.1g}"
    return ("-" * (value < 0) + text).replace("-", "−")


def _readable_on(color: tuple[float, float, float, float]) -> str:
    """Return black or white, whichever has the higher contrast with an opaque colour."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if luminance > 0.179 else "white"
