"""Amnesiac unlearning: telescoping sums, linear losses, momentum, and the released variant."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from unrolling import Objective, make_batch_order, make_generator, seeded, snapshot, train
from unrolling._checks import InputError
from unrolling.batches import BatchOrder
from unrolling.methods.others.amnesiac import (
    AmnesiacLog,
    ReleasedAmnesiacLog,
    amnesiac_unlearn,
    released_amnesiac_unlearn,
)
from unrolling.model_loss import batch_loss, gradient
from unrolling.oracles import dense_hessian
from unrolling.parameters import distance, from_vector, norm, to_vector

OBJECTIVE = Objective("cross_entropy")
ETA = 0.1


def problem():
    with seeded(0, "amnesiac"):
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)).double()
        return model, torch.randn(24, 3, dtype=torch.float64), torch.randint(0, 3, (24,))


def order_of(num_epochs=3):
    return make_batch_order(24, 4, num_epochs, make_generator(0), reshuffle=True)


def trained(log, model, inputs, labels, order, loss_fn=OBJECTIVE):
    train(model, inputs, labels, order, loss_fn, learning_rate=ETA, observers=[log])
    return snapshot(model)


def tensors(value):
    """Every tensor that an object holds, however deep, except through the model."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, nn.Module):
        return []
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return [found for item in value for found in tensors(item)]
    return tensors(vars(value)) if hasattr(value, "__dict__") else []


@pytest.mark.parametrize("num_epochs", [1, 5])
def test_undoing_every_update_gives_the_initial_weights(num_epochs):
    model, inputs, labels = problem()
    start = snapshot(model)
    log = AmnesiacLog(model, order_of(num_epochs), range(24))
    end = trained(log, model, inputs, labels, order_of(num_epochs))
    assert distance(amnesiac_unlearn(end, log), start) < 1e-14
    assert distance(end, start) > 0.1


def test_undoing_the_only_step_gives_the_initial_weights():
    model, inputs, labels = problem()
    start, order = snapshot(model), BatchOrder(((2, 3, 5),))
    log = AmnesiacLog(model, order, [3])
    assert distance(amnesiac_unlearn(trained(log, model, inputs, labels, order), log), start) < 1e-15


class LinearLoss(nn.Module):
    """The loss <x, w>: its gradient is the same everywhere."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, dtype=torch.float64))


def linear_objective(model, batch):
    return (batch[0] @ model.weight).mean()


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.sets(st.integers(0, 23), min_size=1, max_size=4))
def test_on_a_linear_loss_it_is_retraining_without_the_whole_batches(examples):
    _, inputs, labels = problem()
    model, retrained, order = LinearLoss(), LinearLoss(), order_of()
    log = AmnesiacLog(model, order, examples)
    unlearned = amnesiac_unlearn(trained(log, model, inputs, labels, order, linear_objective), log)
    kept = BatchOrder(tuple(step for step in order if not examples & set(step)))
    train(retrained, inputs, labels, kept, linear_objective, learning_rate=ETA)
    assert distance(unlearned, snapshot(retrained)) < 1e-13
    released = ReleasedAmnesiacLog(LinearLoss(), linear_objective, order, examples)
    end = trained(released, released._model, inputs, labels, order, linear_objective)
    again = released_amnesiac_unlearn(end, released, learning_rate=ETA)
    assert distance(again, snapshot(retrained)) < 1e-13


def test_with_momentum_it_is_the_applied_step_that_is_logged():
    model, inputs, labels = problem()
    order, watched = order_of(1), 3
    log = AmnesiacLog(model, order, order[watched])
    optimizer = torch.optim.SGD(model.parameters(), lr=ETA, momentum=0.9, weight_decay=0.01)
    path = [snapshot(model)]
    for step, indices in enumerate(order):
        batch = inputs[list(indices)], labels[list(indices)]
        log.before_step(step, batch)
        optimizer.zero_grad()
        OBJECTIVE(model, batch).backward()
        optimizer.step()
        log.after_step(step)
        path.append(snapshot(model))
        if step == watched:
            plain = {name: -ETA * p.grad for name, p in model.named_parameters()}
    applied = {name: p - path[watched][name] for name, p in path[watched + 1].items()}
    assert distance(log.updates, applied) == 0
    assert distance(log.updates, plain) > norm(plain) / 2


@pytest.mark.parametrize("kind", ["applied", "released"])
def test_the_log_is_as_large_as_the_weights_after_any_number_of_steps(kind):
    model, inputs, labels = problem()
    size = sum(p.nbytes for p in model.parameters())
    for num_epochs in (1, 20):
        order = order_of(num_epochs)
        log = (
            AmnesiacLog(model, order, range(24))
            if kind == "applied"
            else ReleasedAmnesiacLog(model, OBJECTIVE, order, range(24))
        )
        trained(log, model, inputs, labels, order)
        assert log.num_steps == 6 * num_epochs
        assert sum(t.nbytes for t in tensors(log)) == size


def test_several_requests_have_a_sum_each():
    model, inputs, labels = problem()
    order = make_batch_order(24, 4, 3, make_generator(0))  # the same batches in every epoch
    first, second = order[0][1], order[4][2]
    logs = [AmnesiacLog(model, order, examples) for examples in ([first], [second], [first, second])]
    train(model, inputs, labels, order, OBJECTIVE, learning_rate=ETA, observers=logs)
    assert [log.num_steps for log in logs] == [3, 3, 6]
    one, other, both = (to_vector(log.updates) for log in logs)
    torch.testing.assert_close(one + other, both, rtol=0, atol=1e-15)
    assert (one - other).norm() > 0.1 * both.norm()


@pytest.mark.parametrize("kind", ["applied", "released"])
def test_watching_changes_nothing_in_training(kind):
    model, inputs, labels = problem()
    twin, order = copy.deepcopy(model), order_of()
    log = (
        AmnesiacLog(model, order, [0])
        if kind == "applied"
        else ReleasedAmnesiacLog(model, OBJECTIVE, order, [0])
    )
    train(twin, inputs, labels, order, OBJECTIVE, learning_rate=ETA)
    trained(log, model, inputs, labels, order)
    for name, value in twin.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_only_parameters_are_undone_not_the_running_statistics():
    model, inputs, labels = problem()
    model[3].bias.requires_grad_(False)
    log = AmnesiacLog(model, order_of(), [0])
    unlearned = amnesiac_unlearn(trained(log, model, inputs, labels, order_of()), log)
    assert set(unlearned) == {"0.weight", "0.bias", "1.weight", "1.bias", "3.weight"}


def test_as_released_misses_one_step_by_the_second_order_term_and_no_more():
    """eta (g(w_1) - g(w_0)) = -eta^2 H g + O(eta^3): halving eta must divide the rest by eight."""
    rests = []
    for eta in (0.04, 0.02):
        model, inputs, labels = problem()
        order = BatchOrder((tuple(range(8)),))
        start = snapshot(model)
        loss = batch_loss(model, OBJECTIVE, (inputs[:8], labels[:8]), training=True)
        log = ReleasedAmnesiacLog(model, OBJECTIVE, order, [5])
        train(model, inputs, labels, order, OBJECTIVE, learning_rate=eta, observers=[log])
        missed = to_vector(released_amnesiac_unlearn(snapshot(model), log, learning_rate=eta))
        missed -= to_vector(start)
        slope = to_vector(gradient(loss, start))
        predicted = -(eta**2) * dense_hessian(loss, start) @ slope
        assert missed.norm() > 0.9 * predicted.norm() > 1e-6
        rests.append(float((missed - predicted).norm()))
    assert rests[0] / rests[1] == pytest.approx(8, rel=0.1)


def test_as_released_takes_the_gradient_after_the_step():
    model, inputs, labels = problem()
    order, index = order_of(1), list(order_of(1)[2])
    log = ReleasedAmnesiacLog(model, OBJECTIVE, order, [index[1]])
    twin = copy.deepcopy(model)
    end = trained(log, model, inputs, labels, order)
    train(twin, inputs, labels, BatchOrder(order.steps[:3]), OBJECTIVE, learning_rate=ETA)
    OBJECTIVE(twin.train(), (inputs[index], labels[index])).backward()
    expected = to_vector(end) + ETA * torch.cat([p.grad.flatten() for p in twin.parameters()])
    found = released_amnesiac_unlearn(end, log, learning_rate=ETA)
    torch.testing.assert_close(to_vector(found), expected, rtol=0, atol=1e-14)


def test_costs_are_counted():
    model, inputs, labels = problem()
    size, order = sum(p.nbytes for p in model.parameters()), order_of(4)
    log = AmnesiacLog(model, order, [7])
    cost = amnesiac_unlearn(trained(log, model, inputs, labels, order), log).cost
    assert (cost.gradients, cost.hvps, cost.stored_bytes) == (0, 0, size)
    released = ReleasedAmnesiacLog(model, OBJECTIVE, order, [7])
    end = trained(released, model, inputs, labels, order)
    cost = released_amnesiac_unlearn(end, released, learning_rate=ETA).cost
    assert (cost.gradients, cost.hvps, cost.stored_bytes) == (4, 0, size)


def test_the_inputs_are_left_alone():
    model, inputs, labels = problem()
    log = AmnesiacLog(model, order_of(), [0])
    end = trained(log, model, inputs, labels, order_of())
    before, summed = to_vector(end).clone(), to_vector(log.updates).clone()
    first = amnesiac_unlearn(end, log)
    assert torch.equal(to_vector(end), before)
    assert torch.equal(to_vector(log.updates), summed)
    assert distance(first, amnesiac_unlearn(from_vector(before, end), log)) == 0


def test_bad_input_is_named():
    model, _, _ = problem()
    with pytest.raises(InputError, match="`examples` is empty"):
        AmnesiacLog(model, order_of(), [])
    with pytest.raises(InputError, match=r"none of the examples \[99\]"):
        ReleasedAmnesiacLog(model, OBJECTIVE, order_of(), [99])
    log = ReleasedAmnesiacLog(model, OBJECTIVE, order_of(), [0])
    with pytest.raises(InputError, match="learning_rate"):
        released_amnesiac_unlearn(snapshot(model), log, learning_rate=0)
    model.requires_grad_(False)
    with pytest.raises(InputError, match="no trainable parameters"):
        AmnesiacLog(model, order_of(), [0])
