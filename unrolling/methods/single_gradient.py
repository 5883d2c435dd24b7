r"""Single-gradient unlearning (section 5.1) and the variant that section 8.3 prints."""

from collections.abc import Callable

import torch
from torch import Tensor

from unrolling._checks import InputError, check_integer, check_real
from unrolling.methods import assumptions
from unrolling.methods.cost import Cost, Unlearned
from unrolling.methods.forgotten_part import times_seen
from unrolling.methods.problem import Outcome, Problem
from unrolling.model_loss import gradient
from unrolling.parameters import Params, add


def single_gradient_unlearn(
    final_params: Params,
    initial_params: Params,
    forget_loss: Callable[[Params], Tensor],
    *,
    learning_rate: float,
    num_epochs: int = 1,
    momentum: float = 0.0,
) -> Unlearned:
    r"""Return w'': the final weights with the forgotten batch's first-order effect added back.

    .. math:: w'' = w_t + \frac{\eta m}{1 - \beta} \nabla \mathcal{L}(w_0, \hat x^*)

    The gradient is taken at w_0, so the update depends on w_0 and the batch order alone, as Corollary 1
    requires. It is exact when the loss is linear in w.

    Args:
        final_params: Weights w_t after training.
        initial_params: Weights w_0 at which the unrolled steps began.
        forget_loss: ``loss(params) -> scalar``: what the step subtracted the gradient of, as
            :func:`unrolling.forget_loss` returns it, for a batch or some of its examples, in the mode of the
            step. The paper's :math:`\eta m / b` goes with a sum over the batch; the 1/b is inside here.
        learning_rate: :math:`\eta`, constant over the steps.
        num_epochs: m, how many steps trained on the batch.
        momentum: :math:`\beta` of SGD with heavy-ball momentum; a gradient then enters w_t up to
            :math:`1 / (1 - \beta)` times. The paper uses none.

    Returns:
        New weights; the inputs are left alone. They cost one gradient, and w_0.
    """
    eta = check_real("learning_rate", learning_rate, above=0)
    check_integer("num_epochs", num_epochs, minimum=1)
    beta = check_real("momentum", momentum, minimum=0)
    if beta >= 1:
        raise InputError(f"momentum must be below 1, got {beta:g}.")
    unlearned = add(final_params, gradient(forget_loss, initial_params), eta * num_epochs / (1 - beta))
    stored_bytes = sum(p.nbytes for p in initial_params.values())
    return Unlearned(unlearned, Cost(gradients=1, hvps=0, stored_bytes=stored_bytes))


def final_gradient_unlearn(
    final_params: Params, forget_loss: Callable[[Params], Tensor], *, learning_rate: float
) -> Unlearned:
    r"""Return w'' with the gradient taken at the final weights, once: the formula that section 8.3 prints.

    .. math:: w'' = w_t + \eta \nabla \mathcal{L}(w_t, \hat x_1)

    This update depends on the whole trajectory through w_t, so Corollary 1 does not cover it.
    Section 8.3 divides by b; with the batch mean loss, as here, that factor is already inside.
    """
    eta = check_real("learning_rate", learning_rate, above=0)
    unlearned = add(final_params, gradient(forget_loss, final_params), eta)
    cost = Cost(gradients=1, hvps=0, stored_bytes=0)
    return Unlearned(unlearned, cost, broken=assumptions.FOLLOWS_THE_TRAJECTORY)


def run_single_gradient(problem: Problem) -> Outcome:
    """Add back F's share of every step that saw some of it; shares of one batch are paid for once."""
    times = times_seen(problem.order, problem.forget_steps)
    shares = [(count, problem.share(batch)) for batch, count in times.items()]
    found = single_gradient_unlearn(
        problem.final_params,
        problem.initial_params,
        lambda params: torch.stack([count * share(params) for count, share in shares]).sum(),
        learning_rate=problem.learning_rate,
    )
    cost = Cost(
        gradients=sum(len(problem.split(batch)[1]) for batch in times) / problem.batch_size,
        hvps=0,
        stored_bytes=sum(p.nbytes for p in problem.initial_params.values()),
    )
    broken = (
        assumptions.batches_of_one(problem)
        + assumptions.whole_batches(problem)
        + assumptions.smooth(problem)
        + assumptions.small_expansion(problem)
    )
    return problem.outcome(Unlearned(found, cost), broken)


def run_final_gradient(problem: Problem) -> Outcome:
    """Add back, once for every example of F, its share of the first step that saw it, taken at w_t."""
    seen: set[int] = set()
    shares, examples = [], 0
    for step in problem.forget_steps:
        gone = problem.split(problem.order[step])[1]
        if not seen.issuperset(gone):
            shares.append(problem.share(problem.order[step]))
            seen.update(gone)
            examples += len(gone)
    found = final_gradient_unlearn(
        problem.final_params,
        lambda params: torch.stack([share(params) for share in shares]).sum(),
        learning_rate=problem.learning_rate,
    )
    repeated = len(problem.forget_steps) > len(shares)
    broken = (
        assumptions.batches_of_one(problem)
        + assumptions.whole_batches(problem)
        + assumptions.smooth(problem)
        + (("F was trained on more often than the one gradient accounts for",) if repeated else ())
        + assumptions.small_expansion(problem)
    )
    cost = Cost(gradients=examples / problem.batch_size, hvps=0, stored_bytes=0)
    return problem.outcome(Unlearned(found, cost, broken=found.broken), broken)
