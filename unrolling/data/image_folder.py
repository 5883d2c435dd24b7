"""Any tree ``{train,test}/<class>/<image>``, or a tar archive of one, as a data set."""

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from unrolling._checks import DataError
from unrolling._sizes import size_limit, too_large
from unrolling.data.cache import Arrays, cached
from unrolling.data.dataset import Dataset, image_dataset
from unrolling.data.tree import SPLITS, check_classes, find_tree, read_tree, tree_state

if TYPE_CHECKING:
    from PIL import Image

_SUFFIXES = {
    ".apng", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif",
    ".tiff", ".webp",
}  # fmt: skip
#: How files of the common formats begin, so that one with another name is not left out unnoticed.
_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ")
_GREY_MODES = {"1", "L", "LA"}
_COLOUR_MODES = {"RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "HSV", "LAB"}


def load_image_folder(name: str, path: Path, description: str | None = None) -> Dataset:
    """Read an image folder or an archive of one; decoded images are kept in the cache.

    Classes are numbered in the alphabetical order of their folders, images are ordered by class and file
    name. Hidden files, files that are no images and deeper folders are ignored; an image whose name does not
    say so is an error. If all images are grey
    they have one channel; among colour images a grey one is repeated over the three channels. Palette
    images, CMYK and the like become RGB, transparency is dropped.

    Args:
        name: Name of the data set.
        path: A folder, or a ``.tar``, ``.tar.gz``, ``.tgz`` or ``.tar.xz`` with at most one leading folder.
        description: One line about it; by default made from the path's name.

    Raises:
        DataError: If it is missing, damaged, not laid out as described, or decodes to more than
            :func:`~unrolling._sizes.size_limit`.
    """
    arrays = cached(path, tree_state(name, path, "image"), lambda: _decode(name, path))
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


def find_image_folder(path: Path) -> tuple[bool, str]:
    """Return whether ``path`` looks like an image folder or an archive, and why not."""
    return find_tree(path, "image")


def _looks_like_an_image(start: bytes) -> bool:
    # The last ones are WebP, and AVIF and HEIC, whose files begin with a length.
    return start.startswith(_STARTS) or start[8:12] == b"WEBP" or start[4:12] in (b"ftypavif", b"ftypheic")


def _decode(name: str, path: Path) -> Arrays:
    """Decode every image, uint8, and check that they make a classification problem."""
    files: dict[tuple[str, ...], bytes] = {}
    classes = set()
    limit, total = size_limit(), 0
    for parts, content in read_tree(name, path, _SUFFIXES, "reading", overlooked=_looks_like_an_image):
        classes.add(parts[1])
        if content is None:
            continue
        files[parts] = content
        # A small file may hold a picture larger than the memory: sizes are added up before one is decoded.
        with _opened(name, path, "/".join(parts), content) as image:
            total += math.prod(image.size) * (1 if image.mode in _GREY_MODES else 3)
        if total > limit:
            raise DataError(f"{name}: {too_large(f'{path}, decoded,', total, limit)}")
    images: dict[tuple[str, ...], np.ndarray] = {}
    size = None
    for parts in tqdm(list(files), f"decoding {name}", unit=" files", disable=None):
        image = images[parts] = _decode_image(name, path, "/".join(parts), files.pop(parts))
        size = size or image.shape[:2]
        if image.shape[:2] != size:
            raise DataError(
                f"{name}: all images must have one size, but {'/'.join(parts)} is {image.shape[1]} x "
                f"{image.shape[0]} and {'/'.join(next(iter(images)))} is {size[1]} x {size[0]} pixels "
                f"in {path}. Resize them first."
            )
    check_classes(name, path, "image", classes, images)
    return _stack(sorted(classes), images)


@contextmanager
def _opened(name: str, path: Path, file: str, content: bytes) -> Iterator["Image.Image"]:
    """Give the image in a file; its size and mode are known, its pixels are not decoded yet."""
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(f"{name} is decoded by Pillow. Run: pip install 'unrolling[images]'") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is ours
            image = Image.open(io.BytesIO(content))
        with image:
            yield image
    except Exception as error:  # Pillow's decoders raise errors of many types on damaged files
        raise DataError(f"{name}: cannot decode {file} in {path}: {error}. Copy the data again.") from error


def _decode_image(name: str, path: Path, file: str, content: bytes) -> np.ndarray:
    """Return (height, width) for a grey image and (height, width, 3) for another."""
    with _opened(name, path, file, content) as image:
        mode = image.mode
        if mode in _GREY_MODES:
            return np.asarray(image.convert("L"))
        if mode in _COLOUR_MODES:
            return np.asarray(image.convert("RGB"))
    raise DataError(f"{name}: {file} in {path} has mode {mode}; expected at most 8 bits per channel.")


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
