r"""M'' of a run after any number of its steps, by every method that needs no training of its own."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from unrolling.curvature import Loss
from unrolling.methods.forgotten_part import forgotten_part, steps_with, times_seen
from unrolling.methods.others.amnesiac import (
    AmnesiacLog,
    ReleasedAmnesiacLog,
    amnesiac_unlearn,
    released_amnesiac_unlearn,
)
from unrolling.methods.single_gradient import final_gradient_unlearn, single_gradient_unlearn
from unrolling.model_loss import batch_loss, gradient
from unrolling.parameters import Params, norm, snapshot, trainable
from unrolling.runs.protocol import Protocol
from unrolling.training import LossFn, Observer
from unrolling.unlearning_error import verification_error


class Unlearning:
    r"""Watches a run, and knows what methods need if unlearning is asked for after any number of steps.

    Args:
        model: M, at w_0.
        loss_fn: ``loss_fn(model, batch) -> scalar``, the mean over the batch.
        inputs: All examples, on the model's device.
        labels: Their classes.
        protocol: What is trained on and forgotten.
        learning_rate: :math:`\eta`.
        training: Take gradients in training mode, as the steps were: with batch statistics.

    Attributes:
        learning_rate: :math:`\eta`.
        initial: The weights w_0.
        applied: What the steps on F's batches did to the weights so far.
        released: The gradients that the released code logs after these steps.
        observers: To be told of every step.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFn,
        inputs: Tensor,
        labels: Tensor,
        protocol: Protocol,
        *,
        learning_rate: float,
        training: bool = True,
    ):
        self._model, self.learning_rate = model, learning_rate
        self._order = protocol.order
        gone = frozenset(protocol.forget)
        self._steps = steps_with(self._order, gone)

        def loss_on(examples: tuple[int, ...]) -> Loss:
            index = torch.tensor(examples, device=inputs.device)
            return batch_loss(model, loss_fn, (inputs[index], labels[index]), training=training)

        self._parts = {
            batch: forgotten_part(loss_on, batch, gone) for batch in times_seen(self._order, self._steps)
        }
        self.initial = snapshot(model)
        self.applied = AmnesiacLog(model, self._order, gone)
        self.released = ReleasedAmnesiacLog(model, loss_fn, self._order, gone)
        self.observers: tuple[Observer, ...] = (self.applied, self.released)

    @property
    def now(self) -> Params:
        """The weights that M has now; not copies."""
        return trainable(self._model)

    def part(self, params: Params) -> Tensor:
        r"""Return F's part of the loss of one epoch, :math:`\sum_B L_B - L_{B \setminus F}`."""
        return torch.stack([part(params) for part in self._parts.values()]).sum()

    def parts_seen(self, done: int) -> list[tuple[Loss, int]]:
        """Return F's part of each batch's loss, and how many of the first ``done`` steps took it."""
        seen = times_seen(self._order, (step for step in self._steps if step < done))
        return [(self._parts[batch], count) for batch, count in seen.items()]

    @property
    def gradient_norm(self) -> float:
        r"""Norm of F's part in the gradient of one epoch at w_0."""
        return norm(gradient(self.part, self.initial))

    def state(self) -> dict[str, Params]:
        """Return what an exact resume needs."""
        return {"updates": self.applied.updates, "gradients": self.released.gradients}

    def load_state(self, state: dict[str, Params]) -> None:
        """Continue from :meth:`state`."""
        own = self.now
        self.applied.updates, self.released.gradients = (
            {name: value.to(own[name].device) for name, value in state[key].items()}
            for key in ("updates", "gradients")
        )


def single_gradient(run: Unlearning, done: int, *, momentum: float = 0.0) -> Params:
    """Return M'' after ``done`` steps by single-gradient unlearning (section 5.1)."""
    unlearned = run.now
    for part, count in run.parts_seen(done):
        unlearned = single_gradient_unlearn(
            unlearned,
            run.initial,
            part,
            learning_rate=run.learning_rate,
            num_epochs=count,
            momentum=momentum,
        )
    return unlearned


def final_gradient(run: Unlearning, done: int) -> Params:
    """Return M'' by the formula that section 8.3 prints, with the gradient at the weights reached."""
    if not run.parts_seen(done):
        return run.now
    return final_gradient_unlearn(run.now, run.part, learning_rate=run.learning_rate)


#: The methods whose v a run records: from a run and the number of its steps to the weights of M'', by name.
RUN_METHODS: dict[str, Callable[[Unlearning, int], Params]] = {
    "single_gradient": single_gradient,
    "final_gradient": final_gradient,
    "amnesiac": lambda run, done: amnesiac_unlearn(run.now, run.applied),
    "amnesiac_released": lambda run, done: released_amnesiac_unlearn(
        run.now, run.released, learning_rate=run.learning_rate
    ),
    "nothing": lambda run, done: run.now,
}


def column(name: str) -> str:
    """Return the column of a trace that holds a method's v; that of the paper's own has no name in it."""
    return "v" if name == "single_gradient" else f"v_{name}"


def verification_errors(run: Unlearning, done: int, retrained: Params) -> dict[str, float]:
    """Return v of every method of :data:`RUN_METHODS` after ``done`` steps, by column of the trace."""
    return {
        column(name): verification_error(method(run, done), retrained) for name, method in RUN_METHODS.items()
    }
