r"""Train twice from the same w_0 on the same batches, and see how far apart the weights end (section 9)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from unrolling.data import Dataset
from unrolling.parameters import Params, distance, snapshot
from unrolling.runs.config import RunConfig
from unrolling.runs.setup import set_up
from unrolling.surroundings import threads

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
    again = set_up(config, dataset, device=device)
    start = snapshot(again.model)
    again.train()
    first, last = ({name: p.double().cpu() for name, p in w.items()} for w in (start, snapshot(again.model)))
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
