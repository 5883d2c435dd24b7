"""When an interval decides a proposition, against scipy and against numbers done by hand."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from unrolling._checks import InputError
from unrolling.metrics.association import correlate
from unrolling.studies import decide, noise
from unrolling.studies.decide import Estimate, all_of, any_of

HALF = Estimate(0.5, 0.4, 0.6)


@pytest.mark.parametrize("seeds", [3, 5])
def test_from_three_seeds_on_the_interval_is_scipys_t_interval_whatever_the_noise(seeds):
    values = np.random.default_rng(seeds).standard_normal(seeds)
    expected = stats.t.interval(0.95, seeds - 1, loc=values.mean(), scale=stats.sem(values))
    assert decide.over_seeds(values, 100.0)[1:] == pytest.approx(expected)


def test_one_and_two_seeds_have_twice_the_noise():
    assert decide.over_seeds([3.0], 0.5) == (3.0, 2.0, 4.0)
    assert decide.over_seeds([3.0, 5.0], 0.5) == pytest.approx(
        (4.0, 4 - 1 / math.sqrt(2), 4 + 1 / math.sqrt(2))
    )
    assert decide.over_seeds([3.0]).interval is None
    assert decide.at_least(decide.over_seeds([3.0]), 0) is None


@pytest.mark.parametrize(
    ("threshold", "held"), [(0.39, True), (0.4, True), (0.5, None), (0.6, None), (0.61, False)]
)
def test_an_interval_decides_where_it_lies_on_one_side(threshold, held):
    assert decide.at_least(HALF, threshold) is held
    assert decide.below(HALF, threshold) is decide.negation(held)
    mirrored = Estimate(-0.5, -0.6, -0.4)
    assert decide.at_most(mirrored, -threshold) is held
    assert decide.above(mirrored, -threshold) is decide.negation(held)


@pytest.mark.parametrize(
    ("low", "high", "held"),
    [(0.3, 0.7, True), (0.45, 0.7, None), (0.3, 0.55, None), (0.7, 0.8, False), (0.1, 0.3, False)],
)
def test_a_band_holds_the_whole_interval_or_none_of_it(low, high, held):
    assert decide.within(HALF, low, high) is held


@pytest.mark.parametrize("parts", list(itertools.product([True, False, None], repeat=3)))
def test_parts_are_joined_as_every_way_of_closing_them_would_be(parts):
    closed = list(itertools.product(*([True, False] if part is None else [part] for part in parts)))
    for joined, builtin in ((all_of, all), (any_of, any)):
        possible = {builtin(own) for own in closed}
        assert joined(parts) is (possible.pop() if len(possible) == 1 else None)


def test_a_function_of_an_estimate_takes_its_ends_along():
    assert Estimate(0.0, -1.0, 2.0).to(np.exp) == pytest.approx((1, math.exp(-1), math.exp(2)))
    assert Estimate(0.0).to(np.exp).interval is None
    assert Estimate(0.5, 0.4, 0.8).to(lambda x: 1 - x) == pytest.approx((0.5, 0.2, 0.6))


def runs(*table):
    """Return a frame with a seed for each row of values of y at x = 0, 1, ..."""
    return pd.DataFrame(
        [{"seed": seed, "x": x, "y": y} for seed, row in enumerate(table) for x, y in enumerate(row)]
    )


def test_an_order_has_the_range_of_its_seeds():
    found = decide.order(runs([1, 2, 3, 4, 5], [1, 2, 3, 5, 4], [1, 2, 3, 4, 5]), "x", "y")
    assert found == pytest.approx(((1 + 0.9 + 1) / 3, 0.9, 1))
    assert decide.at_least(found, 0.9) is True  # 0.9 itself, in spite of rounding


def test_an_order_of_one_seed_is_a_bootstrap_over_its_settings():
    assert decide.order(runs([1, 2, 3, 4, 5]), "x", "y") == pytest.approx((1, 1, 1))
    swapped = decide.order(runs([1, 2, 3, 5, 4]), "x", "y")
    expected = correlate(range(5), [1, 2, 3, 5, 4], method="spearman")
    assert swapped == pytest.approx((0.9, expected.low, expected.high))
    assert decide.at_least(swapped, 0.8) is None
    assert decide.order(runs([1, 2]), "x", "y").interval is None
    assert decide.order(runs([7, 7, 7, 7]), "x", "y") == (0, 0, 0)


def test_two_seeds_are_averaged_before_their_order_is_bootstrapped():
    assert decide.order(runs([1, 3, 2, 4], [1, 1, 4, 4]), "x", "y").value == pytest.approx(1)


def test_the_bootstrap_takes_whole_clusters():
    values = np.array([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])

    def mean(taken):
        return float(np.average(values, weights=taken))

    of_points, of_clusters = (decide.bootstrap(mean, c) for c in (list(range(6)), list("aabbcc")))
    assert of_points.value == of_clusters.value == 0.5
    # All three draws the same cluster in one of 27 cases, which is more than 2.5 %.
    assert (of_clusters.low, of_clusters.high) == (0, 1)
    assert of_points.low > 0
    assert decide.bootstrap(mean, list("aaabbb")).interval is None
    assert decide.clustered(mean, [list(range(6)), list("aabbcc"), list("aaabbb")]) == of_clusters


def test_shares_are_those_of_seeds_or_of_trainings():
    held = pd.Series([True, True, True, False, True, True, True, True])
    one = decide.share_over_seeds(held, pd.Series([0] * 8), list("aabbccdd"))
    assert one.value == 7 / 8
    assert one.low < one.value < one.high
    several = decide.share_over_seeds(held[:6], pd.Series([0, 0, 1, 1, 2, 2]), list("aaaaaa"))
    assert several == pytest.approx(decide.over_seeds([1, 0.5, 1]))


@pytest.mark.parametrize(
    ("deviations", "held"), [([0.05, 0.01], True), ([0.051], None), ([0.16, 0.2], False), ([0.15, 0.2], None)]
)
def test_single_trajectories_need_a_margin(deviations, held):
    assert decide.agree(deviations, 0.1) is held


def test_no_trajectory_decides_nothing():
    with pytest.raises(InputError, match="at least one"):
        decide.agree([], 0.1)


def test_a_setting_is_decided_in_every_seed_or_with_a_margin():
    values, settings = [0.96, 0.97, 0.98, 0.99, 0.99, 0.99], list("aaabbb")
    assert decide.each_at_least(values, settings, 0.95) is True
    assert decide.each_at_least([0.94, *values[1:]], settings, 0.95) is None
    assert decide.each_at_least([0.94, 0.93, 0.9, *values[3:]], settings, 0.95) is False
    assert decide.each_at_least([0.98, 0.99], list("ab"), 0.95) is True
    assert decide.each_at_least([0.97, 0.99], list("ab"), 0.95) is None
    assert decide.each_at_least([0.9, 0.5], list("ab"), 0.95) is False


def test_holm_is_the_step_down_of_bonferroni():
    assert decide.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert decide.holm([0.5, 0.9]) == [1.0, 1.0]


def test_the_t_test_is_scipys():
    values = np.random.default_rng(1).standard_normal(5) + 1
    assert decide.t_test(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert decide.t_test([2.0, 2.0, 2.0]) == 0


# The noise


def test_the_noise_is_the_median_spread_over_seeds_of_the_committed_settings(monkeypatch):
    spreads = {0.0: 0.1, 1.0: 0.2, 2.0: 0.7}
    frame = pd.DataFrame(
        [
            {
                "model": "mlp",
                "gamma": gamma,
                "seed": seed,
                "e": math.exp(s * (seed - 1)),
                "accuracy": s * (seed - 1),
            }
            for gamma, s in spreads.items()
            for seed in range(3)
        ]
        + [{"model": "mlp", "gamma": 9.0, "seed": seed, "e": 99.0**seed, "accuracy": seed} for seed in (0, 1)]
    )
    monkeypatch.setattr(noise, "_committed", lambda: (frame, ["model", "gamma"]))
    noise.seed_noise.cache_clear()
    try:
        assert noise.seed_noise("e") == pytest.approx(0.2)  # two seeds of gamma = 9 do not count
        assert noise.seed_noise("accuracy") == pytest.approx(20)
        assert noise.ratio_noise("e") == pytest.approx(0.2 * math.sqrt(2))
        noise.seed_noise.cache_clear()
        monkeypatch.setattr(noise, "_committed", lambda: (frame[:0], ["model", "gamma"]))
        assert noise.seed_noise("e") == math.inf
    finally:
        noise.seed_noise.cache_clear()


def test_the_noise_of_the_committed_runs_is_of_the_papers_order():
    """Two runs of the paper differ by 0.12 in log e; the root halves what sigma alone varies by."""
    assert 0.05 < noise.seed_noise("e_root") < 0.2
    assert noise.seed_noise("sigma_root") == pytest.approx(noise.seed_noise("sigma_avg") / 2, rel=0.2)
    assert 0.3 < noise.seed_noise("accuracy") < 3
