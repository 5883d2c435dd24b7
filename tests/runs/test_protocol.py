"""Every named protocol and released convention against loops written out by hand."""

import copy
import dataclasses

import pytest
import torch

from unrolling import Objective, snapshot, verification_error
from unrolling._checks import InputError
from unrolling.model_loss import gradient
from unrolling.runs import RunConfig
from unrolling.runs.execute import execute
from unrolling.runs.inputs import load_data
from unrolling.runs.protocol import make_protocol
from unrolling.runs.setup import initial_model
from unrolling.runs.unlearned import Unlearning, final_gradient, single_gradient

CONFIG = RunConfig(
    dataset="digits",
    train_size=96,
    test_size=50,
    model="resnet-small",
    width=2,
    gamma=1.0,
    batch_size=16,
    pretrain_epochs=2,
    epochs=2,
    sigma_every=6,
    record_every=0,
)
DATA = load_data(CONFIG)
INPUTS, LABELS = DATA.train_inputs.double(), DATA.train_labels


def protocol(num_examples=96, **changes):
    return make_protocol(dataclasses.replace(CONFIG, **changes), num_examples)


def run(**changes):
    return execute(dataclasses.replace(CONFIG, **changes), DATA)


def distance(first, second):
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return sum(float(((p - q).detach() ** 2).sum()) for p, q in pairs) ** 0.5


def by_hand(model, steps, *, training=lambda step: True, **options):
    """A copy of the model after these steps of PyTorch's own SGD."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, **options)
    for number, step in enumerate(steps):
        if step:
            model.train(training(number))
            optimizer.zero_grad()
            Objective("sd", 1.0)(model, (INPUTS[list(step)], LABELS[list(step)])).backward()
            optimizer.step()
    return model.eval()


def without(order, gone):
    return [tuple(i for i in step if i not in gone) for step in order]


def test_pretraining_is_shuffled_anew_and_the_unrolled_epochs_repeat():
    found = protocol(forget_batch=4)
    before, order = found.pretraining, found.order
    assert before.steps[:6] != before.steps[6:]
    assert order.steps[:6] == order.steps[6:]
    assert order.steps_of_batch(found.forget) == (4, 10)
    assert found.left_out == found.forget
    assert found.pretraining_retrained is None


def test_what_is_forgotten_can_be_several_batches_or_a_point():
    order = protocol().order
    assert protocol(forget_batch=2, forget_count=3).forget == order[2] + order[3] + order[4]
    assert protocol(forget_size=1).forget == order[0][:1]
    assert protocol(forget_size=16).forget == protocol().forget
    for changes in ({"forget_batch": 6}, {"forget_batch": 4, "forget_count": 3}, {"forget_count": 6}):
        with pytest.raises(InputError, match="some but not all of an epoch's 6 batches"):
            protocol(**changes)
    with pytest.raises(InputError, match="at most the 16 examples"):
        protocol(forget_size=17)


def test_the_forgotten_batch_can_be_absent_from_pretraining():
    shared, absent = protocol(), protocol(pretraining="without_forgotten")
    assert absent.order == shared.order
    assert absent.pretraining.steps == tuple(without(shared.pretraining, shared.forget))
    nothing = protocol(pretraining="without_forgotten", pretrain_epochs=0)
    assert len(nothing.pretraining) == 0
    start = by_hand(initial_model(CONFIG, DATA), absent.pretraining)
    expected = distance(by_hand(start, shared.order), by_hand(start, without(shared.order, shared.forget)))
    assert run(pretraining="without_forgotten")["trace"]["v_nothing"][-1] == pytest.approx(expected)


def test_the_retrained_model_can_start_from_scratch():
    found, model = protocol(pretraining="retrained"), initial_model(CONFIG, DATA)
    trained = by_hand(by_hand(model, found.pretraining), found.order)
    retrained = by_hand(
        by_hand(model, without(found.pretraining, found.forget)), without(found.order, found.forget)
    )
    trace = run(pretraining="retrained")["trace"]
    assert trace["v_nothing"][-1] == pytest.approx(distance(trained, retrained))
    predicted = retrained(DATA.test_inputs.double()).argmax(1)
    assert trace["accuracy_retrained"][-1] == (predicted == DATA.test_labels).double().mean().item()


@pytest.mark.parametrize(
    ("model", "changes"), [("mlp", {"forget_size": 3}), ("resnet-small", {"forget_size": 3})]
)
def test_a_point_leaves_its_batch_and_the_first_order_follows(model, changes):
    """M' trains on the rest of the batch, and unlearning adds back what that takes from the step."""
    config = dataclasses.replace(CONFIG, model=model, pretrain_epochs=1, **changes)
    found = make_protocol(config, 96)
    start = by_hand(initial_model(config, DATA), found.pretraining)
    trained, retrained = (
        by_hand(start, steps) for steps in (found.order, without(found.order, found.forget))
    )
    trace = execute(config, DATA)["trace"]
    assert trace["v_nothing"][-1] == pytest.approx(distance(trained, retrained))

    def gradient_on(examples):
        twin = copy.deepcopy(start).train()
        Objective("sd", 1.0)(twin, (INPUTS[examples], LABELS[examples])).backward()
        return [p.grad for p in twin.parameters()]

    whole, rest = gradient_on(list(found.order[0])), gradient_on(list(found.order[0][3:]))
    with torch.no_grad():
        for p, g, r in zip(trained.parameters(), whole, rest, strict=True):
            p += 0.1 * 2 * (g - r)
    assert trace["v"][-1] == pytest.approx(distance(trained, retrained))


def test_several_batches_are_each_added_back_as_often_as_they_were_trained_on():
    """At eta 1e-4 what is left after unlearning is of second order: a hundred times smaller at least."""
    trace = run(forget_batch=1, forget_count=2, learning_rate=1e-4, model="mlp-tanh")["trace"]
    assert trace["v"][-1] < 0.01 * trace["v_nothing"][-1]
    once = run(forget_batch=1, forget_count=2, learning_rate=1e-4, model="mlp-tanh", record_every=2)["trace"]
    assert once["step"][0] == 2  # of the two batches, only the first has been trained on
    assert once["v"][0] < 0.01 * once["v_nothing"][0]


def test_amnesiac_unlearning_undoes_the_applied_steps():
    found = protocol(forget_batch=2)
    start = by_hand(initial_model(CONFIG, DATA), found.pretraining)
    trained, undone, released = copy.deepcopy(start), [], []
    for step in found.order:
        before = [p.detach().clone() for p in trained.parameters()]
        trained = by_hand(trained, [step])
        if step == found.forget:
            undone.append([p.detach() - q for p, q in zip(trained.parameters(), before, strict=True)])
            after = copy.deepcopy(trained).train()
            Objective("sd", 1.0)(after, (INPUTS[list(step)], LABELS[list(step)])).backward()
            released.append([p.grad for p in after.parameters()])
    retrained = by_hand(start, without(found.order, found.forget))
    trace = run(forget_batch=2)["trace"]
    assert len(undone) == 2
    for column, updates, scale in (("v_amnesiac", undone, -1), ("v_amnesiac_released", released, 0.1)):
        unlearned = copy.deepcopy(trained)
        with torch.no_grad():
            for update in updates:
                for p, u in zip(unlearned.parameters(), update, strict=True):
                    p += scale * u
        assert trace[column][-1] == pytest.approx(distance(unlearned, retrained))
    assert trace["weight_norm"][-1] == pytest.approx(
        sum(float((p.detach() ** 2).sum()) for p in trained.parameters()) ** 0.5
    )


def test_amnesiac_and_single_gradient_agree_on_the_first_batch_of_one_epoch_only():
    one, two = run(epochs=1)["trace"], run(epochs=2)["trace"]
    assert one["v_amnesiac"][-1] == pytest.approx(one["v"][-1], rel=1e-9)
    assert two["v_amnesiac"][-1] != pytest.approx(two["v"][-1], rel=1e-3)


# Released conventions, one at a time


def test_fixed_order_takes_the_data_as_they_lie():
    order = protocol(released="fixed_order").order
    assert order[0] == tuple(range(16))
    assert order[5] == tuple(range(80, 96))
    assert order.steps[:6] == order.steps[6:]
    assert protocol(100, released="fixed_order").order[6] == (96, 97, 98, 99)


def test_wrong_batch_unlearns_one_and_leaves_out_another():
    found = protocol(released="wrong_batch")
    assert (found.forget, found.left_out) == (found.order[0], found.order[1])
    last = protocol(released="wrong_batch", forget_batch=5)
    assert (last.forget, last.left_out) == (last.order[5], last.order[0])
    # To first order what is left is the difference of two gradients, where it should be nothing.
    config = dataclasses.replace(CONFIG, model="mlp-tanh", learning_rate=1e-5, pretrain_epochs=0)
    gradients = []
    for examples in (found.forget, found.left_out):
        start = initial_model(config, DATA)
        Objective("sd", 1.0)(start, (INPUTS[list(examples)], LABELS[list(examples)])).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in start.parameters()]))
    expected = 2 * 1e-5 * float((gradients[0] - gradients[1]).norm())
    wrong = execute(dataclasses.replace(config, released="wrong_batch"), DATA)["trace"]["v"][-1]
    assert wrong == pytest.approx(expected, rel=1e-2)
    assert wrong > 100 * execute(config, DATA)["trace"]["v"][-1]


def test_momentum_is_that_of_torch_and_unlearning_can_know_of_it():
    found = protocol()
    start = by_hand(initial_model(CONFIG, DATA), found.pretraining)
    options = {"momentum": 0.9, "weight_decay": 5e-4}
    trained = by_hand(start, found.order, **options)
    # Where M' takes no step its velocity rests, as in the released code.
    retrained = by_hand(start, without(found.order, found.forget), **options)
    trace = run(released="momentum")["trace"]
    assert trace["v_nothing"][-1] == pytest.approx(distance(trained, retrained))
    small = run(released="momentum", learning_rate=1e-5, model="mlp-tanh", epochs=20)["trace"]
    assert small["v_momentum"][-1] < 0.1 * small["v"][-1]
    assert "v_momentum" not in run()["trace"]


def test_frozen_statistics_are_those_of_one_batch():
    found = protocol()
    start = by_hand(initial_model(CONFIG, DATA), found.pretraining)
    kept = without(found.order, found.forget)
    trained, retrained = (
        by_hand(start, steps, training=lambda step: step == 0) for steps in (found.order, kept)
    )
    trace = run(released="frozen_statistics")["trace"]
    assert trace["v_nothing"][-1] == pytest.approx(distance(trained, retrained))


def test_test_statistics_move_the_buffers_and_nothing_else():
    found = protocol()
    start = by_hand(initial_model(CONFIG, DATA), found.pretraining)
    start.train()
    for part in DATA.test_inputs.double().split(16):
        start(part)
    start.eval()
    predicted = start(DATA.test_inputs.double()).argmax(1)
    shifted, plain = run(released="test_statistics"), run()
    assert shifted["accuracy_pretrained"] == (predicted == DATA.test_labels).double().mean().item()
    assert shifted["trace"]["v"] == plain["trace"]["v"]  # batch statistics do not see the buffers
    assert shifted["sigma"]["eigenvalue"][0] != plain["sigma"]["eigenvalue"][0]


def test_sigma_can_be_sampled_on_fixed_examples():
    whole = run(sigma_batch=96, model="mlp", sigma_every=1, epochs=1)["sigma"]["eigenvalue"]
    batch = run(model="mlp", sigma_every=1, epochs=1)["sigma"]["eigenvalue"]
    assert torch.tensor(whole).std() < 0.5 * torch.tensor(batch).std()


def test_sigma_can_be_sampled_in_a_bounded_basis():
    settings = {"model": "mlp", "sigma_every": 1, "epochs": 1, "sigma_rtol": 1e-4, "sigma_max_hvps": 500}
    whole, bounded = run(**settings), run(sigma_basis=3, **settings)
    assert bounded["sigma"]["eigenvalue"] == pytest.approx(whole["sigma"]["eigenvalue"], rel=1e-6)
    assert bounded["sigma_hvps"] > whole["sigma_hvps"]
    assert bounded["trace"]["v"] == whole["trace"]["v"]
    with pytest.raises(InputError, match="sigma_basis must be 0 or at least 3, got 2"):
        dataclasses.replace(CONFIG, sigma_basis=2)


def test_nothing_is_unlearned_before_the_forgotten_examples_were_seen():
    """M'' is M until the first step on F, and what the formulas say from then on."""
    found = protocol(forget_batch=3)
    model = initial_model(CONFIG, DATA)
    unlearning = Unlearning(model, Objective("sd", 1.0), INPUTS, LABELS, found, learning_rate=0.1)
    ((part, count),) = unlearning.parts_seen(4)
    assert count == 1
    slope = gradient(part, snapshot(model))
    for done in range(3 + 1):
        for method in (single_gradient, final_gradient):
            assert verification_error(method(unlearning, done), snapshot(model)) == 0
    later = {name: p + 0.1 * slope[name] for name, p in snapshot(model).items()}
    for now in (single_gradient(unlearning, 4), final_gradient(unlearning, 4)):
        assert verification_error(now, later) < 1e-12
        assert verification_error(now, snapshot(model)) > 1e-3
