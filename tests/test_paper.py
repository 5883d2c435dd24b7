"""The reported numbers against themselves: what the paper prints twice must agree."""

import pytest
from scipy import stats

from unrolling._checks import InputError
from unrolling.paper import REPORTED, reported_table


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
