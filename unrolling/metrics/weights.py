r"""What a verification error says about the distribution of the weights, in any dimension.

Section 4.1 adds the same noise to the unlearned and to the retrained weights. For one ordering I and Gaussian
noise :math:`N(0, s^2 I_D)` these are two Gaussians at distance :math:`v_I`, so every divergence between them
is a function of :math:`v_I / s` alone. Over all orderings both are mixtures, and because total variation, KL
divergence and the hockey-stick divergence behind :math:`(\varepsilon, \delta)` are jointly convex, each is at
most its average over I. Whatever is computed from the weights, such as outputs, obeys the same bounds.

This replaces Corollary 1, whose bound on a density says little in many dimensions; it is not in the paper.

Every function takes one verification error, for which it is exact, or one for each ordering, for which it
is the upper bound.
"""

from collections.abc import Sequence

import numpy as np

from unrolling._checks import InputError, check_real
from unrolling.metrics._inputs import check_numbers


def _distances(verification_errors: float | Sequence[float], noise: float) -> np.ndarray:
    """Return v_I / s as a vector."""
    s = check_real("noise", noise, above=0)
    errors = np.atleast_1d(check_numbers("verification_errors", verification_errors))
    if errors.ndim != 1 or not errors.size or not np.isfinite(errors).all() or errors.min() < 0:
        raise InputError(
            "`verification_errors` must be one number >= 0, or a sequence of at least one, all finite; got "
            f"{verification_errors!r}."
        )
    with np.errstate(over="ignore"):  # so far apart that nothing of the two distributions overlaps
        return errors / s


def total_variation_bound(verification_errors: float | Sequence[float], noise: float) -> float:
    r"""Return the total variation distance of unlearned and retrained weights.

    .. math:: TV = 2 \Phi\!\left(\frac{v}{2 s}\right) - 1 \;\leq\; \frac{v}{s \sqrt{2 \pi}}

    It is the largest difference in the probability of any event, so also the largest advantage of anyone who
    is to tell the two models apart.

    Args:
        verification_errors: v, or all :math:`v_I`; the unit is that of the weights.
        noise: Standard deviation s of the Gaussian noise on each weight, same unit.

    Example:
        >>> round(total_variation_bound(1.0, noise=1.0), 4)
        0.3829
    """
    from scipy.special import erf  # scipy doubles the time of our own imports

    return float(erf(_distances(verification_errors, noise) / np.sqrt(8)).mean())


def kl_divergence_bound(verification_errors: float | Sequence[float], noise: float) -> float:
    r"""Return the KL divergence of unlearned and retrained weights, in nats; it is symmetric here.

    .. math:: KL = \frac{v^2}{2 s^2}

    Args:
        verification_errors: v, or all :math:`v_I`.
        noise: Standard deviation s of the Gaussian noise on each weight.

    Example:
        >>> kl_divergence_bound([0.0, 2.0], noise=1.0)
        1.0
    """
    with np.errstate(over="ignore"):
        return float((_distances(verification_errors, noise) ** 2 / 2).mean())


def _delta(distances: np.ndarray, epsilon: float) -> float:
    from scipy.special import erfcx, ndtr

    apart = distances[distances > 0]
    with np.errstate(over="ignore"):  # a quotient or square that overflows stands for delta = 0, rightly
        first, second = apart / 2 - epsilon / apart, -apart / 2 - epsilon / apart
        # exp(epsilon) Phi(second), of which the first factor alone would overflow:
        # exp(epsilon) phi(second) = phi(first), and erfcx is Phi / phi up to constants.
        theirs = np.exp(-(first**2) / 2) * erfcx(-second / np.sqrt(2)) / 2
    return float((ndtr(first) - theirs).sum() / distances.size)


def delta_bound(verification_errors: float | Sequence[float], noise: float, epsilon: float) -> float:
    r"""Return the :math:`\delta` with which unlearned and retrained weights are indistinguishable.

    For every event S, with the two models in either role,
    :math:`\Pr[z'' \in S] \leq e^\varepsilon \Pr[z' \in S] + \delta`, and

    .. math:: \delta(\varepsilon) = \Phi\!\left(\frac{v}{2 s} - \frac{\varepsilon s}{v}\right)
              - e^\varepsilon \, \Phi\!\left(-\frac{v}{2 s} - \frac{\varepsilon s}{v}\right)

    At :math:`\varepsilon = 0` it is the total variation distance, and at v = 0 it is 0. Source: Balle and
    Wang, *Improving the Gaussian Mechanism for Differential Privacy*, 2018, Theorem 8, with v in the place
    of the sensitivity.

    Args:
        verification_errors: v, or all :math:`v_I`.
        noise: Standard deviation s of the Gaussian noise on each weight.
        epsilon: :math:`\varepsilon \geq 0`.

    Example:
        >>> round(delta_bound(1.0, noise=1.0, epsilon=1.0), 4)
        0.1269
    """
    return _delta(_distances(verification_errors, noise), check_real("epsilon", epsilon, minimum=0))


def epsilon_bound(verification_errors: float | Sequence[float], noise: float, delta: float) -> float:
    r"""Return the smallest :math:`\varepsilon` that goes with ``delta``: the inverse of :func:`delta_bound`.

    Args:
        verification_errors: v, or all :math:`v_I`.
        noise: Standard deviation s of the Gaussian noise on each weight.
        delta: :math:`\delta` between 0 and 1, both excluded; no finite :math:`\varepsilon` gives 0.

    Returns:
        :math:`\varepsilon`, 0 where the total variation distance is at most ``delta``, and infinite where it
        exceeds the range of floating point numbers, from about :math:`v / s = 10^{154}` on.

    Example:
        >>> round(epsilon_bound(1.0, noise=4.0, delta=1e-5), 2)
        0.93
    """
    from scipy.optimize import brentq

    distances = _distances(verification_errors, noise)
    goal = check_real("delta", delta, above=0)
    if goal >= 1:
        raise InputError(f"delta must be below 1, got {goal:g}.")
    if _delta(distances, 0.0) <= goal:
        return 0.0
    high = 1.0
    while _delta(distances, high) > goal:
        high *= 2
        if high == np.inf or np.isinf(distances).mean() > goal:
            return np.inf
    return float(brentq(lambda epsilon: _delta(distances, epsilon) - goal, 0.0, high, xtol=1e-14))
