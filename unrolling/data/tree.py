"""A tree ``{train,test}/<class>/<file>``, in a folder or in a tar archive, as one stream of files."""

import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tqdm import tqdm

from unrolling._checks import DataError
from unrolling._sizes import size_limit, too_large
from unrolling.data.dataset import content_fingerprint

SPLITS = ("train", "test")
_OPENERS = {".tar": open, ".tar.gz": gzip.open, ".tgz": gzip.open, ".tar.xz": lzma.open}

# (split, class, file) and the file's bytes; (split, class) and None for the folder of a class.
Entry = tuple[tuple[str, ...], bytes | None]

_START = 16  # bytes of a file that tell what it is


class _File(NamedTuple):
    """A file that can be read as long as no further one has been asked for."""

    size: int
    open: Callable[[], BinaryIO]


def _archive_suffix(path: Path) -> str | None:
    return next((suffix for suffix in _OPENERS if path.name.endswith(suffix)), None)


def _layout(kind: str) -> str:
    return f"{{train,test}}/<class>/<{kind}>"


def find_tree(path: Path, kind: str) -> tuple[bool, str]:
    """Return whether ``path`` looks like such a tree or an archive of one, and why not.

    Args:
        path: The folder that holds ``train`` and ``test``, or an archive.
        kind: What the files are, for the message: ``"image"`` or ``"text"``.
    """
    if path.is_file() and _archive_suffix(path):
        return True, str(path)
    if path.is_file():
        return False, f"{path} is neither a folder nor one of {', '.join(_OPENERS)}"
    missing = [split for split in SPLITS if not (path / split).is_dir()]
    if missing:
        return False, f"expected {_layout(kind)} in {path}, found no folder {' and no folder '.join(missing)}"
    return True, str(path)


def tree_state(name: str, path: Path, kind: str) -> str:
    """Return what tells one state of a tree from the next without reading it.

    Raises:
        DataError: If there is no tree.
    """
    found, where = find_tree(path, kind)
    if not found:
        raise DataError(f"{name}: {where}.")
    files = [path] if path.is_file() else [f for split in SPLITS for f in (path / split).glob("*/*")]
    try:
        stats = [(str(file), file.stat()) for file in sorted(files)]
    except OSError as error:  # a link that leads nowhere, for one
        raise DataError(f"{name}: cannot read {path}: {error}.") from error
    return content_fingerprint("\n".join(f"{file} {stat.st_size} {stat.st_mtime_ns}" for file, stat in stats))


def read_tree(
    name: str,
    path: Path,
    suffixes: Collection[str],
    verb: str,
    *,
    overlooked: Callable[[bytes], bool] = lambda start: False,
) -> Iterator[Entry]:
    """Yield the folders of classes and the files in them, in no particular order, in one pass.

    Hidden files and folders, files with other suffixes and deeper folders are ignored. All files together,
    and the whole of an archive, may have :func:`~unrolling._sizes.size_limit` bytes; sizes are compared
    before anything is read.

    Args:
        name: Name of the data set.
        path: A folder, or an archive with at most one leading folder.
        suffixes: Lower-case endings of the files to read.
        verb: What the progress bar says is being done.
        overlooked: Given the first bytes of a file with another suffix, says whether it is one to read.

    Raises:
        DataError: If a file cannot be read, the archive is damaged, they are too large, a link leads out of
            the folder, or a file would be overlooked.
    """
    limit, total = size_limit(), 0
    entries = _folder_entries(name, path) if path.is_dir() else _archive_entries(name, path, limit)
    try:
        for parts, file in tqdm(entries, f"{verb} {name}", unit=" files", disable=None):
            if len(parts) not in (2, 3) or parts[0] not in SPLITS or any(p.startswith(".") for p in parts):
                continue
            if file is None:
                if len(parts) == 2:
                    yield parts, None
            elif len(parts) == 3 and Path(parts[2]).suffix.lower() in suffixes:
                total += file.size
                if total > limit:
                    raise DataError(f"{name}: {too_large(str(path), total, limit)}")
                with file.open() as content:
                    yield parts, content.read(file.size)
            elif len(parts) == 3:
                with file.open() as content:
                    start = content.read(_START)
                if overlooked(start):
                    raise DataError(
                        f"{name}: {'/'.join(parts)} in {path} would be left out, as it is not called "
                        f"{', '.join(sorted(suffixes))}. Rename it, or remove it."
                    )
    except MemoryError as error:
        raise DataError(f"{name}: {path} does not fit into this machine's memory.") from error
    # What a damaged header makes of itself: a number, a name, or a thousand headers of headers.
    except (
        tarfile.TarError,
        lzma.LZMAError,
        zlib.error,
        EOFError,
        OSError,
        ValueError,
        OverflowError,
        RecursionError,
    ) as error:
        raise DataError(
            f"{name}: {path} is damaged or cut short ({error}). Copy it again and compare its checksum."
        ) from error


def check_classes(
    name: str, path: Path, kind: str, classes: Collection[str], files: Collection[tuple[str, ...]]
) -> None:
    """Check that there are at least two classes and that each has files in both splits.

    Args:
        name: Name of the data set.
        path: Where it was read from.
        kind: What the files are, as in :func:`find_tree`.
        classes: Names of all folders of classes.
        files: The (split, class, file) of all files.

    Raises:
        DataError: If not.
    """
    filled = {key[:2] for key in files}
    for split in SPLITS:
        if not any(part == split for part, _ in filled):
            raise DataError(f"{name}: no {kind}s of the split {split!r} in {path}; expected {_layout(kind)}.")
    for label in sorted(classes):
        for split in SPLITS:
            if (split, label) not in filled:
                raise DataError(
                    f"{name}: class {label!r} has no {kind}s in {split}/ of {path}; expected every class in "
                    "both splits. Add some, or remove the class from both."
                )
    if len(classes) < 2:
        raise DataError(f"{name}: only one class, {min(classes)!r}, in {path}; expected at least two.")


def _folder_entries(name: str, path: Path) -> Iterator[tuple[tuple[str, ...], _File | None]]:
    root = path.resolve()

    def check_inside(place: Path) -> None:
        hidden = place.name.startswith(".")  # and left out anyway
        if not hidden and place.is_symlink() and not place.resolve().is_relative_to(root):
            raise DataError(
                f"{name}: the link {place} leads out of {path}, to {place.resolve()}. Copy what it leads to."
            )

    for split in SPLITS:
        check_inside(path / split)
        for folder in (path / split).iterdir():
            if not folder.is_dir():
                continue
            check_inside(folder)
            yield (split, folder.name), None
            for file in folder.iterdir():
                if file.is_file():
                    check_inside(file)
                    yield (
                        (split, folder.name, file.name),
                        _File(file.stat().st_size, partial(file.open, "rb")),
                    )


class _Limited:
    """A stream that refuses to be read beyond a limit, whatever the headers in it say."""

    def __init__(self, stream: BinaryIO, limit: int, message: str):
        self._stream, self._left, self._message = stream, limit, message

    def read(self, size: int) -> bytes:
        content = self._stream.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise DataError(self._message)
        return content


def _archive_entries(name: str, path: Path, limit: int) -> Iterator[tuple[tuple[str, ...], _File | None]]:
    """Read an archive in one pass. Nothing is unpacked, so the names in it cannot reach the disk."""
    suffix = _archive_suffix(path)
    if suffix == ".tar":
        # tarfile takes a cut between two members for the end. The compressed formats notice it themselves.
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 1024))
            if file.read() != bytes(1024):
                raise EOFError("no end-of-archive marker")
    tops = set()
    with _OPENERS[suffix](path, "rb") as packed:
        stream = _Limited(packed, limit, f"{name}: {too_large(str(path), limit, limit)}")
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                if (end := member.offset_data + member.size) > limit:
                    raise DataError(f"{name}: {too_large(str(path), end, limit)}")
                parts = tuple(part for part in member.name.split("/") if part not in ("", "."))
                if len(parts) > 1 and parts[0] not in SPLITS and parts[1] in SPLITS:
                    tops.add(parts[0])
                    parts = parts[1:]
                elif parts and parts[0] in SPLITS:
                    tops.add("")
                if len(tops) > 1:
                    raise tarfile.ReadError(f"it holds several trees, below {sorted(tops)}")
                if member.isdir():
                    yield parts, None
                elif member.isfile():
                    yield parts, _File(member.size, partial(archive.extractfile, member))
                elif (member.issym() or member.islnk()) and len(parts) == 3 and parts[0] in SPLITS:
                    raise DataError(
                        f"{name}: {member.name} in {path} is a link. Make the archive of the files "
                        "themselves: tar --dereference --hard-dereference."
                    )
        while stream.read(1 << 20):  # to the end, where the compressed formats keep their checksum
            pass
