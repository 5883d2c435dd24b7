"""The paper's procedure written down plainly: what one would type from sections 5.2 and 8.1.

Train; every k steps take the largest singular value of the Hessian of the current batch by power iteration in
evaluation mode, and copy the weights into a Python list to take the distance from those at the start.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers import power_iteration
from benchmarks.workloads import loss_fn


def weights_as_list(model: nn.Module) -> list[float]:
    """Return every weight, one after the other, as Python numbers."""
    return [value for p in model.parameters() for value in p.detach().reshape(-1).tolist()]


def tracked_run(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    steps: Sequence[Sequence[int]],
    *,
    learning_rate: float,
    every: int,
) -> dict[str, Any]:
    """Train and return e of Eq. 9 after every ``every`` steps, with the products that it took."""
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    initial = weights_as_list(model)
    sigmas: list[float] = []
    errors: list[float] = []
    products = 0
    for step, index in enumerate(steps):
        batch = inputs[list(index)], labels[list(index)]
        if step % every == 0:
            found = power_iteration(model, batch, seed=step)
            sigmas.append(found.value)
            products += found.products
        model.train()
        optimizer.zero_grad()
        loss_fn(model, batch).backward()
        optimizer.step()
        if (step + 1) % every == 0:
            t = step + 1
            change = sum((a - b) ** 2 for a, b in zip(weights_as_list(model), initial, strict=True)) ** 0.5
            sigma = sum(sigmas) / len(sigmas)
            errors.append(learning_rate**2 * change / t * sigma * (t**2 - t) / 2)
    return {"errors": errors, "products": products}
