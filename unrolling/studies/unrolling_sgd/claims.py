"""Section 5: the expansion of SGD, the update taken from it, the bound on what that update leaves behind.

A problem is w_0 and, for every step, its batch's loss. The problems are random quadratic losses, and
one epoch of the digits with softmax regression or a tanh network from its initial weights.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor

from unrolling.batches import make_batch_order
from unrolling.curvature import Loss, hessian_operator, top_singular_value
from unrolling.data import load_dataset
from unrolling.expansion import expand_sgd
from unrolling.losses import Objective
from unrolling.methods.single_gradient import single_gradient_unlearn
from unrolling.model_loss import batch_loss, gradient
from unrolling.models import build_model
from unrolling.paper import Finding
from unrolling.parameters import Params, add, distance, from_vector, norm, snapshot, to_vector
from unrolling.seeding import make_generator, seeded
from unrolling.studies.ledger import check
from unrolling.unlearning_error import (
    unlearning_error,
    unlearning_error_corrected,
    verification_error,
)

Problem = tuple[Params, list[Loss]]
PAGE = "03_unrolling_sgd"
BATCH_SIZE = 32


def _sgd(problem: Problem, eta: float) -> Params:
    w, losses = problem
    for loss in losses:
        w = add(w, gradient(loss, w), -eta)
    return w


def _draw(name: object, steps: int, size: int) -> tuple[Tensor, Tensor]:
    """Return random Hessians H >= 0 and slopes g, whose mean over the steps is not zero."""
    generator = make_generator(0, "claims", "quadratics", name)
    options = {"generator": generator, "dtype": torch.float64}
    roots = torch.randn(steps, size, size, **options)
    return roots @ roots.mT / size, torch.randn(size, **options) + torch.randn(steps, size, **options)


def _quadratics(hessians: Tensor, slopes: Tensor) -> Problem:
    """Return the losses w.Hw / 2 + g.w from w_0 = 0."""
    pairs = zip(hessians, slopes, strict=True)
    losses = [lambda p, h=h, g=g: p["w"] @ h @ p["w"] / 2 + g @ p["w"] for h, g in pairs]
    return {"w": torch.zeros_like(slopes[0])}, losses


@cache
def _digits(model: str) -> Problem:
    data = load_dataset("digits")
    inputs, labels = data.train_inputs.double(), data.train_labels
    order = make_batch_order(len(labels), BATCH_SIZE, 1, make_generator(0, "claims", "digits"))
    with seeded(0, "claims", "digits"):
        network = build_model(model, data.num_classes, input_shape=tuple(inputs.shape[1:])).double()
    objective = Objective("cross_entropy")
    batches = [(inputs[list(step)], labels[list(step)]) for step in order]
    return snapshot(network), [batch_loss(network, objective, batch) for batch in batches]


def _first(problem: Problem, steps: int) -> Problem:
    return problem[0], problem[1][:steps]


def _sigma(problem: Problem) -> float:
    """Return the largest singular value of any batch's Hessian at w_0."""
    w_0, losses = problem
    generator = make_generator(0, "claims", "sigma")
    return max(top_singular_value(loss, w_0, generator=generator).value for loss in losses)


@check("T11", page=PAGE)
def sgd_is_its_expansion_up_to_the_taylor_error() -> Finding:
    """Compare Eq. 4 with SGD: exact on quadratic losses, and ever closer with eta on a smooth network."""

    def error(problem: Problem, eta: float) -> float:
        trained = _sgd(problem, eta)
        expansion = expand_sgd(problem[1], problem[0], learning_rate=eta)
        return distance(expansion.approximation, trained) / distance(trained, problem[0])

    quadratic = max(
        error(_quadratics(*_draw("T11", t, 6)), eta) for t in (1, 5, 20) for eta in (0.01, 0.1, 1.0)
    )
    network = _digits("mlp-tanh")
    small, smaller, usual = (error(network, eta) for eta in (1e-3, 1e-4, 0.1))
    return Finding(
        propositions={
            "exact on quadratic losses": quadratic < 1e-10,
            # the error of order eta^3 over a distance of order eta leaves a hundredth for a tenth of eta
            "the relative error on a smooth network tends to 0 with eta": smaller < small / 50,
        },
        value=quadratic,
        value_is="largest error / ||w_t - w_0|| on random quadratic losses",
        reason=f"On a tanh network over {len(network[1])} steps the relative error falls from {small:.1g} at "
        f"eta = 0.001 to {smaller:.1g} at a tenth of that. At eta = 0.1 it is {usual:.1f}: the expansion "
        "describes training with small steps, not training at a usual rate.",
    )


@check("T12", page=PAGE)
def powers_of_eta_in_the_second_sum() -> Finding:
    """Fit polynomials in eta to the second sum of scalar losses and read off their powers."""

    def powers(t: int) -> np.ndarray:
        drawn = 0.5 + torch.rand(2, t, generator=make_generator(0, "claims", "T12", t), dtype=torch.float64)
        losses = [lambda p, h=h, g=g: h * p["w"] ** 2 / 2 + g * p["w"] for h, g in drawn.T]
        start = {"w": torch.zeros((), dtype=torch.float64)}
        etas = 1.01 + np.polynomial.chebyshev.chebpts1(t + 6)  # within (0, 2.01), and well conditioned
        values = [float(expand_sgd(losses, start, learning_rate=eta).second_sum["w"]) for eta in etas]
        found = np.polynomial.Polynomial.fit(etas, values, t + 3).convert().coef
        return np.flatnonzero(np.abs(found) > 1e-8 * np.abs(found).max())

    found = {t: powers(t) for t in (2, 3, 5, 8)}
    highest = {t: int(seen.max()) for t, seen in found.items()}
    return Finding(
        propositions={
            "the lowest power is 2": all(seen.min() == 2 for seen in found.values()),
            "the highest power is t + 1": all(power == t + 1 for t, power in highest.items()),
        },
        value=highest[8],
        value_is="highest power of eta at t = 8",
        reason=f"The highest power is {', '.join(map(str, highest.values()))} at t = "
        f"{', '.join(map(str, highest))}: each step adds a factor eta H to a gradient that has one already, "
        "and only the last t - 1 steps can. Nothing follows from the slip of one.",
    )


@check("T13", page=PAGE)
def first_sum_does_not_depend_on_the_order() -> Finding:
    """Shuffle the batches of a network twenty times."""
    w_0, losses = _first(_digits("mlp-tanh"), 20)
    reference = expand_sgd(losses, w_0, learning_rate=0.01)
    generator = make_generator(0, "claims", "T13")
    first = second = 0.0
    for _ in range(20):
        order = torch.randperm(len(losses), generator=generator).tolist()
        turned = expand_sgd([losses[i] for i in order], w_0, learning_rate=0.01)
        gap = to_vector(turned.first_sum) - to_vector(reference.first_sum)
        first = max(first, float(gap.abs().max()))
        second = max(second, distance(turned.second_sum, reference.second_sum) / norm(reference.second_sum))
    return Finding(
        propositions={"the first sum is the same in every order": first < 1e-12},
        value=first,
        value_is="largest difference between first sums over 20 orders",
        reason="The order is in the second sum only, which an order changes by up to "
        f"{100 * second:.0f} % of its norm (tanh network, eta = 0.01).",
    )


@check("T14", page=PAGE)
def single_gradient_removes_the_first_order_effect() -> Finding:
    """Forget one example of a batch where the loss is linear, and one batch in a network's first sum."""
    eta, b, m, forgotten = 0.1, 3, 4, 5
    generator = make_generator(0, "claims", "T14")
    slopes = torch.randn(12, 6, generator=generator, dtype=torch.float64)
    start = {"w": torch.randn(6, generator=generator, dtype=torch.float64)}

    def batch(examples: list[int]) -> Loss:
        return lambda p: (slopes[examples] @ p["w"]).sum() / b

    v = nothing = 0.0
    for _ in range(5):
        order = make_batch_order(len(slopes), b, m, generator, reshuffle=True)
        trained = _sgd((start, [batch(list(step)) for step in order]), eta)
        left_out = order.without_example(forgotten)
        retrained = _sgd((start, [batch(list(step)) for step in left_out]), eta)
        unlearned = single_gradient_unlearn(
            trained, start, batch([forgotten]), learning_rate=eta, num_epochs=m
        )
        v = max(v, verification_error(unlearned, retrained))
        nothing = max(nothing, verification_error(trained, retrained))

    w_0, losses = _first(_digits("mlp-tanh"), 8)
    others = [loss for i, loss in enumerate(losses) if i != forgotten]
    whole, without = (expand_sgd(batches * m, w_0, learning_rate=eta) for batches in (losses, others))
    undone = single_gradient_unlearn(whole.first_sum, w_0, losses[forgotten], learning_rate=eta, num_epochs=m)
    left = distance(undone, without.first_sum) / distance(whole.first_sum, without.first_sum)
    return Finding(
        propositions={
            "v = 0 where the losses are linear in w": v < 1e-12,
            "nothing of x* is left in the first sum of a network": left < 1e-12,
        },
        value=v,
        value_is="largest verification error on linear losses, over 5 orders of 4 epochs",
        reason=f"Without unlearning the distance is {nothing:.2f}. This is about the first sum alone: what "
        "the second sum keeps of x* stays.",
    )


@check("T15", page=PAGE)
def term_with_eta_squared_dominates_for_small_eta() -> Finding:
    """Compare Eq. 6 with the whole second sum over rates, lengths and kinds of loss."""
    problems = [_quadratics(*_draw("T15", 20, 6)), _digits("linear"), _digits("mlp-tanh")]
    sizes, rests, at_tenth = [], [], []
    for problem in (_first(problem, t) for problem in problems for t in (8, 20)):
        sigma = _sigma(problem)
        for eta in np.geomspace(1e-4, 0.1, 7).tolist():
            expansion = expand_sgd(problem[1], problem[0], learning_rate=eta)
            sizes.append(eta * sigma * expansion.num_steps)
            rests.append(distance(expansion.second_sum, expansion.leading) / norm(expansion.second_sum))
        at_tenth.append(rests[-1])
    below = [rest for size, rest in zip(sizes, rests, strict=True) if size < 0.1]
    first_above = min(size for size, rest in zip(sizes, rests, strict=True) if rest > 0.1)
    return Finding(
        propositions={"other powers make up less than a tenth where eta lambda t < 0.1": max(below) < 0.1},
        value=max(below),
        value_is=f"largest share of the other powers in {len(below)} cases with eta lambda t < 0.1",
        reason="What has to be small is eta lambda t, not eta: the share first passes a tenth at eta lambda "
        f"t = {first_above:.2f}; at eta = 0.1 it lies between {min(at_tenth):.2f} and {max(at_tenth):.1f}.",
    )


@check("T16", page=PAGE)
def partial_sums_of_gradients_are_shares_of_the_weight_change() -> Finding:
    """Compare both sides of Eq. 7's approximation in direction and length."""
    cosines, ratios, restored = [], [], []
    for problem in (_digits("mlp-tanh"), _digits("linear"), _quadratics(*_draw("T16", 45, 6))):
        w_0, losses = problem
        gradients = torch.stack([to_vector(gradient(loss, w_0)) for loss in losses])
        for eta in (1e-3, 1e-2):
            change = to_vector(_sgd(problem, eta)) - to_vector(w_0)
            for i in (len(losses) // 4, len(losses) // 2, len(losses) - 1):
                total, share = gradients[:i].sum(0), i / len(losses) * change
                cosines.append(float(torch.cosine_similarity(total, share, dim=0)))
                ratios.append(float(total.norm() / share.norm()))
                restored.append(eta * ratios[-1])
    return Finding(
        propositions={
            "the two point the same way": min(cosines) > 0.8,
            "the two are equally long": min(ratios) >= 0.8 and max(ratios) <= 1.25,
        },
        value=min(ratios),
        value_is="smallest ratio of the norm of the sum to that of its approximation, at eta <= 0.01",
        reason=f"The cosine lies between {min(cosines):.2f} and {max(cosines):.2f}: a factor -1/eta is "
        f"missing. With it the ratio lies between {min(restored):.2f} and {max(restored):.2f}. Eq. 8 and 9 "
        "inherit the slip, so e must not be compared between learning rates; at one rate no comparison "
        "changes.",
    )


@check("T17", page=PAGE)
def norm_of_the_leading_term_is_bounded() -> Finding:
    """Compare both sides of Eq. 8, as printed and with Eq. 7's missing factor, on 200 random toys."""

    def sides(problem: Problem, sigma: float, eta: float) -> tuple[float, float, float]:
        expansion = expand_sgd(problem[1], problem[0], learning_rate=eta)
        factors = {
            "learning_rate": eta,
            # on quadratic losses the approximation is w_t itself (T11)
            "weight_change": distance(expansion.approximation, problem[0]),
            "sigma_avg": sigma,
            "num_steps": expansion.num_steps,
        }
        return norm(expansion.leading), unlearning_error(**factors), unlearning_error_corrected(**factors)

    generator = make_generator(0, "claims", "T17")
    toys = 200
    printed_holds = corrected_holds = 0
    closest = 0.0
    for toy in range(toys):
        t, size = (int(torch.randint(2, top, (), generator=generator)) for top in (26, 11))
        hessians, slopes = _draw(("T17", toy), t, size)
        sigma = float(torch.linalg.matrix_norm(hessians, 2).max())
        eta = float(torch.rand((), generator=generator)) * 0.2 / (sigma * t)
        left, printed, corrected = sides(_quadratics(hessians, slopes), sigma, eta)
        printed_holds += left <= printed
        corrected_holds += left <= corrected
        closest = max(closest, printed / left)
    one = torch.ones(1, 1, dtype=torch.float64)
    opposite = _quadratics(torch.stack([one, one]), torch.cat([one, -one]))
    left, _, corrected = sides(opposite, 1.0, 0.05)
    return Finding(
        propositions={f"the bound holds in all of {toys} random problems": printed_holds == toys},
        value=printed_holds,
        value_is=f"toys of {toys} in which the printed bound holds",
        reason=f"The printed right side is at most {closest:.2g} of the left. With Eq. 7's factor 1/eta it "
        f"is large enough in {corrected_holds} of {toys}: typically, but not always, as two opposite batches "
        f"show, where it is {corrected / left:.3f} of the left side. So e compares models at one learning "
        "rate; it is not a bound.",
    )


@check("T18", page=PAGE)
def second_sum_and_bound_vanish_for_one_step_and_for_linear_losses() -> Finding:
    """Expand one step of a network, and ten steps on losses linear in w."""
    eta = 0.1
    one_step = _first(_digits("mlp-tanh"), 1)
    slopes = torch.randn(10, 6, generator=make_generator(0, "claims", "T18"), dtype=torch.float64)
    linear = {"w": slopes[0]}, [lambda p, a=a: a @ p["w"] for a in slopes]
    sums, errors = [], []
    for problem in (one_step, linear):
        expansion = expand_sgd(problem[1], problem[0], learning_rate=eta)
        sums.append(norm(expansion.second_sum))
        errors.append(
            unlearning_error(
                learning_rate=eta,
                weight_change=distance(_sgd(problem, eta), problem[0]),
                sigma_avg=_sigma(problem),
                num_steps=expansion.num_steps,
            )
        )
    return Finding(
        propositions={
            "both are 0 after one step": sums[0] == errors[0] == 0,
            "both are 0 on losses linear in w": sums[1] == errors[1] == 0,
        },
        value=max(sums + errors),
        value_is="largest of the two second sums and the two unlearning errors",
        reason=f"The second sums are {sums[0]} and {sums[1]}, the unlearning errors {errors[0]} and "
        f"{errors[1]}: in both cases the first sum is all that training did.",
    )


@check("T20", page=PAGE)
def products_with_the_forgotten_batch() -> Finding:
    """Enumerate the products H_i g_j of Eq. 6."""
    off = max(abs(len(_products(t, own)) - (t - 1)) for t in range(1, 51) for own in range(t))
    return Finding(
        propositions={"t - 1 products involve the batch": off == 0},
        value=off,
        value_is="largest difference from t - 1 over t up to 50 and every step of x*",
        reason="Eq. 8 bounds all t (t - 1) / 2 products together; the batch of x* is in a fraction 2 / t of "
        "them.",
    )


def _products(t: int, own: int) -> list[tuple[int, int]]:
    """Return the (i, j) of the products H_i g_j in Eq. 6 in which batch ``own`` takes part."""
    return [(i, j) for i in range(1, t) for j in range(i) if own in (i, j)]


@check("T22", page=PAGE)
def price_of_removing_the_second_sum() -> Finding:
    """Count the examples whose Hessians the products need, and remove the terms with few of them."""
    problem = w_0, losses = _digits("mlp-tanh")
    t = len(losses)

    def share(own: int, b: int) -> float:
        # x* alone where its batch gives the Hessian; all b examples where another batch does
        return sum(1 if i == own else b for i, _ in _products(t, own)) / (t * b)

    shares = {b: [share(own, b) for own in range(t)] for b in (1, BATCH_SIZE)}
    as_printed = {b: all(abs(b * share - 1) <= 0.1 for share in found) for b, found in shares.items()}

    # All Hessians are at w_0: the terms are H_own (sum of earlier g) + (number of later) (mean H) g_own.
    own, eta, few = t // 2, 0.01, 4
    without = [loss for i, loss in enumerate(losses) if i != own]
    goal = _sgd((w_0, without), eta)
    single = single_gradient_unlearn(_sgd(problem, eta), w_0, losses[own], learning_rate=eta)
    earlier = to_vector(expand_sgd(losses[:own], w_0, learning_rate=eta).first_sum) / -eta
    sample = without[own :: (t - own) // few][:few]
    mean = hessian_operator(lambda p: sum(loss(p) for loss in sample) / few, w_0)
    later = (t - 1 - own) * mean(to_vector(gradient(losses[own], w_0)))
    terms = from_vector(hessian_operator(losses[own], w_0)(earlier) + later, w_0)
    v_single, v_second = (verification_error(w, goal) for w in (single, add(single, terms, -(eta**2))))
    average = sum(shares[BATCH_SIZE]) / t
    return Finding(
        propositions={
            "b = 1: as much as training": as_printed[1],
            f"b = {BATCH_SIZE}: 1/{BATCH_SIZE} of training": as_printed[BATCH_SIZE],
        },
        value=average,
        value_is=f"share of training for b = {BATCH_SIZE}, mean over the step of x*",
        reason=f"After the step of x* each product needs the Hessian of another whole batch, so the share "
        f"for b = {BATCH_SIZE} runs from {shares[BATCH_SIZE][-1]:.2f} (last step) to "
        f"{shares[BATCH_SIZE][0]:.2f} (first). And that is the price term by term: all Hessians are at w_0, "
        f"so two products do, one of them with a mean Hessian. With {few} batches for the mean, v falls from "
        f"{v_single:.2g} after the single gradient to {v_second:.2g} (tanh network, eta = {eta}).",
    )
