"""Train the models of a run, save on the way, and go on from what was saved."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from unrolling._checks import NotFiniteError
from unrolling.batches import BatchOrder
from unrolling.runs.checkpoint import Checkpoint, Checkpointer
from unrolling.runs.cuda_graph import GraphStepper
from unrolling.runs.recipes import Recipe, RecipeStepper
from unrolling.runs.setup import Setup
from unrolling.runs.stopping import Stop
from unrolling.training import DivergedError, Observer, Stepper, check_finite, train

#: Called with (steps done, steps in all).
Progress = Callable[[int, int], None]
#: Where a run stands, as its checkpoint holds it.
State = dict[str, Any]


@dataclass(frozen=True)
class Keeping:
    """How a training is saved, reported and stopped.

    Attributes:
        checkpoint: Where its state is saved, if anywhere.
        seconds: Least time between two saves.
        progress: Called with (steps done, steps in all).
        stop: Asked after every step.
        before: Steps that were taken before this training, and are counted with it.
        after: Steps that follow it.
        whole: From the state of this training to what is saved.
    """

    checkpoint: Checkpoint | None = None
    seconds: float = 30.0
    progress: Progress | None = None
    stop: Stop | None = None
    before: int = 0
    after: int = 0
    whole: Callable[[State], State] = lambda state: state


@dataclass
class Trainer:
    """Takes the steps of a run's models, with what is done beside them.

    Attributes:
        setup: What the run starts from.
        keeping: How it is saved, reported and stopped.
        graphs: Take steps of plain SGD in CUDA graphs.
        retrained: M', once there is one.
    """

    setup: Setup
    keeping: Keeping = field(default_factory=Keeping)
    graphs: bool = False
    retrained: nn.Module | None = None

    def __post_init__(self) -> None:
        self._plain = GraphStepper() if self.graphs else Stepper()

    def stepper(self, recipe: Recipe, num_epochs: int, steps_per_epoch: int) -> RecipeStepper:
        """Return what takes steps by a recipe."""
        return RecipeStepper(
            recipe,
            num_epochs=num_epochs,
            steps_per_epoch=steps_per_epoch,
            seed=self.setup.config.seed,
            retrained=self.retrained,
            dropout=self.setup.config.dropout,
            plain=self._plain,
        )

    def train(self, model: nn.Module, order: BatchOrder, **options: Any) -> None:
        """Train ``model``; derivatives that are not finite are a training that diverged."""
        setup, eta = self.setup, self.setup.config.learning_rate
        try:
            train(model, setup.inputs, setup.labels, order, setup.loss_fn, learning_rate=eta, **options)
        except NotFiniteError as error:  # rounding decides whether weights or derivatives are so first
            raise DivergedError(
                f"training diverged: its derivatives are not finite; try a learning_rate below {eta:g}."
            ) from error

    def advance(
        self,
        model: nn.Module,
        order: BatchOrder,
        stepper: RecipeStepper,
        state: State | None,
        *,
        phase: str,
        offset: int,
        states: Callable[[State], State] = lambda own: {"model": own},
    ) -> None:
        """Train one model, from ``state`` on.

        Args:
            model: M, or M' by itself.
            order: All steps of this phase.
            stepper: Takes them.
            state: Where the phase was stopped; None: it starts.
            phase: Its name in a checkpoint.
            offset: Steps of the run before this phase.
            states: From the model's weights to those that a checkpoint holds.
        """
        if state:
            model.load_state_dict(state["model"])
            stepper.load_state([model], state["velocities"])

        def collect(done: int) -> State:
            velocities = stepper.state([model])
            return {"phase": phase, "step": done, "velocities": velocities} | states(model.state_dict())

        first_step = state["step"] if state else 0
        observers = self.housekeeping(offset, collect)
        self.train(model, order, stepper=stepper, first_step=first_step, observers=observers)

    def check_finite(self, num_steps: int) -> None:
        """Raise :class:`DivergedError` if weights of M or M' are not finite."""
        models = {"M": self.setup.model, "M'": self.retrained}
        trained = {name: model for name, model in models.items() if model is not None}
        check_finite(trained, num_steps, self.setup.config.learning_rate)

    def housekeeping(self, offset: int, collect: Callable[[int], State]) -> list[Observer]:
        """Return the observers that save and report, to come after those that measure."""
        keeping = self.keeping
        observers: list[Observer] = []

        def complete(done: int) -> State:
            self.check_finite(done)
            return keeping.whole(collect(done))

        if keeping.checkpoint:
            observers.append(
                Checkpointer(keeping.checkpoint, complete, every_seconds=keeping.seconds, stop=keeping.stop)
            )
        if keeping.progress:
            total = keeping.before + self.setup.num_steps + keeping.after
            observers.append(_Reporter(keeping.progress, keeping.before + offset, total))
        return observers


@dataclass(frozen=True)
class _Reporter(Observer):
    progress: Progress
    offset: int
    total: int

    def after_step(self, step: int) -> None:
        self.progress(self.offset + step + 1, self.total)
