"""The run store: one small JSON file per run, named by what decides its numbers.

The address of a run is a hash of its settings, the fingerprint of its data and the schema number. How it was
made (machine, versions, commit, time) is provenance, kept beside the result and not part of the address.
"""

import gzip
import hashlib
import json
import os
import re
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from unrolling._checks import InputError, StoreError, printable, shown
from unrolling._files import remove_abandoned, replacing
from unrolling._folders import expand
from unrolling._sizes import check_regular, read_regular, size_limit, too_large

#: Raised by one whenever a change of the code changes the numbers of a run with unchanged settings.
SCHEMA = 1
#: The largest a single run may be, in bytes; the largest of the book has a hundredth of it.
LARGEST_RUN = 2**26
_ADDRESS = re.compile("[0-9a-f]{16}")
#: How the canonical spelling of a run begins: its keys are sorted.
_START = re.compile(r'\{"address":"([0-9a-f]{16})"')


class DamagedRun(StoreError):
    """A stored run is not what was written; it can only be computed again."""


def is_address(text: object) -> bool:
    """Return whether ``text`` could be the address of a run: 16 digits 0-9, a-f."""
    return isinstance(text, str) and _ADDRESS.fullmatch(text) is not None


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
        DamagedRun: If it is damaged, or of an earlier schema.
        StoreError: If it is of a later schema.
    """
    remedy = "Delete it (unrolling store remove-damaged) and run again; it will be computed anew."
    try:
        body = json.loads(text)
        checksum, schema = body.pop("checksum"), body["schema"]
        parts = [body[part] for part in ("config", "data", "result", "provenance")]
        whole = checksum == _checksum(body) and all(isinstance(part, dict) for part in parts)
        record = Record(*parts)
        whole = whole and body["address"] == record.address and isinstance(record.data["fingerprint"], str)
    # NaN and numbers beyond the floats are found by `canonical`, thousands of nested lists by the parser.
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedRun(
            f"damaged run {source}: not a complete run record ({shown(error)}). {remedy}"
        ) from error
    if isinstance(schema, int) and schema > SCHEMA:
        raise StoreError(
            f"run {source} has schema {schema}, and this version of the package reads {SCHEMA}. Update it."
        )
    if not whole:
        raise DamagedRun(f"damaged run {source}: its content does not match its checksum. {remedy}")
    if schema != SCHEMA:
        raise DamagedRun(f"run {source} has schema {shown(schema)}, expected {SCHEMA}. {remedy}")
    return record


def read_packed(path: str | os.PathLike[str]) -> list[Record]:
    """Return the runs of a packed file, all verified.

    Args:
        path: A file that :meth:`Store.pack` made.

    Raises:
        StoreError: If it cannot be read, unpacks to more than :func:`~unrolling._sizes.size_limit`, or one of
            its runs is damaged.
    """
    return [read_record(line, where) for where, line in _packed_lines(expand("packed file", path))]


def _packed_lines(path: Path) -> list[tuple[str, str]]:
    limit = size_limit()
    lines, size = [], 0
    try:
        check_regular(path, limit)
        with gzip.open(path) as file:
            # Line by line, so that what is no store is noticed before it fills the memory.
            while line := file.readline(LARGEST_RUN + 1):
                size += len(line)
                if len(line) > LARGEST_RUN:
                    raise ValueError(
                        f"line {len(lines) + 1} is longer than the {LARGEST_RUN:,} bytes of a run"
                    )
                if size > limit:
                    raise StoreError(too_large(f"the packed file {path}", size, limit))
                lines.append(line.decode().rstrip("\n"))
        if path.stat().st_size == 0:  # gzip takes it for a file of nothing
            raise ValueError("it is empty")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise StoreError(
            f"cannot read the packed runs {path}: {reason}. Expected a file made by 'store pack'."
        ) from error
    return [(f"{path}, line {number}", line) for number, line in enumerate(lines, 1)]


class _Pack(NamedTuple):
    """The lines of a packed file: those of runs by address, and what is wrong with others by where it is."""

    runs: dict[str, tuple[str, str]]
    broken: dict[str, StoreError]


@lru_cache(maxsize=64)
def _read_pack(path: Path, modified: int, size: int) -> _Pack:
    """Where each run of a packed file stands, and its line: unpacked once, and verified when it is read."""
    pack = _Pack({}, {})
    for where, line in _packed_lines(path):
        if start := _START.match(line):
            pack.runs[start[1]] = where, line
            continue
        try:
            pack.runs[read_record(line, where).address] = where, line
        except StoreError as error:
            pack.broken[where] = error
    return pack


def _pack_at(path: Path) -> _Pack:
    try:
        facts = path.stat()
    except OSError as error:
        raise StoreError(f"cannot read the packed runs {path}: {error.strerror or error}.") from error
    return _read_pack(path, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=64)
def _pack_paths(root: Path, modified: int) -> list[Path]:
    return sorted(root / name for name in os.listdir(root) if name.endswith(".jsonl.gz"))


class Imported(NamedTuple):
    """What :meth:`Store.unpack` did.

    Attributes:
        runs: How many runs the packed file has.
        replaced: Addresses of those that were here with another result, which is gone.
    """

    runs: int
    replaced: list[str]


class Store:
    """A folder of runs. Many processes may read and write it at once.

    Runs are single files, named ``ADDRESS.json``. Packed files in the folder, ``*.jsonl.gz``, are part of the
    store as well; they are only read. Every other file is left alone.

    Args:
        root: The folder; it is made by the first write.

    Raises:
        InputError: If it names no folder.
    """

    def __init__(self, root: str | os.PathLike[str]):
        self.root = expand("the run store", root)

    def path(self, address: str) -> Path:
        """Return the file of the run with this address."""
        if not is_address(address):
            raise InputError(f"no run {shown(address)}: expected an address, 16 digits 0-9, a-f.")
        return self.root / f"{address}.json"

    def __contains__(self, address: str) -> bool:
        if not is_address(address):
            return False
        return os.path.exists(self.path(address)) or any(address in pack.runs for pack in self._packs())

    def addresses(self) -> list[str]:
        """Return the addresses of all runs, sorted."""
        return sorted({*self._loose(), *(address for pack in self._packs() for address in pack.runs)})

    def check_exists(self) -> None:
        """Raise a :class:`StoreError` if the folder does not exist."""
        if not os.path.isdir(self.root):
            raise StoreError(
                f"no run store {self.root}: expected a folder of runs. Name another with --store."
            )

    def other_files(self) -> list[str]:
        """Return the names of JSON files in the folder that are no runs."""
        names = (name for name in self._names() if name.endswith(".json"))
        return sorted(name for name in names if not is_address(name.removesuffix(".json")))

    def __iter__(self) -> Iterator[Record]:
        return (self._read(address) for address in self.addresses())

    def _names(self) -> list[str]:
        try:
            return os.listdir(self.root)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise self._cannot_read(error) from error

    def _loose(self) -> list[str]:
        """The addresses of the runs that are single files."""
        names = (name.removesuffix(".json") for name in self._names() if name.endswith(".json"))
        return sorted(filter(is_address, names))

    def _packs(self) -> list[_Pack]:
        return [_pack_at(path) for path in self._pack_paths()]

    def _pack_paths(self) -> list[Path]:
        """The packed files. The folder, which may be large, is listed only if it has changed."""
        if not os.path.isdir(self.root):
            return []
        try:
            modified = self.root.stat().st_mtime_ns
            # The clock of a file system ticks slowly: what has just changed may change at the same time.
            settled = abs(time.time_ns() - modified) > 10**8
            return (_pack_paths if settled else _pack_paths.__wrapped__)(self.root, modified)
        except OSError as error:
            raise self._cannot_read(error) from error

    def get(self, address: str) -> Record | None:
        """Return the run, or None if it is not here.

        Raises:
            StoreError: If its file is damaged.
        """
        return self._read(address) if address in self else None

    def _read(self, address: str) -> Record:
        path = self.path(address)
        where, text = str(path), None
        if not os.path.exists(path):
            packed = [pack.runs[address] for pack in self._packs() if address in pack.runs]
            where, text = packed[0] if packed else (where, None)
        if text is None:
            try:
                text = read_regular(path, LARGEST_RUN).decode()
            except UnicodeDecodeError as error:
                raise DamagedRun(f"damaged run {path}: {error}. Delete it, and run again.") from error
            except OSError as error:
                raise StoreError(f"cannot read run {path}: {error.strerror or error}.") from error
        record = read_record(text, where)
        if record.address != address:
            raise StoreError(f"damaged run {where}: it holds run {record.address}. Rename or delete it.")
        return record

    def lines(self, describe: Callable[[Record], str], *, name: str) -> list[str]:
        """Return a line about each run: its address and what ``describe`` says of it; sorted.

        A run is read when it is new or its file has changed. The other lines come from ``NAME.cache`` in the
        folder, which holds nothing that could not be made again.

        Args:
            describe: Returns the text. What a terminal would act on is written as an escape.
            name: What the lines are kept under; take a new one when ``describe`` changes.

        Raises:
            StoreError: If a file that has to be read is damaged.
        """
        cache = self.root / f"{name}.cache"
        known = _kept_lines(cache)
        kept = {}  # by file: size and time of the file, and its lines
        for file in sorted(self._names()):
            packed = file.endswith(".jsonl.gz")
            if not packed and not (file.endswith(".json") and is_address(file.removesuffix(".json"))):
                continue
            path = self.root / file
            try:
                facts = path.stat()
            except FileNotFoundError:  # removed meanwhile
                continue
            except OSError as error:
                raise StoreError(f"cannot read run {path}: {error.strerror or error}.") from error
            version = f"{facts.st_size} {facts.st_mtime_ns}\n"
            own = known.get(file, "")
            if not own.startswith(version):
                runs = read_packed(path) if packed else [self._read(file.removesuffix(".json"))]
                own = version + "\n".join(f"{run.address} {printable(describe(run))}" for run in runs)
            kept[file] = own
        if kept != known:
            with suppress(StoreError):  # a store that cannot be written is read anew each time
                self._write(cache, canonical({"checksum": _checksum(kept), "lines": kept}))
        return sorted({line for own in kept.values() for line in own.split("\n")[1:]})

    def put(self, record: Record) -> Path:
        """Write a run; the file appears complete or not at all.

        Raises:
            StoreError: If the folder cannot be written, or the record holds what JSON does not, such as NaN.
        """
        try:
            path, text = self.path(record.address), record.to_json() + "\n"
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise StoreError(f"this run cannot be stored: {shown(error, 200)}.") from error
        self._write(path, text)
        return path

    def _write(self, path: Path, text: str) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                file.write(text.encode())
        except OSError as error:
            raise self._cannot_write(error) from error

    def check_writable(self) -> None:
        """Raise before work is spent on runs that could not be kept; what kills have left is cleared away."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            remove_abandoned(self.root)
            with tempfile.TemporaryFile(dir=self.root) as file:
                file.write(bytes(1 << 16))  # more than a run: a full disk takes an empty file
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._cannot_write(error) from error

    def _cannot_write(self, error: OSError) -> StoreError:
        return StoreError(
            f"cannot write to the run store {self.root}: {error.strerror or error}. "
            "Name a folder that can be written in UNROLLING_STORE."
        )

    def _cannot_read(self, error: OSError) -> StoreError:
        return StoreError(
            f"cannot read the run store {self.root}: {error.strerror or error}. "
            "Name a folder that can be read in UNROLLING_STORE."
        )

    def damaged(self) -> dict[str, str]:
        """Return what is wrong with each run that cannot be read, by address, or by line or packed file."""
        return {place: str(error) for place, error in self._faults(self._loose()).items()}

    def _faults(self, loose: list[str]) -> dict[str, StoreError]:
        found = {}
        for address in loose:
            try:
                self._read(address)
            except StoreError as error:
                found[address] = error
        for path in self._pack_paths():
            try:
                pack = _pack_at(path)
            except StoreError as error:
                found[path.name] = error
                continue
            found |= pack.broken
            for address in pack.runs.keys() - set(loose):
                try:
                    self._read(address)
                except StoreError as error:
                    found[address] = error
        return found

    def remove_damaged(self) -> tuple[dict[str, str], dict[str, str]]:
        """Delete the damaged runs that are single files.

        What only cannot be read for now, a run of a later version, a whole run under another's name, and all
        that is in packed files stays.

        Returns:
            What was wrong with each that was deleted, and with each that stays.
        """
        removed, left, loose = {}, {}, self._loose()
        for place, error in self._faults(loose).items():
            left[place] = str(error)
            if isinstance(error, DamagedRun) and place in set(loose):
                try:
                    self.path(place).unlink()
                except OSError as why:
                    left[place] = f"cannot delete {self.path(place)}: {why.strerror or why}."
                else:
                    removed[place] = left.pop(place)
        return removed, left

    def remove(self, address: str) -> None:
        """Delete a run.

        Raises:
            InputError: If it is not here, or in a packed file.
            StoreError: If its file cannot be deleted.
        """
        if address not in self:
            raise InputError(
                f"no run {shown(address)} in {self.root}: expected one of {len(self.addresses())} addresses."
            )
        if not self.path(address).exists():
            raise InputError(
                f"run {address!r} is in a packed file of {self.root}; pack the others anew instead."
            )
        try:
            self.path(address).unlink()
        except OSError as error:
            raise StoreError(f"cannot delete {self.path(address)}: {error.strerror or error}.") from error

    def pack(
        self,
        path: str | os.PathLike[str],
        addresses: Iterable[str] | None = None,
        *,
        skip_damaged: bool = False,
    ) -> int:
        """Write runs, all by default, into one file to carry elsewhere; return how many.

        The file is gzipped JSON, one run per line, the same bytes for the same runs. It may replace another
        packed file, and nothing else.

        Args:
            path: The file.
            addresses: The runs.
            skip_damaged: Leave out the damaged ones.

        Raises:
            StoreError: If a run is damaged, or the file cannot be written, or is there and no packed store.
        """
        target = expand("the packed file", path)
        _check_replaceable(target)
        lines = []
        for address in self.addresses() if addresses is None else sorted(set(addresses)):
            try:
                lines.append(self._read(address).to_json() + "\n")
            except StoreError:
                if not skip_damaged:
                    raise
        try:
            with replacing(target) as file:
                file.write(gzip.compress("".join(lines).encode(), mtime=0))
        except OSError as error:
            raise StoreError(f"cannot write {target}: {error.strerror or error}.") from error
        return len(lines)

    def unpack(self, path: str | os.PathLike[str]) -> Imported:
        """Take in the runs of a packed file, all verified before the first is written.

        A run that is here already gets the result of the packed file; see :attr:`Imported.replaced`.

        Raises:
            StoreError: If the file cannot be read, one of its runs is damaged, or the folder is not writable.
        """
        records, replaced = read_packed(path), []
        for record in records:
            try:
                present = self.get(record.address)
            except StoreError:  # damaged here: the import mends it
                present = None
            if present == record:
                continue
            if present is not None and present.result != record.result:
                replaced.append(record.address)
            self.put(record)
        return Imported(len(records), replaced)


def _kept_lines(cache: Path) -> dict[str, str]:
    """Return what :meth:`Store.lines` has kept, or nothing if that is not what it wrote."""
    try:
        content = json.loads(read_regular(cache, size_limit()))
        lines = content["lines"]
        whole = content["checksum"] == _checksum(lines)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    if not whole or not isinstance(lines, dict) or not all(isinstance(own, str) for own in lines.values()):
        return {}
    return lines


def _check_replaceable(target: Path) -> None:
    """Raise unless there is nothing at ``target``, an empty file, or a packed store."""
    try:
        if not os.path.lexists(target):
            return
        check_regular(target, size_limit())
        if target.stat().st_size == 0:
            return
        with gzip.open(target) as file:
            start = file.read(64).decode()
        packed = start == "" or _START.match(start)
    except (OSError, EOFError, ValueError, zlib.error):
        packed = False
    if not packed:
        raise StoreError(
            f"cannot write {target}: it is there and no packed store. Name a new file, such as runs.jsonl.gz."
        )
