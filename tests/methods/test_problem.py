"""The problem that all methods are given: its training, its retraining without F, and F's share of a step."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from unrolling import BatchOrder, Objective, make_generator, seeded, snapshot
from unrolling._checks import InputError
from unrolling.methods.cost import Cost, Unlearned
from unrolling.methods.problem import Model, NotApplicable, Problem, as_model
from unrolling.model_loss import gradient

ETA, L2 = 0.3, 0.05
ORDER = BatchOrder(((0, 1, 2), (3, 4, 5), (6, 7), (0, 1, 2), (3, 4, 5), (6, 7)))


def make(*, forget=(3, 7), order=ORDER, model=None, loss_fn=None, l2=L2, seed=0):
    generator = make_generator(0, "problem")
    if model is None:
        with seeded(0, "model"):
            model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    return Problem(
        model=model,
        loss_fn=loss_fn or Objective("weight_decay", l2),
        l2=l2,
        inputs=torch.randn(8, 4, dtype=torch.float64, generator=generator),
        labels=torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]),
        num_classes=3,
        order=order,
        learning_rate=ETA,
        forget=forget,
        seed=seed,
    )


def torch_sgd(problem, batches):
    """Train by PyTorch's optimiser with its own weight decay."""
    model = copy.deepcopy(problem.model)
    optimizer = torch.optim.SGD(model.parameters(), lr=ETA, weight_decay=L2)
    path = []
    for batch in batches:
        path.append(snapshot(model))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(problem.inputs[batch]), problem.labels[batch]).backward()
        optimizer.step()
    return model, path


def close(first, second):
    torch.testing.assert_close(dict(first), dict(second))


def test_trained_model_and_its_log_are_those_of_torch_optim():
    problem = make()
    model, path = torch_sgd(problem, [list(batch) for batch in ORDER])
    close(problem.final_params, snapshot(model))
    assert len(problem.log.weights) == len(path)
    for own, other in zip(problem.log.weights, path, strict=True):
        close(own, other)


def test_retrained_model_is_trained_on_the_batches_without_the_forgotten_examples():
    problem = make(forget=(3, 6, 7))
    model, _ = torch_sgd(problem, [[0, 1, 2], [4, 5], [0, 1, 2], [4, 5]])
    close(snapshot(problem.retrained), snapshot(model))
    assert problem.retraining == Cost(gradients=10 / 3, hvps=0, stored_bytes=(4 * 5 + 5 + 5 * 3 + 3) * 8)


def test_training_happens_once_and_leaves_model_and_random_state_alone():
    with seeded(0, "model"):
        model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)).double()
    problem, before = make(model=model, forget=(3, 4, 5)), copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    assert problem.trained is problem.trained
    assert problem.retrained is problem.retrained
    problem.share(ORDER[1])(problem.initial_params)
    problem.mean_loss(ORDER[1])(problem.initial_params)
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    again = make(model=model, forget=(3, 4, 5))
    torch.testing.assert_close(again.final_params, problem.final_params, rtol=0, atol=0)


def test_seed_decides_on_dropout():
    with seeded(0, "model"):
        model = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 3)).double()
    first, other = make(model=model, seed=0), make(model=model, seed=1)
    assert not torch.equal(first.final_params["0.weight"], other.final_params["0.weight"])


def test_steps_and_examples_of_the_forget_set():
    problem = make()
    assert problem.forget_steps == (1, 2, 4, 5)
    assert problem.examples == tuple(range(8))
    assert problem.retained == (0, 1, 2, 4, 5, 6)
    assert problem.batch_size == 3
    assert problem.split((7, 3, 6)) == ((6,), (7, 3))


def test_mean_loss_of_a_batch_is_one_function_and_the_steps_loss():
    problem = make()
    loss = problem.mean_loss(ORDER[1])
    assert loss is problem.mean_loss(ORDER[4])
    batch = problem.inputs[[3, 4, 5]], problem.labels[[3, 4, 5]]
    torch.testing.assert_close(loss(problem.initial_params), problem.loss_fn(problem.model, batch))


def test_share_is_the_forgotten_examples_loss_over_the_batch_size_without_the_l2_term():
    problem = make(forget=(3, 5))
    w = problem.initial_params
    logits = problem.model(problem.inputs)
    losses = nn.functional.cross_entropy(logits, problem.labels, reduction="none")
    torch.testing.assert_close(problem.share(ORDER[1])(w), (losses[3] + losses[5]) / 3)


def test_share_of_a_whole_batch_is_the_step():
    problem = make(forget=(3, 4, 5))
    assert problem.share(ORDER[1]) is problem.mean_loss(ORDER[1])


class Linear(nn.Module):
    """Its loss below is linear in the weights."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64))

    def forward(self, inputs):
        return inputs @ self.weight


def mean_output(model, batch):
    return model(batch[0]).mean()


def test_adding_back_the_shares_at_w0_undoes_the_forgotten_examples_of_a_linear_loss():
    problem = make(model=Linear(), loss_fn=mean_output, l2=0.0)
    unlearned = problem.final_params["weight"].clone()
    for step in problem.forget_steps:
        unlearned += ETA * gradient(problem.share(ORDER[step]), problem.initial_params)["weight"]
    x = problem.inputs
    kept = 2 * (x[[0, 1, 2]].sum(0) / 3 + x[[4, 5]].sum(0) / 3 + x[6] / 2)
    torch.testing.assert_close(unlearned, problem.initial_params["weight"] - ETA * kept)


def test_as_model_evaluates_the_given_weights_in_evaluation_mode_without_gradients():
    with seeded(0, "model"):
        module = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).double()
    problem = make(model=module, forget=(3, 4, 5))
    doubled = {name: 2 * p for name, p in problem.final_params.items()}
    model = as_model(problem.trained, doubled)
    expected = copy.deepcopy(problem.trained).eval()
    with torch.no_grad():
        for p in expected.parameters():
            p *= 2
    logits = model.logits(problem.inputs)
    assert not logits.requires_grad
    torch.testing.assert_close(logits, expected(problem.inputs).detach())
    assert isinstance(model, Model)
    assert model.params is doubled


def test_outcome_holds_the_three_models_and_both_costs():
    problem, cost = make(), Cost(1, 2, 3)
    zeros = {name: torch.zeros_like(p) for name, p in problem.final_params.items()}
    outcome = problem.outcome(Unlearned(zeros, cost, broken=("zeros were asked for",)), ["it is zero"])
    close(outcome.trained.params, problem.final_params)
    close(outcome.retrained.params, snapshot(problem.retrained))
    close(outcome.unlearned.params, zeros)
    assert (outcome.cost, outcome.retraining) == (cost, problem.retraining)
    assert outcome.broken == ("zeros were asked for", "it is zero")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forget": ()}, "empty"),
        ({"forget": tuple(range(8))}, "every example"),
        ({"forget": (3, 3)}, "twice"),
        ({"forget": (9,)}, "names 9, but there are 8"),
        ({"order": BatchOrder(((0, 8),)), "forget": (0,)}, "at most|between 0 and 7"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"l2": -1.0}, "l2"),
        ({"num_classes": 2}, "from 0 to 1"),
        ({"labels": torch.zeros(8)}, "int64"),
        ({"labels": torch.zeros(7, dtype=torch.int64)}, "one for each"),
        ({"model": nn.Identity()}, "no trainable"),
    ],
)
def test_misuse_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        replace(make(), **changes)


def test_share_of_part_of_a_batch_does_not_exist_with_batch_norm():
    problem = make(model=nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double(), forget=(3,))
    with pytest.raises(NotApplicable, match="batch norm mixes"):
        problem.share(ORDER[1])


def test_share_is_the_loss_in_training_mode():
    """With dropout the share is what the step saw: the mask of the random state at the call, not none."""
    with seeded(0, "model"):
        model = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 3)).double()
    problem = make(model=model)
    for batch, gone in ((ORDER[1], [3]), (ORDER[2], [7])):
        torch.manual_seed(3)
        found = problem.share(batch)(problem.initial_params)
        by_hand = copy.deepcopy(model).train()
        torch.manual_seed(3)
        logits = by_hand(problem.inputs[gone])
        expected = nn.functional.cross_entropy(logits, problem.labels[gone]) / len(batch)
        torch.testing.assert_close(found, expected)
        by_hand.eval()
        still = nn.functional.cross_entropy(by_hand(problem.inputs[gone]), problem.labels[gone]) / len(batch)
        assert abs(float(found) - float(still.detach())) > 1e-3


@pytest.mark.parametrize("forget", [(3, 4), (6,)])
def test_one_example_left_under_batch_norm_is_refused(forget):
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double()
    with pytest.raises(InputError, match=r"step [12] trains M' on one example, of which batch norm takes no"):
        make(model=model, forget=forget)
    order = BatchOrder((*ORDER.steps, (5,)))
    with pytest.raises(InputError, match="step 6 trains M on one example"):
        make(model=model, forget=(0, 1, 2), order=order)


@pytest.mark.parametrize("name", ["inputs", "labels"])
@pytest.mark.parametrize("data", [{"ids": torch.zeros(8)}, [0] * 8, torch.tensor(1)])
def test_data_that_are_no_tensor_are_refused(name, data):
    with pytest.raises(InputError, match=f"`{name}` must be a tensor with one row for each example"):
        replace(make(), **{name: data})
