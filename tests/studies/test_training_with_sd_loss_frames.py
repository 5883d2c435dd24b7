"""The bookkeeping of Figures 7 and 8 on frames and runs small enough to do by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from made_up_runs import dip, records
from scipy import stats

from unrolling._checks import InputError
from unrolling.metrics.intervals import rank_correlation
from unrolling.runs import after_epochs, trace_frame
from unrolling.studies.frames import accuracy_loss, after_steps, factor_shares, relative_to_plain, up_to
from unrolling.studies.privacy_risk import frames as privacy_risk
from unrolling.studies.training_with_sd_loss import frames as training_with_sd_loss
from unrolling.studies.training_with_sd_loss.frames import growth, sigma_ratios, weight_changes


@pytest.fixture
def rows():
    return pd.DataFrame(
        {
            "dataset": "digits",
            "model": "mlp",
            "batch_size": 32,
            "gamma": [1.0, 0.0, 0.0, 1.0],
            "seed": [0, 1, 0, 1],
            "pretrain_epochs": 1,
            "e": [2.0, 5.0, 8.0, 4.0],
            "weight_change": [1.0, 5.0, 2.0, 2.0],
            "sigma_avg": [2.0, 1.0, 4.0, 2.0],
            "accuracy": [0.9, 0.8, 0.8, 0.9],
        }
    )


def test_each_run_is_compared_with_the_plain_run_of_its_own_seed(rows):
    assert relative_to_plain(rows, "e").tolist() == [2 / 8, 1, 1, 4 / 5]


@pytest.mark.parametrize("setting", ["dataset", "model", "pretrain_epochs", "batch_size"])
def test_runs_of_another_setting_are_compared_apart(rows, setting):
    other = rows.assign(**{setting: 64 if setting in ("pretrain_epochs", "batch_size") else "other"}, e=1.0)
    both = pd.concat([rows, other], ignore_index=True)
    assert relative_to_plain(both, "e").tolist() == [2 / 8, 1, 1, 4 / 5, 1, 1, 1, 1]


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


def test_a_gain_in_accuracy_is_a_negative_loss(rows):
    assert accuracy_loss(rows).tolist() == pytest.approx([-10.0])
    assert accuracy_loss(rows.assign(accuracy=[0.7, 0.8, 0.9, 0.8])).tolist() == pytest.approx([10.0])


def test_after_steps_wants_the_step_in_every_run():
    traces = pd.DataFrame({"address": ["a", "a", "b", "b"], "step": [3, 6, 3, 5], "e": [1, 2, 3, 4]})
    assert after_steps(traces, 3)["e"].tolist() == [1, 3]
    with pytest.raises(InputError, match="not every run recorded step 6"):
        after_steps(traces, 6)


def test_the_end_of_an_epoch_is_found_whatever_its_number_of_steps():
    short, long = records(gamma=[0.0], seed=[0]), records(gamma=[0.0], seed=[0], batch_size=[64])
    long[0].result["steps_per_epoch"] = 20
    assert after_epochs(short + long)["step"].tolist() == [30, 20]
    assert after_epochs(short)[["num_classes", "accuracy_pretrained"]].to_numpy().tolist() == [[10, 0.9]]
    with pytest.raises(
        InputError, match=r"has no row at step 60, the end of epoch 2; recorded steps are \[10, 20, 30\]"
    ):
        after_epochs(short, 2)


def test_growth_is_rank_and_slope_of_each_run():
    found = growth(trace_frame(records(lambda c: 60 + 30 * c.gamma, gamma=[0.0, 1.0], seed=[0])))
    assert found["spearman"].tolist() == [1, 1]
    assert found["slope"].tolist() == pytest.approx([2, 3])  # e(30) = 60 and 90, and e is a line
    frame = trace_frame(records())
    with pytest.raises(InputError, match="growth needs at least 3 recorded steps"):
        growth(frame[frame["step"] < 30])


def test_strengths_are_compared_in_the_papers_units():
    # 5 / sqrt(90) = 0.527046, which the profiles write as 0.52705
    assert up_to(pd.Series([0.52705, 0.53, 0.5]), 5).tolist() == [True, False, True]


def test_sigma_and_weights_are_compared_by_setting():
    runs = records(
        sigma=lambda c: dip(c) * 4**c.gamma,
        weight_change=lambda c: dip(c) * (3 - c.gamma) ** (1 if c.model == "vgg19" else -1),
        gamma=[0.0, 1.0, 2.0],
        model=["resnet18", "vgg19"],
    )
    ratios = sigma_ratios(runs)
    assert ratios["sigma_avg"].tolist() == pytest.approx([4, 16, 4, 16])
    assert ratios["rooted"].tolist() == pytest.approx([2, 4, 2, 4])
    changes = weight_changes(runs).reset_index("model").set_index("model")
    assert changes["rank"].to_dict() == {"resnet18": 1, "vgg19": -1}
    assert changes["ratio"].to_dict() == pytest.approx({"resnet18": 3, "vgg19": 1 / 3})


def test_what_is_constant_has_no_rank_correlation():
    assert rank_correlation([1, 2, 3], [5, 5, 5]) == 0
    assert rank_correlation([5, 5, 5], [1, 2, 3]) == rank_correlation(range(1), [7]) == 0
    assert rank_correlation([1, 2, 3], [5, 4, 1]) == -1


@pytest.mark.parametrize("module", [training_with_sd_loss, privacy_risk])
@pytest.mark.parametrize("seed", range(5))
def test_rank_correlation_is_scipys_ties_and_all(module, seed):
    x, y = np.random.default_rng(seed).integers(0, 4, (2, 12))
    expected = stats.spearmanr(x, y).statistic
    assert module.rank_correlation(x, y) == pytest.approx(expected)
    assert module.rank_correlation(list(x), pd.Series(y, index=range(5, 17))) == pytest.approx(expected)
    assert module.rank_correlation(np.zeros(12), y) == module.rank_correlation(x, np.zeros(12)) == 0
