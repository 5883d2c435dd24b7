"""The figures show every seed, every point and every batch, with a marker for each network and a name."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from unrolling.plotting import NO_PENALTY, ink, theme
from unrolling.studies.unlearning_error import figures

STEPS = np.arange(1, 6)
POINTS = pd.DataFrame(
    {"model": ["mlp"] * 3 + ["vgg-small"] * 2, "size": [0.1, 1.0, 10.0, 0.2, 2.0]}
    | {"ratio": [0.1, 0.5, 1.2, 0.3, 0.9], "v": 2.0, "e": [1.0, 2.0, 4.0, 6.0, 8.0]}
    | {"e_corrected": 3.0, "e_targeted": 5.0}
)
SAMPLES = pd.DataFrame(
    {"network": ["mlp"] * 3 + ["vgg-small"] * 3, "epochs": [1] * 3 + [5] * 3}
    | {"sigma": [1.0, 2.0, 4.0, 3.0, 3.0, 30.0]}
)
MEANS = pd.DataFrame(
    {"network": ["mlp"] * 2 + ["vgg-small"] * 2, "epochs": [1, 1, 5, 5], "samples": [1, 4] * 2}
    | {"error": [0.5, 0.25, 1.0, 0.5], "rule": [0.4, 0.2, 0.9, 0.45]}
)


@pytest.fixture(params=["light", "dark"], autouse=True)
def page(request):
    with theme(request.param):
        yield request.param


def axes():
    return Figure(layout="constrained").subplots()


def lines(ax):
    """Return the points of each line on the axes, those of legends and empty ones left out."""
    return [line.get_xydata() for line in ax.lines if len(line.get_xydata())]


def names(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def traces(seeds=3):
    return pd.concat(
        [
            pd.DataFrame({"step": STEPS, "e": (seed + 1) * STEPS**2, "seed": seed, "setting": setting})
            for setting in "abcd"
            for seed in range(seeds)
        ]
    )


def test_every_seed_has_its_line_and_the_reference_ends_at_their_mean():
    own = traces()[traces()["setting"] == "a"]
    ax = figures.error_over_steps(own, axes())
    reference, *seeds = lines(ax)
    assert reference.tolist() == [[0, 0], [5, 2 * 25]]
    assert len(seeds) == 3
    for seed, line in enumerate(seeds):
        assert line.tolist() == [[t, (seed + 1) * t**2] for t in STEPS]
    assert {line.get_color() for line in ax.lines[1:]} == {ink()}
    assert {line.get_marker() for line in ax.lines[1:]} == {"o"}


def test_every_setting_has_its_panel():
    fig = Figure()
    figures.growth_figure(traces(), fig)
    assert [ax.get_title() for ax in fig.axes] == list("abcd")
    assert {len(lines(ax)) for ax in fig.axes} == {4}
    assert names(fig.axes[0]) == ["proportional to $t$"]


def test_readings_differ_in_dashes_and_markers_and_are_named():
    errors = pd.DataFrame(
        {name: STEPS * (k + 1.0) for k, name in enumerate(figures.READINGS)}, index=STEPS
    ).rename_axis("step")
    fig = Figure()
    figures.readings_figure({"x": errors, "y": errors}, fig)
    for ax in fig.axes:
        drawn = [line for line in ax.lines if len(line.get_xydata())]
        assert [line.get_xydata().tolist() for line in drawn] == [
            [[t, t * (k + 1)] for t in STEPS] for k in range(6)
        ]
        looks = {(line.get_marker(), str(line._dash_pattern)) for line in drawn}
        assert len(looks) == 6 == len({line.get_marker() for line in drawn})
        assert {to_hex(line.get_color()) for line in drawn} == {to_hex(ink())}
        assert {line.get_markerfacecolor() for line in drawn} == {"none"}
        assert ax.get_yscale() == "log"
    assert names(fig.axes[0]) == [name.replace("w_0", r"$\mathbf{w}_0$") for name in figures.READINGS]
    assert fig.axes[1].get_legend() is None
    assert [ax.get_title() for ax in fig.axes] == ["x", "y"]


def points(ax):
    return [np.asarray(part.get_offsets()).tolist() for part in ax.collections]


def test_every_point_stands_over_its_size_with_its_networks_marker():
    ax = figures.error_over_size(POINTS, axes(), "e", legend=True)
    assert points(ax) == [[[0.1, 0.5], [1.0, 1.0], [10.0, 2.0]], [[0.2, 3.0], [2.0, 4.0]]]
    shapes = [part.get_paths()[0].vertices.shape for part in ax.collections]
    assert shapes[0] != shapes[1]
    assert all(len(part.get_facecolor()) == 0 for part in ax.collections)  # hollow
    assert {to_hex(c) for part in ax.collections for c in part.get_edgecolor()} == {to_hex(ink())}
    assert names(ax) == ["mlp", "vgg-small"]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    (one,) = lines(ax)
    assert one[:, 1].tolist() == [1, 1]


def test_the_three_forms_stand_side_by_side_and_are_labelled_once():
    fig = Figure()
    figures.bound_figure(POINTS, fig)
    heights = [[y for part in points(ax) for _, y in part] for ax in fig.axes]
    assert heights == [[0.5, 1, 2, 3, 4], [1.5] * 5, [2.5] * 5]
    assert [ax.get_ylabel() for ax in fig.axes] == ["relative to $v$", "", ""]
    assert [ax.get_legend() is None for ax in fig.axes] == [False, True, True]


def test_harm_is_drawn_beside_the_size_itself():
    fig = Figure()
    figures.reach_figure({"here": POINTS, "there": POINTS.iloc[:2]}, fig)
    here, there = fig.axes
    assert points(here) == [[[0.1, 0.1], [1.0, 0.5], [10.0, 1.2]], [[0.2, 0.3], [2.0, 0.9]]]
    assert points(there) == [[[0.1, 0.1], [1.0, 0.5]]]
    one, rising = lines(here)
    assert one[:, 1].tolist() == [1, 1]
    assert rising[:, 0] == pytest.approx(rising[:, 1])
    assert (rising[0, 0], rising[-1, 0]) == (pytest.approx(0.1), pytest.approx(1))
    assert {line.get_color() for line in here.lines} == {NO_PENALTY}
    assert [ax.get_title() for ax in fig.axes] == ["here", "there"]


def test_every_batch_is_a_mark_on_its_strip_relative_to_the_median():
    fig = Figure()
    figures.samples_figure(SAMPLES, MEANS, fig)
    left, right = fig.axes
    drawn = [offsets for offsets in points(left) if offsets]
    assert drawn == [[[0.5, 0], [1, 0], [2, 0]], [[1, 1], [1, 1], [10, 1]]]
    labels = ["mlp, 1 epoch", "vgg-small, 5 epochs"]
    assert [text.get_text() for text in left.get_yticklabels()] == [s.replace(", ", "\n") for s in labels]
    assert names(right) == labels
    assert [line.tolist() for line in lines(right)][:4] == [
        [[1, 0.4], [4, 0.2]],
        [[1, 0.9], [4, 0.45]],
        [[1, 0.5], [4, 0.25]],
        [[1, 1.0], [4, 0.5]],
    ]
