r"""Recorders: what a run measures while it trains, and the tracker for a training loop of one's own."""

import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unrolling._checks import InputError, check_choice, check_integer, check_logits, check_real
from unrolling._examples import check_not_empty
from unrolling._optimizer import (
    Seen,
    beyond_plain_sgd,
    difference,
    groups_of,
    learning_rates,
    momentum_factor,
    unwrapped,
)
from unrolling.curvature import MAX_BASIS, top_singular_value
from unrolling.forgetting import AtTheStep
from unrolling.model_loss import IndependentLossError, batch_loss, check_loss_fn, gradient
from unrolling.parameters import (
    Params,
    check_same_parameters,
    dense,
    distance,
    norm,
    snapshot,
    trainable,
    training_mode,
)
from unrolling.probes import check_deterministic, check_symmetric
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
        hvps: Hessian-vector products spent on them.
        converged: Whether every sample met its tolerance.
        learning_rate: :math:`\eta`; of a schedule, the mean over the steps.
        unlearning_error_effective: With momentum :math:`\beta`, e at the effective rate
            :math:`\eta / (1 - \beta)`, as often as each gradient is applied in the end; else None.
        broken: What Eq. 9 asks of the training and this one did not meet, in a few words each.
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
    learning_rate: float
    unlearning_error_effective: float | None = None
    broken: tuple[str, ...] = ()


class UnlearningTracker(Observer):
    r"""Measures the unlearning error of any training loop; drop it into your own.

    .. code-block:: python

        tracker = UnlearningTracker(model, loss_fn, optimizer=optimizer, every=20)   # here is w_0
        for batch in loader:
            tracker.step(batch)          # before the forward pass
            ...                          # your forward, backward, optimizer.step()
        tracker.result().unlearning_error

    The model's weights, buffers, gradients, modes and the global random state are left as they were.

    Eq. 9 is derived for plain SGD at a constant rate, of which every step is seen. With ``optimizer`` the
    tracker reads the rate at every step of the optimiser and counts those steps, however many calls of
    ``step`` stand between (gradient accumulation, or none). Of a schedule e takes the mean of the rates; the
    derivation's sum over pairs of steps is smaller, of :math:`e / \eta` by the fraction
    :math:`\mathrm{var}(\eta) / (\bar\eta^2 (t - 1))`. What the equation does not cover is named in
    ``result().broken``. With ``learning_rate`` alone every call of ``step`` counts as one, and only what the
    weights show is named.

    Args:
        model: The model being trained, at the weights w_0 from which the error counts.
        loss_fn: ``loss_fn(model, batch) -> scalar``: the training loss, mean over the batch.
        learning_rate: :math:`\eta` of the plain SGD that trains the model, if there is no ``optimizer``.
        optimizer: What trains the model, a ``torch.optim.Optimizer``.
        every: Sample :math:`\sigma_1` at every how many steps, from the first on. Its distribution over
            batches is heavy-tailed: with few samples sigma_avg is noisy.
        rtol: Tolerance of each sample, see :func:`unrolling.top_singular_value`.
        max_hvps: Hessian-vector products at most per sample.
        max_basis: Vectors as long as the weights that a sample keeps at most, 3 or more; None: one for each
            product.
        start: Where a sample starts, see :func:`unrolling.top_singular_value`: at random, or "gradient".
        hessian_batch: Take the Hessian on this batch instead of the current one.
        training: Take the Hessian in training mode; default is evaluation mode, as the released code does.
        seed: Seed of Lanczos' random first directions.
        probe: Look closely. Before the first sample: do two passes agree, is the Hessian symmetric
            (:func:`unrolling.probes.check_deterministic`, :func:`unrolling.probes.check_symmetric`; the
            products are not counted)? At every step: did the weights move, and only by the optimiser's steps
            (their norms)? With every sample: was the gradient applied that of ``loss_fn`` on the batch, in
            the modes that the modules have (one gradient, and up to two copies of the weights until the
            step is done)?

    Raises:
        InputError: If an argument is none of these; from the first ``step``, if a probe fails; from any,
            if the batch is empty or parameters were frozen or unfrozen.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[nn.Module, Any], Tensor],
        *,
        learning_rate: float | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        every: int = 1,
        rtol: float = 1e-2,
        max_hvps: int = 32,
        max_basis: int | None = MAX_BASIS,
        start: Literal["gradient"] | None = None,
        hessian_batch: Any = None,
        training: bool = False,
        seed: int = 0,
        probe: bool = True,
    ):
        if not isinstance(model, nn.Module):
            raise InputError(f"`model` must be a torch.nn.Module, got {type(model).__name__}.")
        check_loss_fn(loss_fn)
        if (learning_rate is None) == (optimizer is None):
            raise InputError(
                "pass `optimizer` (its rate is read at every step), or `learning_rate` if there is none."
            )
        if learning_rate is not None:
            check_real("learning_rate", learning_rate, above=0)
        self._learning_rate = learning_rate
        self._every = check_integer("every", every, minimum=1)
        check_real("rtol", rtol, above=0)
        check_integer("max_hvps", max_hvps, minimum=1)
        if max_basis is not None:
            check_integer("max_basis", max_basis, minimum=3)
        if start is not None:
            check_choice("start", start, ["gradient"])
        check_integer("seed", seed)
        if not trainable(model):
            raise InputError("the model has no trainable parameters; nothing to track.")
        if hessian_batch is not None:
            check_not_empty(hessian_batch)
        self._model, self._loss_fn = model, loss_fn
        self._norm_options: dict[str, Any] = {
            "rtol": rtol,
            "max_hvps": max_hvps,
            "max_basis": max_basis,
            "start": start,
        }
        self._hessian_batch, self._training, self._seed, self._probe = hessian_batch, training, seed, probe
        self._initial = snapshot(model)
        self._num_steps = 0
        self._samples: list[tuple[int, float, int, bool]] = []  # step, eigenvalue, products, converged
        self._seen = Seen()
        self._marks = self._marks_now() if probe and optimizer is not None else None
        # The sampled step whose gradient is still to be compared: its number, the weights, the gradient.
        self._pending: tuple[int, Params | None, Params, bool] | None = None
        self._optimizer = None if optimizer is None else unwrapped(optimizer)
        if self._optimizer is not None:
            self._watch(self._optimizer)

    def step(self, batch: Any) -> None:
        """Call before the forward pass of a training step; every ``every`` steps this samples sigma."""
        check_not_empty(batch)
        self._check_same_parameters()
        self._seen.calls += 1
        if self._optimizer is None:
            self._look_at_the_weights()
        due = self._num_steps % self._every == 0
        if due and not (self._samples and self._samples[-1][0] == self._num_steps):
            self._sample(batch)
        if self._optimizer is None:
            self._num_steps += 1

    def before_step(self, step: int, batch: Any) -> None:
        """Count a step of :func:`unrolling.train`."""
        self.step(batch)

    def _sample(self, batch: Any) -> None:
        params = trainable(self._model)
        if self._probe and not self._expect_gradient(batch, params):
            self._seen.ignored += 1
            self._samples.append((self._num_steps, 0.0, 0, True))
            return
        loss = batch_loss(
            self._model,
            self._loss_fn,
            batch if self._hessian_batch is None else self._hessian_batch,
            training=self._training,
        )
        if self._probe and not self._samples:
            check_deterministic(loss, params)
            check_symmetric(loss, params, seed=self._seed)
        found = top_singular_value(
            loss,
            params,
            **self._norm_options,
            generator=make_generator(self._seed, "lanczos start", self._num_steps),
        )
        self._samples.append((self._num_steps, found.eigenvalue, found.hvps, found.converged))

    # What the training does, as far as it can be seen

    def _watch(self, optimizer: torch.optim.Optimizer) -> None:
        if not groups_of(optimizer, trainable(self._model)):
            raise InputError(
                "`optimizer` holds none of the model's trainable parameters: make it, and the tracker, from "
                "the model that trains."
            )
        # Weak, so that an optimiser that lives longer does not keep the tracker and its w_0.
        tracker = weakref.ref(self)

        def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if (alive := tracker()) is not None:
                # A closure takes its gradient only within the step.
                alive._before_update(closure=len(args) > 1 or kwargs.get("closure") is not None)

        def after(*_: Any) -> None:
            if (alive := tracker()) is not None:
                alive._after_update()

        optimizer.register_step_pre_hook(before)
        optimizer.register_step_post_hook(after)

    def _before_update(self, *, closure: bool) -> None:
        seen, params = self._seen, trainable(self._model)
        if not (groups := groups_of(self._optimizer, params)):
            return
        seen.take(
            rate=max(learning_rates(groups)),
            factor=momentum_factor(self._optimizer, params),
            phrases=beyond_plain_sgd(self._optimizer, params),
        )
        self._look_for_outside_changes()
        if not closure:
            self._compare_gradient(groups, params)

    def _after_update(self) -> None:
        seen, params = self._seen, trainable(self._model)
        self._compare_gradient(groups_of(self._optimizer, params), params)
        seen.most_calls, seen.calls = max(seen.most_calls, seen.calls), 0
        self._num_steps += 1
        if self._probe:
            self._marks = self._marks_now()

    def _compare_gradient(self, groups: list[dict[str, Any]], params: Params) -> None:
        """Compare the gradient that the optimiser has with the one of the sample, if there was one."""
        if self._pending is not None and self._seen.calls <= 1:
            step, _, expected, random = self._pending
            held = {id(p) for group in groups for p in group["params"]}
            applied = {
                name: torch.zeros_like(p) if p.grad is None else dense(p.grad)
                for name, p in params.items()
                if id(p) in held
            }
            self._compare(step, applied, {name: expected[name] for name in applied}, random=random)
        self._pending = None

    def _look_for_outside_changes(self) -> None:
        if self._marks is None:
            return
        now = self._marks_now()
        # Not to the bit: the norms may have been taken on another machine, before the state was loaded.
        if any(abs(a - b) > 1e-6 * max(abs(a), abs(b)) for a, b in zip(now[0], self._marks[0], strict=True)):
            self._seen.outside += 1
        self._marks = now

    def _params(self) -> Params:
        """Return the weights now, also of what no longer trains."""
        own = dict(self._model.named_parameters())
        return {name: own[name].detach() for name in self._initial}

    def _marks_now(self) -> tuple[list[float], list[float]]:
        """Return what tells whether weights are the same: their norms and sums, one for each parameter."""
        params = list(self._params().values())
        return [float(torch.linalg.vector_norm(p)) for p in params], [float(p.sum()) for p in params]

    def _look_at_the_weights(self) -> None:
        """See, without an optimiser, whether the weights moved since the last call and how."""
        if not self._probe:
            return
        if self._marks is not None:
            if self._marks_now() == self._marks:
                self._seen.unmoved += 1
            else:
                self._compare_movement()
        self._pending, self._marks = None, self._marks_now()

    def _compare_movement(self) -> None:
        if self._pending is None or self._pending[1] is None:
            return
        step, before, expected, random = self._pending
        eta, now = self._learning_rate, self._params()
        applied = {name: (before[name] - now[name]) / eta for name in before}
        eps = max(torch.finfo(p.dtype).eps for p in before.values())
        self._compare(step, applied, expected, slack=4 * eps * norm(before) / eta, random=random)

    def _compare(self, step: int, applied: Params, expected: Params, **options: Any) -> None:
        if found := difference(applied, expected, **options):
            self._seen.different.append(f"at step {step} the gradient that was applied {found}")

    def _expect_gradient(self, batch: Any, params: Params) -> bool:
        """Keep the gradient that a plain step on ``batch`` takes now; False if there is none."""
        loss = AtTheStep(self._model, self._loss_fn, batch, training=None)
        try:
            expected = gradient(loss, params)
        except IndependentLossError:
            return False
        before = snapshot(self._model) if self._optimizer is None else None
        self._pending = self._num_steps, before, expected, loss.drew
        return True

    def _check_same_parameters(self) -> None:
        now = trainable(self._model)
        if now.keys() == self._initial.keys():
            return
        odd = [f"{name} was unfrozen" for name in now if name not in self._initial]
        odd += [f"{name} was frozen" for name in self._initial if name not in now]
        raise InputError(
            f"other parameters train than when the tracker was made: {', '.join(odd[:3])}"
            f"{', ...' if len(odd) > 3 else ''}. Make a new tracker, whose w_0 are the weights from here on."
        )

    # What it comes to

    def result(self) -> UnlearningEstimate:
        """Return the unlearning error from w_0 to the model's weights now.

        Raises:
            InputError: Before the first step.
        """
        if not self._samples:
            raise InputError("no step was tracked yet: call tracker.step(batch) before each update.")
        if not self._num_steps:
            raise InputError(
                "`optimizer` has taken no step since the tracker was made: is it the one that trains?"
            )
        if self._optimizer is not None:
            self._look_for_outside_changes()
        elif self._pending is not None and self._marks_now() != self._marks:
            self._compare_movement()
            self._pending = None
        steps, eigenvalues, hvps, converged = zip(*self._samples, strict=True)
        factors: dict[str, Any] = {
            "weight_change": distance(self._params(), self._initial),
            "sigma_avg": sum(map(abs, eigenvalues)) / len(eigenvalues),
            "num_steps": self._num_steps,
        }
        eta = self._learning_rate if self._optimizer is None else self._seen.mean_rate(self._num_steps)
        momentum = self._seen.factors[0] if len(self._seen.factors) == 1 else None
        return UnlearningEstimate(
            unlearning_error=unlearning_error(learning_rate=eta, **factors),
            unlearning_error_corrected=unlearning_error_corrected(learning_rate=eta, **factors),
            sigma_steps=steps,
            eigenvalues=eigenvalues,
            hvps=sum(hvps),
            converged=all(converged),
            learning_rate=eta,
            unlearning_error_effective=(
                unlearning_error(learning_rate=eta * momentum, **factors) if momentum else None
            ),
            broken=self._seen.broken(self._num_steps, curved=any(eigenvalues)),
            **factors,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what an exact resume needs."""
        return {
            "num_steps": self._num_steps,
            "samples": list(self._samples),
            "initial": self._initial,
            "seen": asdict(self._seen),
            "marks": self._marks,
            "pending": self._pending,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`; load the model's weights too.

        Raises:
            InputError: If it is of another model.
        """
        own = trainable(self._model)
        check_same_parameters(own, state["initial"], ("model", "state"))

        def here(params: Params) -> Params:
            return {name: value.to(own[name].device) for name, value in params.items()}

        self._num_steps = state["num_steps"]
        self._samples = [tuple(sample) for sample in state["samples"]]
        self._initial = here(state["initial"])
        self._seen = Seen(**state.get("seen", {}))
        self._marks, pending = state.get("marks"), state.get("pending")
        if pending is not None:
            step, before, gradient, random = pending
            pending = step, before and here(before), here(gradient), random
        self._pending = pending


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
