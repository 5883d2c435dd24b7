"""Sigma of every batch against whole Hessians; how many samples of it a mean needs."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

import unrolling
from unrolling._checks import InputError
from unrolling.oracles import dense_hessian
from unrolling.studies.unlearning_error.one_epoch import one_epoch
from unrolling.studies.unlearning_error.spread import (
    error_of_mean,
    samples_needed,
    sigma_after_epochs,
    sigma_of_batches,
    spread,
)


@pytest.fixture(scope="module")
def epoch():
    return one_epoch("digits", train_size=96, batch_size=16, seed=1)


@pytest.fixture
def narrow(monkeypatch, epoch):
    """Networks so small that their Hessian can be written out."""
    whole = type(epoch).network
    monkeypatch.setattr(type(epoch), "network", lambda self, name: whole(self, name, width=2))


def test_sigma_and_loss_are_those_of_each_batch(epoch):
    network = epoch.network("mlp-tanh", width=2)
    found, w = sigma_of_batches(network, epoch), unrolling.snapshot(network)
    assert len(found) == 6
    for step, sigma, value in zip(epoch.order, found["sigma"], found["loss"], strict=True):
        images, labels = epoch.batch(step)
        loss = unrolling.batch_loss(network, epoch.loss_fn, (images, labels))
        assert sigma == pytest.approx(float(torch.linalg.matrix_norm(dense_hessian(loss, w), 2)), rel=0.1)
        assert value == pytest.approx(torch.nn.functional.cross_entropy(network(images), labels).item())


def test_epochs_are_counted_from_the_initial_weights(epoch, narrow):
    found = sigma_after_epochs("mlp", epoch, epochs=(1, 3), learning_rate=0.2)
    assert found.groupby("epochs").size().to_dict() == {1: 6, 3: 6}
    network = epoch.network("mlp")
    for _ in range(3):
        for step in epoch.order:
            unrolling.sgd_step(network, epoch.batch(step), epoch.loss_fn, 0.2)
    expected = sigma_of_batches(network, epoch)["sigma"].to_numpy()
    assert found.loc[found["epochs"] == 3, "sigma"].to_numpy() == pytest.approx(expected, rel=1e-6)
    assert found.loc[found["epochs"] == 1, "sigma"].to_numpy() != pytest.approx(expected, rel=1e-2)


SAMPLES = pd.DataFrame(
    {
        "network": ["a"] * 4 + ["b"] * 2,
        "epochs": [1] * 4 + [5] * 2,
        "sigma": [1.0, 2.0, 3.0, 6.0, 1.0, 3.0],
        "loss": [1.0, 3.0, 2.0, 4.0, 2.0, 1.0],
    }
)


def test_the_spread_of_known_values():
    first, second = spread(SAMPLES).to_dict("records")
    assert (first["least"], first["median"], first["most"]) == (1, 2.5, 6)
    assert first["deviation"] == pytest.approx(np.sqrt(3.5) / 3)  # mean 3, squares 4, 1, 0 and 9
    assert first["needed"] == 39  # 350 / 9
    assert first["with_loss"] == pytest.approx(0.8)  # one pair of ranks is the wrong way round
    assert second["with_loss"] == pytest.approx(-1)
    assert second["needed"] == 25


def test_drawing_follows_the_rule():
    found = error_of_mean(SAMPLES, [1, 4, 16], seed=0)
    assert found["samples"].tolist() == [1, 4, 16] * 2
    assert found["rule"].to_numpy()[3:] == pytest.approx([0.5, 0.25, 0.125])
    # a root mean square of 2,000 draws has a standard error of 3 % where draws take two values or more
    assert found["error"].to_numpy() == pytest.approx(found["rule"].to_numpy(), rel=0.1)


def test_samples_needed_is_the_least_number_that_suffices():
    """By enumeration of all draws, with replacement, from a small pool."""
    pool = np.array([1.0, 1.0, 2.0, 6.0])

    def error(k):
        means = np.array([np.mean(draw) for draw in itertools.product(pool, repeat=k)])
        return np.sqrt(np.mean((means / pool.mean() - 1) ** 2))

    k = samples_needed(pool, 0.4)
    assert error(k) <= 0.4 < error(k - 1)


def test_equal_values_need_one_sample():
    assert samples_needed([2.0, 2.0, 2.0], 0.01) == 1


@pytest.mark.parametrize("pool", [[], [1.0, float("nan")], [1.0, 0.0], [[1.0]]])
def test_a_pool_that_is_none_is_refused(pool):
    with pytest.raises(InputError, match="`pool` must be positive numbers"):
        samples_needed(pool, 0.1)
