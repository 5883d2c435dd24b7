"""The reported numbers against themselves: what the paper prints twice must agree."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from unrolling._checks import InputError
from unrolling.paper import REPORTED, replicate_band, replicate_noise, replicates, reported_table


def test_table_1_is_the_ten_epoch_row_of_table_4():
    table1, table4 = reported_table("table1"), reported_table("table4")
    rows = table4[(table4.pretrain_epochs == 10) & (table4.dataset == "CIFAR-10")]
    keys = ["model", "strength"]
    first = table1.sort_values(keys).reset_index(drop=True)
    second = rows.sort_values(keys).reset_index(drop=True)[first.columns]
    assert len(first) == 12
    assert first.equals(second)


def test_pearson_correlation_of_table_2_is_the_printed_one():
    table2, printed = reported_table("table2"), reported_table("correlations")
    recomputed = stats.pearsonr(table2.unlearning_error, table2.verification_error).statistic
    value = printed.loc[printed.figure == "Fig10", "value"].item()
    assert round(recomputed, 3) == value == 0.998


def test_tables_have_the_papers_size():
    assert {name: len(reported_table(name)) for name in REPORTED} == {
        "table1": 2 * 6,
        "table2": 7,
        "table3": 4 * 3 * 6,
        "table4": 4 * 6 * 6,
        "correlations": 20,
    }
    assert reported_table("table4").strength.max() == 250
    assert reported_table("table3").unlearning_error.isna().any()  # the "-" cells


def test_unknown_tables_are_refused():
    with pytest.raises(InputError, match="unknown table 'table5'"):
        reported_table("table5")


def test_noise_is_that_of_the_settings_which_are_printed_twice():
    noise = replicate_noise()
    assert noise.pairs == 4 * 3  # four settings, N = 0, 20, 40
    assert noise.log_e == pytest.approx(0.118, abs=5e-4)
    assert noise.accuracy == pytest.approx(0.46, abs=5e-3)


def test_noise_of_made_up_replicates_is_found(monkeypatch):
    """Two normal columns of known spread in the place of the two tables."""
    generator = np.random.default_rng(0)
    count = 4000

    def table(_):
        return pd.DataFrame(
            {
                "dataset": "a",
                "model": "b",
                "pretrain_epochs": range(1, count + 1),
                "strength": 0.0,
                "unlearning_error": 100 * np.exp(generator.normal(0, 0.3, count)),
                "accuracy": generator.normal(80, 2, count),
            }
        )

    monkeypatch.setattr(replicates, "reported_table", table)
    noise = replicate_noise()
    assert noise.log_e == pytest.approx(0.3, rel=0.05)
    assert noise.accuracy == pytest.approx(2, rel=0.05)
    low, high = replicate_band()
    assert low * high == pytest.approx(1)
    ratios = np.exp(generator.normal(0, 0.3, 20000) - generator.normal(0, 0.3, 20000))
    assert ((low < ratios) & (ratios < high)).mean() == pytest.approx(0.95, abs=0.01)


def test_the_band_narrows_to_that_of_one_run():
    low, high = replicate_band()
    assert (low, high) == (pytest.approx(0.72, abs=0.005), pytest.approx(1.39, abs=0.005))
    assert replicate_band(10**6)[1] == pytest.approx(high ** (1 / 2**0.5), rel=1e-5)
    with pytest.raises(InputError, match="num_runs must be at least 1"):
        replicate_band(0)
