"""How far apart unlearned and retrained models are as random variables, estimated from many runs.

Two estimates for section 3.2's items 2 and 3: a lower bound on the privacy leakage from how well an attack
works, and the KL divergence of Gaussians fitted to the weights. :mod:`unrolling.metrics.weights` has what
follows from the verification error instead.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unrolling._checks import InputError, check_integer, check_real
from unrolling.parameters import Params, check_same_parameters, to_vector


@dataclass(frozen=True)
class EpsilonLowerBound:
    r"""A lower bound on :math:`\varepsilon` and the one-sided bounds on the attack's rates behind it.

    Attributes:
        value: With probability ``confidence`` at least, the true :math:`\varepsilon` is no smaller.
        true_positive_rate_low: Lower Clopper-Pearson bound on the true positive rate.
        false_positive_rate_high: Upper Clopper-Pearson bound on the false positive rate.
        confidence: That both bounds hold at once.
    """

    value: float
    true_positive_rate_low: float
    false_positive_rate_high: float
    confidence: float


def epsilon_lower_bound(
    *,
    true_positives: int,
    num_positives: int,
    false_positives: int,
    num_negatives: int,
    delta: float = 0.0,
    confidence: float = 0.95,
) -> EpsilonLowerBound:
    r"""Return a lower bound on :math:`\varepsilon` at ``delta`` from how often an attack was right and wrong.

    If two distributions are :math:`(\varepsilon, \delta)`-indistinguishable, every attack on them obeys, for
    the answer "positive" and for the answer "negative",

    .. math:: TPR \leq e^\varepsilon FPR + \delta, \qquad 1 - FPR \leq e^\varepsilon (1 - TPR) + \delta

    .. math:: \varepsilon \geq \max\Bigl\{\ln \frac{TPR - \delta}{FPR},
              \ln \frac{1 - FPR - \delta}{1 - TPR}\Bigr\}

    The rates are known from counts alone: in their place stand the lower Clopper-Pearson bound on TPR and the
    upper one on FPR, each wrong with probability at most (1 - confidence) / 2; both quotients use the same
    two. Source: Kairouz, Oh and Viswanath, *The Composition Theorem for Differential Privacy*, 2015, for the
    inequalities; Nasr et al., *Adversary Instantiation*, 2021, for their use with these intervals.

    The counts must be independent trials of an attack that was fixed beforehand: a threshold chosen on the
    same counts makes the bound too large. For an unlearning method a trial is a whole model, unlearned
    (positive) or retrained (negative); examples of one model are not independent trials of the method.

    Args:
        true_positives: Positives called positive.
        num_positives: Positives in all.
        false_positives: Negatives called positive.
        num_negatives: Negatives in all.
        delta: :math:`\delta`, at least 0 and below 1.
        confidence: Between 0 and 1, both excluded.

    Returns:
        The bound, 0 where the attack shows nothing. However good the attack, n trials of either kind show no
        more than about ln(n / 3.7) at 95 % and ``delta = 0``.

    Example:
        >>> bound = epsilon_lower_bound(
        ...     true_positives=100, num_positives=100, false_positives=0, num_negatives=100
        ... )
        >>> round(bound.value, 3)  # both rates known to 1 - 0.025 ** (1 / 100) = 3.6 %
        3.281
    """
    from scipy.special import betaincinv

    positives = check_integer("num_positives", num_positives, minimum=1)
    negatives = check_integer("num_negatives", num_negatives, minimum=1)
    hits = check_integer("true_positives", true_positives, maximum=positives)
    alarms = check_integer("false_positives", false_positives, maximum=negatives)
    share = check_real("delta", delta, minimum=0)
    sure = check_real("confidence", confidence, above=0)
    if share >= 1 or sure >= 1:
        raise InputError(f"delta and confidence must be below 1, got {share:g} and {sure:g}.")
    error = (1 - sure) / 2
    # The one-sided Clopper-Pearson bounds are quantiles of beta distributions.
    low = float(betaincinv(hits, positives - hits + 1, error)) if hits else 0.0
    high = float(betaincinv(alarms + 1, negatives - alarms, 1 - error)) if alarms < negatives else 1.0
    quotients = [(low - share) / high, (1 - high - share) / (1 - low)]  # neither denominator can be 0
    return EpsilonLowerBound(
        value=max(0.0, *(math.log(q) for q in quotients if q > 0)) if max(quotients) > 0 else 0.0,
        true_positive_rate_low=low,
        false_positive_rate_high=high,
        confidence=sure,
    )


@dataclass(frozen=True)
class WeightDivergence:
    """KL divergence of Gaussians fitted to weights, and what sampling alone would make of it.

    Attributes:
        value: KL divergence in nats, summed over weights.
        expected_if_equal: What ``value`` would be on average if all weights were Gaussian with the same mean
            and variance in both samples, whatever these are; infinite for three models or fewer.
        num_weights: Weights that vary over the models of either kind.
    """

    value: float
    expected_if_equal: float
    num_weights: int


def gaussian_weight_divergence(unlearned: Sequence[Params], retrained: Sequence[Params]) -> WeightDivergence:
    r"""Return the KL divergence of diagonal Gaussians fitted to the weights of models from several seeds.

    .. math:: KL = \frac{1}{2} \sum_j \Bigl( \frac{(\mu''_j - \mu'_j)^2}{\sigma'^2_j}
              + \frac{\sigma''^2_j}{\sigma'^2_j} - \ln \frac{\sigma''^2_j}{\sigma'^2_j} - 1 \Bigr)

    with the means and unbiased variances of each weight over the seeds. It is Golatkar et al.'s comparison of
    weight distributions (*Eternal Sunshine of the Spotless Net*, 2020; the paper's [9], section 3.2, item 2)
    for two samples. Weights are taken as independent and matched by position.

    Few seeds make it large. For k models of either kind from one distribution every weight adds

    .. math:: \frac{2 k - 1}{k (k - 3)}

    on average, 0.27 for k = 10, so a network's million weights drown any difference. This is returned as
    ``expected_if_equal``, for unequal numbers too; the value means nothing until it is well above.

    Args:
        unlearned: Weights w'' of at least two models; only the seed differs among them.
        retrained: Weights w' of at least two models.

    Returns:
        A weight that is the same in all models of both kinds counts nothing. One that is constant in one
        kind only, or takes a different constant in each, makes the value infinite, as it should be.

    Example:
        >>> first = [{"w": torch.tensor([x])} for x in (0.0, 2.0)]  # mean 1, variance 2
        >>> second = [{"w": torch.tensor([x])} for x in (2.0, 4.0)]  # mean 3, variance 2
        >>> gaussian_weight_divergence(first, second).value
        1.0
    """
    first, second = _stack("unlearned", unlearned, unlearned), _stack("retrained", retrained, unlearned)
    var_first, var_second = first.var(dim=0, correction=1), second.var(dim=0, correction=1)
    ratio = var_first / var_second
    shift = (first.mean(dim=0) - second.mean(dim=0)) ** 2 / var_second
    terms = (shift + ratio - ratio.log() - 1) / 2
    # Told from the weights, because the variance of equal numbers need not come out as 0 exactly.
    degenerate = (first == first[0]).all(dim=0) | (second == second[0]).all(dim=0)
    varies = (torch.cat([first, second]) != first[0]).any(dim=0)
    terms = torch.where(varies, torch.where(degenerate, math.inf, terms), 0.0)
    count = int(varies.sum())
    return WeightDivergence(
        value=float(terms.sum()),
        expected_if_equal=count * _expected_if_equal(len(first), len(second)) if count else 0.0,
        num_weights=count,
    )


def _stack(name: str, models: Sequence[Params], like: Sequence[Params]) -> Tensor:
    """Return the models' weights as rows in float64, in the order of the first of ``like``."""
    if not isinstance(models, Sequence) or len(models) < 2:
        raise InputError(f"`{name}` must be a sequence of the weights of at least two models.")
    for params in models:
        check_same_parameters(like[0], params, ("unlearned", name))
    rows = [to_vector({key: params[key].detach() for key in like[0]}) for params in models]
    return torch.stack(rows).to("cpu", torch.float64)


def _expected_if_equal(first: int, second: int) -> float:
    """Return the mean of one weight's term for samples of these sizes from one Gaussian."""
    from scipy.special import digamma

    if second <= 3:
        return math.inf  # so heavy are the tails of 1 / variance
    inverse = (second - 1) / (second - 3)  # mean of true over estimated variance

    def log_bias(size: int) -> float:
        return float(digamma((size - 1) / 2)) - math.log((size - 1) / 2)

    logs = log_bias(first) - log_bias(second)
    return ((1 / first + 1 / second + 1) * inverse - logs - 1) / 2
