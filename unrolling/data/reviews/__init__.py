"""The embedded texts: synthetic reviews, made by :mod:`unrolling.data.reviews.make`."""

import lzma
from pathlib import Path

import torch

from unrolling.data.text import TextDataset, text_dataset

CLASSES = ("neg", "pos")


def load_reviews() -> TextDataset:
    """Return 4,000 synthetic film reviews, 3,200 for training and 800 for testing; no person wrote them."""
    content = lzma.decompress(Path(__file__).with_name("reviews.tsv.xz").read_bytes()).decode()
    reviews = [line.split("\t") for line in content.splitlines()]
    splits = []
    for wanted in ("train", "test"):
        part = [(text, CLASSES.index(label)) for split, label, text in reviews if split == wanted]
        splits.append(([text for text, _ in part], torch.tensor([label for _, label in part])))
    return text_dataset("reviews", "synthetic reviews from templates", CLASSES, *splits)
