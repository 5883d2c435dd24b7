r"""Plain SGD over a batch order: a constant learning rate, no momentum, no augmentation (section 9).

M and the retrained M' run side by side: both take the same steps in the same order, and M' leaves out what is
to be forgotten. Observers watch; they never take part.
"""

import copy
from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from unrolling._checks import InputError, UnrollingError, check_integer, check_real
from unrolling.batches import BatchOrder
from unrolling.parameters import trainable, training_mode

LossFn = Callable[[nn.Module, tuple[Tensor, Tensor]], Tensor]
Batch = tuple[Tensor, Tensor]


class DivergedError(UnrollingError):
    """The loss is no longer finite."""


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

    ``.grad`` stays as it was.
    """
    params = list(trainable(model).values())
    grads = torch.autograd.grad(loss_fn(model, batch), params)
    with torch.no_grad():
        torch._foreach_add_(params, grads, alpha=-learning_rate)


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
    forget: Collection[int] | None = None,
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
        retrained: M', see :func:`copy_for_retraining`. It owns its batch-norm buffers.
        forget: The examples that M' leaves out. They are removed in place from every batch, as section 4.1
            does; of a batch of which nothing is left M' takes no step, as in section 8.3.
        stepper: Takes the steps; default is plain SGD.

    Raises:
        InputError: On a learning rate that is not positive, on one of ``retrained`` and ``forget`` alone, or
            if an example to leave out is at no step.
        DivergedError: If the weights stop being finite.
    """
    eta = check_real("learning_rate", learning_rate, above=0)
    check_integer("first_step", first_step, maximum=len(order))
    if (retrained is None) != (forget is None):
        raise InputError("pass `retrained` and `forget` together: M' leaves the batch `forget` out.")
    gone = frozenset(forget or ())
    if missing := gone.difference(*order):
        raise InputError(
            f"example {min(missing)} of `forget` is at no step of this order; nothing to leave out."
        )
    observers, stepper = list(observers), stepper or Stepper()
    models = [model] if retrained is None else [model, retrained]
    with ExitStack() as modes:
        for trained in models:
            modes.enter_context(training_mode(trained, True))
        for step in range(first_step, len(order)):
            index = torch.tensor(order[step], device=inputs.device)
            batch = inputs[index], labels[index]
            for observer in observers:
                observer.before_step(step, batch)
            stepper.take(model, batch, loss_fn, eta, step)
            if retrained is not None:
                kept = [place for place, example in enumerate(order[step]) if example not in gone]
                if len(kept) == len(index):
                    stepper.take(retrained, batch, loss_fn, eta, step)
                elif kept:
                    stepper.take(retrained, (batch[0][kept], batch[1][kept]), loss_fn, eta, step)
            for observer in observers:
                observer.after_step(step)
    for trained in models:
        if not all(bool(p.isfinite().all()) for p in trainable(trained).values()):
            raise DivergedError(
                f"training diverged within {len(order)} steps; try a learning_rate below {eta:g}."
            )


def copy_for_retraining(model: nn.Module) -> nn.Module:
    """Return M' as it starts: a copy of M with its own weights and its own batch-norm buffers."""
    return copy.deepcopy(model)
