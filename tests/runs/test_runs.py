"""Runs as values: settings, profiles, exact resume, and numbers that do not depend on threads."""

import dataclasses
import json
import math
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch
from tiny_runs import TINY

from unrolling import build_model, load_dataset
from unrolling._checks import InputError, UnrollingError
from unrolling.runs import (
    PROFILES,
    RunConfig,
    config_from,
    final_frame,
    load_profile,
    notebook_parameters,
    obtain,
    published,
    published_store,
    setting_docs,
    trace_frame,
    unlearned,
)
from unrolling.runs import collect as collect_module
from unrolling.runs import trainer as run_module
from unrolling.runs.checkpoint import Checkpoint
from unrolling.runs.collect import by_config, choose_device
from unrolling.runs.execute import execute
from unrolling.runs.frames import after_epochs
from unrolling.runs.inputs import load_data
from unrolling.runs.limits import check_work, num_weights
from unrolling.runs.profiles import parse_profile
from unrolling.runs.protocol import make_protocol
from unrolling.store import Record, Store, make_address
from unrolling.studies.amnesiac.repeats import threads
from unrolling.studies.exhibits import EXHIBITS, find_exhibit
from unrolling.studies.printed import printed_rows
from unrolling.training import DivergedError, Stepper

FRAMES = (trace_frame, final_frame, after_epochs)


@pytest.fixture(scope="module")
def tiny():
    config = RunConfig(**TINY)
    return config, load_data(config)


def test_e_and_v_follow_from_what_the_run_recorded(tiny):
    config, dataset = tiny
    result = execute(config, dataset)
    trace, sigma = result["trace"], result["sigma"]
    assert trace["step"] == [3, 6, 9, 12]
    assert sigma["step"] == [0, 4, 8]
    for row, t in enumerate(trace["step"]):
        sampled = [
            abs(value) for step, value in zip(sigma["step"], sigma["eigenvalue"], strict=True) if step < t
        ]
        mean = sum(sampled) / len(sampled)
        assert trace["sigma_avg"][row] == pytest.approx(mean)
        expected = 0.1**2 * trace["weight_change"][row] / t * mean * (t**2 - t) / 2
        assert trace["e"][row] == pytest.approx(expected)
    assert result["steps"] == 12
    assert result["steps_per_epoch"] == result["pretrain_steps"] == 6
    assert result["num_parameters"] == sum(
        p.numel() for p in build_model("resnet-small", 10, input_shape=(1, 8, 8), width=2).parameters()
    )


def test_v_equals_a_retraining_written_out_by_hand(tiny):
    """The whole protocol again with torch.optim and loops, sharing only data, model and batch order."""
    config, dataset = tiny
    result = execute(config, dataset)
    protocol = make_protocol(config, len(dataset.train_labels))
    before, order, forget = protocol.pretraining, protocol.order, protocol.forget
    inputs, labels = dataset.train_inputs.double(), dataset.train_labels
    from unrolling.runs.setup import initial_model

    def loss_of(model, step):
        logits = model(inputs[list(step)])
        deviation = (logits - logits.mean(1, keepdim=True)).square().mean(1).sqrt()
        return torch.nn.functional.cross_entropy(logits, labels[list(step)]) + 1.0 * deviation.mean()

    def train_by_hand(steps, start=None):
        model = initial_model(config, dataset)
        if start is not None:
            model.load_state_dict(start)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model.train()
        for step in steps:
            optimizer.zero_grad()
            loss_of(model, step).backward()
            optimizer.step()
        return model

    pretrained = train_by_hand(before).state_dict()
    trained = train_by_hand(order, pretrained)
    retrained = train_by_hand([step for step in order if step != forget], pretrained)
    at_start = initial_model(config, dataset)
    at_start.load_state_dict(pretrained)
    at_start.train()
    loss_of(at_start, forget).backward()
    squares = nothing = 0.0
    for w, other, g in zip(trained.parameters(), retrained.parameters(), at_start.parameters(), strict=True):
        squares += (w + 2 * 0.1 * g.grad - other).square().sum().item()  # two epochs: the gradient twice
        nothing += (w - other).square().sum().item()
    assert result["trace"]["v"][-1] == pytest.approx(squares**0.5, rel=1e-9)
    assert result["trace"]["v_nothing"][-1] == pytest.approx(nothing**0.5, rel=1e-9)
    trained.eval()
    with torch.no_grad():
        predicted = trained(dataset.test_inputs.double()).argmax(1)
    assert result["trace"]["accuracy"][-1] == (predicted == dataset.test_labels).double().mean().item()


def test_gamma_changes_the_loss_only_and_equal_settings_give_equal_bits(tiny):
    config, dataset = tiny
    assert execute(config, dataset) == execute(config, dataset)
    released = replace(config, loss="sd_released", gamma=90**0.5)
    ours, theirs = execute(config, dataset)["trace"], execute(released, dataset)["trace"]
    assert theirs["e"] == pytest.approx(ours["e"], rel=1e-6)
    assert execute(replace(config, seed=1), dataset)["trace"]["e"] != ours["e"]


# It kills itself, so that the step does not depend on who is faster.
COMPUTE = """
import json, os, signal, sys, torch
from unrolling.runs import RunConfig
from unrolling.runs.inputs import load_data
from unrolling.runs.execute import execute
from unrolling.runs.checkpoint import Checkpoint
path, last, config = sys.argv[1], int(sys.argv[2]), RunConfig(**json.loads(sys.argv[3]))
def progress(done, total):
    print(done, flush=True)
    if done == last:
        os.kill(os.getpid(), signal.SIGKILL)
options = {"checkpoint": Checkpoint(path), "checkpoint_seconds": 0, "progress": progress}
print(json.dumps(execute(config, load_data(config), **options)))
"""


def command(path, last=0, **changes):
    return [sys.executable, "-c", COMPUTE, str(path), str(last), json.dumps(TINY | changes)]


def test_a_run_on_the_cpu_takes_one_thread_and_gives_the_others_back(tiny):
    config, dataset = tiny
    seen = []
    with threads(3):
        execute(config, dataset, progress=lambda done, total: seen.append(torch.get_num_threads()))
        assert torch.get_num_threads() == 3
    assert set(seen) == {1}


def test_the_bits_do_not_depend_on_the_number_of_threads(tmp_path):
    """At the width of the book: a narrower network is too small for its sums to be split over threads."""
    results = [
        subprocess.run(
            command(tmp_path / number, width=0),
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number},
        ).stdout
        for number in ("1", "2")
    ]
    assert results[0] == results[1]


OWN_PRETRAINING = {"pretraining": "retrained", "recipe": "full", "released": "momentum", "forget_size": 3}


@pytest.mark.parametrize(
    ("killed_after", "changes"),
    [
        (3, {}),  # in pre-training (6 steps)
        (11, {}),  # in the unrolled steps
        (9, OWN_PRETRAINING),  # in the pre-training of M', which follows that of M
        (20, OWN_PRETRAINING),
    ],
)
def test_a_run_killed_at_any_step_goes_on_to_the_same_bits(tmp_path, killed_after, changes):
    path = tmp_path / "run.pt"
    killed = subprocess.run(command(path, killed_after, **changes), capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = subprocess.run(command(path, **changes), capture_output=True, text=True, check=True)
    resumed = again.stdout.splitlines()
    assert int(resumed[0]) >= killed_after  # it did not start over
    config = RunConfig(**TINY | changes)
    assert json.loads(resumed[-1]) == execute(config, load_data(config))


def test_of_two_runs_with_equal_settings_the_later_one_counts(tiny):
    """As after a change of the encoder that they start from; an address says nothing about time."""
    config, _ = tiny
    old, new = (
        Record(
            config=config.to_dict(),
            data={"name": "digits", "description": "", "fingerprint": fingerprint},
            result={},
            provenance={"started": started},
        )
        for fingerprint, started in (("a", "2026-01-01T00:00:00+00:00"), ("b", "2026-02-01T00:00:00+00:00"))
    )
    assert by_config([old, new]) == by_config([new, old]) == {config: new}


def test_obtain_computes_once_and_answers_from_the_store(tiny, tmp_path, monkeypatch):
    _, dataset = tiny
    store = Store(tmp_path)
    configs = [RunConfig(**TINY | {"seed": seed}) for seed in (1, 0)]
    left_behind = tmp_path / "unfinished" / f"{make_address(configs[0].to_dict(), dataset.fingerprint)}.pt"
    left_behind.parent.mkdir()
    left_behind.write_bytes(b"cut off")
    computed = []
    with pytest.warns(UserWarning, match="the run starts over"):
        first = obtain(
            configs,
            store=store,
            begin=computed.append,
            report=lambda done, total, record: computed.append((done, total)),
        )
    assert computed == [configs, (1, 2), (2, 2)]
    monkeypatch.setattr(collect_module, "compute", lambda *args, **options: pytest.fail("computed again"))
    assert obtain(configs, store=store, begin=lambda missing: pytest.fail("begun again")) == first
    assert [record.config["seed"] for record in first] == [1, 0]
    assert not list(tmp_path.rglob("*.pt"))

    traces, last = trace_frame(first), final_frame(first)
    assert len(traces) == 8
    assert last["step"].tolist() == [12, 12]
    assert last["e"].tolist() == [record.result["trace"]["e"][-1] for record in first]


def test_of_two_runs_with_equal_settings_the_one_made_last_counts():
    """On other data they have other addresses, and a store gives them in the order of these."""
    config = RunConfig(**TINY)

    def run(started, data):
        return Record(config.to_dict(), {"fingerprint": data}, {}, {"started": started})

    old, new = run("2026-01-31T10:00:00+00:00", "a"), run("2026-02-01T09:00:00+00:00", "b")
    assert by_config([old, new]) == by_config([new, old]) == {config: new}
    other = Record(config.to_dict() | {"later_setting": 1}, {"fingerprint": "c"}, {}, {"started": "2027"})
    assert by_config([new, other]) == {config: new}


def test_obtain_finds_committed_results(tmp_path, monkeypatch):
    config = RunConfig(**TINY)
    committed = obtain([config], store=Store(tmp_path / "results" / "small"))
    monkeypatch.setattr(collect_module, "PROJECT", tmp_path)
    monkeypatch.setenv("UNROLLING_STORE", str(tmp_path / "runs"))
    monkeypatch.setattr(collect_module, "compute", lambda *args, **options: pytest.fail("computed again"))
    assert obtain([config]) == committed
    assert not (tmp_path / "runs").exists()


def test_processes_compute_the_same_runs(tmp_path):
    configs = [RunConfig(**TINY | {"seed": seed}) for seed in (0, 1)]
    alone = obtain(configs, store=Store(tmp_path / "alone"))
    together = obtain(configs, store=Store(tmp_path / "together"), jobs=2)
    assert [record.result for record in together] == [record.result for record in alone]


#: More steps than any test has time for.
ENDLESS = TINY | {"pretrain_epochs": 2_000}


def workers():
    """Return the processes that compute for this one."""
    return {
        process
        for process in psutil.Process().children(recursive=True)
        if any("spawn_main" in part for part in process.cmdline())
    }


def test_the_run_that_fails_is_named_at_once_and_ends_the_others(tmp_path):
    diverging = RunConfig(**TINY | {"learning_rate": 1e200, "seed": 3})  # with a less absurd one it may not
    waiting = [RunConfig(**ENDLESS | {"seed": seed}) for seed in range(4)]
    address = make_address(diverging.to_dict(), load_data(diverging).fingerprint)
    named = rf"^run {address} \(dataset=digits, .*learning_rate=1e\+200, .*seed=3.*\): .*diverged"
    for runs, jobs in (([waiting[0], diverging, *waiting[1:]], 2), ([diverging, waiting[0]], 1)):
        with pytest.raises(UnrollingError, match=named):
            obtain(runs, store=Store(tmp_path), jobs=jobs)
        assert not workers()


def test_an_error_that_is_nobodys_fault_names_its_run_too(monkeypatch, tmp_path):
    def broken(config, dataset, **options):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(collect_module, "execute", broken)
    with pytest.raises(RuntimeError, match="no such kernel") as error:
        obtain([RunConfig(**TINY)], store=Store(tmp_path))
    assert "dataset=digits" in error.value.__notes__[0]


@pytest.mark.parametrize("by", ["the caller", "a signal"])
def test_whatever_ends_the_computing_ends_all_workers(tmp_path, by):
    def report(done, total, record):
        assert workers()
        if by == "the caller":
            raise InterruptedError
        workers().pop().kill()

    runs = [RunConfig(**TINY), *(RunConfig(**ENDLESS | {"seed": seed}) for seed in range(3))]
    expected = InterruptedError if by == "the caller" else UnrollingError
    with pytest.raises(expected, match=None if by == "the caller" else "a process .* was killed") as error:
        obtain(runs, store=Store(tmp_path), jobs=2, report=report)
    assert error.traceback  # holds the frames, as a notebook does
    assert not workers()


# A process that a shell started in the background inherits that Ctrl-C is ignored.
ASK = """
import json, signal, sys
from unrolling.runs import RunConfig, obtain
from unrolling.store import Store
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    configs = [RunConfig(**settings) for settings in json.loads(sys.argv[2])]
    obtain(configs, store=Store(sys.argv[1]), jobs=2, report=lambda *news: print("one", flush=True))
"""


def test_workers_end_with_the_process_that_is_interrupted(tmp_path):
    """Ctrl-C in a terminal reaches all of its processes. Other signals: see test_stopping."""
    script = tmp_path / "ask.py"
    script.write_text(ASK)
    runs = [TINY, *(ENDLESS | {"seed": seed} for seed in range(3))]
    asking = subprocess.Popen(
        [sys.executable, script, tmp_path / "store", json.dumps(runs)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert asking.stdout.readline() == "one\n"  # the workers are computing
    helpers = psutil.Process(asking.pid).children(recursive=True)
    assert len(helpers) >= 2
    os.killpg(asking.pid, signal.SIGINT)
    _, complaints = asking.communicate()
    psutil.wait_procs(helpers)
    assert asking.returncode == -signal.SIGINT
    assert complaints.count("Traceback") == 1  # that of the script alone


def test_subsets_do_not_depend_on_the_seed_and_have_their_own_address(tiny):
    config, dataset = tiny
    again = load_data(replace(config, seed=5))
    assert torch.equal(dataset.train_inputs, again.train_inputs)
    assert dataset.fingerprint == again.fingerprint != load_dataset("digits").fingerprint


def test_settings_that_came_later_change_the_address_only_when_they_change_the_run():
    """The records of results/small were stored without them, and must be found."""
    plain = RunConfig(**TINY).to_dict()
    assert set(plain) < {setting.name for setting in dataclasses.fields(RunConfig)}
    assert "pretraining" not in plain
    changed = RunConfig(**TINY, pretraining="retrained", forget_count=2).to_dict()
    assert changed == plain | {"pretraining": "retrained", "forget_count": 2}
    assert config_from(plain) == RunConfig(**TINY)
    assert RunConfig(released="momentum fixed_order") == RunConfig(released="fixed_order  momentum")


def test_frames_hold_every_setting(tiny, tmp_path):
    config, _ = tiny
    records = obtain([config, replace(config, sigma_batch=20)], store=Store(tmp_path))
    everything = {setting.name for setting in dataclasses.fields(RunConfig)}
    for frame in (trace_frame(records), final_frame(records), after_epochs(records)):
        assert frame.groupby("address", sort=False)["sigma_batch"].first().tolist() == [0, 20]
        assert set(frame["pretraining"]) == {"shared"}
        assert everything < set(frame)
        assert not frame.isna().any(axis=None)


def test_runs_are_grouped_by_settings_that_came_later(tiny, tmp_path):
    """The records of runs at the default leave them out."""
    config, _ = tiny
    runs = [replace(config, forget_count=count, seed=seed) for count in (1, 2) for seed in (0, 1)]
    rows = after_epochs(obtain(runs, store=Store(tmp_path)))
    assert rows.groupby("forget_count").size().to_dict() == {1: 2, 2: 2}
    assert (rows["step"] == rows["pretrain_epochs"] * 6).all()


def test_frames_hold_the_columns_that_they_document(tiny, tmp_path):
    config, _ = tiny
    records = obtain([config], store=Store(tmp_path))
    settings = {setting.name for setting in dataclasses.fields(RunConfig)} | {"address"}
    named = {function: set(re.findall(r"``(\w+)``", function.__doc__)) for function in FRAMES}
    named[trace_frame] -= {"v_momentum"}
    for function in FRAMES[1:]:
        named[function] |= named[trace_frame]
    for function in FRAMES:
        assert set(function(records)) == named[function] | settings


def test_whole_numbers_and_floats_are_one_setting():
    assert RunConfig(gamma=1, learning_rate=1) == RunConfig(gamma=1.0, learning_rate=1.0)
    assert json.dumps(RunConfig(gamma=1).to_dict()) == json.dumps(RunConfig(gamma=1.0).to_dict())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"dataset": "digitz"}, r"unknown data set 'digitz'.*Did you mean 'digits'"),
        ({"model": "resnet"}, "unknown model 'resnet'"),
        ({"loss": "std"}, "unknown loss 'std'"),
        ({"dtype": "float16"}, "unknown dtype"),
        ({"learning_rat": 0.1}, r"unknown setting 'learning_rat'.*Did you mean 'learning_rate'"),
        ({"gamma": -1.0}, "gamma must be at least 0"),
        ({"gamma": float("nan")}, "gamma must be finite"),
        ({"learning_rate": 0}, "learning_rate must be larger than 0"),
        ({"learning_rate": -0.1}, "learning_rate must be larger than 0"),
        ({"learning_rate": "1e-3"}, r"write 1.0e-3"),
        ({"epochs": 0}, "epochs must be between 1 and 10000000, got 0"),
        ({"batch_size": 2.5}, "batch_size must be a whole number"),
        ({"pretraining": "alone"}, "unknown place of x\\* in pre-training 'alone'"),
        ({"recipe": "plane"}, r"unknown recipe 'plane'.*Did you mean 'plain'"),
        ({"released": "momentum wrong_bach"}, r"unknown released convention 'wrong_bach'"),
        ({"forget_count": 0}, "forget_count must be between 1 and"),
    ],
)
def test_bad_settings_are_named(setting, message):
    with pytest.raises(InputError, match=message):
        config_from(setting)


def test_settings_that_only_the_data_can_refuse():
    config = RunConfig(**TINY | {"batch_size": 97})
    with pytest.raises(InputError, match="batch_size must be at most the number of examples"):
        execute(config, load_data(config))
    config = RunConfig(**TINY | {"forget_batch": 6})
    with pytest.raises(InputError, match=r"not all of an epoch's 6 batches, 0\.\.5, got 1 from 6 on"):
        execute(config, load_data(config))


class Poisoner(Stepper):
    """Plain SGD, but one model's weights are lost at one step."""

    def __init__(self, first, victim=0):
        self.models, self.first, self.victim = [], first, victim

    def take(self, model, batch, loss_fn, learning_rate, step):
        super().take(model, batch, loss_fn, learning_rate, step)
        if all(model is not known for known in self.models):
            self.models.append(model)
        if step == self.first and model in self.models[self.victim : self.victim + 1]:
            with torch.no_grad():
                next(model.parameters()).view(-1)[0] = float("nan")


@pytest.mark.parametrize(
    ("changes", "first", "victim", "seen"),
    [
        ({"pretrain_epochs": 40}, 2, 0, 6),  # M, in pre-training: until its first epoch is over
        ({"pretrain_epochs": 0, "record_every": 0}, 2, 0, 6),  # M, in the t steps
        ({"pretrain_epochs": 0, "record_every": 0}, 2, 1, 6),  # M'
        ({"pretrain_epochs": 0, "record_every": 0, "sigma_every": 1}, 2, 1, 3),  # before it is measured
        ({"pretrain_epochs": 0, "record_every": 1}, 2, 1, 3),
        ({"pretrain_epochs": 40, "pretraining": "retrained"}, 2, 1, 246),  # M' alone, after M
        ({"pretrain_epochs": 40, "shadow_size": 96}, 2, 0, 6),
    ],
)
def test_a_diverged_run_ends_within_an_epoch(tiny, monkeypatch, tmp_path, changes, first, victim, seen):
    """Each epoch has 6 steps. A state with lost weights is never saved."""
    config = RunConfig(**TINY | {"epochs": 40, "sigma_every": 1000} | changes)
    monkeypatch.setattr(run_module, "Stepper", lambda: Poisoner(first, victim))
    for seconds in (1e9, 0):
        checkpoint, steps = Checkpoint(tmp_path / f"{seconds}.pt"), []
        with pytest.raises(DivergedError, match="training diverged"):
            execute(
                config,
                load_data(config),
                checkpoint=checkpoint,
                checkpoint_seconds=seconds,
                progress=lambda done, total, steps=steps: steps.append(done),
            )
        healthy = seen - 6 + 2 if seen % 6 == 0 else 2  # steps before the one that lost them
        assert len(steps) == (seen - 1 if seconds else healthy)
        assert steps == list(range(1, len(steps) + 1))
    saved = checkpoint.load()
    assert saved["step"] == 2 if "shadow" not in saved else saved["shadow"]["step"] == 2
    assert all(value.isfinite().all() for value in tensors(saved))


def tensors(state):
    for value in state.values() if isinstance(state, dict) else state:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (dict, list, tuple)):
            yield from tensors(value)


def test_numbers_too_large_to_measure_are_a_diverged_run(tiny, monkeypatch):
    """The weights are finite, and no norm of theirs is."""

    class Huge(Stepper):
        def take(self, model, batch, loss_fn, learning_rate, step):
            with torch.no_grad():
                next(model.parameters()).fill_(1e200)

    monkeypatch.setattr(run_module, "Stepper", Huge)
    config, dataset = tiny
    with pytest.raises(DivergedError, match=r"too large.* after 6 steps; try a learning_rate below 0\.1"):
        execute(config, dataset)


def test_derivatives_that_are_not_finite_are_a_diverged_run(monkeypatch):
    """The norm of the weights is finite, and the loss that they make is not."""

    class Large(Stepper):
        def take(self, model, batch, loss_fn, learning_rate, step):
            with torch.no_grad():
                for weight in model.parameters():
                    weight.fill_(1e120)

    monkeypatch.setattr(run_module, "Stepper", Large)
    config = RunConfig(**TINY | {"model": "mlp", "sigma_every": 1, "record_every": 0})
    with pytest.raises(DivergedError, match="its derivatives are not finite; try a learning_rate below"):
        execute(config, load_data(config))


def test_a_measurement_that_is_infinite_is_a_diverged_run(tiny, monkeypatch):
    """Records hold finite numbers only."""
    monkeypatch.setattr(unlearned, "verification_error", lambda *weights: math.inf)
    config, dataset = tiny
    with pytest.raises(DivergedError, match=r"diverged: .*too large.* after 3 steps"):
        execute(config, dataset)


def test_devices_are_chosen_by_name_or_precision():
    single, double = RunConfig(dtype="float32"), RunConfig(dtype="float64")
    assert choose_device("auto", double).type == "cpu"
    assert choose_device("auto", single).type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(InputError, match="unknown device"):
        choose_device("gpu", single)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="sees no CUDA device"):
            choose_device("cuda", single)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_grid_of_every_profile_is_made_of_valid_runs(profile):
    for experiment in load_profile(profile).experiments.values():
        for part, grid in experiment.parts.items():
            configs = experiment.configs(part)
            points = math.prod(len(values) for values in grid.values())
            assert len(configs) == points * experiment.parameters["num_seeds"]  # none is there twice
            seeds = {config.seed for config in configs}
            assert seeds == set(range(experiment.parameters["num_seeds"] if points else 0))


def test_grids_that_share_runs_give_each_of_them_once():
    experiment = load_profile("small").experiment("training_with_sd_loss")
    strength, pretraining = experiment.configs("strength"), experiment.configs("pretraining")
    shared = set(strength) & set(pretraining)
    assert shared
    both = experiment.configs(("strength", "pretraining"))
    assert both == strength + [config for config in pretraining if config not in shared]


def test_notebook_parameters_change_every_run_of_a_grid():
    experiment = load_profile("quick").experiment("training_with_sd_loss")
    configs = experiment.configs("strength", learning_rate=0.05, num_seeds=1)
    assert {config.learning_rate for config in configs} == {0.05}
    assert {config.seed for config in configs} == {0}
    with pytest.raises(InputError, match="unknown parameter 'learning_rat'"):
        experiment.configs("strength", learning_rat=0.05)
    with pytest.raises(InputError, match="unknown part 'strengths'"):
        experiment.configs("strengths")
    with pytest.raises(InputError, match="unknown profile 'tiny'"):
        load_profile("tiny")


def test_the_paper_profile_is_the_papers_tables():
    paper = load_profile("paper")
    strength = paper.experiment("training_with_sd_loss").configs(("strength", "strength_vgg"))
    assert {(c.dataset, c.model, c.batch_size, c.pretrain_epochs) for c in strength} == {
        ("cifar10", model, 32, 10) for model in ("resnet18", "vgg19")
    }
    in_code_units = sorted({round(c.gamma * 90**0.5, 3) for c in strength})
    assert in_code_units == [0, 1, 5, 10, 15, 20]
    parts = find_exhibit("table-4").part
    ours = paper.experiment("influence_of_pretraining").configs(parts)
    printed = printed_rows("table4").set_index(["dataset", "model", "pretrain_epochs"])["gamma"]
    assert len(ours) == 5 * len(printed)
    for config in ours:
        cell = printed[(config.dataset, config.model, config.pretrain_epochs)]
        assert (cell - config.gamma).abs().min() < 1e-5
    assert {(c.batch_size, c.epochs) for c in ours} == {(32, 1)}


def test_the_narrow_profile_differs_from_the_papers_in_width_layout_and_compression():
    """Data, N, t and b are the paper's, of what both have."""
    narrow, paper = load_profile("narrow"), load_profile("paper")
    for name, part in (
        ("training_with_sd_loss", "strength"),
        ("training_with_sd_loss", "strength_vgg"),
        ("influence_of_pretraining", "table4"),
        ("unlearning_error", "settings"),
        ("proxy", "steps"),
    ):
        own = narrow.experiment(name).configs(part, num_seeds=1)
        papers = paper.experiment(name).configs(part, num_seeds=1)
        differs = {"dataset": "cifar10-jpeg", "width": 16, "memory_format": "channels_last"}
        on_cifar10 = [config for config in papers if config.dataset == "cifar10"]
        assert own == [dataclasses.replace(config, **differs) for config in on_cifar10]
    for experiment in narrow.experiments.values():
        for config in experiment.configs(experiment.parts):
            assert config.dtype == "float32"
            assert config.width == (16 if config.model in ("resnet18", "vgg19") else 0)


def test_the_jpeg_profile_is_the_paper_profile_on_other_images():
    jpeg, paper = load_profile("paper-jpeg"), load_profile("paper")
    assert jpeg.experiments.keys() == paper.experiments.keys()
    for name, experiment in paper.experiments.items():
        for part in experiment.parts:
            of_paper = [c for c in experiment.configs(part) if c.dataset != "cifar100"]
            other = {"cifar10": "cifar10-jpeg"}
            assert jpeg.experiment(name).configs(part) == [
                dataclasses.replace(c, dataset=other.get(c.dataset, c.dataset)) for c in of_paper
            ]
    assert {p["profile"] for p in notebook_parameters("paper-jpeg").values()} == {"paper-jpeg"}
    pages = notebook_parameters("paper-jpeg"), notebook_parameters("paper")
    assert [known["05_singular_values"]["dataset"] for known in pages] == ["cifar10-jpeg", "cifar10"]
    assert {known["03_unrolling_sgd"]["dataset"] for known in pages} == {"digits"}


def test_a_profile_like_another_is_checked_as_well():
    whole = "description: d\nlike: quick\ndatasets: {}\nsettings: {}\nexperiments: {}"
    assert (
        parse_profile("mine", whole, "mine.yml").experiments.keys()
        == load_profile("quick").experiments.keys()
    )
    for old, new, message in (
        ("like: quick", "like: quik", "unknown profile that mine.yml is like 'quik'"),
        ("settings: {}", "setting: {}", "unknown part of mine.yml 'setting'"),
        ("settings: {}\n", "", "'settings' of mine.yml must be a dict, got nothing"),
        ("experiments: {}", "experiments: {prox: {}}", "unknown experiment of mine.yml 'prox'"),
        (
            "experiments: {}",
            "experiments: {proxy: {part: {}}}",
            "unknown part of experiment 'proxy' of mine.yml",
        ),
        (
            "experiments: {}",
            "experiments: {proxy: {parts: 5}}",
            "'parts' of experiment 'proxy' of mine.yml must be",
        ),
        ("experiments: {}", "experiments: {proxy: 5}", "experiment 'proxy' of mine.yml must have"),
    ):
        with pytest.raises(InputError, match=message):
            parse_profile("mine", whole.replace(old, new), "mine.yml")


def test_every_exhibit_names_what_exists():
    slugs = set(notebook_parameters("quick"))
    for exhibit in EXHIBITS:
        assert exhibit.notebook in slugs
        __import__(exhibit.module)
        for profile in PROFILES if exhibit.experiment else ():
            assert load_profile(profile).experiment(exhibit.experiment).configs(exhibit.part)


def test_every_setting_is_documented():
    assert all(setting_docs().values())


def test_published_results_are_whole_and_belong_to_their_profile():
    configs = load_profile("small").experiment("training_with_sd_loss").configs("strength")
    records = published(configs, "small")
    assert len(records) == len(configs)
    assert {record.data["name"] for record in records} == {"cifar10-jpeg"}
    assert not any(record.provenance["dirty"] for record in records)
    assert all(record.result["sigma_converged"] for record in records)
    assert published_store("small").damaged() == {}


# ---- bad input ----

SETTINGS = {setting.name: setting.default for setting in dataclasses.fields(RunConfig)}
WRONG = {
    int: [
        None, True, "5", 2.0, 2.5, float("nan"), float("inf"), -1, 10**20, -(10**5000), 10**5000, [1], (1,),
        {}, b"5", 1j, np.array([1, 2]), np.array(1), np.float64(1), np.bool_(True), torch.tensor(1), object(),
    ],
    float: [
        None, True, "0.1", float("nan"), float("inf"), -float("inf"), 10**400, -1, [0.1], {}, b"1", 1j,
        np.array(0.1), np.float64("nan"), np.float32("inf"), np.str_("0.1"), torch.tensor(0.1), object(),
    ],
    str: [None, True, 5, 0.1, b"sd", ["sd"], {"sd"}, {}, np.array(["sd"]), object(), "x" * 9999, "\0", "\nx"],
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_of_a_wrong_type_or_size_is_one_line(name):
    for value in WRONG[type(SETTINGS[name])]:
        with pytest.raises(InputError) as raised:
            RunConfig(**{name: value})
        message = str(raised.value)
        assert "\n" not in message
        assert len(message) < 700, message


@pytest.mark.parametrize("name", SETTINGS)
def test_numbers_and_texts_of_numpy_are_what_they_are(name):
    value = (SETTINGS | TINY)[name]
    kinds = {int: (np.int64, np.int32), float: (np.float64,), str: (np.str_,)}[type(value)]
    plain = RunConfig(**TINY | {name: value})
    for kind in kinds:
        config = RunConfig(**TINY | {name: kind(value)})
        assert config == plain
        assert type(getattr(config, name)) is type(value)
        assert make_address(config.to_dict(), "abc") == make_address(plain.to_dict(), "abc")


@pytest.mark.parametrize("name", ["learning_rate", "gamma"])
def test_numbers_that_the_weights_cannot_hold_are_refused(name):
    assert getattr(RunConfig(**{name: 1e200}), name) == 1e200
    with pytest.raises(InputError, match=rf"{name} must be at most 3.40282e\+38, got 1e\+200"):
        RunConfig(**{name: 1e200}, dtype="float32")


def test_zero_and_minus_zero_are_one_setting():
    assert repr(RunConfig(gamma=-0.0).gamma) == "0.0"


def test_stored_runs_are_at_the_addresses_of_their_settings():
    store = published_store("small")
    records = [record for record in store if "kind" not in record.config]
    assert len(records) > 200
    for record in records:
        again = config_from(record.config).to_dict()
        assert again == record.config
        assert make_address(again, record.data["fingerprint"]) == record.address


@pytest.mark.parametrize("settings", [None, 5, [("gamma", 1)], "gamma"])
def test_settings_that_are_no_dict_are_named(settings):
    with pytest.raises(InputError, match="settings must be a dict"):
        config_from(settings)


def test_names_that_are_no_texts_are_refused_in_words():
    experiment = load_profile("quick").experiment("proxy")
    for attempt in (
        lambda: load_profile(["quick"]),
        lambda: load_profile(None),
        lambda: load_profile("quick").experiment(["proxy"]),
        lambda: experiment.configs([None]),
        lambda: find_exhibit(5),
        lambda: config_from({5: 1}),
    ):
        with pytest.raises(InputError, match="unknown"):
            attempt()
    for seeds in (0, 10**9, 2.0, "3", None):
        with pytest.raises(InputError, match="num_seeds must be"):
            experiment.configs("grid", num_seeds=seeds)


def test_a_profile_that_is_written_wrongly_names_its_file_and_the_part():
    parts = "{notebook: 00_x, parameters: {}, fixed: {}, parts: {}}"
    whole = f"description: d\nexperiments: {{a: {parts}}}\nnotebooks: {{}}"
    assert parse_profile("mine", whole, "mine.yml").experiment("a").notebook == "00_x"
    for old, new, message in (
        ("fixed", "fixd", r"unknown part of experiment 'a' of mine.yml 'fixd': .*Did you mean 'fixed'"),
        ("fixed: {}, ", "", "'fixed' of experiment 'a' of mine.yml must be a dict, got nothing"),
        ("fixed: {}", "fixed: 5", "'fixed' of experiment 'a' of mine.yml must be a dict, got int"),
        ("description: d", "describe: d", "unknown part of mine.yml 'describe'"),
        ("notebooks: {}", "notebooks: [", "mine.yml is no YAML"),
        (whole, "5", "mine.yml must have the parts description, experiments, notebooks, got int"),
    ):
        with pytest.raises(InputError, match=message):
            parse_profile("mine", whole.replace(old, new), "mine.yml")


@pytest.mark.parametrize(
    "device", ["meta", "mps", "xla", "cpu:0", "CPU", "", "cuda:x", "cuda:-1", 5, None, "\n"]
)
def test_other_devices_are_refused(device):
    with pytest.raises(InputError, match=r"unknown device .*: expected auto, cpu, cuda or cuda:N"):
        choose_device(device, RunConfig())


def test_a_device_that_cannot_allocate_is_refused(monkeypatch):
    def fail(*size, device):
        raise RuntimeError("CUDA error: invalid device ordinal\nCompile with this and that.")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty", fail)
    with pytest.raises(
        InputError, match="device 'cuda:99' cannot be used: CUDA error: invalid device ordinal U"
    ):
        choose_device("cuda:99", RunConfig())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 2_000_000}, "make 12,000,006 steps; expected at most 10,000,000"),
        ({"sigma_batch": 97}, "sigma_batch must be at most the 96 training examples, got 97"),
        (
            {"model": "resnet18", "width": 65_536},
            r"resnet18 of width 65536 has 11,69\d,\d{3},\d{3},\d{3} weights",
        ),
    ],
)
def test_what_could_not_end_or_fit_is_refused_before_work_starts(tiny, tmp_path, changes, message):
    _, dataset = tiny
    config = RunConfig(**TINY | changes)
    with pytest.raises(InputError, match=message):
        check_work(config, dataset, torch.device("cpu"))
    with pytest.raises(InputError, match=message):
        collect_module.compute(config, Store(tmp_path / "runs"), dataset=dataset)
    assert not (tmp_path / "runs").exists()


def test_the_memory_of_the_weights_and_of_the_order_counts(tiny, monkeypatch):
    config, dataset = tiny
    from unrolling.runs import limits

    weights = num_weights(config, dataset)
    assert weights == sum(
        p.numel() for p in build_model("resnet-small", 10, input_shape=(1, 8, 8), width=2).parameters()
    )
    needed = max(limits.COPIES * 8 * weights, 40 * 96)
    monkeypatch.setattr(limits, "_memory", lambda device: needed)
    check_work(config, dataset, torch.device("cpu"))
    monkeypatch.setattr(limits, "_memory", lambda device: needed - 1)
    with pytest.raises(InputError, match=f"has {weights:,} weights here"):
        check_work(config, dataset, torch.device("cpu"))
    with pytest.raises(InputError, match=r"the order of 100,000 epochs of 96 examples takes 0\.4 GB"):
        check_work(dataclasses.replace(config, pretrain_epochs=100_000), dataset, torch.device("cpu"))


def test_counting_weights_leaves_the_random_state_alone(tiny):
    before = torch.get_rng_state()
    num_weights(*tiny)
    assert torch.equal(before, torch.get_rng_state())


def test_a_record_of_another_version_does_not_hide_the_others():
    ours = Record(RunConfig(**TINY).to_dict(), {"fingerprint": "a"}, {}, {})
    theirs = [
        Record(config, {"fingerprint": "a"}, {}, {})
        for config in ({"kind": "encoder"}, {"gama": 1}, {"seed": "x"})
    ]
    assert by_config([theirs[0], ours, *theirs[1:]]) == {RunConfig(**TINY): ours}
