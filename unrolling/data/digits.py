"""The embedded default: scikit-learn's 8 x 8 digits."""

from importlib.metadata import version

import numpy as np
import torch

from unrolling.data.cache import Arrays, cached
from unrolling.data.dataset import Dataset, image_dataset

NUM_TRAIN = 1440


def load_digits() -> Dataset:
    """Return 1,797 handwritten digits, 1,440 for training and 357 for testing, as 1 x 8 x 8 images.

    The split is one fixed random permutation, not the file's order, where neighbours share a
    writer.

    Source: the test part of the UCI Optical Recognition of Handwritten Digits data (Alpaydin and Kaynak,
    1998), as scikit-learn ships it.
    """
    source = cached("digits", f"scikit-learn {version('scikit-learn')}", _read)
    pixels, labels = torch.from_numpy(source["pixels"]).unsqueeze(1), torch.from_numpy(source["labels"])
    # RandomState's stream is frozen for good; those of newer generators may change between versions.
    order = torch.from_numpy(np.random.RandomState(0).permutation(len(labels)))
    train, test = order[:NUM_TRAIN], order[NUM_TRAIN:]
    return image_dataset(
        "digits",
        "scikit-learn digits, 8 x 8 grey",
        tuple(map(str, range(10))),
        (pixels[train], labels[train]),
        (pixels[test], labels[test]),
    )


def _read() -> Arrays:
    from sklearn import datasets  # imports most of scipy, which takes most of a second

    source = datasets.load_digits()
    # Pixel values are whole numbers from 0 to 16.
    return {"pixels": source.images.astype(np.uint8), "labels": source.target.astype(np.int64)}
