"""Section 6.2: the SD loss of a binary linear classifier, its minimum and the way there."""

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from unrolling.losses import logit_std, sd_loss
from unrolling.oracles import minimum_norm_update, sd_loss_minimum
from unrolling.paper import Finding
from unrolling.seeding import make_generator
from unrolling.studies.ledger import check

PAGE = "08_sd_loss"
LABEL = torch.tensor([0])


def _root(a: Tensor, b: Tensor) -> Tensor:
    """Return the root in Eq. 11 as it is printed."""
    return ((a**2 + b**2 - 0.5 * (a + b) ** 2) / 2).sqrt()


@check("T24", page=PAGE)
def two_class_standard_deviation() -> Finding:
    """Compare Eq. 11 with Eq. 10 on a grid of logits, where nothing under Eq. 11's root is rounded."""
    generator = make_generator(0, "claims", "T24")
    # Multiples of 1/64: elsewhere Eq. 11 cancels where a is close to b, which is no fault of the claim.
    a, b = torch.randint(-512, 513, (2, 10_000), generator=generator).double() / 64
    deviation = float((_root(a, b) - logit_std(torch.stack([a, b], dim=1))).abs().max())
    printed = (-(a.exp() / (a.exp() + b.exp())).log() + _root(a, b)).mean()
    loss = sd_loss(torch.stack([a, b], dim=1), LABEL.expand(len(a)), 1.0)
    a, b = torch.tensor([1.0, 1.0 + 1e-8], dtype=torch.float64)
    return Finding(
        propositions={
            "the root is the standard deviation of a and b": deviation < 1e-12,
            "Eq. 11 is the SD loss of two classes": float((printed - loss).abs()) < 1e-12,
        },
        value=deviation,
        value_is="largest difference from the population standard deviation over 10,000 pairs",
        reason="It equals |a - b| / 2, which is the form to compute with: in double precision the printed "
        f"one gives {float(_root(a, b)):.2g} where a and b are {float(b - a):.2g} apart.",
    )


@check("T25", page=PAGE)
def minimum_of_the_sd_loss_moves_towards_equal_outputs() -> Finding:
    """Minimise the SD loss over both outputs with a search that knows neither derivatives nor closed form."""

    def minimise(gamma: float, start: tuple[float, float]) -> np.ndarray:
        def value(outputs: np.ndarray) -> float:
            return sd_loss(torch.tensor(outputs)[None], LABEL, gamma).item()

        options = {"xatol": 1e-9, "fatol": 0.0, "maxfev": 400}
        return optimize.minimize(value, start, method="Nelder-Mead", options=options).x

    strengths = (0.01, 0.1, 1.0, 5.0)
    starts = ((1.0, -1.0), (-3.0, 2.0), (4.0, 3.0))
    found = np.array([[minimise(gamma, start) for start in starts] for gamma in strengths])
    gaps = found[..., 0] - found[..., 1]
    expected = np.array([sd_loss_minimum(gamma, 2)[1] for gamma in strengths])
    apart = float(np.ptp(found.mean(axis=-1), axis=1).min())  # along the line
    off = float(np.abs(gaps - expected[:, None]).max())
    epsilon = gaps.mean(axis=1)
    return Finding(
        propositions={
            "the minima of one gamma form a line a = b + epsilon": bool(
                np.ptp(gaps, axis=1).max() < 1e-4 and apart > 0.1
            ),
            "epsilon falls with gamma, as ln((2 - gamma) / gamma) down to 0": bool(
                off < 1e-4 and (np.diff(epsilon) < 1e-4).all()
            ),
        },
        value=off,
        value_is="largest difference between epsilon and max(0, ln((2 - gamma) / gamma))",
        reason=f"epsilon is {', '.join(f'{gap:.3f}' for gap in np.abs(epsilon))} at gamma = "
        f"{', '.join(f'{gamma:g}' for gamma in strengths)}. Where it is 0, equal outputs are best and "
        "nothing is learnt; more penalty buys nothing there.",
    )


@check("T26", page=PAGE)
def least_update_that_opens_the_gap() -> Finding:
    """Compare the printed solution of Eq. 12 with the least-norm solution that least squares finds."""
    generator = make_generator(0, "claims", "T26")
    off, off_norm, preprint = 0.0, 0.0, []
    for size in range(1, 21):
        x = torch.randn(size, generator=generator, dtype=torch.float64)
        gap = 5 * float(torch.rand((), generator=generator, dtype=torch.float64))
        constraint = torch.cat([x, -x])[None].numpy()  # on u_1 and u_2 in a row
        least = np.linalg.lstsq(constraint, np.array([gap]), rcond=None)[0]
        off = max(off, float(np.abs(least - torch.cat(minimum_norm_update(x, gap)).numpy()).max()))
        squared = float(x @ x)
        off_norm = max(off_norm, abs(float(least @ least) - gap**2 / (2 * squared)))
        preprint.append(gap**2 * squared / 2 / float(least @ least))
    return Finding(
        propositions={
            "the least update is +-epsilon x / (2 ||x||^2)": off < 1e-8,
            "its squared norm is epsilon^2 / (2 ||x||^2)": off_norm < 1e-8,
        },
        value=off,
        value_is="largest difference from the solution by least squares over 20 inputs",
        reason="The final version's norm is right. The preprint's, epsilon^2 ||x||^2 / 2, is between "
        f"{min(preprint):.4f} and {max(preprint):.0f} times the true one on these inputs.",
    )


@check("T27", page=PAGE)
def larger_gamma_needs_a_smaller_change_in_weights() -> Finding:
    """Train the binary linear classifier to convergence, from equal rows and from a start with a gap."""
    x = torch.randn(4, generator=make_generator(0, "claims", "T27"), dtype=torch.float64)

    def change(gamma: float, start_gap: float = 0.0) -> float:
        """Return the distance from the start at which gradient descent stands still."""
        start = torch.stack(minimum_norm_update(x, start_gap)) + 0.1
        w, slope = start, torch.ones(())
        for _ in range(5000):
            w = w.detach().requires_grad_()
            (slope,) = torch.autograd.grad(sd_loss((w @ x)[None], LABEL, gamma), w)
            w = w - 2 / (x @ x) * slope
            if slope.norm() < 1e-8:
                break
        return float((w - start).detach().norm())

    strengths = (0.01, 0.1, 0.5, 0.9)
    changes = [change(gamma) for gamma in strengths]
    formula = [sd_loss_minimum(gamma, 2)[1] / float(2**0.5 * x.norm()) for gamma in strengths]
    off = max(abs(a - b) for a, b in zip(changes, formula, strict=True))
    weak, strong = change(0.1, start_gap=2.0), change(0.9, start_gap=2.0)
    return Finding(
        propositions={
            "descent ends at the distance epsilon / (sqrt(2) ||x||)": off < 1e-3,
            "the distance falls with gamma": all(np.diff(changes) < 0),
        },
        value=off,
        value_is="largest difference of the distance from epsilon / (sqrt(2) ||x||)",
        reason=f"The distance is {', '.join(f'{moved:.3f}' for moved in changes)} at gamma = "
        f"{', '.join(map(str, strengths))}. The start has equal outputs, as in the paper. From one with the "
        f"gap 2 it is {weak:.3f} at gamma = 0.1 and {strong:.3f} at 0.9.",
    )
