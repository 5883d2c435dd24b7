"""The bookkeeping of Figures 7 and 8 on a frame small enough to do by hand."""

import math

import pandas as pd
import pytest

from unrolling._checks import InputError
from unrolling.experiments.training_with_sd_loss import after_steps, factor_shares, relative_to_plain


@pytest.fixture
def rows():
    return pd.DataFrame(
        {
            "gamma": [1.0, 0.0, 0.0, 1.0],
            "seed": [0, 1, 0, 1],
            "pretrain_epochs": 1,
            "e": [2.0, 5.0, 8.0, 4.0],
            "weight_change": [1.0, 5.0, 2.0, 2.0],
            "sigma_avg": [2.0, 1.0, 4.0, 2.0],
        }
    )


def test_each_run_is_compared_with_the_plain_run_of_its_own_seed(rows):
    assert relative_to_plain(rows, "e").tolist() == [2 / 8, 1, 1, 4 / 5]


def test_shares_split_the_drop_exactly(rows):
    shares = factor_shares(rows)
    assert shares["log_e"].tolist() == pytest.approx([math.log(2 / 8), math.log(4 / 5)])
    assert (shares["log_weight_change"] + shares["log_sigma"]).tolist() == pytest.approx(
        shares["log_e"].tolist()
    )
    assert shares["share"].tolist() == pytest.approx([0.5, math.log(2 / 5) / math.log(4 / 5)])


def test_a_missing_or_doubled_plain_run_is_named(rows):
    for bad in (rows.drop(index=1), pd.concat([rows, rows.iloc[[1]]])):
        with pytest.raises(InputError, match="exactly one run with gamma = 0"):
            relative_to_plain(bad, "e")


def test_after_steps_wants_the_step_in_every_run():
    traces = pd.DataFrame({"address": ["a", "a", "b", "b"], "step": [3, 6, 3, 5], "e": [1, 2, 3, 4]})
    assert after_steps(traces, 3)["e"].tolist() == [1, 3]
    with pytest.raises(InputError, match="not every run recorded step 6"):
        after_steps(traces, 6)
