import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from unrolling._checks import InputError
from unrolling.metrics.intervals import t_interval
from unrolling.plotting import (
    GAMMA_MAP,
    LEFT_MAP,
    NO_PENALTY,
    forest,
    gamma_color,
    gamma_styles,
    ink,
    lines_over_steps,
    matrix,
    points_over_gamma,
    theme,
    unlearning_vs_verification,
)

PAGES = {"light": "#ffffff", "dark": "#121212"}
# Machado, Oliveira & Fernandes (2009), severity 1: what linear RGB becomes without M or L cones.
BLIND = {
    "deuteranopia": "0.367322 0.860646 -0.227968; 0.280085 0.672501 0.047413; -0.01182 0.04294 0.968881",
    "protanopia": "0.152286 1.052583 -0.204868; 0.114503 0.786281 0.099216; -0.003882 -0.048116 1.051998",
}


def linear(color):
    rgb = np.array(to_rgb(color))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def contrast(first, second):
    """WCAG 2 contrast ratio."""
    dark, light = sorted(linear(c) @ [0.2126, 0.7152, 0.0722] for c in (first, second))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("page", PAGES)
def test_every_gamma_is_readable_on_both_pages(page):
    for color in [NO_PENALTY, *map(GAMMA_MAP, np.linspace(0, 1, 101))]:
        assert contrast(color, PAGES[page]) >= 3


@pytest.mark.parametrize("page", PAGES)
def test_text_is_readable_on_its_page(page):
    with theme(page):
        label = Figure().subplots().xaxis.label
        assert contrast(label.get_color(), PAGES[page]) >= 7


@pytest.mark.parametrize("kind", BLIND)
def test_colours_stay_in_order_for_the_colour_blind(kind):
    rows = np.array([row.split() for row in BLIND[kind].split(";")], dtype=float)
    seen = np.clip([rows @ linear(GAMMA_MAP(t)) for t in np.linspace(0, 1, 21)], 0, 1)
    yellow_minus_blue = seen[:, :2].mean(axis=1) - seen[:, 2]
    assert (np.diff(yellow_minus_blue) > 0).all()


def test_a_gamma_has_one_colour_set_by_its_share_of_the_collapse():
    assert gamma_color(0.25, 2) == gamma_color(0.75, 10)
    assert gamma_color(0.25, 2) != gamma_color(0.25, 10)
    assert gamma_color(1.0, 2) == gamma_color(5.0, 2)  # at and beyond the collapse
    assert gamma_color(0.01, 2) != gamma_color(0.1, 2)


def test_no_penalty_has_a_colour_that_no_strength_has():
    assert gamma_color(0, 10) == NO_PENALTY
    distances = [
        np.abs(np.subtract(to_rgb(NO_PENALTY), GAMMA_MAP(t)[:3])).max() for t in np.linspace(0, 1, 101)
    ]
    assert min(distances) > 0.15


def test_styles_tell_strengths_apart_without_colour():
    styles = gamma_styles([0, 1, 0.5, 1, 0.1, 0], num_classes=2)
    assert list(styles) == [0.0, 0.1, 0.5, 1.0]
    assert len({str(style["linestyle"]) for style in styles.values()}) == 4
    assert len({style["marker"] for style in styles.values()}) == 4


@pytest.fixture
def runs():
    rows = [
        {"gamma": gamma, "seed": seed, "step": step, "e": 10 * gamma + seed + step, "v": seed + 1.0}
        for gamma in (0.5, 0.0)
        for seed in (0, 1, 2)
        for step in (2, 0, 1)
    ]
    return pd.DataFrame(rows)


def test_lines_over_steps_shows_every_seed_in_the_order_of_steps(runs):
    ax = lines_over_steps(runs, Figure().subplots(), "e", num_classes=2)
    assert len(ax.lines) == 6
    drawn = {(line.get_color(), tuple(line.get_xdata()), tuple(line.get_ydata())) for line in ax.lines}
    for gamma in (0.0, 0.5):
        for seed in (0, 1, 2):
            values = tuple(10 * gamma + seed + step for step in (0, 1, 2))
            assert (gamma_color(gamma, 2), (0, 1, 2), values) in drawn
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["γ = 0", "γ = 0.5"]


def test_points_over_gamma_shows_every_seed_the_mean_and_its_interval(runs):
    last = runs[runs["step"] == 2]
    ax = points_over_gamma(last, ax=Figure().subplots(), y="e", num_classes=2)
    dots = sorted((x, y) for line in ax.lines[::2] for x, y in zip(*line.get_data(), strict=True))
    assert dots == sorted(zip(last["gamma"], last["e"], strict=True))
    assert [line.get_ydata()[0] for line in ax.lines[1::2]] == [3.0, 8.0]
    for bar, gamma in zip(ax.collections, (0.0, 0.5), strict=True):
        ends = bar.get_segments()[0][:, 1]
        assert tuple(ends) == pytest.approx(t_interval(last.loc[last["gamma"] == gamma, "e"])[1:])


def test_unlearning_vs_verification_shows_every_run(runs):
    ax = unlearning_vs_verification(runs, Figure().subplots(), num_classes=2)
    drawn = sorted((x, y) for line in ax.lines for x, y in zip(*line.get_data(), strict=True))
    assert drawn == sorted(zip(runs["e"], runs["v"], strict=True))
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


@pytest.mark.parametrize("log", [False, True])
def test_forest_shows_every_seed_the_mean_and_its_interval(log):
    values = {"first": [1.0, 2.0, 4.0], "none": [math.nan] * 3, "last": [3.0, 3.0, math.nan]}
    rows = [
        {"label": label, "seed": seed, "value": value}
        for label, column in values.items()
        for seed, value in enumerate(column)
    ]
    ax = forest(pd.DataFrame(rows), Figure().subplots(), none=1.0, log=log)
    dots, mean, others, equal, reference = (line.get_xydata().tolist() for line in ax.lines)
    assert dots == [[1, 0], [2, 0], [4, 0]]
    assert mean[0] == pytest.approx([2 if log else 7 / 3, 0])
    assert (others, equal[0]) == ([[3, 2], [3, 2]], pytest.approx([3, 2]))
    ends = ax.collections[0].get_segments()[0][:, 0]
    expected = t_interval(values["first"], log=log)
    assert ends == pytest.approx(expected[1:])
    assert [x for x, _ in reference] == [1, 1]
    assert [text.get_text() for text in ax.get_yticklabels()] == list(values)
    assert ax.get_ylim() == (2.5, -0.5)  # from top to bottom
    assert ax.get_xscale() == ("log" if log else "linear")


def test_a_missing_column_is_named(runs):
    with pytest.raises(InputError, match="sigma is not among gamma, seed"):
        lines_over_steps(runs, Figure().subplots(), "sigma", num_classes=2)


def test_theme_refuses_an_unknown_name():
    with pytest.raises(InputError, match="light, dark"), theme("sepia"):
        pass


def cells(**changes):
    return pd.DataFrame(
        {
            "method": ["first"] * 3 + ["second"] * 3 + ["third"] * 3,
            "metric": ["v", "gap", "auc"] * 3,
            "space": ["weights", "outputs", "outputs"] * 3,
            "value": [0.0, 0.5, 12345.0, 0.00012, -3.25, np.nan, np.nan, np.nan, np.nan],
            "left": [0.0, np.nan, 1e6, 1.0, 0.5, np.nan, np.nan, np.nan, np.nan],
        }
        | changes
    )


def test_matrix_shows_a_number_or_a_mark_in_every_cell():
    ax = matrix(cells(), Figure().subplots())
    shown = {tuple(text.get_position()): text.get_text() for text in ax.texts}
    expected = ["0", "0.5", "1e4", "1e−4", "−3.2", "–", "×", "×", "×"]
    assert [shown[method, metric] for method in range(3) for metric in range(3)] == expected
    assert [label.get_text() for label in ax.get_xticklabels()] == ["first", "second", "third"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["v", "gap", "auc"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.123, "0.12"),
        (-0.128, "−0.13"),
        (0.0123, "0.01"),
        (0.00523, "5e−3"),
        (-3e-12, "−3e−12"),
        (12.3, "12"),
        (999.0, "999"),
        (1000.0, "1e3"),
    ],
)
def test_matrix_writes_numbers_that_fit_their_cells(value, text):
    ax = matrix(cells(value=[value] * 9), Figure().subplots())
    assert ax.texts[0].get_text() == text


def test_matrix_breaks_long_names():
    ax = matrix(cells(metric=["the_distance_of_all_outputs", "gap", "auc"] * 3), Figure().subplots())
    assert ax.get_yticklabels()[0].get_text() == "the distance of\nall outputs"


def test_matrix_colours_the_distance_and_leaves_the_rest_clear():
    image = matrix(cells(), Figure().subplots()).images[0]
    drawn = image.to_rgba(image.get_array())
    assert tuple(drawn[0, 0]) == LEFT_MAP(0.0)
    assert tuple(drawn[2, 0]) == LEFT_MAP(1.0)
    assert drawn[0, 1] == pytest.approx(LEFT_MAP(0.5), abs=0.01)
    assert (drawn[:, 2, 3] == 0).all()
    assert drawn[1, 0, 3] == 0


@pytest.mark.parametrize("page", PAGES)
def test_matrix_writes_on_clear_cells_as_on_the_page(page):
    with theme(page):
        texts = matrix(cells(), Figure().subplots()).texts
        clear = next(text for text in texts if text.get_text() == "0.5")
        assert clear.get_color() == ink()


def test_matrix_has_readable_numbers_on_every_colour():
    for left in np.geomspace(0.001, 1000, 61):
        ax = matrix(cells(left=[left] * 9, value=[1.0] * 9), Figure().subplots())
        assert contrast(ax.texts[0].get_color(), ax.images[0].to_rgba(left)[:3]) >= 4.5


@pytest.mark.parametrize("kind", BLIND)
def test_nearer_and_further_differ_for_the_colour_blind(kind):
    rows = np.array([row.split() for row in BLIND[kind].split(";")], dtype=float)
    seen = np.clip([rows @ linear(LEFT_MAP(t)) for t in np.linspace(0, 1, 5)], 0, 1)
    yellow_minus_blue = seen[:, :2].mean(axis=1) - seen[:, 2]
    assert (yellow_minus_blue[:2] < 0).all()
    assert (yellow_minus_blue[3:] > 0).all()
