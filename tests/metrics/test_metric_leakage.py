"""Bounds on epsilon by exact enumeration and randomised response; divergence of weights in closed form."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.distributions import Normal, kl_divergence

from unrolling import make_generator
from unrolling._checks import InputError
from unrolling.metrics import delta_bound
from unrolling.metrics.leakage import epsilon_lower_bound, gaussian_weight_divergence


def bound(hits, positives, alarms, negatives, **options):
    return epsilon_lower_bound(
        true_positives=hits,
        num_positives=positives,
        false_positives=alarms,
        num_negatives=negatives,
        **options,
    )


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    positives=st.integers(1, 60),
    negatives=st.integers(1, 60),
    parts=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    confidence=st.sampled_from([0.5, 0.9, 0.95, 0.99]),
)
def test_rates_are_scipys_clopper_pearson_bounds(positives, negatives, parts, confidence):
    hits, alarms = round(parts[0] * positives), round(parts[1] * negatives)
    found = bound(hits, positives, alarms, negatives, confidence=confidence)
    first = stats.binomtest(hits, positives).proportion_ci(confidence, method="exact")
    second = stats.binomtest(alarms, negatives).proportion_ci(confidence, method="exact")
    assert found.true_positive_rate_low == pytest.approx(first.low, abs=1e-12)
    assert found.false_positive_rate_high == pytest.approx(second.high, abs=1e-12)


def test_bound_by_hand_in_either_direction():
    error = 0.025
    low, high = stats.beta.ppf(error, 90, 11), stats.beta.ppf(1 - error, 6, 95)  # 90 and 5 of 100
    assert bound(90, 100, 5, 100).value == pytest.approx(math.log(low / high))
    assert bound(90, 100, 5, 100, delta=0.1).value == pytest.approx(math.log((low - 0.1) / high))
    # Here positives are recognised less surely: the answer "negative" to a positive is what is rare.
    low, high = stats.beta.ppf(error, 95, 6), stats.beta.ppf(1 - error, 11, 90)
    assert bound(95, 100, 10, 100).value == pytest.approx(math.log((1 - high) / (1 - low)))


def test_a_perfect_attack_shows_no_more_than_its_trials_allow():
    for n in (10, 100, 1000):
        rate = 0.025 ** (1 / n)
        assert bound(n, n, 0, n).value == pytest.approx(math.log(rate / (1 - rate)))
    assert bound(1000, 1000, 0, 1000).value == pytest.approx(math.log(1000 / 3.7), abs=0.01)


@pytest.mark.parametrize(("hits", "alarms"), [(50, 50), (0, 100), (20, 80), (0, 0), (100, 100)])
def test_an_attack_that_tells_nothing_apart_shows_nothing(hits, alarms):
    assert bound(hits, 100, alarms, 100).value == 0
    assert bound(hits, 100, alarms, 100, delta=0.9).value == 0


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("delta", [0.0, 0.1])
def test_bound_on_randomised_response_is_right_as_often_as_it_says(epsilon, delta):
    # With probability delta the truth is told, else it is with odds e^epsilon: TPR = e^epsilon FPR + delta.
    trials, confidence = 40, 0.9
    alarm = (1 - delta) / (1 + math.exp(epsilon))
    hit = math.exp(epsilon) * alarm + delta
    assert hit == pytest.approx(1 - alarm)
    wrong = sum(
        stats.binom.pmf(hits, trials, hit) * stats.binom.pmf(alarms, trials, alarm)
        for hits in range(trials + 1)
        for alarms in range(trials + 1)
        if bound(hits, trials, alarms, trials, delta=delta, confidence=confidence).value > epsilon
    )
    assert 0.001 < wrong <= 1 - confidence  # exact, over all outcomes; 0 would be a bound of no use


def test_bound_on_randomised_response_approaches_epsilon_with_more_trials():
    values = []
    for trials in (10**3, 10**5, 10**7):
        alarms = round(trials / (1 + math.exp(1.0)))
        values.append(bound(trials - alarms, trials, alarms, trials).value)
    assert values == sorted(values)
    assert values[-1] < 1.0
    assert values[-1] == pytest.approx(1.0, abs=2e-3)


def test_bound_of_the_best_attack_on_two_gaussians_stays_below_the_exact_curve():
    # Weights one noise apart, thresholds everywhere: at this epsilon's own delta no attack may show more.
    epsilon = 1.0
    delta = delta_bound(1.0, noise=1.0, epsilon=epsilon)
    thresholds, n = np.linspace(-3, 4, 71), 10**8
    hits, alarms = (np.round(n * stats.norm.sf(thresholds - mean)).astype(int) for mean in (1.0, 0.0))
    found = [bound(int(h), n, int(a), n, delta=delta).value for h, a in zip(hits, alarms, strict=True)]
    assert max(found) < epsilon
    assert max(found) == pytest.approx(epsilon, abs=2e-3)


def models(count, size=7, seed=0, mean=0.0, scale=1.0):
    generator = make_generator(seed, "models")
    rows = mean + scale * torch.randn(count, size, generator=generator, dtype=torch.float64)
    return [{"a": row[:3], "b": row[3:].reshape(2, -1)} for row in rows]


def test_divergence_is_that_of_torchs_normals_with_the_fitted_parameters():
    first, second = models(5, seed=1, mean=1.0), models(8, seed=2, scale=3.0)
    rows = [torch.stack([torch.cat([m["a"], m["b"].flatten()]) for m in kind]) for kind in (first, second)]
    fits = [Normal(r.mean(dim=0), r.std(dim=0)) for r in rows]
    found = gaussian_weight_divergence(first, second)
    assert found.value == pytest.approx(float(kl_divergence(*fits).sum()))
    assert found.num_weights == 7


def test_divergence_of_many_models_approaches_the_closed_form():
    first, second = models(20_000, seed=1, mean=1.0), models(20_000, seed=2, scale=2.0)
    exact = 7 * (1 / 4 + 1 / 4 - math.log(1 / 4) - 1) / 2
    assert gaussian_weight_divergence(first, second).value == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize(("unlearned", "retrained"), [(10, 10), (6, 20), (20, 6)])
def test_divergence_of_few_models_is_large_where_nothing_differs_and_by_how_much_is_known(
    unlearned, retrained
):
    # Many weights stand for many repetitions: each is a draw of its own.
    first, second = models(unlearned, 40_001, seed=1), models(retrained, 40_001, seed=2)
    found = gaussian_weight_divergence(first, second)
    assert found.value > 4000
    assert found.expected_if_equal == pytest.approx(found.value, rel=0.05)
    moved = [{name: 3 * p + 5 for name, p in m.items()} for m in first]
    moved_too = [{name: 3 * p + 5 for name, p in m.items()} for m in second]
    assert gaussian_weight_divergence(moved, moved_too).value == pytest.approx(found.value)


@pytest.mark.parametrize("k", [4, 5, 10, 100])
def test_expected_divergence_for_equal_numbers_is_the_short_formula(k):
    found = gaussian_weight_divergence(models(k, seed=1), models(k, seed=2))
    assert found.expected_if_equal == pytest.approx(7 * (2 * k - 1) / (k * (k - 3)))


def test_expected_divergence_is_infinite_for_three_retrained_models():
    assert gaussian_weight_divergence(models(9), models(3, seed=1)).expected_if_equal == math.inf
    assert math.isfinite(gaussian_weight_divergence(models(3), models(9, seed=1)).expected_if_equal)


def test_weights_that_never_vary_count_nothing_and_constants_of_one_kind_count_infinitely():
    first, second = models(5, seed=1), models(5, seed=2)
    plain = gaussian_weight_divergence(first, second)

    def extended(kind, values):
        return [m | {"c": torch.tensor([v]).double()} for m, v in zip(kind, values, strict=True)]

    def value(ours, theirs):
        return gaussian_weight_divergence(extended(first, ours), extended(second, theirs))

    frozen, running = [0.1] * 5, [0.0, 1.0, 2.0, 3.0, 4.0]
    assert value(frozen, frozen).value == pytest.approx(plain.value)
    assert value(frozen, frozen).num_weights == plain.num_weights
    for ours, theirs in ((frozen, running), (running, frozen), (frozen, [0.7] * 5)):
        assert value(ours, theirs).value == math.inf
    same = gaussian_weight_divergence(first[:1] * 3, first[:1] * 3)
    assert (same.value, same.expected_if_equal, same.num_weights) == (0.0, 0.0, 0)


def test_weights_are_matched_by_name():
    first, second = models(5, seed=1), models(5, seed=2)
    turned = [dict(reversed(m.items())) for m in second]
    assert gaussian_weight_divergence(first, turned) == gaussian_weight_divergence(first, second)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: bound(11, 10, 0, 10), "true_positives must be between 0 and 10, got 11"),
        (lambda: bound(1, 10, 0, 0), "num_negatives must be at least 1"),
        (lambda: bound(0.5, 10, 0, 10), "true_positives must be a whole number"),
        (lambda: bound(1, 10, 0, 10, delta=1.0), "delta and confidence must be below 1, got 1 and 0.95"),
        (lambda: bound(1, 10, 0, 10, confidence=1.0), "below 1, got 0 and 1"),
        (lambda: gaussian_weight_divergence(models(1), models(2)), "`unlearned`.*at least two models"),
        (lambda: gaussian_weight_divergence(models(2), models(2)[0]), "`retrained`.*sequence"),
        (lambda: gaussian_weight_divergence(models(2), models(2, 9)), "parameter 'b'.*same model"),
    ],
)
def test_misuse_is_said_in_words(call, words):
    with pytest.raises(InputError, match=words):
        call()
