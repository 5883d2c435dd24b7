"""The tables of the pages on text on numbers small enough to do by hand, and on Table 2 itself."""

import pandas as pd
import pytest
from made_up_runs import records

from unrolling.number_text import Missing
from unrolling.studies.printed import printed_rows
from unrolling.studies.text.frames import by_scale, over_epochs
from unrolling.studies.text.tables import by_dropout, by_epoch, correlations, starting_points, table_2

TEXT = {"dataset": ["imdb"], "model": ["distilbert-small"]}


def runs(v_nothing=1.0, **values):
    own, _ = by_scale(records(**TEXT, **values))
    return own.assign(v_nothing=v_nothing)


def test_table_2_has_ours_and_the_printed_cells_of_the_same_strength():
    rows = runs(e=lambda c: 4.0 - 2 * c.gamma, v=lambda c: 4.0**c.seed, seed=[0, 1], gamma=[0.0, 1.0])
    _, at_one = table_2(rows)
    assert at_one["γ"] == "1"
    assert at_one["e"][0] == pytest.approx(2)
    assert at_one["e / e(0)"][0] == pytest.approx(0.5)
    assert at_one["v"][0] == pytest.approx(2.5)  # of 1 and 4
    assert at_one["v / doing nothing"][0] == pytest.approx(2)  # their geometric mean
    assert at_one["M_N+t, %"] == pytest.approx((90, 90, 90))
    found = [at_one[f"paper: {name}"] for name in ("e", "e / e(0)", "v", "%")]
    assert found == pytest.approx([8.91, 8.91 / 85.10, 0.57, 92.09])


def test_a_strength_that_is_not_printed_says_so():
    row = table_2(runs(gamma=[0.0, 3.0]))[-1]
    assert {row[f"paper: {name}"] for name in ("e", "e / e(0)", "v", "%")} == {Missing("no such row")}


def test_strengths_of_the_released_code_stand_beside_those_of_eq_10():
    row = table_2(runs(), released=True, heading="head: γ")[-1]
    assert list(row)[:2] == ["head: γ", "of Eq. 10"]
    assert (row["head: γ"], row["of Eq. 10"]) == ("1", "0.707")  # weaker by the root of 2
    assert "of Eq. 10" not in table_2(runs())[-1]


def test_correlations_of_table_2_and_of_runs_whose_e_goes_with_doing_nothing():
    own = runs(e=lambda c: 1 + c.gamma**2, v=lambda c: 5 - c.gamma**2, gamma=[0.0, 1.0, 2.0])
    printed, found = correlations(
        {"printed": printed_rows("table2"), "own": own.assign(v_nothing=3 * own["e"])}
    )
    assert (printed["rows"], printed["points"]) == ("printed", 7)
    assert printed["Pearson"][0] == pytest.approx(0.9977, abs=5e-5)
    assert printed["e with v of doing nothing"] == Missing("not printed")
    assert found["Pearson"][0] == pytest.approx(-1)
    assert found["Spearman"][0] == pytest.approx(-1)
    assert found["e with v of doing nothing"][0] == pytest.approx(1)


def test_starting_points_have_their_means_over_seeds():
    rows = runs(
        e=lambda c: 1.0 + c.seed,
        accuracy=lambda c: 0.7 + c.seed / 10,
        accuracy_pretrained=lambda c: 0.5 + c.seed / 10,
        gamma=[0.0],
    )
    (row,) = starting_points({"random weights": rows})
    assert row["M_0"] == "random weights"
    assert [row[name][0] for name in ("M_N, %", "M_N+t, %", "e", "v, doing nothing")] == pytest.approx(
        [60, 80, 2, 1]
    )


def test_kinds_of_dropout_are_rows():
    cases = pd.concat(
        [runs(v=lambda c: 2.0, gamma=[0.0], dropout=[kind]) for kind in ("shared", "independent")]
    )
    cases["v_nothing"] = cases["dropout"].map({"shared": 4.0, "independent": 8.0})
    shared, independent = by_dropout(cases)
    assert (shared["dropout"], independent["dropout"]) == ("shared", "independent")
    assert [row["v / doing nothing"][0] for row in (shared, independent)] == pytest.approx([0.5, 0.25])


def test_epochs_are_rows():
    epochs = over_epochs(records(accuracy=lambda c: 0.5 + c.seed / 10, gamma=[0.0], seed=[0, 1], **TEXT))
    (row,) = by_epoch(epochs)
    assert row["epoch"] == 1
    assert row["accuracy, %"][0] == pytest.approx(55)
