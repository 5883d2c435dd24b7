"""Linear propagation against real retraining, products of dense matrices and the trainer with batch norm."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from unrolling import batch_loss, cross_entropy, make_batch_order, make_generator, seeded, snapshot, train
from unrolling._checks import InputError
from unrolling.methods import WeightLog
from unrolling.methods.others import linear_propagation_unlearn
from unrolling.model_loss import gradient
from unrolling.oracles import dense_hessian
from unrolling.parameters import distance, norm, to_vector
from unrolling.training import copy_for_retraining


def loss_fn(model, batch):
    return cross_entropy(model(batch[0]), batch[1])


def net(batch_norm=False):
    middle = [nn.BatchNorm1d(4)] if batch_norm else []
    with seeded(3, "net"):
        return nn.Sequential(nn.Linear(3, 4), *middle, nn.Tanh(), nn.Linear(4, 3)).double()


def data(steps):
    generator = make_generator(3, "data")
    inputs = 2 * torch.randn(6 * steps, 3, dtype=torch.float64, generator=generator)
    return inputs, torch.randint(0, 3, (6 * steps,), generator=generator)


def smooth_net(steps):
    """Return the weights of a small tanh net and the losses of `steps` batches of six examples."""
    model = net()
    batches = zip(*(x.split(6) for x in data(steps)), strict=True)
    return snapshot(model), [batch_loss(model, loss_fn, batch) for batch in batches]


def sgd_path(losses, params, eta):
    """Train for real; return the weights before each step and after the last."""
    path = [{name: p.clone() for name, p in params.items()}]
    for loss in losses:
        path.append({name: path[-1][name] - eta * g for name, g in gradient(loss, path[-1]).items()})
    return path


def without(losses, forget):
    return [loss for step, loss in enumerate(losses) if step not in forget]


def propagate(losses, params, forget, eta):
    """Return the trained, the retrained and the unlearned weights."""
    path = sgd_path(losses, params, eta)
    trajectory = zip(path, losses, strict=False)  # the last weights have no step
    found = linear_propagation_unlearn(path[-1], trajectory, forget, learning_rate=eta)
    return path[-1], sgd_path(without(losses, forget), params, eta)[-1], found


@settings(deadline=None, derandomize=True, max_examples=40)
@given(draw=st.data(), size=st.integers(1, 6), seed=st.integers(0, 10**6), eta=st.floats(1e-3, 1.0))
def test_exact_on_quadratic_losses_whatever_eta(draw, size, seed, eta):
    steps = draw.draw(st.integers(1, 12))
    forget = draw.draw(st.sets(st.integers(0, steps - 1), min_size=1))
    generator = make_generator(seed, "quadratics")
    matrices = torch.randn(steps, size, size, generator=generator, dtype=torch.float64)
    slopes = torch.randn(steps, size, generator=generator, dtype=torch.float64)
    losses = [
        lambda p, a=(a + a.T) / 2, b=b: p["w"] @ a @ p["w"] / 2 + b @ p["w"]
        for a, b in zip(matrices, slopes, strict=True)
    ]
    params = {"w": torch.randn(size, generator=generator, dtype=torch.float64)}
    _, goal, found = propagate(losses, params, forget, eta)
    passed = max(norm(w) for w in sgd_path(losses, params, eta))  # with eta 1 it diverges, and is exact
    assert distance(found, goal) < 1e-10 * (1 + passed + norm(goal))


@pytest.mark.parametrize("forget", [(0,), (3,), (0, 3, 4), (5,)])
def test_it_is_the_product_of_the_steps_jacobians(forget):
    params, losses = smooth_net(6)
    path = sgd_path(losses, params, 0.5)
    expected = torch.zeros_like(to_vector(params))
    for s in forget:
        term = 0.5 * to_vector(gradient(losses[s], path[s]))
        for i in range(s + 1, 6):
            if i not in forget:
                term = term - 0.5 * dense_hessian(losses[i], path[i]) @ term
        expected += term
    trained, _, found = propagate(losses, params, forget, 0.5)
    torch.testing.assert_close(to_vector(found) - to_vector(trained), expected, rtol=1e-11, atol=1e-13)


def test_what_is_left_is_of_third_order_in_eta():
    # A step's error is eta times the square of delta, and delta is proportional to eta.
    params, losses = smooth_net(6)

    def left(eta):
        trained, goal, found = propagate(losses * 3, params, {1, 7, 13}, eta)
        return np.array([distance(trained, goal), distance(found, goal)])

    assert np.log2(left(2e-3) / left(1e-3)) == pytest.approx([1, 3], abs=0.03)


def test_what_is_left_is_of_second_order_in_the_removal():
    params, losses = smooth_net(6)

    def left(size):
        scaled = [lambda p: size * losses[0](p), *losses[1:]]
        trained, goal, found = propagate(scaled, params, {0}, 0.5)
        return np.array([distance(trained, goal), distance(found, goal)])

    assert np.log2(left(2e-3) / left(1e-3)) == pytest.approx([1, 2], abs=0.03)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_log_of_the_trainer_and_losses_as_trained_are_its_trajectory(batch_norm):
    model, (inputs, labels) = net(batch_norm), data(6)
    order = make_batch_order(len(labels), 6, 2, make_generator(0, "order"))
    retrained, log = copy_for_retraining(model), WeightLog(model)
    losses = [
        batch_loss(model, loss_fn, (inputs[list(step)], labels[list(step)]), training=True) for step in order
    ]
    train(
        model, inputs, labels, order, loss_fn,
        learning_rate=1e-3, observers=[log], retrained=retrained, forget=order[2],
    )  # fmt: skip
    trajectory = zip(log.weights, losses, strict=True)
    steps = order.steps_of_batch(order[2])
    found = linear_propagation_unlearn(snapshot(model), trajectory, steps, learning_rate=1e-3)
    nothing = distance(snapshot(model), snapshot(retrained))
    assert nothing > 1e-5
    assert distance(found, snapshot(retrained)) < 1e-3 * nothing


def test_cost_is_what_was_computed():
    params, losses = smooth_net(8)
    calls = 0

    def counted(loss):
        def call(p):
            nonlocal calls
            calls += 1
            return loss(p)

        return call

    path = sgd_path(losses, params, 0.1)
    trajectory = zip(path, map(counted, losses), strict=False)
    cost = linear_propagation_unlearn(path[-1], trajectory, [2, 5], learning_rate=0.1).cost
    assert (cost.gradients, cost.hvps) == (2, 4)  # products at steps 3, 4, 6, 7
    assert calls == 6
    assert cost.stored_bytes == 8 * 8 * (4 * 3 + 4 + 3 * 4 + 3)


def test_parameters_may_come_in_another_order_and_are_left_alone():
    params, losses = smooth_net(4)
    path = sgd_path(losses, params, 0.1)
    before = [{name: p.clone() for name, p in w.items()} for w in path]
    turned = [dict(reversed(w.items())) for w in path[:-1]]
    one, other = (
        linear_propagation_unlearn(path[-1], zip(w, losses, strict=True), [1], learning_rate=0.1)
        for w in (path[:-1], turned)
    )
    assert distance(one, other) == 0
    assert all(distance(w, kept) == 0 for w, kept in zip(path, before, strict=True))
    assert not any(p.requires_grad for p in one.values())


def test_bad_input_is_refused():
    params, losses = smooth_net(3)
    path = sgd_path(losses, params, 0.1)
    trajectory = list(zip(path, losses, strict=False))
    with pytest.raises(InputError, match="learning_rate must be larger than 0"):
        linear_propagation_unlearn(path[-1], trajectory, [0], learning_rate=0)
    with pytest.raises(InputError, match="`forget_steps` is empty"):
        linear_propagation_unlearn(path[-1], trajectory, [], learning_rate=0.1)
    with pytest.raises(InputError, match="names step 3, but `trajectory` ended after 3 steps"):
        linear_propagation_unlearn(path[-1], trajectory, [0, 3], learning_rate=0.1)
    spent = iter(trajectory)
    list(spent)
    with pytest.raises(InputError, match="pass a fresh one"):
        linear_propagation_unlearn(path[-1], spent, [0], learning_rate=0.1)
    with pytest.raises(InputError, match="`final_params` and `trajectory` must hold the same parameters"):
        linear_propagation_unlearn({"w": torch.ones(2)}, trajectory, [0], learning_rate=0.1)
