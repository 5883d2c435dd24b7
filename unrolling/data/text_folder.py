"""Any tree ``{train,test}/<class>/<text>.txt``, or a tar archive of one, as a data set."""

import re
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch

from unrolling._checks import DataError
from unrolling.data.cache import Arrays, cached
from unrolling.data.text import TextDataset, text_dataset
from unrolling.data.tree import SPLITS, check_classes, find_tree, read_tree, tree_state

Labelled = tuple[list[str], torch.Tensor]


def find_text_folder(path: Path) -> tuple[bool, str]:
    """Return whether ``path`` looks like a text folder or an archive, and why not."""
    return find_tree(path, "text")


def load_text_folder(name: str, path: Path) -> TextDataset:
    """Read a text folder or an archive of one; see :func:`read_text_folder`.

    Args:
        name: Name of the data set.
        path: A folder, or a ``.tar``, ``.tar.gz``, ``.tgz`` or ``.tar.xz`` with at most one leading folder.

    Raises:
        DataError: If it is missing, damaged, not laid out as described, or a file is no text.
    """
    class_names, train, test = read_text_folder(name, path)
    return text_dataset(name, f"text folder {path.name}", class_names, train, test)


def read_text_folder(
    name: str, path: Path, only: Collection[str] | None = None
) -> tuple[tuple[str, ...], Labelled, Labelled]:
    """Return class names, and texts and labels of both splits; what was read is kept in the cache.

    Classes are numbered in the alphabetical order of their folders. Texts are ordered by class and file
    name, in which numbers count by value: ``2_9.txt`` comes before ``10_4.txt``. Hidden files, files that
    are not called ``.txt`` and deeper folders are ignored. A file must be UTF-8; a byte order mark is
    dropped, everything else is kept.

    Args:
        name: Name of the data set.
        path: A folder or an archive.
        only: Folders of classes to read; by default all.

    Raises:
        DataError: As in :func:`load_text_folder`.
    """
    state = f"{tree_state(name, path, 'text')} {sorted(only or ())}"
    arrays = cached(path, state, lambda: _read(name, path, only))
    class_names = tuple(str(label) for label in arrays["class_names"])
    return class_names, *(_labelled(arrays, split) for split in SPLITS)


def _labelled(arrays: Arrays, split: str) -> Labelled:
    content, ends = arrays[f"{split}_bytes"].tobytes(), np.cumsum(arrays[f"{split}_sizes"]).tolist()
    texts = [content[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)]
    return texts, torch.from_numpy(arrays[f"{split}_labels"])


def _read(name: str, path: Path, only: Collection[str] | None) -> Arrays:
    """Read every text and check that they make a classification problem."""
    texts: dict[tuple[str, ...], bytes] = {}
    classes = set()
    for parts, content in read_tree(name, path, {".txt"}, "reading"):
        if only is not None and parts[1] not in only:
            continue
        classes.add(parts[1])
        if content is not None:
            texts[parts] = _checked(name, path, "/".join(parts), content)
    check_classes(name, path, "text", classes, texts)
    arrays = {"class_names": np.array(sorted(classes))}
    for split in SPLITS:
        keys = sorted((key for key in texts if key[0] == split), key=_order)
        arrays[f"{split}_labels"] = np.array([sorted(classes).index(key[1]) for key in keys], dtype=np.int64)
        arrays[f"{split}_sizes"] = np.array([len(texts[key]) for key in keys], dtype=np.int64)
        arrays[f"{split}_bytes"] = np.frombuffer(b"".join(texts[key] for key in keys), dtype=np.uint8)
    return arrays


def _order(key: tuple[str, ...]) -> tuple:
    """Return what sorts by class, then by file name with numbers by value."""
    _, label, file = key
    pieces = re.split(r"([0-9]+)", file)  # text and digits in turn, so that like is compared with like
    # Numbers by length and digits, as a name in an archive may have more digits than int() takes.
    numbers = [piece.lstrip("0") for piece in pieces]
    keys = [(len(numbers[i]), numbers[i]) if i % 2 else piece for i, piece in enumerate(pieces)]
    return label, keys, file


def _checked(name: str, path: Path, file: str, content: bytes) -> bytes:
    """Return the text in UTF-8 without a byte order mark."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name}: expected UTF-8 in {file} of {path}, got byte 0x{content[error.start]:02x} at position "
            f"{error.start}. Convert it, for example: iconv -f latin1 -t utf-8."
        ) from error
    if "\0" in text:
        raise DataError(
            f"{name}: expected text in {file} of {path}, got a NUL byte at position {content.index(0)}. It "
            "is binary or UTF-16; convert it to UTF-8, or remove it."
        )
    if not text.strip():
        raise DataError(
            f"{name}: expected at least one word in {file} of {path}, got {len(content)} bytes of nothing "
            "but space. Remove the file, or put its text back."
        )
    return text.encode()
