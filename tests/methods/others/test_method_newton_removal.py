"""Newton removal against closed forms, retraining by scikit-learn, and the bound against the true error."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from scipy.stats import norm as normal
from sklearn.linear_model import LogisticRegression
from torch import nn

from unrolling import batch_loss, cross_entropy, make_generator, seeded, snapshot
from unrolling._checks import InputError
from unrolling.methods.others.linear_model import LINEAR_LOSSES, minimise_linear
from unrolling.methods.others.newton_removal import (
    full_hessian,
    gaussian_noise_scale,
    newton_removal_bound,
    newton_unlearn,
)
from unrolling.oracles import dense_hessian
from unrolling.parameters import to_vector

L2 = 0.05
# With |x| <= 1 and |w| <= 1 / L2 at the minimiser: L = |slope| + L2 |w|, and M from the third derivative.
CONSTANTS = {
    "strong_convexity": L2,
    "lipschitz": 2.0,
    "hessian_lipschitz": LINEAR_LOSSES["logistic"].curvature_lipschitz,
}


def data(n, d, seed=0):
    """Return inputs of norm at most 1 and labels of -1 and 1; the first 16 examples are much alike."""
    generator = make_generator(seed, "newton")
    inputs = torch.randn(n, d, dtype=torch.float64, generator=generator)
    inputs[:16] = torch.ones(d, dtype=torch.float64) + 0.1 * inputs[:16]
    inputs /= inputs.norm(dim=1).max()
    return inputs, torch.randn(n, dtype=torch.float64, generator=generator).sign()


def logistic(inputs, targets, scale=1.0):
    """Return the mean loss, regularised per example, as a function of the parameters."""

    def loss(params):
        w = params["w"]
        return scale * (-nn.functional.logsigmoid(targets * (inputs @ w)).mean() + L2 / 2 * w @ w)

    return loss


def minimum(inputs, targets):
    zero = torch.zeros(inputs.shape[1], dtype=torch.float64)
    return {"w": minimise_linear(inputs, targets, zero, loss="logistic", l2=L2, tolerance=1e-10).weights}


def removed(inputs, targets, m, *, noise_scale=0.0, scale=1.0, seed=0):
    """Return w'' after forgetting the first m examples."""
    params = minimum(inputs, targets)
    return newton_unlearn(
        params,
        full_hessian(logistic(inputs, targets, scale), params),
        logistic(inputs[:m], targets[:m], scale),
        num_examples=len(inputs),
        num_forgotten=m,
        strong_convexity=scale * L2,
        noise_scale=noise_scale,
        generator=make_generator(seed, "noise"),
    )


def test_full_hessian_is_the_dense_one():
    inputs, targets = data(40, 3)
    with seeded(0, "net"):
        net = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2)).double()
    loss = batch_loss(
        net, lambda model, batch: cross_entropy(model(batch[0]), batch[1]), (inputs, (targets > 0).long())
    )
    torch.testing.assert_close(
        full_hessian(loss, snapshot(net)), dense_hessian(loss, snapshot(net)), rtol=1e-10, atol=1e-12
    )


@settings(deadline=None, derandomize=True, max_examples=20)
@given(st.integers(1, 9), st.integers(1, 6), st.integers(0, 10**6))
def test_newton_removal_is_exact_for_ridge_regression(m, d, seed):
    generator = make_generator(seed, "ridge")
    x = torch.randn(20, d, dtype=torch.float64, generator=generator)
    y = torch.randn(20, dtype=torch.float64, generator=generator)

    def ridge(x, y):
        return lambda p: ((x @ p["w"] - y) ** 2).mean() / 2 + L2 / 2 * p["w"] @ p["w"]

    def solution(x, y):
        return torch.linalg.solve(x.T @ x / len(x) + L2 * torch.eye(d, dtype=torch.float64), x.T @ y / len(x))

    params = {"w": solution(x, y)}
    found = newton_unlearn(
        params,
        full_hessian(ridge(x, y), params),
        ridge(x[:m], y[:m]),
        num_examples=20,
        num_forgotten=m,
        strong_convexity=L2,
        noise_scale=0.0,
        generator=generator,
    )
    torch.testing.assert_close(found["w"], solution(x[m:], y[m:]), rtol=1e-9, atol=1e-9)


def test_quadratic_losses_need_no_noise():
    constants = CONSTANTS | {"hessian_lipschitz": 0.0}
    bound = newton_removal_bound(num_examples=10, num_forgotten=3, **constants)
    assert bound == gaussian_noise_scale(bound, epsilon=0.5, delta=1e-5) == 0


@pytest.mark.parametrize("m", range(1, 17))
def test_error_on_logistic_regression_is_below_the_bound(m):
    inputs, targets = data(400, 4)
    retrained = LogisticRegression(C=1 / (L2 * (400 - m)), fit_intercept=False, tol=1e-12, max_iter=10_000)
    retrained.fit(inputs[m:].numpy(), targets[m:].numpy())
    found = removed(inputs, targets, m)["w"].numpy()
    error = np.linalg.norm(found - retrained.coef_[0])
    before = np.linalg.norm(minimum(inputs, targets)["w"].numpy() - retrained.coef_[0])
    assert error <= newton_removal_bound(num_examples=400, num_forgotten=m, **CONSTANTS)
    assert error < 0.1 * before


@settings(deadline=None, derandomize=True, max_examples=25)
@given(st.integers(20, 60), st.integers(1, 5), st.integers(1, 19), st.integers(0, 10**6))
def test_bound_holds_however_many_are_forgotten(n, d, m, seed):
    inputs, targets = data(n, d, seed)
    found, retrained = removed(inputs, targets, m)["w"], minimum(inputs[m:], targets[m:])["w"]
    error = float((found - retrained).norm())
    assert error <= newton_removal_bound(num_examples=n, num_forgotten=m, **CONSTANTS) + 1e-9


def test_error_grows_as_the_square_of_the_number_forgotten():
    inputs, targets = data(4000, 3)
    inputs[:16], targets[:16] = inputs[0].clone(), 1.0  # one point 16 times, so that gradients add up

    def error(m):
        target = minimum(inputs[m:], targets[m:])["w"]
        return float((removed(inputs, targets, m)["w"] - target).norm())

    assert np.log2(error(2) / error(1)) == pytest.approx(2, abs=0.03)
    assert np.log2(error(4) / error(2)) == pytest.approx(2, abs=0.03)
    bounds = [newton_removal_bound(num_examples=4000, num_forgotten=m, **CONSTANTS) for m in (2, 4)]
    assert np.log2(bounds[1] / bounds[0]) == pytest.approx(2, abs=0.01)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_only_the_third_power_of_lambda_survives_a_change_of_units(scale):
    # Multiplying all losses by a number moves no minimiser and no Newton step.
    inputs, targets = data(60, 3)
    found = removed(inputs, targets, 4, scale=scale)["w"]
    torch.testing.assert_close(found, removed(inputs, targets, 4)["w"], rtol=1e-9, atol=1e-12)
    scaled = {name: scale * value for name, value in CONSTANTS.items()}
    sizes = {"num_examples": 60, "num_forgotten": 4}
    bound = newton_removal_bound(**sizes, **CONSTANTS)
    assert newton_removal_bound(**sizes, **scaled) == pytest.approx(bound, rel=1e-12)


def test_second_power_of_lambda_would_give_a_bound_that_fails():
    inputs, targets = data(60, 3)
    error = float((removed(inputs, targets, 4)["w"] - minimum(inputs[4:], targets[4:])["w"]).norm())
    scaled = {name: 1e-7 * value for name, value in CONSTANTS.items()}
    bound = newton_removal_bound(num_examples=60, num_forgotten=4, **scaled)
    with_square = bound * scaled["strong_convexity"]
    assert with_square < error < bound


@given(n=st.integers(2, 10**6), part=st.floats(0, 1))
def test_printed_bound_follows_up_to_half_of_the_data(n, part):
    m = max(1, min(n - 1, int(part * n)))
    ours = newton_removal_bound(
        num_examples=n, num_forgotten=m, strong_convexity=1.0, lipschitz=1.0, hessian_lipschitz=1.0
    )
    printed = 2 * m**2 / n**2
    if 2 * m <= n:
        assert printed / 4 <= ours * (1 + 1e-12)
        assert ours <= printed * (1 + 1e-12)
    else:
        assert printed < ours


def test_noise_is_gaussian_of_the_given_scale():
    inputs, targets = data(60, 3)
    centre = removed(inputs, targets, 2)["w"]
    draws = [removed(inputs, targets, 2, noise_scale=0.3, seed=seed)["w"] - centre for seed in range(200)]
    assert kstest(torch.cat(draws).numpy() / 0.3, "norm").pvalue > 0.01


def exact_delta(epsilon, shift_per_scale):
    """Return the delta of a Gaussian shifted by that many standard deviations (Balle and Wang, 2018)."""
    a, b = shift_per_scale / 2, epsilon / shift_per_scale
    return normal.cdf(a - b) - math.exp(epsilon) * normal.cdf(-a - b)


@given(epsilon=st.floats(1e-3, 1.0), delta=st.floats(1e-12, 0.99), shift=st.floats(1e-6, 1e6))
def test_calibrated_noise_hides_the_shift(epsilon, delta, shift):
    scale = gaussian_noise_scale(shift, epsilon=epsilon, delta=delta)
    assert exact_delta(epsilon, shift / scale) <= delta


def test_cost_counts_the_forgotten_examples_only():
    inputs, targets = data(60, 3)
    params, calls = minimum(inputs, targets), []
    mean = logistic(inputs[:6], targets[:6])

    def counted(p):
        calls.append(1)
        return mean(p)

    found = newton_unlearn(
        params,
        full_hessian(logistic(inputs, targets), params),
        counted,
        num_examples=60,
        num_forgotten=6,
        strong_convexity=L2,
        noise_scale=0.1,
        generator=make_generator(0, "noise"),
        batch_size=4,
    )
    assert len(calls) == 1
    assert (found.cost.gradients, found.cost.hvps) == (6 / 4, 3 * 6 / 4)
    assert found.cost.stored_bytes == 3 * 3 * 8


def test_misuse_is_refused():
    inputs, targets = data(60, 3)
    params = minimum(inputs, targets)
    hessian = full_hessian(logistic(inputs, targets), params)

    def remove(hessian=hessian, forget=None, n=60, m=4, convexity=L2):
        return newton_unlearn(
            params,
            hessian,
            forget or logistic(inputs[:m], targets[:m]),
            num_examples=n,
            num_forgotten=m,
            strong_convexity=convexity,
            noise_scale=0.0,
            generator=make_generator(0, "noise"),
        )

    with pytest.raises(InputError, match="num_forgotten must be between 1 and 59, got 60"):
        remove(m=60)
    with pytest.raises(InputError, match="num_forgotten must be between 1 and 59, got 0"):
        remove(m=0, forget=logistic(inputs, targets))
    with pytest.raises(InputError, match=r"must have shape \(3, 3\), got \(2, 2\)"):
        remove(hessian=torch.eye(2, dtype=torch.float64))
    with pytest.raises(InputError, match="the method needs strongly convex losses"):
        remove(convexity=1.0)
    with pytest.raises(InputError, match="has the eigenvalue -"):
        remove(forget=lambda p: 1e3 * (p["w"] ** 2).sum())
    with pytest.raises(InputError, match="expected epsilon at most 1"):
        gaussian_noise_scale(1.0, epsilon=3.0, delta=1e-3)
    torch.testing.assert_close(to_vector(remove()), to_vector(removed(inputs, targets, 4)))
