"""Section 4.1 by enumeration, against itertools, scipy's normal distribution and SGD one order at a time."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats

from unrolling import BatchOrder, make_generator
from unrolling._checks import InputError
from unrolling.studies.verification_error.densities import (
    WeightDensity,
    grid_over,
    largest_difference,
    log10_lipschitz_constant,
    log10_peak_density,
    orderings,
    weights_after,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=make_generator(seed, "test"), dtype=torch.float64)


def loss(w, example):
    return torch.log1p(torch.exp(-example @ w)) + w.cos().sum() / 2


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 3), (2, 1), (3, 1), (4, 1), (2, 2), (3, 2), (4, 2), (2, 3)])
def test_orderings_are_the_permutations_of_every_epoch_and_each_smaller_one_has_n_to_the_m_preimages(n, m):
    orders = orderings(n, m)
    flat = {tuple(i for (i,) in order) for order in orders}
    wanted = {
        epochs
        for epochs in itertools.product(range(n), repeat=n * m)
        if all(sorted(epochs[k * n : (k + 1) * n]) == list(range(n)) for k in range(m))
    }
    assert flat == wanted
    assert len(orders) == math.factorial(n) ** m
    for star in range(n):
        smaller = Counter(order.without_example(star) for order in orders)
        assert len(smaller) == math.factorial(n - 1) ** m
        assert set(smaller.values()) == {n**m}


def test_too_many_orderings_are_refused():
    with pytest.raises(InputError, match=r"9 examples have more than 100,000 orderings over 1 epochs"):
        orderings(9, 1)
    with pytest.raises(InputError, match="num_epochs must be at least 1"):
        orderings(2, 0)


@settings(deadline=None, derandomize=True, max_examples=20)
@given(n=st.integers(1, 3), m=st.integers(1, 2), size=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_weights_after_equal_sgd_one_order_at_a_time(n, m, size, seed):
    examples, start = normal(n, size, seed=seed), normal(size, seed=seed + 1)
    orders = orderings(n, m)
    for row, order in zip(
        weights_after(orders, loss, examples, start, learning_rate=0.3), orders, strict=True
    ):
        w = start.clone()
        for (example,) in order:
            leaf = w.requires_grad_()
            (slope,) = torch.autograd.grad(loss(leaf, examples[example]), leaf)
            w = (leaf - 0.3 * slope).detach()
        torch.testing.assert_close(row, w, rtol=1e-12, atol=1e-12)


def test_an_order_without_steps_stays_at_the_initial_weights():
    empty = [order.without_example(0) for order in orderings(1, 2)]
    start = normal(3)
    assert torch.equal(weights_after(empty, loss, normal(1, 3), start, learning_rate=1.0), start[None])


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("noise", [0.03, 1.0, 20.0])
def test_density_is_the_mean_of_normal_densities(size, noise):
    centres = normal(7, size)
    points = centres.repeat(800, 1) + noise * normal(5600, size, seed=1)  # more than one part
    each = [
        stats.multivariate_normal(mean=centre, cov=noise**2).pdf(points.numpy()) for centre in centres.numpy()
    ]
    found = WeightDensity(centres, noise)(points)
    np.testing.assert_allclose(found, np.mean(each, axis=0).reshape(-1), rtol=1e-11)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("noise", [0.2, 1.0, 7.0])
def test_the_constants_are_the_largest_value_and_the_largest_gradient(size, noise):
    centre = normal(1, size)
    density = stats.multivariate_normal(mean=centre[0].numpy(), cov=noise**2)
    assert 10 ** log10_peak_density(noise, size) == pytest.approx(density.pdf(centre[0].numpy()), rel=1e-12)

    def minus_slope(offset):
        point = centre[0].numpy() + offset
        step = 1e-4 * noise
        parts = [
            (density.pdf(point + step * axis) - density.pdf(point - step * axis)) / (2 * step)
            for axis in np.eye(size)
        ]
        return -np.linalg.norm(parts) * noise ** (size + 1)  # in units in which the answer is near one

    found = optimize.minimize(
        minus_slope,
        0.4 * noise * np.ones(size),
        method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-12},
    )
    steepest = -found.fun / noise ** (size + 1)
    assert steepest == pytest.approx(10 ** log10_lipschitz_constant(noise, size), rel=1e-6)
    assert np.linalg.norm(found.x) == pytest.approx(noise, rel=1e-3)


def test_the_constant_over_the_peak_does_not_depend_on_the_dimension():
    for size in (1, 10, 10**7):
        share = log10_lipschitz_constant(0.01, size) - log10_peak_density(0.01, size)
        assert 10**share == pytest.approx(math.exp(-0.5) / 0.01, rel=1e-6)


@pytest.mark.paper("Eq. 2, 13 and 14")
@settings(deadline=None, derandomize=True, max_examples=25)
@given(
    n=st.integers(2, 3),
    m=st.integers(1, 2),
    size=st.integers(1, 2),
    noise=st.floats(0.05, 3.0),
    eta=st.floats(0.05, 1.5),
    seed=st.integers(0, 10**6),
)
def test_lemma_1_and_the_averaged_density(n, m, size, noise, eta, seed):
    examples, start = normal(n, size, seed=seed), normal(size, seed=seed + 1)
    orders = orderings(n, m)
    removed = [order.without_example(n - 1) for order in orders]
    trained = weights_after(orders, loss, examples, start, learning_rate=eta)
    retrained = weights_after(removed, loss, examples, start, learning_rate=eta)
    first, second = WeightDensity(trained, noise), WeightDensity(retrained, noise)
    points, _ = grid_over(first, second, points_per_axis=61)
    d = float((trained - retrained).norm(dim=1).mean())
    bound = 10 ** log10_lipschitz_constant(noise, size) * d
    assert largest_difference(first, second, points) <= bound * (1 + 1e-9)
    pairs = [
        (WeightDensity(w[None], noise), WeightDensity(r[None], noise))
        for w, r in zip(trained, retrained, strict=True)
    ]
    paired = torch.stack([(p(points) - q(points)).abs() for p, q in pairs]).mean(dim=0)
    assert ((first(points) - second(points)).abs() <= paired + 1e-12 * paired.max()).all()
    assert paired.max() <= bound * (1 + 1e-9)
    once = weights_after(list(dict.fromkeys(removed)), loss, examples, start, learning_rate=eta)
    torch.testing.assert_close(second(points), WeightDensity(once, noise)(points), rtol=1e-10, atol=0)


@pytest.mark.paper("Eq. 2 and 14")
def test_lemma_1_is_tight_for_a_small_distance():
    first, second = (WeightDensity(torch.tensor([[x]], dtype=torch.float64), 1.0) for x in (0.0, 1e-3))
    points, _ = grid_over(first, second, points_per_axis=2001)
    bound = 10 ** log10_lipschitz_constant(1.0, 1) * 1e-3
    assert largest_difference(first, second, points) == pytest.approx(bound, rel=1e-3)


@pytest.mark.paper("Eq. 3, 15 and 16")
@settings(deadline=None, derandomize=True, max_examples=25)
@given(
    count=st.integers(1, 6),
    size=st.integers(1, 2),
    noise=st.floats(0.5, 3.0),
    seed=st.integers(0, 10**6),
)
def test_corollary_1_and_its_reverse_for_any_update_of_each_ordering(count, size, noise, seed):
    retrained, errors = normal(count, size, seed=seed), normal(count, size, seed=seed + 1)
    unlearned = retrained + errors
    first, second = WeightDensity(unlearned, noise), WeightDensity(retrained, noise)
    points, cell = grid_over(first, second, points_per_axis=81)
    b = largest_difference(first, second, points)
    v = float(errors.norm(dim=1).mean())
    assert b <= 10 ** log10_lipschitz_constant(noise, size) * v * (1 + 1e-9)
    # Eq. 16 line by line, W the box of the grid; its v is the norm of the mean, not the mean of the norms.
    difference = first(points) - second(points)
    drift = (difference[:, None] * points).sum(dim=0) * cell
    torch.testing.assert_close(drift, errors.mean(dim=0), rtol=0, atol=1e-9)
    third_line = float((difference.abs() * points.norm(dim=1)).sum()) * cell
    a = float(points.norm(dim=1).sum()) * cell
    assert float(errors.mean(dim=0).norm()) - 1e-9 <= third_line <= a * b * (1 + 1e-9)


@pytest.mark.parametrize("size", [1, 2])
def test_a_sum_over_the_grid_is_an_integral(size):
    density = WeightDensity(normal(5, size), 0.5)
    points, cell = grid_over(density, points_per_axis=120)
    assert float(density(points).sum()) * cell == pytest.approx(1, abs=1e-10)
    mean = (density(points)[:, None] * points).sum(dim=0) * cell
    torch.testing.assert_close(mean, density.centres.mean(dim=0), rtol=0, atol=1e-9)


def test_largest_difference_on_a_grid_is_that_of_the_functions():
    first, second = WeightDensity(normal(4, 1), 0.3), WeightDensity(normal(3, 1, seed=2), 0.3)
    points, cell = grid_over(first, second, points_per_axis=20_001)

    ours, theirs = first.centres.numpy(), second.centres.numpy()

    def difference(x):  # written out, as scipy's normal density is slow on single numbers
        p, q = (np.exp(-((x - c) ** 2) / 0.18).mean() for c in (ours, theirs))
        return (p - q) / (0.3 * math.sqrt(2 * math.pi))

    found = [
        optimize.minimize_scalar(
            lambda x: -abs(difference(x)), bounds=(a, a + 0.1), method="bounded", options={"xatol": 1e-8}
        ).fun
        for a in np.arange(-6, 6, 0.1)
    ]
    assert largest_difference(first, second, points) == pytest.approx(-min(found), rel=1e-5)
    assert largest_difference(second, first, points) == largest_difference(first, second, points)
    exact, _ = integrate.quad(lambda x: abs(difference(x)), -8, 8, limit=400)
    assert float((first(points) - second(points)).abs().sum()) * cell == pytest.approx(exact, rel=1e-5)


def test_bad_input_is_refused():
    orders, start = orderings(2, 1), torch.zeros(2)
    with pytest.raises(InputError, match="`orders` must be at least one ordering"):
        weights_after([], loss, normal(2, 2), start, learning_rate=0.1)
    with pytest.raises(InputError, match="same number of steps"):
        weights_after([*orders, orders[0].without_example(0)], loss, normal(2, 2), start, learning_rate=0.1)
    with pytest.raises(InputError, match="batch size 1"):
        weights_after([BatchOrder(((0, 1),))], loss, normal(2, 2), start, learning_rate=0.1)
    with pytest.raises(InputError, match=r"must be a vector, got shape \(2, 1\)"):
        weights_after(orders, loss, normal(2, 2), torch.zeros(2, 1), learning_rate=0.1)
    with pytest.raises(InputError, match="not finite after SGD at learning_rate 1e"):
        weights_after(orders, lambda w, x: (w**4).sum(), normal(2, 2), start + 1, learning_rate=1e200)
    with pytest.raises(InputError, match="noise must be larger than 0"):
        WeightDensity(torch.zeros(1, 1), 0.0)
    with pytest.raises(InputError, match=r"shape \(orderings, weights\), got \(3,\)"):
        WeightDensity(torch.zeros(3), 1.0)
    with pytest.raises(InputError, match=r"shape \(number, 2\), got \(5, 1\)"):
        WeightDensity(torch.zeros(1, 2), 1.0)(torch.zeros(5, 1))
    with pytest.raises(InputError, match="num_weights must be at least 1"):
        log10_peak_density(1.0, 0)
