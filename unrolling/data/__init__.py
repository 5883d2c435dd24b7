"""Data sets as standardised tensors, from one folder, never from a silent substitute."""

from unrolling.data.dataset import Dataset
from unrolling.data.registry import DATASETS, download_dataset, find_datasets, load_dataset

__all__ = ["DATASETS", "Dataset", "download_dataset", "find_datasets", "load_dataset"]
