"""What a run is trained on: images, texts as tokens, or frozen features of texts."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from unrolling._checks import DataError, InputError
from unrolling._folders import data_root
from unrolling.data import Dataset, TextDataset, load_dataset
from unrolling.data.cache import cached
from unrolling.data.dataset import content_fingerprint
from unrolling.data.text import encode
from unrolling.experiments.config import RunConfig
from unrolling.experiments.encoder import (
    MODEL,
    encoder_of,
    encoder_tokenizer,
    learnt_tokenizer,
    obtain_encoder,
)
from unrolling.models import build_model, is_pretrained, takes_tokens
from unrolling.models.pretrained import find_pretrained, installed_transformers, quiet
from unrolling.models.text import pooled_features
from unrolling.seeding import make_generator
from unrolling.store import Store, canonical

#: Settings that decide a run's data.
_OF_DATA = (
    *("dataset", "train_size", "test_size"),
    *("max_tokens", "vocab_size", "features", "encoder_size", "encoder_epochs"),
)


def data_settings(config: RunConfig) -> tuple[Any, ...]:
    """Return what decides the run's data: runs that share it share the data."""
    reader = config.model if takes_tokens(config.model) else ""
    # An encoder's width decides its features, and the vocabulary's address.
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
    reader = config.features or (config.model if takes_tokens(config.model) else "")
    if isinstance(dataset, TextDataset) and reader:
        return _tokens(dataset, config, reader)
    if isinstance(dataset, TextDataset) or reader:
        raise InputError(
            f"model {config.model!r} with features {config.features!r} does not fit data set "
            f"{config.dataset!r}. Texts need a model or features that read texts, images one that does not."
        )
    return _subset(dataset, config)


def _subset(dataset: Any, config: RunConfig) -> Any:
    if not (config.train_size or config.test_size):
        return dataset
    num_train = config.train_size or len(dataset.train_labels)
    num_test = config.test_size or len(dataset.test_labels)
    return dataset.subset(num_train, num_test, make_generator(0, "subset"))


def _tokens(texts: TextDataset, config: RunConfig, reader: str) -> Dataset:
    """Return the run's texts as the numbers that ``reader`` reads."""
    kept = _subset(texts, config)
    if is_pretrained(reader):
        pretrained = find_pretrained(reader, data_root())
        tokenizer, source = pretrained.tokenizer(), pretrained.fingerprint()
        pad = pretrained.load(installed_transformers().AutoConfig).pad_token_id
        return encode(kept, tokenizer, max_tokens=config.max_tokens, pad=pad, source=source)
    if config.encoder_size:
        tokenizer = encoder_tokenizer(encoder_of(config))
    else:
        tokenizer = learnt_tokenizer(kept.train_texts, config.vocab_size)
    return encode(kept, tokenizer, max_tokens=config.max_tokens)


def _features_fingerprint(config: RunConfig, tokens: Dataset) -> str:
    # Of what decides the features, not of their last bits, which differ from machine to machine.
    made_by = "" if is_pretrained(config.features) else canonical(encoder_of(config).to_dict())
    return content_fingerprint(tokens.fingerprint, "mean-pooled", made_by)


def _pooled(config: RunConfig, tokens: Dataset, store: Store | None) -> Dataset:
    """Return the frozen encoder's features of the tokens, every one of mean 0 and variance 1 in training."""
    fingerprint = _features_fingerprint(config, tokens)

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
        with quiet(installed_transformers()):
            return pretrained.load(installed_transformers().AutoModel, use_safetensors=True)
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
