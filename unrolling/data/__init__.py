"""Data sets as standardised tensors or as texts, from one folder, never from a silent substitute."""

from unrolling.data.dataset import Dataset
from unrolling.data.registry import DATASETS, download_dataset, find_datasets, load_dataset
from unrolling.data.text import TextDataset

__all__ = ["DATASETS", "Dataset", "TextDataset", "download_dataset", "find_datasets", "load_dataset"]
