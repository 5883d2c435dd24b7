r"""Recorders: what a run measures while it trains, and the tracker for a training loop of one's own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unrolling._checks import InputError, check_integer, check_logits, check_real
from unrolling.curvature import top_singular_value
from unrolling.model_loss import batch_loss
from unrolling.parameters import Params, distance, snapshot, trainable, training_mode
from unrolling.seeding import make_generator
from unrolling.training import Observer
from unrolling.unlearning_error import unlearning_error, unlearning_error_corrected


@dataclass(frozen=True)
class UnlearningEstimate:
    r"""The unlearning error of a run so far, with its factors (Eq. 9).

    Attributes:
        unlearning_error: e as printed, with :math:`\eta^2`.
        unlearning_error_corrected: :math:`e / \eta`, Eq. 9 with the factor that Eq. 7 loses.
        weight_change: :math:`\|w_t - w_0\|_2`.
        sigma_avg: Mean of the sampled :math:`\sigma_1 = |\lambda|_{\max}`.
        num_steps: t.
        sigma_steps: The steps at which :math:`\sigma_1` was sampled.
        eigenvalues: The dominant eigenvalue at those steps, with its sign.
        hvps: Hessian-vector products spent.
        converged: Whether every sample met its tolerance.
    """

    unlearning_error: float
    unlearning_error_corrected: float
    weight_change: float
    sigma_avg: float
    num_steps: int
    sigma_steps: tuple[int, ...]
    eigenvalues: tuple[float, ...]
    hvps: int
    converged: bool


class UnlearningTracker(Observer):
    r"""Measures the unlearning error of any training loop; drop it into your own.

    .. code-block:: python

        tracker = UnlearningTracker(model, loss_fn, learning_rate=0.1, every=20)   # here is w_0
        for batch in loader:
            tracker.step(batch)          # before the update
            ...                          # your forward, backward, optimizer.step()
        tracker.result().unlearning_error

    The model's weights, buffers, gradients, modes and the global random state are left as they were.

    Args:
        model: The model being trained, at the weights w_0 from which the error counts.
        loss_fn: ``loss_fn(model, batch) -> scalar``: the training loss, mean over the batch.
        learning_rate: :math:`\eta` of the plain SGD that trains the model.
        every: Sample :math:`\sigma_1` at every how many steps, from the first on. Its distribution over
            batches is heavy-tailed: with few samples sigma_avg is noisy.
        rtol: Tolerance of each sample, see :func:`unrolling.top_singular_value`.
        max_hvps: Hessian-vector products at most per sample.
        max_basis: Vectors as long as the weights that a sample keeps at most, 3 or more; by default one for
            each product.
        start: Where a sample starts, see :func:`unrolling.top_singular_value`: at random, or "gradient".
        hessian_batch: Take the Hessian on this batch instead of the current one.
        training: Take the Hessian in training mode; default is evaluation mode, as the released code does.
        seed: Seed of Lanczos' random first directions.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[nn.Module, Any], Tensor],
        *,
        learning_rate: float,
        every: int = 1,
        rtol: float = 1e-2,
        max_hvps: int = 32,
        max_basis: int | None = None,
        start: Literal["gradient"] | None = None,
        hessian_batch: Any = None,
        training: bool = False,
        seed: int = 0,
    ):
        self._learning_rate = check_real("learning_rate", learning_rate, above=0)
        self._every = check_integer("every", every, minimum=1)
        if not trainable(model):
            raise InputError("the model has no trainable parameters; nothing to track.")
        self._model, self._loss_fn = model, loss_fn
        self._norm_options: dict[str, Any] = {
            "rtol": rtol,
            "max_hvps": max_hvps,
            "max_basis": max_basis,
            "start": start,
        }
        self._hessian_batch, self._training, self._seed = hessian_batch, training, seed
        self._initial = snapshot(model)
        self._num_steps = 0
        self._samples: list[tuple[int, float, int, bool]] = []  # step, eigenvalue, products, converged

    def step(self, batch: Any) -> None:
        """Count one training step; call it before the update. Every ``every`` steps this samples sigma."""
        if self._num_steps % self._every == 0:
            loss = batch_loss(
                self._model,
                self._loss_fn,
                batch if self._hessian_batch is None else self._hessian_batch,
                training=self._training,
            )
            found = top_singular_value(
                loss,
                trainable(self._model),
                **self._norm_options,
                generator=make_generator(self._seed, "lanczos start", self._num_steps),
            )
            self._samples.append((self._num_steps, found.eigenvalue, found.hvps, found.converged))
        self._num_steps += 1

    def before_step(self, step: int, batch: Any) -> None:
        """Count a step of :func:`unrolling.train`."""
        self.step(batch)

    def result(self) -> UnlearningEstimate:
        """Return the unlearning error from w_0 to the model's weights now.

        Raises:
            InputError: Before the first step.
        """
        if not self._samples:
            raise InputError("no step was tracked yet: call tracker.step(batch) before each update.")
        steps, eigenvalues, hvps, converged = zip(*self._samples, strict=True)
        factors: dict[str, Any] = {
            "weight_change": distance(trainable(self._model), self._initial),
            "sigma_avg": sum(map(abs, eigenvalues)) / len(eigenvalues),
            "num_steps": self._num_steps,
        }
        eta = self._learning_rate
        return UnlearningEstimate(
            unlearning_error=unlearning_error(learning_rate=eta, **factors),
            unlearning_error_corrected=unlearning_error_corrected(learning_rate=eta, **factors),
            sigma_steps=steps,
            eigenvalues=eigenvalues,
            hvps=sum(hvps),
            converged=all(converged),
            **factors,
        )

    def state(self) -> dict[str, Any]:
        """Return what an exact resume needs."""
        return {"num_steps": self._num_steps, "samples": list(self._samples), "initial": self._initial}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self._num_steps = state["num_steps"]
        self._samples = [tuple(sample) for sample in state["samples"]]
        own = trainable(self._model)
        self._initial = {name: value.to(own[name].device) for name, value in state["initial"].items()}


def accuracy(model: nn.Module, inputs: Tensor, labels: Tensor, *, batch_size: int = 500) -> float:
    """Return the fraction classified correctly, in evaluation mode; the model's buffers are not touched.

    Raises:
        InputError: If there are no examples, not one label for each, or the model does not return logits.
    """
    check_integer("batch_size", batch_size, minimum=1)
    for name, data in (("inputs", inputs), ("labels", labels)):
        if not isinstance(data, Tensor) or not data.ndim:
            raise InputError(f"`{name}` must be a tensor with one row for each example, got {data!r:.40}.")
    if not len(inputs) or labels.shape != inputs.shape[:1]:
        raise InputError(
            f"accuracy needs at least one example and a label for each, got {len(inputs)} inputs and "
            f"labels of shape {tuple(labels.shape)}."
        )
    correct = 0
    with torch.no_grad(), training_mode(model, False):
        for x, y in zip(inputs.split(batch_size), labels.split(batch_size), strict=True):
            logits = model(x.clone())
            check_logits(logits)
            correct += int((logits.argmax(dim=1) == y).sum())
    return correct / len(labels)


class Recorder(Observer):
    """Calls ``measure(num_steps)`` after every ``every`` steps and after the last, and keeps the rows.

    Args:
        measure: Returns one row, a dict of numbers, for the weights after ``num_steps`` steps.
        every: Steps between rows.
        total: Steps of the whole order, so that the last one is recorded.
    """

    def __init__(self, measure: Callable[[int], dict[str, float]], *, every: int, total: int):
        self._measure = measure
        self._every = check_integer("record_every", every, minimum=1)
        self._total = total
        self.rows: list[dict[str, float]] = []

    def after_step(self, step: int) -> None:
        """Record a row if it is time."""
        done = step + 1
        if done % self._every == 0 or done == self._total:
            self.rows.append({"step": done, **self._measure(done)})


class WeightLog(Observer):
    """Keeps a copy of the trainable weights before every step, for ``linear_propagation_unlearn``.

    Args:
        model: The model being trained, M or M'.

    Attributes:
        weights: The weights before the first recorded step, before the second, ... Those at the end are not
            among them; take :func:`unrolling.snapshot` of the model.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self.weights: list[Params] = []

    def before_step(self, step: int, batch: Any) -> None:
        """Append the weights w_step."""
        self.weights.append(snapshot(self._model))
