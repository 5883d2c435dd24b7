r"""Plain SGD over a batch order: a constant learning rate, no momentum, no augmentation (section 9).

M and the retrained M' run side by side: both take the same steps in the same order, and M' leaves out what is
to be forgotten. Observers watch; they never take part.
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from unrolling._checks import InputError, UnrollingError, check_integer, check_real
from unrolling.batches import BatchOrder, Examples
from unrolling.model_loss import batch_loss
from unrolling.parameters import dense, norm, trainable, training_mode

LossFn = Callable[[nn.Module, tuple[Tensor, Tensor]], Tensor]
Batch = tuple[Tensor, Tensor]


class DivergedError(UnrollingError):
    """Weights are no longer finite, or so large that their norm is not."""


class Stepper:
    """Takes the steps of :func:`train`: plain SGD. Subclass and override for another optimiser."""

    def take(self, model: nn.Module, batch: Batch, loss_fn: LossFn, learning_rate: float, step: int) -> None:
        """Take step number ``step`` of ``model``, M or M', in place."""
        sgd_step(model, batch, loss_fn, learning_rate)


class Observer:
    """Watches training. Subclass and override what is needed; leave models and random state untouched."""

    def before_step(self, step: int, batch: Batch) -> None:
        """Called with the weights w_step, before the update on ``batch``."""

    def after_step(self, step: int) -> None:
        """Called with the weights w_{step + 1}, when M and M' have both moved on."""


def sgd_step(model: nn.Module, batch: Batch, loss_fn: LossFn, learning_rate: float) -> None:
    r"""Take one step in place, :math:`w \leftarrow w - \eta \nabla \mathcal{L}(w, \hat x)`.

    As ``torch.optim.SGD`` does: parameters that the loss does not use stay. ``.grad`` stays as it was, and
    the caller's grad mode does not matter.

    Raises:
        InputError: On a learning rate that is not positive or no number of the weights' type, a loss that is
            no scalar or depends on no trainable parameter, or inside ``torch.inference_mode``.
    """
    eta = check_real("learning_rate", learning_rate, above=0)
    params, grads = used_gradients(model, batch, loss_fn)
    for dtype in {p.dtype for p in params}:
        check_real("learning_rate", eta, maximum=torch.finfo(dtype).max)
    with torch.no_grad():
        torch._foreach_add_(params, grads, alpha=-eta)


def used_gradients(model: nn.Module, batch: Batch, loss_fn: LossFn) -> tuple[list[Tensor], list[Tensor]]:
    """Return the trainable parameters that the loss on ``batch`` uses, and its gradients in them, dense.

    Raises:
        InputError: If there are none, the loss is no scalar, or inside ``torch.inference_mode``.
    """
    if torch.is_inference_mode_enabled():
        raise InputError("training inside torch.inference_mode() records no gradients: leave it first.")
    params = list(trainable(model).values())
    with torch.enable_grad():
        loss = loss_fn(model, batch)
        if not isinstance(loss, Tensor) or loss.ndim:
            came = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise InputError(
                f"`loss_fn(model, batch)` must return a scalar tensor, got {came}: take the mean."
            )
        if not params or not loss.requires_grad:
            raise InputError(
                "the loss depends on no trainable parameter of the model: nothing can be trained. Does "
                "`loss_fn` use the model it is given, and is anything not frozen?"
            )
        try:
            grads = torch.autograd.grad(loss, params, allow_unused=True)
        except RuntimeError as error:
            if "use_reentrant" not in str(error):
                raise
            raise InputError(
                "the model recomputes activations by torch.utils.checkpoint with use_reentrant=True, which "
                "PyTorch cannot do here: set it to False."
            ) from error
    used = [(p, g) for p, g in zip(params, grads, strict=True) if g is not None]
    return [p for p, _ in used], [dense(g) for _, g in used]  # foreach takes dense ones


def train(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    order: BatchOrder,
    loss_fn: LossFn,
    *,
    learning_rate: float,
    observers: Iterable[Observer] = (),
    first_step: int = 0,
    retrained: nn.Module | None = None,
    forget: Examples | None = None,
    stepper: Stepper | None = None,
) -> None:
    r"""Train ``model`` in place on the steps of ``order``; with ``retrained``, train M' beside it.

    Args:
        model: M, at the weights the first step starts from.
        inputs: All examples, shape (n, ...), on the model's device.
        labels: Their classes, shape (n,).
        order: The batch of every step.
        loss_fn: ``loss_fn(model, (inputs, labels)) -> scalar``, the mean over the batch.
        learning_rate: :math:`\eta`, constant.
        observers: Told before and after every step, in this order.
        first_step: Where to resume in ``order``; the model must be as it was then.
        retrained: M', see :func:`~unrolling.training.copy_for_retraining`. It owns its batch-norm buffers.
        forget: The examples that M' leaves out, whole numbers in any form, or a mask of shape (n,). They are
            removed in place from every batch, as section 4.1 does; of a batch of which nothing is left M'
            takes no step, as in section 8.3.
        stepper: Takes the steps; default is plain SGD.

    Raises:
        InputError: On a learning rate that is not positive, on one of ``retrained`` and ``forget`` alone, if
            ``forget`` is empty, everything, or names an example that is at no step, or if batch norm would
            have to take statistics of one example.
        DivergedError: As soon as the norm of the weights of M or M' is found not to be finite: after every
            epoch, and at the end.
    """
    eta = check_real("learning_rate", learning_rate, above=0)
    for name, data in (("inputs", inputs), ("labels", labels)):
        if not isinstance(data, Tensor) or not data.ndim:
            raise InputError(f"`{name}` must be a tensor with one row for each example, got {data!r:.40}.")
    if len(labels) != len(inputs):
        raise InputError(f"expected one label for each of the {len(inputs)} inputs, got {len(labels)}.")
    check_integer("first_step", first_step, maximum=len(order))
    if (retrained is None) != (forget is None):
        raise InputError("pass `retrained` and `forget` together: M' leaves the batch `forget` out.")
    gone = frozenset(() if forget is None else order.check("forget", forget, total=len(labels)))
    check_lone_examples(model, inputs, labels, order, loss_fn, gone)
    observers, stepper = list(observers), stepper or Stepper()
    models = {"M": model} if retrained is None else {"M": model, "M'": retrained}
    epoch = _steps_per_epoch(order)
    with ExitStack() as modes:
        for trained in models.values():
            modes.enter_context(training_mode(trained, True))
        for step in range(first_step, len(order)):
            index = torch.tensor(order[step], device=inputs.device)
            batch = inputs[index], labels[index]
            for observer in observers:
                observer.before_step(step, batch)
            batch = _unchanged(batch, inputs, index)
            stepper.take(model, batch, loss_fn, eta, step)
            if retrained is not None:
                batch = _unchanged(batch, inputs, index)
                kept = [place for place, example in enumerate(order[step]) if example not in gone]
                if len(kept) == len(index):
                    stepper.take(retrained, batch, loss_fn, eta, step)
                elif kept:
                    stepper.take(retrained, (batch[0][kept], batch[1][kept]), loss_fn, eta, step)
            if (step + 1) % epoch == 0:
                check_finite(models, step + 1, eta)
            for observer in observers:
                observer.after_step(step)
    check_finite(models, len(order), eta)


def _unchanged(batch: Batch, inputs: Tensor, index: Tensor) -> Batch:
    """Return the batch, with its inputs taken anew if a layer that works in place changed them."""
    return (inputs[index], batch[1]) if batch[0]._version else batch


def _steps_per_epoch(order: BatchOrder) -> int:
    """Return after how many steps an example comes again, or how many steps there are if none does."""
    seen: set[int] = set()
    for step, batch in enumerate(order):
        if not seen.isdisjoint(batch):
            return max(1, step)
        seen.update(batch)
    return max(1, len(order))


def check_finite(models: Mapping[str, nn.Module], steps: int, learning_rate: float) -> None:
    """Raise a :class:`DivergedError` unless the norms of the models, M and M' by name, are finite."""
    for name, model in models.items():
        if not math.isfinite(norm(trainable(model))):
            raise DivergedError(
                f"training diverged: weights of {name} are not finite, or too large to be measured, after "
                f"{steps} steps; try a learning_rate below {learning_rate:g}."
            )


def check_lone_examples(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    order: BatchOrder,
    loss_fn: LossFn,
    forget: frozenset[int] = frozenset(),
) -> None:
    """Raise if a step of M, or what M' keeps of it, is one example of which batch norm takes no statistics.

    Images have many pixels in a channel, so with them one example may do: it is tried on the first such step.
    """
    if not any(isinstance(module, _BatchNorm) for module in model.modules()):
        return
    for step, batch in enumerate(order):
        kept = batch if forget.isdisjoint(batch) else [i for i in batch if i not in forget]
        for name, part in (("M", batch), ("M'", kept)):
            if len(part) == 1:
                lone = inputs[list(part)], labels[list(part)]
                try:
                    with torch.no_grad():
                        batch_loss(model, loss_fn, lone, training=True)(trainable(model))
                except ValueError as error:
                    raise InputError(
                        f"step {step} trains {name} on one example, of which batch norm takes no statistics. "
                        "Choose a batch size that leaves no rest of one, or forget other examples."
                    ) from error
                return


def independent_copy(model: nn.Module) -> nn.Module:
    """Return a copy of a model, also of one whose layers keep what they computed from their weights.

    Raises:
        InputError: If something in the model cannot be copied.
    """
    # Weight norm, for one, keeps its last weight as an attribute, which cannot be copied with its graph.
    computed = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    try:
        return copy.deepcopy(model, computed)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"the model cannot be copied by copy.deepcopy: {error}") from error


def copy_for_retraining(model: nn.Module) -> nn.Module:
    """Return M' as it starts: a copy of M with its own weights and its own batch-norm buffers."""
    return independent_copy(model)
