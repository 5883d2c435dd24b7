"""Table 4 as runs, and the influence of N, against numbers done by hand."""

import math

import pandas as pd
import pytest
from made_up_runs import dip, records

from unrolling.losses import collapse_gamma
from unrolling.paper import replicate_band
from unrolling.runs import after_epochs
from unrolling.studies.influence_of_pretraining.frames import cells, fading
from unrolling.studies.printed import printed_rows


def test_the_printed_table_is_144_runs_in_the_units_of_eq_10():
    rows = printed_rows()
    assert len(rows) == 4 * 6 * 6
    assert not rows.isna().any(axis=None)
    largest = rows.groupby("num_classes")["gamma"].max()
    assert largest[10] == pytest.approx(20 / math.sqrt(90))
    assert largest[100] == pytest.approx(250 / math.sqrt(9900))
    assert all(largest[classes] < collapse_gamma(classes) for classes in (10, 100))
    assert len(printed_rows("table1")) == 12


def test_a_cell_of_the_printed_table_is_the_ratio_of_two_numbers():
    table = cells(printed_rows()).set_index(["dataset", "model", "pretrain_epochs", "gamma"])
    assert len(table) == 4 * 6 * 5
    found = table.loc[("cifar10", "vgg19", 10, 5 / math.sqrt(90))]
    assert (found["ratio"], found["seeds"]) == (pytest.approx(113.27 / 141.73), 1)


def test_how_many_printed_cells_leave_the_noise():
    low, high = replicate_band()
    ratios = cells(printed_rows())["ratio"]
    assert ((ratios < low).sum(), (ratios > high).sum()) == (49, 2)


def test_cells_take_seeds_together_on_the_logarithmic_scale():
    rows = after_epochs(
        records(lambda c: dip(c) * (2 if c.seed else 8) ** c.gamma, pretrain_epochs=[0, 5], seed=[0, 1])
    )
    table = cells(rows)
    assert table["ratio"].tolist() == pytest.approx([4, 4])
    assert table[["low", "high", "seeds"]].to_numpy().tolist() == [[2, 8, 2], [2, 8, 2]]


def test_an_effect_that_fades_has_a_ratio_that_rises_with_n():
    table = pd.DataFrame(
        {
            "dataset": "digits",
            "model": "mlp",
            "num_classes": 10,
            "gamma": [1.0] * 3 + [2.0] * 3,
            "pretrain_epochs": [0, 1, 5] * 2,
            "ratio": [0.2, 0.9, 1.5, 0.4, 0.3, 0.1],
        }
    )
    assert fading(table)["spearman"].tolist() == pytest.approx([1, -1])
