r"""The encoder of ``distilbert-small``, pretrained by AdamW on texts that the experiment does not use.

The paper's DistilBERT came pretrained, by others, with Adam. Plain SGD hardly trains a transformer from
nothing, so ours comes pretrained as well: as a classifier of further training texts, whose head is then
thrown away. That is a run of its own, with its own address and one seed, and so the same for all seeds of an
experiment; the experiment itself is plain SGD throughout.

It has the precision of the runs that start from it. AdamW divides every gradient by its own size, so where
one is 0 but for rounding, as that of an attention's key biases, it takes whole steps in the direction of the
rounding error: weights of two processors end 0.02 apart in float32, and 1e-11 or less in float64.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from unrolling._checks import InputError
from unrolling._files import replacing
from unrolling.batches import make_batch_order
from unrolling.data import Dataset, TextDataset, load_dataset
from unrolling.data.cache import cached
from unrolling.data.dataset import content_fingerprint
from unrolling.data.text import encode, encoded_fingerprint, learn_wordpiece, text_dataset
from unrolling.losses import cross_entropy
from unrolling.models import build_model
from unrolling.models.text import TextClassifier
from unrolling.runs.config import RunConfig
from unrolling.runs.provenance import provenance
from unrolling.runs.stopping import Stop, check_stop
from unrolling.seeding import make_generator, seeded
from unrolling.store import Record, Store, make_address
from unrolling.surroundings import default_dtype, threads
from unrolling.trackers import accuracy
from unrolling.training import DivergedError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: Raised by one whenever a change of the code changes the weights of an encoder with unchanged settings.
VERSION = 1
MODEL = "distilbert-small"


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """What decides an encoder's weights, and nothing else.

    Attributes:
        dataset: A name of :func:`unrolling.load_dataset`.
        train_size: Training texts of the experiment, left alone.
        test_size: Its test texts, left alone as well; the accuracy is taken on them. 0 for all.
        size: Further training texts, for the encoder; those that the experiment has as well are left out.
        epochs: Epochs over them.
        width: Width of the embeddings; 0 for the model's own.
        vocab_size: Word pieces learnt from the encoder's texts.
        max_tokens: Tokens of a text that are kept.
        batch_size: Texts a step, at most.
        learning_rate: The largest; it rises over the first tenth of the steps and falls to 0, both linearly.
        weight_decay: Of AdamW.
        dropout: Rate of dropout.
        dtype: Precision of the weights.
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
    dtype: str = "float32"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: the canonical form that the address is made from.

        The precision came later than the first stored encoders: float32 is left out.
        """
        settings = asdict(self)
        if self.dtype == "float32":
            del settings["dtype"]
        return {"kind": "encoder", "version": VERSION, "model": MODEL, **settings}


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
        dtype=config.dtype,
    )


def encoder_texts(config: EncoderConfig) -> TextDataset:
    """Return the encoder's own training texts, with the experiment's test texts.

    A text that the experiment is trained or tested on is left out, letter by letter: IMDB has some twice.
    """
    texts = load_texts(config.dataset)
    num_test = config.test_size or len(texts.test_labels)
    used = texts.subset(config.train_size, num_test, make_generator(0, "subset"))
    more, labels = texts.more_training_data(config.train_size, config.size, make_generator(0, "subset"))
    taken = {*used.train_texts, *used.test_texts}
    free = [place for place, text in enumerate(more) if text not in taken]
    return text_dataset(
        texts.name,
        f"{texts.description}; {len(free):,} training texts for an encoder, {num_test:,} test texts",
        texts.class_names,
        ([more[place] for place in free], labels[free]),
        (used.test_texts, used.test_labels),
    )


def encoder_tokenizer(config: EncoderConfig) -> "Tokenizer":
    """Return the tokeniser learnt from the encoder's texts; what is forgotten has no part in it."""
    return learnt_tokenizer(encoder_texts(config).train_texts, config.vocab_size)


def learnt_tokenizer(texts: Sequence[str], vocab_size: int) -> "Tokenizer":
    """Return :func:`unrolling.data.text.learn_wordpiece` of the texts, kept between processes."""
    from tokenizers import Tokenizer

    def build() -> dict[str, np.ndarray]:
        return {"tokenizer": np.array(learn_wordpiece(texts, vocab_size).to_str())}

    name = f"wordpiece-{content_fingerprint(*texts)}-{vocab_size}"
    return Tokenizer.from_str(str(cached(name, "1", build)["tokenizer"]))


def load_texts(name: str) -> TextDataset:
    """Return a data set of texts.

    Raises:
        InputError: If it has none.
    """
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


def obtain_encoder(config: EncoderConfig, store: Store, stop: Stop | None = None) -> Encoder:
    """Return an encoder: from the store if its weights are there, trained and stored if not.

    The record lies in the store's folder ``encoders``, the weights beside it. Weights that are not those of
    the record, byte for byte, are trained anew. Training that is asked to ``stop`` leaves nothing.
    """
    from safetensors.torch import load, save

    texts = encoder_texts(config)
    tokenizer = learnt_tokenizer(texts.train_texts, config.vocab_size)
    fingerprint = encoded_fingerprint(texts, tokenizer, max_tokens=config.max_tokens)
    shelf = Store(store.root / "encoders")
    address = make_address(config.to_dict(), fingerprint)
    path = shelf.root / f"{address}.safetensors"
    record = shelf.get(address)
    content = path.read_bytes() if record and path.exists() else b""
    if record and _digest(content) == record.result["weights"]:
        return Encoder(address, load(content), record.result["weights"])
    shelf.check_writable()
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    data = encode(texts, tokenizer, max_tokens=config.max_tokens)
    weights, result = train_encoder(config, data, stop)
    content = save(weights)
    with replacing(path) as file:
        file.write(content)
    record = Record(
        config=config.to_dict(),
        data={"name": data.name, "description": data.description, "fingerprint": fingerprint},
        result={**result, "weights": _digest(content)},
        provenance=provenance(torch.device("cpu"), started, time.perf_counter() - clock),
    )
    shelf.put(record)
    return Encoder(address, weights, record.result["weights"])


def train_encoder(
    config: EncoderConfig, data: Dataset, stop: Stop | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Train a classifier from nothing by AdamW, and return its encoder's weights and how training went.

    Args:
        config: The settings.
        data: The encoder's texts as tokens.
        stop: Asked before every step.

    Returns:
        The weights by name; and the mean loss of every epoch with the accuracy on the test texts.
    """
    # The first weights are drawn in that precision too: float32 draws differ between processors.
    with seeded(0, "encoder weights"), default_dtype(getattr(torch, config.dtype)):
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
        min(config.batch_size, len(data.train_labels)),
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
    with seeded(0, "encoder dropout"), threads(1):  # so that the bits do not depend on the threads
        for batch in order:
            check_stop(stop)
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


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
