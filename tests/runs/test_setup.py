"""M of a run, trained again by itself, is the M that the run trained beside M'."""

from dataclasses import replace

import torch

from unrolling import Objective, snapshot
from unrolling.parameters import distance
from unrolling.runs import RunConfig
from unrolling.runs.execute import execute
from unrolling.runs.inputs import load_data
from unrolling.runs.setup import initial_model, set_up
from unrolling.trackers import accuracy

CONFIG = RunConfig(
    dataset="digits",
    train_size=96,
    test_size=50,
    model="vgg-small",
    width=2,
    gamma=1.0,
    batch_size=16,
    pretrain_epochs=1,
    epochs=2,
    sigma_every=5,
    record_every=0,
)
DATA = load_data(CONFIG)


def test_m_alone_is_m_of_the_run():
    trace, again = execute(CONFIG, DATA)["trace"], set_up(CONFIG)
    again.train(again.protocol.pretraining)
    w_0, tracker = snapshot(again.model), again.tracker()
    again.train(observers=[tracker])
    assert distance(snapshot(again.model), w_0) == trace["weight_change"][-1] > 0
    assert accuracy(again.model, *again.test_data) == trace["accuracy"][-1]
    assert tracker.result().unlearning_error == trace["e"][-1]
    assert tracker.result().sigma_steps == (0, 5, 10)


def test_it_starts_from_the_initial_weights_and_the_data_that_it_is_given():
    first = replace(DATA, train_inputs=DATA.train_inputs[:40], train_labels=DATA.train_labels[:40])
    again = set_up(replace(CONFIG, dtype="float32"), first)
    expected = initial_model(replace(CONFIG, dtype="float32"), DATA)
    assert all(
        torch.equal(p, q) for p, q in zip(again.model.parameters(), expected.parameters(), strict=True)
    )
    assert (again.inputs.dtype, len(again.inputs), len(again.labels)) == (torch.float32, 40, 40)
    assert len(again.protocol.order) == 2 * 3  # two epochs of 16, 16 and 8


def test_another_loss_takes_the_place_of_the_runs():
    plain = set_up(replace(CONFIG, loss="sd", gamma=0.0), DATA)
    other = set_up(CONFIG, DATA, loss_fn=Objective("sd", 0.0))
    for again in (plain, other):
        again.train()
    assert distance(snapshot(plain.model), snapshot(other.model)) == 0
    own = set_up(CONFIG, DATA)
    own.train()
    assert distance(snapshot(plain.model), snapshot(own.model)) > 0.01
