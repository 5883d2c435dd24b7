"""Exact resume: the last good state of a run in one file that is never half written."""

import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from unrolling.training import Observer


class Checkpoint:
    """One file holding a state of tensors, numbers, strings, lists and dicts.

    Args:
        path: Where it lives. Its folder is made when first needed.
    """

    def __init__(self, path: Path):
        self.path = Path(path)

    def save(self, state: dict[str, Any]) -> None:
        """Replace the stored state. A kill at any moment leaves the old or the new one, never a mixture."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        torch.save(state, unfinished)
        os.replace(unfinished, self.path)

    def load(self) -> dict[str, Any] | None:
        """Return the stored state, or None if there is none that can be read: then the run starts over.

        Only plain data is read, never code.
        """
        try:
            return torch.load(self.path, map_location="cpu", weights_only=True)
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError):
            return None

    def remove(self) -> None:
        """Delete the file, if it is there."""
        self.path.unlink(missing_ok=True)


class Checkpointer(Observer):
    """Saves a state during training, at most every ``every_seconds``.

    When a state is saved has no influence on the numbers, only on how much is computed again after a kill.

    Args:
        checkpoint: Where to save.
        collect: ``collect(num_steps) -> state`` after ``num_steps`` steps.
        every_seconds: Least time between two saves.
    """

    def __init__(
        self, checkpoint: Checkpoint, collect: Callable[[int], dict[str, Any]], *, every_seconds: float = 30.0
    ):
        self._checkpoint, self._collect, self._every = checkpoint, collect, every_seconds
        self._saved_at = time.monotonic()

    def after_step(self, step: int) -> None:
        """Save if it is time."""
        if time.monotonic() - self._saved_at >= self._every:
            self._checkpoint.save(self._collect(step + 1))
            self._saved_at = time.monotonic()
