"""IMDB reviews (Maas et al., 2011): 25,000 training and 25,000 test texts, half of them positive."""

import tempfile
from pathlib import Path

from unrolling._checks import DataError
from unrolling.data.text import TextDataset, text_dataset, without_shared
from unrolling.data.text_folder import read_text_folder
from unrolling.data.tree import SPLITS

CLASSES = ("neg", "pos")
PER_CLASS = 12_500  # in each split
_SOURCES = ("aclImdb", "imdb.tar.xz", "aclImdb_v1.tar.gz")


def find_imdb(root: Path) -> tuple[bool, str]:
    """Return whether the folder or an archive is there, and where it was looked for."""
    for source in _SOURCES:
        if (root / source).exists():
            return True, str(root / source)
    return False, (
        f"neither the folder {_SOURCES[0]}/ nor {' nor '.join(_SOURCES[1:])} is in {root}; put one there, "
        "set UNROLLING_DATA to the folder that holds it, or run: unrolling data imdb --download"
    )


def load_imdb(root: Path) -> TextDataset:
    """Read the labelled reviews from the publisher's folder or an archive of it.

    The label is that of the folder; the rating in a file's name is left aside. Texts are ordered by class,
    then by number, so the fingerprint does not depend on the container. ``<br />`` tags become spaces.

    Args:
        root: The folder that holds ``aclImdb/{train,test}/{neg,pos}/<number>_<rating>.txt``, the archive
            ``imdb.tar.xz`` or the publisher's ``aclImdb_v1.tar.gz``; the first of them is read.

    Raises:
        DataError: If it is missing, damaged or not complete.
    """
    found, where = find_imdb(root)
    if not found:
        raise DataError(f"imdb: {where}.")
    class_names, *splits = read_text_folder("imdb", Path(where), CLASSES)
    counts = [labels.bincount(minlength=2).tolist() for _, labels in splits]
    if counts != [[PER_CLASS] * 2] * 2:
        raise DataError(
            f"imdb: expected {PER_CLASS:,} texts of each class in train/ and test/ of {where}, got "
            f"{counts[0]} and {counts[1]}. Unpack it again, or load it as what it is: "
            "load_dataset('text_folder', root=...)."
        )
    train, test = (([text.replace("<br />", " ") for text in texts], labels) for texts, labels in splits)
    return text_dataset("imdb", "IMDB reviews", class_names, train, test)


def download_imdb(root: Path) -> None:
    """Let the ``datasets`` library get IMDB and write it below ``root`` as the folder ``aclImdb``.

    Does nothing where the folder or an archive is there. The library gives neither the publisher's numbers
    nor the ratings: texts are numbered in its order, so the fingerprint differs from that of the archive.

    Raises:
        DataError: If the library is missing or the download fails.
    """
    if find_imdb(root)[0]:
        return
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            "imdb is downloaded by the datasets library. Run: pip install datasets. Without it, put "
            f"{_SOURCES[2]} from https://ai.stanford.edu/~amaas/data/sentiment/ into {root}."
        ) from error
    try:
        source = datasets.load_dataset("stanfordnlp/imdb")
    except Exception as error:  # the library passes on the errors of several others
        raise DataError(
            f"imdb: could not download stanfordnlp/imdb: {error}. Without a network, put {_SOURCES[2]} from "
            f"https://ai.stanford.edu/~amaas/data/sentiment/ into {root}."
        ) from error
    root.mkdir(parents=True, exist_ok=True)
    # Renamed when it is complete: what is cut short is not taken for the whole.
    with tempfile.TemporaryDirectory(dir=root) as temporary:
        folder = Path(temporary, _SOURCES[0])
        for split in SPLITS:
            for label in CLASSES:
                (folder / split / label).mkdir(parents=True)
            for i, row in enumerate(source[split]):
                file = folder / split / CLASSES[row["label"]] / f"{i}.txt"
                file.write_bytes(row["text"].encode())
        folder.rename(root / _SOURCES[0])


def load_imdb_without_shared(root: Path) -> TextDataset:
    """Read IMDB and leave out the training texts that occur in the test set as well.

    Raises:
        DataError: As in :func:`load_imdb`.
    """
    return without_shared(load_imdb(root), "imdb-without-shared")
