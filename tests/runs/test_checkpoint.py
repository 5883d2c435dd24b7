"""Checkpoints: whole or absent, never misread, and never code."""

import hashlib
import io
import os
import pickle
import time

import pytest
import torch

from unrolling._files import ABANDONED
from unrolling.runs.checkpoint import Checkpoint, Checkpointer
from unrolling.runs.stopping import Stopped

STATE = {"step": 3, "model": {"w": torch.arange(30.0)}, "rows": [{"e": 1.5, "v": 0.25}], "phase": "alone"}


def written(content):
    """A file of ours as the format says it is, around any content."""
    return b"unrolling checkpoint 2 " + hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def is_the_state(found):
    return torch.equal(found["model"]["w"], STATE["model"]["w"]) and {**found, "model": 0} == {
        **STATE,
        "model": 0,
    }


def check_set_aside(checkpoint, reason):
    """Loading gives nothing, says why in a line, and moves the file away; then all is as if it never was."""
    with pytest.warns(UserWarning, match="the run starts over") as said:
        assert checkpoint.load() is None
    (line,) = (str(warning.message) for warning in said)
    assert line.startswith(f"the checkpoint {checkpoint.path} {reason}")
    assert "\n" not in line
    assert not checkpoint.path.exists()
    assert checkpoint.load() is None  # in silence
    checkpoint.save(STATE)
    assert is_the_state(checkpoint.load())


@pytest.fixture
def checkpoint(tmp_path):
    return Checkpoint(tmp_path / "unfinished" / "run.pt")


def test_a_state_comes_back_as_it_was(checkpoint):
    assert checkpoint.load() is None
    state = {
        "step": 3,
        "model": {"w": torch.arange(3.0)},
        "rows": [{"e": 1.5}],
        "samples": [(0, -2.0, 4, True)],
    }
    checkpoint.save(state)
    found = checkpoint.load()
    assert torch.equal(found.pop("model")["w"], state.pop("model")["w"])
    assert found == state
    assert [path.name for path in checkpoint.path.parent.iterdir()] == ["run.pt"]
    checkpoint.remove()
    checkpoint.remove()
    assert checkpoint.load() is None


def test_a_flipped_bit_anywhere_is_noticed(checkpoint):
    checkpoint.save(STATE)
    whole = checkpoint.path.read_bytes()
    places = {*range(100), *range(100, len(whole), 13), len(whole) - 1}  # the header, and all over the rest
    for place in places:
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        checkpoint.path.write_bytes(content)
        with pytest.warns(UserWarning, match="the run starts over"):
            assert checkpoint.load() is None, f"the flip at byte {place} was not noticed"
        assert not checkpoint.path.exists()
    checkpoint.path.write_bytes(whole)
    assert is_the_state(checkpoint.load())


@pytest.mark.parametrize("damage", ["cut off", "too long", "zeros"])
def test_a_damaged_checkpoint_is_set_aside(checkpoint, damage):
    checkpoint.save(STATE)
    whole = checkpoint.path.read_bytes()
    contents = {
        "cut off": [whole[:length] for length in (88, 89, 500, len(whole) // 2, len(whole) - 1)],
        "too long": [whole + b"\0"],
        "zeros": [whole[:88] + bytes(len(whole) - 88)],
    }[damage]
    for content in contents:
        checkpoint.path.write_bytes(content)
        check_set_aside(checkpoint, "is damaged")


class Payload:
    def __reduce__(self):
        return (pytest.fail, ("code was run while a checkpoint was read",))


def test_a_checkpoint_cannot_run_code(checkpoint):
    checkpoint.path.parent.mkdir()
    code = pickle.dumps(Payload(), protocol=2)
    for content in (code, written(code), written(saved({"run": "run", "state": Payload()}))):
        checkpoint.path.write_bytes(content)
        check_set_aside(checkpoint, "is not of this version's form")


def test_a_checkpointer_saves_when_time_has_passed(checkpoint):
    eager = Checkpointer(checkpoint, lambda done: {"step": done}, every_seconds=0)
    eager.after_step(4)
    assert checkpoint.load() == {"step": 5}
    patient = Checkpointer(checkpoint, lambda done: {"step": done}, every_seconds=1e9)
    patient.after_step(9)
    assert checkpoint.load() == {"step": 5}


def test_a_checkpointer_waits_anew_after_every_save(checkpoint, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    saved = []
    checkpointer = Checkpointer(
        checkpoint, lambda done: saved.append(done) or {"step": done}, every_seconds=30
    )
    for step in range(100):
        clock[0] = 1.0 * step
        checkpointer.after_step(step)
    assert saved == [31, 61, 91]


def older(path):
    """As version 1 wrote it."""
    torch.save({"format": "unrolling checkpoint 1", "run": "run", "state": STATE}, path)


FOREIGN = {
    "a word": lambda path: path.write_text("hello\n"),
    "a line of numbers": lambda path: path.write_text("1 2 3\n"),
    "nothing": lambda path: path.write_bytes(b""),
    "a few letters of ours": lambda path: path.write_bytes(b"unrolling check"),
    "a number": lambda path: torch.save(5, path),
    "weights alone": lambda path: torch.save({"w": torch.zeros(3)}, path),
    "a pickle of its own": lambda path: path.write_bytes(pickle.dumps({"step": 3})),
    "an older form": older,
    "a later form": lambda path: path.write_bytes(
        written(saved({"run": "run", "state": STATE})).replace(b"checkpoint 2", b"checkpoint 3", 1)
    ),
    "a list": lambda path: path.write_bytes(written(saved([STATE]))),
    "no state": lambda path: path.write_bytes(written(saved({"run": "run"}))),
    "no name": lambda path: path.write_bytes(written(saved({"state": STATE}))),
    "a state that is a list": lambda path: path.write_bytes(written(saved({"run": "run", "state": [1]}))),
}


@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_checkpoint_of_ours_is_set_aside(checkpoint, make):
    checkpoint.path.parent.mkdir()
    make(checkpoint.path)
    content = checkpoint.path.read_bytes()
    check_set_aside(checkpoint, "is not of this version's form")
    assert checkpoint.path.with_name("run.pt.set-aside").read_bytes() == content


def test_the_form_is_the_one_that_these_tests_write(checkpoint):
    checkpoint.path.parent.mkdir()
    checkpoint.path.write_bytes(written(saved({"run": "run", "state": STATE})))
    assert is_the_state(checkpoint.load())


def test_a_folder_in_its_place_is_set_aside(checkpoint):
    checkpoint.path.mkdir(parents=True)
    (checkpoint.path / "precious").write_text("kept")
    check_set_aside(checkpoint, "cannot be read")
    assert (checkpoint.path.with_name("run.pt.set-aside") / "precious").read_text() == "kept"


def test_what_cannot_be_set_aside_is_named_and_stays(checkpoint):
    for path in (checkpoint.path, checkpoint.path.with_name("run.pt.set-aside")):
        path.mkdir(parents=True)
        (path / "precious").write_text("kept")
    with pytest.warns(UserWarning, match=r"the run starts over, and the file cannot be moved away"):
        assert checkpoint.load() is None
    with pytest.warns(UserWarning, match="cannot save"):
        Checkpointer(checkpoint, lambda done: STATE, every_seconds=0).after_step(0)
    assert (checkpoint.path / "precious").exists()


def test_the_checkpoint_of_another_run_is_set_aside(checkpoint):
    other = Checkpoint(checkpoint.path.with_name("other.pt"))
    other.save(STATE)
    other.path.rename(checkpoint.path)
    check_set_aside(checkpoint, "is that of another run")


def test_a_checkpointer_that_is_asked_to_stop_saves_and_raises(checkpoint):
    asked = []
    checkpointer = Checkpointer(
        checkpoint, lambda done: {"step": done}, every_seconds=1e9, stop=lambda: bool(asked)
    )
    checkpointer.after_step(6)
    assert checkpoint.load() is None
    asked.append("stop")
    with pytest.raises(Stopped, match="after 8 steps"):
        checkpointer.after_step(7)
    assert checkpoint.load() == {"step": 8}


def test_a_checkpointer_that_cannot_save_stops_all_the_same(tmp_path):
    (tmp_path / "unfinished").write_text("a file in the way")
    checkpoint = Checkpoint(tmp_path / "unfinished" / "run.pt")
    with pytest.warns(UserWarning, match="cannot save"), pytest.raises(Stopped):
        Checkpointer(checkpoint, lambda done: STATE, every_seconds=1e9, stop=lambda: True).after_step(0)


def test_where_none_can_be_saved_training_goes_on(tmp_path):
    (tmp_path / "unfinished").write_text("a file in the way")
    checkpoint = Checkpoint(tmp_path / "unfinished" / "run.pt")
    assert checkpoint.load() is None
    with pytest.warns(UserWarning, match=r"cannot save the checkpoint .*run\.pt"):
        Checkpointer(checkpoint, lambda done: {"step": done}, every_seconds=0).after_step(0)
    checkpoint.remove()


def test_a_save_that_fails_leaves_the_old_state_and_nothing_else(checkpoint, monkeypatch):
    checkpoint.save({"step": 3})

    def full(state, file):
        file.write(b"half")
        raise RuntimeError("[enforce fail] unexpected pos 64 vs 0")  # PyTorch's word for a full disk

    monkeypatch.setattr(torch, "save", full)
    with pytest.warns(UserWarning, match="cannot save"):
        Checkpointer(checkpoint, lambda done: {"step": done}, every_seconds=0).after_step(4)
    assert checkpoint.load() == {"step": 3}
    assert [path.name for path in checkpoint.path.parent.iterdir()] == ["run.pt"]


def test_an_error_while_the_state_is_collected_is_not_taken_for_a_full_disk(checkpoint):
    def collect(done):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        Checkpointer(checkpoint, collect, every_seconds=0).after_step(0)


def test_what_killed_processes_left_beside_it_is_cleared_away(checkpoint):
    checkpoint.save({"step": 3})
    left = checkpoint.path.with_name(f"{'0' * 16}.pt.123.tmp")
    left.write_bytes(bytes(9))
    os.utime(left, (time.time() - ABANDONED - 60,) * 2)
    assert checkpoint.load() == {"step": 3}
    assert not left.exists()


def test_the_time_of_a_resumed_run_is_that_of_all_its_parts(checkpoint, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("unrolling.runs.checkpoint.time.monotonic", lambda: clock[0])
    first = Checkpoint(checkpoint.path)
    clock[0] += 40
    first.save(STATE)
    clock[0] += 1000  # nobody works on it
    second = Checkpoint(checkpoint.path)
    assert second.seconds == 0
    second.load()
    clock[0] += 2
    assert second.seconds == 42
    second.save(STATE)
    third = Checkpoint(checkpoint.path)
    third.load()
    assert third.seconds == 42
