"""The analysis of Figures 9, 11 and 12 on numbers whose answer is known by hand or from scipy."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from unrolling._checks import InputError
from unrolling.metrics.association import correlate
from unrolling.runs import after_epochs, final_frame, trace_frame
from unrolling.seeding import stream_seed
from unrolling.store import Record
from unrolling.studies.frames import CHECKPOINT, SETTING, labels, logs_within, seed_means
from unrolling.studies.proxy.frames import (
    against_plain,
    concordance,
    concordance_of_draws,
    concordance_within,
    over_steps,
    straightness,
)


def normal(*shape, seed=0):
    return np.random.default_rng(stream_seed(seed, "proxy")).standard_normal(shape)


def record(**changes):
    trace = {"step": [2, 4, 6], "e": [1.0, 3.0, 7.0], "v": [1.0, 2.0, 3.0], "weight_change": [1.0, 2.0, 3.0]}
    config = {"dataset": "digits", "model": "mlp", "pretrain_epochs": 1, "batch_size": 16, "gamma": 0.0}
    return Record(
        config=config | {"seed": 0, "learning_rate": 0.5} | changes,
        data={"name": "digits", "fingerprint": "0"},
        result={
            "trace": trace,
            "sigma": {"step": [0, 3, 5], "eigenvalue": [4.0, -16.0, 100.0]},
            "steps_per_epoch": 2,
            "forget_gradient_norm": 2.5,
            "num_classes": 10,
            "accuracy_pretrained": 0.9,
        },
        provenance={},
    )


def points(count=24, seed=0):
    """Return runs in two models, two N, two batch sizes and three strengths, with random e and v."""
    settings = [(m, n, b, g) for m in "ab" for n in (1, 2) for b in (16, 32) for g in (0.0, 1.0, 2.0)]
    frame = pd.DataFrame(settings, columns=["model", "pretrain_epochs", "batch_size", "gamma"])
    e, v = np.exp(normal(2, count, seed=seed))
    return frame.assign(dataset="digits", seed=0, e=e, v=v)


@pytest.mark.parametrize("seed", range(3))
def test_in_a_draw_points_count_as_often_as_they_are_taken(seed):
    """As if they stood there so often: a point and its copy are a tie."""
    rng = np.random.default_rng(seed)
    x = rng.lognormal(size=40)
    y = x + rng.normal(size=40)
    taken = np.bincount(rng.integers(40, size=40), minlength=40).astype(float)
    drawn = np.repeat(np.arange(40), taken.astype(int))
    pairs = [(i, j) for i in drawn for j in drawn if x[i] != x[j] and y[i] != y[j]]
    alike = [(x[i] < x[j]) == (y[i] < y[j]) for i, j in pairs]
    assert concordance_of_draws(x, y)(taken) == pytest.approx(np.mean(alike))
    assert straightness(x, y, taken) == pytest.approx(straightness(x[drawn], y[drawn]))
    line = np.polyval(np.polyfit(x[drawn], y[drawn], 1), x[drawn])
    left = np.square(y[drawn] - line).mean() / y[drawn].var()
    assert straightness(x, y, taken)[0] == pytest.approx(1 - left)


def test_rows_are_those_of_the_epoch_asked_for():
    rows = after_epochs([record(seed=0), record(seed=1)], 2)
    assert rows[["step", "e", "v", "seed"]].values.tolist() == [[4, 3, 2, 0], [4, 3, 2, 1]]
    assert rows[["forget_gradient_norm", "num_classes"]].values.tolist() == [[2.5, 10]] * 2
    assert after_epochs([record()])["e"].item() == 1


def test_error_with_roots_takes_the_samples_up_to_then():
    # e times mean root over mean size, by hand: samples at steps 0 and 3 have roots 2 and 4, sizes 4 and 16.
    for rows in (after_epochs([record()], 2), trace_frame([record()]).iloc[[1]]):
        assert rows["sigma_root"].item() == pytest.approx(3)
        assert rows["e_root"].item() == pytest.approx(3.0 * 3 / 10)
    for rows in (after_epochs([record()], 3), final_frame([record()])):
        assert rows["sigma_root"].item() == pytest.approx(16 / 3)
        assert rows["e_root"].item() == pytest.approx(7.0 * (16 / 3) / 40)


def test_an_epoch_that_was_not_recorded_is_named():
    with pytest.raises(InputError, match="no row at step 8, the end of epoch 4"):
        after_epochs([record()], 4)


def trace(e, v):
    step = np.arange(1, len(e) + 1)
    names = {"address": "a", "model": "mlp", "pretrain_epochs": 1, "seed": 0}
    return pd.DataFrame({"step": step, "e": e, "v": v}).assign(**names)


def test_a_common_trend_is_all_that_opposite_errors_share():
    step, wave = np.arange(1, 41), normal(40)
    row = over_steps(trace(10 * step + wave, 10 * step - wave)).iloc[0]
    assert row["raw"] > 0.999
    assert row["given_steps"] == pytest.approx(-1)
    assert row["increments"] == pytest.approx(-1)
    assert row["steps_e"] == pytest.approx(stats.pearsonr(step, 10 * step + wave).statistic)


def test_rank_correlations_with_the_steps_are_scipys():
    e, v = normal(2, 30)
    row = over_steps(trace(e, v)).iloc[0]
    assert row["rank_e"] == pytest.approx(stats.spearmanr(np.arange(30), e).statistic)
    assert row["rank_v"] == pytest.approx(stats.spearmanr(np.arange(30), v).statistic)
    assert row["steps_v"] == pytest.approx(stats.pearsonr(np.arange(30), v).statistic)


def test_seed_means_are_over_the_seeds_of_one_setting_and_strength():
    both = pd.concat([points(), points().assign(seed=1, e=lambda f: f["e"] + 2)])
    means = seed_means(both, ["e"])
    assert means["e"].tolist() == pytest.approx((points()["e"] + 1).tolist())


def test_labels_are_equal_where_the_columns_are():
    found = labels(points(), CHECKPOINT)
    assert len(found) == 24
    assert set(found) == {("digits", m, n) for m in "ab" for n in (1, 2)}


@settings(deadline=None, derandomize=True, max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_within_is_the_correlation_of_logarithms_given_the_groups(seed):
    frame = points(seed=seed)
    inside = logs_within(frame, ["e", "v"], CHECKPOINT)
    dummies = pd.get_dummies(pd.Series(labels(frame, CHECKPOINT)), dtype=float).iloc[:, 1:]
    expected = correlate(np.log(frame["e"]), np.log(frame["v"]), given=dummies)
    assert correlate(inside["e"], inside["v"]).value == pytest.approx(expected.value, abs=1e-9)


def test_within_forgets_what_groups_have_in_common():
    frame = points()
    scale = frame["model"].map({"a": 1.0, "b": 1000.0})
    scaled = frame.assign(e=frame["e"] * scale, v=frame["v"] * scale)
    plain, moved = (logs_within(f, ["e", "v"], CHECKPOINT) for f in (frame, scaled))
    np.testing.assert_allclose(plain[["e", "v"]], moved[["e", "v"]], atol=1e-12)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(seed=st.integers(0, 10**6), count=st.integers(2, 30))
def test_concordance_is_kendalls_tau_between_0_and_1(seed, count):
    x, y = normal(2, count, seed=seed)
    assert concordance(x, y) == pytest.approx((1 + stats.kendalltau(x, y).statistic) / 2)


def test_ties_count_for_neither():
    assert concordance([1, 1, 2], [1, 2, 3]) == 1
    with pytest.raises(InputError, match="no two points differ in both"):
        concordance([1, 1], [1, 2])


def test_concordance_within_counts_pairs_of_one_group_only():
    # Two groups, one of three points all alike in order, one of two turned; between groups all is turned.
    frame = pd.DataFrame({"g": list("aaabb"), "e": [1.0, 2, 3, 11, 12], "v": [11.0, 12, 13, 2, 1]})
    assert concordance_within(frame, ["g"]) == pytest.approx(3 / 4)
    assert concordance(frame["e"], frame["v"]) == pytest.approx(3 / 10)


def test_a_line_is_straight_and_a_parabola_gains_from_its_square():
    x = np.linspace(0, 1, 11)
    assert straightness(x, 2 - 3 * x) == pytest.approx((1, 0))
    r_squared, gain = straightness(x, x**2)
    line = stats.linregress(x, x**2).rvalue ** 2
    assert r_squared == pytest.approx(line)
    assert gain == pytest.approx((1 - line) * 10 / 9)


def test_against_plain_compares_mean_logarithms_setting_by_setting():
    frame = points().assign(e=lambda f: np.where(f["gamma"] == 0, 8.0, np.where(f["gamma"] == 1, 1.0, 4.0)))
    found = against_plain(frame, "e")
    assert len(found) == 8
    assert found.index.names == SETTING
    assert found.tolist() == pytest.approx([math.log(2) - math.log(8)] * 8)
    with pytest.raises(InputError, match="every setting needs runs with gamma = 0"):
        against_plain(frame.iloc[1:], "e")
