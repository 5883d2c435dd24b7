"""The checks of sections 5.2 and 5.3 find what is known, and the tools they count with count right."""

import pytest
import torch

from unrolling.studies.unlearning_error import claims as checks


def test_the_printed_norm_is_contradicted_and_the_textbook_holds():
    finding = checks.norm_is_the_root_of_the_largest_eigenvalue()
    assert finding.verdict == "contradicted"
    assert finding.value > 0.5


def test_the_norm_check_would_notice_if_the_formula_held(monkeypatch):
    # Matrices with the one norm at which root and norm agree.
    monkeypatch.setattr(checks.torch, "randn", lambda n, m, **options: torch.eye(n, dtype=torch.float64) / 2)
    assert checks.norm_is_the_root_of_the_largest_eigenvalue().verdict == "reproduced"


def test_a_matrix_product_is_two_operations_per_multiplication():
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    assert checks.flops(lambda: a @ b) == 2 * 3 * 5 * 7


def test_operations_of_an_mlp_are_those_counted_by_hand():
    """Each layer's forward, weight gradient, input gradient: 2 x batch x weights, biases apart."""
    weights, gradient, product = checks.gradient_and_product_flops("mlp", 8)
    first, second = 2 * 2 * 3072 * 8, 2 * 2 * 8 * 10
    assert weights == 3072 * 8 + 8 + 8 * 10 + 10
    # Forward and weight gradients of both layers, and the input gradient of the second.
    assert gradient == 2 * first + 3 * second
    # Of the first layer, the direction through it and the new weight gradient: no input gradient is needed.
    assert product >= 2 * first
    assert product - 2 * first <= 6 * second


def test_a_product_costs_between_one_and_six_gradients_and_grows_with_the_weights():
    finding = checks.product_costs_a_gradient_and_is_linear_in_the_weights()
    assert finding.verdict == "reproduced"
    assert 1 <= finding.value <= 6


def test_convolutions_are_seen_at_second_order():
    _, gradient, product = checks.gradient_and_product_flops("vgg19", 2)
    assert product == pytest.approx(2 * gradient, rel=0.1)


def test_e_is_the_same_without_a_retrained_model():
    finding = checks.unlearning_error_needs_no_retraining()
    assert finding.verdict == "reproduced"
    assert finding.value == 0


def test_an_e_that_knew_the_forgotten_batch_would_be_found(monkeypatch):
    honest = checks.execute

    def leaking(config, dataset):
        result = honest(config, dataset)
        result["trace"]["e"][-1] *= 1 + config.forget_batch
        return result

    monkeypatch.setattr(checks, "execute", leaking)
    assert checks.unlearning_error_needs_no_retraining().verdict == "partly"
