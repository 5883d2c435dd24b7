"""Exact resume: the last good state of a run in one file that is never half written, and never misread."""

import hashlib
import io
import os
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from unrolling._files import remove_abandoned, replacing
from unrolling.runs.stopping import Stop, Stopped
from unrolling.training import Observer

#: What a file of ours begins with; its number is raised by one when the form of the states changes.
_FORMAT = b"unrolling checkpoint 2 "
#: Bytes before the content: the format, the SHA-256 of the content, and the end of the line.
_HEADER = len(_FORMAT) + 64 + 1


class Checkpoint:
    """One file holding a state of tensors, numbers, strings, lists and dicts.

    Args:
        path: Where it lives. Its folder is made when first needed.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self._before, self._since = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        """How long this run has been worked on, before it was saved and since this object was made."""
        return self._before + time.monotonic() - self._since

    def save(self, state: dict[str, Any]) -> None:
        """Replace the stored state. A kill at any moment leaves the old or the new one, never a mixture."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as file:
            file.write(bytes(_HEADER))
            content = _Digested(file)
            torch.save({"run": self.path.stem, "state": state, "seconds": self.seconds}, content)
            file.seek(0)
            file.write(_FORMAT + content.digest() + b"\n")

    def load(self) -> dict[str, Any] | None:
        """Return the stored state as it was saved, or None if there is none of this run: it starts over.

        Only plain data is read, never code. What cannot be the state is set aside, and a warning says why.
        What killed processes left unfinished beside it is cleared away.
        """
        remove_abandoned(self.path.parent)
        try:
            with self.path.open("rb") as file:
                header = file.read(_HEADER)
                content = file.read() if header.startswith(_FORMAT) else b""
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            return self.set_aside(f"cannot be read ({error.strerror})")
        if not header.startswith(_FORMAT):
            return self.set_aside("is not of this version's form")
        if header != _FORMAT + hashlib.sha256(content).hexdigest().encode() + b"\n":
            return self.set_aside("is damaged (its checksum is another)")
        try:
            found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            run, state, seconds = found["run"], found["state"], float(found.get("seconds", 0.0))
        except Exception:  # on what is no checkpoint the reader raises nearly every type there is
            return self.set_aside("is not of this version's form")
        if not isinstance(state, dict):
            return self.set_aside("is not of this version's form")
        if run != self.path.stem:  # its state would be taken for this one's
            return self.set_aside("is that of another run")
        self._before = seconds
        return state

    def set_aside(self, reason: str) -> None:
        """Move the file out of the way, and warn that the run starts over.

        Args:
            reason: What is wrong with the file, as the end of "the checkpoint ...".
        """
        aside = self.path.with_name(f"{self.path.name}.set-aside")
        try:
            os.replace(self.path, aside)
            now = f"is {aside.name} now"
        except OSError as error:
            now = f"cannot be moved away ({error.strerror})"
        warnings.warn(
            f"the checkpoint {self.path} {reason}: the run starts over, and the file {now}.", stacklevel=3
        )

    def remove(self) -> None:
        """Delete the file, if it is there and can be deleted: the next run does without it."""
        with suppress(OSError):
            self.path.unlink()


class _Digested:
    """A file that is written once, from its beginning to its end, and its checksum."""

    def __init__(self, file: BinaryIO):
        self._file, self._hash = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def digest(self) -> bytes:
        return self._hash.hexdigest().encode()


class Checkpointer(Observer):
    """Saves a state during training, at most every ``every_seconds``, and when training is asked to stop.

    When a state is saved has no influence on the numbers, only on how much is computed again after a kill. So
    training goes on where none can be saved, for example on a full disk; a warning says so.

    Args:
        checkpoint: Where to save.
        collect: ``collect(num_steps) -> state`` after ``num_steps`` steps.
        every_seconds: Least time between two saves.
        stop: Asked after every step; see :mod:`unrolling.runs.stopping`.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        collect: Callable[[int], dict[str, Any]],
        *,
        every_seconds: float = 30.0,
        stop: Stop | None = None,
    ):
        self._checkpoint, self._collect, self._every = checkpoint, collect, every_seconds
        self._stop = stop or (lambda: False)
        self._saved_at = time.monotonic()

    def after_step(self, step: int) -> None:
        """Save if it is time.

        Raises:
            Stopped: If training is to stop; what could be saved is saved.
        """
        stop = self._stop()
        if not stop and time.monotonic() - self._saved_at < self._every:
            return
        state = self._collect(step + 1)
        try:
            self._checkpoint.save(state)
        except (OSError, RuntimeError) as error:  # PyTorch's own word for a file it cannot write
            path = self._checkpoint.path
            warnings.warn(f"cannot save the checkpoint {path}: {error}.", stacklevel=2)
        self._saved_at = time.monotonic()
        if stop:
            raise Stopped(f"stopped after {step + 1} steps, to go on from the checkpoint.")
