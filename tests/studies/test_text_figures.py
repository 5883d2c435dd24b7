"""The figures of the pages on text show every run, and the printed rows where either unit puts them."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from unrolling.plotting import ink, theme
from unrolling.studies.printed import printed_rows
from unrolling.studies.text.figures import accuracy_over_epochs, over_strength, side_by_side
from unrolling.studies.text.frames import relative


def runs():
    """Return three seeds in both units, like Table 2 but for a factor per seed."""
    frames = [
        printed_rows("table2").assign(
            loss=loss, seed=seed, v_nothing=1.0 + seed, v=lambda f, s=seed: f["v"] * 2**s
        )
        for loss in ("sd", "sd_released")
        for seed in range(3)
    ]
    return pd.concat([relative(frame) for frame in frames])


def legend(fig):
    return [text.get_text() for text in fig.legends[0].get_texts()]


def test_table_2_over_the_strength_has_a_marker_for_each_run_in_each_panel():
    rows, fig = runs(), Figure()
    over_strength(rows, fig)
    for ax, column in zip(fig.axes, ("e_ratio", "v_ratio", "against_nothing", "percent"), strict=True):
        for points, loss in zip(ax.collections, ("sd", "sd_released"), strict=True):
            own = rows[rows["loss"] == loss]
            np.testing.assert_allclose(points.get_offsets(), own[["strength", column]])
            assert points.get_facecolor().size == 0  # so that markers beneath others are seen
        circle, square = (points.get_paths()[0] for points in ax.collections)
        assert len(circle.vertices) != len(square.vertices)
    assert [ax.get_yscale() for ax in fig.axes] == ["log"] * 3 + ["linear"]
    assert legend(fig) == [
        "here, γ of Eq. 10",
        "here, γ released",
        "Table 2 in Eq. 10's units",
        "Table 2 in the released units",
    ]


def test_table_2_stands_where_either_unit_puts_it():
    fig = Figure()
    over_strength(runs(), fig)
    printed = printed_rows("table2")
    own, released, *_ = fig.axes[3].lines
    for line, weaker in ((own, 1), (released, np.sqrt(2))):
        np.testing.assert_allclose(line.get_xdata(), printed["gamma"] / weaker)
        np.testing.assert_allclose(line.get_ydata(), 100 * printed["accuracy"])
    assert own.get_linestyle() != released.get_linestyle()
    lines = [len(ax.lines) for ax in fig.axes]
    assert lines == [3, 3, 2, 3]  # the collapse in all, doing nothing in the third, where nothing is printed


@pytest.mark.parametrize("page", ["light", "dark"])
def test_runs_have_the_ink_of_the_page(page):
    with theme(page):
        fig = Figure()
        over_strength(runs(), fig)
        assert {to_hex(c.get_edgecolor()[0]) for ax in fig.axes for c in ax.collections} == {ink()}


def test_figure_10_joins_the_means_over_seeds_in_the_order_of_the_strengths():
    rows, fig = runs(), Figure()
    own = rows[rows["loss"] == "sd"]
    side_by_side({"ours": own, "printed": printed_rows("table2")}, fig)
    for ax, frame, factor in ((fig.axes[0], own, 7 / 3), (fig.axes[1], printed_rows("table2"), 1)):
        *markers, line = ax.lines
        assert sum(len(marker.get_xdata()) for marker in markers) == len(frame)
        np.testing.assert_allclose(line.get_xdata(), printed_rows("table2")["e"])
        np.testing.assert_allclose(line.get_ydata(), factor * printed_rows("table2")["v"])
    assert [ax.get_title() for ax in fig.axes] == ["ours", "printed"]
    assert {(ax.get_xscale(), ax.get_yscale()) for ax in fig.axes} == {("log", "log")}
    assert fig.axes[0].get_xlabel() == "unlearning error $e$ (Eq. 9)"
    assert legend(fig) == [f"γ = {gamma:g}" for gamma in printed_rows("table2")["gamma"]]


def test_every_seed_has_a_line_with_markers_of_its_own():
    epochs = pd.DataFrame(
        {"seed": [0, 0, 1, 1, 2, 2], "epoch": [1, 2] * 3, "percent": [80.0, 81, 82, 83, 84, 85]}
    )
    ax = Figure().subplots()
    accuracy_over_epochs(epochs, ax)
    lines = [line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_marker() in "osD"]
    assert [list(line.get_ydata()) for line in lines] == [[80, 81], [82, 83], [84, 85]]
    assert len({line.get_marker() for line in lines}) == 3
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["seed 0", "seed 1", "seed 2"]
    assert ax.get_ylabel() == "test accuracy, %"
