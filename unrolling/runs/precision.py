"""How a GPU multiplies float32 numbers: a choice that has to be made, since PyTorch's default mixes two."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from unrolling._checks import check_choice

#: What can be asked for. PyTorch by default takes ``tf32`` in convolutions and ``ieee`` elsewhere.
PRODUCTS: dict[str, str] = {
    "ieee": "with all 24 bits of float32",
    "tf32": "of factors rounded to 11 bits, several times as fast on GPUs since 2020",
}

_BACKENDS = torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn


def current_products() -> tuple[str, ...]:
    """Return how matrices, convolutions and recurrent cells multiply float32 now."""
    return tuple(backend.fp32_precision for backend in _BACKENDS)


@contextmanager
def float32_products(kind: str) -> Iterator[None]:
    """Multiply float32 matrices, and convolve, in one way on every CUDA device for a block.

    Sums stay in float32 either way. CPUs, and other number types, are not concerned.

    Args:
        kind: A key of :data:`PRODUCTS`.
    """
    check_choice("kind of float32 products", kind, PRODUCTS)
    before = current_products()
    try:
        for backend in _BACKENDS:
            backend.fp32_precision = kind
        yield
    finally:
        for backend, kind_before in zip(_BACKENDS, before, strict=True):
            backend.fp32_precision = kind_before
