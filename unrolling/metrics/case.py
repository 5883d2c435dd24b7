"""What a metric is given: the models of one method over several seeds, and the data they are judged on."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from unrolling._checks import InputError, UnrollingError, check_examples, check_real
from unrolling.metrics._inputs import LabelledOutputs
from unrolling.parameters import Params


class Undefined(UnrollingError):
    """The metric cannot be computed for this case; the message says why."""


class Measured(Protocol):
    """A model as metrics see it: its weights, and its outputs in evaluation mode."""

    @property
    def params(self) -> Params:
        """All trainable weights by name."""

    @property
    def logits(self) -> Callable[[Tensor], Tensor]:
        """From inputs (batch, ...) to logits (batch, classes)."""


class Run(NamedTuple):
    """The three models of one seed: M, which has seen F, M'', which is to have forgotten it, and M'."""

    trained: Measured
    unlearned: Measured
    retrained: Measured


#: The sets of examples on which outputs are compared.
PARTS = ("forgotten", "retained", "test")


@dataclass(frozen=True, eq=False)
class Case:
    r"""One method's models over the seeds of one problem.

    Seeds differ in :math:`w_0`, in the batch order and in the method's own randomness; F is the same. The
    models of one seed share :math:`w_0` and the order, those of different seeds are independent.

    Attributes:
        runs: One for each seed.
        inputs: Everything that was trained on, shape (n, ...).
        labels: Its classes, shape (n,), int64.
        forget: F, indices into ``inputs`` in any form, or a mask; kept as a tuple of numbers.
        test_inputs: Examples that no model has seen.
        test_labels: Their classes.
        noise: Standard deviation s of the Gaussian noise that metrics of published weights suppose.
        delta: :math:`\delta` at which they give :math:`\varepsilon`.
        forget_loss: The training loss of F as a function of the weights, by which relearning goes; None if
            the models are not the network of this loss.
        learning_rate: :math:`\eta` of relearning.
    """

    runs: tuple[Run, ...]
    inputs: Tensor
    labels: Tensor
    forget: tuple[int, ...]
    test_inputs: Tensor
    test_labels: Tensor
    noise: float
    delta: float
    learning_rate: float
    forget_loss: Callable[[Params], Tensor] | None = None

    def __post_init__(self) -> None:
        check_real("noise", self.noise, above=0)
        check_real("delta", self.delta, above=0)
        check_real("learning_rate", self.learning_rate, above=0)
        object.__setattr__(self, "forget", check_examples("forget", self.forget, total=len(self.labels)))
        if not self.runs or len(self.forget) == len(self.labels):
            raise InputError(
                "a case needs a run, and a forget set that is not everything; got "
                f"{len(self.runs)} runs and {len(self.forget)} of {len(self.labels)} examples to forget."
            )

    def data(self, part: str) -> LabelledOutputs:
        """Return the inputs and labels of one of :data:`PARTS`."""
        if part == "test":
            return self.test_inputs, self.test_labels
        chosen = torch.zeros(len(self.labels), dtype=torch.bool)
        chosen[list(self.forget)] = True
        index = (chosen if part == "forgotten" else ~chosen).nonzero().squeeze(1)
        return self.inputs[index], self.labels[index]

    def where(self, unlearned: Iterable[Measured]) -> "Case":
        """Return the same case with other models in the place of M''."""
        runs = (run._replace(unlearned=model) for run, model in zip(self.runs, unlearned, strict=True))
        return replace(self, runs=tuple(runs))

    @property
    def exact(self) -> "Case":
        """The case of exact unlearning, M' in the place of M''."""
        return self.where(run.retrained for run in self.runs)

    @property
    def nothing(self) -> "Case":
        """The case of doing nothing, M in the place of M''."""
        return self.where(run.trained for run in self.runs)
