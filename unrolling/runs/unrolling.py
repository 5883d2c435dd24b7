r"""From w_0 = M_N on: M and M' side by side through the t steps, measured on the way (sections 8.1, 8.3)."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from unrolling.parameters import load_parameters, norm, trainable, training_mode
from unrolling.runs.pretraining import unrolled_recipe
from unrolling.runs.trainer import State, Trainer
from unrolling.runs.unlearned import RUN_METHODS, Unlearning, single_gradient, verification_errors
from unrolling.seeding import seeded
from unrolling.trackers import Recorder, accuracy
from unrolling.training import Batch, DivergedError, Observer, copy_for_retraining
from unrolling.unlearning_error import targeted_unlearning_error, verification_error

#: From models by name to what is to be known of them.
Score = Callable[[Mapping[str, nn.Module]], dict[str, Any]]


class Unrolling:
    """The t steps of a run.

    Args:
        trainer: Of a run whose M is M_N. It gets M', unless pre-training made one.
        state: Where the steps were stopped; None: they start.
    """

    def __init__(self, trainer: Trainer, state: State | None = None):
        self._trainer, setup, config = trainer, trainer.setup, trainer.setup.config
        self._setup, self._model = setup, setup.model
        if state:
            self._model.load_state_dict(state["initial_model"])
        self._initial = {name: value.clone() for name, value in self._model.state_dict().items()}
        if trainer.retrained is None:
            trainer.retrained = copy_for_retraining(self._model)
        self._retrained = trainer.retrained
        fixed = slice(config.sigma_batch)
        self._tracker = setup.tracker(
            hessian_batch=(setup.inputs[fixed], setup.labels[fixed]) if config.sigma_batch else None,
            probe=False,
        )
        self._recipe = unrolled_recipe(config)
        self._stepper = trainer.stepper(self._recipe, config.epochs, setup.steps_per_epoch)
        self._unlearning = Unlearning(
            self._model,
            setup.loss_fn,
            setup.inputs,
            setup.labels,
            setup.protocol,
            learning_rate=config.learning_rate,
            # With dropout, training mode would draw masks of its own for a gradient.
            training=not self._recipe.frozen_statistics and config.dropout == "off",
        )
        self._forget_gradient_norm = self._unlearning.gradient_norm
        self._accuracy_pretrained = accuracy(self._model, *setup.test_data)
        self._every = config.record_every or setup.steps_per_epoch
        self._recorder = Recorder(self._measure, every=self._every, total=len(setup.protocol.order))
        self._first_step = state["step"] if state else 0
        if state:
            self._model.load_state_dict(state["model"])
            self._retrained.load_state_dict(state["retrained"])
            self._stepper.load_state([self._model, self._retrained], state["velocities"])
            self._tracker.load_state_dict(state["tracker"])
            self._unlearning.load_state(state["unlearning"])
            self._recorder.rows = state["rows"]

    def state(self, done: int) -> State:
        """Return what an exact resume after ``done`` steps needs."""
        return {
            "phase": "unrolling",
            "step": done,
            "model": self._model.state_dict(),
            "retrained": self._retrained.state_dict(),
            "initial_model": self._initial,
            "velocities": self._stepper.state([self._model, self._retrained]),
            "tracker": self._tracker.state_dict(),
            "unlearning": self._unlearning.state(),
            "rows": self._recorder.rows,
        }

    def run(self, score: Score | None = None) -> dict[str, Any]:
        """Take all steps, and return what was measured.

        Args:
            score: What is wanted of M, M' and the unlearned models at the end, under ``privacy``.
        """
        config, protocol, model = self._setup.config, self._setup.protocol, self._model
        forgets = config.counterpart == "retrained"
        other = {"retrained": self._retrained, "forget": protocol.left_out} if forgets else {}
        take = partial(self._stepper.take, loss_fn=self._setup.loss_fn, learning_rate=config.learning_rate)
        before = len(protocol.pretraining) + len(protocol.pretraining_retrained or ())
        self._trainer.train(
            model,
            protocol.order,
            stepper=self._stepper,
            first_step=self._first_step,
            **other,
            observers=[
                *([] if forgets else [_Reordered(self._retrained, take)]),
                _Finite(self._trainer.check_finite, (self._every, config.sigma_every)),
                self._tracker,
                *self._watching(),
                self._recorder,
                *self._trainer.housekeeping(before, self.state),
            ],
        )
        estimate, rows = self._tracker.result(), self._recorder.rows
        privacy = {"privacy": score(self._unlearned())} if score else {}
        load_parameters(model, single_gradient(self._unlearning, len(protocol.order)))
        return {
            "trace": {key: [row[key] for row in rows] for key in rows[0]},
            "sigma": {"step": list(estimate.sigma_steps), "eigenvalue": list(estimate.eigenvalues)},
            "sigma_converged": estimate.converged,
            "sigma_hvps": estimate.hvps,
            "pretrain_steps": len(protocol.pretraining),
            "steps": len(protocol.order),
            "steps_per_epoch": self._setup.steps_per_epoch,
            "num_classes": self._setup.num_classes,
            "num_parameters": sum(p.numel() for p in trainable(model).values()),
            "forget_gradient_norm": self._forget_gradient_norm,
            "accuracy_pretrained": self._accuracy_pretrained,
            "accuracy_unlearned": accuracy(model, *self._setup.test_data),
            **privacy,
        }

    def _watching(self) -> list[Observer]:
        """Return what watches the steps for the unlearning to come."""
        if self._setup.config.dropout == "off":
            return [*self._unlearning.observers]
        seed = self._setup.config.seed  # a gradient in training mode draws masks
        return [_Seeded(observer, seed) for observer in self._unlearning.observers]

    def _measure(self, done: int) -> dict[str, float]:
        eta, test_data = self._setup.config.learning_rate, self._setup.test_data
        estimate, unlearning = self._tracker.result(), self._unlearning
        now, other = trainable(self._model), trainable(self._retrained)
        row = {
            "e": estimate.unlearning_error,
            "e_corrected": estimate.unlearning_error_corrected,
            "e_targeted": targeted_unlearning_error(
                learning_rate=eta,
                sigma_avg=estimate.sigma_avg,
                num_steps=done,
                gradient_norm=self._forget_gradient_norm,
            ),
            "weight_change": estimate.weight_change,
            "weight_norm": norm(now),
            "sigma_avg": estimate.sigma_avg,
            **verification_errors(unlearning, done, other),
            "accuracy": accuracy(self._model, *test_data),
            "accuracy_retrained": accuracy(self._retrained, *test_data),
        }
        if self._recipe.momentum:
            informed = single_gradient(unlearning, done, momentum=self._recipe.momentum)
            row["v_momentum"] = verification_error(informed, other)
        if not all(map(math.isfinite, row.values())):
            raise DivergedError(
                f"training diverged: weights are too large to be measured after {done} steps; try a "
                f"learning_rate below {eta:g}."
            )
        return row

    def _unlearned(self) -> dict[str, nn.Module]:
        """Return M, M' and M'' by the methods whose privacy risk is scored."""

        def by(method: str) -> nn.Module:
            unlearned = copy.deepcopy(self._model)
            load_parameters(unlearned, RUN_METHODS[method](self._unlearning, len(self._setup.protocol.order)))
            return unlearned

        models = {"trained": self._model, "retrained": self._retrained}
        return models | {name: by(name) for name in ("single_gradient", "final_gradient", "amnesiac")}


class _Reordered(Observer):
    """Takes the steps of an M' that forgets nothing: those of M, with every batch in reverse order."""

    def __init__(self, retrained: nn.Module, take: Callable[..., None]):
        self._retrained, self._take = retrained, take
        self._batch: Batch | None = None

    def before_step(self, step: int, batch: Batch) -> None:
        self._batch = batch[0].flip(0), batch[1].flip(0)

    def after_step(self, step: int) -> None:
        with training_mode(self._retrained, True):
            self._take(self._retrained, self._batch, step=step)


@dataclass(frozen=True)
class _Seeded(Observer):
    """An observer that draws, from a stream of its own at every step."""

    observer: Observer
    seed: int

    def before_step(self, step: int, batch: Batch) -> None:
        self.observer.before_step(step, batch)

    def after_step(self, step: int) -> None:
        with seeded(self.seed, "masks of a watcher", step):
            self.observer.after_step(step)


@dataclass(frozen=True)
class _Finite(Observer):
    """Ends a diverged run before it is measured: after every so many steps, each of ``every``."""

    check: Callable[[int], None]
    every: Sequence[int]

    def after_step(self, step: int) -> None:
        if any((step + 1) % every == 0 for every in self.every):
            self.check(step + 1)
