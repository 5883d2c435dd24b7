r"""Cheap looks at a loss before its curvature is believed: two passes agree, and the Hessian is symmetric."""

from collections.abc import Callable
from itertools import combinations

import torch
from torch import Tensor

from unrolling._checks import InputError
from unrolling.curvature import Loss, hessian_operator
from unrolling.parameters import Params, check_params, dot
from unrolling.seeding import make_generator
from unrolling.surroundings import plain_autograd

#: Three directions give three pairs: that all of them miss an asymmetry is unlikely.
_DIRECTIONS = 3


def check_deterministic(loss: Loss, params: Params) -> None:
    r"""Raise if two passes of the loss at the same weights differ.

    Equal means to the square root of the precision, :math:`1.5 \cdot 10^{-8}` in float64 and
    :math:`3 \cdot 10^{-4}` in float32: kernels may sum in another order.

    Args:
        loss: ``loss(params) -> scalar``, closed over its batch.
        params: The weights w.

    Raises:
        InputError: If they differ: Lanczos would then be given the products of different Hessians.
    """
    check_params(params)
    first, second = (_value(loss, params) for _ in range(2))
    tolerance = _precision(params) ** 0.5 * max(abs(first), abs(second))
    if abs(first - second) > tolerance:  # NaN does not: what comes next says that training has diverged
        raise InputError(
            f"two passes of the loss at the same weights differ, {first:.6g} and {second:.6g}: it draws "
            "random numbers, or counts its calls. Draw them before the pass and put them into the batch."
        )


def check_symmetric(loss: Loss, params: Params, *, seed: int = 0) -> None:
    r"""Raise if the Hessian-vector products of the loss are not those of a symmetric matrix.

    For random u and v it compares :math:`u^T H v` with :math:`v^T H u`, which differ only if the second
    derivative of a layer is wrong: as :math:`\|H - H^T\|_F` against :math:`\|H\|_F`. Allowed is the fourth
    root of the precision, :math:`10^{-4}` in float64 and 0.02 in float32.

    Args:
        loss: ``loss(params) -> scalar``, closed over its batch.
        params: The weights w.
        seed: Of the three random directions; it costs one gradient and three products.

    Raises:
        InputError: If they differ; it names the parameter where they do most.
    """
    check_params(params)
    product = hessian_operator(loss, params)
    dtype = torch.promote_types(next(iter(params.values())).dtype, torch.float32)
    size, generator = sum(p.numel() for p in params.values()), make_generator(seed, "symmetry")
    directions = [
        torch.randn(size, generator=generator, dtype=dtype, device="cpu").to(
            next(iter(params.values())).device
        )
        for _ in range(_DIRECTIONS)
    ]
    images = [product(direction) for direction in directions]
    for one, other in combinations(range(_DIRECTIONS), 2):
        gap = abs(dot(directions[one], images[other]) - dot(directions[other], images[one]))
        scale = float(images[one].double().norm() + images[other].double().norm()) / 2
        if gap > _precision(params) ** 0.25 * scale:
            worst = _most_asymmetric(product, params, directions[one], images[one], directions[other])
            raise InputError(
                "the second derivative of this loss is wrong: its Hessian is not symmetric (u.Hv and v.Hu "
                f"differ by {gap / scale:.0%} of its size), most of all in {worst!r}. Look near it for a "
                "backward pass written by hand, and write that function in PyTorch's own operations."
            )


def _most_asymmetric(
    product: Callable[[Tensor], Tensor], params: Params, first: Tensor, image: Tensor, second: Tensor
) -> str:
    """Return the parameter with which the Hessian is the least symmetric; one product for each."""
    gaps, start = {}, 0
    for name, p in params.items():
        alone = torch.zeros_like(second)
        alone[start : start + p.numel()] = second[start : start + p.numel()]
        gaps[name] = abs(dot(first, product(alone)) - dot(alone, image))
        start += p.numel()
    return max(gaps, key=gaps.get)


def _value(loss: Loss, params: Params) -> float:
    with plain_autograd(), torch.no_grad():
        value = loss(params)
    if value.ndim != 0:
        raise InputError(f"`loss(params)` must return a scalar, got shape {tuple(value.shape)}.")
    return float(value)


def _precision(params: Params) -> float:
    return max(torch.finfo(p.dtype).eps for p in params.values())
