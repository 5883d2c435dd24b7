"""What the GPU benchmark times computes the same as the eager loop, and its short form says where not."""

import json
import os
import threading
from functools import partial

import pytest
import torch
from graphs_on_the_cpu import rehearse

from benchmarks import gpu, gpu_short
from benchmarks.apart import Apart, FailedError
from benchmarks.gpu import Scale, Way, distance, largest_difference, training, trainings
from benchmarks.gpu_short import FULL, REHEARSAL, Part, ask, fastest, parts
from benchmarks.vmapped import Ensemble
from unrolling import Objective, build_model, seeded, sgd_step, train
from unrolling.runs.cuda_graph import GraphStepper
from unrolling.training import Stepper

CPU = torch.device("cpu")
TINY = Scale(2, 4)


@pytest.mark.parametrize("name", ["resnet-small", "vgg-small", "mlp"])
def test_models_trained_as_one_are_those_trained_one_by_one(name):
    gammas = [0.0, 0.5, 2.0]
    with seeded(0, "ensemble"):
        models = [build_model(name, 10, input_shape=(1, 8, 8)).double() for _ in gammas]
        inputs, labels = torch.randn(4, 3, 6, 1, 8, 8).double(), torch.randint(10, (4, 3, 6))
    together = Ensemble(models, gammas)
    for step in range(4):
        together.step(inputs[step], labels[step], 0.1)
        for number, (model, gamma) in enumerate(zip(models, gammas, strict=True)):
            model.train()
            sgd_step(model, (inputs[step][number], labels[step][number]), Objective("sd", gamma), 0.1)
    for number, model in enumerate(models):
        for key, value in model.state_dict().items():
            own = (together.params | together.buffers)[key][number]
            torch.testing.assert_close(own, value, rtol=1e-9, atol=1e-11)


def test_the_short_form_is_rehearsed_on_the_cpu(tmp_path, capsys):
    assert gpu.main(["--short", "--device", "cpu", "--results", str(tmp_path)]) == 0
    (path,) = tmp_path.iterdir()
    assert path.name == "gpu_short_rehearsal.json"
    stored = json.loads(path.read_text())
    names = [part.name for part in parts(CPU, REHEARSAL)]
    assert [key for key in stored if key in names] == names
    rows = {name: stored[name] for name in names}
    assert all(row["note"] == "needs CUDA" for row in rows["1 graphs"])
    assert [row["holds"] for row in rows["2 cpu"] + rows["3 sigma"]] == [True] * 6
    speeds = [row["steps per second"] for row in rows["4 speed"] if "steps per second" in row]
    assert len(speeds) == 2
    assert min(speeds) > 0
    printed = capsys.readouterr().out
    assert all(part.criterion in printed for part in parts(CPU, REHEARSAL))
    assert "All that was compared is right." in printed


def test_the_long_form_is_not_rehearsed():
    with pytest.raises(SystemExit, match="the long form needs a CUDA device"):
        gpu.main(["--device", "cpu"])


def test_all_parts_together_take_less_than_two_minutes():
    assert sum(part.seconds for part in parts(CPU, FULL)) <= 110


class Forgetful(Stepper):
    """Leaves the last step out."""

    def take(self, model, batch, loss_fn, learning_rate, step):
        if step == 0:
            super().take(model, batch, loss_fn, learning_rate, step)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", gpu.MODELS)
def test_a_step_left_out_is_seen_in_either_type(name, dtype, monkeypatch):
    for stepper, holds in ((Stepper, True), (Forgetful, False)):
        reference = training(name, Way(), CPU, 2, scale=TINY, dtype=torch.float64)
        rounded = training(name, Way(), CPU, 2, scale=TINY)
        monkeypatch.setitem(gpu.STEPPERS, "eager", stepper)
        own = training(name, Way(), CPU, 2, scale=TINY, dtype=dtype)
        found = gpu_short.judged(own, 2, 1e-9, reference, rounded)
        monkeypatch.undo()
        assert found["holds"] is holds


def test_differences_are_relative_to_a_tensor_and_distances_are_not():
    first, second = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    for layer, weight, bias in ((first, [3.0, 10.0], 2.0), (second, [0.0, 10.0], 6.0)):
        layer.load_state_dict({"weight": torch.tensor([weight]), "bias": torch.tensor([bias])})
    assert largest_difference(first, second) == pytest.approx(4 / 6)
    assert distance(first, second) == pytest.approx(5)


class Rehearsed(GraphStepper):
    def take(self, model, batch, loss_fn, learning_rate, step):
        self._replay(model, batch, loss_fn, learning_rate)


def test_trainings_at_once_by_streams_are_those_one_by_one(monkeypatch):
    rehearse(monkeypatch)
    monkeypatch.setitem(gpu.STEPPERS, "graph", Rehearsed)
    both, alone = (
        trainings("resnet18", Way(kind), CPU, 2, 2, scale=TINY, dtype=torch.float64)
        for kind in ("graph", "eager")
    )
    gpu.take_by_streams(both, 2)
    for own, other in zip(alone, both, strict=True):
        inputs, labels = own.data
        order = gpu.order_of(2, TINY.batch_size)
        train(own.model, inputs, labels, order, own.objective, learning_rate=gpu.LEARNING_RATE)
        assert largest_difference(other.model, own.model) < 1e-12
    assert largest_difference(both[0].model, both[1].model) > 1e-3


def fails():
    raise ValueError("no\nsuch thing")


def one_part(*tasks, seconds=1000.0):
    return Part("1", "?", "Why.", seconds, lambda answers: iter(tasks))


def test_a_part_that_fails_is_said_in_words_and_the_others_go_on():
    kept = []
    every = [one_part(("bad", fails), ("gone", partial(os._exit, 3)), ("good", partial(dict, holds=True)))]
    with Apart() as other:
        (rows,) = ask(every, other.run, lambda answers: kept.append(len(answers["1"]))).values()
    assert [row["holds"] for row in rows] == [False, False, True]
    assert rows[0]["note"] == "failed: ValueError: no such thing"
    assert rows[1]["note"] == "failed: its process ended with exit code 3"
    assert kept == [1, 2, 3]


def test_what_hangs_is_ended():
    with Apart() as other, pytest.raises(FailedError, match="not done after 0 s, and ended"):
        other.run(partial(threading.Event.wait, _Never()), 0.1)
    assert other._process is None


class _Never:
    """Stands for an event that never comes, in any process."""

    def __reduce__(self):
        return threading.Event, ()


def test_a_part_whose_time_is_over_leaves_its_rest_out_and_the_next_one_begins():
    now = [0.0]

    def run(task, seconds):
        now[0] += task()
        return {"seconds": seconds}

    every = [
        one_part(("first", lambda: 7.0), ("second", lambda: 5.0), ("third", lambda: 1.0), seconds=10.0),
        one_part(("next", lambda: 0.0), seconds=4.0)._replace(name="2"),
    ]
    answers = ask(every, run, lambda answers: None, clock=lambda: now[0])
    assert [row.get("seconds") for row in answers["1"]] == [10, 3, None]
    assert answers["1"][2]["note"] == "left out: the 10 s of this part are over"
    assert answers["2"][0]["seconds"] == 2


def test_what_was_not_shown_to_be_right_ends_with_1(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu_short, "parts", lambda device, sizes: [one_part(("wrong", fails))])
    assert gpu_short.answer(CPU, tmp_path, os.getloadavg()) == 1
    assert "Not shown to be right: wrong." in capsys.readouterr().out


def test_a_cut_leaves_what_was_found(monkeypatch, tmp_path):
    class Cut(Apart):
        def run(self, task, seconds):
            return task()

    def cut():
        raise KeyboardInterrupt

    every = [one_part(("found", partial(dict, holds=True)), ("cut", cut))]
    monkeypatch.setattr(gpu_short, "parts", lambda device, sizes: every)
    monkeypatch.setattr(gpu_short, "Apart", Cut)
    with pytest.raises(KeyboardInterrupt):
        gpu_short.answer(CPU, tmp_path, os.getloadavg())
    (path,) = tmp_path.iterdir()
    assert path.name == "gpu_short_rehearsal.unfinished.json"
    assert json.loads(path.read_text())["1"] == [{"what": "found", "holds": True}]


def test_the_fastest_way_is_one_that_was_found_right():
    graph, rounded = Way("graph"), Way("graph", "tf32")
    speeds = [
        {"what": str(way), "steps per second": speed}
        for way, speed in ((Way(), 1.0), (graph, 2.0), (rounded, 3.0))
    ]
    known = {
        "double": {"what": "resnet18, float64: graph, ieee", "holds": True},
        "single": {"what": "resnet18, float32: graph, ieee", "holds": True},
        "tf32": {"what": "resnet18, float32: graph, tf32", "holds": True},
    }

    def chosen(**changes):
        rows = [row | {"holds": changes.get(key, True)} for key, row in known.items()]
        return fastest({"1 graphs": rows, "4 speed": speeds})

    assert chosen() == rounded
    assert chosen(tf32=False) == graph
    assert chosen(double=None) == Way()
    assert fastest({"1 graphs": [], "4 speed": speeds}) == Way()


def test_batches_of_a_benchmark_share_no_example():
    """Training looks at its weights whenever an example comes again, and that waits for the GPU."""
    order = gpu.order_of(6, 4)
    assert len(order) == 6
    assert len({example for batch in order for example in batch}) == 24
