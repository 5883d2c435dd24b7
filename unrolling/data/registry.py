"""Data sets by name."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from unrolling._checks import DataError, check_choice
from unrolling._folders import data_root
from unrolling.data import cifar, imdb
from unrolling.data.dataset import Dataset
from unrolling.data.digits import load_digits
from unrolling.data.image_folder import find_image_folder, load_image_folder
from unrolling.data.reviews import load_reviews
from unrolling.data.text import TextDataset
from unrolling.data.text_folder import find_text_folder, load_text_folder


@dataclass(frozen=True)
class Source:
    """One entry of :data:`DATASETS`.

    Attributes:
        description: One line.
        embedded: The data come with the package or its dependencies: no file is needed.
        load: Reads the data set below a data root.
        find: Tells cheaply whether it is there, and where it was looked for.
        download: Gets it from its publisher; None where that is up to the user.
        texts: It has texts, not images.
    """

    description: str
    embedded: bool
    load: Callable[[Path], Dataset | TextDataset]
    find: Callable[[Path], tuple[bool, str]]
    download: Callable[[Path], None] | None = None
    texts: bool = False


DATASETS: dict[str, Source] = {
    "digits": Source(
        "scikit-learn digits: 10 classes, 1,440 + 357 images, 1 x 8 x 8",
        embedded=True,
        load=lambda root: load_digits(),
        find=lambda root: (True, "embedded"),
    ),
    "cifar10": Source(
        "CIFAR-10: 10 classes, 50,000 + 10,000 images, 3 x 32 x 32",
        embedded=False,
        load=partial(cifar.load_cifar, "cifar10"),
        find=partial(cifar.find_cifar, "cifar10"),
        download=partial(cifar.download_cifar, "cifar10"),
    ),
    "cifar100": Source(
        "CIFAR-100, fine labels: 100 classes, 50,000 + 10,000 images, 3 x 32 x 32",
        embedded=False,
        load=partial(cifar.load_cifar, "cifar100"),
        find=partial(cifar.find_cifar, "cifar100"),
        download=partial(cifar.download_cifar, "cifar100"),
    ),
    "cifar10-jpeg": Source(
        "CIFAR-10 as JPEG files of quality 75 (lossy): 10 classes, 50,000 + 10,000 images, 3 x 32 x 32",
        embedded=False,
        load=cifar.load_cifar10_jpeg,
        find=cifar.find_cifar10_jpeg,
    ),
    "image_folder": Source(
        "your images: {train,test}/<class>/<image> in the data root, or a tar archive as the data root",
        embedded=False,
        load=partial(load_image_folder, "image_folder"),
        find=find_image_folder,
    ),
    "reviews": Source(
        "synthetic film reviews from templates: 2 classes, 3,200 + 800 texts",
        embedded=True,
        load=lambda root: load_reviews(),
        find=lambda root: (True, "embedded"),
        texts=True,
    ),
    "imdb": Source(
        "IMDB reviews: 2 classes, 25,000 + 25,000 texts",
        embedded=False,
        load=imdb.load_imdb,
        find=imdb.find_imdb,
        download=imdb.download_imdb,
        texts=True,
    ),
    "imdb-without-shared": Source(
        "IMDB reviews without the training texts that are also test texts: 2 classes, 24,877 + 25,000 texts",
        embedded=False,
        load=imdb.load_imdb_without_shared,
        find=imdb.find_imdb,
        texts=True,
    ),
    "text_folder": Source(
        "your texts: {train,test}/<class>/<text>.txt in the data root, or a tar archive as the data root",
        embedded=False,
        load=partial(load_text_folder, "text_folder"),
        find=find_text_folder,
        texts=True,
    ),
}
"""What :func:`load_dataset` can load."""


def load_dataset(name: str, root: str | os.PathLike | None = None) -> Dataset | TextDataset:
    """Return a data set: standardised images, or texts. Nothing is downloaded, nothing stands in for it.

    Args:
        name: A key of :data:`DATASETS`.
        root: The folder that holds the data sets; by default ``UNROLLING_DATA``, else ``./data``. For
            ``"image_folder"`` and ``"text_folder"`` the folder itself, or a tar archive of one.

    Raises:
        InputError: If the name is unknown.
        DataError: If the data set is missing or damaged; the message says how to get it.

    Example:
        >>> load_dataset("digits").train_inputs.shape
        torch.Size([1440, 1, 8, 8])
    """
    source, place = DATASETS[check_choice("data set", name, DATASETS)], data_root(root)
    try:
        return source.load(place)
    except OSError as error:  # a folder that may not be entered, a name that is too long, a broken disk
        raise DataError(f"{name}: cannot read {place}: {error.strerror or error}.") from error


def download_dataset(name: str, root: str | os.PathLike | None = None) -> None:
    """Download a data set into the data root, unless it is complete there, and verify its checksum.

    Raises:
        InputError: If the name is unknown or there is nothing to download from.
        DataError: If the download fails.
    """
    downloads = {known: source.download for known, source in DATASETS.items() if source.download}
    download, place = downloads[check_choice("downloadable data set", name, downloads)], data_root(root)
    try:
        download(place)
    except OSError as error:
        raise DataError(f"{name}: cannot write {place}: {error.strerror or error}.") from error


class Availability(NamedTuple):
    """Whether a data set can be loaded, and where it is or why it cannot."""

    name: str
    available: bool
    where: str


def find_datasets(root: str | os.PathLike | None = None) -> list[Availability]:
    """Look for every data set below the data root, without reading any."""
    place = data_root(root)

    def find(source: Source) -> tuple[bool, str]:
        try:
            return source.find(place)
        except OSError as error:
            return False, f"cannot read {place}: {error.strerror or error}"

    return [Availability(name, *find(source)) for name, source in DATASETS.items()]
