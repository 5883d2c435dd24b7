r"""Carry out one run: pre-train M, unroll M and M' side by side, measure, unlearn (sections 8.1 and 8.3)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unrolling._checks import InputError
from unrolling.batches import BatchOrder, make_batch_order
from unrolling.checkpoint import Checkpoint, Checkpointer
from unrolling.data import Dataset, load_dataset
from unrolling.experiments.config import RunConfig
from unrolling.losses import Objective
from unrolling.methods.single_gradient import final_gradient_unlearn, single_gradient_unlearn
from unrolling.models import build_model
from unrolling.parameters import Params, batch_loss, gradient, load_parameters, norm, snapshot, trainable
from unrolling.seeding import make_generator, seeded
from unrolling.trackers import Recorder, UnlearningTracker, accuracy
from unrolling.training import Observer, copy_for_retraining, train
from unrolling.unlearning_error import targeted_unlearning_error, verification_error

#: Called with (steps done, steps in all).
Progress = Callable[[int, int], None]


def load_data(config: RunConfig) -> Dataset:
    """Return the run's data: the named data set, cut down to a seeded subset if the run asks for one.

    The subset does not depend on the run's seed: all runs of a grid see the same examples.
    """
    dataset = load_dataset(config.dataset)
    if not (config.train_size or config.test_size):
        return dataset
    num_train = config.train_size or len(dataset.train_labels)
    num_test = config.test_size or len(dataset.test_labels)
    return dataset.subset(num_train, num_test, make_generator(0, "subset"))


def initial_model(config: RunConfig, dataset: Dataset) -> nn.Module:
    """Return M_0, its weights drawn from the run's seed (on the CPU, so that every device starts alike)."""
    input_shape = tuple(dataset.train_inputs.shape[1:])
    with seeded(config.seed, "weights"):
        model = build_model(
            config.model, dataset.num_classes, input_shape=input_shape, width=config.width or None
        )
    return model.to(getattr(torch, config.dtype))


def batch_orders(config: RunConfig, num_examples: int) -> tuple[BatchOrder, BatchOrder, tuple[int, ...]]:
    r"""Return the order of pre-training, that of the t steps from w_0 on, and the forgotten batch.

    Pre-training is shuffled anew each epoch. The t steps repeat one epoch's batches m times, so that the
    forgotten batch can be left out of every epoch.
    """
    pretraining = make_batch_order(
        num_examples,
        config.batch_size,
        config.pretrain_epochs,
        make_generator(config.seed, "pretraining order"),
        reshuffle=True,
    )
    order = make_batch_order(
        num_examples, config.batch_size, config.epochs, make_generator(config.seed, "batch order")
    )
    per_epoch = len(order) // config.epochs
    if config.forget_batch >= per_epoch:
        raise InputError(
            f"forget_batch must be one of an epoch's {per_epoch} batches, 0..{per_epoch - 1}, "
            f"got {config.forget_batch}."
        )
    return pretraining, order, order[config.forget_batch]


def execute(
    config: RunConfig,
    dataset: Dataset,
    *,
    device: str | torch.device = "cpu",
    checkpoint: Checkpoint | None = None,
    checkpoint_seconds: float = 30.0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the result of one run: a trace over t, every sample of sigma, and what was measured at the end.

    Args:
        config: The run.
        dataset: What :func:`load_data` returned for it.
        device: Where to train.
        checkpoint: Resume from this file if it holds a state, and save to it on the way. The numbers are the
            same with and without it, interrupted or not.
        checkpoint_seconds: Least time between two saves.
        progress: Called with (steps done, steps in all).
    """
    run = _Run(config, dataset, torch.device(device), checkpoint, checkpoint_seconds, progress)
    state = checkpoint.load() if checkpoint else None
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
    ):
        self.config = config
        dtype = getattr(torch, config.dtype)
        self.inputs = dataset.train_inputs.to(device, dtype)
        self.labels = dataset.train_labels.to(device)
        self.num_classes = dataset.num_classes
        self.test_data = dataset.test_inputs.to(device, dtype), dataset.test_labels.to(device)
        self.pretraining, self.order, self.forget = batch_orders(config, len(self.labels))
        self.objective = Objective(config.loss, config.gamma)
        self.model = initial_model(config, dataset).to(device)
        self._checkpoint, self._checkpoint_seconds = checkpoint, checkpoint_seconds
        self._progress = progress

    def pretrain(self, state: dict[str, Any] | None) -> None:
        """Take M_0 to M_N in N epochs."""
        if state:
            self.model.load_state_dict(state["model"])
        self._train(
            self.pretraining,
            first_step=state["step"] if state else 0,
            observers=self._housekeeping(
                0, lambda done: {"phase": "pretraining", "step": done, "model": self.model.state_dict()}
            ),
        )

    def unroll(self, state: dict[str, Any] | None) -> dict[str, Any]:
        """Take M and M' from w_0 = M_N through the t steps, and measure on the way."""
        config, model = self.config, self.model
        if state:
            model.load_state_dict(state["initial_model"])
        initial_state = {name: value.clone() for name, value in model.state_dict().items()}
        retrained = copy_for_retraining(model)
        tracker = UnlearningTracker(
            model,
            self.objective,
            learning_rate=config.learning_rate,
            every=config.sigma_every,
            rtol=config.sigma_rtol,
            max_hvps=config.sigma_max_hvps,
            seed=config.seed,
        )
        unlearning = _Unlearning(self)
        forget_gradient_norm = norm(gradient(unlearning.loss, unlearning.initial))
        accuracy_pretrained = accuracy(model, *self.test_data)

        def measure(done: int) -> dict[str, float]:
            estimate = tracker.result()
            now, other = trainable(model), trainable(retrained)
            return {
                "e": estimate.unlearning_error,
                "e_corrected": estimate.unlearning_error_corrected,
                "e_targeted": targeted_unlearning_error(
                    learning_rate=config.learning_rate,
                    sigma_avg=estimate.sigma_avg,
                    num_steps=done,
                    gradient_norm=forget_gradient_norm,
                ),
                "weight_change": estimate.weight_change,
                "sigma_avg": estimate.sigma_avg,
                "v": verification_error(unlearning.at_initial_weights(done), other),
                "v_final_gradient": verification_error(unlearning.at_final_weights(done), other),
                "v_nothing": verification_error(now, other),
                "accuracy": accuracy(model, *self.test_data),
                "accuracy_retrained": accuracy(retrained, *self.test_data),
            }

        recorder = Recorder(measure, every=config.record_every, total=len(self.order))
        if state:
            model.load_state_dict(state["model"])
            retrained.load_state_dict(state["retrained"])
            tracker.load_state(state["tracker"])
            recorder.rows = state["rows"]

        def collect(done: int) -> dict[str, Any]:
            return {
                "phase": "unrolling",
                "step": done,
                "model": model.state_dict(),
                "retrained": retrained.state_dict(),
                "initial_model": initial_state,
                "tracker": tracker.state(),
                "rows": recorder.rows,
            }

        self._train(
            self.order,
            first_step=state["step"] if state else 0,
            retrained=retrained,
            forget=self.forget,
            observers=[tracker, recorder, *self._housekeeping(len(self.pretraining), collect)],
        )
        estimate = tracker.result()
        load_parameters(model, unlearning.at_initial_weights(len(self.order)))
        return {
            "trace": {key: [row[key] for row in recorder.rows] for key in recorder.rows[0]},
            "sigma": {"step": list(estimate.sigma_steps), "eigenvalue": list(estimate.eigenvalues)},
            "sigma_converged": estimate.converged,
            "sigma_hvps": estimate.hvps,
            "pretrain_steps": len(self.pretraining),
            "steps": len(self.order),
            "steps_per_epoch": len(self.order) // config.epochs,
            "num_classes": self.num_classes,
            "num_parameters": sum(p.numel() for p in trainable(model).values()),
            "forget_gradient_norm": forget_gradient_norm,
            "accuracy_pretrained": accuracy_pretrained,
            "accuracy_unlearned": accuracy(model, *self.test_data),
        }

    def _train(self, order: BatchOrder, **options: Any) -> None:
        eta = self.config.learning_rate
        train(self.model, self.inputs, self.labels, order, self.objective, learning_rate=eta, **options)

    def _housekeeping(self, offset: int, collect: Callable[[int], dict[str, Any]]) -> list[Observer]:
        """Observers that save and report, after those that measure."""
        observers: list[Observer] = []
        if self._checkpoint:
            observers.append(Checkpointer(self._checkpoint, collect, every_seconds=self._checkpoint_seconds))
        if self._progress:
            total = len(self.pretraining) + len(self.order)
            observers.append(_Reporter(self._progress, offset, total))
        return observers


@dataclass(frozen=True)
class _Reporter(Observer):
    progress: Progress
    offset: int
    total: int

    def after_step(self, step: int) -> None:
        self.progress(self.offset + step + 1, self.total)


class _Unlearning:
    """M'' after any number of steps: the two single-gradient updates for the steps taken so far."""

    def __init__(self, run: _Run):
        index = torch.tensor(run.forget, device=run.inputs.device)
        # Training mode: the steps on this batch were taken with batch statistics.
        self.loss: Callable[[Params], Tensor] = batch_loss(
            run.model, run.objective, (run.inputs[index], run.labels[index]), training=True
        )
        self.initial = snapshot(run.model)
        self._model, self._eta = run.model, run.config.learning_rate
        self._forget_steps = run.order.steps_of_batch(run.forget)

    def _times_trained_on(self, done: int) -> int:
        return sum(step < done for step in self._forget_steps)

    def at_initial_weights(self, done: int) -> Params:
        times, now = self._times_trained_on(done), trainable(self._model)
        if not times:
            return now
        return single_gradient_unlearn(
            now, self.initial, self.loss, learning_rate=self._eta, num_epochs=times
        )

    def at_final_weights(self, done: int) -> Params:
        now = trainable(self._model)
        if not self._times_trained_on(done):
            return now
        return final_gradient_unlearn(now, self.loss, learning_rate=self._eta)
