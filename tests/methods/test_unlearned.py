"""Unlearned, which all unlearning functions return: weights by name, a cost, what does not hold."""

import copy
import io
import math
import typing

import pytest
import torch
from torch import nn
from torch.func import functional_call

from unrolling import (
    BatchOrder,
    Objective,
    Unlearned,
    batch_loss,
    load,
    make_generator,
    seeded,
    single_gradient_unlearn,
    snapshot,
    train,
    verification_error,
)
from unrolling import methods as own
from unrolling.methods import Cost, final_gradient_unlearn, others
from unrolling.methods.others import (
    AmnesiacLog,
    Private,
    ReleasedAmnesiacLog,
    SisaRecipe,
    amnesiac_unlearn,
    assign_shards,
    dp_sgd_unlearn,
    released_amnesiac_unlearn,
    sisa_train,
    sisa_unlearn,
)
from unrolling.parameters import check_same_parameters, distance, to_vector

ETA = 0.2
FUNCTIONS = [
    getattr(module, name) for module in (own, others) for name in module.__all__ if name.endswith("_unlearn")
]


def network():
    with seeded(0, "unlearned"):
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def data():
    inputs = torch.randn(8, 3, generator=make_generator(0, "unlearned"), dtype=torch.float64)
    return inputs, torch.arange(8) % 2


def found(broken=()):
    """Some weights of :func:`network`, as a method returns them."""
    weights = {name: p + 1 for name, p in snapshot(network()).items()}
    return Unlearned(weights, Cost(2, 0, 5), broken=broken), weights


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_every_unlearning_function_returns_it(function):
    assert issubclass(typing.get_type_hints(function)["return"], Unlearned)


def test_there_is_one_for_every_method_that_changes_weights():
    assert len(FUNCTIONS) == len(own.METHODS.keys() - {"retrain", "nothing"})


def test_it_goes_wherever_weights_go():
    unlearned, weights = found()
    model, (inputs, labels) = network(), data()
    expected = load(copy.deepcopy(model), weights)
    load(copy.deepcopy(model), unlearned)
    copy.deepcopy(model).load_state_dict(unlearned)
    check_same_parameters(unlearned, weights, ("unlearned", "weights"))
    assert verification_error(unlearned, weights) == 0
    assert torch.equal(to_vector(unlearned), to_vector(weights))
    assert torch.equal(functional_call(model, unlearned, (inputs,)), expected(inputs))
    loss = batch_loss(model, lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1]), (inputs, labels))
    torch.testing.assert_close(loss(unlearned), nn.functional.cross_entropy(expected(inputs), labels))


def test_it_is_saved_copied_and_shown_with_its_cost():
    unlearned, weights = found(("it is rounded",))
    file = io.BytesIO()
    torch.save(unlearned, file)
    file.seek(0)
    for other in (torch.load(file, weights_only=False), copy.deepcopy(unlearned), copy.copy(unlearned)):
        assert (other.cost, other.broken) == (Cost(2, 0, 5), ("it is rounded",))
        assert distance(other, weights) == 0
    assert repr(unlearned) == f"Unlearned(cost={Cost(2, 0, 5)}, broken=('it is rounded',))"


def test_the_papers_methods_say_what_they_took_and_what_does_not_hold():
    (inputs, labels), model = data(), network()
    start, end = snapshot(model), {name: p + 0.1 for name, p in snapshot(model).items()}

    def loss(params):
        return nn.functional.cross_entropy(functional_call(model, params, (inputs,)), labels)

    def slope(params):
        leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
        return dict(zip(leaves, torch.autograd.grad(loss(leaves), list(leaves.values())), strict=True))

    single = single_gradient_unlearn(end, start, loss, learning_rate=ETA, num_epochs=3)
    assert distance(single, {name: p + 3 * ETA * slope(start)[name] for name, p in end.items()}) < 1e-14
    assert (single.cost, single.broken) == (Cost(1, 0, 8 * (3 * 4 + 4 + 4 * 2 + 2)), ())
    final = final_gradient_unlearn(end, loss, learning_rate=ETA)
    assert distance(final, {name: p + ETA * slope(end)[name] for name, p in end.items()}) < 1e-14
    assert final.cost == Cost(1, 0, 0)
    assert "depends on more than w_0" in " ".join(final.broken)


@pytest.mark.parametrize(("gone", "others_undone"), [((0, 1, 2), 0), ((1, 4), 4)])
def test_amnesiac_unlearning_counts_whom_it_undoes_with_the_forgotten(gone, others_undone):
    model, (inputs, labels) = network(), data()
    loss_fn, order = Objective("cross_entropy"), BatchOrder(((0, 1, 2), (3, 4, 5), (6, 7)) * 2)
    logs = AmnesiacLog(model, order, gone), ReleasedAmnesiacLog(model, loss_fn, order, gone)
    train(model, inputs, labels, order, loss_fn, learning_rate=ETA, observers=logs)
    w_t = snapshot(model)
    for unlearned in (
        amnesiac_unlearn(w_t, logs[0]),
        released_amnesiac_unlearn(w_t, logs[1], learning_rate=ETA),
    ):
        undone, said = f"{others_undone} examples that stay", " ".join(unlearned.broken)
        assert (undone in said) == bool(others_undone)
        assert "depends on more than w_0" in said


def test_sisa_returns_the_weights_of_its_ensemble_and_goes_on_from_it():
    model, (inputs, labels) = network(), data()
    recipe = SisaRecipe(Objective("cross_entropy"), learning_rate=ETA, batch_size=2, num_epochs=1, seed=0)
    trained = sisa_train(model, inputs, labels, assign_shards(8, 2, 2, seed=0), recipe)
    unlearned = sisa_unlearn(trained, inputs, labels, [3])
    for shard, member in enumerate(unlearned.ensemble.models):
        for name, p in member.named_parameters():
            assert torch.equal(unlearned[f"{shard}.{name}"], p)
    assert not any(p.requires_grad for p in unlearned.values())
    assert unlearned.cost.gradients < trained.cost.gradients
    held = {i for shard in unlearned.ensemble.assignment for part in shard for i in part}
    assert held == set(range(8)) - {3}
    again = sisa_unlearn(unlearned.ensemble, inputs, labels, [5])
    assert verification_error(again, unlearned) > 0


@pytest.mark.parametrize(
    ("epsilon", "delta", "said"),
    [(0.5, 1e-6, ""), (math.inf, 1e-6, "without noise"), (4.0, 1e-2, "for 5 examples is empty (delta")],
)
def test_dp_sgd_says_where_its_guarantee_is_empty(epsilon, delta, said):
    unlearned = dp_sgd_unlearn(Private(snapshot(network()), epsilon, delta), 5)
    assert len(unlearned.broken) == bool(said)
    assert said in " ".join(unlearned.broken)
