r"""SGD unrolled around w_0 (section 5.1): the first sum, the second sum and its leading term (Eq. 4-6)."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from unrolling._checks import InputError, check_real
from unrolling.curvature import Loss, quadratic_model
from unrolling.parameters import Params, add, check_params, from_vector, to_vector
from unrolling.surroundings import full_precision


@dataclass(frozen=True)
class Expansion:
    r"""The expansion of t steps of SGD around w_0; with :math:`g_i, H_i` at w_0 on the batch of step i.

    Attributes:
        first_sum: :math:`-\eta \sum_i g_i`. Any order of the batches gives the same.
        second_sum: :math:`\sum_i f(i)` of Eq. 5, powers 2 to t of :math:`\eta`. It depends on the order.
        leading: :math:`\eta^2 c_t = \eta^2 \sum_i H_i \sum_{j<i} g_j` of Eq. 6, its lowest power.
        approximation: :math:`w_0` plus both sums, Eq. 4's estimate of :math:`w_t`.
        num_steps: t.
        hvps: Hessian-vector products that were computed.
    """

    first_sum: Params
    second_sum: Params
    leading: Params
    approximation: Params
    num_steps: int
    hvps: int


@full_precision()
def expand_sgd(losses: Iterable[Loss], initial_params: Params, *, learning_rate: float) -> Expansion:
    r"""Return the terms of Eq. 4-6 in one pass over the batches.

    .. math:: w_t \approx w_0 - \eta \sum_{i=0}^{t-1} g_i + \sum_{i=1}^{t-1} f(i), \qquad
              f(i) = -\eta H_i \Bigl(-\eta \sum_{j<i} g_j + \sum_{j<i} f(j)\Bigr)

    The bracket is where the expansion stands before step i, so the recursion of Eq. 5 is SGD with every
    batch's loss replaced by its quadratic model at w_0:

    .. math:: u_{i+1} = u_i - \eta (g_i + H_i u_i), \quad u_0 = 0, \qquad w_t \approx w_0 + u_t

    It is exact where the losses are quadratic in w. Elsewhere the first sum alone is off by
    :math:`O(\eta^2)`, with either form of the second sum by :math:`O(\eta^3)`, provided the losses are
    smooth and :math:`\eta t \lambda` is small.

    A step costs one gradient and two Hessian-vector products. Memory is a few copies of the weights and
    the graph of one gradient, whatever t is: a generator of losses is never held as a whole.

    Args:
        losses: For each step in turn ``loss(params) -> scalar``, closed over the batch of that step; see
            :func:`unrolling.batch_loss`.
        initial_params: The weights w_0; only read.
        learning_rate: :math:`\eta`, constant over the steps.

    Raises:
        InputError: If there is no step, or the expansion is no longer finite.

    Example:
        >>> losses = [lambda p: p["w"] ** 2 / 2, lambda p: 3 * p["w"] ** 2 / 2]  # H_0 = 1, H_1 = 3
        >>> unrolled = expand_sgd(losses, {"w": torch.tensor(1.0)}, learning_rate=0.5)
        >>> unrolled.approximation["w"]  # (1 - 0.5 * 1) (1 - 0.5 * 3)
        tensor(-0.2500)
        >>> unrolled.first_sum["w"], unrolled.second_sum["w"]
        (tensor(-2.), tensor(0.7500))
    """
    eta = check_real("learning_rate", learning_rate, above=0)
    check_params(initial_params, "initial_params")
    if callable(losses):
        raise InputError(
            "`losses` must hold one loss for each step, got a single function. Put it in a list."
        )
    first = torch.zeros_like(to_vector(initial_params))
    first = first.to(torch.promote_types(first.dtype, torch.float32))  # no sum is kept in half precision
    second, leading = first.clone(), first.clone()
    steps = hvps = 0
    for loss in losses:
        slope, product = quadratic_model(loss, initial_params)
        if steps:  # before step 0 nothing has moved: f(0) = 0
            image = product(first)
            leading -= eta * image
            second -= eta * (image + product(second))
            hvps += 2
        first -= eta * slope
        steps += 1
        del product  # it holds the step's graph, which must go before the next one is built
    if not steps:
        raise InputError("`losses` is empty: expected the loss of at least one step.")
    if not bool((first + second).isfinite().all()):
        raise InputError(
            f"the expansion over {steps} steps is not finite: its series diverges at learning_rate {eta:g}; "
            "try a smaller learning_rate or fewer steps."
        )
    return Expansion(
        first_sum=from_vector(first, initial_params),
        second_sum=from_vector(second, initial_params),
        leading=from_vector(leading, initial_params),
        approximation=add(initial_params, from_vector(first + second, initial_params)),
        num_steps=steps,
        hvps=hvps,
    )
