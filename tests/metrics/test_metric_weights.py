"""Divergences from verification errors: against integrals, simulation, arbitrary precision and mixtures."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats

from unrolling import make_generator
from unrolling._checks import InputError
from unrolling.metrics import delta_bound, epsilon_bound, kl_divergence_bound, total_variation_bound
from unrolling.studies.verification_error.densities import WeightDensity, grid_over

RATIOS = [1e-6, 1e-3, 0.1, 0.5, 1.0, 3.0, 10.0]


def exact_delta(v, noise, epsilon):
    """The formula of the Gaussian mechanism with 60 digits."""
    with mpmath.workdps(60):
        v, s, eps = map(mpmath.mpf, (v, noise, epsilon))
        return mpmath.ncdf(v / (2 * s) - eps * s / v) - mpmath.exp(eps) * mpmath.ncdf(
            -v / (2 * s) - eps * s / v
        )


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("noise", [0.2, 5.0])
def test_one_pair_of_gaussians_against_integrals_of_their_densities(ratio, noise):
    first, second = stats.norm(0, noise), stats.norm(ratio * noise, noise)
    v = ratio * noise

    def integral(function):
        points = [v / 2, v / 2 + noise * noise / v if ratio > 0.3 else 0]
        low, high = -9 * noise, v + 9 * noise
        return integrate.quad(function, low, high, points=points, limit=500, epsabs=1e-13)[0]

    total = integral(lambda x: abs(first.pdf(x) - second.pdf(x))) / 2
    assert total_variation_bound(v, noise) == pytest.approx(total, rel=1e-6, abs=1e-11)
    kl = integral(lambda x: first.pdf(x) * (first.logpdf(x) - second.logpdf(x)))
    assert kl_divergence_bound(v, noise) == pytest.approx(kl, rel=1e-6, abs=1e-9)
    for epsilon in (0.0, 0.5, 2.0):
        loss = integral(lambda x, e=epsilon: max(0, first.pdf(x) - math.exp(e) * second.pdf(x)))
        assert delta_bound(v, noise, epsilon) == pytest.approx(loss, rel=1e-5, abs=1e-11)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(ratio=st.floats(1e-3, 50), share=st.floats(0, 12))
def test_delta_keeps_its_digits_far_out_in_the_tails(ratio, share):
    epsilon = share * ratio + ratio**2 / 2  # so many standard deviations out
    exact = exact_delta(ratio, 1.0, epsilon)
    assert delta_bound(ratio, 1.0, epsilon) == pytest.approx(float(exact), rel=1e-8, abs=1e-300)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(ratio=st.floats(1e-3, 50), share=st.floats(0, 1))
def test_delta_where_it_is_not_small(ratio, share):
    epsilon = share * ratio**2 / 2
    assert delta_bound(ratio, 1.0, epsilon) == pytest.approx(
        float(exact_delta(ratio, 1.0, epsilon)), rel=1e-9
    )


def test_the_curve_of_the_gaussian_mechanism_by_simulation():
    """delta = Pr[L > eps] - exp(eps) Pr[L' > eps], with the log-likelihood ratio L, in dimension 30."""
    rng = np.random.default_rng(0)
    shift = rng.normal(size=30)
    shift *= 1.7 / np.linalg.norm(shift)
    z = 0.9 * rng.normal(size=(400_000, 30))

    def ratio(x):
        return (((x - shift) ** 2).sum(axis=1) - (x**2).sum(axis=1)) / (2 * 0.9**2)

    for epsilon in (0.0, 1.0, 3.0):
        ours = (ratio(z) > epsilon).mean()
        theirs = (ratio(z + shift) > epsilon).mean()
        simulated = ours - math.exp(epsilon) * theirs
        spread = math.sqrt((ours + math.exp(2 * epsilon) * theirs) / len(z))
        assert abs(delta_bound(1.7, 0.9, epsilon) - simulated) < 5 * spread


@settings(deadline=None, derandomize=True)
@given(st.just(0.0) | st.floats(1e-9, 100), st.floats(1e-3, 100))
def test_laws_of_one_verification_error(v, noise):
    total = total_variation_bound(v, noise)
    assert total <= v / (noise * math.sqrt(2 * math.pi)) * (1 + 1e-12)
    assert total <= math.sqrt(kl_divergence_bound(v, noise) / 2) * (1 + 1e-12)  # Pinsker
    assert delta_bound(v, noise, 0.0) == pytest.approx(total, rel=1e-9, abs=1e-15)
    curve = [delta_bound(v, noise, epsilon) for epsilon in (0, 0.1, 1, 10, 100)]
    assert all(a >= b >= 0 for a, b in itertools.pairwise(curve))
    assert delta_bound(3 * v, 3 * noise, 1.0) == pytest.approx(
        delta_bound(v, noise, 1.0), rel=1e-9, abs=1e-300
    )


def test_limits():
    for function in (total_variation_bound, kl_divergence_bound):
        assert function(0.0, 1.0) == 0
    assert delta_bound(0.0, 1.0, 0.0) == delta_bound(0.0, 1.0, 5.0) == delta_bound(1e-320, 1.0, 1e9) == 0
    assert epsilon_bound(0.0, 1.0, 1e-9) == 0
    assert total_variation_bound(1e9, 1.0) == delta_bound(1e9, 1.0, 1.0) == 1
    assert delta_bound(1.0, 1.0, 1e9) == 0


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    errors=st.lists(st.floats(0, 20), min_size=1, max_size=5),
    noise=st.floats(0.1, 10),
    delta=st.floats(1e-12, 0.9),
)
def test_epsilon_is_the_inverse_of_delta(errors, noise, delta):
    epsilon = epsilon_bound(errors, noise, delta)
    if epsilon == 0:
        assert total_variation_bound(errors, noise) <= delta * (1 + 1e-9)
    else:
        assert delta_bound(errors, noise, epsilon) == pytest.approx(delta, rel=1e-6)


def test_several_errors_give_the_mean():
    errors = [0.0, 0.3, 4.0]
    for function in (
        total_variation_bound,
        kl_divergence_bound,
        lambda v, s: delta_bound(v, s, 0.7),
    ):
        assert function(errors, 0.5) == pytest.approx(np.mean([function(v, 0.5) for v in errors]), rel=1e-12)
    assert total_variation_bound(np.array(errors), 0.5) == total_variation_bound(errors, 0.5)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(
    count=st.integers(1, 6),
    size=st.integers(1, 2),
    noise=st.floats(0.1, 2.0),
    spread=st.floats(0.01, 3.0),
    seed=st.integers(0, 10**6),
)
def test_divergences_of_mixtures_are_at_most_the_means_over_orderings(count, size, noise, spread, seed):
    generator = make_generator(seed, "mixtures")
    options = {"generator": generator, "dtype": torch.float64}
    centres = torch.randn(count, size, **options)
    moved = centres + spread * torch.randn(count, size, **options)
    errors = (moved - centres).norm(dim=1).tolist()
    first, second = WeightDensity(moved, noise), WeightDensity(centres, noise)
    points, cell = grid_over(first, second, points_per_axis=1501 if size == 1 else 161)
    p, q = first(points), second(points)
    total = float((p - q).abs().sum()) * cell / 2
    assert total <= total_variation_bound(errors, noise) * (1 + 1e-3) + 1e-9
    both = (p > 0) & (q > 0)
    kl = float((p[both] * (p[both].log() - q[both].log())).sum()) * cell
    assert kl <= kl_divergence_bound(errors, noise) * (1 + 1e-3) + 1e-9
    for epsilon in (0.3, 2.0):
        for a, b in ((p, q), (q, p)):
            loss = float((a - math.exp(epsilon) * b).clamp(min=0).sum()) * cell
            assert loss <= delta_bound(errors, noise, epsilon) * (1 + 1e-3) + 1e-9


@pytest.mark.parametrize(
    ("errors", "noise", "message"),
    [
        (-1.0, 1.0, "must be one number >= 0"),
        ([], 1.0, "at least one"),
        ([1.0, float("nan")], 1.0, "all finite"),
        ([[1.0]], 1.0, "a sequence"),
        (1.0, 0.0, "noise must be larger than 0"),
        ("x", 1.0, "`verification_errors` must be numbers, got a str"),
        ({}, 1.0, "`verification_errors` must be numbers, got a dict"),
        ([1.0, [2.0]], 1.0, "`verification_errors` must be numbers, got a list"),
        (10**400, 1.0, "`verification_errors` must be numbers, got a int"),
    ],
)
def test_bad_input_is_refused(errors, noise, message):
    for function in (total_variation_bound, kl_divergence_bound):
        with pytest.raises(InputError, match=message):
            function(errors, noise)


def test_bad_epsilon_and_delta_are_refused():
    with pytest.raises(InputError, match="epsilon must be at least 0"):
        delta_bound(1.0, 1.0, -0.1)
    for delta, message in ((0.0, "delta must be larger than 0"), (1.0, "delta must be below 1")):
        with pytest.raises(InputError, match=message):
            epsilon_bound(1.0, 1.0, delta)


@pytest.mark.parametrize("distance", [1e155, 1e200, 1e308, math.inf])
def test_models_that_are_too_far_apart_for_a_float_are_told_apart_for_certain(distance):
    """From v^2 / 2 s^2 on epsilon has no float; v / s itself may have none either."""
    errors, noise = (distance, 1.0) if distance < math.inf else (1e200, 1e-200)
    for delta in (1e-5, 0.5):
        assert epsilon_bound(errors, noise, delta) == math.inf
    assert total_variation_bound(errors, noise) == 1
    assert delta_bound(errors, noise, 1.0) == 1
    assert kl_divergence_bound(errors, noise) == math.inf
    # Of two orderings one is certain: half of it, and what the other adds, is the best there is.
    expected = optimize.brentq(lambda e: delta_bound(1.0, 1.0, e) - 0.2, 0, 10)
    assert epsilon_bound([distance if distance < math.inf else 1e300, 1.0], 1.0, 0.6) == pytest.approx(
        expected
    )


def test_epsilon_of_far_models_is_that_of_the_leading_terms():
    """delta = 1/2 where epsilon = v^2 / 2 s^2 - 1 + ..., for the second term of delta vanishes."""
    for distance in (1e3, 1e8, 1e100, 1e154):
        assert epsilon_bound(distance, 1.0, 0.5) == pytest.approx(distance * distance / 2, rel=1e-5)
