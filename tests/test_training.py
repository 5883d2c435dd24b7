"""The trainer against torch.optim.SGD and against retraining by hand."""

import copy

import pytest
import torch
from torch import nn

from unrolling import (
    Objective,
    accuracy,
    batch_loss,
    make_batch_order,
    make_generator,
    seeded,
    sgd_step,
    single_gradient_unlearn,
    snapshot,
    train,
    verification_error,
)
from unrolling._checks import InputError
from unrolling.methods import final_gradient_unlearn
from unrolling.parameters import trainable
from unrolling.training import DivergedError, Observer, Stepper, copy_for_retraining

OBJECTIVE = Objective("sd", 0.5)


@pytest.fixture
def problem():
    with seeded(0, "problem"):
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).double()
        inputs, labels = torch.randn(40, 6, dtype=torch.float64), torch.randint(0, 3, (40,))
    return model, inputs, labels, make_batch_order(40, 8, 3, make_generator(0))


def optimise(model, inputs, labels, steps, learning_rate=0.1):
    """The reference: PyTorch's own SGD on the same batches."""
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    model.train()
    for step in steps:
        optimizer.zero_grad()
        OBJECTIVE(model, (inputs[list(step)], labels[list(step)])).backward()
        optimizer.step()
    return model


def assert_same_state(first, second, **tolerance):
    for name, value in first.state_dict().items():
        torch.testing.assert_close(value, second.state_dict()[name], **tolerance)


def test_training_equals_torch_sgd_on_the_same_batches(problem):
    model, inputs, labels, order = problem
    model.eval()  # as a measurement may have left it
    reference = optimise(copy.deepcopy(model), inputs, labels, order)
    train(model, inputs, labels, order, OBJECTIVE, learning_rate=0.1)
    assert_same_state(model, reference, rtol=1e-12, atol=1e-12)


def test_retrained_model_equals_training_without_the_batch_and_owns_its_buffers(problem):
    model, inputs, labels, order = problem
    start, forget = copy.deepcopy(model), order[2]
    retrained = copy_for_retraining(model)
    train(model, inputs, labels, order, OBJECTIVE, learning_rate=0.1, retrained=retrained, forget=forget)
    assert_same_state(
        retrained,
        optimise(copy.deepcopy(start), inputs, labels, order.without_batch(forget)),
        rtol=1e-12,
        atol=1e-12,
    )
    assert_same_state(model, optimise(start, inputs, labels, order), rtol=1e-12, atol=1e-12)
    assert retrained[1].num_batches_tracked == len(order) - 3
    assert model[1].num_batches_tracked == len(order)


def test_examples_that_are_forgotten_leave_their_batches(problem):
    model, inputs, labels, order = problem
    start, forget = copy.deepcopy(model), (order[0][1], order[0][4], order[3][0])
    retrained = copy_for_retraining(model)
    train(model, inputs, labels, order, OBJECTIVE, learning_rate=0.1, retrained=retrained, forget=forget)
    expected = optimise(start, inputs, labels, order.without(forget))
    assert_same_state(retrained, expected, rtol=1e-12, atol=1e-12)


def test_resuming_in_the_middle_gives_the_same_bits(problem):
    model, inputs, labels, order = problem
    whole = copy.deepcopy(model)
    train(whole, inputs, labels, order, OBJECTIVE, learning_rate=0.1)
    train(model, inputs, labels, type(order)(order.steps[:7]), OBJECTIVE, learning_rate=0.1)
    train(model, inputs, labels, order, OBJECTIVE, learning_rate=0.1, first_step=7)
    assert_same_state(model, whole, rtol=0, atol=0)


def test_training_gives_back_modes_and_gradients(problem):
    model, inputs, labels, order = problem
    model.eval()
    model[0].weight.grad = torch.full_like(model[0].weight, 7.0)
    train(model, inputs, labels, order, OBJECTIVE, learning_rate=0.1)
    assert not any(module.training for module in model.modules())
    assert torch.equal(model[0].weight.grad, torch.full_like(model[0].weight, 7.0))
    assert model[0].bias.grad is None


def test_observers_see_the_weights_before_and_after_each_step(problem):
    model, inputs, labels, order = problem
    seen = []

    class Watch(Observer):
        def before_step(self, step, batch):
            seen.append(("before", step, snapshot(model), batch[1].tolist()))

        def after_step(self, step):
            seen.append(("after", step, snapshot(model), None))

    train(model, inputs, labels, order, OBJECTIVE, learning_rate=0.1, observers=[Watch()])
    assert [event[:2] for event in seen] == [
        (when, i) for i in range(len(order)) for when in ("before", "after")
    ]
    for after, before in zip(seen[1:-1:2], seen[2::2], strict=True):
        assert verification_error(after[2], before[2]) == 0
    assert seen[4][3] == labels[list(order[2])].tolist()


def test_frozen_parameters_stay(problem):
    model, inputs, labels, order = problem
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    train(model, inputs, labels, order, OBJECTIVE, learning_rate=0.1)
    assert torch.equal(model[0].weight, before)


def test_accuracy_counts_argmax_and_leaves_buffers(problem):
    model, inputs, labels, _ = problem
    model.train()
    buffers = [b.clone() for b in model.buffers()]
    found = accuracy(model, inputs, labels, batch_size=7)
    assert all(torch.equal(b, c) for b, c in zip(model.buffers(), buffers, strict=True))
    assert model.training
    model.eval()
    assert found == (model(inputs).argmax(1) == labels).double().mean().item()


class LinearLoss(nn.Module):
    """A loss linear in its weight: <x, w>, so its Hessian is zero."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, dtype=torch.float64))


def linear_objective(model, batch):
    return (batch[0] @ model.weight).mean()


@pytest.mark.parametrize(("epochs", "position"), [(1, 0), (3, 0), (3, 2)])
def test_single_gradient_unlearning_is_exact_when_the_loss_is_linear(epochs, position):
    inputs = torch.randn(12, 4, dtype=torch.float64, generator=make_generator(0))
    labels = torch.zeros(12, dtype=torch.int64)
    order = make_batch_order(12, 3, epochs, make_generator(1))
    model = LinearLoss()
    initial, forget, retrained = snapshot(model), order[position], copy_for_retraining(model)
    train(
        model, inputs, labels, order, linear_objective, learning_rate=0.1, retrained=retrained, forget=forget
    )
    loss = batch_loss(model, linear_objective, (inputs[list(forget)], None))
    unlearned = single_gradient_unlearn(trainable(model), initial, loss, learning_rate=0.1, num_epochs=epochs)
    assert verification_error(unlearned, trainable(retrained)) < 1e-14
    assert verification_error(trainable(model), trainable(retrained)) > 1e-2
    if epochs == 1:
        last = final_gradient_unlearn(trainable(model), loss, learning_rate=0.1)
        assert verification_error(last, trainable(retrained)) < 1e-14


def test_single_gradient_unlearning_with_momentum_undoes_a_gradient_that_keeps_pushing():
    """Heavy-ball SGD applies an early gradient 1 / (1 - beta) times; one eta * g leaves 90 % of it."""
    forget, others = torch.tensor([1.0, 2.0]).double(), torch.tensor([0.3, -0.1]).double()
    with_it, without = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    speed_with, speed_without = torch.zeros_like(with_it), torch.zeros_like(without)
    for step in range(400):
        speed_with = 0.9 * speed_with + (forget if step == 0 else others)
        speed_without = 0.9 * speed_without + (0 * forget if step == 0 else others)
        with_it, without = with_it - 0.1 * speed_with, without - 0.1 * speed_without

    def loss(params):
        return params["w"] @ forget

    start = {"w": torch.zeros(2, dtype=torch.float64)}
    exact = single_gradient_unlearn({"w": with_it}, start, loss, learning_rate=0.1, momentum=0.9)
    plain = single_gradient_unlearn({"w": with_it}, start, loss, learning_rate=0.1)
    nothing = verification_error({"w": with_it}, {"w": without})
    assert verification_error(exact, {"w": without}) < 1e-12
    assert verification_error(plain, {"w": without}) == pytest.approx(0.9 * nothing)


def test_unlearning_updates_are_the_printed_formulas(problem):
    model, inputs, labels, _ = problem
    final = snapshot(model)
    initial = {name: p + 0.1 for name, p in final.items()}
    loss = batch_loss(model, OBJECTIVE, (inputs[:8], labels[:8]))

    def reference_gradient(params):
        twin = copy.deepcopy(model).eval()
        with torch.no_grad():
            for name, p in twin.named_parameters():
                p.copy_(params[name])
        OBJECTIVE(twin, (inputs[:8], labels[:8])).backward()
        return {name: p.grad for name, p in twin.named_parameters()}

    at_start, at_end = reference_gradient(initial), reference_gradient(final)
    single = single_gradient_unlearn(final, initial, loss, learning_rate=0.1, num_epochs=5)
    last = final_gradient_unlearn(final, loss, learning_rate=0.1)
    for name, p in final.items():
        torch.testing.assert_close(single[name], p + 0.5 * at_start[name])
        torch.testing.assert_close(last[name], p + 0.1 * at_end[name])


def test_bad_input_is_named(problem):
    model, inputs, labels, order = problem
    for eta in (0, -0.1, float("nan")):
        with pytest.raises(InputError, match="learning_rate"):
            train(model, inputs, labels, order, OBJECTIVE, learning_rate=eta)
    with pytest.raises(InputError, match="together"):
        train(model, inputs, labels, order, OBJECTIVE, learning_rate=0.1, forget=order[0])
    with pytest.raises(InputError, match="`forget` names 99, but there are 40"):
        train(model, inputs, labels, order, OBJECTIVE, learning_rate=0.1, retrained=model, forget=(0, 99))
    with pytest.raises(DivergedError, match="learning_rate below 1e\\+200"):
        train(model, inputs, labels, order, OBJECTIVE, learning_rate=1e200)
    with pytest.raises(InputError, match="momentum must be below 1"):
        single_gradient_unlearn(snapshot(model), snapshot(model), None, learning_rate=0.1, momentum=1.0)


# What torch.optim.SGD trains


class Half(nn.Module):
    """A body and two heads, of which only the first is used."""

    def __init__(self):
        super().__init__()
        self.body, self.used, self.unused = nn.Linear(6, 4), nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.used(torch.tanh(self.body(x)))


def test_parameters_that_the_loss_does_not_use_stay(problem):
    _, inputs, labels, order = problem
    with seeded(1, "model"):
        model = Half().double()
    start, reference = snapshot(model), copy.deepcopy(model)
    optimise(reference, inputs, labels, order)
    retrained = copy_for_retraining(model)
    train(model, inputs, labels, order, OBJECTIVE, learning_rate=0.1, retrained=retrained, forget=order[0])
    assert_same_state(model, reference, rtol=1e-12, atol=1e-12)
    assert torch.equal(model.unused.weight, start["unused.weight"])
    assert torch.equal(retrained.unused.weight, start["unused.weight"])
    sgd_step(model, (inputs[:8], labels[:8]), OBJECTIVE, 0.1)
    assert_same_state(model, optimise(reference, inputs, labels, [range(8)]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("surroundings", [torch.no_grad, lambda: torch.set_grad_enabled(False)])
def test_the_callers_grad_mode_does_not_matter(problem, surroundings):
    model, inputs, labels, order = problem
    reference = optimise(copy.deepcopy(model), inputs, labels, order)
    with surroundings():
        train(model, inputs, labels, order, OBJECTIVE, learning_rate=0.1)
        assert not torch.is_grad_enabled()
    assert_same_state(model, reference, rtol=1e-12, atol=1e-12)


def test_steps_that_cannot_be_taken_are_refused_in_one_line(problem):
    model, inputs, labels, _ = problem
    batch, before = (inputs[:8], labels[:8]), snapshot(model)
    for eta in (float("nan"), float("inf"), 0, -0.1, "0.1", None):
        with pytest.raises(InputError, match="learning_rate"):
            sgd_step(model, batch, OBJECTIVE, eta)
    for loss_fn, words in [
        (lambda m, b: m(b[0]), r"scalar tensor, got shape \(8, 3\): take the mean"),
        (lambda m, b: m(b[0]).mean().item(), "scalar tensor, got float"),
        (lambda m, b: None, "scalar tensor, got NoneType"),
        (lambda m, b: b[0].mean(), "depends on no trainable parameter"),
        (lambda m, b: m(b[0]).mean().detach(), "depends on no trainable parameter"),
    ]:
        with pytest.raises(InputError, match=words):
            sgd_step(model, batch, loss_fn, 0.1)
    with pytest.raises(InputError, match="depends on no trainable parameter"):
        sgd_step(copy.deepcopy(model).requires_grad_(False), batch, OBJECTIVE, 0.1)
    with torch.inference_mode(), pytest.raises(InputError, match="inference_mode"):
        sgd_step(model, batch, OBJECTIVE, 0.1)
    assert verification_error(snapshot(model), before) == 0


def test_data_that_are_no_tensors_are_named(problem):
    model, inputs, labels, order = problem
    for data, words in [
        ((inputs.tolist(), labels), "`inputs` must be a tensor"),
        ((inputs, labels.tolist()), "`labels` must be a tensor"),
        ((inputs, labels[:-1]), "one label for each of the 40 inputs, got 39"),
    ]:
        with pytest.raises(InputError, match=words):
            train(model, *data, order, OBJECTIVE, learning_rate=0.1)


# Divergence


def test_a_rate_that_the_weights_cannot_hold_is_refused():
    """PyTorch's own word for it is about a conversion."""
    model, batch = nn.Linear(4, 2), (torch.ones(3, 4), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(InputError, match=r"learning_rate must be at most 3.40282e\+38, got 1e\+200"):
        sgd_step(model, batch, OBJECTIVE, 1e200)


@pytest.mark.parametrize("weight", [float("inf"), float("nan"), 1e200])
@pytest.mark.parametrize("name", ["M", "M'"])
def test_weights_whose_norm_is_not_finite_are_noticed_in_either_model(name, weight):
    inputs, labels = torch.zeros(8, 4, dtype=torch.float64), torch.zeros(8, dtype=torch.int64)
    order = make_batch_order(8, 2, 1, make_generator(0))

    class ByModel(Stepper):
        def take(self, model, batch, loss_fn, learning_rate, step):
            if (model is retrained) == (name == "M'"):
                with torch.no_grad():
                    model.weight[0] = weight

    model = LinearLoss()
    retrained = copy_for_retraining(model)
    with pytest.raises(
        DivergedError, match=f"weights of {name} are not finite, or too large to be measured, after"
    ):
        train(
            model,
            inputs,
            labels,
            order,
            linear_objective,
            learning_rate=0.1,
            retrained=retrained,
            forget=order[0],
            stepper=ByModel(),
        )


@pytest.mark.parametrize(("first", "taken"), [(0, 4), (3, 4), (4, 8), (9, 12)])
def test_divergence_is_noticed_at_the_end_of_its_epoch(first, taken):
    """Ten epochs of four steps: NaN from some step on ends training with that epoch."""
    inputs, labels = torch.zeros(8, 4, dtype=torch.float64), torch.zeros(8, dtype=torch.int64)
    order, steps = make_batch_order(8, 2, 10, make_generator(0), reshuffle=True), []

    class Watched(Stepper):
        def take(self, model, batch, loss_fn, learning_rate, step):
            steps.append(step)
            if step == first:
                with torch.no_grad():
                    model.weight[0] = float("nan")

    with pytest.raises(DivergedError, match=f"after {taken} steps; try a learning_rate below 0.1"):
        train(LinearLoss(), inputs, labels, order, linear_objective, learning_rate=0.1, stepper=Watched())
    assert len(steps) == taken


# One example under batch norm


def flat_norm():
    return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()


def test_one_example_left_over_under_batch_norm_is_refused_before_the_first_step(problem):
    _, inputs, labels, _ = problem
    model, order = flat_norm(), make_batch_order(33, 8, 2, make_generator(0))
    before = copy.deepcopy(model)
    with pytest.raises(InputError, match=r"step 4 trains M on one example.*Choose a batch size"):
        train(model, inputs, labels, order, OBJECTIVE, learning_rate=0.1)
    order = make_batch_order(32, 8, 2, make_generator(0))
    with pytest.raises(InputError, match=r"step 2 trains M' on one example.*forget other examples"):
        train(
            model,
            inputs,
            labels,
            order,
            OBJECTIVE,
            learning_rate=0.1,
            retrained=copy_for_retraining(model),
            forget=order[2][:7],
        )
    assert_same_state(model, before, rtol=0, atol=0)


def test_one_image_of_many_pixels_has_statistics():
    model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(27, 2)).double()
    inputs = torch.randn(5, 1, 4, 4, dtype=torch.float64, generator=make_generator(0))
    labels, reference = torch.tensor([0, 1, 0, 1, 0]), copy.deepcopy(model)
    order = make_batch_order(5, 4, 2, make_generator(1))
    train(model, inputs, labels, order, OBJECTIVE, learning_rate=0.1)
    assert_same_state(model, optimise(reference, inputs, labels, order), rtol=1e-12, atol=1e-12)


def test_accuracy_of_nothing_is_refused(problem):
    model, inputs, labels, _ = problem
    for data, words in [
        ((inputs[:0], labels[:0]), "at least one example"),
        ((inputs, labels[:3]), r"labels of shape \(3,\)"),
        ((inputs, labels[:, None]), r"labels of shape \(40, 1\)"),
        ((inputs.tolist(), labels), "`inputs` must be a tensor"),
    ]:
        with pytest.raises(InputError, match=words):
            accuracy(model, *data)
