"""Losses against numpy, scipy and autograd, and the relations between the paper's text and its code."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from torch import nn

from unrolling import (
    BatchOrder,
    Objective,
    batch_loss,
    cross_entropy,
    hvp,
    make_generator,
    sd_loss,
    sd_loss_released,
    snapshot,
    train,
)
from unrolling._checks import InputError
from unrolling.losses import (
    collapse_gamma,
    gamma_from_released,
    half_squared_l2_norm,
    l2_norm,
    logit_hessian_penalty,
    logit_hessian_trace,
    logit_std,
)
from unrolling.model_loss import gradient
from unrolling.parameters import trainable


@pytest.fixture(params=[2, 10, 100])
def examples(request):
    generator = make_generator(0, "examples")
    logits = torch.randn(7, request.param, generator=generator, dtype=torch.float64) * 3
    return logits, torch.randint(0, request.param, (7,), generator=generator)


@pytest.mark.paper("Eq. 1")
def test_cross_entropy_is_equation_1(examples):
    logits, labels = examples
    expected = -log_softmax(logits.numpy(), axis=1)[np.arange(7), labels.numpy()].mean()
    assert cross_entropy(logits, labels).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.paper("Eq. 10")
def test_sd_loss_is_equation_10_with_the_population_std(examples):
    logits, labels = examples
    expected = cross_entropy(logits, labels).item() + 0.7 * np.std(logits.numpy(), axis=1).mean()
    assert sd_loss(logits, labels, 0.7).item() == pytest.approx(expected, rel=1e-12)


def test_released_loss_sums_unbiased_stds_over_batch_times_classes(examples):
    logits, labels = examples
    batch, classes = logits.shape
    penalty = np.std(logits.numpy(), axis=1, ddof=1).sum() / (batch * classes)
    expected = cross_entropy(logits, labels).item() + 5 * penalty
    assert sd_loss_released(logits, labels, 5).item() == pytest.approx(expected, rel=1e-12)
    converted = sd_loss(logits, labels, 5 / math.sqrt(classes * (classes - 1)))
    assert converted.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.paper("Eq. 11")
@settings(max_examples=50, deadline=None)
@given(st.floats(-50, 50), st.floats(-50, 50))
def test_two_class_std_is_half_the_gap_as_equation_11_says(a, b):
    expected = math.sqrt(max(a * a + b * b - 0.5 * (a + b) ** 2, 0) / 2)
    found = logit_std(torch.tensor([[a, b]], dtype=torch.float64)).item()
    assert found == pytest.approx(abs(a - b) / 2, abs=1e-12)
    assert found == pytest.approx(expected, abs=1e-5)  # Eq. 11's form cancels where a is close to b


def test_at_equal_logits_the_std_and_its_two_derivatives_are_zero():
    logits = torch.full((2, 4), 3.0, requires_grad=True)
    (first,) = torch.autograd.grad(logit_std(logits).sum(), logits, create_graph=True)
    assert torch.equal(first, torch.zeros(2, 4))
    (second,) = torch.autograd.grad(first.sum(), logits)
    assert torch.equal(second, torch.zeros(2, 4))


def test_an_example_with_equal_logits_does_not_spoil_the_others():
    logits = torch.tensor([[1.0, 1.0, 1.0], [2.0, 0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(logit_std(logits).sum(), logits)
    deviation = logits[1].detach() - 1.0
    torch.testing.assert_close(found[1], deviation / (3 * deviation.square().mean().sqrt()))
    assert torch.equal(found[0], torch.zeros(3, dtype=torch.float64))


def test_the_two_readings_of_footnote_6_sum_the_diagonal_of_the_softmax_hessian(examples):
    logits, labels = examples
    squares = trace = 0.0
    for row, label in zip(logits, labels, strict=True):
        hessian = torch.autograd.functional.hessian(lambda z, y=label: -z.log_softmax(0)[y], row)
        squares += hessian.diagonal().square().sum().item() / len(logits)
        trace += hessian.trace().item() / len(logits)
    assert logit_hessian_penalty(logits).item() == pytest.approx(squares, rel=1e-9)
    assert logit_hessian_trace(logits).item() == pytest.approx(trace, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "penalty"),
    [("logit_hessian", logit_hessian_penalty), ("logit_hessian_trace", logit_hessian_trace)],
)
def test_the_penalties_of_footnote_6_are_added_to_the_cross_entropy(examples, name, penalty):
    logits, labels = examples
    expected = cross_entropy(logits, labels) + 0.7 * penalty(logits)
    torch.testing.assert_close(Objective(name, 0.7)(nn.Identity(), (logits, labels)), expected)


def test_the_two_l2_regularisers_have_the_gradients_of_the_text_and_of_weight_decay():
    model = nn.Linear(3, 2).double()
    model.bias.requires_grad_(False)  # frozen: neither regularised nor counted
    weight = model.weight.detach()
    batch = (torch.zeros(1, 3, dtype=torch.float64), torch.zeros(1, dtype=torch.int64))
    assert l2_norm(model).item() == pytest.approx(weight.norm().item())
    assert half_squared_l2_norm(model).item() == pytest.approx(weight.square().sum().item() / 2)
    # With zero inputs the cross-entropy does not depend on the weight: what is left is the penalty.
    literal = gradient(batch_loss(model, Objective("l2", 0.3), batch), trainable(model))
    decay = gradient(batch_loss(model, Objective("weight_decay", 0.3), batch), trainable(model))
    torch.testing.assert_close(literal["weight"], 0.3 * weight / weight.norm())
    torch.testing.assert_close(decay["weight"], 0.3 * weight)


def test_largest_strength_of_table_1_in_the_units_of_equation_10():
    assert gamma_from_released(20, 10) == pytest.approx(20 / math.sqrt(90))


@pytest.mark.parametrize("gamma", [-0.1, math.nan, math.inf, "1e-3"])
def test_bad_strengths_are_refused(gamma):
    logits, labels = torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64)
    for loss in (sd_loss, sd_loss_released):
        with pytest.raises(InputError, match="gamma"):
            loss(logits, labels, gamma)
    with pytest.raises(InputError, match="strength"):
        Objective("sd", gamma)


def test_bad_losses_and_shapes_are_named():
    with pytest.raises(InputError, match=r"unknown loss 'sdd'.*Did you mean 'sd'"):
        Objective("sdd", 1.0)
    with pytest.raises(InputError, match="no strength"):
        Objective("cross_entropy", 1.0)
    with pytest.raises(InputError, match=r"labels.*must have shape \(2,\), got \(3,\)"):
        cross_entropy(torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(InputError, match="classes >= 2"):
        cross_entropy(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(InputError, match=r"Use labels.long"):
        cross_entropy(torch.zeros(2, 3), torch.zeros(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_norm_of_weights_has_gradient_and_hessian_zero_where_all_are_zero(dtype):
    """Where |w| has no derivative 0 is the subgradient of least norm; convex problems start there."""
    model = nn.Linear(3, 2).to(dtype)
    for p in model.parameters():
        nn.init.zeros_(p)
    inputs = torch.randn(5, 3, generator=make_generator(0), dtype=dtype)
    batch = inputs, torch.tensor([0, 1, 0, 1, 1])
    plain = batch_loss(model, Objective("cross_entropy"), batch)
    penalised = batch_loss(model, Objective("l2", 0.3), batch)
    params = trainable(model)
    for name, slope in gradient(penalised, params).items():
        torch.testing.assert_close(slope, gradient(plain, params)[name])
    ones = {name: torch.ones_like(p) for name, p in params.items()}
    for name, product in hvp(penalised, params, ones).items():
        torch.testing.assert_close(product, hvp(plain, params, ones)[name])
    start = snapshot(model)
    train(model, *batch, BatchOrder(((0, 1, 2, 3, 4),)), Objective("l2", 0.3), learning_rate=0.1)
    expected = {name: -0.1 * slope for name, slope in gradient(plain, start).items()}
    for name, p in model.named_parameters():  # the first step is that of the cross-entropy
        torch.testing.assert_close(p.detach(), expected[name])


def test_the_norm_of_weights_has_the_derivatives_of_the_root_elsewhere():
    model = nn.Linear(3, 2).double()
    loss = batch_loss(model, lambda m, b: l2_norm(m), None)
    params = trainable(model)
    w = torch.cat([p.detach().reshape(-1) for p in params.values()])
    direction = torch.randn(8, dtype=torch.float64, generator=make_generator(0))
    expected = (direction - w * (w @ direction) / (w @ w)) / w.norm()  # (I - u u^T) / |w|
    found = hvp(loss, params, {"weight": direction[:6].view(2, 3), "bias": direction[6:]})
    torch.testing.assert_close(torch.cat([p.reshape(-1) for p in found.values()]), expected)


@pytest.mark.parametrize("label", [3, -1, -100, 10**9])
@pytest.mark.parametrize("name", ["cross_entropy", "sd", "l2", "logit_hessian"])
def test_labels_that_are_no_class_are_refused(label, name):
    objective = Objective(name, 0.0 if name == "cross_entropy" else 0.5)
    model, inputs = nn.Linear(4, 3), torch.ones(2, 4)
    for labels in ([0, label], [label, label]):
        with pytest.raises(InputError, match=r"`labels` must be from 0 to 2, one for each logit"):
            objective(model, (inputs, torch.tensor(labels)))


def test_batches_that_have_no_mean_loss_are_refused():
    with pytest.raises(InputError, match="the batch is empty"):
        cross_entropy(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(InputError, match="`labels` must be a tensor of int64 class numbers, got list"):
        cross_entropy(torch.zeros(2, 3), [0, 1])
    for batch in (torch.zeros(2, 3), {"inputs": 1}, (1, 2, 3)):
        with pytest.raises(InputError, match=r"the batch must be a pair \(inputs, labels\)"):
            Objective("cross_entropy")(nn.Identity(), batch)
    with pytest.raises(InputError, match="no trainable parameters, and so no l2 norm"):
        l2_norm(nn.Identity())


@pytest.mark.parametrize("classes", [1, 0, -1, 2.0, "10", None])
def test_strengths_ask_for_a_number_of_classes(classes):
    with pytest.raises(InputError, match="num_classes must be"):
        gamma_from_released(1.0, classes)
    with pytest.raises(InputError, match="num_classes must be"):
        collapse_gamma(classes)
