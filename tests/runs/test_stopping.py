"""Runs that are asked to stop: they save themselves first, leave no process, and go on to the same bits."""

import os
import signal
import subprocess
import sys
import threading
from collections import Counter

import psutil
import pytest
from tiny_runs import TINY

from unrolling.runs import RunConfig, load_profile, obtain, stopping
from unrolling.runs.checkpoint import Checkpoint
from unrolling.runs.encoder import EncoderConfig, obtain_encoder
from unrolling.runs.execute import STATE_PARTS, execute
from unrolling.runs.inputs import load_data
from unrolling.runs.stopping import Stopped, stop_on_signals
from unrolling.store import Store, make_address

#: More steps than any test has time for.
ENDLESS = TINY | {"pretrain_epochs": 2_000}


def at_calls(*numbers):
    """A request that is there at these looks at it, counted from 1 on over all runs."""
    looks = iter(range(1, 10_000))
    return lambda: next(looks) in numbers


def workers():
    """The processes that compute for this one."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if any("spawn_main" in part for part in child.cmdline())]


# One run


SHADOW = {"shadow_size": 96, "shadow_epochs": 2}
OWN_PRETRAINING = {"pretraining": "retrained", "recipe": "full", "released": "momentum", "forget_size": 3}


@pytest.mark.parametrize(
    ("changes", "stops"),
    [
        ({}, (1,)),
        ({}, (5, 6, 7, 18)),  # around the end of pre-training, and after the last step
        ({}, range(1, 19)),  # after every step
        ({"shadow_size": 96}, (4, 18, 19, 29)),  # 18 steps of the shadow model come first
        (OWN_PRETRAINING, (3, 9, 13, 22)),  # M, then M', then both
    ],
)
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, changes, stops):
    config, checkpoint = RunConfig(**TINY | changes), Checkpoint(tmp_path / "run.pt")
    data, steps = load_data(config), []
    stop = at_calls(*stops)
    options = {"checkpoint": checkpoint, "progress": lambda done, total: steps.append(done)}
    for taken in stops:
        with pytest.raises(Stopped):
            execute(config, data, stop=stop, **options)
        # The step after which a run stops is not reported; none is taken twice.
        assert steps == [step for step in range(1, taken) if step not in stops]
    result = execute(config, data, stop=stop, **options)
    assert result == execute(config, data)


def test_states_have_the_parts_that_this_version_expects(tmp_path, monkeypatch):
    """Whoever changes one raises the number of the format, or old states would be taken for new ones."""
    seen = {}

    class Kept(Checkpoint):
        def save(self, state):
            seen[state["phase"]] = set(state) - {"phase"}

    config = RunConfig(**TINY, **{"shadow_size": 96}, **OWN_PRETRAINING)
    execute(config, load_data(config), checkpoint=Kept(tmp_path / "run.pt"), checkpoint_seconds=0)
    assert set(seen) == set(STATE_PARTS) - {"alone"}
    extra = {"pretraining": {"shadow", "retrained"}, "unrolling": {"shadow"}}
    for phase, parts in seen.items():
        assert parts - extra.get(phase, set()) == STATE_PARTS[phase]


@pytest.mark.parametrize("state", [{}, {"phase": "later"}, {"phase": "unrolling", "step": 3}])
def test_a_state_of_another_form_is_set_aside(tmp_path, state):
    config, checkpoint = RunConfig(**TINY), Checkpoint(tmp_path / "run.pt")
    checkpoint.save(state)
    with pytest.warns(UserWarning, match=r"run\.pt is not of this version's form: the run starts over"):
        result = execute(config, load_data(config), checkpoint=checkpoint)
    assert result == execute(config, load_data(config))


def test_an_encoder_stops_between_its_steps(tmp_path):
    sizes = {"train_size": 20, "test_size": 10, "size": 40, "epochs": 2}
    config = EncoderConfig(dataset="reviews", width=12, vocab_size=200, max_tokens=12, **sizes)
    looks = []
    with pytest.raises(Stopped):
        obtain_encoder(config, Store(tmp_path), lambda: len(looks) == 2 or looks.append(1))
    assert len(looks) == 2
    assert not list(tmp_path.rglob("*.safetensors"))


# Several


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_request_stops_all_runs_and_says_what_is_kept(tmp_path, jobs):
    """As a deadline does: the function may be anything."""
    runs = [RunConfig(**TINY), *(RunConfig(**ENDLESS | {"seed": seed}) for seed in range(3))]
    news, store = [], Store(tmp_path)
    with pytest.raises(Stopped) as stopped:
        obtain(runs, store=store, jobs=jobs, report=lambda *new: news.append(new), stop=lambda: bool(news))
    begun = len(list((tmp_path / "unfinished").glob("*.pt")))
    assert str(stopped.value) == f"stopped with 1 of 4 runs stored, and checkpoints of {begun} more"
    assert len(news) == len(store.addresses()) == 1
    assert begun == 0 or jobs == 2  # one process looks before it begins the next run
    assert not workers()


def test_a_request_that_is_there_already_starts_nothing(tmp_path):
    for jobs in (1, 2):
        with pytest.raises(Stopped, match="stopped with 0 of 2 runs stored, and checkpoints of 0 more"):
            obtain(
                [RunConfig(**TINY), RunConfig(**TINY, seed=1)],
                store=Store(tmp_path),
                jobs=jobs,
                stop=lambda: True,
            )


# Signals


def test_a_signal_is_a_request_and_a_burst_of_them_is_one():
    """Tools such as timeout send one to the process and another to its group."""
    handler = signal.getsignal(signal.SIGTERM)
    with stop_on_signals() as stop:
        assert not stop()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert stop()
        assert stop.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is handler


def test_who_asks_again_is_not_kept_waiting(monkeypatch):
    monkeypatch.setattr(stopping, "_ONE_REQUEST", 0.0)
    with stop_on_signals():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_what_never_looks_at_a_request_is_ended(monkeypatch):
    monkeypatch.setattr(stopping, "_ONE_REQUEST", 0.0)
    monkeypatch.setattr(stopping, "GRACE", 0.1)
    with stop_on_signals():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            threading.Event().wait()


def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_on_signals() as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop()
    finally:
        signal.signal(signal.SIGINT, before)


# Whole processes

#: Six runs of figure 8, with 3 steps before w_0 and some more from there on.
SMALL = {"train_size": 96, "test_size": 50, "model": "mlp", "batch_size": 32}
# The command line, in which each of JOBS runs comes to its fourth step before a signal is sent, by the
# runs themselves. So what is saved does not depend on who is faster. Workers read this file, too.
COMMAND = """
import os, sys
from pathlib import Path
import unrolling.runs.checkpoint as checkpoint
import unrolling.runs.trainer as run
import unrolling.runs.stopping as stopping

jobs, number = int(os.environ["JOBS"]), int(os.environ["NUMBER"])
worker, taken = __name__ != "__main__", 0
stopping.GRACE = 300.0  # on a busy machine

class Signalled(checkpoint.Checkpointer):
    def after_step(self, step):
        global taken
        taken += 1
        if taken == 4:
            Path(os.environ["REACHED"], str(os.getpid())).touch()
            if len(os.listdir(os.environ["REACHED"])) == jobs:
                asker = os.getppid() if worker else os.getpid()
                os.killpg(asker, number) if os.environ["EVERYONE"] else os.kill(asker, number)
            if worker:
                assert stopping._ASKED.wait(300)
        super().after_step(step)

run.Checkpointer = Signalled
if __name__ == "__main__":
    from unrolling.cli import main
    sys.exit(main())
"""


def stopped_command(tmp_path, jobs, number, everyone=False):
    """Let the runs of a figure send themselves a signal; return the exit code and the lines of stderr.

    Its processes are gone by then, or the test fails.
    """
    (tmp_path / "command.py").write_text(COMMAND)
    (tmp_path / "reached").mkdir()
    settings = {"JOBS": jobs, "NUMBER": int(number), "REACHED": tmp_path / "reached"}
    settings["EVERYONE"] = "yes" if everyone else ""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    command = [
        "run",
        "figure-8",
        "--num-seeds=1",
        *options,
        f"--jobs={jobs}",
        f"--store={tmp_path / 'store'}",
    ]
    # A process that a shell started in the background inherits that Ctrl-C is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [sys.executable, tmp_path / "command.py", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=os.environ | {name: str(value) for name, value in settings.items()},
        )
    finally:
        signal.signal(signal.SIGINT, before)
    printed, said = process.communicate(timeout=300)  # when the last process of them has closed its end
    _, left = psutil.wait_procs(of_group(process.pid), timeout=60)
    assert not left
    assert not printed
    return process.returncode, said.splitlines()


def of_group(group):
    """The processes of a group that are not ended."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The same runs, and their results."""
    experiment = load_profile("quick").experiment("training_with_sd_loss")
    configs = experiment.configs("strength", num_seeds=1, **SMALL)
    return configs, [r.result for r in obtain(configs, store=Store(tmp_path_factory.mktemp("undisturbed")))]


def check_goes_on(tmp_path, undisturbed, saved):
    """So many runs lie saved after their fourth step, and all come to the results of undisturbed ones."""
    configs, results = undisturbed
    data, taken = load_data(configs[0]), Counter()
    paths = [
        tmp_path / "store" / "unfinished" / f"{make_address(config.to_dict(), data.fingerprint)}.pt"
        for config in configs
    ]
    states = [state for path in paths if (state := Checkpoint(path).load())]
    assert [(state["phase"], state["step"]) for state in states] == [("unrolling", 1)] * saved
    records = obtain(
        configs, store=Store(tmp_path / "store"), progress=lambda done, total: taken.update([done])
    )
    assert [record.result for record in records] == results
    assert set(taken) == set(range(1, max(taken) + 1))
    assert [taken[step] for step in (1, 4, 5)] == [6 - saved, 6 - saved, 6]


# One level of each pair; with jobs=2 the code is the same for both signals.
@pytest.mark.parametrize(
    ("number", "jobs", "everyone"),
    [
        (signal.SIGINT, 1, True),
        (signal.SIGTERM, 1, False),
        (signal.SIGINT, 2, False),
        (signal.SIGTERM, 2, True),
    ],
)
def test_a_signal_saves_all_runs_and_the_same_command_goes_on(tmp_path, undisturbed, number, jobs, everyone):
    code, lines = stopped_command(tmp_path, jobs, number, everyone)
    assert code == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert lines == [
        f"unrolling: stopped with 0 of 6 runs stored, and checkpoints of {jobs} more; the same command goes "
        "on from here."
    ]
    check_goes_on(tmp_path, undisturbed, saved=jobs)


def test_workers_whose_parent_is_killed_save_their_runs_and_end(tmp_path, undisturbed):
    code, lines = stopped_command(tmp_path, 2, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert "Traceback" not in " ".join(lines)
    check_goes_on(tmp_path, undisturbed, saved=2)


STUCK = """
import threading
from multiprocessing import Pipe
import unrolling.runs.stopping as stopping
stopping.GRACE = stopping._FAREWELL = 0.1
alive, asking = Pipe(duplex=False)
stopping.obey(alive)
with stopping.at_work():
    asking.close()
    threading.Event().wait()
"""


def test_a_worker_whose_step_never_ends_is_ended():
    assert subprocess.run([sys.executable, "-c", STUCK], timeout=300).returncode == 1
