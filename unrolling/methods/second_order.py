r"""Second-order unlearning: remove the terms of Eq. 6 that contain the batch as well. Not in the paper."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unrolling._checks import InputError, check_examples, check_integer, check_real
from unrolling.batches import Examples
from unrolling.curvature import Loss, hessian_operator
from unrolling.methods import assumptions
from unrolling.methods.cost import Cost, Unlearned
from unrolling.methods.forgotten_part import times_seen
from unrolling.methods.problem import Outcome, Problem
from unrolling.model_loss import gradient
from unrolling.parameters import Params, add, check_same_parameters, from_vector, to_vector
from unrolling.surroundings import full_precision


@full_precision()
def second_order_unlearn(
    final_params: Params,
    initial_params: Params,
    losses: Sequence[Loss],
    forget_steps: Examples,
    *,
    learning_rate: float,
    sample: int | None = None,
    generator: torch.Generator | None = None,
) -> Unlearned:
    r"""Return w'': the final weights without the first- and second-order terms of the forgotten steps F.

    .. math:: w'' = w_t + \eta \sum_{s \in F} g_s
              - \eta^2 \sum_{\substack{j < i \\ i \in F \text{ or } j \in F}} H_i g_j

    The last sum is what Eq. 6 has over all steps and lacks over the kept ones. Every Hessian is that of w_0,
    so terms with the same Hessian share one product. If all m steps of F trained on one batch,

    .. math:: \sum_{\dots} H_i g_j = H_* \sum_{s \in F} \sum_{j < s} g_j
              + \Bigl( \sum_{i \notin F} c_i H_i \Bigr) g_* ,

    with :math:`c_i` the number of forgotten steps before i: two products, if the second is taken with the
    sum of the losses. (The first sum has :math:`g_* m (m - 1) / 2` in it, from pairs of forgotten steps.)
    F may also hold several batches.

    On a smooth loss w'' is off by :math:`O(\eta^3)`, where single-gradient unlearning is by
    :math:`O(\eta^2)`. Like the expansion it helps only while :math:`\eta t \lambda` is small.

    Retraining from w_0 takes one gradient per kept step. Over a single epoch this takes more than that;
    with a sample, or over many epochs of the same batches, less.

    Args:
        final_params: Weights w_t after training.
        initial_params: Weights w_0 at which the unrolled steps began.
        losses: Each step's *mean* loss over its batch, ``loss(params) -> scalar``, as it was trained on; see
            :func:`unrolling.batch_loss`. Steps with one and the same function, as in
            ``epoch_losses * num_epochs``, are paid for once.
        forget_steps: The steps to forget, see :meth:`~unrolling.BatchOrder.steps_of_batch`.
        learning_rate: :math:`\eta`, constant over the steps.
        sample: Estimate the sums over kept steps, without bias, from this many of their loss functions each,
            drawn without replacement. By default, and if there are not more, all are taken.
        generator: Source of the sample; needed with ``sample``.

    Returns:
        New weights, and their cost. Of the weights on the way, w_0 alone is needed.

    Raises:
        InputError: If ``forget_steps`` is empty or names a step that ``losses`` does not have.

    Example:
        >>> losses = [lambda p: p["w"] ** 2 / 2, lambda p: 3 * p["w"] ** 2 / 2]  # H_0 = 1, H_1 = 3
        >>> start, end = {"w": torch.tensor(1.0)}, {"w": torch.tensor(-0.25)}  # trained with eta = 0.5
        >>> second_order_unlearn(end, start, losses, [0], learning_rate=0.5)["w"]  # 1 - 0.5 * 3
        tensor(-0.5000)
    """
    eta = check_real("learning_rate", learning_rate, above=0)
    check_same_parameters(final_params, initial_params, ("final_params", "initial_params"))
    forget = set(check_examples("forget_steps", forget_steps, total=len(losses)))
    if sample is not None:
        check_integer("sample", sample, minimum=1)
        if generator is None:
            raise InputError("pass `generator` with `sample`: the batches drawn must be reproducible.")

    batches = _by_loss(losses, forget)
    gone = [batch for batch in batches if batch.forgotten]
    others = [batch for batch in batches if not batch.forgotten]

    def drawn(terms: list[_Batch]) -> tuple[list[_Batch], float]:
        """Return the terms of a sum, or a sample of them, and what to multiply it by."""
        if sample is None or sample >= len(terms):
            return terms, 1.0
        chosen = torch.randperm(len(terms), generator=generator)[:sample].tolist()
        return [terms[i] for i in chosen], len(terms) / sample

    before, scale_before = drawn([batch for batch in others if batch.kept[0] < max(forget)])
    after, scale_after = drawn([batch for batch in others if batch.kept[-1] > min(forget)])

    def slope(batch: _Batch) -> Tensor:
        return to_vector(gradient(batch.loss, initial_params))

    # The Hessian of a forgotten batch meets the sum of g_j over all pairs j < i in which i is a step on it
    # and i or j is forgotten: its path. Counts say how often each gradient is in there.
    slopes = torch.stack([slope(batch) for batch in gone])
    counts = [
        [_pairs(own.forgotten, other.steps) + _pairs(own.kept, other.forgotten) for other in gone]
        for own in gone
    ]
    paths = slopes.new_tensor(counts) @ slopes
    for batch in before:
        times = slopes.new_tensor([_pairs(own.forgotten, batch.kept) for own in gone])
        paths += scale_before * torch.outer(times, slope(batch))

    removed = torch.zeros_like(slopes[0])
    moved = [(own, path) for own, path in zip(gone, paths, strict=True) if path.any()]
    for own, path in moved:
        removed += hessian_operator(own.loss, initial_params)(path)
    for batch in after:
        times = slopes.new_tensor([_pairs(batch.kept, own.forgotten) for own in gone])
        removed += scale_after * hessian_operator(batch.loss, initial_params)(times @ slopes)

    first = slopes.new_tensor([len(own.forgotten) for own in gone]) @ slopes
    change = from_vector(eta * first - eta**2 * removed, initial_params)
    cost = Cost(
        gradients=len(gone) + len(before),
        hvps=len(moved) + len(after),
        stored_bytes=sum(p.nbytes for p in initial_params.values()),
    )
    return Unlearned(add(final_params, change), cost)


class _Batch(NamedTuple):
    """One loss function and the steps that train on it, in ascending order."""

    loss: Loss
    forgotten: list[int]
    kept: list[int]

    @property
    def steps(self) -> list[int]:
        return self.forgotten + self.kept


def _by_loss(losses: Sequence[Loss], forget: set[int]) -> list[_Batch]:
    found: dict[int, _Batch] = {}
    for step, loss in enumerate(losses):
        batch = found.setdefault(id(loss), _Batch(loss, [], []))
        (batch.forgotten if step in forget else batch.kept).append(step)
    return list(found.values())


def _pairs(later: Sequence[int], earlier: Sequence[int]) -> int:
    """Count the pairs (i of ``later``, j of ``earlier``) with j < i."""
    return sum(j < i for i in later for j in earlier)


def run_second_order(problem: Problem) -> Outcome:
    r"""Remove F from the first- and second-order terms of all steps.

    Where others stay in a batch, its step is taken as one without F, of loss K, followed by what retraining
    removes, of loss R. That brings in one product that no step has, :math:`\eta^2 H_R g_K` at w_0, which is
    put back. A pass over part of a batch counts as one over all of it.
    """
    losses: list[Loss] = []
    forget_steps: list[int] = []
    for batch in problem.order:
        kept, gone = problem.split(batch)
        if kept:
            losses.append(problem.mean_loss(kept))
        if gone:
            forget_steps.append(len(losses))
            losses.append(problem.removed(batch))
    eta, initial = problem.learning_rate, problem.initial_params
    found = second_order_unlearn(problem.final_params, initial, losses, forget_steps, learning_rate=eta)
    seen = times_seen(problem.order, problem.forget_steps)
    parts = {batch: times for batch, times in seen.items() if problem.split(batch)[0]}
    params = to_vector(found)
    for batch, times in parts.items():
        slope = to_vector(gradient(problem.mean_loss(problem.split(batch)[0]), initial))
        params += times * eta**2 * hessian_operator(problem.removed(batch), initial)(slope)
    # A gradient or product of R takes two passes, and the correction a gradient of K and a product of R.
    cost = Cost(
        gradients=found.cost.gradients + 2 * len(parts),
        hvps=found.cost.hvps + 3 * len(parts),
        stored_bytes=found.cost.stored_bytes,
    )
    broken = (
        assumptions.batches_of_one(problem)
        + assumptions.smooth(problem)
        + assumptions.small_expansion(problem)
    )
    return problem.outcome(Unlearned(from_vector(params, found), cost), broken)
