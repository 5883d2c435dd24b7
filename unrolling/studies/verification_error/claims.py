"""T01 to T10: what exact unlearning is (section 3.1), and what the verification error implies (section 4)."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.func import grad, vmap

from unrolling.batches import make_batch_order
from unrolling.data import load_dataset
from unrolling.losses import Objective
from unrolling.methods.single_gradient import single_gradient_unlearn
from unrolling.model_loss import batch_loss
from unrolling.models import build_model
from unrolling.paper import Finding
from unrolling.parameters import add, load_parameters, snapshot, to_vector, training_mode
from unrolling.seeding import make_generator, seeded
from unrolling.studies.ledger import check, error_text
from unrolling.studies.verification_error.densities import (
    WeightDensity,
    grid_over,
    largest_difference,
    log10_lipschitz_constant,
    log10_peak_density,
    orderings,
    weights_after,
)
from unrolling.training import copy_for_retraining, train
from unrolling.unlearning_error import verification_error

PAGE = "02_verification_error"
ROUNDING = 1 + 1e-9

# An example is a row of features with a target at its end; the weights multiply the features.
TOY_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "quadratic": lambda w, x: (x[:-1] @ w - x[-1]) ** 2 / 2,
    "logistic": lambda w, x: F.softplus(-x[-1].sign() * (x[:-1] @ w)),
    "tanh": lambda w, x: ((x[:-1] @ w).tanh() - x[-1]) ** 2 / 2,
}


@dataclass(frozen=True, eq=False)
class Toy:
    """The final weights of every ordering of a small problem: shape (orderings, weights) each."""

    trained: Tensor
    retrained: Tensor
    unlearned: Tensor
    noise: float
    path: float  # eta t

    @property
    def moved(self) -> float:
        """The d of Lemma 1."""
        return float((self.trained - self.retrained).norm(dim=1).mean())

    @property
    def error(self) -> float:
        """The v of Corollary 1."""
        return float((self.unlearned - self.retrained).norm(dim=1).mean())


@cache
def toys() -> tuple[Toy, ...]:
    """Return 100 random problems: 2 to 4 examples, 1 or 2 epochs, 1 or 2 weights, noise from d/20 to 20 d."""
    rng = np.random.default_rng(0)
    return tuple(_random_toy(rng) for _ in range(100))


def _random_toy(rng: np.random.Generator) -> Toy:
    loss = TOY_LOSSES[rng.choice(list(TOY_LOSSES))]
    n, m, size = int(rng.integers(2, 5)), int(rng.integers(1, 3)), int(rng.integers(1, 3))
    examples, start = torch.tensor(rng.normal(size=(n, size + 1))), torch.tensor(rng.normal(size=size))
    eta = float(10 ** rng.uniform(-2, -0.3))
    orders = orderings(n, m)
    trained = weights_after(orders, loss, examples, start, learning_rate=eta)
    removed = [order.without_example(0) for order in orders]
    retrained = weights_after(removed, loss, examples, start, learning_rate=eta)
    unlearned = single_gradient_unlearn(
        {"w": trained},
        {"w": start.expand_as(trained)},
        lambda p: vmap(loss, in_dims=(0, None))(p["w"], examples[0]).sum(),
        learning_rate=eta,
        num_epochs=m,
    )["w"]
    d = float((trained - retrained).norm(dim=1).mean())
    return Toy(trained, retrained, unlearned, d / float(10 ** rng.uniform(-1.3, 1.3)), eta * n * m)


def _share_of_bound(first: Tensor, second: Tensor, noise: float, distance: float) -> float:
    """Return sup |P - P'| / (L d), the supremum over a grid."""
    densities = WeightDensity(first, noise), WeightDensity(second, noise)
    size = first.shape[1]
    points, _ = grid_over(*densities, points_per_axis=801 if size == 1 else 33)
    return largest_difference(*densities, points) / (10 ** log10_lipschitz_constant(noise, size) * distance)


def _one_weight() -> list[Toy]:
    return [toy for toy in toys() if toy.trained.shape[1] == 1 and len(toy.trained) < 100]


def _support(points: Tensor, centres: Tensor, reach: float) -> Tensor:
    return ((points[:, None] - centres[:, 0]).abs() < reach).any(dim=1)


def _bounded_supports(toy: Toy, scale: float = 1.0) -> tuple[Tensor, Tensor, float, float]:
    """Compare P'' with P' for triangular noise of half-width 2 s, whose support is bounded; one weight.

    Args:
        toy: The problem.
        scale: Multiplies all weights and the noise: another unit of the weights.

    Returns:
        Points, f = P'' - P' at them, the volume of the support, the distance of neighbouring points.
    """
    centres = [scale * toy.unlearned, scale * toy.retrained]
    reach = 2 * scale * toy.noise
    joined = torch.cat(centres)
    low, high = float(joined.min()) - reach, float(joined.max()) + reach
    points = torch.linspace(low, high, 4001, dtype=torch.float64)
    cell = (high - low) / 4000
    first, second = (
        (1 - (points[:, None] - centre[:, 0]).abs() / reach).clamp(min=0).mean(dim=1) / reach
        for centre in centres
    )
    return points, first - second, float(_support(points, joined, reach).sum()) * cell, cell


# Section 3.1


def _retrained_models(
    seeds: Sequence[int], examples: Tensor, labels: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Train a small network from each seed; return weights and logits, a row for each."""
    weights, outputs = [], []
    for seed in seeds:
        with seeded(seed, "claims", "T01"):
            model = build_model("mlp-tanh", 2, input_shape=(1, 1, 2), width=3).double()
        order = make_batch_order(len(labels), 1, 2, make_generator(seed, "claims", "T01", "order"))
        train(model, examples, labels, order, Objective("cross_entropy"), learning_rate=0.3)
        weights.append(to_vector(snapshot(model)).numpy())
        with torch.no_grad():
            outputs.append(model(examples[:8]).flatten().numpy())
    return np.array(weights), np.array(outputs)


def permutation_test(first: np.ndarray, second: np.ndarray, rng: np.random.Generator) -> float:
    """Return the p-value of the energy distance between two samples, from 999 permutations."""
    both = np.concatenate([first, second])
    distances = np.linalg.norm(both[:, None] - both[None], axis=2)
    side = np.repeat([1.0, -1.0], [len(first), len(second)]) / len(first)
    sides = np.array([side] + [rng.permutation(side) for _ in range(999)])
    energies = -np.einsum("ki,ij,kj->k", sides, distances, sides)
    return float((energies >= energies[0] * (1 - 1e-12)).mean())


@check("T01", page=PAGE)
def retraining_unlearns_exactly() -> Finding:
    """Retrain from the same and from other seeds; test for one distribution of weights and outputs."""
    generator = make_generator(0, "claims", "T01", "data")
    examples = torch.randn(12, 1, 1, 2, generator=generator, dtype=torch.float64)
    labels = (examples.flatten(1).sum(dim=1) > 0).long()
    examples[-1], labels[-1] = examples[-1] * 4, 1 - labels[-1]  # x*, an outlier with the other label
    kept = examples[:-1], labels[:-1]
    first, again, other = (_retrained_models(range(a, a + 30), *kept) for a in (0, 0, 30))
    equal = all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    rng = np.random.default_rng(0)
    p_weights, p_outputs = (permutation_test(a, b, rng) for a, b in zip(first, other, strict=True))
    with_it = _retrained_models(range(60, 90), examples, labels)
    control = permutation_test(first[1], with_it[1], rng)
    return Finding(
        propositions={
            "same seed: weights and outputs agree bit for bit": equal,
            "other seeds: one distribution of weights": p_weights > 0.05,
            "other seeds: one distribution of outputs": p_outputs > 0.05,
        },
        value=min(p_weights, p_outputs),
        value_is="smaller p of two permutation tests, 30 against 30 retrained networks",
        reason=f"Weights p = {p_weights:.2f}, outputs p = {p_outputs:.2f}. Networks that keep x* "
        f"get p = {control:.3f}: the test {'could' if control < 0.05 else 'could hardly'} have failed.",
    )


# Section 4.1


@check("T02", page=PAGE)
def orderings_are_counted_right() -> Finding:
    """Enumerate the orderings with and without x* and count."""
    sizes = [(n, m) for n in range(1, 5) for m in (1, 2)]
    orders = removed = images = True
    for n, m in sizes:
        every = orderings(n, m)
        smaller = Counter(order.without_example(0) for order in every)
        orders &= len(set(every)) == math.factorial(n) ** m
        removed &= len(smaller) == math.factorial(n - 1) ** m
        images &= set(smaller.values()) == {n**m}
    largest = len(orderings(*sizes[-1]))
    return Finding(
        propositions={
            "(n!)^m orderings": orders,
            "((n - 1)!)^m without x*": removed,
            "n^m preimages of each": images,
        },
        value=largest,
        value_is="orderings of the largest problem that was enumerated",
        reason=f"All counts agree for n up to {sizes[-1][0]} and m up to {sizes[-1][1]}. Appendix A divides "
        "some sums by n^m where (n!)^m is meant, without consequence."
        if orders and removed and images
        else "A count disagrees with its formula.",
    )


@check("T03", page=PAGE)
def lemma_1_bounds_the_difference_of_the_densities() -> Finding:
    """Compare sup |P - P'| with L d in random toys."""
    shares = np.array([_share_of_bound(toy.trained, toy.retrained, toy.noise, toy.moved) for toy in toys()])
    ratios = np.array([toy.moved / toy.noise for toy in toys()])
    near, empty = ratios < 0.25, ratios > math.exp(0.5)
    return Finding(
        propositions={"sup |P - P'| is at most L d in every toy": bool((shares <= ROUNDING).all())},
        value=shares.max(),
        value_is="largest sup |P - P'| / (L d) over 100 toys",
        reason=f"The left side is {shares[near].min():.2f} to {shares[near].max():.2f} of the bound where "
        f"d < s / 4. From d = 1.65 s on L d exceeds the largest value a density can have, so the bound holds "
        f"but says nothing ({empty.sum()} of the toys).",
    )


@check("T04", page=PAGE)
def corollary_1_bounds_the_difference_after_unlearning() -> Finding:
    """Compare sup |P'' - P'| with L v after single-gradient unlearning in random toys."""
    shares = np.array([_share_of_bound(toy.unlearned, toy.retrained, toy.noise, toy.error) for toy in toys()])
    small = [toy for toy in toys() if toy.path < 0.1]
    below = sum(toy.error < toy.moved for toy in small)
    worse = sum(toy.error > toy.moved for toy in toys())
    return Finding(
        propositions={"sup |P'' - P'| is at most L v in every toy": bool((shares <= ROUNDING).all())},
        value=shares.max(),
        value_is="largest sup |P'' - P'| / (L v) over 100 toys",
        reason=f"v is below d in {below} of {len(small)} toys with eta t < 0.1, above it in {worse} of all "
        f"{len(shares)}: the corollary does not depend on whether the update helps.",
    )


@check("T05", page=PAGE)
def gaussian_densities_share_one_lipschitz_constant() -> Finding:
    """Search the largest gradient of the density around several means and compare with the formula."""
    gaps = []
    for size in (1, 2, 3):
        for noise in (0.1, 3.0):
            for mean in torch.randn(
                2, size, generator=make_generator(0, "claims", "T05", size, noise), dtype=torch.float64
            ):
                found = _largest_gradient(mean, noise)
                gaps.append(abs(found / 10 ** log10_lipschitz_constant(noise, size) - 1))
    exponent = log10_lipschitz_constant(1.0, 1000)
    return Finding(
        propositions={"largest gradient equals the common L around every mean": max(gaps) < 1e-6},
        value=max(gaps),
        value_is=f"largest relative gap between gradient and formula, {len(gaps)} cases, D up to 3",
        reason=f"L has the unit of a density over a length, and is 10^{exponent:.0f} for 1,000 weights and "
        "s = 1. Only its ratio to the peak of the density, 0.61 / s in every dimension, says anything.",
    )


def _largest_gradient(mean: Tensor, noise: float) -> float:
    """Search the largest gradient of one Gaussian density, from a point near its centre."""
    density = WeightDensity(mean[None], noise)
    scale = 10 ** log10_peak_density(noise, len(mean)) / noise  # brings the answer near one
    slope = grad(lambda w: density(w[None])[0])

    def minus_steepness(offset: np.ndarray) -> float:
        return -float(slope(mean + noise * torch.from_numpy(offset)).norm()) / scale

    start = np.full(len(mean), 0.4)
    found = minimize(minus_steepness, start, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-10})
    return -float(found.fun) * scale


@check("T06", page=PAGE)
def supremum_bounds_reach_every_lp_norm() -> Finding:
    """Test the interpolation inequality on toys, and its right side on densities that spread out."""
    differences = [_difference(toy.trained, toy.retrained, toy.noise) for toy in _one_weight()]
    # Two densities ten noises apart: the larger s, the smaller is ||f||_inf.
    near, far = (_difference(torch.zeros(1, 1), torch.full((1, 1), 10 * s), s) for s in (1.0, 1e12))
    held = {}
    for p in (1.0, 1.5, 2.0, 4.0):
        inequality = all(_norm(*f, p) <= _right_side(f[0], p) * (1 + 1e-6) for f in differences)
        held[f"p = {p:g}"] = bool(inequality and _right_side(far[0], p) < 1e-3 * _right_side(near[0], p))
    total = _norm(*far, 1.0)
    return Finding(
        propositions=held,
        value=total,
        value_is="||f||_1 of two densities whose ||f||_inf is below 1e-12",
        reason="For p > 1 the bound is 2^(1/p) ||f||_inf^(1 - 1/p). At p = 1 it is the constant 2: densities "
        f"that spread out have ||f||_inf near 0 and ||f||_1 = {total:.2f}. So total variation, half of "
        "||f||_1, is not bounded this way; it is bounded by v / s.",
    )


def _difference(first: Tensor, second: Tensor, noise: float) -> tuple[Tensor, float]:
    """Return f = P - P' on a grid and the volume of its cell."""
    densities = WeightDensity(first.double(), noise), WeightDensity(second.double(), noise)
    points, cell = grid_over(*densities, points_per_axis=801)
    return densities[0](points) - densities[1](points), cell


def _norm(f: Tensor, cell: float, p: float) -> float:
    return float((f.abs() ** p).sum() * cell) ** (1 / p)


def _right_side(f: Tensor, p: float) -> float:
    return 2 ** (1 / p) * float(f.abs().max()) ** (1 - 1 / p)


@check("T07", page=PAGE)
def supremum_bound_is_a_delta() -> Finding:
    """Compare the largest difference in the probability of an event with b, in several units of weights."""
    scales = (0.01, 1.0, 100.0)
    excess, within = {scale: [] for scale in scales}, True
    for scale in scales:
        for toy in _one_weight():
            _, f, volume, cell = _bounded_supports(toy, scale)
            event = float(f.clamp(min=0).sum()) * cell  # no set has a larger difference than {P'' > P'}
            bound = float(f.abs().max())
            excess[scale].append(event / bound)
            within &= event <= bound * volume / 2 * ROUNDING
    share = {scale: np.mean(np.array(found) > 1) for scale, found in excess.items()}
    largest = max(map(max, excess.values()))
    return Finding(
        propositions={"|P''(S) - P'(S)| is at most b for every S, whatever the volume": largest <= ROUNDING},
        value=largest,
        value_is=f"largest |P''(S) - P'(S)| / b over {len(_one_weight())} toys in {len(scales)} units",
        reason=f"b is exceeded in {share[1.0]:.0%} of the toys, and in {share[100.0]:.0%} with weights in "
        "a unit a hundred times smaller: b changes with the unit, as a density does; delta does not. "
        + f"delta = b times half the volume of the support {'held' if within else 'failed as well'}.",
    )


@check("T08", page=PAGE)
def densities_that_agree_bound_the_verification_error() -> Finding:
    """Compare a b of Eq. 16 with the norm of the mean displacement and with the mean of the norms."""
    found = [_equation_16(toy) for toy in _one_weight()]
    # Another update that depends on I alone: it ends at the retrained weights of the next ordering.
    swaps = [_equation_16(replace(toy, unlearned=toy.retrained.roll(1, dims=0))) for toy in _one_weight()]
    means = all(mean <= product * (1 + 1e-3) + 1e-9 for mean, _, product in found + swaps)
    above = [sum(v > product * (1 + 1e-3) + 1e-9 for _, v, product in part) for part in (found, swaps)]
    largest = max(v for _, v, _ in swaps)
    return Finding(
        propositions={
            "the norm of the mean displacement is at most a b": means,
            "v of Corollary 1, the mean of the norms, is at most a b": not any(above),
        },
        value=largest,
        value_is="largest v of an update after which the densities agree, b = 0",
        reason="v of Corollary 1 is the mean of the norms, never below the norm of the mean, which Eq. 16 "
        f"bounds. It exceeds a b in {above[0]} of {len(found)} toys after the single-gradient update, and in "
        f"{above[1]} after an update to the retrained weights of another ordering, which unlearns exactly: "
        "b is 0, and v is not.",
    )


def _equation_16(toy: Toy) -> tuple[float, float, float]:
    """Return the norm of the mean displacement, the mean of the norms, and a b."""
    points, f, _, cell = _bounded_supports(toy)
    support = _support(points, torch.cat([toy.unlearned, toy.retrained]), 2 * toy.noise)
    a = float(points[support].abs().sum()) * cell
    mean = float((toy.unlearned - toy.retrained).mean(dim=0).norm())
    return mean, toy.error, a * float(f.abs().max())


# Section 4.2


@check("T09", page=PAGE)
def outputs_converge_with_the_weights() -> Finding:
    """Shrink the difference of unlearned and retrained weights and measure the outputs' on fixed inputs."""
    data = load_dataset("digits")
    inputs, labels = data.train_inputs.double(), data.train_labels
    slopes, falls = [], []
    for name in ("mlp-tanh", "resnet-small"):
        with seeded(0, "claims", "T09", name):
            shape = tuple(inputs.shape[1:])
            model = build_model(name, data.num_classes, input_shape=shape).double()
        initial, retrained = snapshot(model), copy_for_retraining(model)
        order = make_batch_order(320, 32, 1, make_generator(0, "claims", "T09", "order"))
        loss = Objective("cross_entropy")
        forget = order[0]
        batch = inputs[list(forget)], labels[list(forget)]
        start = copy_for_retraining(model)
        options = {"learning_rate": 0.1, "retrained": retrained, "forget": forget}
        train(model, inputs, labels, order, loss, **options)
        unlearned = single_gradient_unlearn(
            snapshot(model), initial, batch_loss(start, loss, batch, training=True), learning_rate=0.1
        )
        errors, outputs = shrink(retrained, unlearned, data.test_inputs[:64].double())
        slopes.append(float(np.polyfit(np.log(errors), np.log(outputs), 1)[0]))
        falls.append(bool((np.diff(outputs) < 0).all() and outputs[-1] < 1e-3 * outputs[0]))
    return Finding(
        propositions={
            "the outputs converge": all(falls),
            "in proportion to v": all(0.8 <= slope <= 1.2 for slope in slopes),
        },
        value=max(slopes, key=lambda slope: abs(slope - 1)),
        value_is="log-log slope of the largest output distance over v, the one farther from 1",
        reason=f"Slopes {slopes[0]:.3f} for a tanh network, {slopes[1]:.3f} for a small ResNet. The paper "
        "says that networks are smooth; with ReLU units they are locally Lipschitz, which is enough.",
    )


def shrink(retrained: nn.Module, unlearned: dict[str, Tensor], inputs: Tensor) -> tuple[list, list]:
    """Return v and the largest distance of the logits for w'' moved towards w' by 1e-1 to 1e-5."""
    goal = snapshot(retrained)
    direction = {name: unlearned[name] - w for name, w in goal.items()}
    errors, outputs = [], []
    with training_mode(retrained, False), torch.no_grad():
        reference = retrained(inputs)
        for scale in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5):
            near = add(goal, direction, scale)
            errors.append(verification_error(near, goal))
            load_parameters(retrained, near)
            outputs.append(float((retrained(inputs) - reference).norm(dim=1).max()))
        load_parameters(retrained, goal)
    return errors, outputs


@check("T10", page=PAGE)
def permuted_channels_change_weights_but_not_outputs() -> Finding:
    """Permute the channels inside a block of a small ResNet, with their batch norm."""
    with seeded(0, "claims", "T10"):
        model = build_model("resnet-small", 10, input_shape=(1, 8, 8)).double()
        model(torch.randn(64, 1, 8, 8, dtype=torch.float64))  # running statistics that differ by channel
        for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
            nn.init.normal_(norm.weight, 1, 0.3)
            nn.init.normal_(norm.bias, 0, 0.3)
        inputs = torch.randn(32, 1, 8, 8, dtype=torch.float64)
        permuted = copy_for_retraining(model)
        permute_channels(permuted.blocks[1], torch.randperm(16))
    with training_mode(model, False), training_mode(permuted, False), torch.no_grad():
        gap = float((model(inputs) - permuted(inputs)).abs().max())
    v = verification_error(snapshot(permuted), snapshot(model))
    return Finding(
        propositions={"same outputs at another place in weight space": gap <= 1e-5 and v > 0},
        value=v,
        value_is="v between a small ResNet and itself with one block's channels permuted",
        reason=f"The outputs differ by {error_text(gap)}, rounding, while v = {v:.1f}. The order of the "
        "channels of batch norm's running statistics has to go with them.",
    )


def permute_channels(block: nn.Module, order: Tensor) -> None:
    """Reorder the channels between the two convolutions of a basic block in place."""
    with torch.no_grad():
        block.conv1.weight.copy_(block.conv1.weight[order])
        for values in (
            block.bn1.weight,
            block.bn1.bias,
            block.bn1.running_mean,
            block.bn1.running_var,
        ):
            values.copy_(values[order])
        block.conv2.weight.copy_(block.conv2.weight[:, order])
