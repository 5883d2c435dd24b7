"""What surrounds a measurement, made irrelevant: grad mode, autocast, compilers, and the random state."""

import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch

_AUTOCAST_DEVICES = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def plain_autograd() -> Iterator[None]:
    """Record gradients in full precision for a block, whatever the caller's grad mode or autocast is.

    ``no_grad``, ``inference_mode`` and autocast of the caller have no effect inside, and compiled models run
    eagerly, since compiled graphs have no second derivative. Autocast that the block itself enters counts.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in _AUTOCAST_DEVICES:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if "torch._dynamo" in sys.modules:  # else nothing was compiled, and the import takes a second
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


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
