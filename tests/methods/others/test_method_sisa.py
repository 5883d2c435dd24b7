"""SISA against training from scratch and plain retraining; its costs against the paper's formulas."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from unrolling import Objective, make_generator, seeded
from unrolling._checks import InputError
from unrolling.methods.others.sisa import (
    SisaRecipe,
    assign_shards,
    sisa_probabilities,
    sisa_train,
    sisa_unlearn,
    sisa_vote,
)

RECIPE = SisaRecipe(Objective("cross_entropy"), learning_rate=0.1, batch_size=4, num_epochs=2, seed=5)
N = 48


def problem(seed=0):
    """A net with everything that has a state or a random number: batch norm and dropout."""
    with seeded(seed, "problem"):
        model = nn.Sequential(
            nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.3), nn.Linear(5, 3)
        ).double()
        return model, torch.randn(N, 3, dtype=torch.float64), torch.randint(0, 3, (N,))


def linear_problem():
    with seeded(1, "linear"):
        model = nn.Linear(2, 2).double()
        return model, torch.randn(N, 2, dtype=torch.float64), torch.randint(0, 2, (N,))


def without(assignment, gone):
    return tuple(tuple(tuple(i for i in part if i not in gone) for part in shard) for shard in assignment)


def assert_same_ensemble(first, second):
    assert first.assignment == second.assignment
    for one, other in zip(first.models, second.models, strict=True):
        for name, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[name])
    for one, other in zip(first.checkpoints, second.checkpoints, strict=True):
        for before, same in zip(one, other, strict=True):
            assert all(torch.equal(value, same[name]) for name, value in before.items())


def states(sisa):
    return [value.clone() for model in sisa.models for value in model.state_dict().values()]


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(1, 3), st.integers(1, 4), st.sets(st.integers(0, N - 1), min_size=1, max_size=2))
def test_forgetting_gives_the_bits_of_training_from_scratch_without_the_examples(shards, slices, gone):
    model, inputs, labels = problem()
    trained = sisa_train(model, inputs, labels, assign_shards(N, shards, slices, seed=0), RECIPE)
    before = states(trained)
    poisoned = inputs.clone()
    poisoned[list(gone)] = math.nan  # whoever reads a forgotten example from now on shows it
    unlearned = sisa_unlearn(trained, poisoned, labels, gone).ensemble
    scratch = sisa_train(model, inputs, labels, without(trained.assignment, gone), RECIPE)
    assert_same_ensemble(unlearned, scratch)
    assert all(map(torch.equal, states(trained), before))
    assert any(not torch.equal(a, b) for a, b in zip(states(unlearned), before, strict=True))


def test_forgetting_from_several_slices_goes_back_to_the_first_of_them():
    model, inputs, labels = problem()
    trained = sisa_train(model, inputs, labels, assign_shards(N, 2, 3, seed=0), RECIPE)
    gone = [trained.assignment[0][1][0], trained.assignment[0][2][0], trained.assignment[1][2][0]]
    together = sisa_unlearn(trained, inputs, labels, gone).ensemble
    assert_same_ensemble(
        together, sisa_train(model, inputs, labels, without(trained.assignment, gone), RECIPE)
    )
    one_by_one = trained
    for example in gone:
        one_by_one = sisa_unlearn(one_by_one, inputs, labels, [example]).ensemble
    assert_same_ensemble(one_by_one, together)


def test_shards_without_forgotten_examples_are_not_touched():
    model, inputs, labels = problem()
    trained = sisa_train(model, inputs, labels, assign_shards(N, 3, 2, seed=0), RECIPE)
    gone = trained.assignment[1][1][0]
    unlearned = sisa_unlearn(trained, inputs, labels, [gone]).ensemble
    assert [a is b for a, b in zip(trained.models, unlearned.models, strict=True)] == [True, False, True]


def test_one_shard_with_one_slice_is_naive_retraining():
    model, inputs, labels = linear_problem()
    (((*examples,),),) = assignment = assign_shards(N, 1, 1, seed=0)
    examples.remove(11)
    unlearned = sisa_unlearn(
        sisa_train(model, inputs, labels, assignment, RECIPE), inputs, labels, [11]
    ).ensemble
    generator = make_generator(5, "sisa batches", 0, 0)
    for _ in range(2):
        for step in torch.tensor(examples)[torch.randperm(N - 1, generator=generator)].tensor_split(12):
            nn.functional.cross_entropy(model(inputs[step]), labels[step]).backward()
            with torch.no_grad():
                for p in model.parameters():
                    p -= 0.1 * p.grad
                    p.grad = None
    torch.testing.assert_close(unlearned.models[0].weight, model.weight, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("shards", "slices"), [(1, 1), (1, 4), (3, 2), (4, 3), (2, 8)])
def test_costs_are_the_papers(shards, slices):
    """Every example is forgotten once; what a retraining saves because it is gone is added back."""
    model, inputs, labels = linear_problem()
    recipe = replace(RECIPE, batch_size=1, num_epochs=1)
    trained = sisa_train(model, inputs, labels, assign_shards(N, shards, slices, seed=0), recipe)
    full = Fraction(trained.cost.gradients)
    assert full == Fraction(N * (slices + 1), 2)  # stage r sees r slices
    relative = []
    for shard in trained.assignment:
        for number, part in enumerate(shard):
            for example in part:
                spent = sisa_unlearn(trained, inputs, labels, [example]).cost.gradients
                relative.append((Fraction(spent) + slices - number) / full)
    assert min(relative) == Fraction(2, shards * (slices + 1))
    assert sum(relative) / N == Fraction(2 * slices + 1, 3 * slices * shards)


def test_a_gradient_over_k_examples_counts_k_over_the_batch_size():
    model, inputs, labels = linear_problem()
    trained = sisa_train(
        model, inputs, labels, assign_shards(N, 2, 2, seed=0), replace(RECIPE, batch_size=7, num_epochs=3)
    )
    assert trained.cost.gradients == pytest.approx(3 * 2 * (12 + 24) / 7)
    assert trained.cost.hvps == 0


@pytest.mark.parametrize(("shards", "slices"), [(1, 1), (3, 4)])
def test_storage_is_a_checkpoint_with_buffers_per_slice_of_every_shard(shards, slices):
    model, inputs, labels = problem()
    trained = sisa_train(model, inputs, labels, assign_shards(N, shards, slices, seed=0), RECIPE)
    own = sum(value.nbytes for value in model.state_dict().values())
    assert trained.cost.stored_bytes == shards * slices * own
    assert sisa_unlearn(trained, inputs, labels, [0]).cost.stored_bytes == shards * slices * own


def test_the_assignment_is_a_partition_from_indices_and_seed_alone():
    assignment = assign_shards(50, 4, 3, seed=0)
    sizes = [len(part) for shard in assignment for part in shard]
    assert sorted(i for shard in assignment for part in shard for i in part) == list(range(50))
    assert max(sizes) - min(sizes) <= 1
    assert assignment == assign_shards(50, 4, 3, seed=0) != assign_shards(50, 4, 3, seed=1)


def test_the_initial_model_and_the_callers_random_state_are_left_alone():
    model, inputs, labels = problem()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    trained = sisa_train(model, inputs, labels, assign_shards(N, 2, 2, seed=0), RECIPE)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, trained.checkpoints[1][0][name]) for name, value in before.items())
    assert list(trained.params) == [f"{s}.{name}" for s in (0, 1) for name, _ in model.named_parameters()]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(2, 40), st.integers(3, 9))
def test_no_batch_is_too_large_and_none_holds_a_single_example(num_examples, batch_size):
    seen = []

    def loss_fn(model, batch):
        seen.append(len(batch[1]))
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    model, inputs, labels = linear_problem()
    recipe = replace(RECIPE, loss_fn=loss_fn, batch_size=batch_size, num_epochs=1)
    sisa_train(model, inputs, labels, assign_shards(num_examples, 1, 1, seed=0), recipe)
    assert sum(seen) == num_examples
    assert 2 <= min(seen) <= max(seen) <= batch_size
    assert len(seen) == math.ceil(num_examples / batch_size)


def test_an_emptied_first_slice_leaves_the_stages_that_follow():
    model, inputs, labels = linear_problem()
    assignment = (((0,), (1, 2, 3)),)
    trained = sisa_train(model, inputs, labels, assignment, RECIPE)
    unlearned = sisa_unlearn(trained, inputs, labels, [0]).ensemble
    assert torch.equal(unlearned.checkpoints[0][1]["weight"], model.weight)
    assert not torch.equal(unlearned.models[0].weight, model.weight)


def test_prediction_by_vote_and_by_mean_of_softmax():
    """Two models just prefer class 1, one is sure of class 0: the vote and the mean disagree."""
    model, inputs, labels = linear_problem()
    trained = sisa_train(model, inputs, labels, assign_shards(N, 3, 1, seed=0), RECIPE)
    probabilities = torch.tensor([[0.45, 0.55], [0.45, 0.55], [0.9, 0.1]], dtype=torch.float64)
    for constant, row in zip(trained.models, probabilities, strict=True):
        with torch.no_grad():
            constant.weight.zero_()
            constant.bias.copy_(row.log())
    torch.testing.assert_close(sisa_probabilities(trained, inputs[:2]), probabilities.mean(0).expand(2, 2))
    assert sisa_vote(trained, inputs[:2]).tolist() == [1, 1]
    assert sisa_probabilities(trained, inputs[:2]).argmax(1).tolist() == [0, 0]


def test_prediction_is_in_evaluation_mode_and_gives_the_mode_back():
    model, inputs, labels = problem()
    trained = sisa_train(model, inputs, labels, assign_shards(N, 2, 1, seed=0), RECIPE)
    before = states(trained)
    assert torch.equal(sisa_probabilities(trained, inputs), sisa_probabilities(trained, inputs))
    assert all(map(torch.equal, states(trained), before))
    assert all(model.training for model in trained.models)


def test_bad_input_is_named():
    model, inputs, labels = linear_problem()
    trained = sisa_train(model, inputs, labels, assign_shards(N, 2, 2, seed=0), RECIPE)
    with pytest.raises(InputError, match="2 shards of 3 slices need at least 6 examples, got 5"):
        assign_shards(5, 2, 3, seed=0)
    with pytest.raises(InputError, match="`forget` is empty"):
        sisa_unlearn(trained, inputs, labels, [])
    with pytest.raises(InputError, match="`forget` names 48, but there are 48"):
        sisa_unlearn(trained, inputs, labels, [3, 48])
    with pytest.raises(InputError, match=r"\[3\].*already forgotten"):
        sisa_unlearn(sisa_unlearn(trained, inputs, labels, [3]).ensemble, inputs, labels, [3])
    with pytest.raises(InputError, match="shard 0 has no examples left"):
        sisa_unlearn(trained, inputs, labels, range(N))
    with pytest.raises(InputError, match="at most once"):
        sisa_train(model, inputs, labels, (((0, 1), (1, 2)),), RECIPE)
    with pytest.raises(InputError, match="at most once"):
        sisa_train(model, inputs, labels, (((0, N),),), RECIPE)
    with pytest.raises(InputError, match="must name some of the 48 examples"):
        sisa_train(model, inputs, labels, (), RECIPE)
    with pytest.raises(InputError, match="num_epochs"):
        replace(RECIPE, num_epochs=0)


def test_stages_of_one_example_under_batch_norm_are_refused():
    model, inputs, labels = problem()
    model = nn.Sequential(nn.Linear(inputs.shape[1], 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
    with pytest.raises(InputError, match="step 0 trains M on one example, of which batch norm takes no"):
        sisa_train(model, inputs, labels, assign_shards(6, 2, 3, seed=0), RECIPE)
