"""The check of the deletion capacity: the verdict as measured, and others with other noise."""

import math

import pytest
import torch

from unrolling.studies.ledger import all_checks
from unrolling.studies.other_methods import deletion_capacity as checks


def run(monkeypatch, **changes):
    """Run the check with some functions replaced, and forget what was measured with them."""
    for name, change in changes.items():
        original = getattr(checks, name)
        monkeypatch.setattr(
            checks, name, lambda *a, original=original, change=change, **k: change(original, *a, **k)
        )
    checks.capacities.cache_clear()
    try:
        return all_checks()["T28"].function()
    finally:
        checks.capacities.cache_clear()


def penalised(found):
    """Return the propositions about the penalised loss, and which method lets one delete more."""
    held = list(found.propositions.values())
    return [*held[:2], held[4]]


def test_both_powers_are_as_claimed(monkeypatch):
    found = run(monkeypatch)
    assert list(found.propositions.values()) == [True, True, False, False, True]  # not on the loss itself
    assert found.verdict == "partly"
    low, high = found.interval
    assert low < found.value < high
    assert high - low < 0.3
    assert found == run(monkeypatch)


def test_error_of_the_newton_step_that_grew_with_m_alone_is_noticed(monkeypatch):
    monkeypatch.setattr(checks, "DIMENSIONS", (8, 32, 128))

    def linear(bound, *, num_examples, num_forgotten, **constants):
        return 2.0 * num_forgotten / num_examples

    found = run(monkeypatch, newton_removal_bound=linear)
    assert penalised(found) == [True, False, True]
    assert found.value == pytest.approx(-0.5, abs=0.15)


def test_noise_that_does_not_spread_over_the_dimensions_is_noticed(monkeypatch):
    monkeypatch.setattr(checks, "DIMENSIONS", (8, 32, 128))

    def one_dimension(private, problem, m, noise):
        return private(problem, m, noise / math.sqrt(noise.shape[1]))

    found = run(monkeypatch, private_weights=one_dimension)
    assert penalised(found) == [False, True, True]


def test_newton_removal_with_more_noise_than_privacy_is_noticed(monkeypatch):
    monkeypatch.setattr(checks, "DIMENSIONS", (8, 32, 128))
    found = run(monkeypatch, newton_removal_bound=lambda bound, **sizes: 50 * bound(**sizes))
    assert penalised(found) == [True, True, False]


def test_excess_of_noise_is_half_its_variance_times_the_trace():
    """For small noise, averaged over its sign, the loss rises as its quadratic model at the minimum."""
    problem = checks.make_problem(8)
    generator = torch.Generator().manual_seed(0)
    noise = 1e-3 * torch.randn(6, 8, generator=generator, dtype=torch.float64)
    both = torch.cat([noise, -noise])
    rise = problem.loss(problem.weights + both) - problem.loss(problem.weights)
    expected = torch.einsum("ki,ij,kj->k", noise, problem.hessian, noise).mean() / 2
    assert rise == pytest.approx(float(expected), rel=1e-3)


def test_constants_hold_for_every_example():
    problem = checks.make_problem(16)
    assert float(problem.inputs.norm(dim=1).max()) <= 1
    slopes = -problem.targets * torch.sigmoid(-problem.targets * (problem.inputs @ problem.weights))
    gradients = slopes[:, None] * problem.inputs + checks.L2 * problem.weights
    assert float(gradients.norm(dim=1).max()) <= checks.CONSTANTS["lipschitz"]
    assert float(gradients.mean(dim=0).norm()) < 1e-10


def test_capacity_is_the_largest_number_within_the_excess(monkeypatch):
    monkeypatch.setattr(checks, "NUM_DRAWS", 2)
    problem = checks.make_problem(8)

    def moved(problem, m, noise):
        return problem.weights + m / 1000 * torch.ones_like(noise[:1])

    def excess(m):
        return problem.loss(moved(problem, m, problem.weights[None])) - problem.loss(problem.weights)

    found = checks.capacity(problem, moved)
    assert excess(found) <= checks.EXCESS < excess(found + 1)
