"""What a run starts from: its data on the device, M_0, the batches of its steps, its loss."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unrolling._checks import InputError
from unrolling.batches import BatchOrder
from unrolling.data import Dataset
from unrolling.losses import Objective
from unrolling.models import build_model, takes_tokens
from unrolling.runs.config import MEMORY_FORMATS, RunConfig
from unrolling.runs.encoder import Encoder, starts_from_encoder
from unrolling.runs.inputs import load_data
from unrolling.runs.protocol import Protocol, make_protocol
from unrolling.seeding import seeded
from unrolling.trackers import UnlearningTracker
from unrolling.training import Batch, LossFn, train

#: The rate of DistilBERT's dropout where a run has it.
DROPOUT_RATE = 0.1


@dataclass(frozen=True)
class Setup:
    """What a run trains M on, and M, at its initial weights until it is trained.

    Attributes:
        config: The run.
        model: M.
        inputs: All training inputs, in the run's precision and on the model's device.
        labels: Their classes.
        test_data: Test inputs, likewise, and their classes.
        num_classes: c.
        protocol: The batches of its steps, before w_0 and from there on.
        loss_fn: What it minimises.
    """

    config: RunConfig
    model: nn.Module
    inputs: Tensor
    labels: Tensor
    test_data: Batch
    num_classes: int
    protocol: Protocol
    loss_fn: LossFn

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch from w_0 on."""
        return len(self.protocol.order) // self.config.epochs

    @property
    def num_steps(self) -> int:
        """Steps that M, M' before w_0, and M and M' side by side take."""
        parts = self.protocol.pretraining, self.protocol.pretraining_retrained or (), self.protocol.order
        return sum(map(len, parts))

    def tracker(self, **options: Any) -> UnlearningTracker:
        """Return a tracker of M that samples sigma as often and as closely as the run does.

        Args:
            **options: The tracker's own.
        """
        config = self.config
        return UnlearningTracker(
            self.model,
            self.loss_fn,
            learning_rate=config.learning_rate,
            every=config.sigma_every,
            rtol=config.sigma_rtol,
            max_hvps=config.sigma_max_hvps,
            max_basis=config.sigma_basis or None,
            seed=config.seed,
            **options,
        )

    def train(self, order: BatchOrder | None = None, **options: Any) -> None:
        """Train M in place by plain SGD, without M' and without what the run measures.

        Args:
            order: The steps; None: the run's t steps. Pre-training is ``protocol.pretraining``.
            **options: See :func:`unrolling.train`: observers, or another optimiser.
        """
        train(
            self.model,
            self.inputs,
            self.labels,
            self.protocol.order if order is None else order,
            self.loss_fn,
            learning_rate=self.config.learning_rate,
            **options,
        )


def set_up(
    config: RunConfig,
    dataset: Dataset | None = None,
    *,
    device: str | torch.device = "cpu",
    encoder: Encoder | None = None,
    loss_fn: LossFn | None = None,
) -> Setup:
    """Return what a run starts from.

    Args:
        config: The run.
        dataset: What :func:`~unrolling.runs.inputs.load_data` returned for it; None: it is loaded.
        device: Where to train.
        encoder: What a text model starts from, if the run says so.
        loss_fn: Another loss than the run's.
    """
    dataset = load_data(config) if dataset is None else dataset
    # Token numbers stay whole numbers.
    dtype = getattr(torch, config.dtype) if dataset.train_inputs.is_floating_point() else None
    layout = MEMORY_FORMATS[config.memory_format]
    of_images = layout if dataset.train_inputs.ndim == 4 else torch.preserve_format
    test_inputs = dataset.test_inputs.to(device, dtype, memory_format=of_images)
    return Setup(
        config=config,
        model=initial_model(config, dataset, encoder).to(device, memory_format=layout),
        inputs=dataset.train_inputs.to(device, dtype, memory_format=of_images),
        labels=dataset.train_labels.to(device),
        test_data=(test_inputs, dataset.test_labels.to(device)),
        num_classes=dataset.num_classes,
        protocol=make_protocol(config, len(dataset.train_labels), dataset.train_lengths),
        loss_fn=loss_fn or Objective(config.loss, config.gamma),
    )


def initial_model(config: RunConfig, dataset: Dataset, encoder: Encoder | None = None) -> nn.Module:
    """Return M_0, its weights drawn from the run's seed (on the CPU, so that every device starts alike).

    A text model may start from a pretrained encoder; then only its head is drawn.
    """
    reads_texts = takes_tokens(config.model)
    input_shape = (config.max_tokens,) if reads_texts else tuple(dataset.train_inputs.shape[1:])
    with seeded(config.seed, "weights"):
        model = build_model(
            config.model,
            dataset.num_classes,
            input_shape=input_shape,
            width=config.width or None,
            vocab_size=config.vocab_size,
            dropout=0.0 if config.dropout == "off" else DROPOUT_RATE,
        )
    model = model.to(getattr(torch, config.dtype))
    if starts_from_encoder(config):
        if encoder is None:
            raise InputError("this run starts from a pretrained encoder; pass what obtain_encoder returns.")
        encoder.load_into(model)
    return model
