"""Eq. 9 in its three forms, on a quadratic loss where every quantity is known exactly."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolling import (
    expand_sgd,
    make_generator,
    targeted_unlearning_error,
    unlearning_error,
    unlearning_error_corrected,
    verification_error,
)
from unrolling._checks import InputError
from unrolling.parameters import norm

positive = st.floats(1e-3, 1e3)


@pytest.mark.paper("Eq. 9")
@given(positive, positive, positive, st.integers(1, 1000))
def test_equation_9_term_by_term(eta, change, sigma, t):
    printed = eta**2 * (change / t) * sigma * ((t**2 - t) / 2)
    factors = {"learning_rate": eta, "weight_change": change, "sigma_avg": sigma, "num_steps": t}
    assert unlearning_error(**factors) == pytest.approx(printed, rel=1e-12)
    assert unlearning_error_corrected(**factors) == pytest.approx(printed / eta, rel=1e-12)


def test_there_is_no_unlearning_error_after_one_step_or_on_a_linear_loss():
    assert unlearning_error(learning_rate=0.1, weight_change=3.0, sigma_avg=5.0, num_steps=1) == 0
    assert unlearning_error(learning_rate=0.1, weight_change=3.0, sigma_avg=0.0, num_steps=9) == 0


@pytest.mark.paper("Eq. 7 and 8")
@given(st.floats(1e-3, 1.0), st.floats(1e-2, 10), st.integers(2, 20))
@settings(deadline=None, derandomize=True, max_examples=20)
def test_with_the_factor_that_equation_7_loses_equal_batches_attain_the_bound(eta, sigma, t):
    """Equal gradients at w_0 are each 1/t of their sum: Eq. 7 is exact, up to the factor, and so is Eq. 8."""
    slope = torch.tensor([3.0, -4.0], dtype=torch.float64)
    losses = [lambda p: sigma * p["w"] @ p["w"] / 2 + slope @ p["w"]] * t
    unrolled = expand_sgd(losses, {"w": torch.zeros(2, dtype=torch.float64)}, learning_rate=eta)
    factors = {
        "learning_rate": eta,
        "weight_change": norm(unrolled.first_sum),  # what Eq. 7 replaces, to first order
        "sigma_avg": sigma,
        "num_steps": t,
    }
    assert unlearning_error_corrected(**factors) == pytest.approx(norm(unrolled.leading), rel=1e-9)
    assert unlearning_error(**factors) == pytest.approx(eta * norm(unrolled.leading), rel=1e-9)


@pytest.mark.paper("Eq. 8")
@pytest.mark.parametrize("eta", [1e-3, 1e-2])
def test_on_quadratics_the_corrected_form_bounds_equation_6_and_the_printed_form_does_not(eta):
    """Losses (w - c_i)' A_i (w - c_i) / 2: gradients and Hessians at w_0 give Eq. 6 without a network."""
    generator = make_generator(0, "quadratics")
    size, t = 6, 20
    roots = torch.randn(t, size, size, generator=generator, dtype=torch.float64)
    hessians = roots @ roots.mT / size
    centres = torch.randn(t, size, generator=generator, dtype=torch.float64) + 2
    start = torch.zeros(size, dtype=torch.float64)
    gradients = [hessians[i] @ (start - centres[i]) for i in range(t)]
    second_sum = sum(hessians[i] @ sum(gradients[:i]) for i in range(1, t)) * eta**2
    w = start
    for i in range(t):
        w = w - eta * hessians[i] @ (w - centres[i])
    factors = {
        "learning_rate": eta,
        "weight_change": (w - start).norm().item(),
        "sigma_avg": torch.linalg.matrix_norm(hessians, 2).mean().item(),
        "num_steps": t,
    }
    assert unlearning_error_corrected(**factors) >= second_sum.norm().item()
    assert unlearning_error(**factors) < second_sum.norm().item()


def test_targeted_form_bounds_the_terms_with_the_forgotten_batch():
    generator = make_generator(1, "targeted")
    hessians = torch.randn(10, 4, 4, generator=generator, dtype=torch.float64)
    hessians = hessians + hessians.mT
    forgotten = torch.randn(4, generator=generator, dtype=torch.float64)
    exact = 0.01**2 * sum(hessians[i] @ forgotten for i in range(1, 10)).norm().item()
    sigma = torch.linalg.matrix_norm(hessians[1:], 2).mean().item()
    bound = targeted_unlearning_error(
        learning_rate=0.01, sigma_avg=sigma, num_steps=10, gradient_norm=forgotten.norm().item()
    )
    assert exact <= bound
    aligned = 0.01**2 * 9 * 3.0 * 2.0  # all Hessians 3 * identity: the bound is attained
    assert targeted_unlearning_error(
        learning_rate=0.01, sigma_avg=3.0, num_steps=10, gradient_norm=2.0
    ) == pytest.approx(aligned)


def test_verification_error_is_the_euclidean_distance_over_all_parameters():
    unlearned = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[3.0]])}
    retrained = {"b": torch.tensor([[0.0]]), "a": torch.tensor([1.0, -2.0])}
    assert verification_error(unlearned, retrained) == pytest.approx(5.0)


def test_bad_input_is_named():
    good = {"learning_rate": 0.1, "weight_change": 1.0, "sigma_avg": 1.0, "num_steps": 5}
    for name, value in [
        ("learning_rate", 0),
        ("learning_rate", -1),
        ("sigma_avg", float("nan")),
        ("num_steps", 0),
    ]:
        with pytest.raises(InputError, match=name):
            unlearning_error(**good | {name: value})
    with pytest.raises(InputError, match=r"parameter 'a'.*shape \(2,\).*\(3,\)"):
        verification_error({"a": torch.ones(2)}, {"a": torch.ones(3)})
    with pytest.raises(InputError, match=r"only one has \['a', 'b'\]"):
        verification_error({"a": torch.ones(2)}, {"b": torch.ones(2)})
    with pytest.raises(InputError, match="got a Module"):
        verification_error(torch.nn.Linear(1, 1), {"a": torch.ones(2)})
