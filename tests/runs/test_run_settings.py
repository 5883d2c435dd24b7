"""Settings of a run that came with long ones: two batch sizes, the noise floor of v, the layout of images."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from unrolling import make_batch_order, make_generator, seeded
from unrolling._checks import InputError
from unrolling.runs import RunConfig
from unrolling.runs import trainer as run_module
from unrolling.runs.execute import execute
from unrolling.runs.inputs import load_data
from unrolling.runs.setup import initial_model
from unrolling.store import make_address
from unrolling.training import Stepper

MLP = RunConfig(
    dataset="digits",
    train_size=96,
    test_size=50,
    model="mlp-tanh",
    gamma=0.5,
    pretrain_epochs=2,
    epochs=2,
    batch_size=16,
    sigma_every=4,
    record_every=3,
)
IMAGES = replace(MLP, model="resnet-small", width=4)


def test_defaults_keep_their_addresses():
    settings = MLP.to_dict()
    assert not settings.keys() & {"pretrain_batch_size", "counterpart", "memory_format"}
    changed = [
        replace(MLP, pretrain_batch_size=16),
        replace(MLP, counterpart="reordered"),
        replace(MLP, memory_format="channels_last"),
    ]
    assert len({make_address(c.to_dict(), "data") for c in (MLP, *changed)}) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"counterpart": "other"}, "unknown counterpart 'other'"),
        ({"memory_format": "channels_first"}, "unknown memory format 'channels_first'"),
        ({"counterpart": "reordered", "pretraining": "retrained"}, "must be 'shared', got 'retrained'"),
        ({"pretrain_batch_size": -1}, "pretrain_batch_size must be"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        replace(MLP, **changes)


# Two batch sizes


@pytest.mark.parametrize("size", [0, 16, 48, 7])
def test_the_n_epochs_have_a_batch_size_of_their_own(size):
    """Against a loop by hand, from the same weights, over batches drawn by hand."""
    config = replace(MLP, pretrain_batch_size=size)
    data = load_data(config)
    result = execute(config, data)
    assert result["pretrain_steps"] == 2 * math.ceil(96 / (size or 16))
    assert result["steps"] == 2 * 96 / 16

    model = initial_model(config, data)
    inputs, labels = data.train_inputs.double(), data.train_labels
    streams = (("pretraining order", size or 16, True), ("batch order", 16, False))
    for stream, batch_size, anew in streams:
        generator = make_generator(config.seed, stream)
        for batch in make_batch_order(96, batch_size, 2, generator, reshuffle=anew):
            logits = model(inputs[list(batch)])
            spread = logits.std(dim=1, correction=0).mean()
            loss = torch.nn.functional.cross_entropy(logits, labels[list(batch)]) + 0.5 * spread
            grads = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for weight, grad in zip(model.parameters(), grads, strict=True):
                    weight -= 0.1 * grad
    norm = math.sqrt(sum(float(p.detach().square().sum()) for p in model.parameters()))
    assert result["trace"]["weight_norm"][-1] == pytest.approx(norm, rel=1e-10)


def test_a_schedule_follows_the_epochs_of_its_own_batch_size(monkeypatch):
    seen = []

    class Watched(run_module.RecipeStepper):
        def __init__(self, recipe, **how):
            seen.append((how["num_epochs"], how["steps_per_epoch"]))
            super().__init__(recipe, **how)

    monkeypatch.setattr(run_module, "RecipeStepper", Watched)
    config = replace(MLP, pretrain_batch_size=48, recipe="cosine", epochs=1)
    execute(config, load_data(config))
    assert seen == [(2, 2), (1, 6)]


# The noise floor


@pytest.mark.parametrize("config", [MLP, IMAGES], ids=["mlp", "resnet"])
def test_a_reordered_counterpart_differs_by_rounding_alone(config):
    """It takes the same steps: in float64 it stays within rounding, in float32 within its own, far above."""
    floors = {}
    for dtype in ("float64", "float32"):
        own = replace(config, dtype=dtype, counterpart="reordered")
        trace = execute(own, load_data(own))["trace"]
        floors[dtype] = trace["v_nothing"][-1] / trace["weight_change"][-1]
        assert trace["accuracy"][-1] == pytest.approx(trace["accuracy_retrained"][-1], abs=0.05)
    assert 0 < floors["float64"] < 1e-10
    assert 1e-9 < floors["float32"] < 0.05
    plain = execute(config, load_data(config))["trace"]
    assert plain["v_nothing"][-1] / plain["weight_change"][-1] > 0.01


def test_m_itself_is_the_same_with_either_counterpart():
    other = replace(IMAGES, counterpart="reordered")
    first, second = (execute(config, load_data(config)) for config in (IMAGES, other))
    assert first["trace"]["e"] == second["trace"]["e"]
    assert first["sigma"] == second["sigma"]
    assert first["trace"]["accuracy"] == second["trace"]["accuracy"]


# The layout of images


def test_channels_last_is_the_same_computation_in_another_layout(monkeypatch):
    layouts = set()

    class Watched(Stepper):
        def take(self, model, batch, loss_fn, learning_rate, step):
            last = torch.channels_last
            weight = next(p for p in model.parameters() if p.ndim == 4 and p.shape[1] > 1)
            layouts.add((weight.is_contiguous(memory_format=last), weight.is_contiguous()))
            super().take(model, batch, loss_fn, learning_rate, step)

    monkeypatch.setattr(run_module, "Stepper", Watched)
    results = {}
    for name in ("contiguous", "channels_last"):
        config = replace(IMAGES, memory_format=name)
        results[name] = execute(config, load_data(config))
    assert layouts == {(False, True), (True, False)}
    first, second = (results[name]["trace"] for name in results)
    for quantity in ("e", "v", "v_nothing", "weight_change", "sigma_avg"):
        np.testing.assert_allclose(second[quantity], first[quantity], rtol=1e-6)


def test_seeded_weights_are_those_of_the_other_layout():
    config = replace(IMAGES, memory_format="channels_last")
    with seeded(0):  # whatever state the generators are in
        first, second = (initial_model(c, load_data(c)).state_dict() for c in (IMAGES, config))
    assert all(torch.equal(first[name], second[name]) for name in first)
