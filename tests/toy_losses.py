"""Random quadratic losses and plain SGD on losses, for the tests of what section 5 expands and removes."""

import torch

from unrolling import make_generator
from unrolling.model_loss import gradient


def quadratics(steps, size, seed):
    """Return w_0 and quadratic losses with symmetric Hessians of either sign."""
    generator = make_generator(seed, "quadratics")
    matrices = torch.randn(steps, size, size, generator=generator, dtype=torch.float64)
    slopes = torch.randn(steps, size, generator=generator, dtype=torch.float64)
    start = torch.randn(size, generator=generator, dtype=torch.float64)
    losses = [
        lambda p, a=(a + a.T) / 2, b=b: p["w"] @ a @ p["w"] / 2 + b @ p["w"]
        for a, b in zip(matrices, slopes, strict=True)
    ]
    return {"w": start}, losses


def sgd(losses, params, eta):
    """Train for real: autograd at the weights of every step."""
    w = {name: p.clone() for name, p in params.items()}
    for loss in losses:
        w = {name: w[name] - eta * g for name, g in gradient(loss, w).items()}
    return w
