"""Checkpoints: whole or absent, and never code."""

import os
import pickle
import time

import pytest
import torch

from unrolling._files import ABANDONED
from unrolling.checkpoint import Checkpoint, Checkpointer


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


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: b"x" * 99]
)
def test_a_damaged_checkpoint_counts_as_none(checkpoint, damage):
    checkpoint.save({"step": 3, "model": {"w": torch.arange(3.0)}})
    checkpoint.path.write_bytes(damage(checkpoint.path.read_bytes()))
    assert checkpoint.load() is None


class Payload:
    def __reduce__(self):
        return (pytest.fail, ("code was run while a checkpoint was read",))


def test_a_checkpoint_cannot_run_code(checkpoint):
    checkpoint.path.parent.mkdir()
    checkpoint.path.write_bytes(pickle.dumps(Payload(), protocol=2))
    assert checkpoint.load() is None


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


FOREIGN = {
    "a word": lambda path: path.write_text("hello\n"),
    "a line of numbers": lambda path: path.write_text("1 2 3\n"),
    "nothing": lambda path: path.write_bytes(b""),
    "a folder": lambda path: path.mkdir(),
    "a number": lambda path: torch.save(5, path),
    "a list": lambda path: torch.save([{"step": 3}], path),
    "no state": lambda path: torch.save({}, path),
    "a state without a name": lambda path: torch.save({"step": 3}, path),
    "a state that is a list": lambda path: torch.save(
        {"format": "unrolling checkpoint 1", "run": "run", "state": [1]}, path
    ),
    "another form": lambda path: torch.save({"format": "x", "run": "run", "state": {"step": 3}}, path),
    "weights alone": lambda path: torch.save({"w": torch.zeros(3)}, path),
    "a pickle of its own": lambda path: path.write_bytes(pickle.dumps({"step": 3})),
}


@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_checkpoint_of_ours_counts_as_none(checkpoint, make):
    checkpoint.path.parent.mkdir()
    make(checkpoint.path)
    assert checkpoint.load() is None


def test_the_checkpoint_of_another_run_counts_as_none(checkpoint):
    other = Checkpoint(checkpoint.path.with_name("other.pt"))
    other.save({"step": 3})
    other.path.rename(checkpoint.path)
    assert checkpoint.load() is None


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
