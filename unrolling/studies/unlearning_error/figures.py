"""The figures of the two pages: panels on axes, then whole figures; every run and every batch is visible."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unrolling.plotting import REFERENCE, ink

#: Markers of networks, in their order.
MARKERS = ("o", "s", "^", "D")
#: Dashes and marker of each reading of sigma, this page's first.
READINGS = {
    "this page": ("", "o"),
    "root of it": ((4, 2), "s"),
    "fixed images": ((5, 1, 1, 1), "^"),
    "training mode": ((1, 1), "D"),
    "at w_0": ((3, 2), "v"),
    "at w_0, training mode": ((1, 2), "P"),
}
_SIZE = r"$\eta \, t \, \sigma_{avg}$"


def _hollow(size: float) -> dict[str, Any]:
    """Return the look of hollow markers in the text colour, which overlap without hiding each other."""
    return {"markersize": size, "markerfacecolor": "none", "markeredgecolor": ink(), "lw": 1}


def error_over_steps(traces: pd.DataFrame, ax: Axes) -> Axes:
    """Draw e over the steps, a line per seed, and a growth in proportion that ends at the same mean.

    Args:
        traces: Of one setting, with the columns step, seed and e.
        ax: Where to draw.
    """
    last = traces["step"].max()
    end = traces.loc[traces["step"] == last, "e"].mean()
    ax.plot([0, last], [0, end], **REFERENCE, label="proportional to $t$")
    look = {"marker": "o", "markersize": 3.5, "markeredgewidth": 0, "lw": 1, "color": ink()}
    sns.lineplot(traces, x="step", y="e", units="seed", estimator=None, ax=ax, legend=False, **look)
    ax.set(xlim=(0, None), ylim=(0, None), xlabel="SGD step $t$", ylabel="$e$ (Eq. 9)")
    return ax


def error_by_reading(errors: pd.DataFrame, ax: Axes, *, legend: bool) -> Axes:
    """Draw e over the steps under each reading of sigma, on a logarithmic scale.

    Args:
        errors: A row per step, a column per reading, those of :data:`READINGS`.
        ax: Where to draw.
        legend: Whether to name the readings.
    """
    long = errors.rename_axis(columns="reading").stack().rename("e").reset_index()
    dashes, markers = ({name: look[part] for name, look in READINGS.items()} for part in (0, 1))
    names = {"style": "reading", "style_order": list(READINGS), "dashes": dashes, "markers": markers}
    sns.lineplot(long, x="step", y="e", ax=ax, color=ink(), legend=legend, **names, **_hollow(4))
    ax.set(yscale="log", xlabel="SGD step $t$", ylabel="$e$ (Eq. 9)")
    if legend:
        handles, labels = ax.get_legend_handles_labels()
        ax.legend(handles, [label.replace("w_0", r"$\mathbf{w}_0$") for label in labels])
    return ax


def _by_network(points: pd.DataFrame, ax: Axes, y: str, *, legend: bool) -> None:
    networks = list(dict.fromkeys(points["model"]))
    for network, marker in zip(networks, MARKERS, strict=False):
        sns.scatterplot(
            points[points["model"] == network],
            x="size",
            y=y,
            marker=marker,
            s=14,
            facecolor="none",
            edgecolor=ink(),
            linewidth=0.7,
            label=network,
            legend=False,
            ax=ax,
        )
    ax.axhline(1, **REFERENCE)
    ax.set(xscale="log", xlabel=_SIZE)
    if legend:
        ax.legend()


def error_over_size(points: pd.DataFrame, ax: Axes, form: str, *, legend: bool) -> Axes:
    r"""Draw a form of the unlearning error relative to v over the size of the training.

    Args:
        points: What :func:`~unrolling.studies.unlearning_error.frames.reach` returns.
        ax: Where to draw.
        form: The column of the form, for example e_targeted.
        legend: Whether to name the networks.
    """
    _by_network(points.assign(relative=points[form] / points["v"]), ax, "relative", legend=legend)
    ax.set(yscale="log", ylabel="relative to $v$")
    return ax


def harm_over_size(points: pd.DataFrame, ax: Axes, *, legend: bool) -> Axes:
    r"""Draw v relative to doing nothing over the size of the training, and that size itself up to 1.

    Args:
        points: What :func:`~unrolling.studies.unlearning_error.frames.reach` returns.
        ax: Where to draw.
        legend: Whether to name the networks.
    """
    _by_network(points, ax, "ratio", legend=legend)
    rising = np.geomspace(points["size"].min(), 1)
    ax.plot(rising, rising, **REFERENCE)
    ax.set(ylim=(0, None), ylabel="$v$ / $v$ of doing nothing")
    return ax


def _labels(samples: pd.DataFrame) -> pd.Series:
    return samples["network"] + ", " + samples["epochs"].map(lambda n: f"{n} epoch{'s' * (n > 1)}")


def sigma_strips(samples: pd.DataFrame, ax: Axes) -> Axes:
    """Draw sigma of every batch relative to the median, a strip per network and number of epochs.

    Args:
        samples: With the columns network, epochs and sigma, a row per batch.
        ax: Where to draw.
    """
    median = samples.groupby(["network", "epochs"])["sigma"].transform("median")
    shown = samples.assign(relative=samples["sigma"] / median, strip=_labels(samples).str.replace(", ", "\n"))
    strips = list(dict.fromkeys(shown["strip"]))
    for strip, marker in zip(strips, MARKERS, strict=False):
        own = shown[shown["strip"] == strip]
        look = {"marker": marker, "size": 4, "facecolor": "none", "edgecolor": ink(), "linewidth": 1}
        sns.stripplot(own, x="relative", y="strip", order=strips, jitter=False, ax=ax, **look)
    ax.set(xlabel=r"$\sigma$ of a batch / median", ylabel="")
    return ax


def error_over_samples(errors: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the relative error of a mean over the samples in it, drawn as markers and by the rule as lines.

    Args:
        errors: What :func:`~unrolling.studies.unlearning_error.spread.error_of_mean` returns.
        ax: Where to draw.
    """
    shown = errors.assign(pool=_labels(errors))
    dashes = dict(zip(dict.fromkeys(shown["pool"]), ("", (4, 2), (5, 1, 1, 1), (1, 1)), strict=False))
    markers = dict(zip(dashes, MARKERS, strict=False))
    common = {"x": "samples", "style": "pool", "color": ink(), "ax": ax, "legend": False}
    sns.lineplot(shown, y="rule", dashes=dashes, lw=1, **common)
    for pool, marker in markers.items():
        own = shown[shown["pool"] == pool]
        ax.plot(own["samples"], own["error"], marker, mfc="none", color=ink(), ms=4, label=pool)
    ax.axhline(0.1, **REFERENCE)
    ax.set(xscale="log", yscale="log", xlabel="samples in the mean", ylabel="relative error (r.m.s.)")
    ax.legend()
    return ax


# Whole figures


def growth_figure(traces: pd.DataFrame, fig: Figure) -> None:
    """Draw :func:`error_over_steps` for each of four settings."""
    panels = traces.groupby("setting", sort=False)
    for ax, (setting, own) in zip(fig.subplots(2, 2).flat, panels, strict=True):
        error_over_steps(own, ax).set_title(setting)
    fig.axes[0].legend()


def bound_figure(points: pd.DataFrame, fig: Figure) -> None:
    """Draw :func:`error_over_size` for the three forms of the unlearning error."""
    forms = {"e": "$e$", "e_corrected": r"$e / \eta$", "e_targeted": "$e_*$"}
    for ax, (form, title) in zip(fig.subplots(1, 3, sharey=True), forms.items(), strict=True):
        error_over_size(points, ax, form, legend=form == "e").set_title(f"{title} / $v$")
    _label_once(fig)


def reach_figure(frames: Mapping[str, pd.DataFrame], fig: Figure) -> None:
    """Draw :func:`harm_over_size` for each frame under its title."""
    for i, (ax, (title, points)) in enumerate(
        zip(fig.subplots(1, len(frames), sharey=True), frames.items(), strict=True)
    ):
        harm_over_size(points, ax, legend=i == 0).set_title(title)
    _label_once(fig)


def readings_figure(errors: Mapping[str, pd.DataFrame], fig: Figure) -> None:
    """Draw :func:`error_by_reading` for each network; the first panel names the readings."""
    for ax, (network, frame) in zip(fig.subplots(1, len(errors)), errors.items(), strict=True):
        error_by_reading(frame, ax, legend=network == next(iter(errors))).set_title(network)
    _label_once(fig)


def samples_figure(samples: pd.DataFrame, errors: pd.DataFrame, fig: Figure) -> None:
    """Draw :func:`sigma_strips` and, beside it, :func:`error_over_samples`."""
    left, right = fig.subplots(1, 2)
    sigma_strips(samples, left)
    error_over_samples(errors, right)


def _label_once(fig: Figure) -> None:
    """Keep the label of the first vertical axis, which the others share."""
    for ax in fig.axes[1:]:
        ax.set_ylabel("")
