import math

import numpy as np
import pytest
import torch
from scipy import optimize

from unrolling._checks import InputError
from unrolling.losses import collapse_gamma, sd_loss
from unrolling.oracles import dense_hessian, minimum_norm_update, sd_loss_minimum


def minimise_over_free_logits(gamma, num_classes):
    """Least SD loss over all logits, from a random start and with no symmetry assumed."""

    def value_and_gradient(z):
        logits = torch.tensor(z, requires_grad=True)
        loss = sd_loss(logits[None], torch.tensor([0]), gamma)
        loss.backward()
        return loss.item(), logits.grad.numpy()

    start = np.random.default_rng(0).normal(size=num_classes)
    found = optimize.minimize(
        value_and_gradient, start, jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 5000}
    )
    return found.x - found.x.mean(), found.fun


@pytest.mark.parametrize("num_classes", [2, 10, 100])
@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.9])
def test_sd_loss_minimum_is_the_minimum_over_free_logits(num_classes, fraction):
    gamma = fraction * collapse_gamma(num_classes)
    probability, gap = sd_loss_minimum(gamma, num_classes)
    logits, _ = minimise_over_free_logits(gamma, num_classes)
    assert torch.tensor(logits).softmax(0)[0].item() == pytest.approx(probability, abs=1e-6)
    assert logits[0] - logits[1:].mean() == pytest.approx(gap, abs=1e-4)
    assert np.ptp(logits[1:]) < 1e-4  # the wrong classes share one logit


@pytest.mark.parametrize("num_classes", [2, 10, 100])
@pytest.mark.parametrize("fraction", [1.0, 1.5])
def test_equal_logits_are_best_from_the_collapse_on(num_classes, fraction):
    gamma = fraction * collapse_gamma(num_classes)
    assert sd_loss_minimum(gamma, num_classes) == (1 / num_classes, 0.0)
    # The minimum is a kink, where a smooth solver stalls: search without derivatives along random lines.
    rng = np.random.default_rng(1)
    equal = math.log(num_classes)
    for scale in (1e-3, 1e-1, 10.0):
        logits = torch.tensor(rng.normal(scale=scale, size=(200, num_classes)))
        logits[0] = 0
        logits[0, 0] = scale  # the direction in which the cross-entropy falls fastest
        values = [sd_loss(z[None], torch.tensor([0]), gamma).item() for z in logits]
        assert min(values) > equal


def test_just_below_the_collapse_equal_logits_are_not_best():
    gamma = 0.99 * collapse_gamma(10)
    _, gap = sd_loss_minimum(gamma, 10)
    logits = torch.zeros(1, 10, dtype=torch.float64)
    logits[0, 0] = gap
    assert sd_loss(logits, torch.tensor([0]), gamma).item() < math.log(10) - 1e-6


def test_without_penalty_the_minimum_is_at_infinity():
    assert sd_loss_minimum(0, 10) == (1.0, math.inf)


@pytest.mark.paper("Eq. 12")
@pytest.mark.parametrize("gap", [5.293, -0.7])
def test_minimum_norm_update_is_the_solution_of_eq_12(gap):
    x = torch.tensor(np.random.default_rng(2).normal(size=5))
    row = np.concatenate([x, -x])
    ours = torch.cat(minimum_norm_update(x, gap)).numpy()
    quadratic_program = optimize.minimize(
        lambda u: u @ u,
        np.ones(10),
        jac=lambda u: 2 * u,
        method="SLSQP",
        constraints={"type": "eq", "fun": lambda u: row @ u - gap, "jac": lambda u: row},
        options={"ftol": 1e-14},
    )
    assert ours == pytest.approx(quadratic_program.x, abs=1e-8)
    assert ours == pytest.approx(np.linalg.lstsq(row[None], [gap], rcond=None)[0], abs=1e-12)
    assert ours @ ours == pytest.approx(gap**2 / (2 * float(x @ x)), rel=1e-12)


def test_minimum_norm_update_refuses_a_zero_input():
    with pytest.raises(InputError, match="other than zero"):
        minimum_norm_update(torch.zeros(3), 1.0)


def test_dense_hessian_of_a_quadratic_is_its_matrix():
    root = torch.tensor(np.random.default_rng(3).normal(size=(5, 5)))
    matrix = root + root.T
    params = {"a": torch.ones(2, dtype=torch.float64), "b": torch.zeros(3, 1, dtype=torch.float64)}

    def loss(params):
        w = torch.cat([params["a"], params["b"].flatten()])
        return w @ matrix @ w / 2

    torch.testing.assert_close(dense_hessian(loss, params), matrix)


def test_dense_hessian_of_logistic_regression_matches_its_formula():
    x = torch.tensor(np.random.default_rng(4).normal(size=(7, 3)))
    params = {"w": torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64)}
    p = torch.sigmoid(x @ params["w"])
    expected = x.T @ torch.diag(p * (1 - p)) @ x
    torch.testing.assert_close(
        dense_hessian(lambda w: torch.nn.functional.softplus(x @ w["w"]).sum(), params), expected
    )
