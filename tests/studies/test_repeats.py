"""Trainings from the same w_0 on the same batches: what repeats exactly, and what is a change."""

import os
from dataclasses import replace

import pytest
import torch

from unrolling.batches import BatchOrder
from unrolling.parameters import distance
from unrolling.runs import RunConfig
from unrolling.runs.inputs import load_data
from unrolling.runs.protocol import make_protocol
from unrolling.studies.amnesiac import repeats

CONFIG = RunConfig(dataset="digits", train_size=64, test_size=20, model="mlp", batch_size=16)
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@pytest.fixture(scope="module")
def dataset():
    return load_data(CONFIG)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_on_one_machine_a_training_repeats_exactly(dataset, dtype):
    assert repeats.spread(replace(CONFIG, dtype=dtype), dataset) == 0


@pytest.mark.parametrize("measure", [repeats.spread, repeats.spread_over_threads])
def test_the_spread_is_a_distance_relative_to_the_way(dataset, monkeypatch, measure):
    """The second training is one step short."""
    lengths = iter([8, 7, 8, 7])

    def protocol(*which):
        whole = make_protocol(*which)
        return replace(whole, order=BatchOrder((whole.order.steps * 2)[: next(lengths)]))

    monkeypatch.setattr("unrolling.runs.setup.make_protocol", protocol)
    (start, end), (_, before) = (repeats.end_weights(CONFIG, dataset) for _ in range(2))
    expected = distance(end, before) / distance(end, start)
    assert 0 < expected < 1
    assert measure(CONFIG, dataset) == pytest.approx(expected)


def test_weights_are_compared_in_double_precision(dataset):
    weights = repeats.end_weights(replace(CONFIG, dtype="float32"), dataset)
    assert {p.dtype for w in weights for p in w.values()} == {torch.float64}


def test_the_number_of_threads_comes_back():
    before = torch.get_num_threads()
    with repeats.threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_threads_make_no_more_than_a_rounding_error(dataset):
    assert repeats.spread_over_threads(CONFIG, dataset) < 1e-9


@pytest.mark.parametrize("own", [None, ":16:8"])
@pytest.mark.parametrize("wanted", [True, False])
def test_the_choice_of_kernels_and_what_it_asked_for_come_back(monkeypatch, wanted, own):
    if own is None:
        monkeypatch.delenv(WORKSPACE, raising=False)
    else:
        monkeypatch.setenv(WORKSPACE, own)
    before = torch.are_deterministic_algorithms_enabled()
    with repeats.deterministic_kernels(wanted):
        assert torch.are_deterministic_algorithms_enabled() == wanted
        assert os.environ[WORKSPACE] == (own or ":4096:8")
    assert torch.are_deterministic_algorithms_enabled() == before
    assert os.environ.get(WORKSPACE) == own
