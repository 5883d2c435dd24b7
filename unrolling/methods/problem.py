"""The one signature of all methods: from what was trained and is to be forgotten, to models and costs."""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from unrolling._checks import InputError, UnrollingError, check_integer, check_logits, check_real
from unrolling.batches import BatchOrder
from unrolling.curvature import Loss, top_singular_value
from unrolling.losses import half_squared_l2_norm
from unrolling.methods.cost import Cost, Unlearned
from unrolling.methods.forgotten_part import forgotten_part, split, steps_with
from unrolling.model_loss import batch_loss
from unrolling.parameters import Params, snapshot, trainable, training_mode
from unrolling.seeding import make_generator, seeded
from unrolling.trackers import WeightLog
from unrolling.training import LossFn, Observer, check_lone_examples, independent_copy, train


class NotApplicable(UnrollingError):
    """The method cannot be applied to this problem; the message says why."""


@contextmanager
def applicable() -> Iterator[None]:
    """Turn an :class:`InputError` of the block, which blames an argument, into :class:`NotApplicable`."""
    try:
        yield
    except InputError as error:
        raise NotApplicable(str(error)) from error


@dataclass(frozen=True)
class Model:
    """A model to be measured; an ensemble is one too.

    Attributes:
        params: All trainable weights by name.
        logits: From inputs (batch, ...) to logits (batch, classes), in evaluation mode and without gradient.
            Of an ensemble, the logarithm of the mean softmax.
    """

    params: Params
    logits: Callable[[Tensor], Tensor]


def as_model(module: nn.Module, params: Params | None = None) -> Model:
    """Return ``module``, with ``params`` in place of its own weights if given, as something to be measured.

    Args:
        module: From inputs to logits. Its buffers are used, and must not change later.
        params: Trainable weights w'', as methods return them.
    """
    weights = snapshot(module) if params is None else params

    def logits(inputs: Tensor) -> Tensor:
        found = []
        with torch.no_grad(), training_mode(module, False):
            for part in inputs.split(500):
                found.append(functional_call(module, weights, (part.clone(),)))
                check_logits(found[-1])
        return torch.cat(found)

    return Model(weights, logits)


@dataclass(frozen=True)
class Outcome:
    """What a method made of a problem.

    Attributes:
        trained: The method's own M. Of most it is the problem's; some train in their own way.
        unlearned: M''.
        retrained: The method's own M': what exact unlearning would have given.
        cost: Of unlearning.
        retraining: Of the reference M'.
        broken: Assumptions that this problem does not meet, in a few words each: those of the method's own
            theory, and that of Corollary 1 on what an update may depend on.
    """

    trained: Model
    unlearned: Model
    retrained: Model
    cost: Cost
    retraining: Cost
    broken: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Problem:
    r"""What was trained, and what is to be forgotten.

    It trains when asked for a trained model, once, and keeps it. What it hands out is shared by all methods:
    to be read only.

    Attributes:
        model: M_0, from inputs to logits; never changed.
        loss_fn: ``loss_fn(model, (inputs, labels)) -> scalar``: the mean over the batch, and the l2 term.
        l2: :math:`\lambda` of the term :math:`\frac{\lambda}{2} \|w\|^2` in ``loss_fn``; 0 if it has none.
        inputs: All examples, shape (n, ...), on the model's device.
        labels: Their classes, shape (n,), int64.
        num_classes: c.
        order: The batch of every step of training.
        learning_rate: :math:`\eta`, constant.
        forget: F, examples of ``order``, some but not all: whole numbers in any form, or a mask of shape
            (n,); kept as a tuple of numbers.
        seed: For the randomness of methods, and of dropout.

    Raises:
        InputError: If F is empty, everything, or not in ``order``; if shapes or numbers do not fit; or if
            batch norm would have to take statistics of one example.
    """

    model: nn.Module
    loss_fn: LossFn
    l2: float
    inputs: Tensor
    labels: Tensor
    num_classes: int
    order: BatchOrder
    learning_rate: float
    forget: tuple[int, ...]
    seed: int

    def __post_init__(self) -> None:
        check_real("l2", self.l2, minimum=0)
        check_real("learning_rate", self.learning_rate, above=0)
        check_integer("num_classes", self.num_classes, minimum=2)
        check_integer("seed", self.seed)
        if not trainable(self.model):
            raise InputError("the model has no trainable parameters; there is nothing to unlearn.")
        for name in ("inputs", "labels"):
            data = getattr(self, name)
            if not isinstance(data, Tensor) or not data.ndim:
                raise InputError(
                    f"`{name}` must be a tensor with one row for each example, got "
                    f"{type(data).__name__}. Wrap a model of several inputs in one that takes one tensor."
                )
        if self.labels.shape != self.inputs.shape[:1] or self.labels.dtype != torch.int64:
            raise InputError(
                f"`labels` must be int64 of shape ({len(self.inputs)},), one for each of the inputs, got "
                f"{self.labels.dtype} of shape {tuple(self.labels.shape)}."
            )
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < self.num_classes:
            raise InputError(f"`labels` must be classes from 0 to {self.num_classes - 1}.")
        for example in self.examples:
            check_integer("an example of `order`", example, maximum=len(self.labels) - 1)
        object.__setattr__(self, "forget", self.order.check("forget", self.forget, total=len(self.labels)))
        check_lone_examples(self.model, self.inputs, self.labels, self.order, self.loss_fn, self._gone)

    # Training, once

    def fit(self, model: nn.Module, order: BatchOrder, observers: Iterable[Observer] = ()) -> None:
        """Train ``model`` in place as the problem's own is trained, on the steps of ``order``."""
        with seeded(self.seed, "training"):
            train(
                model,
                self.inputs,
                self.labels,
                order,
                self.loss_fn,
                learning_rate=self.learning_rate,
                observers=observers,
            )

    @cached_property
    def _training(self) -> tuple[nn.Module, WeightLog]:
        model = independent_copy(self.model)
        log = WeightLog(model)
        self.fit(model, self.order, [log])
        return model, log

    @property
    def trained(self) -> nn.Module:
        """M, after all steps."""
        return self._training[0]

    @property
    def log(self) -> WeightLog:
        """The weights before every step of M."""
        return self._training[1]

    @cached_property
    def retrained(self) -> nn.Module:
        """M', trained in the same way without F, which is removed in place from every batch."""
        model = independent_copy(self.model)
        self.fit(model, self.retraining_order)
        return model

    @cached_property
    def initial_params(self) -> Params:
        """The weights w_0."""
        return snapshot(self.model)

    @cached_property
    def final_params(self) -> Params:
        """The weights w_t."""
        return snapshot(self.trained)

    # Examples and steps

    @cached_property
    def examples(self) -> tuple[int, ...]:
        """Everything that is trained on, in ascending order."""
        return tuple(sorted({example for batch in self.order for example in batch}))

    @cached_property
    def retained(self) -> tuple[int, ...]:
        """Everything that is trained on but F, in ascending order."""
        return tuple(example for example in self.examples if example not in self._gone)

    @cached_property
    def batch_size(self) -> int:
        """Examples of the largest step, which are one gradient equivalent."""
        return max(len(batch) for batch in self.order)

    @cached_property
    def forget_steps(self) -> tuple[int, ...]:
        """The steps whose batch holds some of F."""
        return steps_with(self.order, self._gone)

    @cached_property
    def retraining_order(self) -> BatchOrder:
        """The order of M' has F removed in place; steps of which nothing is left vanish."""
        return self.order.without(self.forget)

    def split(self, batch: Iterable[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return what stays of a batch, and what of F is in it, each in the order of the batch."""
        return split(batch, self._gone)

    @cached_property
    def _gone(self) -> frozenset[int]:
        return frozenset(self.forget)

    # Losses

    def mean_loss(self, examples: Collection[int]) -> Loss:
        """Return ``loss(params) -> scalar``: the mean over ``examples``, in training mode, with the l2 term.

        For the batch of a step it is the step's own loss. The same examples in the same order give the same
        function, so methods that pay once per function pay once.
        """
        numbers = tuple(map(int, examples))
        return self._losses.setdefault(numbers, self._loss(self.loss_fn, numbers))

    def share(self, batch: Collection[int]) -> Loss:
        r"""Return the part of F in a step's loss, :math:`\frac{1}{b} \sum_{i \in F \cap \text{batch}} l_i`.

        The l2 term belongs to the step: it is part of the share only where the whole batch is F's, and the
        step vanishes from retraining. Where examples stay, retraining also divides by their smaller number;
        that is not part of the share.

        Raises:
            NotApplicable: If examples stay and the model has batch norm, which mixes their losses.
        """
        kept, gone = self.split(batch)
        if not kept:
            return self.mean_loss(batch)
        if any(isinstance(module, _BatchNorm) for module in self.model.modules()):
            raise NotApplicable(
                "batch norm mixes the examples of a batch, so part of a batch has no share in its step. "
                "Forget whole batches, or use another norm."
            )

        def data_loss(model: nn.Module, part: tuple[Tensor, Tensor]) -> Tensor:
            value = self.loss_fn(model, part)
            if self.l2:
                value = value - self.l2 * half_squared_l2_norm(model)
            return value * (len(gone) / len(batch))

        return self._loss(data_loss, gone)

    def removed(self, batch: Collection[int]) -> Loss:
        r"""Return what retraining takes from a step's loss, :math:`L_B - L_{B \setminus F}`; both are means.

        Unlike the share it knows that retraining divides by the smaller number of examples. Where the whole
        batch is F's it is the step's loss. The same batch gives the same function.
        """
        part = forgotten_part(self.mean_loss, batch, self._gone)
        return self._losses.setdefault(("removed", *map(int, batch)), part)

    @cached_property
    def _losses(self) -> dict[tuple[int | str, ...], Loss]:
        return {}

    def _loss(self, loss_fn: LossFn, examples: tuple[int, ...]) -> Loss:
        index = torch.tensor(examples, device=self.inputs.device)

        def on_examples(model: nn.Module, index: Tensor) -> Tensor:
            # Taken at every call: a layer that works in place may change them, and they are not kept.
            return loss_fn(model, (self.inputs[index], self.labels[index]))

        return batch_loss(self.model, on_examples, index, training=True)

    @cached_property
    def sigma(self) -> float:
        r"""The largest singular value of the Hessian of the mean loss over all examples at :math:`w_0`."""
        found = top_singular_value(
            self.mean_loss(self.examples),
            self.initial_params,
            generator=make_generator(self.seed, "lanczos start"),
        )
        return found.value

    # Outcomes

    @cached_property
    def retraining(self) -> Cost:
        """The cost of M', a gradient over every batch without F, and w_0."""
        return Cost(
            gradients=sum(map(len, self.retraining_order)) / self.batch_size,
            hvps=0,
            stored_bytes=sum(p.nbytes for p in self.initial_params.values()),
        )

    def outcome(self, unlearned: Unlearned, broken: Iterable[str] = ()) -> Outcome:
        """Return the outcome of a method that changes the weights of the problem's own M.

        Buffers, such as the running statistics of batch norm, stay those of M. To what the method found
        ``broken`` come the assumptions that only the problem can tell of.
        """
        return Outcome(
            trained=as_model(self.trained),
            unlearned=as_model(self.trained, unlearned),
            retrained=as_model(self.retrained),
            cost=unlearned.cost,
            retraining=self.retraining,
            broken=(*unlearned.broken, *broken),
        )


class Method(NamedTuple):
    """A method by name.

    Attributes:
        title: One line: what it does.
        source: Whose it is.
        run: From a problem to what the method makes of it; raises
            :class:`NotApplicable` where it makes nothing.
    """

    title: str
    source: str
    run: Callable[[Problem], Outcome]
