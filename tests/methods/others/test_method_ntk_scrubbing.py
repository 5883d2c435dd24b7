"""NTK scrubbing: exact for ridge regression, and the linearised network's retraining in general."""

import pytest
import torch
from torch import nn

from unrolling import make_generator, seeded, snapshot
from unrolling._checks import InputError
from unrolling.methods.others.ntk_scrubbing import ntk_scrub_unlearn
from unrolling.model_loss import batch_loss, gradient
from unrolling.parameters import distance, from_vector, norm, to_vector

DECAY = 0.05
FORGET = [1, 4, 5]
KEEP = [0, 2, 3, 6, 7, 8, 9]


def data():
    generator = make_generator(0, "data")
    inputs = torch.randn(10, 3, dtype=torch.float64, generator=generator)
    return inputs, torch.randn(10, 2, dtype=torch.float64, generator=generator)


def linear():
    with seeded(0, "linear"):
        return nn.Linear(3, 2).double()


def net():
    with seeded(0, "net"):
        model = nn.Sequential(
            nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 2)
        ).double()
        model(data()[0])
        return model


def ridge(inputs, targets, centre, decay=DECAY):
    """Least squares with decay to `centre`, by the normal equations of the weights with the bias appended."""
    design = torch.cat([inputs, torch.ones(len(inputs), 1, dtype=torch.float64)], dim=1)
    start = torch.cat([centre["weight"], centre["bias"][:, None]], dim=1).T
    matrix = design.T @ design / len(inputs) + decay * torch.eye(4, dtype=torch.float64)
    solution = torch.linalg.solve(matrix, design.T @ targets / len(inputs) + decay * start).T
    return {"weight": solution[:, :3], "bias": solution[:, 3]}


def test_on_ridge_regression_it_is_retraining():
    model, (inputs, targets) = linear(), data()
    start = snapshot(model)
    trained, retrained = ridge(inputs, targets, start), ridge(inputs[KEEP], targets[KEEP], start)
    found = ntk_scrub_unlearn(trained, start, model, inputs, targets, FORGET, weight_decay=DECAY)
    assert distance(found, retrained) < 1e-13
    assert distance(trained, retrained) > 0.1


def test_on_a_linearised_network_it_is_the_minimum_of_the_stated_loss():
    """The stated loss is quadratic in w: solved by its normal equations, with another Jacobian."""
    model, (inputs, targets) = net(), data()
    start = snapshot(model)
    model.eval()
    _, slope = torch.func.vjp(
        lambda w: torch.func.functional_call(model, w, (inputs,)), start
    )  # an independent way to the same Jacobian: one vector-Jacobian product per output
    rows = torch.eye(20, dtype=torch.float64).reshape(20, 10, 2)
    jacobian = torch.stack([to_vector(slope(row)[0]) for row in rows]).reshape(10, 2, -1)
    outputs = model(inputs).detach()

    def minimum(kept):
        """By the primal normal equations, |w| x |w|."""
        g = jacobian[kept].reshape(-1, jacobian.shape[2])
        matrix = g.T @ g / len(kept) + DECAY * torch.eye(g.shape[1], dtype=torch.float64)
        return torch.linalg.solve(matrix, -g.T @ (outputs - targets)[kept].reshape(-1) / len(kept))

    found = ntk_scrub_unlearn(start, start, model.train(), inputs, targets, FORGET, weight_decay=DECAY)
    moved = to_vector(found) - to_vector(start)
    torch.testing.assert_close(moved, minimum(KEEP) - minimum(list(range(10))))


def test_strong_weight_decay_leaves_the_first_order_effect_of_the_forgotten_examples():
    """As mu grows, w_lin(S) goes to w_0 - grad L_S(w_0) / mu: a network that hardly moves."""
    model, (inputs, targets) = net(), data()
    start = snapshot(model)

    def slope(rows):
        def loss_fn(model, batch):
            return (model(batch[0]) - batch[1]).square().sum() / 2 / len(batch[1])

        return to_vector(gradient(batch_loss(model, loss_fn, (inputs[rows], targets[rows])), start))

    found = ntk_scrub_unlearn(start, start, model, inputs, targets, FORGET, weight_decay=1e7)
    moved = to_vector(found) - to_vector(start)
    torch.testing.assert_close(moved * 1e7, slope(list(range(10))) - slope(KEEP), rtol=1e-4, atol=1e-5)


def test_scale_multiplies_the_direction():
    model, (inputs, targets) = net(), data()
    start = snapshot(model)
    final = {name: p + 0.1 for name, p in start.items()}

    def moved(scale):
        found = ntk_scrub_unlearn(
            final, start, model, inputs, targets, FORGET, weight_decay=DECAY, scale=scale
        )
        return to_vector(found) - to_vector(final)

    assert moved(1.0).norm() > 0.1
    torch.testing.assert_close(moved(-2.5), -2.5 * moved(1.0))
    assert not moved(0).any()


def test_the_order_of_names_does_not_matter():
    model, (inputs, targets) = linear(), data()
    start, final = snapshot(model), {"bias": model.bias.detach() + 1, "weight": model.weight.detach()}
    first = ntk_scrub_unlearn(final, start, model, inputs, targets, FORGET, weight_decay=DECAY)
    final = dict(reversed(final.items()))
    second = ntk_scrub_unlearn(final, start, model, inputs, targets, FORGET, weight_decay=DECAY)
    assert distance(first, second) < 1e-14


def test_single_precision_models_are_solved_in_double_precision():
    model, (inputs, targets) = linear(), data()
    inputs = torch.cat([inputs, inputs + 1e-3 * inputs.flip(0)])  # nearly the same examples twice
    targets = torch.cat([targets, targets])
    args = inputs, targets, FORGET
    exact = ntk_scrub_unlearn(snapshot(model), snapshot(model), model, *args, weight_decay=1e-6)
    model.float()
    args = inputs.float(), targets.float(), FORGET
    found = ntk_scrub_unlearn(snapshot(model), snapshot(model), model, *args, weight_decay=1e-6)
    assert found["weight"].dtype == torch.float32
    assert distance({name: p.double() for name, p in found.items()}, exact) < 1e-4 * norm(exact)


def test_costs_are_a_gradient_per_example_and_output_and_the_initial_weights():
    model, (inputs, targets) = net(), data()
    start = snapshot(model)
    cost = ntk_scrub_unlearn(
        start, start, model, inputs, targets, FORGET, weight_decay=DECAY, batch_size=4
    ).cost
    assert (cost.gradients, cost.hvps) == (10 * 2 / 4, 0)
    assert cost.stored_bytes == to_vector(start).nbytes


def test_nothing_of_the_callers_changes():
    model, (inputs, targets) = net(), data()
    start = snapshot(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = ntk_scrub_unlearn(start, start, model, inputs, targets, FORGET, weight_decay=DECAY)
    assert norm(found) != norm(start)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(p, before[name]) for name, p in start.items())
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_bad_input_is_named():
    model, (inputs, targets) = linear(), data()
    start = snapshot(model)

    def call(forget=FORGET, targets=targets, weight_decay=DECAY, initial=start):
        return ntk_scrub_unlearn(start, initial, model, inputs, targets, forget, weight_decay=weight_decay)

    with pytest.raises(InputError, match="`forget` is empty"):
        call(forget=[])
    with pytest.raises(InputError, match="`forget` holds every example"):
        call(forget=range(10))
    with pytest.raises(InputError, match="names 10, but there are 10"):
        call(forget=[10])
    with pytest.raises(InputError, match=r"shape \(10, 2\), got \(10,\).*one_hot"):
        call(targets=targets[:, 0])
    with pytest.raises(InputError, match="weight_decay must be larger than 0"):
        call(weight_decay=0)
    with pytest.raises(InputError, match="try a larger weight_decay"):
        call(weight_decay=1e-300)
    with pytest.raises(InputError, match="initial_params"):
        call(initial=from_vector(torch.zeros(3), {"weight": torch.zeros(3)}))
