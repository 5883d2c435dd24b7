r"""Carry out one run: pre-train M, unroll M and M' side by side, measure, unlearn (sections 8.1 and 8.3)."""

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unrolling._checks import InputError, NotFiniteError
from unrolling.batches import BatchOrder
from unrolling.data import Dataset
from unrolling.losses import Objective
from unrolling.models import build_model, takes_tokens
from unrolling.parameters import load_parameters, norm, trainable, training_mode
from unrolling.runs.checkpoint import Checkpoint, Checkpointer
from unrolling.runs.config import MEMORY_FORMATS, RunConfig
from unrolling.runs.cuda_graph import GraphStepper
from unrolling.runs.encoder import Encoder, starts_from_encoder
from unrolling.runs.precision import float32_products
from unrolling.runs.protocol import make_protocol
from unrolling.runs.recipes import RECIPES, Recipe, RecipeStepper
from unrolling.runs.shadow import privacy_risk, shadow_run
from unrolling.runs.stopping import Stop
from unrolling.runs.unlearned import RUN_METHODS, Unlearning, single_gradient, verification_errors
from unrolling.seeding import seeded
from unrolling.surroundings import threads
from unrolling.trackers import Recorder, UnlearningTracker, accuracy
from unrolling.training import (
    Batch,
    DivergedError,
    Observer,
    Stepper,
    check_finite,
    copy_for_retraining,
    train,
)
from unrolling.unlearning_error import targeted_unlearning_error, verification_error

#: Called with (steps done, steps in all).
Progress = Callable[[int, int], None]

#: The momentum of the released scripts that have one.
MOMENTUM = 0.9
#: The rate of DistilBERT's dropout where a run has it.
DROPOUT_RATE = 0.1
_OF_ONE_MODEL = {"step", "velocities", "model"}
#: What a run's state has at least, by its phase.
STATE_PARTS = {
    "shadow": {"shadow"},
    "pretraining": _OF_ONE_MODEL,
    "alone": _OF_ONE_MODEL,
    "unrolling": _OF_ONE_MODEL | {"retrained", "initial_model", "tracker", "unlearning", "rows"},
}


def initial_model(config: RunConfig, dataset: Dataset, encoder: Encoder | None = None) -> nn.Module:
    """Return M_0, its weights drawn from the run's seed (on the CPU, so that every device starts alike).

    A text model may start from a pretrained encoder; then only its head is drawn.
    """
    reads_texts = takes_tokens(config.model)
    input_shape = (config.max_tokens,) if reads_texts else tuple(dataset.train_inputs.shape[1:])
    with seeded(config.seed, "weights"):
        model = build_model(
            config.model,
            dataset.num_classes,
            input_shape=input_shape,
            width=config.width or None,
            vocab_size=config.vocab_size,
            dropout=0.0 if config.dropout == "off" else DROPOUT_RATE,
        )
    model = model.to(getattr(torch, config.dtype))
    if starts_from_encoder(config):
        if encoder is None:
            raise InputError("this run starts from a pretrained encoder; pass what obtain_encoder returns.")
        encoder.load_into(model)
    return model


def execute(
    config: RunConfig,
    dataset: Dataset,
    *,
    device: str | torch.device = "cpu",
    checkpoint: Checkpoint | None = None,
    checkpoint_seconds: float = 30.0,
    progress: Progress | None = None,
    encoder: Encoder | None = None,
    graphs: bool = False,
    stop: Stop | None = None,
) -> dict[str, Any]:
    """Return the result of one run: a trace over t, every sample of sigma, and what was measured at the end.

    Args:
        config: The run.
        dataset: What :func:`load_data` returned for it.
        device: Where to train.
        checkpoint: Resume from this file if it holds a state, and save to it on the way. The numbers are the
            same with and without it, interrupted or not.
        checkpoint_seconds: Least time between two saves.
        progress: Called with (steps done, steps in all), those of a shadow model first.
        encoder: What ``distilbert-small`` starts from, if the run says so.
        graphs: Take steps of plain SGD in CUDA graphs, see :class:`~unrolling.runs.cuda_graph.GraphStepper`.
        stop: Asked after every step; a run that has a checkpoint and is to stop saves itself and ends.

    Raises:
        Stopped: If the run ended because of ``stop``. Called again it goes on.
        InputError: If the run asks for tf32 products on a device that has none.
        DivergedError: As soon as weights or derivatives are found that are not finite: once an epoch, and
            before they are measured or saved.
    """
    device = torch.device(device)
    if config.products == "tf32" and device.type != "cuda":
        raise InputError(f"products 'tf32' need a CUDA device, got {device}. Use products 'ieee'.")
    products = float32_products(config.products) if device.type == "cuda" else nullcontext()
    # Threads sum in another order with some kernels and not with others. To use more cores, run more at once.
    alone = threads(1) if device.type == "cpu" else nullcontext()
    with products, alone:
        run = _Run(config, dataset, device, checkpoint, checkpoint_seconds, progress, encoder, graphs, stop)
        state = run.stored_state()
        run.train_shadow(state.get("shadow") if state else None)
        if state and state["phase"] == "shadow":
            state = None
        if state is None or state["phase"] == "pretraining":
            run.pretrain(state)
            state = None
        return run.unroll(state)


class _Run:
    """The data on the device, the model, and where the run stands."""

    def __init__(
        self,
        config: RunConfig,
        dataset: Dataset,
        device: torch.device,
        checkpoint: Checkpoint | None,
        checkpoint_seconds: float,
        progress: Progress | None,
        encoder: Encoder | None = None,
        graphs: bool = False,
        stop: Stop | None = None,
    ):
        self.config = config
        # Token numbers stay whole numbers.
        dtype = getattr(torch, config.dtype) if dataset.train_inputs.is_floating_point() else None
        layout = MEMORY_FORMATS[config.memory_format]
        of_images = layout if dataset.train_inputs.ndim == 4 else torch.preserve_format
        self.inputs = dataset.train_inputs.to(device, dtype, memory_format=of_images)
        self.labels = dataset.train_labels.to(device)
        self.num_classes = dataset.num_classes
        test_inputs = dataset.test_inputs.to(device, dtype, memory_format=of_images)
        self.test_data = test_inputs, dataset.test_labels.to(device)
        self.protocol = make_protocol(config, len(self.labels), dataset.train_lengths)
        self.objective = Objective(config.loss, config.gamma)
        self.model = initial_model(config, dataset, encoder).to(device, memory_format=layout)
        #: M' as it starts, once it is known.
        self.retrained: nn.Module | None = None
        self._checkpoint, self._checkpoint_seconds = checkpoint, checkpoint_seconds
        self._progress, self._stop = progress, stop
        self._plain = GraphStepper() if graphs else Stepper()
        #: The run of the shadow model, if there is one; its steps come first.
        self.shadow: _Run | None = None
        if config.shadow_size:
            settings, more = shadow_run(config)
            place = _ShadowPart(checkpoint) if checkpoint else None
            first = (lambda done, total: progress(done, total + self.num_steps)) if progress else None
            self.shadow = _Run(
                settings, more, device, place, checkpoint_seconds, first, graphs=graphs, stop=stop
            )

    @property
    def num_steps(self) -> int:
        """Steps that M, M' before w_0, and M and M' side by side take."""
        parts = self.protocol.pretraining, self.protocol.pretraining_retrained or (), self.protocol.order
        return sum(map(len, parts))

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch on all of the data."""
        return len(self.protocol.order) // self.config.epochs

    @property
    def _recipe(self) -> Recipe:
        """The recipe of the t steps: plain SGD, but for released conventions."""
        conventions = self.config.conventions
        return Recipe(
            momentum=MOMENTUM if "momentum" in conventions else 0,
            weight_decay=5e-4 if "momentum" in conventions else 0,
            frozen_statistics="frozen_statistics" in conventions,
        )

    def stored_state(self) -> dict[str, Any] | None:
        """Return where the run stood when it was saved, or None if it starts."""
        state = self._checkpoint.load() if self._checkpoint else None
        if state is None or _is_whole(state):
            return state
        return self._checkpoint.set_aside("is not of this version's form")

    def train_shadow(self, state: dict[str, Any] | None) -> None:
        """Train the shadow model, if the run has one; from ``state``, if it was begun."""
        if self.shadow:
            try:
                self.shadow.train_alone(state)
            except DivergedError as error:
                raise DivergedError(f"the shadow model's {error}") from error

    def train_alone(self, state: dict[str, Any] | None = None) -> nn.Module:
        """Return M after all of its steps, trained without an M' and without a measurement."""
        if state is None or state["phase"] == "pretraining":
            self.pretrain(state)
            state = None
        stepper = self._stepper(self._recipe, self.config.epochs, self.steps_per_epoch)
        before = len(self.protocol.pretraining)
        self._advance(self.model, self.protocol.order, stepper, state, phase="alone", offset=before)
        return self.model

    def trained_alone(self) -> dict[str, Any]:
        """Return the state from which :meth:`train_alone` has nothing left to do."""
        done = {"phase": "alone", "step": len(self.protocol.order)}
        return done | {"model": self.model.state_dict(), "velocities": [[]]}

    def pretrain(self, state: dict[str, Any] | None) -> None:
        """Take M_0 to M_N in N epochs; and M' on its own, if the protocol has it retrained."""
        first, second = self.protocol.pretraining, self.protocol.pretraining_retrained
        if second is not None:
            self.retrained = copy_for_retraining(self.model)
        if state is None or "retrained" not in state:
            self._pretrain(self.model, first, state, offset=0)
            state = None
        else:
            self.model.load_state_dict(state["model"])
            state = state | {"model": state["retrained"]}
        if second is not None:
            finished = {name: value.clone() for name, value in self.model.state_dict().items()}
            self._pretrain(
                self.retrained,
                second,
                state,
                states=lambda own: {"model": finished, "retrained": own},
                offset=len(first),
            )
        if "test_statistics" in self.config.conventions:
            self._pass_test_set_through()

    def _pretrain(
        self, model: nn.Module, order: BatchOrder, state: dict[str, Any] | None, **options: Any
    ) -> None:
        num_epochs = self.config.pretrain_epochs
        steps_per_epoch = len(order) // max(1, num_epochs)
        stepper = self._stepper(RECIPES[self.config.recipe], num_epochs, steps_per_epoch)
        self._advance(model, order, stepper, state, phase="pretraining", **options)

    def _advance(
        self,
        model: nn.Module,
        order: BatchOrder,
        stepper: RecipeStepper,
        state: dict[str, Any] | None,
        *,
        phase: str,
        offset: int,
        states: Callable[[dict[str, Any]], dict[str, Any]] = lambda own: {"model": own},
    ) -> None:
        """Train one model, from ``state`` on; ``states`` names its weights in a checkpoint."""
        if state:
            model.load_state_dict(state["model"])
            stepper.load_state([model], state["velocities"])

        def collect(done: int) -> dict[str, Any]:
            velocities = stepper.state([model])
            return {"phase": phase, "step": done, "velocities": velocities} | states(model.state_dict())

        first_step = state["step"] if state else 0
        observers = self._housekeeping(offset, collect)
        self._train(model, order, stepper=stepper, first_step=first_step, observers=observers)

    def _pass_test_set_through(self) -> None:
        inputs = self.test_data[0].split(self.config.batch_size)
        with torch.no_grad(), training_mode(self.model, True):
            for part in inputs:
                self.model(part)

    def unroll(self, state: dict[str, Any] | None) -> dict[str, Any]:
        """Take M and M' from w_0 = M_N through the t steps, and measure on the way."""
        config, model, protocol = self.config, self.model, self.protocol
        if state:
            model.load_state_dict(state["initial_model"])
        initial_state = {name: value.clone() for name, value in model.state_dict().items()}
        if self.retrained is None:
            self.retrained = copy_for_retraining(model)
        retrained = self.retrained
        fixed = slice(config.sigma_batch)
        tracker = UnlearningTracker(
            model,
            self.objective,
            learning_rate=config.learning_rate,
            every=config.sigma_every,
            rtol=config.sigma_rtol,
            max_hvps=config.sigma_max_hvps,
            max_basis=config.sigma_basis or None,
            hessian_batch=(self.inputs[fixed], self.labels[fixed]) if config.sigma_batch else None,
            seed=config.seed,
            probe=False,
        )
        recipe = self._recipe
        stepper = self._stepper(recipe, config.epochs, self.steps_per_epoch)
        unlearning = Unlearning(
            model,
            self.objective,
            self.inputs,
            self.labels,
            protocol,
            learning_rate=config.learning_rate,
            # With dropout, training mode would draw masks of its own for a gradient.
            training=not recipe.frozen_statistics and config.dropout == "off",
        )
        forget_gradient_norm = unlearning.gradient_norm
        accuracy_pretrained = accuracy(model, *self.test_data)

        def measure(done: int) -> dict[str, float]:
            estimate = tracker.result()
            now, other = trainable(model), trainable(retrained)
            row = {
                "e": estimate.unlearning_error,
                "e_corrected": estimate.unlearning_error_corrected,
                "e_targeted": targeted_unlearning_error(
                    learning_rate=config.learning_rate,
                    sigma_avg=estimate.sigma_avg,
                    num_steps=done,
                    gradient_norm=forget_gradient_norm,
                ),
                "weight_change": estimate.weight_change,
                "weight_norm": norm(now),
                "sigma_avg": estimate.sigma_avg,
                **verification_errors(unlearning, done, other),
                "accuracy": accuracy(model, *self.test_data),
                "accuracy_retrained": accuracy(retrained, *self.test_data),
            }
            if recipe.momentum:
                informed = single_gradient(unlearning, done, momentum=recipe.momentum)
                row["v_momentum"] = verification_error(informed, other)
            if not all(map(math.isfinite, row.values())):
                raise DivergedError(
                    f"training diverged: weights are too large to be measured after {done} steps; try a "
                    f"learning_rate below {config.learning_rate:g}."
                )
            return row

        every = config.record_every or self.steps_per_epoch
        recorder = Recorder(measure, every=every, total=len(protocol.order))
        if state:
            model.load_state_dict(state["model"])
            retrained.load_state_dict(state["retrained"])
            stepper.load_state([model, retrained], state["velocities"])
            tracker.load_state_dict(state["tracker"])
            unlearning.load_state(state["unlearning"])
            recorder.rows = state["rows"]

        def collect(done: int) -> dict[str, Any]:
            return {
                "phase": "unrolling",
                "step": done,
                "model": model.state_dict(),
                "retrained": retrained.state_dict(),
                "initial_model": initial_state,
                "velocities": stepper.state([model, retrained]),
                "tracker": tracker.state_dict(),
                "unlearning": unlearning.state(),
                "rows": recorder.rows,
            }

        offset = len(protocol.pretraining) + len(protocol.pretraining_retrained or ())
        forgets = config.counterpart == "retrained"
        other = {"retrained": retrained, "forget": protocol.left_out} if forgets else {}
        take = partial(stepper.take, loss_fn=self.objective, learning_rate=config.learning_rate)
        self._train(
            model,
            protocol.order,
            stepper=stepper,
            first_step=state["step"] if state else 0,
            **other,
            observers=[
                *([] if forgets else [_Reordered(retrained, take)]),
                _Finite(self._check_finite, (every, config.sigma_every)),
                tracker,
                *unlearning.observers,
                recorder,
                *self._housekeeping(offset, collect),
            ],
        )
        estimate = tracker.result()
        privacy = {"privacy": self._privacy(unlearning, retrained)} if self.shadow else {}
        load_parameters(model, single_gradient(unlearning, len(protocol.order)))
        return {
            "trace": {key: [row[key] for row in recorder.rows] for key in recorder.rows[0]},
            "sigma": {"step": list(estimate.sigma_steps), "eigenvalue": list(estimate.eigenvalues)},
            "sigma_converged": estimate.converged,
            "sigma_hvps": estimate.hvps,
            "pretrain_steps": len(protocol.pretraining),
            "steps": len(protocol.order),
            "steps_per_epoch": self.steps_per_epoch,
            "num_classes": self.num_classes,
            "num_parameters": sum(p.numel() for p in trainable(model).values()),
            "forget_gradient_norm": forget_gradient_norm,
            "accuracy_pretrained": accuracy_pretrained,
            "accuracy_unlearned": accuracy(model, *self.test_data),
            **privacy,
        }

    def _privacy(self, unlearning: Unlearning, retrained: nn.Module) -> dict[str, dict[str, Any]]:
        """Score what is forgotten under every model of the run."""
        shadow = self.shadow

        def unlearned(method: str) -> nn.Module:
            model = copy.deepcopy(self.model)
            load_parameters(model, RUN_METHODS[method](unlearning, len(self.protocol.order)))
            return model

        index = torch.tensor(self.protocol.forget, device=self.inputs.device)
        return privacy_risk(
            {
                "trained": self.model,
                "retrained": retrained,
                **{name: unlearned(name) for name in ("single_gradient", "final_gradient", "amnesiac")},
            },
            shadow=shadow.model,
            shadow_members=(shadow.inputs, shadow.labels),
            members=(self.inputs, self.labels),
            test_data=self.test_data,
            forgotten=(self.inputs[index], self.labels[index]),
            batch_size=self.config.batch_size,
        )

    def _stepper(self, recipe: Recipe, num_epochs: int, steps_per_epoch: int) -> RecipeStepper:
        return RecipeStepper(
            recipe,
            num_epochs=num_epochs,
            steps_per_epoch=steps_per_epoch,
            seed=self.config.seed,
            retrained=self.retrained,
            dropout=self.config.dropout,
            plain=self._plain,
        )

    def _train(self, model: nn.Module, order: BatchOrder, **options: Any) -> None:
        eta = self.config.learning_rate
        try:
            train(model, self.inputs, self.labels, order, self.objective, learning_rate=eta, **options)
        except NotFiniteError as error:  # rounding decides whether weights or derivatives are so first
            raise DivergedError(
                f"training diverged: its derivatives are not finite; try a learning_rate below {eta:g}."
            ) from error

    def _check_finite(self, num_steps: int) -> None:
        models = {"M": self.model, "M'": self.retrained}
        trained = {name: model for name, model in models.items() if model is not None}
        check_finite(trained, num_steps, self.config.learning_rate)

    def _housekeeping(self, offset: int, collect: Callable[[int], dict[str, Any]]) -> list[Observer]:
        """Observers that save and report, after those that measure."""
        observers: list[Observer] = []
        shadow = self.shadow

        def complete(done: int) -> dict[str, Any]:
            self._check_finite(done)
            return collect(done) | ({"shadow": shadow.trained_alone()} if shadow else {})

        if self._checkpoint:
            seconds, stop = self._checkpoint_seconds, self._stop
            observers.append(Checkpointer(self._checkpoint, complete, every_seconds=seconds, stop=stop))
        if self._progress:
            before = shadow.num_steps if shadow else 0
            observers.append(_Reporter(self._progress, before + offset, before + self.num_steps))
        return observers


def _is_whole(state: dict[str, Any]) -> bool:
    parts = STATE_PARTS.get(state.get("phase", ""))
    return (
        parts is not None and parts <= state.keys() and ("shadow" not in state or _is_whole(state["shadow"]))
    )


@dataclass(frozen=True)
class _ShadowPart:
    """A run's checkpoint, as the run of its shadow model writes it."""

    checkpoint: Checkpoint

    @property
    def path(self) -> Path:
        return self.checkpoint.path

    def save(self, state: dict[str, Any]) -> None:
        self.checkpoint.save({"phase": "shadow", "shadow": state})


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
class _Finite(Observer):
    """Ends a diverged run before it is measured: after every so many steps, each of ``every``."""

    check: Callable[[int], None]
    every: Sequence[int]

    def after_step(self, step: int) -> None:
        if any((step + 1) % every == 0 for every in self.every):
            self.check(step + 1)


@dataclass(frozen=True)
class _Reporter(Observer):
    progress: Progress
    offset: int
    total: int

    def after_step(self, step: int) -> None:
        self.progress(self.offset + step + 1, self.total)
