"""The benchmarks compute the right thing; how fast is never asserted."""

import copy
import json

import pytest
import torch
from torch import nn

from benchmarks import common, curvature, ingredients, peers, plain, stopping, training
from benchmarks.peers import Estimate
from benchmarks.workloads import Workload, loss_fn
from unrolling import UnlearningTracker, batch_loss, seeded, snapshot, train


@pytest.fixture
def tiny():
    with seeded(0, "tiny benchmark"):
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
        inputs, labels = torch.randn(64, 4), torch.randint(3, (64,))
    return Workload("tiny", model, inputs, labels)


def dense_norm(model, batch):
    params = snapshot(model)
    sizes = [p.numel() for p in params.values()]
    loss = batch_loss(model, loss_fn, batch)

    def of_vector(vector):
        parts = vector.split(sizes)
        return loss({name: part.view(p.shape) for (name, p), part in zip(params.items(), parts, strict=True)})

    flat = torch.cat([p.reshape(-1) for p in params.values()])
    return float(torch.linalg.matrix_norm(torch.autograd.functional.hessian(of_vector, flat), 2))


METHODS = {**curvature.OURS, **peers.installed(), "plain": peers.power_iteration}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_finds_the_norm_of_the_dense_hessian(tiny, name):
    found = METHODS[name](tiny.model, tiny.batch, 0)
    assert found.value == pytest.approx(dense_norm(tiny.model, tiny.batch), rel=2e-2)
    assert len(found.trace) == found.products > 1
    assert all(p.grad is None for p in tiny.model.parameters())


def test_converged_value_is_the_norm_of_the_dense_hessian(tiny):
    exact = dense_norm(tiny.model, tiny.batch)
    assert curvature.converged(tiny.model, tiny.batch) == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize(
    ("trace", "expected"),
    [([0.5, 0.9, 0.995, 1.0], 3), ([0.995, 0.9, 1.005], 3), ([1.0], 1), ([1.0, 1.0], 1), ([1.0, 0.9], None)],
)
def test_products_to_accuracy_are_those_after_which_the_estimate_stays(trace, expected):
    assert curvature.products_to_accuracy(Estimate(trace[-1], len(trace), tuple(trace)), 1.0) == expected


def test_plain_transcription_and_the_tracker_agree_on_e(tiny):
    steps, eta = tiny.order(6).steps, 0.1
    other = Workload("tiny", *_copy(tiny))
    found = plain.tracked_run(tiny.model, tiny.inputs, tiny.labels, steps, learning_rate=eta, every=2)
    tracker = UnlearningTracker(other.model, loss_fn, learning_rate=eta, every=2)
    order = other.order(6)
    train(other.model, other.inputs, other.labels, order, loss_fn, learning_rate=eta, observers=[tracker])
    assert len(found["errors"]) == 3
    assert found["errors"][-1] == pytest.approx(tracker.result().unlearning_error, rel=2e-2)


def test_bare_loop_and_ours_take_the_same_steps(tiny):
    model, inputs, labels = _copy(tiny)
    training.bare_loop(tiny.model, tiny, 4)
    training.ours(model, Workload("tiny", model, inputs, labels), 4)
    for first, second in zip(tiny.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(first, second)


def _copy(workload):
    return copy.deepcopy(workload.model), workload.inputs, workload.labels


def test_each_ingredient_does_the_same_work_as_what_it_replaces(tiny):
    kept, rebuilt, forward = (task() for task in ingredients.of_the_products(tiny).values())
    torch.testing.assert_close(kept, rebuilt)
    torch.testing.assert_close(kept, forward, rtol=1e-4, atol=1e-6)
    distances = ingredients.of_the_distance(tiny)
    with torch.no_grad():
        tiny.model[0].bias += 1
    by_tensors, by_lists = (task() for task in distances.values())
    assert by_tensors == pytest.approx(by_lists)
    assert by_tensors == pytest.approx(5**0.5)
    batches = [task() for task in ingredients.of_the_data(tiny).values()]
    for own, other in zip(*batches, strict=True):
        assert own[0].equal(other[0])
        assert own[1].equal(other[1])


def test_what_is_not_finished_is_not_written_as_a_result(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    common.write("some", {}, (0, 0, 0), finished=False)
    assert not (tmp_path / "some.json").exists()
    common.write("some", {}, (0, 0, 0))
    assert [path.name for path in tmp_path.iterdir()] == ["some.json"]


def test_wrong_stops_are_counted_beside_those_of_the_peer():
    own, theirs = (
        [{"error": error, "products": 4} for error in errors]
        for errors in ((0.0, -0.02, -0.3, 0.005), (0.02, 0.02, 0.0, 0.0))
    )
    found = stopping.summary(own, theirs)
    assert found == {
        "samples": 4,
        "wrong": 2,
        "wrong where PyHessian is": 1,
        "worst": 0.3,
        "products": 4,
    }
    assert stopping.summary(own, [])["wrong where PyHessian is"] is None


def test_ratios_are_taken_repeat_by_repeat():
    times = {"slow": {"cpu": [2, 9, 8], "wall": [2, 2, 2]}, "fast": {"cpu": [1, 3, 1], "wall": [1, 1, 1]}}
    assert common.ratio(times, "slow", "fast")["cpu"] == {"median": 3, "min": 2, "max": 8}


@pytest.mark.parametrize("path", sorted(common.RESULTS.glob("*.json")), ids=lambda path: path.name)
def test_stored_results_say_what_they_were_measured_on(path):
    stored = json.loads(path.read_text())
    assert stored["machine"]["versions"]["torch"]
    assert stored["machine"]["threads"] >= 1
    assert len(stored["load_average"]["before"]) == len(stored["load_average"]["after"]) == 3
