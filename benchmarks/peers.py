"""The largest singular value of a Hessian by others' code, each with the products it used.

All take the same model, loss and batch, and run on it alone. PyHessian and curvlinops are optional.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.workloads import loss_fn

Batch = tuple[Tensor, Tensor]


#: PyTorch's fused attention has no second derivative; the package takes the plain kernel by itself.
with_plain_attention = sdpa_kernel(SDPBackend.MATH)


@dataclass(frozen=True)
class Estimate:
    """What a method returns.

    Attributes:
        value: Its estimate of |lambda|_max.
        products: Hessian-vector products used.
        trace: Its estimate after every product; ARPACK has only the last, and holds 0 before it.
    """

    value: float
    products: int
    trace: tuple[float, ...]


@with_plain_attention
def pyhessian(model: nn.Module, batch: Batch, seed: int, products: int | None = None) -> Estimate:
    """PyHessian's top eigenvalue, at its defaults or after exactly so many products."""
    module = import_module("pyhessian.hessian")
    inner = module.group_product
    trace: list[float] = []

    def recorded(first: list[Tensor], second: list[Tensor]) -> Tensor:
        found = inner(first, second)
        trace.append(abs(float(found)))
        return found

    torch.manual_seed(seed)
    rule = {} if products is None else {"maxIter": products, "tol": 0}
    with warnings.catch_warnings(), mock.patch.object(module, "group_product", recorded):
        warnings.simplefilter("ignore")  # it calls backward(create_graph=True)
        computation = module.hessian(model, F.cross_entropy, data=batch, cuda=False)
        (value,), _ = computation.eigenvalues(top_n=1, **rule)
    model.zero_grad(set_to_none=True)  # its graph hangs on the gradients
    return Estimate(abs(value), len(trace), tuple(trace))


@with_plain_attention
def curvlinops_eigsh(model: nn.Module, batch: Batch, seed: int) -> Estimate:
    """curvlinops' Hessian in scipy's ARPACK, to a tolerance of 1 %."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # raised while it is imported
        from curvlinops import HessianLinearOperator
    from scipy.sparse.linalg import LinearOperator, eigsh

    model.eval()
    params = [p for p in model.parameters() if p.requires_grad]
    hessian = HessianLinearOperator(
        model, nn.CrossEntropyLoss(), params, [batch], check_deterministic=False
    ).to_scipy()
    count = 0

    def matvec(vector):
        nonlocal count
        count += 1
        return hessian.matvec(vector)

    start = torch.randn(hessian.shape[0], generator=torch.Generator().manual_seed(seed)).numpy()
    operator = LinearOperator(hessian.shape, matvec=matvec, dtype=start.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # raised at its first product
        (value,) = eigsh(operator, k=1, which="LM", tol=1e-2, v0=start, return_eigenvectors=False)
    value = abs(float(value))
    return Estimate(value, count, (0.0,) * (count - 1) + (value,))


@with_plain_attention
def power_iteration(
    model: nn.Module, batch: Batch, seed: int, *, tolerance: float = 1e-3, max_products: int = 100
) -> Estimate:
    """Power iteration written down plainly: lists of tensors, double backward on one kept graph."""
    model.eval()
    params = [p for p in model.parameters() if p.requires_grad]
    grads = torch.autograd.grad(loss_fn(model, batch), params, create_graph=True)
    generator = torch.Generator().manual_seed(seed)
    vector = [torch.randn(p.shape, generator=generator) for p in params]
    trace: list[float] = []
    while len(trace) < max_products:
        length = math.sqrt(sum(float((v * v).sum()) for v in vector))
        vector = [v / length for v in vector]
        product = torch.autograd.grad(grads, params, vector, retain_graph=True)
        trace.append(abs(sum(float((h * v).sum()) for h, v in zip(product, vector, strict=True))))
        vector = list(product)
        if len(trace) > 1 and abs(trace[-1] - trace[-2]) < tolerance * trace[-2]:
            break
    return Estimate(trace[-1], len(trace), tuple(trace))


def installed() -> dict[str, Callable[[nn.Module, Batch, int], Estimate]]:
    """Return the peers that can run here, imported, so that no timed call imports them."""
    known = {
        "PyHessian": ("pyhessian", pyhessian),
        "curvlinops + eigsh": ("curvlinops", curvlinops_eigsh),
    }
    found = {name: entry for name, entry in known.items() if find_spec(entry[0])}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # raised while they are imported
        for module in ("scipy.sparse.linalg", *(module for module, _ in found.values())):
            import_module(module)
    return {name: function for name, (_, function) in found.items()}
