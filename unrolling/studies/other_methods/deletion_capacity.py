r"""Section 3.3: how many points may be forgotten, by differential privacy and by a Newton step with noise.

Sekhari, Acharya, Kamath, Suresh, "Remember What You Want to Forget", NeurIPS 2021. Their deletion capacity is
the largest m for which :math:`(\epsilon, \delta)`-unlearning of any m points costs at most a given loss.

What is formula here: that the noise suffices for the guarantee. What is measured: the excess loss of the
weights with that noise, for logistic regression.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from unrolling.methods.others.linear_model import LINEAR_LOSSES, linear_hessian, minimise_linear
from unrolling.methods.others.newton_removal import gaussian_noise_scale, newton_removal_bound, newton_unlearn
from unrolling.paper import Finding
from unrolling.parameters import Params
from unrolling.seeding import make_generator
from unrolling.studies.ledger import check

NUM_EXAMPLES = 20_000
DIMENSIONS = (8, 16, 32, 64, 128)
L2 = 0.1
# Of an example's regularised loss at the minimiser: |x| <= 1, and L2 |w| <= 1 as a mean of slopes.
CONSTANTS = {
    "strong_convexity": L2,
    "lipschitz": 2.0,
    "hessian_lipschitz": LINEAR_LOSSES["logistic"].curvature_lipschitz,
}
EPSILON, DELTA = 1.0, 1e-5
EXCESS = 0.02  # allowed on the mean training loss, well below what training gains over w = 0
NUM_DRAWS = 8


Method = Callable[["Problem", int, Tensor], Tensor]


class Problem(NamedTuple):
    """Logistic regression on two overlapping classes, and its minimiser."""

    inputs: Tensor
    targets: Tensor
    weights: Tensor
    hessian: Tensor

    def loss(self, weights: Tensor, *, penalty: bool = True) -> float:
        """Return the mean loss over all examples, averaged over ``weights`` of shape (..., d)."""
        bare = -torch.nn.functional.logsigmoid(self.targets * (weights @ self.inputs.T)).mean()
        return float(bare + penalty * L2 / 2 * weights.square().sum(dim=-1).mean())


def make_problem(dimension: int) -> Problem:
    """Draw 20,000 points of norm at most 1 in ``dimension`` dimensions, and train on them."""
    generator = make_generator(0, "claims", "T28", dimension)
    draw = {"generator": generator, "dtype": torch.float64}
    targets = torch.randn(NUM_EXAMPLES, **draw).sign()
    noise = torch.randn(NUM_EXAMPLES, dimension, **draw)
    inputs = 0.4 * noise / noise.norm(dim=1, keepdim=True)
    inputs[:, 0] += 0.6 * targets
    zero = torch.zeros(dimension, dtype=torch.float64)
    weights = minimise_linear(inputs, targets, zero, loss="logistic", l2=L2, tolerance=1e-8).weights
    hessian = linear_hessian(LINEAR_LOSSES["logistic"], weights, inputs, targets, L2) / NUM_EXAMPLES
    return Problem(inputs, targets, weights, hessian)


def private_weights(problem: Problem, num_forgotten: int, noise: Tensor) -> Tensor:
    """Return the trained weights with noise that hides any ``num_forgotten`` points: output perturbation."""
    kept = NUM_EXAMPLES - num_forgotten
    shift = CONSTANTS["lipschitz"] * num_forgotten / (L2 * kept)  # the minimiser moves at most by this
    return problem.weights + gaussian_noise_scale(shift, epsilon=EPSILON, delta=DELTA) * noise


def newton_weights(problem: Problem, num_forgotten: int, noise: Tensor) -> Tensor:
    """Return the weights after a Newton step without the first points, with noise that hides its error."""
    shift = newton_removal_bound(num_examples=NUM_EXAMPLES, num_forgotten=num_forgotten, **CONSTANTS)
    inputs, targets = problem.inputs[:num_forgotten], problem.targets[:num_forgotten]

    def loss(params: Params) -> Tensor:
        w = params["w"]
        return -torch.nn.functional.logsigmoid(targets * (inputs @ w)).mean() + L2 / 2 * w @ w

    found = newton_unlearn(
        {"w": problem.weights},
        problem.hessian,
        loss,
        num_examples=NUM_EXAMPLES,
        num_forgotten=num_forgotten,
        strong_convexity=L2,
        noise_scale=0.0,
        generator=make_generator(0, "unused"),
    )
    return found["w"] + gaussian_noise_scale(shift, epsilon=EPSILON, delta=DELTA) * noise


def capacity(problem: Problem, method: Method, *, penalty: bool = True) -> int:
    """Return the largest m that ``method`` serves with an excess loss of at most ``EXCESS``, by bisection.

    The excess is that of the loss over all examples, beyond the trained weights', averaged over the noise.
    """
    generator = make_generator(0, "claims", "T28 noise", len(problem.weights))
    noise = torch.randn(NUM_DRAWS, len(problem.weights), generator=generator, dtype=torch.float64)
    noise = torch.cat([noise, -noise])  # what the noise does to first order is zero on average, and so here
    before = problem.loss(problem.weights, penalty=penalty)

    def affordable(m: int) -> bool:
        return problem.loss(method(problem, m, noise), penalty=penalty) - before <= EXCESS

    low, high = 0, NUM_EXAMPLES // 8
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if affordable(middle) else (low, middle)
    return low


class Capacities(NamedTuple):
    """Deletion capacities of one problem; ``bare`` allows the excess on the loss without its penalty."""

    dimension: int
    private: int
    newton: int
    bare_private: int
    bare_newton: int


@cache
def capacities() -> tuple[Capacities, ...]:
    """Measure the capacities over the dimension."""
    found = []
    for dimension in DIMENSIONS:
        problem = make_problem(dimension)
        numbers = [
            capacity(problem, method, penalty=penalty)
            for penalty in (True, False)
            for method in (private_weights, newton_weights)
        ]
        found.append(Capacities(dimension, *numbers))
    return tuple(found)


def exponent(values: list[int]) -> tuple[float, tuple[float, float]]:
    """Return the power of d that fits values over ``DIMENSIONS``, with its 95 % interval."""
    fit = stats.linregress(np.log(DIMENSIONS), np.log(values))
    half = float(stats.t.ppf(0.975, len(values) - 2) * fit.stderr)
    return float(fit.slope), (float(fit.slope) - half, float(fit.slope) + half)


@check("T28", page="16_other_methods")
def deletion_capacities() -> Finding:
    """Fit the power of the dimension in the capacities of output perturbation and of Newton removal."""
    found = capacities()
    powers = {name: exponent([getattr(row, name) for row in found]) for name in Capacities._fields[1:]}
    (private, private_interval), (newton, newton_interval) = powers["private"], powers["newton"]
    low, high = private_interval
    last = found[-1]
    return Finding(
        propositions={
            f"{method}, {loss}: the exponent in d is within 0.15 of {printed:g}": bool(
                abs(powers[name][0] - printed) <= 0.15
            )
            for loss, names in (
                ("excess of the penalised loss", ("private", "newton")),
                ("excess of the loss itself", ("bare_private", "bare_newton")),
            )
            for (method, printed), name in zip(
                (("differential privacy", -0.5), ("Newton step", -0.25)), names, strict=True
            )
        }
        | {
            "the Newton step lets one delete more": all(row.newton > row.private for row in found),
        },
        value=newton,
        value_is=f"fitted power of d in the Newton step's capacity, d = {DIMENSIONS[0]} to {DIMENSIONS[-1]}",
        interval=newton_interval,
        reason=f"For differential privacy it is {private:.2f} ({low:.2f} to {high:.2f}). At d = "
        f"{last.dimension} and n = {NUM_EXAMPLES:,} the noise allows {last.private} deletions against "
        f"{last.newton}. That the noise hides them is formula; measured is the excess loss, for one private "
        "mechanism, output perturbation, so the bound on all of them is not tested. The dimension enters "
        "through the penalty: with the same excess allowed on the loss without it the powers are "
        f"{powers['bare_private'][0]:.2f} and {powers['bare_newton'][0]:.2f}.",
    )
