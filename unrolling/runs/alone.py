"""M of a run by itself: its weights, its batches, and its training again, without M' and its measurements."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unrolling.batches import BatchOrder
from unrolling.data import Dataset
from unrolling.losses import Objective
from unrolling.runs.config import RunConfig
from unrolling.runs.execute import initial_model, sigma_tracker
from unrolling.runs.inputs import load_data
from unrolling.runs.protocol import Protocol, make_protocol
from unrolling.trackers import UnlearningTracker
from unrolling.training import Batch, LossFn, train


@dataclass(frozen=True)
class Alone:
    """What a run trains its M on, and M, at its initial weights until it is trained.

    Attributes:
        config: The run.
        model: M.
        inputs: All training inputs, in the run's precision and on the model's device.
        labels: Their classes.
        test_data: Test inputs, likewise, and their classes.
        protocol: The batches of its steps, before w_0 and from there on.
        loss_fn: What it minimises.
    """

    config: RunConfig
    model: nn.Module
    inputs: Tensor
    labels: Tensor
    test_data: Batch
    protocol: Protocol
    loss_fn: LossFn

    def tracker(self, **options: Any) -> UnlearningTracker:
        """Return a tracker that samples sigma as the run did; ``options`` are the tracker's own."""
        return sigma_tracker(self.config, self.model, self.loss_fn, **options)

    def train(self, order: BatchOrder | None = None, **options: Any) -> None:
        """Train M in place by plain SGD.

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


def alone(
    config: RunConfig,
    dataset: Dataset | None = None,
    *,
    loss_fn: LossFn | None = None,
    device: str | torch.device = "cpu",
) -> Alone:
    """Return M of a run, to train it again without M' and without what the run measures.

    Args:
        config: The run; of images, or of a model that starts from no encoder.
        dataset: What :func:`~unrolling.runs.inputs.load_data` returned for it; None: it is loaded.
        loss_fn: Another loss than the run's.
        device: Where to train.
    """
    dtype = getattr(torch, config.dtype)
    dataset = load_data(config) if dataset is None else dataset
    return Alone(
        config=config,
        model=initial_model(config, dataset).to(device),
        inputs=dataset.train_inputs.to(device, dtype),
        labels=dataset.train_labels.to(device),
        test_data=(dataset.test_inputs.to(device, dtype), dataset.test_labels.to(device)),
        protocol=make_protocol(config, len(dataset.train_labels)),
        loss_fn=loss_fn or Objective(config.loss, config.gamma),
    )
