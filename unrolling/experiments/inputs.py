"""What a run is trained on: images, texts as tokens, or frozen features of texts."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from unrolling._checks import InputError
from unrolling._folders import data_root
from unrolling.data import Dataset, TextDataset, load_dataset
from unrolling.data.cache import cached
from unrolling.data.dataset import content_fingerprint
from unrolling.data.text import encode, learn_wordpiece
from unrolling.experiments.config import RunConfig
from unrolling.experiments.encoder import MODEL, encoder_of, encoder_tokenizer, obtain_encoder
from unrolling.models import build_model, is_pretrained, takes_tokens
from unrolling.models.pretrained import find_pretrained
from unrolling.models.text import TextClassifier, pooled_features
from unrolling.seeding import make_generator
from unrolling.store import Store, make_address

#: Settings that decide a run's data. Runs that share them share the data.
_OF_DATA = (
    *("dataset", "train_size", "test_size"),
    *("max_tokens", "vocab_size", "features", "encoder_size", "encoder_epochs"),
)


def data_settings(config: RunConfig) -> tuple[Any, ...]:
    """Return what decides the run's data: equal for two runs, they see the same."""
    reader = config.model if takes_tokens(config.model) else ""
    return (reader, config.width if reader else 0, *(getattr(config, name) for name in _OF_DATA))


def data_fingerprint(config: RunConfig) -> str:
    """Return the fingerprint of the run's data; features need not be computed for it."""
    data = _load(config)
    return _features_fingerprint(config, data) if config.features else data.fingerprint


def load_data(config: RunConfig, store: Store | None = None) -> Dataset:
    """Return the run's data: the named data set, cut down to a seeded subset if the run asks for one.

    The subset does not depend on the run's seed: all runs of a grid see the same examples. Texts come as the
    token numbers that the run's model reads, or as pooled features of a frozen encoder, standardised.

    Args:
        config: The run.
        store: Where the encoder of ``distilbert-small`` is kept, if the features are its own.
    """
    data = _load(config)
    return _pooled(config, data, store) if config.features else data


def _load(config: RunConfig) -> Dataset:
    dataset = load_dataset(config.dataset)
    if isinstance(dataset, TextDataset):
        return _tokens(*data_settings(config), config=config)
    if config.features or takes_tokens(config.model):
        raise InputError(
            f"{config.features or config.model} reads texts, but data set {config.dataset!r} has none; "
            "expected one such as imdb or reviews."
        )
    return _subset(dataset, config)


def _subset(dataset: Any, config: RunConfig) -> Any:
    if not (config.train_size or config.test_size):
        return dataset
    num_train = config.train_size or len(dataset.train_labels)
    num_test = config.test_size or len(dataset.test_labels)
    return dataset.subset(num_train, num_test, make_generator(0, "subset"))
