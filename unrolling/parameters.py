"""Parameters as a dict of tensors: to a vector and back, norms, and measuring without leaving a trace."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from unrolling._checks import InputError

Params = dict[str, Tensor]


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


def check_same_parameters(first: Params, second: Params, names: tuple[str, str]) -> None:
    """Raise unless both dicts hold the same names with the same shapes."""
    for params, name in zip((first, second), names, strict=True):
        check_params(params, name)
    if first.keys() != second.keys():
        odd = sorted(first.keys() ^ second.keys())
        raise InputError(
            f"`{names[0]}` and `{names[1]}` must hold the same parameters; only one has {odd[:3]}."
        )
    for key in first:
        if first[key].shape != second[key].shape:
            raise InputError(
                f"parameter {key!r}: `{names[0]}` has shape {tuple(first[key].shape)}, "
                f"`{names[1]}` has {tuple(second[key].shape)}; expected the same model."
            )


def trainable(model: nn.Module) -> Params:
    """Return the model's own trainable parameters by name (not copies)."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def snapshot(model: nn.Module) -> Params:
    """Return detached copies of the trainable parameters: the paper's w at this moment."""
    return {name: p.detach().clone() for name, p in trainable(model).items()}


def load_parameters(model: nn.Module, params: Params) -> None:
    """Overwrite the model's trainable parameters with ``params`` in place; buffers stay."""
    own = trainable(model)
    check_same_parameters(own, params, ("model", "params"))
    with torch.no_grad():
        for name, p in own.items():
            p.copy_(params[name])


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
    check_same_parameters(params, direction, ("params", "direction"))
    with torch.no_grad():
        return {name: p + scale * direction[name] for name, p in params.items()}


def norm(params: Params) -> float:
    r"""Return :math:`\|w\|_2` over all parameters together."""
    check_params(params)
    with torch.no_grad():
        return float(
            torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(p) for p in params.values()]))
        )


def distance(first: Params, second: Params) -> float:
    r"""Return :math:`\|w_1 - w_2\|_2` over all parameters together, for example :math:`\|w_t - w_0\|_2`."""
    check_same_parameters(first, second, ("first", "second"))
    with torch.no_grad():
        parts = [torch.linalg.vector_norm(p - second[name]) for name, p in first.items()]
        return float(torch.linalg.vector_norm(torch.stack(parts)))


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


class _LossModule(nn.Module):
    """Wrap ``loss_fn(model, batch)`` as a module so that its parameters can be swapped functionally."""

    def __init__(self, model: nn.Module, loss_fn: Callable[[nn.Module, Any], Tensor]):
        super().__init__()
        self.model = model
        self.loss_fn = loss_fn

    def forward(self, batch: Any) -> Tensor:
        return self.loss_fn(self.model, batch)


def batch_loss(
    model: nn.Module, loss_fn: Callable[[nn.Module, Any], Tensor], batch: Any, *, training: bool = False
) -> Callable[[Params], Tensor]:
    """Return ``loss(params) -> scalar``: the model's loss on one batch as a function of its parameters.

    The model itself is only read. Its buffers are copied at every call, so a batch-norm layer in training
    mode uses batch statistics and yet leaves the model's running statistics alone. The global random state
    is given back too, so a dropout layer in training mode draws the same mask at every call in a row.

    Args:
        model: Any module; ``params`` passed later must be a subset of its parameters.
        loss_fn: ``loss_fn(model, batch) -> scalar``, the mean loss over the batch.
        batch: Whatever ``loss_fn`` takes, usually ``(inputs, labels)``.
        training: Evaluate in training mode. The default, evaluation mode, is the released code's choice.
    """
    module = _LossModule(model, loss_fn)

    def loss(params: Params) -> Tensor:
        state = {f"model.{name}": p for name, p in params.items()}
        state |= {f"model.{name}": b.clone() for name, b in model.named_buffers()}
        devices = {p.device for p in params.values() if p.device.type == "cuda"}
        # Dropout in training mode draws from the global generators; the caller's next draw must not notice.
        with training_mode(model, training), torch.random.fork_rng(devices=devices, enabled=training):
            return functional_call(module, state, (batch,))

    return loss


def gradient(loss: Callable[[Params], Tensor], params: Params) -> Params:
    """Return the gradient of ``loss`` at ``params``; neither ``params`` nor their ``.grad`` are touched."""
    check_params(params)
    leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
    with torch.enable_grad():
        grads = torch.autograd.grad(loss(leaves), list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, grads, strict=True))
