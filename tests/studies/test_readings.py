"""e under several readings of sigma against a loop written out, with whole Hessians."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import unrolling
from unrolling._checks import InputError
from unrolling.oracles import dense_hessian
from unrolling.parameters import distance
from unrolling.studies.unlearning_error.one_epoch import one_epoch
from unrolling.studies.unlearning_error.readings import errors_by_reading, relative_errors, sigma_at_start

ETA, EVERY = 0.3, 2


@pytest.fixture(scope="module")
def epoch():
    return one_epoch("digits", train_size=96, batch_size=16, seed=3)


def norm_of_hessian(network, epoch, batch, w, *, training=False):
    loss = unrolling.batch_loss(network, epoch.loss_fn, batch, training=training)
    return float(torch.linalg.matrix_norm(dense_hessian(loss, w), 2))


def by_hand(network, epoch):
    """Return e after every second step, under each reading, by whole Hessians and a plain loop."""
    w_0, batches = unrolling.snapshot(network), [epoch.batch(step) for step in epoch.order]
    fixed, taken, rows = epoch.batch(tuple(range(40))), {}, []
    for t, batch in enumerate(batches):
        w = unrolling.snapshot(network)
        if t % EVERY == 0:
            taken.setdefault("this page", []).append(norm_of_hessian(network, epoch, batch, w))
            taken.setdefault("at w_0", []).append(norm_of_hessian(network, epoch, batch, w_0))
            taken.setdefault("fixed images", []).append(norm_of_hessian(network, epoch, fixed, w))
            taken["root of it"] = np.sqrt(taken["this page"])
        unrolling.sgd_step(network, batch, epoch.loss_fn, ETA)
        if (done := t + 1) % EVERY == 0:
            moved = distance(unrolling.snapshot(network), w_0)
            rows.append(
                {"step": done}
                | {
                    name: ETA**2 * moved / done * np.mean(sigma) * (done**2 - done) / 2
                    for name, sigma in taken.items()
                }
            )
    return pd.DataFrame(rows).set_index("step")


def test_each_reading_is_e_with_its_own_sigma(epoch):
    """Samples of sigma have a tolerance of 5 %, which they keep with room to spare."""
    readings = {
        "this page": {"every": EVERY},
        "fixed images": {"every": EVERY, "hessian_batch": epoch.batch(tuple(range(40)))},
    }
    network = epoch.network("mlp-tanh", width=2)
    found = errors_by_reading(network, epoch, readings, learning_rate=ETA, every=EVERY)
    expected = by_hand(epoch.network("mlp-tanh", width=2), epoch)
    assert found.index.tolist() == [2, 4, 6]
    for name in expected:
        assert found[name].to_numpy() == pytest.approx(expected[name].to_numpy(), rel=0.02), name
    assert (expected["fixed images"] / expected["this page"] - 1).abs().max() > 0.05
    assert (expected["at w_0"] / expected["this page"] - 1).abs().max() > 0.05


def test_sigma_at_the_start_is_of_both_modes_and_leaves_the_network_alone(epoch):
    with unrolling.seeded(0, "weights"):
        layers = nn.Flatten(), nn.Linear(64, 2), nn.BatchNorm1d(2), nn.Tanh(), nn.Linear(2, 10)
    network = nn.Sequential(*layers).double()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found, w = sigma_at_start(network, epoch, every=5), unrolling.snapshot(network)
    for name, training in (("at w_0", False), ("at w_0, training mode", True)):
        expected = [
            norm_of_hessian(network, epoch, epoch.batch(epoch.order[step]), w, training=training)
            for step in (0, 5)
        ]
        assert found[name] == pytest.approx(expected, rel=0.05)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert found["at w_0, training mode"] != pytest.approx(found["at w_0"], rel=0.1)


def test_readings_are_compared_with_this_pages():
    errors = pd.DataFrame({"this page": [1.0, 2.0, 4.0], "other": [3.0, 2.0, 10.0]}, index=[1, 2, 3])
    found = relative_errors(errors)
    assert found.index.tolist() == ["other"]
    assert found.loc["other"].to_dict() == {"end": 2.5, "low": 1.0, "high": 3.0}


def test_an_epoch_has_the_same_images_for_every_seed_and_other_batches(epoch):
    other = one_epoch("digits", train_size=96, batch_size=16, seed=4)
    assert torch.equal(epoch.inputs, other.inputs)
    assert epoch.order.steps != other.order.steps
    assert sorted(i for step in epoch.order for i in step) == list(range(96))
    images, labels = epoch.batch((3, 1))
    assert torch.equal(images, epoch.inputs[[3, 1]])
    assert torch.equal(labels, epoch.labels[[3, 1]])
    first, again, fresh = (e.network("mlp", width=4) for e in (epoch, epoch, other))
    assert torch.equal(first[1].weight, again[1].weight)
    assert not torch.equal(first[1].weight, fresh[1].weight)


def test_an_epoch_of_one_step_is_refused():
    with pytest.raises(InputError, match=r"2 steps at least, .* take a batch_size below 32, got 32"):
        one_epoch("digits", train_size=32, batch_size=32)
