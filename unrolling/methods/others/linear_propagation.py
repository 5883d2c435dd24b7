r"""Unlearning by propagating the first-order effect of the forgotten steps along the stored trajectory.

The recursion is that of SGD-influence (Hara, Nitanda, Maehara, "Data Cleansing for Models Trained with SGD",
NeurIPS 2019); Qiao et al., "Hessian-Free Online Certified Unlearning", ICLR 2025, compute it ahead for every
example. Not in the paper, whose Hessians are all at w_0.
"""

from collections.abc import Iterable

import torch

from unrolling._checks import InputError, check_examples, check_real
from unrolling.batches import Examples
from unrolling.curvature import Loss, hessian_operator
from unrolling.methods import assumptions
from unrolling.methods.cost import Cost, Unlearned
from unrolling.methods.problem import Outcome, Problem
from unrolling.model_loss import gradient
from unrolling.parameters import Params, add, check_same_parameters, from_vector, to_vector
from unrolling.surroundings import full_precision


@full_precision()
def linear_propagation_unlearn(
    final_params: Params,
    trajectory: Iterable[tuple[Params, Loss]],
    forget_steps: Examples,
    *,
    learning_rate: float,
) -> Unlearned:
    r"""Return :math:`w'' = w_t + \delta_t`: retraining without the forgotten steps F, to first order.

    Let :math:`\delta_i` be how far the retrained weights are from :math:`w_i`. A forgotten step moves
    :math:`w_i` alone, and a kept one moves both, each by its own gradient:

    .. math:: \delta_{i+1} = \begin{cases}
              \delta_i + \eta \nabla \mathcal{L}_i(w_i) & i \in F \\
              \delta_i - \eta \nabla^2 \mathcal{L}_i(w_i) \, \delta_i & i \notin F
              \end{cases} \qquad \delta_0 = 0

    Nothing is approximated but the difference of two gradients, by the Hessian at the weights that training
    passed. So it is exact on quadratic losses, whatever :math:`\eta` and t, and off by a term of second order
    in :math:`\delta` elsewhere. Where training amplifies small differences, that term is amplified too.

    Retraining from the first forgotten step takes one gradient where this takes one product, which costs
    more. It pays if :math:`\delta_t` is computed ahead of the request.

    Args:
        final_params: Weights w_t after training.
        trajectory: For each step in turn the weights *before* it (see
            :class:`~unrolling.methods.WeightLog`) and its mean loss ``loss(params) -> scalar`` as it was
            trained on. It is read once; a generator may load the weights one by one.
        forget_steps: The steps to forget, see :meth:`~unrolling.BatchOrder.steps_of_batch`.
        learning_rate: :math:`\eta`, constant over the steps.

    Returns:
        New weights. They cost a gradient per forgotten step, a product per kept step after the first of
        them, and the weights of all t steps, as nobody knows beforehand which will be forgotten.

    Raises:
        InputError: If ``forget_steps`` is empty or names a step that ``trajectory`` does not have.

    Example:
        >>> losses = [lambda p: p["w"] ** 2 / 2, lambda p: 3 * p["w"] ** 2 / 2]
        >>> path = [{"w": torch.tensor(1.0)}, {"w": torch.tensor(0.5)}]  # trained with eta = 0.5
        >>> end = {"w": torch.tensor(-0.25)}
        >>> found = linear_propagation_unlearn(end, zip(path, losses), [0], learning_rate=0.5)
        >>> found["w"], found.cost  # 1 - 0.5 * 3
        (tensor(-0.5000), Cost(gradients=1, hvps=1, stored_bytes=8))
    """
    eta = check_real("learning_rate", learning_rate, above=0)
    forget = set(check_examples("forget_steps", forget_steps))
    delta = torch.zeros_like(to_vector(final_params))
    steps = hvps = stored_bytes = 0
    for params, loss in trajectory:
        check_same_parameters(final_params, params, ("final_params", "trajectory"))
        ordered = {name: params[name] for name in final_params}
        if steps in forget:
            delta += eta * to_vector(gradient(loss, ordered))
        elif steps > min(forget):
            delta -= eta * hessian_operator(loss, ordered)(delta)
            hvps += 1
        steps += 1
        stored_bytes += sum(p.nbytes for p in params.values())
    if max(forget) >= steps:
        raise InputError(
            f"forget_steps names step {max(forget)}, but `trajectory` ended after {steps} steps (0 to "
            f"{steps - 1}). A generator can be read only once: pass a fresh one."
        )
    cost = Cost(gradients=len(forget), hvps=hvps, stored_bytes=stored_bytes)
    unlearned = add(final_params, from_vector(delta, final_params))
    return Unlearned(unlearned, cost, broken=assumptions.FOLLOWS_THE_TRAJECTORY)


def run_linear_propagation(problem: Problem) -> Outcome:
    """Propagate the removal of F along the trajectory of M.

    Where others stay in a batch, its step is taken as one without F and, from the same weights, a forgotten
    one of what retraining removes. The gradient of that takes two passes.
    """
    trajectory: list[tuple[Params, Loss]] = []
    forget_steps: list[int] = []
    for weights, batch in zip(problem.log.weights, problem.order, strict=True):
        kept, gone = problem.split(batch)
        if kept:
            trajectory.append((weights, problem.mean_loss(kept)))
        if gone:
            forget_steps.append(len(trajectory))
            trajectory.append((weights, problem.removed(batch)))
    found = linear_propagation_unlearn(
        problem.final_params, trajectory, forget_steps, learning_rate=problem.learning_rate
    )
    doubled = len(trajectory) - len(problem.order)
    cost = Cost(
        gradients=found.cost.gradients + doubled,
        hvps=found.cost.hvps,
        stored_bytes=sum(p.nbytes for weights in problem.log.weights for p in weights.values()),
    )
    return problem.outcome(Unlearned(found, cost, broken=found.broken), assumptions.smooth(problem))
