"""Weights back into a module: those that an unlearning method returns, or a snapshot, by name."""

import difflib
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from unrolling._checks import InputError
from unrolling.parameters import plain_name, trainable, training_mode


def load(model: nn.Module, params: Any, *, batches: Iterable[Any] | None = None) -> nn.Module:
    """Put weights into ``model``, in place, and return it.

    Names may carry the prefixes of wrapped modules, ``module.`` or ``_orig_mod.``, on either side; values are
    converted to the model's precision and device; tied weights stay tied. Parameters that do not train, and
    buffers, keep their values unless ``params`` holds them too. Nothing is changed if anything does not fit.

    Args:
        model: The module; w'' goes into a copy by ``load(copy.deepcopy(model), unlearned)``.
        params: Weights by name, all trainable parameters: what :func:`unrolling.snapshot` or a method
            returns, or a state dict.
        batches: Re-estimate the running statistics of batch norm with the new weights on these inputs, in
            training mode, as ``torch.optim.swa_utils.update_bn`` does: tensors, or tuples whose first entry
            is one; a dict is passed as keyword arguments. By default the statistics are kept; those of a
            model that was trained on what is forgotten have seen it.

    Returns:
        ``model``.

    Raises:
        InputError: If a name or a shape is not the model's, a trainable parameter is missing, or ``batches``
            is empty.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"`model` must be a torch.nn.Module, got {type(model).__name__}.")
    if isinstance(params, nn.Module):
        params = params.state_dict()
    if not isinstance(params, Mapping) or not all(isinstance(value, Tensor) for value in params.values()):
        raise InputError(
            f"`params` must be a dict[str, Tensor], as snapshot(model) or a method returns, got "
            f"{type(params).__name__}."
        )
    own, given = _own(model), dict(params)
    if not given.keys() <= own.keys():
        own, given = _by_plain_name(own, "model"), _by_plain_name(given, "params")
    _check(model, own, given)
    with torch.no_grad():
        for name, value in given.items():
            own[name].copy_(value)
    if batches is not None:
        _estimate_statistics(model, batches)
    return model


def _own(model: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers by name; a tied one has several names."""
    return dict(
        chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    )


def _by_plain_name(tensors: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    plain = {plain_name(name): value for name, value in tensors.items()}
    if len(plain) < len(tensors):
        raise InputError(f"two names of `{what}` differ only in a prefix such as 'module.'; rename one.")
    return plain


def _check(model: nn.Module, own: dict[str, Tensor], given: dict[str, Tensor]) -> None:
    for name in given:
        if name not in own:
            near = difflib.get_close_matches(name, own, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InputError(f"the model has no parameter {name!r}.{hint}")
    covered = {id(own[name]) for name in given}
    missing = [name for name, p in trainable(model).items() if id(p) not in covered]
    if missing:
        raise InputError(
            f"`params` lacks {len(missing)} of the model's trainable parameters: {', '.join(missing[:3])}. "
            "Pass all of them; those to keep can be taken from snapshot(model)."
        )
    odd = [name for name, value in given.items() if value.shape != own[name].shape]
    if odd:
        shapes = ", ".join(
            f"{name!r} is {tuple(own[name].shape)} in the model and {tuple(given[name].shape)} in `params`"
            for name in odd[:2]
        )
        head = " It looks like another head: build the model with as many outputs as `params` has."
        raise InputError(f"{shapes}.{head if len(odd) <= 2 and len(given) > len(odd) else ''}")
    first: dict[int, str] = {}
    for name, value in given.items():
        other = first.setdefault(id(own[name]), name)
        if not torch.equal(value.to(given[other]), given[other]):
            raise InputError(
                f"{other!r} and {name!r} are one tied parameter in the model, and two values in `params`."
            )


class _Forward(nn.Module):
    """Calls the model with a dict as keyword arguments, on the model's device."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, batch: Any) -> None:
        device = next(self.model.parameters()).device
        if isinstance(batch, Mapping):
            self.model(**{key: v.to(device) if isinstance(v, Tensor) else v for key, v in batch.items()})
        else:
            self.model(batch.to(device))


def _estimate_statistics(model: nn.Module, batches: Iterable[Any]) -> None:
    iterator = iter(batches)
    first = next(iterator, None)
    if first is None:
        raise InputError("`batches` is empty: expected inputs to re-estimate the running statistics on.")
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    momenta = [(module, module.momentum) for module in model.modules() if isinstance(module, _BatchNorm)]
    with training_mode(model, True), torch.random.fork_rng(devices=devices):
        try:
            update_bn(chain([first], iterator), _Forward(model))
        finally:  # update_bn gives them back only if every batch passes
            for module, momentum in momenta:
                module.momentum = momentum
