"""What surrounds a measurement, made irrelevant: grad mode, autocast, compilers, threads, random state."""

import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch

_AUTOCAST_DEVICES = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def full_precision() -> Iterator[None]:
    """Leave the caller's autocast, and run compiled models eagerly, for a block.

    Autocast that the block itself enters counts. Compiled graphs have no second derivative.
    """
    with ExitStack() as stack:
        for kind in _AUTOCAST_DEVICES:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if "torch._dynamo" in sys.modules:  # else nothing was compiled, and the import takes a second
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


@contextmanager
def plain_autograd() -> Iterator[None]:
    """Record gradients for a block, whether or not the caller is in ``no_grad`` or ``inference_mode``."""
    with torch.inference_mode(False), torch.enable_grad(), full_precision():
        yield


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute on so many CPU threads for a block; on one, long sums are added in one order."""
    before = torch.get_num_threads()
    if before == count:  # setting it is slow
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def without_cudnn() -> Iterator[None]:
    """Compute by PyTorch's own kernels on a GPU for a block.

    As ``torch.backends.cudnn.flags(enabled=False)``, which fails if convolutions multiply float32 otherwise
    than PyTorch does by default.
    """
    before = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = before


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make tensors of ``dtype`` for a block, where nothing else is said."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def random_state_kept(devices: Iterable[torch.device] = ()) -> Iterator[None]:
    """Give the global random states of PyTorch, NumPy and Python back after a block.

    Args:
        devices: Devices other than the CPU whose generators may be drawn from.
    """
    by_kind: dict[str, set[torch.device]] = {}
    for device in devices:
        if device.type not in ("cpu", "meta"):
            by_kind.setdefault(device.type, set()).add(device)
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=[]))
            for kind, present in by_kind.items():
                stack.enter_context(torch.random.fork_rng(devices=list(present), device_type=kind))
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
