"""The run store: one small JSON file per run, named by what decides its numbers.

The address of a run is a hash of its settings, the fingerprint of its data and the schema number. How it was
made (machine, versions, commit, time) is provenance, kept beside the result and not part of the address.
"""

import gzip
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from unrolling._checks import InputError, StoreError

#: Raised by one whenever a change of the code changes the numbers of a run with unchanged settings.
SCHEMA = 1
#: How the canonical spelling of a run begins: its keys are sorted.
_START = '{"address":"'


def canonical(value: Any) -> str:
    """Return ``value`` as JSON in its one canonical spelling; NaN and infinity are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def make_address(config: Mapping[str, Any], fingerprint: str) -> str:
    """Return the 16 hex digits under which the run with these settings on this data is stored."""
    text = canonical({"schema": SCHEMA, "config": dict(config), "data": fingerprint})
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Record:
    """A finished run.

    Attributes:
        config: Its settings, as plain values.
        data: Name, description and fingerprint of its data.
        result: What it measured.
        provenance: How it was made: time, duration, device, versions, commit.
    """

    config: dict[str, Any]
    data: dict[str, str]
    result: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def address(self) -> str:
        """The run's address."""
        return make_address(self.config, self.data["fingerprint"])

    def to_json(self) -> str:
        """Return one line of JSON with a checksum of its own content."""
        body = {
            "schema": SCHEMA,
            "address": self.address,
            "config": self.config,
            "data": self.data,
            "result": self.result,
            "provenance": self.provenance,
        }
        return canonical(body | {"checksum": _checksum(body)})


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(body).encode()).hexdigest()


def read_record(text: str, source: str) -> Record:
    """Return the run in ``text``, verified against its checksum and address.

    Args:
        text: What :meth:`Record.to_json` wrote.
        source: Where it came from, for the error.

    Raises:
        StoreError: If it is damaged or of another schema.
    """
    remedy = "Delete it (unrolling store remove-damaged) and run again; it will be computed anew."
    try:
        body = json.loads(text)
        checksum = body.pop("checksum")
        schema = body["schema"]
        record = Record(body["config"], body["data"], body["result"], body["provenance"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"damaged run {source}: not a complete run record ({error}). {remedy}") from error
    if schema != SCHEMA:
        raise StoreError(f"run {source} has schema {schema}, expected {SCHEMA}. {remedy}")
    if checksum != _checksum(body) or body["address"] != record.address:
        raise StoreError(f"damaged run {source}: its content does not match its checksum. {remedy}")
    return record


def read_packed(path: str | os.PathLike[str]) -> list[Record]:
    """Return the runs of a packed file, all verified.

    Args:
        path: A file that :meth:`Store.pack` made.

    Raises:
        StoreError: If it cannot be read, or one of its runs is damaged.
    """
    return [read_record(line, where) for where, line in _packed_lines(path)]


def _packed_lines(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    try:
        lines = gzip.decompress(Path(path).read_bytes()).decode().splitlines()
    except (OSError, EOFError, ValueError) as error:
        raise StoreError(
            f"cannot read the packed runs {path}: {error}. Expected a file made by 'store pack'."
        ) from error
    return [(f"{path}, line {number}", line) for number, line in enumerate(lines, 1)]


@lru_cache(maxsize=64)
def _packed(path: Path, modified: int) -> dict[str, tuple[str, str]]:
    """Where each run of a packed file stands, and its line: unpacked once, and verified when it is read."""

    def address(where: str, line: str) -> str:
        found = line.removeprefix(_START)
        return found[:16] if found != line else read_record(line, where).address

    return {address(where, line): (where, line) for where, line in _packed_lines(path)}


@lru_cache(maxsize=64)
def _pack_paths(root: Path, modified: int) -> list[Path]:
    return sorted(root / name for name in os.listdir(root) if name.endswith(".jsonl.gz"))


class Store:
    """A folder of runs. Many processes may read and write it at once.

    Runs are single files. Packed files in the folder, ``*.jsonl.gz``, are part of the store as well; they are
    only read.

    Args:
        root: The folder; it is made by the first write.
    """

    def __init__(self, root: str | os.PathLike[str]):
        self.root = Path(root)

    def path(self, address: str) -> Path:
        """Return the file of the run with this address."""
        return self.root / f"{address}.json"

    def __contains__(self, address: str) -> bool:
        return self.path(address).exists() or any(address in runs for runs in self._packs())

    def addresses(self) -> list[str]:
        """Return the addresses of all runs, sorted."""
        try:
            names = os.listdir(self.root)
        except OSError:
            names = []
        loose = (name.removesuffix(".json") for name in names if name.endswith(".json"))
        return sorted({*loose, *(address for runs in self._packs() for address in runs)})

    def __iter__(self) -> Iterator[Record]:
        return (self._read(address) for address in self.addresses())

    def _packs(self) -> list[dict[str, tuple[str, str]]]:
        """The runs of each packed file. The folder, which may be large, is listed only if it has changed."""
        if not self.root.is_dir():
            return []
        modified = self.root.stat().st_mtime_ns
        # The clock of a file system ticks slowly: what has just changed may change again at the same time.
        settled = abs(time.time_ns() - modified) > 10**8
        list_packs = _pack_paths if settled else _pack_paths.__wrapped__
        return [_packed(path, path.stat().st_mtime_ns) for path in list_packs(self.root, modified)]

    def get(self, address: str) -> Record | None:
        """Return the run, or None if it is not here.

        Raises:
            StoreError: If its file is damaged.
        """
        return self._read(address) if address in self else None

    def _read(self, address: str) -> Record:
        path = self.path(address)
        if not path.exists():
            for runs in self._packs():
                if address in runs:
                    where, line = runs[address]
                    return read_record(line, where)
        try:
            record = read_record(path.read_text(), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"cannot read run {path}: {error}.") from error
        if record.address != address:
            raise StoreError(f"damaged run {path}: it holds run {record.address}. Rename or delete it.")
        return record

    def lines(self, describe: Callable[[Record], str], *, name: str) -> list[str]:
        """Return a line about each run: its address and what ``describe`` says of it; sorted.

        A run is read when it is new or its file has changed. The other lines come from ``NAME.cache`` in the
        folder, which holds nothing that could not be made again.

        Args:
            describe: Returns the text, one line.
            name: What the lines are kept under; take a new one when ``describe`` changes.

        Raises:
            StoreError: If a file that has to be read is damaged.
        """
        cache = self.root / f"{name}.cache"
        try:
            known = json.loads(cache.read_text())
        except (OSError, ValueError):
            known = {}
        kept = {}  # by file: size and time of the file, and its lines
        for entry in list(os.scandir(self.root)) if self.root.is_dir() else ():
            if entry.name.endswith((".json", ".jsonl.gz")):
                facts = entry.stat()
                version = f"{facts.st_size} {facts.st_mtime_ns}\n"
                own = known.get(entry.name, "")
                if not own.startswith(version):
                    runs = self._records_in(entry.name)
                    own = version + "\n".join(f"{run.address} {describe(run)}" for run in runs)
                kept[entry.name] = own
        if kept != known:
            with suppress(StoreError):  # a store that cannot be written is read anew each time
                self._write(cache, canonical(kept))
        return sorted({line for own in kept.values() for line in own.split("\n")[1:]})

    def _records_in(self, file: str) -> list[Record]:
        packed = file.endswith(".gz")
        return read_packed(self.root / file) if packed else [self._read(file.removesuffix(".json"))]

    def put(self, record: Record) -> Path:
        """Write a run; the file appears complete or not at all.

        Raises:
            StoreError: If the folder cannot be written.
        """
        path = self.path(record.address)
        self._write(path, record.to_json() + "\n")
        return path

    def _write(self, path: Path, text: str) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self.root, suffix=".tmp", delete=False) as unfinished:
                unfinished.write(text)
            os.chmod(unfinished.name, 0o644)
            os.replace(unfinished.name, path)
        except OSError as error:
            raise self._cannot_write(error) from error

    def check_writable(self) -> None:
        """Raise before work is spent on runs that could not be kept."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.root, suffix=".tmp"):
                pass
        except OSError as error:
            raise self._cannot_write(error) from error

    def _cannot_write(self, error: OSError) -> StoreError:
        return StoreError(
            f"cannot write to the run store {self.root}: {error.strerror or error}. "
            "Name a folder that can be written in UNROLLING_STORE."
        )

    def damaged(self) -> dict[str, str]:
        """Return what is wrong with each damaged run, by address."""
        found = {}
        for address in self.addresses():
            try:
                self._read(address)
            except StoreError as error:
                found[address] = str(error)
        return found

    def remove(self, address: str) -> None:
        """Delete a run."""
        if address not in self:
            raise InputError(
                f"no run {address!r} in {self.root}: expected one of {len(self.addresses())} addresses."
            )
        if not self.path(address).exists():
            raise InputError(
                f"run {address!r} is in a packed file of {self.root}; pack the others anew instead."
            )
        self.path(address).unlink()

    def pack(self, path: str | os.PathLike[str], addresses: Iterable[str] | None = None) -> int:
        """Write runs, all by default, into one file to carry elsewhere; return how many.

        The file is gzipped JSON, one run per line, the same bytes for the same runs.
        """
        chosen = self.addresses() if addresses is None else sorted(addresses)
        lines = "".join(self._read(address).to_json() + "\n" for address in chosen)
        target = Path(path)
        unfinished = target.with_name(target.name + ".tmp")
        try:
            unfinished.write_bytes(gzip.compress(lines.encode(), mtime=0))
            os.replace(unfinished, target)
        except OSError as error:
            raise StoreError(f"cannot write {target}: {error.strerror or error}.") from error
        return len(chosen)

    def unpack(self, path: str | os.PathLike[str]) -> int:
        """Take in the runs of a packed file, all verified before the first is written; return how many."""
        records = read_packed(path)
        for record in records:
            self.put(record)
        return len(records)
