"""Checkpoints: whole or absent, and never code."""

import pickle

import pytest
import torch

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
