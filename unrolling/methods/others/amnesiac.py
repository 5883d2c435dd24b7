r"""Amnesiac unlearning: write down what the forgotten steps did to the weights, and undo it.

Graves, Nagisetty, Ganesh, "Amnesiac Machine Learning", AAAI 2021. The steps on a request's examples are
logged as they are taken, so one has to know beforehand what may be forgotten together. As in the authors'
code only weights and biases are logged: the running statistics of batch norm keep what they saw.
"""

import torch
from torch import Tensor, nn

from unrolling._checks import InputError, check_examples, check_real
from unrolling.batches import BatchOrder, Examples
from unrolling.methods import assumptions
from unrolling.methods.cost import Cost, Unlearned
from unrolling.methods.forgotten_part import steps_with
from unrolling.methods.problem import Outcome, Problem
from unrolling.model_loss import batch_loss, gradient
from unrolling.parameters import Params, add, snapshot, trainable
from unrolling.training import Batch, LossFn, Observer, independent_copy


class AmnesiacLog(Observer):
    r"""Sums the updates :math:`w_{k+1} - w_k` of every step whose batch holds one of ``examples``.

    It keeps this one sum, as large as the weights, however many steps there are (and a copy of the weights
    while such a step is taken). What is summed cannot be forgotten in parts: for several requests train with
    a log for each. The *applied* updates are logged, so any optimiser will do; call :meth:`before_step` and
    :meth:`after_step` in a loop of your own.

    Args:
        model: The model being trained; only read.
        order: The batch of every step, from which the log knows the steps to watch.
        examples: What may be forgotten together, indices into the data set in any form, see
            ``unrolling.batches.Examples``; all of them, too.

    Raises:
        InputError: If ``examples`` is empty, or ``order`` never trains on any of them.
    """

    def __init__(self, model: nn.Module, order: BatchOrder, examples: Examples):
        self._model = model
        self._steps, self.undone = _watched(order, examples)
        self._before: Params | None = None
        self.updates = _zeros(model)
        self.num_steps = 0

    def before_step(self, step: int, batch: Batch) -> None:
        """Remember the weights, if the step is one to watch."""
        if step in self._steps:
            self._before = snapshot(self._model)

    def after_step(self, step: int) -> None:
        """Add what the step did."""
        if self._before is not None:
            with torch.no_grad():
                for name, p in trainable(self._model).items():
                    self.updates[name] += p - self._before[name]
            self._before = None
            self.num_steps += 1


def amnesiac_unlearn(final_params: Params, log: AmnesiacLog) -> Unlearned:
    r"""Return :math:`w'' = w_t - \sum_k (w_{k+1} - w_k)`, the sum over the steps on the forgotten examples.

    The other examples of these batches are undone too; what the steps did to later gradients is not. So it is
    retraining without the *whole* batches to first order, exact for plain SGD on a loss linear in w. The
    authors then repair the damage with a few epochs on what is retained; these are left to the caller.

    Args:
        final_params: Weights w_t after training.
        log: What watched all of it.

    Returns:
        New weights. They cost no gradients, and a second copy of the weights.
    """
    unlearned = add(final_params, log.updates, -1.0)
    cost = Cost(gradients=0, hvps=0, stored_bytes=_num_bytes(log.updates))
    return Unlearned(unlearned, cost, broken=_broken(log.undone))


class ReleasedAmnesiacLog(Observer):
    r"""Sums the gradients :math:`\nabla \mathcal{L}(w_{k+1}, \hat x_k)`, each taken just *after* the step.

    This is what the code released with *Unrolling SGD* logs in place of the applied update. There the second
    pass through the batch also moves the running statistics of batch norm; here it leaves no trace.

    Args:
        model: The model being trained; only read.
        loss_fn: ``loss_fn(model, batch) -> scalar``, the training loss, evaluated in training mode.
        order: The batch of every step.
        examples: What may be forgotten together, indices into the data set in any form, see
            ``unrolling.batches.Examples``; all of them, too.

    Raises:
        InputError: If ``examples`` is empty, or ``order`` never trains on any of them.
    """

    def __init__(self, model: nn.Module, loss_fn: LossFn, order: BatchOrder, examples: Examples):
        self._model, self._loss_fn = model, loss_fn
        self._steps, self.undone = _watched(order, examples)
        self._batch: Batch | None = None
        self.gradients = _zeros(model)
        self.num_steps = 0

    def before_step(self, step: int, batch: Batch) -> None:
        """Remember the batch, if the step is one to watch."""
        if step in self._steps:
            self._batch = batch[0].clone(), batch[1]  # the step may change inputs in place

    def after_step(self, step: int) -> None:
        """Add the batch's gradient at the weights that the step led to."""
        if self._batch is not None:
            loss = batch_loss(self._model, self._loss_fn, self._batch, training=True)
            for name, slope in gradient(loss, trainable(self._model)).items():
                self.gradients[name] += slope
            self._batch = None
            self.num_steps += 1


def released_amnesiac_unlearn(
    final_params: Params, log: ReleasedAmnesiacLog, *, learning_rate: float
) -> Unlearned:
    r"""Return :math:`w'' = w_t + \eta \sum_k \nabla \mathcal{L}(w_{k+1}, \hat x_k)`, as the released code.

    With plain SGD it differs from :func:`amnesiac_unlearn` by :math:`\eta^2 \sum_k H_k g_k` to leading order:
    one step already is not undone. With momentum or weight decay in the optimiser it undoes another step than
    the one that was taken.

    Args:
        final_params: Weights w_t after training.
        log: What watched all of it.
        learning_rate: :math:`\eta`, constant over the steps.

    Returns:
        New weights. They cost a gradient per logged step, taken during training, and a second copy of the
        weights.
    """
    eta = check_real("learning_rate", learning_rate, above=0)
    unlearned = add(final_params, log.gradients, eta)
    cost = Cost(gradients=log.num_steps, hvps=0, stored_bytes=_num_bytes(log.gradients))
    return Unlearned(unlearned, cost, broken=_broken(log.undone))


def _watched(order: BatchOrder, examples: Examples) -> tuple[frozenset[int], int]:
    """Return the steps on any of ``examples``, and on how many others these steps are."""
    wanted = set(check_examples("examples", examples))
    steps = frozenset(steps_with(order, wanted))
    if not steps:
        raise InputError(f"none of the examples {sorted(wanted)[:4]} is at any step of this order.")
    return steps, len({example for step in steps for example in order[step]} - wanted)


def _zeros(model: nn.Module) -> Params:
    params = {name: torch.zeros_like(p) for name, p in snapshot(model).items()}
    if not params:
        raise InputError("the model has no trainable parameters; nothing to log.")
    return params


def _num_bytes(params: dict[str, Tensor]) -> int:
    return sum(p.nbytes for p in params.values())


def run_amnesiac(problem: Problem) -> Outcome:
    """Undo the steps on F's batches. The repair that follows in the authors' work is left out."""
    model = independent_copy(problem.model)
    log = AmnesiacLog(model, problem.order, problem.forget)
    problem.fit(model, problem.order, [log])
    return problem.outcome(amnesiac_unlearn(snapshot(model), log))


def run_amnesiac_released(problem: Problem) -> Outcome:
    """Add back the gradients that the released code logs after the steps on F's batches."""
    model = independent_copy(problem.model)
    log = ReleasedAmnesiacLog(model, problem.loss_fn, problem.order, problem.forget)
    problem.fit(model, problem.order, [log])
    unlearned = released_amnesiac_unlearn(snapshot(model), log, learning_rate=problem.learning_rate)
    return problem.outcome(unlearned)


def _broken(undone: int) -> tuple[str, ...]:
    others = (f"{undone} examples that stay are undone with F",) if undone else ()
    return others + assumptions.FOLLOWS_THE_TRAJECTORY
