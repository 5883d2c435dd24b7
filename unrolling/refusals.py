"""What autograd cannot do for a model, said in one line that names the layer."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from unrolling._checks import InputError
from unrolling.parameters import dense, training_mode
from unrolling.surroundings import random_state_kept

_RECOMPUTES = (
    "recomputes activations in the backward pass, or keeps them elsewhere; by then the model holds its own "
    "weights again, and the derivative would be that of others. Switch it off to measure, for example with "
    "model.gradient_checkpointing_disable()."
)
#: PyTorch's words where a parameter has no gradient because a checkpoint hides it.
_HIDDEN = "None of the inputs have requires_grad=True"
#: PyTorch's words where a backward pass, or a second one, is missing.
_MISSING = ("not implemented", "does not currently support double backward", "can only be called in training")


@contextmanager
def no_recomputation(model: nn.Module | None = None) -> Iterator[None]:
    """Refuse, in a block that builds a graph, checkpoints that run the model again in the backward pass.

    Args:
        model: Whose layer the message names.

    Raises:
        InputError: If there is one.
    """
    try:
        with torch.autograd.graph.disable_saved_tensors_hooks(_RECOMPUTES), warnings.catch_warnings():
            warnings.filterwarnings("error", message=_HIDDEN)
            yield
    except (RuntimeError, UserWarning) as error:
        if _RECOMPUTES not in str(error) and _HIDDEN not in str(error):
            raise
        raise InputError(f"{_layer_at(error, model) or 'the model'} {_RECOMPUTES}") from None


@contextmanager
def missing_derivatives_named(model: nn.Module | None, forward: Callable[[], Any]) -> Iterator[None]:
    """Say which layer it is whose derivative PyTorch does not have.

    Args:
        model: The model whose loss is differentiated in the block, if there is one.
        forward: Evaluates that loss; called after an error only, to find the layer.

    Raises:
        InputError: In place of PyTorch's RuntimeError.
    """
    try:
        yield
    except RuntimeError as error:  # NotImplementedError is one
        said = str(error).strip().partition("\n")[0]
        if "checkpoint" in said:
            raise InputError(f"the model {_RECOMPUTES}") from error
        if not any(words in said for words in _MISSING):
            raise
        layer = _layer_without_derivative(model, forward) if model is not None else ""
        raise InputError(
            f"{layer or 'the loss'} cannot be differentiated as often as this needs; PyTorch says {said!r} "
            "Put the same function there, written out in operations that can."
        ) from error


def _layer_at(error: BaseException, model: nn.Module | None) -> str:
    """Return the innermost module of ``model`` that was running when the error was raised."""
    names = {id(module): name for name, module in model.named_modules()} if model is not None else {}
    found, trace = "", error.__traceback__
    while trace is not None:
        module = trace.tb_frame.f_locals.get("self")
        if names.get(id(module)):
            found = _described(names[id(module)], module)
        trace = trace.tb_next
    return found


def _layer_without_derivative(model: nn.Module, forward: Callable[[], Any]) -> str:
    """Return the first layer, in the order of the forward pass, that cannot be differentiated twice alone."""
    calls: list[tuple[str, nn.Module, tuple[Any, ...]]] = []
    handles = [
        module.register_forward_pre_hook(lambda layer, args, name=name: calls.append((name, layer, args)))
        for name, module in model.named_modules()
        if not list(module.children())
    ]
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    for name, layer, args in calls:
        try:
            with random_state_kept(), training_mode(layer, layer.training):
                _differentiate_twice(layer, args)
        except RuntimeError:
            return _described(name, layer)
    return ""


def _differentiate_twice(layer: nn.Module, args: tuple[Any, ...]) -> None:
    args = tuple(
        a.detach().clone().requires_grad_() if isinstance(a, Tensor) and a.is_floating_point() else a
        for a in args
    )
    wanted = [t for t in (*args, *layer.parameters()) if isinstance(t, Tensor) and t.requires_grad]
    with torch.enable_grad():
        out = layer(*args)
        tensors = [t for t in (out if isinstance(out, tuple) else (out,)) if isinstance(t, Tensor)]
        if not wanted or not tensors or not tensors[0].requires_grad:
            return
        value = tensors[0].square().sum()
        slopes = torch.autograd.grad(value, wanted, create_graph=True, materialize_grads=True)
        torch.autograd.grad(
            torch.stack([dense(slope).square().sum() for slope in slopes]).sum(),
            wanted,
            materialize_grads=True,
        )


def _described(name: str, layer: nn.Module) -> str:
    return f"layer {name!r} ({type(layer).__name__})"
