"""Any tree ``{train,test}/<class>/<image>``, or a tar archive of one, as a data set."""

import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from unrolling._checks import DataError
from unrolling.data.cache import Arrays, cached
from unrolling.data.dataset import Dataset, content_fingerprint, image_dataset

SPLITS = ("train", "test")
_OPENERS = {".tar": open, ".tar.gz": gzip.open, ".tgz": gzip.open, ".tar.xz": lzma.open}
_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_GREY_MODES = {"1", "L", "LA"}
_COLOUR_MODES = {"RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "HSV", "LAB"}
_LAYOUT = "expected {train,test}/<class>/<image>"

# (split, class, image) and the file's bytes; (split, class) and None for the folder of a class.
Entry = tuple[tuple[str, ...], bytes | None]


def load_image_folder(name: str, path: Path, description: str | None = None) -> Dataset:
    """Read an image folder or an archive of one; decoded images are kept in the cache.

    Classes are numbered in the alphabetical order of their folders, images are ordered by class and file
    name. Hidden files, files that are no images and deeper folders are ignored. If all images are grey
    they have one channel; among colour images a grey one is repeated over the three channels. Palette
    images, CMYK and the like become RGB, transparency is dropped.

    Args:
        name: Name of the data set.
        path: A folder, or a ``.tar``, ``.tar.gz``, ``.tgz`` or ``.tar.xz`` with at most one leading folder.
        description: One line about it; by default made from the path's name.

    Raises:
        DataError: If it is missing, damaged or not laid out as described.
    """
    arrays = cached(path, _state(name, path), lambda: _decode(name, path))
    if description is None:
        num_grey, num_images = (
            int(arrays["num_grey"]),
            len(arrays["train_labels"]) + len(arrays["test_labels"]),
        )
        height, width = arrays["train_pixels"].shape[2:]
        colour = "grey" if num_grey == num_images else "RGB"
        if 0 < num_grey < num_images:
            colour += f" ({num_grey:,} of {num_images:,} images are grey)"
        description = f"image folder {path.name}, {height} x {width} {colour}"
    pixels_and_labels = [
        (torch.from_numpy(arrays[f"{split}_pixels"]), torch.from_numpy(arrays[f"{split}_labels"]))
        for split in SPLITS
    ]
    return image_dataset(
        name, description, tuple(str(label) for label in arrays["class_names"]), *pixels_and_labels
    )


def _archive_suffix(path: Path) -> str | None:
    return next((suffix for suffix in _OPENERS if path.name.endswith(suffix)), None)


def find_image_folder(path: Path) -> tuple[bool, str]:
    """Return whether ``path`` looks like an image folder or an archive, and why not."""
    if path.is_file() and _archive_suffix(path):
        return True, str(path)
    if path.is_file():
        return False, f"{path} is neither a folder nor one of {', '.join(_OPENERS)}"
    missing = [split for split in SPLITS if not (path / split).is_dir()]
    if missing:
        return False, f"{_LAYOUT} in {path}, found no folder {' and no folder '.join(missing)}"
    return True, str(path)


def _state(name: str, path: Path) -> str:
    """Return what tells one state of the source from the next without reading it."""
    found, where = find_image_folder(path)
    if not found:
        raise DataError(f"{name}: {where}.")
    files = [path] if path.is_file() else [f for split in SPLITS for f in (path / split).glob("*/*")]
    try:
        stats = [(str(file), file.stat()) for file in sorted(files)]
    except OSError as error:  # a link that leads nowhere, for one
        raise DataError(f"{name}: cannot read {path}: {error}.") from error
    return content_fingerprint("\n".join(f"{file} {stat.st_size} {stat.st_mtime_ns}" for file, stat in stats))


def _folder_entries(path: Path) -> Iterator[Entry]:
    for split in SPLITS:
        for folder in (path / split).iterdir():
            if not folder.is_dir():
                continue
            yield (split, folder.name), None
            for file in folder.iterdir():
                if file.is_file():
                    yield (split, folder.name, file.name), file.read_bytes()


def _archive_entries(path: Path) -> Iterator[Entry]:
    """Read an archive in one pass. Nothing is unpacked, so the names in it cannot reach the disk."""
    suffix = _archive_suffix(path)
    if suffix == ".tar":
        # tarfile takes a cut between two members for the end. The compressed formats notice it themselves.
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 1024))
            if file.read() != bytes(1024):
                raise EOFError("no end-of-archive marker")
    tops = set()
    with _OPENERS[suffix](path, "rb") as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
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
                yield parts, archive.extractfile(member).read()
        while stream.read(1 << 20):  # to the end, where the compressed formats keep their checksum
            pass


def _decode(name: str, path: Path) -> Arrays:
    """Decode every image, uint8, and check that they make a classification problem."""
    images: dict[tuple[str, ...], np.ndarray] = {}
    classes = set()
    entries = _folder_entries(path) if path.is_dir() else _archive_entries(path)
    size = None
    try:
        for parts, content in tqdm(entries, f"decoding {name}", unit=" files", disable=None):
            if len(parts) not in (2, 3) or parts[0] not in SPLITS or any(p.startswith(".") for p in parts):
                continue
            if len(parts) == 2:
                if content is None:
                    classes.add(parts[1])
                continue
            if content is None or Path(parts[2]).suffix.lower() not in _SUFFIXES:
                continue
            classes.add(parts[1])
            image = images[parts] = _decode_image(name, path, "/".join(parts), content)
            size = size or image.shape[:2]
            if image.shape[:2] != size:
                raise DataError(
                    f"{name}: all images must have one size, but {'/'.join(parts)} is {image.shape[1]} x "
                    f"{image.shape[0]} and {'/'.join(next(iter(images)))} is {size[1]} x {size[0]} pixels "
                    f"in {path}. Resize them first."
                )
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        raise DataError(
            f"{name}: {path} is damaged or cut short ({error}). Copy it again and compare its checksum."
        ) from error
    _check_classes(name, path, sorted(classes), images)
    return _stack(sorted(classes), images)


def _decode_image(name: str, path: Path, file: str, content: bytes) -> np.ndarray:
    """Return (height, width) for a grey image and (height, width, 3) for another."""
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(f"{name} is decoded by Pillow. Run: pip install 'unrolling[images]'") from error
    try:
        with Image.open(io.BytesIO(content)) as image:
            mode = image.mode
            if mode in _GREY_MODES:
                return np.asarray(image.convert("L"))
            if mode in _COLOUR_MODES:
                return np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow's decoders raise errors of many types on damaged files
        raise DataError(f"{name}: cannot decode {file} in {path}: {error}. Copy the data again.") from error
    raise DataError(f"{name}: {file} in {path} has mode {mode}; expected at most 8 bits per channel.")


def _check_classes(
    name: str, path: Path, classes: list[str], images: dict[tuple[str, ...], np.ndarray]
) -> None:
    filled = {key[:2] for key in images}
    for split in SPLITS:
        if not any(part == split for part, _ in filled):
            raise DataError(f"{name}: no images of the split {split!r} in {path}; {_LAYOUT}.")
    for label in classes:
        for split in SPLITS:
            if (split, label) not in filled:
                raise DataError(
                    f"{name}: class {label!r} has no images in {split}/ of {path}; expected every class in "
                    "both splits. Add some, or remove the class from both."
                )
    if len(classes) < 2:
        raise DataError(f"{name}: only one class, {classes[0]!r}, in {path}; expected at least two.")


def _stack(classes: list[str], images: dict[tuple[str, ...], np.ndarray]) -> Arrays:
    num_grey = sum(image.ndim == 2 for image in images.values())
    channels = 1 if num_grey == len(images) else 3
    arrays = {"class_names": np.array(classes), "num_grey": np.array(num_grey)}
    for split in SPLITS:
        keys = sorted(key for key in images if key[0] == split)
        arrays[f"{split}_labels"] = np.array([classes.index(key[1]) for key in keys], dtype=np.int64)
        pixels = np.empty((len(keys), channels, *images[keys[0]].shape[:2]), dtype=np.uint8)
        for target, key in zip(pixels, keys, strict=True):
            image = images[key]
            target[:] = image if image.ndim == 2 else image.transpose(2, 0, 1)
        arrays[f"{split}_pixels"] = pixels
    return arrays
