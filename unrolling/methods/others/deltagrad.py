r"""DeltaGrad: replay training without the forgotten examples, most gradients from the cached ones.

Wu, Dobriban, Davidson, "DeltaGrad: Rapid Retraining of Machine Learning Models", ICML 2020.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import torch
from torch import Tensor

from unrolling._checks import InputError, check_integer, check_real
from unrolling.batches import BatchOrder, Examples
from unrolling.curvature import Loss
from unrolling.methods import assumptions
from unrolling.methods.cost import Cost, Unlearned
from unrolling.methods.forgotten_part import split
from unrolling.methods.problem import Outcome, Problem, applicable
from unrolling.model_loss import gradient
from unrolling.parameters import Params, check_same_parameters, from_vector, to_vector
from unrolling.surroundings import full_precision

Pair = tuple[Tensor, Tensor]


def bfgs_product(pairs: Sequence[Pair], vector: Tensor) -> Tensor:
    r"""Return :math:`B v` for the BFGS matrix of pairs :math:`(s_i, y_i)`, oldest first.

    B starts from :math:`\sigma I`, with :math:`\sigma = s^\top y / s^\top s` of the last pair, and is updated
    by one pair after the other. In compact form (Byrd, Nocedal, Schnabel, "Representations of Quasi-Newton
    Matrices and Their Use in Limited Memory Methods", 1994, Theorem 2.3), with the columns :math:`s_i` in S,
    :math:`y_i` in Y, L the part of :math:`S^\top Y` below its diagonal D,

    .. math:: B = \sigma I - \begin{pmatrix} \sigma S & Y \end{pmatrix}
              \begin{pmatrix} \sigma S^\top S & L \\ L^\top & -D \end{pmatrix}^{-1}
              \begin{pmatrix} \sigma S^\top \\ Y^\top \end{pmatrix} .

    :math:`B s = y` holds for the last pair. For earlier ones it need not, unless the steps are conjugate; so
    even as many independent pairs as dimensions do not make B the Hessian of a quadratic.

    Args:
        pairs: Steps and changes of the gradient, each of shape (d,), with :math:`s^\top y > 0`.
        vector: v, shape (d,).

    Example:
        >>> pair = torch.tensor([1.0, 0.0]), torch.tensor([3.0, 0.0])
        >>> bfgs_product([pair], torch.tensor([2.0, 1.0]))
        tensor([6., 3.])
    """
    # B does not change if a pair is multiplied by a number; steps of length 1 keep the matrix well scaled.
    steps = torch.stack([s / s.norm() for s, _ in pairs])
    changes = torch.stack([y / s.norm() for s, y in pairs])
    products = steps @ changes.T
    sigma = products[-1, -1]
    lower = products.tril(-1)
    middle = torch.cat(
        [
            torch.cat([sigma * steps @ steps.T, lower], dim=1),
            torch.cat([lower.T, -products.diagonal().diag()], dim=1),
        ]
    )
    wings = torch.cat([sigma * steps, changes])
    return sigma * vector - wings.T @ torch.linalg.solve(middle, wings @ vector)


@dataclass(frozen=True, eq=False)
class DeltaGradReplay(Unlearned):
    """The weights w'', and how the replay went.

    Attributes:
        exact_steps: Steps whose gradient was computed in full.
        fallbacks: Those among them that were not due, but whose approximation could not be trusted.
        replayed_steps: All steps from the first that saw F; those of which nothing is left are among them.
    """

    exact_steps: int
    fallbacks: int
    replayed_steps: int


@full_precision()
def deltagrad_unlearn(
    final_params: Params,
    trajectory: Iterable[Params],
    loss_on: Callable[[tuple[int, ...]], Loss],
    order: BatchOrder,
    forget: Examples,
    *,
    learning_rate: float,
    period: int = 5,
    burn_in: int = 10,
    history: int = 2,
    batch_size: int = 1,
) -> DeltaGradReplay:
    r"""Return w'': SGD again from the first step that saw F, in the same order and without F.

    Let batch k of size b hold r forgotten examples, :math:`G_k` be its mean gradient during training and
    :math:`s = \tilde w_k - w_k` how far the replay is from the weights then.

    .. math:: \tilde w_{k+1} = \tilde w_k - \frac{\eta}{b - r}
              \Bigl( b \hat G_k - \sum_{i \in F \cap \text{batch}} \nabla l_i(\tilde w_k) \Bigr) , \qquad
              \hat G_k = G_k + B s

    B is the BFGS matrix of the last pairs (s, y), where y is the change of the batch's gradient over s; see
    ``bfgs_product``. Exact steps supply the pairs: with k counted from the first step that saw F, those
    with :math:`k \le j_0` and every :math:`T_0`-th after. Full-batch gradient descent is an order of full
    batches.

    Assumes losses that are means over examples, plain SGD, and near enough to convex. A pair is used if
    :math:`\eta \|y\|^2 < 2 s^\top y`: it shows positive curvature, and none that is too steep for
    :math:`\eta`. Convex losses on which :math:`\eta` is stable always pass; after a pair that fails, steps
    are exact until one passes.

    Where the Hessian is constant and a multiple of I, as in one dimension, a quadratic loss is replayed
    exactly. Elsewhere, after a fixed number of steps, the error is *proportional* to m / n for small m / n,
    as the distance to be covered is: B does not change when all its pairs shrink together. The paper states
    :math:`o(m / n)` for training long enough; there s settles, and :math:`B s = y` is what it takes.

    Departures from the paper: the gradients are not cached but read off the cached weights,
    :math:`G_k = (w_k - w_{k+1}) / \eta`, which halves the storage and costs digits in float32; the test on
    the pair needs no constant; steps before F was seen are not replayed.

    Args:
        final_params: Weights w_t after training.
        trajectory: For each step of ``order`` the weights before it, see
            :class:`~unrolling.methods.WeightLog`; read once.
        loss_on: From example numbers to their *mean* loss ``loss(params) -> scalar``, as trained on.
        order: The batch of every step.
        forget: F, numbers of the forgotten examples, in any form.
        learning_rate: :math:`\eta`, constant over the steps.
        period: :math:`T_0`; 1 makes every step exact, which is retraining. The paper's usual value is 5.
        burn_in: :math:`j_0`; the paper's usual value for convex losses is 10.
        history: Pairs kept, the paper's usual value is 2.
        batch_size: Examples of one gradient equivalent.

    Returns:
        New weights, and how the replay went. It costs the whole batch at exact steps, its forgotten examples
        at the others, and the weights of all t steps.

    Raises:
        InputError: If ``forget`` is empty, not in ``order`` or all of it; or if at the first
            replayed step trajectory, losses and learning rate do not fit together: with batch norm or
            dropout in training mode, for instance, or momentum that has built up by then.

    Example:
        >>> points = torch.tensor([0.0, 0.0, 3.0])  # the losses are (w - x)^2 / 2, the order full batches
        >>> def loss_on(batch):
        ...     return lambda p: ((p["w"] - points[list(batch)]) ** 2).mean() / 2
        >>> order = BatchOrder(((0, 1, 2),) * 4)
        >>> path = [{"w": torch.tensor([w])} for w in (0.0, 0.5, 0.75, 0.875, 0.9375)]  # eta = 0.5
        >>> found = deltagrad_unlearn(
        ...     path[-1], path[:-1], loss_on, order, [2], learning_rate=0.5, burn_in=1
        ... )
        >>> found["w"], found.exact_steps
        (tensor([0.]), 2)
    """
    eta = check_real("learning_rate", learning_rate, above=0)
    check_integer("period", period, minimum=1)
    check_integer("burn_in", burn_in)
    check_integer("history", history, minimum=1)
    check_integer("batch_size", batch_size, minimum=1)
    gone_set = set(order.check("forget", forget))

    # The replay stays None until a step has seen F.
    pairs: deque[Pair] = deque(maxlen=history)
    replay: Tensor | None = None
    trusted = False
    replayed = exact = fallbacks = examples = stored_bytes = steps = 0

    def slope_on(batch: tuple[int, ...], vector: Tensor) -> Tensor:
        nonlocal examples
        examples += len(batch)
        return to_vector(gradient(loss_on(batch), from_vector(vector, final_params)))

    for before, after in pairwise(chain(trajectory, [final_params])):
        check_same_parameters(final_params, before, ("final_params", "trajectory"))
        if steps == len(order):
            raise InputError(f"`trajectory` holds more than the {steps} steps of `order`; expected one each.")
        batch = order[steps]
        steps += 1
        stored_bytes += sum(p.nbytes for p in before.values())
        kept, gone = split(batch, gone_set)
        cached, then = (to_vector({name: w[name] for name in final_params}).detach() for w in (before, after))
        if replay is None:
            if not gone:
                continue
            replay = cached.clone()
        due = replayed <= burn_in or (replayed - burn_in) % period == 0
        replayed += 1
        step, cached_slope = replay - cached, (cached - then) / eta
        if not kept:
            if not step.any():  # a check alone, and no part of the cost
                slope = to_vector(gradient(loss_on(gone), from_vector(cached, final_params)))
                _check_recorded(slope, cached_slope, cached, eta)
            continue
        forgotten = len(gone) * slope_on(gone, replay) if gone else torch.zeros_like(replay)
        if due or not trusted:
            slope = slope_on(kept, replay)
            whole = (len(kept) * slope + forgotten) / len(batch)
            if not step.any():
                _check_recorded(whole, cached_slope, cached, eta)
            change = whole - cached_slope
            trusted = bool(eta * change @ change < 2 * step @ change)
            if trusted:
                pairs.append((step, change))
            exact += 1
            fallbacks += not due
        else:
            whole = cached_slope + bfgs_product(pairs, step)
            slope = (len(batch) * whole - forgotten) / len(kept)
        replay = replay - eta * slope
    if steps < len(order):
        raise InputError(f"`trajectory` holds {steps} steps, `order` has {len(order)}; expected one each.")
    return DeltaGradReplay(
        from_vector(replay, final_params),
        Cost(gradients=examples / batch_size, hvps=0, stored_bytes=stored_bytes),
        exact_steps=exact,
        fallbacks=fallbacks,
        replayed_steps=replayed,
    )


def _check_recorded(slope: Tensor, recorded: Tensor, weights: Tensor, learning_rate: float) -> None:
    """Raise unless a gradient computed at the cached weights is the one that training applied there."""
    eps = torch.finfo(slope.dtype).eps
    rounding = 16 * eps * float(weights.norm()) / learning_rate  # of a difference of two weights
    error = float((slope - recorded).norm())
    if not error <= eps**0.5 * float(recorded.norm()) + rounding:
        raise InputError(
            f"training moved by a gradient of norm {float(recorded.norm()):.3g}, but that of `loss_on` "
            f"differs by {error:.3g}. Expected plain SGD on `order` with this learning_rate, and losses that "
            "are means over examples: no momentum, no batch norm or dropout in training mode."
        )


def run_deltagrad(problem: Problem, *, period: int = 5, burn_in: int = 10, history: int = 2) -> Outcome:
    """Replay the training of M without F, with the paper's usual settings for convex losses."""
    with applicable():
        found = deltagrad_unlearn(
            problem.final_params,
            problem.log.weights,
            problem.mean_loss,
            problem.order,
            problem.forget,
            learning_rate=problem.learning_rate,
            period=period,
            burn_in=burn_in,
            history=history,
            batch_size=problem.batch_size,
        )
    broken = assumptions.strongly_convex(problem) + assumptions.few_forgotten(problem)
    return problem.outcome(found, broken)
