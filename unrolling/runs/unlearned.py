r"""M'' of a run after any number of its steps, by every method that needs no training of its own."""

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from unrolling.curvature import Loss
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


class Unlearning:
    r"""Watches a run and answers with M'' as if unlearning were asked for after any number of steps.

    To first order a step on the batch B takes F's part :math:`L_B - L_{B \setminus F}` more from M than from
    M'. Where F is whole batches, that is the batch's own loss, and single-gradient unlearning is the paper's.

    Args:
        model: M, at w_0.
        loss_fn: ``loss_fn(model, batch) -> scalar``, the mean over the batch.
        inputs: All examples, on the model's device.
        labels: Their classes.
        protocol: What is trained on and forgotten.
        learning_rate: :math:`\eta`.
        training: Take gradients in training mode, as the steps were: with batch statistics.
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
        self._model, self._eta = model, learning_rate
        self._order = protocol.order
        gone = frozenset(protocol.forget)
        self._steps = [i for i, batch in enumerate(self._order) if not gone.isdisjoint(batch)]

        def loss_on(examples: Iterable[int]) -> Loss:
            index = torch.tensor(tuple(examples), device=inputs.device)
            return batch_loss(model, loss_fn, (inputs[index], labels[index]), training=training)

        def part_of(batch: tuple[int, ...]) -> Loss:
            whole, kept = loss_on(batch), [i for i in batch if i not in gone]
            if not kept:
                return whole
            rest = loss_on(kept)
            return lambda params: whole(params) - rest(params)

        self._parts = {batch: part_of(batch) for batch in dict.fromkeys(self._order[i] for i in self._steps)}
        self.initial = snapshot(model)
        self._applied = AmnesiacLog(model, self._order, gone)
        self._released = ReleasedAmnesiacLog(model, loss_fn, self._order, gone)
        #: To be told of every step.
        self.observers: tuple[Observer, ...] = (self._applied, self._released)

    @property
    def gradient_norm(self) -> float:
        r"""Norm of F's part in the gradient of one epoch at w_0."""
        return norm(gradient(self._sum, self.initial))

    def _sum(self, params: Params) -> Tensor:
        return torch.stack([part(params) for part in self._parts.values()]).sum()

    def at_initial_weights(self, done: int, *, momentum: float = 0.0) -> Params:
        """Return M'' after ``done`` steps by single-gradient unlearning (section 5.1)."""
        unlearned = trainable(self._model)
        times = Counter(self._order[step] for step in self._steps if step < done)
        for batch, count in times.items():
            unlearned = single_gradient_unlearn(
                unlearned,
                self.initial,
                self._parts[batch],
                learning_rate=self._eta,
                num_epochs=count,
                momentum=momentum,
            )
        return unlearned

    def at_final_weights(self, done: int) -> Params:
        """Return M'' by the formula that section 8.3 prints, with the gradient at the weights reached."""
        now = trainable(self._model)
        if not any(step < done for step in self._steps):
            return now
        return final_gradient_unlearn(now, self._sum, learning_rate=self._eta)

    def amnesiac(self) -> Params:
        """Return M'' by amnesiac unlearning: the updates of F's batches undone."""
        return amnesiac_unlearn(trainable(self._model), self._applied)

    def amnesiac_released(self) -> Params:
        """Return M'' by the amnesiac unlearning of the released code."""
        now = trainable(self._model)
        return released_amnesiac_unlearn(now, self._released, learning_rate=self._eta)

    def state(self) -> dict[str, Params]:
        """Return what an exact resume needs."""
        return {"updates": self._applied.updates, "gradients": self._released.gradients}

    def load_state(self, state: dict[str, Params]) -> None:
        """Continue from :meth:`state`."""
        own = trainable(self._model)
        self._applied.updates, self._released.gradients = (
            {name: value.to(own[name].device) for name, value in state[key].items()}
            for key in ("updates", "gradients")
        )
