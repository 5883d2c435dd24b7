"""Table 2 and Figure 10 in the form of runs, and the bookkeeping on numbers small enough to do by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from made_up_runs import records

from unrolling.paper import reported_table
from unrolling.runs import PROFILES, load_profile
from unrolling.studies.printed import printed_rows
from unrolling.studies.text.frames import (
    beside_table_2,
    by_scale,
    cheapest,
    figure_10,
    judge,
    masks_apart,
    over_epochs,
    prices,
    ranks_by_seed,
    relative,
)

TEXT = {"dataset": ["imdb"], "model": ["distilbert-small"]}


def test_printed_rows_are_the_cells_of_table_2():
    rows, printed = printed_rows("table2"), reported_table("table2")
    assert rows["gamma"].tolist() == [0, 0.01, 0.1, 0.5, 1, 1.25, 1.5]
    assert rows["e"].tolist() == printed["unlearning_error"].tolist()
    assert rows["v"].tolist() == printed["verification_error"].tolist()
    assert (100 * rows["accuracy"]).tolist() == pytest.approx(printed["accuracy"].tolist())
    assert {*rows["num_classes"]} == {2}


def test_figure_10_recomputed_from_table_2():
    found = figure_10(printed_rows("table2"))
    assert found["seed means"].value == pytest.approx(0.9977, abs=5e-5)
    assert found["ranks of the seed means"].value == pytest.approx(
        13 / 14
    )  # sum of squared rank differences: 4
    assert found["seed means"].count == 7


def test_seeds_apart_do_not_count_within_seeds():
    # v is proportional to e, with another factor in each seed that is larger where e is smaller.
    runs = records(
        lambda c: math.exp(-c.gamma - 3 * c.seed),
        v=lambda c: math.exp(-c.gamma + 3 * c.seed),
        gamma=[0.0, 0.5, 1.0],
        seed=[0, 1, 2],
        **TEXT,
    )
    rows, _ = by_scale(runs)
    assert figure_10(rows)["logarithms within seeds"].value == pytest.approx(1)


def test_scales_are_told_apart_by_the_loss():
    runs = records(lambda c: 1.0, loss=["sd"], **TEXT) + records(lambda c: 2.0, loss=["sd_released"], **TEXT)
    own, released = by_scale(runs)
    assert own["e"].tolist() == [1.0] * 6
    assert released["e"].tolist() == [2.0] * 6


def test_runs_are_compared_with_those_of_their_seed_without_a_penalty():
    values = {
        "e": lambda c: 2.0 * (1 + c.seed) / (1 + c.gamma),
        "v": lambda c: 3.0**c.seed * (1 + c.gamma),
        "accuracy": lambda c: 0.8 - 0.4 * c.gamma,
    }
    runs = [run for loss in ("sd", "sd_released") for run in records(**values, loss=[loss], **TEXT)]
    for frame, weaker in zip(by_scale(runs), (1, math.sqrt(2)), strict=True):
        rows = relative(frame.assign(v_nothing=2.0))
        with_penalty = rows["gamma"] == 1
        assert rows["strength"].tolist() == pytest.approx((rows["gamma"] / weaker).tolist())
        for column, value in (("e_ratio", 0.5), ("v_ratio", 2), ("kept", 0.5), ("percent", 40)):
            assert rows.loc[with_penalty, column].tolist() == pytest.approx([value] * 3)
        assert rows["against_nothing"].tolist() == pytest.approx((frame["v"] / 2).tolist())


def test_printed_rows_are_compared_in_the_units_of_eq_10_and_with_no_v_of_doing_nothing():
    rows = relative(printed_rows("table2"))
    assert rows["strength"].tolist() == rows["gamma"].tolist()
    assert rows["against_nothing"].isna().all()
    assert rows["e_ratio"].tolist() == pytest.approx((printed_rows("table2")["e"] / 85.10).tolist())


def test_masks_of_their_own_are_compared_with_shared_ones_seed_by_seed():
    cases = pd.DataFrame(
        {
            "seed": [0, 1, 0, 1, 0],
            "dropout": ["independent", "shared", "shared", "independent", "off"],
            "v_nothing": [6.0, 2.0, 3.0, 8.0, 99.0],
        }
    )
    assert masks_apart(cases).to_dict() == {0: 2, 1: 4}


def test_ranks_have_a_row_per_frame_and_a_column_per_seed():
    runs = records(
        lambda c: math.exp(-c.gamma * (1 - 2 * c.seed)), gamma=[0.0, 0.5, 1.0], seed=[0, 1], **TEXT
    )
    rows, _ = by_scale(runs)
    np.testing.assert_allclose(ranks_by_seed([rows, rows.assign(e=rows["gamma"])], "e"), [[-1, 1], [1, 1]])


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [
        ([[True, True], [True, True]], "holds"),
        ([[True, True], [False, False]], "does not hold"),
        ([[True, False], [False, True]], "not decided"),
        ([[True, False]], "not decided"),
        ([[False, False]], "does not hold"),
    ],
)
def test_a_statement_fails_where_one_part_of_it_fails_in_every_run(parts, verdict):
    assert judge(parts) == verdict


def test_cells_have_their_mean_and_interval_over_seeds_beside_the_printed_ones():
    runs = records(
        lambda c: (2 if c.gamma == 0 else 1) * 2.0**c.seed,
        v=lambda c: 1.0 + c.seed,
        gamma=[0.0, 1.0, 3.0],
        seed=[0, 1, 2],
        **TEXT,
    )
    rows, _ = by_scale(runs)
    cells = beside_table_2(rows).set_index(["gamma", "quantity"])
    v = cells.loc[(1.0, "v")]
    half = 4.302653 / math.sqrt(3)  # of 1, 2, 3
    assert (v["mean"], v["low"], v["high"]) == pytest.approx((2, 2 - half, 2 + half), rel=1e-6)
    assert (v["seeds"], v["printed"]) == (3, 0.57)
    ratio = cells.loc[(1.0, "ratio")]  # the seeds' factors cancel
    assert (ratio["mean"], ratio["low"], ratio["high"]) == pytest.approx((0.5, 0.5, 0.5))
    assert ratio["printed"] == pytest.approx(8.91 / 85.10)
    assert cells.loc[(1.0, "e"), "mean"] == pytest.approx(7 / 3)
    assert math.isnan(cells.loc[(3.0, "e"), "printed"])


def test_ratios_have_their_geometric_mean():
    rows, _ = by_scale(records(lambda c: 1.0 if c.gamma == 0 else 4.0**c.seed, seed=[0, 1], **TEXT))
    cells = beside_table_2(rows).set_index(["gamma", "quantity"])
    assert cells.loc[(1.0, "ratio"), "mean"] == pytest.approx(2)  # of 1 and 4


def test_one_seed_has_no_interval():
    rows, _ = by_scale(records(seed=[0], **TEXT))
    assert beside_table_2(rows)[["low", "high"]].isna().all(axis=None)


def test_prices_of_table_2():
    costs = prices(printed_rows("table2")).set_index("gamma")
    assert costs.loc[1.0, "ratio"] == pytest.approx(8.91 / 85.10)
    assert costs["points"].to_dict() == pytest.approx(
        {0.01: -0.4, 0.1: -0.25, 0.5: -0.58, 1.0: 0.04, 1.25: 4.91, 1.5: 7.14}
    )
    assert cheapest(costs, 0.2) == pytest.approx(0.04)
    assert cheapest(costs, 0.1) == pytest.approx(4.91)


def test_accuracies_at_the_ends_of_epochs():
    runs = records(accuracy=lambda c: 0.5 + c.seed / 10, gamma=[0.0], seed=[0, 1], **TEXT)
    assert over_epochs(runs).to_dict() == {1: pytest.approx({0: 50, 1: 60})}


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_has_the_strengths_of_table_2_in_both_scales(profile):
    experiment = load_profile(profile).experiment("text")
    printed = set(printed_rows("table2")["gamma"])
    for part in ("whole", "head"):
        own, released = experiment.configs(part), experiment.configs(f"{part}_released")
        assert {c.gamma for c in own} == {c.gamma for c in released} == printed
        assert ({c.loss for c in own}, {c.loss for c in released}) == ({"sd"}, {"sd_released"})


@pytest.mark.parametrize("profile", PROFILES)
def test_images_are_runs_of_the_page_on_the_sd_loss(profile):
    loaded = load_profile(profile)
    images = loaded.experiment("text").configs("images")
    assert images == loaded.experiment("training_with_sd_loss").configs(("strength", "strength_vgg"))


@pytest.mark.parametrize("profile", PROFILES)
def test_six_epochs_are_recorded_from_the_first_on(profile):
    configs = load_profile(profile).experiment("fine_tuning").configs("epochs")
    assert {(c.pretrain_epochs, c.epochs, c.record_every, c.gamma) for c in configs} == {(0, 6, 0, 0.0)}


@pytest.mark.parametrize("profile", PROFILES)
def test_fine_tuning_starts_from_the_runs_without_a_penalty_of_the_page_on_text(profile):
    loaded = load_profile(profile)
    for own, other in (("plain", "whole"), ("head", "head")):
        configs = loaded.experiment("fine_tuning").configs(own)
        assert configs == [c for c in loaded.experiment("text").configs(other) if c.gamma == 0]
    cases = loaded.experiment("fine_tuning").configs("dropout")
    assert {(c.gamma, c.dropout) for c in cases} == {(0, "shared"), (0, "independent")}
