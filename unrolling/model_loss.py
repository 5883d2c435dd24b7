"""A model's loss as a function of its parameters, and its gradient: measured without leaving a trace."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map_only

from unrolling._checks import InputError
from unrolling.parameters import Params, check_params, dense, plain_name, training_mode
from unrolling.refusals import missing_derivatives_named, no_recomputation
from unrolling.surroundings import full_precision, plain_autograd, random_state_kept

Loss = Callable[[Params], Tensor]
_T = TypeVar("_T")


class _Holder(nn.Module):
    """Runs a block while the model inside has other parameters."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, block: Callable[[], _T]) -> _T:
        return block()


class BatchLoss:
    """The loss of a model on one batch as a function of its parameters; see :func:`batch_loss`."""

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[nn.Module, Any], Tensor],
        batch: Any,
        *,
        training: bool = False,
        random_state: Tensor | None = None,
    ):
        if not isinstance(model, nn.Module):
            raise InputError(f"`model` must be a torch.nn.Module, got {type(model).__name__}.")
        if not callable(loss_fn):
            raise InputError(f"`loss_fn` must be callable, loss_fn(model, batch), got {loss_fn!r}.")
        self.model, self.loss_fn, self.batch = model, loss_fn, batch
        self.training, self.random_state = training, random_state
        self._holder = _Holder(model)

    def __call__(self, params: Params) -> Tensor:
        """Return the loss at ``params``."""
        # The model gets its own weights back before anyone can differentiate the value.
        with full_precision(), self.held(params) as run, no_recomputation(self.model):
            return run(self.value)

    def value(self) -> Tensor:
        """Return the loss at whatever parameters the model holds now."""
        # What was made under inference_mode cannot be saved for the backward pass.
        batch = tree_map_only(Tensor, lambda t: t.clone() if t.is_inference() else t, self.batch)
        try:
            return self.loss_fn(self.model, batch)
        except TypeError as error:
            if error.__traceback__ is not None and error.__traceback__.tb_next is None:  # the call itself
                raise InputError(
                    f"`loss_fn` must take (model, batch) and return the mean loss, got: {error}."
                ) from error
            raise

    @contextmanager
    def held(self, params: Params) -> Iterator[Callable[[Callable[[], _T]], _T]]:
        """Yield a function that runs a block while the model has these parameters.

        In the block the model is in the mode of the loss; its buffers are copies, and the random state is
        that of the loss. Afterwards everything is as it was.
        """
        model = self.model
        state = {f"model.{name}": p for name, p in _by_own_name(model, params).items()}
        state |= {f"model.{name}": b.clone() for name, b in model.named_buffers()}
        devices = {p.device for p in params.values()}
        with ExitStack() as stack:
            stack.enter_context(random_state_kept(devices))
            stack.enter_context(training_mode(model, self.training))
            stack.enter_context(_attributes_kept(model))
            if any(isinstance(module, nn.RNNBase) for module in model.modules()):
                # cuDNN's recurrent cells have no second derivative, and none at all in evaluation mode.
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            if self.random_state is not None:
                _set_random_state(self.random_state, devices)
            yield lambda block: functional_call(self._holder, state, (block,))


def batch_loss(
    model: nn.Module,
    loss_fn: Callable[[nn.Module, Any], Tensor],
    batch: Any,
    *,
    training: bool = False,
    random_state: Tensor | None = None,
) -> BatchLoss:
    """Return ``loss(params) -> scalar``: the model's loss on one batch as a function of its parameters.

    The model itself is only read. Its buffers are copied at every call, so a batch-norm layer in training
    mode uses batch statistics and yet leaves the model's running statistics alone. The global random state
    is given back too, so a dropout layer in training mode draws the same mask at every call in a row.

    Args:
        model: Any module; ``params`` passed later must be a subset of its parameters.
        loss_fn: ``loss_fn(model, batch) -> scalar``, the mean loss over the batch.
        batch: Whatever ``loss_fn`` takes, usually ``(inputs, labels)``.
        training: Evaluate in training mode. The default, evaluation mode, is the released code's choice.
        random_state: What the loss draws from: the state of the generator on the parameters' device, such as
            ``torch.get_rng_state()`` gave it before a step. By default the state at the call.

    Raises:
        InputError: From the returned function: if ``params`` names parameters that the model does not have,
            or if the model recomputes activations in the backward pass. Where a function of this package
            takes first derivatives only, it may.
    """
    return BatchLoss(model, loss_fn, batch, training=training, random_state=random_state)


def differentiable(params: Params) -> Params:
    """Return ``params`` as leaves of a new graph; they share memory and are only to be read."""
    check_params(params)
    kinds = {(p.dtype.is_floating_point, p.device) for p in params.values()}
    if len(kinds) > 1 or not next(iter(kinds))[0]:
        found = sorted({f"{p.dtype} on {p.device}" for p in params.values()})
        raise InputError(f"`params` must be real floating-point tensors on one device, got {found}.")
    return {
        name: (p.clone() if p.is_inference() else p).detach().requires_grad_() for name, p in params.items()
    }


def evaluate(loss: Loss, leaves: Params) -> Tensor:
    """Return ``loss(leaves)``, which must be a scalar that depends on them.

    Raises:
        InputError: If it is not.
    """
    value = loss(leaves)
    if not isinstance(value, Tensor) or value.ndim != 0:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"`loss(params)` must return a scalar, got {got}.")
    if not value.requires_grad:
        raise InputError(
            "`loss(params)` does not depend on the parameters. Does it use another model, .item(), .detach() "
            "or no_grad?"
        )
    return value


def gradient(loss: Loss, params: Params) -> Params:
    """Return the gradient of ``loss`` at ``params``; neither ``params`` nor their ``.grad`` are touched.

    Args:
        loss: ``loss(params) -> scalar``. That of :func:`batch_loss` may recompute in the backward pass.
        params: Where to take it.

    Returns:
        Dense tensors, named and shaped as ``params``; 0 where the loss does not use one.
    """
    with plain_autograd(), random_state_kept({p.device for p in params.values()}):
        leaves = differentiable(params)

        def slope() -> tuple[Tensor, ...]:
            value = evaluate((lambda _: loss.value()) if isinstance(loss, BatchLoss) else loss, leaves)
            return torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)

        with missing_derivatives_named(getattr(loss, "model", None), lambda: loss(params)):
            if isinstance(loss, BatchLoss):
                with loss.held(leaves) as run:
                    grads = run(slope)
            else:
                grads = slope()
        return {name: dense(grad) for name, grad in zip(leaves, grads, strict=True)}


def _by_own_name(model: nn.Module, params: Params) -> Params:
    """Return ``params`` under the names that the model itself has for them."""
    check_params(params)
    own = dict(model.named_parameters(remove_duplicate=False))
    if own.keys() >= params.keys():
        found = dict(params)
    else:
        plain = {plain_name(name): name for name in own}
        strange = sorted(name for name in params if plain_name(name) not in plain)
        if strange:
            raise InputError(
                f"the model has no parameter {strange[0]!r}; expected names of model.named_parameters(), "
                f"such as {next(iter(own))!r}."
                if own
                else "the model has no parameters."
            )
        found = {plain[plain_name(name)]: p for name, p in params.items()}
    for name, p in found.items():
        if p.shape != own[name].shape:
            raise InputError(
                f"parameter {name!r} must have shape {tuple(own[name].shape)}, got {tuple(p.shape)}."
            )
    return found


@contextmanager
def _attributes_kept(model: nn.Module) -> Iterator[None]:
    """Give every module back the tensors that it keeps as plain attributes, as old weight norm does."""
    before = [
        (module, name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if isinstance(value, Tensor)
    ]
    try:
        yield
    finally:
        for module, name, value in before:
            vars(module)[name] = value


def _set_random_state(state: Tensor, devices: set[torch.device]) -> None:
    for device in devices:
        if device.type == "cuda":
            torch.cuda.set_rng_state(state, device)
        else:
            torch.set_rng_state(state)
