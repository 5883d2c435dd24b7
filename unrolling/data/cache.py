"""Decoded data kept between runs: one .npz file per source, replaced when the source changes."""

import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from unrolling._files import remove_abandoned, replacing
from unrolling._folders import expand

Arrays = dict[str, np.ndarray]

_FORMAT = 1  # raise it when the meaning of the stored arrays changes


def cache_folder() -> Path:
    """Return ``UNROLLING_CACHE``, or ``unrolling`` in the user's cache folder."""
    if named := os.environ.get("UNROLLING_CACHE"):
        return expand("UNROLLING_CACHE", named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unrolling"


def cached(source: Path | str, state: str, build: Callable[[], Arrays]) -> Arrays:
    """Return ``build()``, or the arrays it returned for the same source in the same state.

    A cache that is damaged or of another state is replaced; one that cannot be written is done without.

    Args:
        source: The file or folder that ``build`` reads; or a name, where it reads none.
        state: Changes whenever the source does.
        build: Makes the arrays; no object arrays, so reading them back executes nothing.
    """
    if isinstance(source, Path):
        source = source.resolve()
    label = Path(source).name
    state = f"{_FORMAT} {state}"
    try:
        path = cache_folder() / f"{label}-{hashlib.sha256(os.fsencode(source)).hexdigest()[:12]}.npz"
    except RuntimeError:  # the user has no home folder, as in some containers
        return build()
    arrays = _read(path, state)
    if arrays is None:
        arrays = build()
        _write(path, state, arrays)
    return arrays


def _read(path: Path, state: str) -> Arrays | None:
    try:
        # Opened here, because numpy leaves a file that it cannot parse open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if str(stored["state"]) != state:
                return None
            return {name: stored[name] for name in stored.files if name != "state"}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, MemoryError):
        return None


def _write(path: Path, state: str, arrays: Arrays) -> None:
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent)
        with replacing(path) as file:
            np.savez(file, state=np.array(state), **arrays)
