"""One integer seed becomes independent, named streams of random numbers.

Two streams of the same seed share nothing, so drawing more from one (a longer batch order, say) never
changes another (the initial weights), and a resumed run needs no saved generator state.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from unrolling._checks import check_integer


def stream_seed(seed: int, *name: object) -> int:
    """Return the 63-bit seed of the stream called ``name``.

    Args:
        seed: The run's seed, a whole number >= 0.
        name: What the stream is for, for example ``"batch order"`` or ``("start vector", step)``.
    """
    check_integer("seed", seed)
    digest = hashlib.sha256(repr((int(seed), *map(str, name))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def make_generator(seed: int, *name: object, device: str | torch.device = "cpu") -> torch.Generator:
    """Return a new generator for the stream called ``name`` of ``seed``."""
    return torch.Generator(device=device).manual_seed(stream_seed(seed, *name))


@contextmanager
def seeded(seed: int, *name: object) -> Iterator[None]:
    """Run a block whose global random state is the stream called ``name``; the caller's state comes back.

    For code that draws from PyTorch's global generators, that of the CPU and those of all CUDA devices, and
    cannot be handed another: weight initialisation, dropout. NumPy's and Python's generators, and those of
    other accelerators, are not touched.
    """
    stream, cuda = stream_seed(seed, *name), torch.cuda.is_available()
    started = cuda and torch.cuda.is_initialized()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if started else []):
            torch.default_generator.manual_seed(stream)
            if cuda:
                torch.cuda.manual_seed_all(stream)
            yield
    finally:
        if cuda and not started:
            # CUDA had drawn nothing: it starts, as without the block, from the seed of the CPU's generator.
            torch.cuda.manual_seed_all(torch.initial_seed())
