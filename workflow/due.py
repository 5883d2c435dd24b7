"""Why a page is due: what its executed copy was made from, beside what is there now."""

import hashlib
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from workflow.parameters import Scalar

LOCK = "requirements.lock"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def file_digest(path: Path) -> str | None:
    """Return a digest of a file's content, None if it is not there."""
    return _digest(path.read_bytes()) if path.exists() else None


def tree_digest(path: Path | None) -> str | None:
    """Return a digest of the names, sizes and times of a file or of all files of a folder, None without it.

    Data sets are large: their content is not read. What the folder itself is called does not count.
    """
    if path is None or not path.exists():
        return None
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    facts = [(file.relative_to(path).as_posix(), file.stat()) for file in files if file.is_file()]
    lines = (f"{name} {found.st_size} {found.st_mtime_ns}\n" for name, found in facts)
    return _digest("".join(lines).encode())


class Inputs:
    """What the pages of a repository are made from; each file is read once.

    Args:
        root: The repository.
    """

    def __init__(self, root: Path):
        self.root = root
        self._file, self._tree = cache(file_digest), cache(tree_digest)

    def of(
        self,
        notebook: Path,
        parameters: Mapping[str, Scalar],
        files: Iterable[Path],
        data: Mapping[str, Path | None],
    ) -> dict[str, Any]:
        """Return all that a page depends on, as plain values.

        Args:
            notebook: Its source.
            parameters: What papermill gives it.
            files: Those of the repository that it reads.
            data: Where its data sets are, None for one that is missing.
        """
        return {
            "notebook": self._file(notebook),
            "parameters": dict(parameters),
            "files": {path.relative_to(self.root).as_posix(): self._file(path) for path in sorted(files)},
            "data": {name: self._tree(place) for name, place in data.items()},
            "lock": self._file(self.root / LOCK),
            "python": sys.version,
        }


def why_due(before: Any, now: Mapping[str, Any]) -> str | None:
    """Return in one phrase why a page with these inputs must be run, None if its copy is up to date.

    Args:
        before: What :meth:`Inputs.of` said when the copy was made; anything else if nothing is known.
        now: What it says now.
    """
    if not isinstance(before, Mapping) or before.keys() != now.keys():
        return "not run yet"
    if before == now:
        return None
    if before["notebook"] != now["notebook"]:
        return "its notebook changed"
    for kind, words in (("parameters", "parameter {}"), ("data", "data set {}"), ("files", "{}")):
        if changed := _differing(before[kind], now[kind]):
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            return f"{words.format(changed[0])}{more} changed"
    return f"{LOCK} changed" if before["lock"] != now["lock"] else "another Python"


def _differing(before: Mapping, now: Mapping) -> list[str]:
    missing = object()
    return sorted(n for n in before.keys() | now.keys() if before.get(n, missing) != now.get(n, missing))
