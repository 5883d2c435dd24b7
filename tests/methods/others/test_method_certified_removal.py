"""Certified removal against closed forms, retraining, scikit-learn's solvers and the exact density of w''."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm as normal
from sklearn.linear_model import LogisticRegression, Ridge

from unrolling import make_generator
from unrolling._checks import InputError, UnrollingError
from unrolling.methods.others.certified_removal import (
    CertifiedModel,
    RemovalSettings,
    certified_removal_unlearn,
    train_certified,
    worst_case_bound,
)
from unrolling.methods.others.linear_model import (
    LINEAR_LOSSES,
    linear_gradient,
    linear_hessian,
    minimise_linear,
)
from unrolling.model_loss import gradient
from unrolling.oracles import dense_hessian


def data(n, d, seed=0, loss="logistic"):
    """Return inputs of norm at most 1, and targets that a linear model half explains."""
    generator = make_generator(seed, "certified")
    inputs = torch.randn(n, d, dtype=torch.float64, generator=generator)
    inputs /= inputs.norm(dim=1).max()
    targets = inputs @ torch.linspace(-3, 3, d, dtype=torch.float64)
    targets += 0.3 * torch.randn(n, dtype=torch.float64, generator=generator)
    return inputs, targets.sign() if loss == "logistic" else targets


def terms(loss="logistic", **changes):
    values = {"l2": 1e-2, "noise_scale": 2.0, "epsilon": 1.0, "delta": 1e-4} | changes
    return RemovalSettings(loss=loss, **values)


def trained(inputs, targets, loss="logistic", **changes):
    return train_certified(inputs, targets, terms(loss, **changes), generator=make_generator(0, "b"))


def written_out(params, inputs, targets, noise, loss, l2):
    """Return the training loss as the paper writes it, for autograd."""
    w = params["weight"][0]
    z = inputs @ w
    values = -torch.nn.functional.logsigmoid(targets * z) if loss == "logistic" else (z - targets) ** 2 / 2
    return values.sum() + l2 * len(inputs) / 2 * w @ w + noise @ w


def residual(model, inputs, targets):
    """Return the true norm of the gradient over the examples still in."""
    x, y = inputs[model.kept], targets[model.kept]
    slope = gradient(
        lambda p: written_out(p, x, y, model.noise, model.settings.loss, model.settings.l2), model.params
    )
    return float(slope["weight"].norm())


def retrained_weights(model, inputs, targets):
    """Return the minimiser over the examples still in, with the same noise."""
    x, y = inputs[model.kept], targets[model.kept]
    own = model.settings
    return minimise_linear(x, y, model.noise, loss=own.loss, l2=own.l2, tolerance=1e-12).weights


@pytest.mark.parametrize("loss", LINEAR_LOSSES)
def test_gradient_and_hessian_are_those_of_the_written_loss(loss):
    inputs, targets = data(30, 4, loss=loss)
    w = torch.tensor([0.3, -1.0, 2.0, 0.1], dtype=torch.float64)
    params, noise = {"weight": w[None]}, torch.zeros(4, dtype=torch.float64)

    def value(p):
        return written_out(p, inputs, targets, noise, loss, 0.2)

    found = linear_gradient(LINEAR_LOSSES[loss], w, inputs, targets, 0.2)
    torch.testing.assert_close(found, gradient(value, params)["weight"][0], rtol=1e-12, atol=1e-12)
    found = linear_hessian(LINEAR_LOSSES[loss], w, inputs, targets, 0.2)
    torch.testing.assert_close(found, dense_hessian(value, params), rtol=1e-12, atol=1e-12)


def test_logistic_constants_are_the_largest_slope_and_the_steepest_curvature():
    loss = LINEAR_LOSSES["logistic"]
    z = torch.linspace(-20, 20, 200_001, dtype=torch.float64)
    one = torch.ones_like(z)
    steepest = (loss.curvature(z, one).diff() / z.diff()).abs().max()
    assert float(steepest) == pytest.approx(loss.curvature_lipschitz, rel=1e-6)
    assert float(steepest) <= loss.curvature_lipschitz < 1 / 4
    assert float(loss.slope(z, one).abs().max()) == pytest.approx(loss.slope_bound, rel=1e-6)


def test_logistic_minimum_is_scikit_learns():
    inputs, targets = data(200, 5)
    found = minimise_linear(
        inputs, targets, torch.zeros(5, dtype=torch.float64), loss="logistic", l2=1e-3, tolerance=1e-10
    )
    other = LogisticRegression(C=1 / (1e-3 * 200), fit_intercept=False, tol=1e-10, max_iter=10_000)
    other.fit(inputs.numpy(), targets.numpy())
    np.testing.assert_allclose(found.weights.numpy(), other.coef_[0], rtol=1e-6)


def test_least_squares_minimum_is_scikit_learns():
    inputs, targets = data(200, 5, loss="least_squares")
    noise = torch.zeros(5, dtype=torch.float64)
    found = minimise_linear(inputs, targets, noise, loss="least_squares", l2=1e-3, tolerance=1e-10)
    other = Ridge(alpha=1e-3 * 200, fit_intercept=False, tol=1e-12).fit(inputs.numpy(), targets.numpy())
    np.testing.assert_allclose(found.weights.numpy(), other.coef_, rtol=1e-9)
    assert found.hessians == 1


def test_minimum_is_found_where_full_newton_steps_diverge():
    inputs, targets = data(12, 3)
    inputs = inputs * torch.tensor([1.0, 0.1, 0.01], dtype=torch.float64)
    noise = torch.full((3,), 5.0, dtype=torch.float64)
    found = minimise_linear(inputs, targets, noise, loss="logistic", l2=1e-7, tolerance=1e-10)
    assert found.residual <= 1e-10
    assert found.gradients > found.hessians + 1  # some step was halved


@settings(deadline=None, derandomize=True, max_examples=15)
@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 10**6))
def test_removal_from_least_squares_is_the_closed_form_of_what_is_left(d, m, seed):
    inputs, targets = data(20, d, seed, "least_squares")
    model = trained(inputs, targets, "least_squares")
    forget = torch.randperm(20, generator=make_generator(seed, "forget"))[:m].tolist()
    found = certified_removal_unlearn(model, inputs, targets, forget, generator=make_generator(1, "b"))
    x, y = inputs[found.model.kept], targets[found.model.kept]
    normal_matrix = x.T @ x + 1e-2 * (20 - m) * torch.eye(d, dtype=torch.float64)
    expected = torch.linalg.solve(normal_matrix, x.T @ y - model.noise)
    torch.testing.assert_close(found["weight"][0], expected, rtol=1e-9, atol=1e-9)
    assert found.bound == found.worst_case == 0
    assert not found.retrained


@settings(deadline=None, derandomize=True, max_examples=25)
@given(
    n=st.integers(12, 60),
    d=st.integers(1, 6),
    m=st.integers(1, 5),
    l2=st.floats(1e-4, 1.0),
    noise_scale=st.floats(0.01, 30.0),
    seed=st.integers(0, 10**6),
)
def test_true_residual_is_below_the_data_bound_and_that_below_the_worst_case(n, d, m, l2, noise_scale, seed):
    inputs, targets = data(n, d, seed)
    model = trained(inputs, targets, l2=l2, noise_scale=noise_scale)
    found = certified_removal_unlearn(model, inputs, targets, range(m), generator=make_generator(1, "b"))
    assert found.bound <= found.worst_case
    if not found.retrained:
        assert residual(found.model, inputs, targets) <= model.spent + found.bound + 1e-11


def test_printed_worst_case_leaves_out_the_noise_and_can_fail():
    inputs, targets = data(40, 1)
    inputs = torch.ones_like(inputs)
    targets[:] = -1.0
    noise = torch.tensor([900.0], dtype=torch.float64)  # 30 standard deviations of 30: rare, not excluded
    fit = minimise_linear(inputs, targets, noise, loss="logistic", l2=1.0, tolerance=1e-9)
    kept = torch.ones(40, dtype=torch.bool)
    own = terms(l2=1.0, noise_scale=30.0)
    model = CertifiedModel({"weight": fit.weights[None]}, noise, kept, fit.residual, own)
    found = certified_removal_unlearn(model, inputs, targets, [0], generator=make_generator(1, "b"))
    printed = worst_case_bound("logistic", num_kept=39, num_removed=1, l2=1.0)
    assert printed < found.bound <= found.worst_case


def test_newton_step_brings_the_weights_much_nearer_to_retraining():
    inputs, targets = data(300, 4)
    model = trained(inputs, targets)
    found = certified_removal_unlearn(model, inputs, targets, [7, 8], generator=make_generator(1, "b"))
    target = retrained_weights(found.model, inputs, targets)
    after = float((found["weight"][0] - target).norm())
    assert after < 0.02 * float((model.params["weight"][0] - target).norm())


def test_forgetting_many_at_once_is_one_newton_step_for_all():
    inputs, targets = data(60, 3)
    model = trained(inputs, targets)
    found = certified_removal_unlearn(model, inputs, targets, [3, 11, 40], generator=make_generator(1, "b"))
    x, y, w = inputs[found.model.kept], targets[found.model.kept], model.params["weight"][0]

    def left(p):
        return written_out(p, x, y, model.noise, "logistic", 1e-2)

    step = torch.linalg.solve(dense_hessian(left, model.params), gradient(left, model.params)["weight"][0])
    torch.testing.assert_close(found["weight"][0], w - step, rtol=1e-8, atol=1e-10)


def test_bounds_add_up_and_cover_the_residual_after_every_removal():
    inputs, targets = data(100, 3)
    model = trained(inputs, targets, noise_scale=100.0)
    spent = model.spent
    for example in range(12):
        found = certified_removal_unlearn(model, inputs, targets, [example], generator=make_generator(1, "b"))
        assert not found.retrained
        spent += found.bound
        model = found.model
        assert model.spent == pytest.approx(spent, rel=1e-12)
        assert residual(model, inputs, targets) <= model.spent
    assert int(model.kept.sum()) == 88
    assert model.spent > 5 * found.bound


def test_an_exhausted_budget_forces_retraining_with_new_noise():
    inputs, targets = data(100, 3)
    first, generator = trained(inputs, targets), make_generator(1, "b")
    bounds = [
        certified_removal_unlearn(first, inputs, targets, [i], generator=generator).bound for i in range(12)
    ]
    # A budget for two and a half of the costliest removals.
    scale = 2.5 * max(bounds) / terms(noise_scale=1.0).budget
    model = trained(inputs, targets, noise_scale=scale)
    alone = []
    for example in range(12):
        found = certified_removal_unlearn(model, inputs, targets, [example], generator=generator)
        assert found.retrained == (model.spent + found.bound > model.settings.budget)
        assert found.model.spent <= found.model.settings.budget
        assert torch.equal(found.model.noise, model.noise) is not found.retrained
        if found.retrained:
            alone.append(found.bound < model.settings.budget)
            assert found.model.spent <= found.model.settings.tolerance
            fresh = retrained_weights(found.model, inputs, targets)
            torch.testing.assert_close(found["weight"][0], fresh, rtol=1e-7, atol=1e-9)
        model = found.model
    assert any(alone)  # it was the sum that exhausted the budget


def test_budget_is_the_residual_at_which_theorem_3_gives_epsilon_and_delta():
    own = terms(epsilon=0.5, delta=1e-3, noise_scale=3.0)
    c = 3.0 * 0.5 / own.budget
    assert 1.5 * math.exp(-(c**2) / 2) == pytest.approx(1e-3, rel=1e-12)


def exact_delta(epsilon, shift_per_sigma):
    """Return the delta of a Gaussian shifted by that many standard deviations (Balle and Wang, 2018)."""
    a, b = shift_per_sigma / 2, epsilon / shift_per_sigma
    return normal.cdf(a - b) - np.exp(epsilon) * normal.cdf(-a - b)


def test_theorem_3_holds_up_to_epsilon_1_and_fails_far_above():
    c = np.linspace(math.sqrt(2 * math.log(1.5)), 8, 2000)  # from delta = 1 down to 1e-14
    promised = 1.5 * np.exp(-(c**2) / 2)
    for epsilon in (0.01, 0.1, 0.5, 1.0):
        assert (exact_delta(epsilon, epsilon / c) <= promised).all()
    assert (exact_delta(8.0, 8.0 / c) > promised).any()
    with pytest.raises(InputError, match="epsilon must be at most 1, got 8"):
        terms(epsilon=8.0)


@pytest.fixture(scope="module")
def one_dimensional():
    """Return b on a grid, the T(b) for which w'' is the retrained minimiser, and the bounds on |b - T(b)|."""
    inputs, targets = data(40, 1)
    b = torch.linspace(-7, 7, 561, dtype=torch.float64)
    own = terms(l2=0.05, noise_scale=1.0, delta=1e-1)
    shifted, untouched, bounds = [], [], []
    for value in b:
        fit = minimise_linear(inputs, targets, value[None], loss="logistic", l2=0.05, tolerance=1e-11)
        kept = torch.ones(40, dtype=torch.bool)
        model = CertifiedModel({"weight": fit.weights[None]}, value[None], kept, 0.0, own)
        found = certified_removal_unlearn(model, inputs, targets, range(3), generator=make_generator(1, "b"))
        assert not found.retrained
        x, y = inputs[found.model.kept], targets[found.model.kept]
        for weights, noises in ((found["weight"][0], shifted), (fit.weights, untouched)):
            noises.append(-float(linear_gradient(LINEAR_LOSSES["logistic"], weights, x, y, 0.05)[0]))
        bounds.append(found.bound)
    return b.numpy(), np.array(shifted), np.array(untouched), np.array(bounds)


@pytest.mark.parametrize("delta", [1e-2, 1e-4])
def test_true_densities_of_removed_and_retrained_are_epsilon_delta_close(one_dimensional, delta):
    # w'' is the retrained minimiser for the noise T(b). So the two laws of the weights are as close as those
    # of T(b) and b: both densities follow by a change of variables, nothing is sampled.
    b, shifted, untouched, bounds = one_dimensional
    assert (np.abs(b - shifted) <= bounds + 1e-10).all()
    epsilon = bounds.max() * math.sqrt(2 * math.log(1.5 / delta))
    assert 0 < epsilon < 1

    def excess(noises):
        """Return the least delta for this epsilon, the larger one of both directions."""
        slope = np.gradient(noises, b)
        assert (slope > 0).all()
        pair = normal.pdf(b), normal.pdf(noises) * slope
        return max(np.trapezoid(np.maximum(p - np.exp(epsilon) * q, 0), b) for p, q in (pair, pair[::-1]))

    assert excess(shifted) <= delta
    assert excess(untouched) > delta


def test_bend_of_the_density_is_far_below_epsilon_in_more_dimensions():
    inputs, targets = data(200, 20)
    own, loss, kept = terms(l2=1e-3), LINEAR_LOSSES["logistic"], torch.ones(200, dtype=torch.bool)

    def shift(noise):
        """Return the T(b) for which w'' is the retrained minimiser, and the bound on |b - T(b)|."""
        fit = minimise_linear(inputs, targets, noise, loss="logistic", l2=own.l2, tolerance=1e-11)
        model = CertifiedModel({"weight": fit.weights[None]}, noise, kept, 0.0, own)
        found = certified_removal_unlearn(model, inputs, targets, [0], generator=make_generator(1, "b"))
        assert not found.retrained
        w, x, y = found["weight"][0], inputs[found.model.kept], targets[found.model.kept]
        return -linear_gradient(loss, w, x, y, own.l2), found.bound

    # So little noise that this one removal takes all of the budget.
    scale = shift(torch.zeros(20, dtype=torch.float64))[1] / terms(noise_scale=1.0).budget
    noise = scale * torch.randn(20, dtype=torch.float64, generator=make_generator(2, "b"))
    small = 1e-4
    columns = [
        (shift(noise + small * e)[0] - shift(noise - small * e)[0]) / (2 * small)
        for e in torch.eye(20, dtype=torch.float64)
    ]
    bend = torch.linalg.slogdet(torch.stack(columns, dim=1))
    assert bend.sign == 1
    assert 0 < abs(float(bend.logabsdet)) < 0.02 * own.epsilon
    moved = shift(noise)[0]
    ratio = (noise @ noise - moved @ moved) / (2 * scale**2)
    assert abs(float(ratio + bend.logabsdet)) < own.epsilon


def test_a_small_residual_alone_hides_nothing():
    # Weights rounded to a grid have a residual within any budget, if the grid is fine enough. Yet an event
    # tells them from the retrained ones with certainty: to lie on the grid.
    inputs, targets = data(25, 2)
    model = trained(inputs, targets)
    grid = 1e-4
    rounded = (model.params["weight"] / grid).round() * grid
    on_grid = CertifiedModel({"weight": rounded}, model.noise, model.kept, 0.0, model.settings)
    assert residual(on_grid, inputs, targets) < model.settings.budget
    assert torch.equal((rounded / grid).round() * grid, rounded)
    assert not torch.equal(model.params["weight"], rounded)


def test_cost_is_that_of_the_step_and_of_the_bound():
    inputs, targets = data(100, 3)
    model = trained(inputs, targets)
    found = certified_removal_unlearn(
        model, inputs, targets, [0, 1], generator=make_generator(1, "b"), batch_size=10
    )
    assert (found.cost.gradients, found.cost.hvps) == ((2 + 98) / 10, 3 * 98 / 10)
    assert found.cost.stored_bytes == 3 * 8


def test_cost_of_forced_retraining_counts_what_newton_computed(monkeypatch):
    inputs, targets = data(100, 3)
    model = trained(inputs, targets, noise_scale=1e-3)
    loss, calls = LINEAR_LOSSES["logistic"], {"slope": 0, "curvature": 0}

    def counted(name):
        def call(z, y):
            calls[name] += len(z)
            return getattr(loss, name)(z, y)

        return call

    watched = type(loss)(counted("slope"), counted("curvature"), loss.slope_bound, loss.curvature_lipschitz)
    monkeypatch.setitem(LINEAR_LOSSES, "logistic", watched)
    found = certified_removal_unlearn(model, inputs, targets, [0], generator=make_generator(1, "b"))
    assert found.retrained
    assert found.cost.gradients == calls["slope"] + 99  # the bound passes over what is kept once
    assert found.cost.hvps == 3 * calls["curvature"]


def test_nothing_of_the_callers_is_changed():
    inputs, targets = data(50, 3)
    model = trained(inputs, targets)
    before = inputs.clone(), targets.clone(), model.params["weight"].clone(), model.kept.clone()
    certified_removal_unlearn(model, inputs, targets, [0], generator=make_generator(1, "b"))
    after = inputs, targets, model.params["weight"], model.kept
    assert all(map(torch.equal, before, after))


def test_misuse_is_refused():
    inputs, targets = data(20, 2)
    model = trained(inputs, targets)

    def remove(forget, own=model, x=inputs, y=targets):
        return certified_removal_unlearn(own, x, y, forget, generator=make_generator(1, "b"))

    for forget, words in (
        ([], "`forget` is empty"),
        (range(20), "holds every example"),
        ([20], "names 20, but there are 20: expected 0 to 19"),
    ):
        with pytest.raises(InputError, match=words):
            remove(forget)
    once = remove([3]).model
    with pytest.raises(InputError, match="example 3 was removed before"):
        remove([3], once)
    with pytest.raises(InputError, match="Pass all of them"):
        remove([3], x=inputs[:19], y=targets[:19])
    with pytest.raises(InputError, match="must have norm at most 1"):
        trained(1.5 * inputs, targets)
    with pytest.raises(InputError, match="From 0 and 1: 2 \\* targets - 1"):
        trained(inputs, (targets + 1) / 2)
    with pytest.raises(InputError, match="the same dtype"):
        trained(inputs, targets.long())
    with pytest.raises(InputError, match="delta must be below 1"):
        terms(delta=1.0)
    with pytest.raises(InputError, match="l2 must be larger than 0"):
        terms(l2=0.0)
    with pytest.raises(InputError, match="less than the tolerance of training"):
        terms(noise_scale=1e-12)
    with pytest.raises(UnrollingError, match="rounding allows no less"):
        trained(inputs, targets, tolerance=1e-30)
