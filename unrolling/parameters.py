"""Parameters as a dict of tensors: by name, to a vector and back, sums, norms and distances."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from unrolling._checks import InputError

Params = dict[str, Tensor]

#: What wrappers of a model put into the names of its parameters.
_WRAPPERS = ("_orig_mod", "module")
_PIECE = 2**16  # numbers that fit into a cache


def check_params(params: object, name: str = "params") -> None:
    """Raise unless ``params`` is a non-empty dict of tensors."""
    if isinstance(params, nn.Module):
        raise InputError(
            f"`{name}` must be a dict[str, Tensor], got a Module. Use dict(model.named_parameters())."
        )
    if not isinstance(params, Mapping) or not all(isinstance(p, Tensor) for p in params.values()):
        raise InputError(
            f"`{name}` must be a dict[str, Tensor], got {type(params).__name__}. "
            "Use dict(model.named_parameters())."
        )
    if not params:
        raise InputError(f"`{name}` is empty: expected at least one parameter. Is anything trainable?")


def plain_name(name: str) -> str:
    """Return a parameter's name without what ``torch.compile``, DDP and DataParallel put into it."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def same_parameters(first: Params, second: Params, names: tuple[str, str]) -> Params:
    """Return ``second`` with the names of ``first``, in its order; wrapped and plain models fit together.

    Raises:
        InputError: If they do not hold the same parameters with the same shapes.
    """
    for params, name in zip((first, second), names, strict=True):
        check_params(params, name)
    if first.keys() != second.keys():
        plain = {plain_name(name): p for name, p in second.items()}
        wanted = {plain_name(name) for name in first}
        if wanted != plain.keys() or not len(wanted) == len(first) == len(second):
            odd = sorted(first.keys() ^ second.keys())
            raise InputError(
                f"`{names[0]}` and `{names[1]}` must hold the same parameters; only one has {odd[:3]}."
            )
        second = {name: plain[plain_name(name)] for name in first}
    for key in first:
        if first[key].shape != second[key].shape:
            raise InputError(
                f"parameter {key!r}: `{names[0]}` has shape {tuple(first[key].shape)}, "
                f"`{names[1]}` has {tuple(second[key].shape)}; expected the same model."
            )
    return {name: second[name] for name in first}


def check_same_parameters(first: Params, second: Params, names: tuple[str, str]) -> None:
    """Raise unless both dicts hold the same parameters with the same shapes."""
    same_parameters(first, second, names)


def trainable(model: nn.Module) -> Params:
    """Return the model's own trainable parameters by name (not copies)."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def snapshot(model: nn.Module) -> Params:
    """Return detached copies of the trainable parameters: the paper's w at this moment."""
    return {name: p.detach().clone() for name, p in trainable(model).items()}


def load_parameters(model: nn.Module, params: Params) -> None:
    """Overwrite the model's trainable parameters with ``params`` in place; buffers stay."""
    own = trainable(model)
    given = same_parameters(own, params, ("model", "params"))
    with torch.no_grad():
        for name, p in own.items():
            p.copy_(given[name])


def dense(grad: Tensor) -> Tensor:
    """Return a gradient of any layout as a dense tensor."""
    return grad if grad.layout is torch.strided else grad.to_dense()


def to_vector(params: Params) -> Tensor:
    """Concatenate all parameters into one vector, in the order of the dict."""
    check_params(params)
    return torch.cat([p.reshape(-1) for p in params.values()])


def from_vector(vector: Tensor, like: Params) -> Params:
    """Cut ``vector`` into tensors named and shaped as in ``like``; the inverse of :func:`to_vector`."""
    check_params(like, "like")
    size = sum(p.numel() for p in like.values())
    if vector.shape != (size,):
        raise InputError(f"`vector` must have shape ({size},) to fill `like`, got {tuple(vector.shape)}.")
    parts = vector.split([p.numel() for p in like.values()])
    return {name: part.view(p.shape) for (name, p), part in zip(like.items(), parts, strict=True)}


def add(params: Params, direction: Params, scale: float = 1.0) -> Params:
    """Return ``params + scale * direction`` as new tensors."""
    direction = same_parameters(params, direction, ("params", "direction"))
    with torch.no_grad():
        return {name: p + scale * direction[name] for name, p in params.items()}


def norm(params: Params) -> float:
    r"""Return :math:`\|w\|_2` over all parameters together, summed in double precision."""
    check_params(params)
    with torch.no_grad():
        return _length(params.values())


def distance(first: Params, second: Params) -> float:
    r"""Return :math:`\|w_1 - w_2\|_2` over all parameters together, for example :math:`\|w_t - w_0\|_2`."""
    second = same_parameters(first, second, ("first", "second"))
    with torch.no_grad():
        return _length(p - second[name] for name, p in first.items())


def dot(first: Tensor, second: Tensor) -> float:
    """Return the inner product of two vectors, summed in float64.

    In float32 BLAS loses four digits of ten million terms, and the squares of a small Hessian vanish. It is
    done in pieces that fit into a cache, so that no long vector is copied.
    """
    if first.dtype == torch.float64:
        return float(first @ second)
    if first.device.type == "mps":  # which has no float64
        return float((first * second).sum())
    pairs = zip(first.split(_PIECE), second.split(_PIECE), strict=True)
    return float(torch.stack([a.double() @ b.double() for a, b in pairs]).sum())


def _length(parts: Iterable[Tensor]) -> float:
    # The squares of half precision overflow at a norm of 256, those of float32 vanish below 1e-22.
    norms = []
    for part in parts:
        wide = part.dtype if part.device.type == "mps" else torch.float64  # which mps does not have
        norms.append(torch.linalg.vector_norm(part, dtype=wide).to("cpu", torch.float64))
    return float(torch.linalg.vector_norm(torch.stack(norms)))


@contextmanager
def training_mode(model: nn.Module, training: bool) -> Iterator[nn.Module]:
    """Put every submodule into training or evaluation mode for a block, then give each its own mode back."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield model
    finally:
        for module, mode in before:
            module.training = mode
