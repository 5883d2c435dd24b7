"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009): the original pixels, and a complete copy stored as JPEG."""

from pathlib import Path
from typing import Any

import torch

from unrolling._checks import DataError
from unrolling.data.dataset import Dataset, image_dataset
from unrolling.data.image_folder import load_image_folder

# Folders of torchvision's layout, by name of the data set.
_FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
_TITLES = {"cifar10": "CIFAR-10, original pixels", "cifar100": "CIFAR-100, original pixels, fine labels"}
_JPEG = "cifar10-jpeg"


def _torchvision_class(name: str) -> Any:
    try:
        from torchvision import datasets
    except ImportError as error:
        raise DataError(f"{name} is read by torchvision. Run: pip install 'unrolling[images]'") from error
    return {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]


def find_cifar(name: str, root: Path) -> tuple[bool, str]:
    """Return whether the folder of torchvision's layout is there, and where it was looked for."""
    folder = root / _FOLDERS[name]
    if folder.is_dir():
        return True, str(folder)
    return False, f"no folder {folder}; run: unrolling data {name} --download"


def load_cifar(name: str, root: Path) -> Dataset:
    """Read 50,000 training and 10,000 test images from torchvision's files below ``root``.

    Args:
        name: ``"cifar10"`` or ``"cifar100"``.
        root: The folder that holds ``cifar-10-batches-py`` or ``cifar-100-python``.

    Raises:
        DataError: If a file is missing or fails torchvision's checksum.
    """
    source = _torchvision_class(name)
    try:
        train, test = (source(root, train=part) for part in (True, False))
    except RuntimeError as error:  # torchvision's word for a missing file and for a wrong checksum
        raise DataError(
            f"{name}: missing or damaged in {root / _FOLDERS[name]} (not all files there pass torchvision's "
            f"checksums). To get it run: unrolling data {name} --download"
        ) from error

    def tensors(part: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets)

    return image_dataset(name, _TITLES[name], tuple(train.classes), tensors(train), tensors(test))


def download_cifar(name: str, root: Path) -> None:
    """Let torchvision download and unpack the data set below ``root``, unless it is complete there.

    Raises:
        DataError: If the download fails or its checksum is wrong.
    """
    source = _torchvision_class(name)
    try:
        source(root, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{name}: could not download {source.url} to {root}: {error}. Without a network, put "
            f"{source.filename} into {root} yourself and run the same command again; it will unpack it."
        ) from error


def find_cifar10_jpeg(root: Path) -> tuple[bool, str]:
    """Return whether the folder or the archive is there, and where it was looked for."""
    for path in (root / _JPEG, root / f"{_JPEG}.tar.xz"):
        if path.exists():
            return True, str(path)
    return False, (
        f"neither the folder {_JPEG}/ nor the file {_JPEG}.tar.xz is in {root}; put one there "
        f"({_JPEG}/{{train,test}}/<class>/<image>.jpg), or set UNROLLING_DATA to the folder that holds it"
    )


def load_cifar10_jpeg(root: Path) -> Dataset:
    """Read the complete CIFAR-10 from JPEG files: lossy, not comparable with results on the original pixels.

    Args:
        root: The folder that holds ``cifar10-jpeg/`` or ``cifar10-jpeg.tar.xz``.

    Raises:
        DataError: If it is missing, damaged or not complete.
    """
    found, where = find_cifar10_jpeg(root)
    if not found:
        raise DataError(f"{_JPEG}: {where}.")
    dataset = load_image_folder(_JPEG, Path(where), "CIFAR-10, JPEG quality 75 (lossy)")
    # A half-unpacked folder is a valid image folder, but it is not CIFAR-10.
    content = (len(dataset.train_labels), len(dataset.test_labels), dataset.num_classes)
    if content != (50_000, 10_000, 10):
        raise DataError(
            f"{_JPEG}: expected 50,000 training and 10,000 test images of 10 classes in {where}, got "
            f"{content[0]:,}, {content[1]:,} and {content[2]}. Unpack it again, or load it as what it is: "
            "load_dataset('image_folder', root=...)."
        )
    return dataset
