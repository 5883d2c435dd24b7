r"""The encoder of ``distilbert-small``, pretrained by AdamW on texts that the experiment does not use.

The paper's DistilBERT came pretrained, by others, with Adam. Plain SGD hardly trains a transformer from
nothing, so ours comes pretrained as well: as a sentiment classifier on other reviews, whose head is then
thrown away. That is a run of its own, with its own address; the experiment itself is plain SGD throughout.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unrolling._checks import InputError
from unrolling.batches import make_batch_order
from unrolling.data import Dataset, TextDataset, load_dataset
from unrolling.data.cache import cached
from unrolling.data.dataset import content_fingerprint
from unrolling.data.text import encode, learn_wordpiece
from unrolling.experiments.config import RunConfig
from unrolling.experiments.provenance import provenance
from unrolling.losses import cross_entropy
from unrolling.models import build_model
from unrolling.models.text import TextClassifier
from unrolling.seeding import make_generator, seeded
from unrolling.store import Record, Store, make_address
from unrolling.trackers import accuracy
from unrolling.training import DivergedError

#: Raised by one whenever a change of the code changes the weights of an encoder with unchanged settings.
VERSION = 1
MODEL = "distilbert-small"


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """What decides an encoder's weights, and nothing else.

    Attributes:
        dataset: A name of :func:`unrolling.load_dataset`.
        train_size: Training texts of the experiment, left alone.
        test_size: Test texts that the accuracy is taken on.
        size: Training texts of the encoder, disjoint from those.
        epochs: Epochs over them.
        width: Width of the embeddings; 0 for the model's own.
        vocab_size: Word pieces learnt from the encoder's texts.
        max_tokens: Tokens of a text that are kept.
        batch_size: Texts a step.
        learning_rate: The largest; it rises over the first tenth of the steps and falls to 0, both linearly.
        weight_decay: Of AdamW.
        dropout: Rate of dropout.
    """

    dataset: str
    train_size: int
    test_size: int
    size: int
    epochs: int
    width: int
    vocab_size: int
    max_tokens: int
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    dropout: float = 0.1

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: the canonical form that the address is made from."""
        return {"kind": "encoder", "version": VERSION, "model": MODEL, **asdict(self)}


def starts_from_encoder(config: RunConfig) -> bool:
    """Return whether the run's model starts from a pretrained encoder of its own."""
    return config.model == MODEL and config.encoder_size > 0


def encoder_of(config: RunConfig) -> EncoderConfig:
    """Return the settings of the encoder that a run starts from, or that makes its features."""
    if not config.encoder_size:
        raise InputError("this run has no encoder of its own: its encoder_size is 0.")
    return EncoderConfig(
        dataset=config.dataset,
        train_size=config.train_size,
        test_size=config.test_size,
        size=config.encoder_size,
        epochs=config.encoder_epochs,
        width=config.width if config.model == MODEL else 0,
        vocab_size=config.vocab_size,
        max_tokens=config.max_tokens,
    )


@cache
def encoder_texts(config: EncoderConfig) -> TextDataset:
    """Return the encoder's own training texts, and the experiment's test texts."""
    texts = load_texts(config.dataset)
    own = texts.more_training_data(config.train_size, config.size, make_generator(0, "subset"))
    num_test = config.test_size or len(texts.test_labels)
    cut = texts.subset(config.train_size, num_test, make_generator(0, "subset"))
    return replace(cut, train_texts=own[0], train_labels=own[1])


@cache
def encoder_tokenizer(config: EncoderConfig) -> Any:
    """Return the tokeniser learnt from the encoder's texts; what is forgotten has no part in it."""
    return learnt_tokenizer(encoder_texts(config).train_texts, config.vocab_size)


def learnt_tokenizer(texts: Sequence[str], vocab_size: int) -> Any:
    """Return :func:`unrolling.data.text.learn_wordpiece` of the texts, kept between processes."""
    from tokenizers import Tokenizer

    def build() -> dict[str, np.ndarray]:
        return {"tokenizer": np.array(learn_wordpiece(texts, vocab_size).to_str())}

    name = f"wordpiece-{content_fingerprint(*texts)}-{vocab_size}"
    return Tokenizer.from_str(str(cached(name, "1", build)["tokenizer"]))


def load_texts(name: str) -> TextDataset:
    """Return a data set of texts, or raise if it has none."""
    texts = load_dataset(name)
    if not isinstance(texts, TextDataset):
        raise InputError(f"data set {name!r} has no texts; expected one such as imdb or reviews.")
    return texts


@dataclass(frozen=True)
class Encoder:
    """A pretrained encoder.

    Attributes:
        address: Of the run that trained it.
        weights: By name, as in the network's ``base_model``.
        digest: 16 hex digits of the SHA-256 of the weights. Their last bits depend on the machine.
    """

    address: str
    weights: dict[str, Tensor]
    digest: str

    def load_into(self, model: TextClassifier) -> None:
        """Overwrite the encoder of ``model``; its head stays as it is."""
        model.encoder.load_state_dict(self.weights)


def obtain_encoder(config: EncoderConfig, store: Store) -> Encoder:
    """Return an encoder: from the store if its weights are there, trained and stored if not.

    The record lies in the store's folder ``encoders``, the weights beside it.
    """
    from safetensors.torch import load_file, save_file

    data = encode(encoder_texts(config), encoder_tokenizer(config), max_tokens=config.max_tokens)
    address = make_address(config.to_dict(), data.fingerprint)
    shelf = Store(store.root / "encoders")
    path = shelf.root / f"{address}.safetensors"
    record = shelf.get(address)
    if record is not None and path.exists() and _digest(path) == record.result["weights"]:
        return Encoder(address, load_file(path), record.result["weights"])
    shelf.check_writable()
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    weights, result = train_encoder(config, data)
    with tempfile.NamedTemporaryFile(dir=shelf.root, suffix=".tmp", delete=False) as unfinished:
        pass
    save_file(weights, unfinished.name)
    os.replace(unfinished.name, path)
    digest = _digest(path)
    record = Record(
        config=config.to_dict(),
        data={"name": data.name, "description": data.description, "fingerprint": data.fingerprint},
        result={**result, "weights": digest},
        provenance=provenance(torch.device("cpu"), started, time.perf_counter() - clock),
    )
    shelf.put(record)
    return Encoder(address, weights, digest)


def train_encoder(config: EncoderConfig, data: Dataset) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Train a classifier from nothing by AdamW, and return its encoder's weights and how training went.

    Args:
        config: The settings.
        data: The encoder's texts as tokens.

    Returns:
        The weights by name; and the mean loss of every epoch with the accuracy on the test texts.
    """
    with seeded(0, "encoder weights"):
        model = build_model(
            MODEL,
            data.num_classes,
            input_shape=(config.max_tokens,),
            width=config.width or None,
            vocab_size=config.vocab_size,
            dropout=config.dropout,
        )
    order = make_batch_order(
        len(data.train_labels),
        config.batch_size,
        config.epochs,
        make_generator(0, "encoder order"),
        reshuffle=True,
        lengths=data.train_lengths,
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    rise = max(1, len(order) // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / rise, (len(order) - step) / max(1, len(order) - rise))
    )
    losses = []
    model.train()
    with seeded(0, "encoder dropout"):
        for batch in order:
            index = torch.tensor(batch)
            loss = cross_entropy(model(data.train_inputs[index]), data.train_labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
    if not torch.tensor(losses).isfinite().all():
        raise DivergedError(
            f"pretraining the encoder diverged; try a learning_rate below {config.learning_rate}."
        )
    by_epoch = torch.tensor(losses, dtype=torch.float64).tensor_split(config.epochs)
    result = {
        "loss": [float(part.mean()) for part in by_epoch],
        "accuracy": accuracy(model, data.test_inputs, data.test_labels),
        "steps": len(order),
        "num_parameters": sum(p.numel() for p in model.parameters()),
    }
    return {name: value.clone() for name, value in model.encoder.state_dict().items()}, result


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
