r"""Train twice from the same w_0 on the same batches, and see how far apart the weights end (section 9)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from unrolling.data import Dataset
from unrolling.losses import Objective
from unrolling.parameters import Params, distance, snapshot
from unrolling.runs.config import RunConfig
from unrolling.runs.execute import initial_model
from unrolling.runs.protocol import make_protocol
from unrolling.surroundings import threads
from unrolling.training import train

#: What PyTorch asks for before it calls cuBLAS in deterministic mode.
_WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@contextmanager
def deterministic_kernels(wanted: bool) -> Iterator[None]:
    """Let PyTorch choose deterministic kernels only, or any that it likes, within the block."""
    name, value = _WORKSPACE
    before, workspace = torch.are_deterministic_algorithms_enabled(), os.environ.get(name)
    os.environ.setdefault(name, value)
    torch.use_deterministic_algorithms(wanted)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        if workspace is None:
            del os.environ[name]


def end_weights(
    config: RunConfig, dataset: Dataset, *, device: str | torch.device = "cpu"
) -> tuple[Params, Params]:
    """Return w_0 and w_t of the run's t steps from the initial weights, on the CPU in double precision.

    Pre-training is left out: ``pretrain_epochs`` plays no part.
    """
    model = initial_model(config, dataset).to(device)
    start = snapshot(model)
    train(
        model,
        dataset.train_inputs.to(device, getattr(torch, config.dtype)),
        dataset.train_labels.to(device),
        make_protocol(config, len(dataset.train_labels)).order,
        Objective(config.loss, config.gamma),
        learning_rate=config.learning_rate,
    )
    first, last = ({name: p.double().cpu() for name, p in w.items()} for w in (start, snapshot(model)))
    return first, last


def spread(config: RunConfig, dataset: Dataset, *, device: str | torch.device = "cpu") -> float:
    r"""Return how far apart two trainings end, :math:`\|w_t^{(1)} - w_t^{(2)}\| / \|w_t - w_0\|`."""
    (start, end), (_, again) = (end_weights(config, dataset, device=device) for _ in range(2))
    return distance(again, end) / distance(end, start)


def spread_over_threads(config: RunConfig, dataset: Dataset) -> float:
    r"""Return the same for one CPU thread and two, which sum in different orders."""
    with threads(1):
        start, end = end_weights(config, dataset)
    with threads(2):
        _, again = end_weights(config, dataset)
    return distance(again, end) / distance(end, start)
