"""Second-order unlearning against the literal double sum, the expansion, and real retraining."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toy_losses import quadratics, sgd

from unrolling import (
    batch_loss,
    cross_entropy,
    expand_sgd,
    make_generator,
    seeded,
    single_gradient_unlearn,
    snapshot,
)
from unrolling._checks import InputError
from unrolling.methods import second_order_unlearn
from unrolling.model_loss import gradient
from unrolling.oracles import dense_hessian
from unrolling.parameters import distance, norm, to_vector


def loss_fn(model, batch):
    return cross_entropy(model(batch[0]), batch[1])


def smooth_net(steps):
    """Return the weights of a small tanh net and the losses of `steps` batches of six examples."""
    with seeded(3, "net"):
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
        batches = [
            (2 * torch.randn(6, 3, dtype=torch.float64), torch.randint(0, 3, (6,))) for _ in range(steps)
        ]
    return snapshot(model), [batch_loss(model, loss_fn, batch) for batch in batches]


def without(losses, forget):
    return [loss for step, loss in enumerate(losses) if step not in forget]


def literal_removal(losses, params, forget, eta):
    """Return what leaves w_t: every gradient and every product with a forgotten step, one by one."""
    g = [to_vector(gradient(loss, params)) for loss in losses]
    h = [dense_hessian(loss, params) for loss in losses]
    first = sum(eta * g[s] for s in forget)
    pairs = [(i, j) for i in range(len(losses)) for j in range(i) if i in forget or j in forget]
    return first - sum((eta**2 * h[i] @ g[j] for i, j in pairs), torch.zeros_like(g[0]))


FORGETS = [(0,), (3,), (7,), (0, 4), (1, 2), (2, 3, 7), tuple(range(8))]


@pytest.mark.parametrize("forget", FORGETS)
@pytest.mark.parametrize("epochs", [1, 2])
def test_the_literal_double_sum_is_removed(forget, epochs):
    params, losses = smooth_net(8 // epochs)
    losses = losses * epochs  # with two epochs steps 0 and 4, and 3 and 7, share a loss
    found = second_order_unlearn(params, params, losses, forget, learning_rate=0.3)
    change = to_vector(found) - to_vector(params)
    torch.testing.assert_close(change, literal_removal(losses, params, forget, 0.3), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("forget", FORGETS[:-1])
def test_the_expansion_over_all_steps_becomes_the_expansion_over_the_kept_ones(forget):
    params, losses = smooth_net(4)
    losses = losses * 2

    def expanded(losses):
        unrolled = expand_sgd(losses, params, learning_rate=0.2)
        return {n: p + unrolled.first_sum[n] + unrolled.leading[n] for n, p in params.items()}

    found = second_order_unlearn(expanded(losses), params, losses, forget, learning_rate=0.2)
    assert distance(found, expanded(without(losses, forget))) < 1e-13 * norm(params)


def test_one_batch_in_all_epochs_takes_the_two_products_of_the_docstring():
    params, losses = smooth_net(5)
    eta, own, steps = 0.1, 2, (2, 7, 12)
    g = [to_vector(gradient(loss, params)) for loss in losses * 3]
    h = [dense_hessian(loss, params) for loss in losses * 3]
    earlier = sum(sum(g[:s]) for s in steps)
    weighted = sum(sum(s < i for s in steps) * h[i] for i in range(15) if i not in steps)
    expected = 3 * eta * g[own] - eta**2 * (h[own] @ earlier + weighted @ g[own])
    found = second_order_unlearn(params, params, losses * 3, steps, learning_rate=eta)
    torch.testing.assert_close(to_vector(found) - to_vector(params), expected, rtol=1e-11, atol=1e-13)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(size=st.integers(1, 5), seed=st.integers(0, 10**6), eta=st.floats(1e-3, 2.0), forgotten=st.booleans())
def test_exact_for_two_steps_on_quadratics(size, seed, eta, forgotten):
    params, losses = quadratics(2, size, seed)  # there is no third power of eta
    step = int(forgotten)
    trained, goal = sgd(losses, params, eta), sgd(without(losses, {step}), params, eta)
    found = second_order_unlearn(trained, params, losses, [step], learning_rate=eta)
    assert distance(found, goal) < 1e-11 * (1 + norm(trained) + norm(goal))


@pytest.mark.parametrize(("epochs", "own"), [(1, 0), (1, 3), (3, 0), (3, 1)])
def test_what_is_left_is_of_third_order_in_eta_and_of_second_after_a_single_gradient(epochs, own):
    params, batches = smooth_net(6)
    losses = batches * epochs
    forget = [own + epoch * 6 for epoch in range(epochs)]

    def left(eta):
        trained, goal = sgd(losses, params, eta), sgd(without(losses, forget), params, eta)
        single = single_gradient_unlearn(trained, params, batches[own], learning_rate=eta, num_epochs=epochs)
        second = second_order_unlearn(trained, params, losses, forget, learning_rate=eta)
        return np.array([distance(trained, goal), distance(single, goal), distance(second, goal)])

    assert np.log2(left(2e-4) / left(1e-4)) == pytest.approx([1, 2, 3], abs=0.03)


@pytest.mark.parametrize(
    ("epochs", "forget", "gradients", "hvps"),
    [
        (1, [0], 1, 4),  # nothing came before it
        (1, [4], 1 + 4, 1),  # nothing comes after it
        (3, [0], 1, 1 + 4),  # its own later steps need a product too
        (3, [14], 1 + 4, 1),
        (3, [2, 7, 12], 1 + 4, 1 + 4),  # one batch in every epoch
        (3, [2, 8], 2 + 3, 2 + 3),  # two batches, each forgotten in one epoch and kept in the others
    ],
)
def test_cost_is_what_was_computed(epochs, forget, gradients, hvps):
    params, batches = smooth_net(5)
    calls = 0

    def counted(loss):
        def call(p):
            nonlocal calls
            calls += 1
            return loss(p)

        return call

    losses = [counted(loss) for loss in batches] * epochs
    cost = second_order_unlearn(params, params, losses, forget, learning_rate=0.1).cost
    assert (cost.gradients, cost.hvps) == (gradients, hvps)
    assert calls == gradients + hvps
    assert cost.stored_bytes == 8 * (4 * 3 + 4 + 3 * 4 + 3)


def test_a_sample_is_exact_where_all_other_batches_are_alike_and_costs_what_it_says():
    params, losses = smooth_net(2)
    alike = [lambda p, loss=losses[1]: loss(p) for _ in range(9)]
    order = [*alike[:4], losses[0], *alike[4:]]
    full = second_order_unlearn(params, params, order, [4], learning_rate=0.1)
    few = second_order_unlearn(
        params, params, order, [4], learning_rate=0.1, sample=2, generator=make_generator(0)
    )
    assert distance(few, full) < 1e-14
    assert (full.cost.gradients, full.cost.hvps) == (1 + 4, 1 + 5)
    assert (few.cost.gradients, few.cost.hvps) == (1 + 2, 1 + 2)


def test_a_sample_is_unbiased():
    params, losses = quadratics(9, 3, seed=5)
    losses = losses + losses[:6]  # counts differ: some batches occur twice
    full = to_vector(second_order_unlearn(params, params, losses, [2, 11], learning_rate=0.1))
    generator = make_generator(0, "samples")
    draws = torch.stack(
        [
            to_vector(
                second_order_unlearn(
                    params, params, losses, [2, 11], learning_rate=0.1, sample=3, generator=generator
                )
            )
            for _ in range(400)
        ]
    )
    error, standard_error = draws.mean(dim=0) - full, draws.std(dim=0) / 20
    assert (standard_error > 0).all()
    assert (error.abs() < 3 * standard_error).all()
    assert (draws.std(dim=0) < 10 * (full - to_vector(params)).abs().max()).all()


def test_a_sample_as_large_as_the_rest_is_the_whole():
    params, losses = smooth_net(6)
    full = second_order_unlearn(params, params, losses, [2], learning_rate=0.1)
    drawn = second_order_unlearn(
        params, params, losses, [2], learning_rate=0.1, sample=5, generator=make_generator(0)
    )
    assert drawn.cost == full.cost
    assert distance(drawn, full) == 0


def test_parameters_may_come_in_another_order_and_are_left_alone():
    params, losses = smooth_net(4)
    before = {name: p.clone() for name, p in params.items()}
    final = sgd(losses, params, 0.1)
    turned = dict(reversed(final.items()))
    found = second_order_unlearn(final, params, losses, [1], learning_rate=0.1)
    assert distance(second_order_unlearn(turned, params, losses, [1], learning_rate=0.1), found) == 0
    assert all(torch.equal(params[name], p) for name, p in before.items())
    assert not any(p.requires_grad for p in found.values())


def test_bad_input_is_refused():
    params, losses = smooth_net(3)
    with pytest.raises(InputError, match="learning_rate must be larger than 0"):
        second_order_unlearn(params, params, losses, [0], learning_rate=0)
    with pytest.raises(InputError, match="`forget_steps` is empty"):
        second_order_unlearn(params, params, losses, [], learning_rate=0.1)
    with pytest.raises(InputError, match="`forget_steps` names 3, but there are 3"):
        second_order_unlearn(params, params, losses, [3], learning_rate=0.1)
    with pytest.raises(InputError, match="sample must be at least 1"):
        second_order_unlearn(params, params, losses, [0], learning_rate=0.1, sample=0)
    with pytest.raises(InputError, match="pass `generator` with `sample`"):
        second_order_unlearn(params, params, losses, [0], learning_rate=0.1, sample=2)
    with pytest.raises(InputError, match="must hold the same parameters"):
        second_order_unlearn({"w": torch.ones(2)}, params, losses, [0], learning_rate=0.1)
