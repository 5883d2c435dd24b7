"""Exact resume: the last good state of a run in one file that is never half written."""

import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from unrolling._files import remove_abandoned, replacing
from unrolling.training import Observer

#: What a file of ours says it is; raised by one when the form of the states changes.
_FORMAT = "unrolling checkpoint 1"


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
        with replacing(self.path) as file:
            torch.save({"format": _FORMAT, "run": self.path.stem, "state": state}, file)

    def load(self) -> dict[str, Any] | None:
        """Return the stored state, or None if there is none of this run that can be read: it starts over.

        Only plain data is read, never code. What killed processes left unfinished beside it is cleared away.
        """
        remove_abandoned(self.path.parent)
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception:  # on what is no checkpoint the reader raises nearly every type there is
            return None
        if not isinstance(content, dict) or content.keys() != {"format", "run", "state"}:
            return None
        # A state of another run would be taken for this one's.
        ours = content["format"] == _FORMAT and content["run"] == self.path.stem
        return content["state"] if ours and isinstance(content["state"], dict) else None

    def remove(self) -> None:
        """Delete the file, if it is there and can be deleted: the next run does without it."""
        with suppress(OSError):
            self.path.unlink()


class Checkpointer(Observer):
    """Saves a state during training, at most every ``every_seconds``.

    When a state is saved has no influence on the numbers, only on how much is computed again after a kill. So
    training goes on where none can be saved, for example on a full disk; a warning says so.

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
            state = self._collect(step + 1)
            try:
                self._checkpoint.save(state)
            except (OSError, RuntimeError) as error:  # PyTorch's own word for a file it cannot write
                path = self._checkpoint.path
                warnings.warn(f"cannot save the checkpoint {path}: {error}.", stacklevel=2)
            self._saved_at = time.monotonic()
