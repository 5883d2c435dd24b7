"""What a run is trained on: images, texts as tokens, or frozen features of texts."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from unrolling._checks import DataError, InputError
from unrolling._folders import data_root
from unrolling.data import Dataset, TextDataset, load_dataset
from unrolling.data.cache import cached
from unrolling.data.dataset import content_fingerprint
from unrolling.data.text import encode, encoded_fingerprint
from unrolling.models import build_model, is_pretrained, takes_tokens
from unrolling.models.pretrained import find_pretrained, installed_transformers
from unrolling.models.text import pooled_features
from unrolling.runs.config import RunConfig
from unrolling.runs.encoder import (
    MODEL,
    encoder_of,
    encoder_tokenizer,
    learnt_tokenizer,
    obtain_encoder,
)
from unrolling.seeding import make_generator
from unrolling.store import Store, canonical

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: Settings that decide a run's data, besides what reads the texts.
_OF_DATA = ("dataset", "train_size", "test_size", "max_tokens", "vocab_size", "features")


def data_settings(config: RunConfig) -> tuple[Any, ...]:
    """Return what decides the run's data: runs that share it share the data."""
    encoder = encoder_of(config) if config.encoder_size else None
    return (_reader_name(config), encoder, *(getattr(config, name) for name in _OF_DATA))


def data_fingerprint(config: RunConfig) -> str:
    """Return the fingerprint of the run's data; features need not be computed for it."""
    dataset, reader = _load(config)
    if not isinstance(dataset, TextDataset):
        return dataset.fingerprint
    tokens = encoded_fingerprint(
        dataset, reader.tokenizer, max_tokens=config.max_tokens, source=reader.source
    )
    return _features_fingerprint(tokens) if config.features else tokens


def load_data(config: RunConfig, store: Store | None = None) -> Dataset:
    """Return the run's data: the named data set, cut down to a seeded subset if the run asks for one.

    The subset does not depend on the run's seed: all runs of a grid see the same examples. Texts come as the
    token numbers that the run's model reads, or as pooled features of a frozen encoder, standardised.

    Args:
        config: The run.
        store: Where the encoder of ``distilbert-small`` is kept, if the features are its own.
    """
    dataset, reader = _load(config)
    if not isinstance(dataset, TextDataset):
        return dataset
    tokens = encode(
        dataset, reader.tokenizer, max_tokens=config.max_tokens, pad=reader.pad, source=reader.source
    )
    return _pooled(config, tokens, store) if config.features else tokens


def load_images(name: str) -> Dataset:
    """Return a data set that needs no tokeniser, such as one of images.

    Raises:
        InputError: If it has texts.
    """
    dataset = load_dataset(name)
    if isinstance(dataset, TextDataset):
        raise InputError(f"data set {name!r} has texts; expected images, such as digits or cifar10.")
    return dataset


def _reader_name(config: RunConfig) -> str:
    """Return the name of what reads the run's texts, "" if nothing does."""
    return config.features or (config.model if takes_tokens(config.model) else "")


class _Reader(NamedTuple):
    """How texts become numbers, and which weights the numbers are for."""

    tokenizer: "Tokenizer"
    pad: int
    source: str


def _load(config: RunConfig) -> tuple[Dataset, None] | tuple[TextDataset, _Reader]:
    """Return the run's subset of the data set and, if it has texts, what reads them."""
    dataset, name = load_dataset(config.dataset), _reader_name(config)
    if isinstance(dataset, TextDataset) != bool(name):
        raise InputError(
            f"model {config.model!r} with features {config.features!r} does not fit data set "
            f"{config.dataset!r}. Texts need a model or features that read texts, images one that does not."
        )
    if config.train_size or config.test_size:
        num_train = config.train_size or len(dataset.train_labels)
        num_test = config.test_size or len(dataset.test_labels)
        dataset = dataset.subset(num_train, num_test, make_generator(0, "subset"))
    return (dataset, _make_reader(config, name, dataset)) if name else (dataset, None)


def _make_reader(config: RunConfig, name: str, texts: TextDataset) -> _Reader:
    if is_pretrained(name):
        pretrained = find_pretrained(name, data_root())
        known = pretrained.config(config.max_tokens)
        tokenizer = pretrained.tokenizer(known.vocab_size)
        return _Reader(tokenizer, known.pad_token_id, pretrained.fingerprint())
    if config.encoder_size:
        encoder = encoder_of(config)
        return _Reader(encoder_tokenizer(encoder), 0, canonical(encoder.to_dict()))
    return _Reader(learnt_tokenizer(texts.train_texts, config.vocab_size), 0, "")


def _features_fingerprint(tokens: str) -> str:
    # Of what decides the features, not of their last bits, which differ from machine to machine.
    return content_fingerprint(tokens, "mean-pooled", "")


def _pooled(config: RunConfig, tokens: Dataset, store: Store | None) -> Dataset:
    """Return the frozen encoder's features of the tokens, every one of mean 0 and variance 1 in training."""
    fingerprint = _features_fingerprint(tokens.fingerprint)

    def build() -> dict[str, np.ndarray]:
        encoder = _frozen_encoder(config, tokens, store)
        return {
            "train": _features(encoder, tokens.train_inputs, f"{config.features} reads the training texts"),
            "test": _features(encoder, tokens.test_inputs, f"{config.features} reads the test texts"),
        }

    arrays = cached(f"features-{fingerprint}", "1", build)
    train, test = (torch.from_numpy(arrays[part]) for part in ("train", "test"))
    mean, std = train.mean(dim=0), train.std(dim=0, correction=0)
    if not std.all():
        raise DataError(
            f"{tokens.name}: a feature of {config.features!r} is the same for all training texts."
        )
    return replace(
        tokens,
        train_inputs=(train - mean) / std,
        test_inputs=(test - mean) / std,
        train_lengths=None,
        fingerprint=fingerprint,
        description=f"{tokens.description}; mean-pooled features of {config.features}",
    )


def _frozen_encoder(config: RunConfig, tokens: Dataset, store: Store | None) -> nn.Module:
    if is_pretrained(config.features):
        pretrained = find_pretrained(config.features, data_root())
        return pretrained.network(installed_transformers().AutoModel)
    if store is None:
        raise InputError(f"features of {MODEL} need a store, where its encoder is kept; pass `store`.")
    model = build_model(
        MODEL,
        tokens.num_classes,
        input_shape=(config.max_tokens,),
        vocab_size=config.vocab_size,
    )
    obtain_encoder(encoder_of(config), store).load_into(model)
    return model.encoder


def _features(encoder: nn.Module, tokens: Tensor, title: str) -> np.ndarray:
    # In order of length, so that little padding is read.
    order = (tokens != encoder.config.pad_token_id).sum(dim=1).argsort(stable=True)
    features = torch.empty(len(tokens), encoder.config.hidden_size)
    for part in tqdm(order.split(512), title, unit=" x 512", disable=None):
        features[part] = pooled_features(encoder, tokens[part])
    return features.numpy()
