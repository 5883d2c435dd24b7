"""The embedded default: scikit-learn's 8 x 8 digits."""

import numpy as np
import torch

from unrolling.data.dataset import Dataset, image_dataset

NUM_TRAIN = 1440


def load_digits() -> Dataset:
    """Return 1,797 handwritten digits, 1,440 for training and 357 for testing, as 1 x 8 x 8 images.

    The split is one fixed random permutation, not the file's order, where neighbours share a
    writer.

    Source: the test part of the UCI Optical Recognition of Handwritten Digits data (Alpaydin and Kaynak,
    1998), as scikit-learn ships it.
    """
    from sklearn import datasets

    source = datasets.load_digits()
    pixels = torch.from_numpy(source.images.astype(np.uint8)).unsqueeze(1)  # values 0..16
    labels = torch.from_numpy(source.target.astype(np.int64))
    # RandomState's stream is frozen for good; those of newer generators may change between versions.
    order = torch.from_numpy(np.random.RandomState(0).permutation(len(labels)))
    train, test = order[:NUM_TRAIN], order[NUM_TRAIN:]
    return image_dataset(
        "digits",
        "scikit-learn digits, 8 x 8 grey",
        tuple(str(name) for name in source.target_names),
        (pixels[train], labels[train]),
        (pixels[test], labels[test]),
    )
