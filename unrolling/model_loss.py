"""A model's loss as a function of its parameters, and its gradient: measured without leaving a trace."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map_only

from unrolling._checks import InputError
from unrolling.parameters import Params, check_params, dense, plain_name, training_mode
from unrolling.refusals import missing_derivatives_named, no_recomputation
from unrolling.surroundings import full_precision, plain_autograd, random_state_kept, without_cudnn

Loss = Callable[[Params], Tensor]
_T = TypeVar("_T")


class IndependentLossError(InputError):
    """The loss does not depend on the parameters that it is differentiated in."""

    def __init__(self) -> None:
        super().__init__(
            "`loss(params)` does not depend on the parameters. Does it use another model, .item(), .detach() "
            "or no_grad?"
        )


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
    ):
        if not isinstance(model, nn.Module):
            raise InputError(f"`model` must be a torch.nn.Module, got {type(model).__name__}.")
        check_loss_fn(loss_fn)
        self.model, self.loss_fn, self.batch, self.training = model, loss_fn, batch, training
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
            raise InputError(
                f"loss_fn(model, batch) failed: {error}. It gets the model and the whole batch, here "
                f"{type(batch).__name__}, and returns a scalar."
            ) from error

    @contextmanager
    def held(self, params: Params) -> Iterator[Callable[[Callable[[], _T]], _T]]:
        """Yield a function that runs a block while the model has these parameters.

        In the block the model is in the mode of the loss, and its buffers are copies. Afterwards everything
        is as it was, the random state too.
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
                stack.enter_context(without_cudnn())
            yield lambda block: functional_call(self._holder, state, (block,))


def batch_loss(
    model: nn.Module,
    loss_fn: Callable[[nn.Module, Any], Tensor],
    batch: Any,
    *,
    training: bool = False,
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

    Raises:
        InputError: From the returned function: if ``params`` names parameters that the model does not have,
            or if the model recomputes activations in the backward pass. Where a function of this package
            takes first derivatives only, it may.
    """
    return BatchLoss(model, loss_fn, batch, training=training)


def check_loss_fn(loss_fn: object) -> None:
    """Raise unless ``loss_fn`` can be called as ``loss_fn(model, batch)``."""
    wanted = "expected loss_fn(model, batch) -> scalar, such as lambda m, b: cross_entropy(m(b[0]), b[1])"
    if not callable(loss_fn) or isinstance(loss_fn, type):
        raise InputError(f"`loss_fn` must be callable, got {loss_fn!r}: {wanted}.")
    module = getattr(loss_fn, "__module__", "") or ""
    if module.startswith(("torch.nn.functional", "torch.nn.modules")):
        name = getattr(loss_fn, "__name__", type(loss_fn).__name__)
        raise InputError(f"`loss_fn` is {name}, which takes outputs and labels: {wanted}.")
    try:
        signature = inspect.signature(loss_fn)
    except (TypeError, ValueError):  # of some callables written in C
        return
    try:
        signature.bind(None, None)
    except TypeError:
        raise InputError(f"`loss_fn` takes {signature}: {wanted}.") from None


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
        raise IndependentLossError()
    return value


def derivatives(value: Tensor, leaves: Sequence[Tensor], **options: bool) -> list[Tensor]:
    """Return the derivative of ``value`` in each of ``leaves``, dense; 0 where it does not depend on one.

    Raises:
        IndependentLossError: If it depends on none.
    """
    found = torch.autograd.grad(value, leaves, allow_unused=True, **options)
    if all(grad is None for grad in found):
        raise IndependentLossError()
    return [
        torch.zeros_like(leaf) if grad is None else dense(grad)
        for leaf, grad in zip(leaves, found, strict=True)
    ]


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

        def slope() -> list[Tensor]:
            value = evaluate((lambda _: loss.value()) if isinstance(loss, BatchLoss) else loss, leaves)
            return derivatives(value, list(leaves.values()))

        with missing_derivatives_named(getattr(loss, "model", None), lambda: loss(params)):
            if isinstance(loss, BatchLoss):
                with loss.held(leaves) as run:
                    grads = run(slope)
            else:
                grads = slope()
        return dict(zip(leaves, grads, strict=True))


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
