"""Attacks on single examples with many models: the likelihood ratio (LiRA, U-LiRA) and KLoM.

Both look at one number for each model and example, the margin of the true class, and compare its distribution
over models of one kind with that over models of the other. Neither is in the paper.
"""

import math

import torch
from torch import Tensor

from unrolling._checks import InputError, check_integer
from unrolling.metrics._inputs import check_labels, check_outputs, check_values


def logit_margin(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Return each example's logit-scaled confidence, which is also its margin, shape (examples,).

    .. math:: \phi(x) = \ln \frac{p_y}{1 - p_y} = z_y - \ln \sum_{i \neq y} e^{z_i}

    The first form is that of Carlini et al., 2022, section V, the second that of Georgiev et al., 2024; from
    logits it keeps its digits where p is near 1. Over models it is roughly Gaussian, which p is not.

    Args:
        logits: Shape (examples, classes); logarithms of probabilities do as well.
        labels: int64 class numbers of shape (examples,).

    Example:
        >>> logit_margin(torch.tensor([[3.0, 1.0]]), torch.tensor([0]))
        tensor([2.], dtype=torch.float64)
    """
    values = check_outputs("logits", logits)
    index = check_labels(labels, values)[:, None]
    own = values.gather(1, index).squeeze(1)
    return own - values.scatter(1, index, -math.inf).logsumexp(dim=1)


def likelihood_ratio_scores(
    shadow_margins: Tensor, is_member: Tensor, margins: Tensor, *, shared_variance: bool = False
) -> Tensor:
    r"""Return the log-likelihood ratio of each example for each attacked model; higher speaks for a member.

    .. math:: \Lambda(x) = \ln N(\phi(x); \mu_{in}, \sigma_{in}^2) - \ln N(\phi(x); \mu_{out}, \sigma_{out}^2)

    with two Gaussians fitted to every example's margins on its own. LiRA (Carlini et al., *Membership
    Inference Attacks From First Principles*, 2022, Algorithm 1): "in" are models trained with the example,
    "out" models trained without it. U-LiRA (Kurmanji et al., *Towards Unbounded Machine Unlearning*, 2023;
    Hayes et al., *Inexact Unlearning Needs More Careful Evaluations to Avoid a False Sense of Privacy*,
    2024): "in" are models that were trained with the example and unlearned it, "out" models retrained
    without it.

    Score models that are not among the shadow models: a model's own margins draw the fit to themselves, so
    scores of the fitted models tell the two kinds apart even where there is nothing to tell. Pass the scores
    where the attacked model is "in" and those where it is "out" to :func:`unrolling.metrics.roc_curve`.

    Variances are sums of squares divided by models - 1. With few models the scores are too extreme, so judge
    them by their ROC curve rather than by 0 as the border.

    Args:
        shadow_margins: From :func:`logit_margin`, shape (models, examples).
        is_member: True where the model is "in" for the example, same shape; or shape (models, 1) if that is
            the same for all examples. Every example needs two models of either kind.
        margins: Shape (attacked models, examples).
        shared_variance: Use one variance for all examples, their mean, for each kind. Carlini et al. advise
            this where models are few.

    Returns:
        Shape (attacked models, examples), float64.

    Raises:
        InputError: If an example has fewer than two models of a kind, or all of a kind agree on it exactly.

    Example:
        >>> shadows = torch.tensor([[1.0], [3.0], [-1.0], [-3.0]])  # N(2, 2) against N(-2, 2)
        >>> members = torch.tensor([[True], [True], [False], [False]])
        >>> likelihood_ratio_scores(shadows, members, torch.tensor([[0.0], [1.0]]))
        tensor([[0.],
                [2.]], dtype=torch.float64)
    """
    shadows = check_values("shadow_margins", shadow_margins, ndim=2)
    attacked = check_values("margins", margins, ndim=2)
    models, examples = shadows.shape
    if attacked.shape[1] != examples:
        raise InputError(
            f"`margins` must have a column for each of the {examples} examples in `shadow_margins`, got "
            f"shape {tuple(attacked.shape)}."
        )
    if (
        not isinstance(is_member, Tensor)
        or is_member.dtype != torch.bool
        or is_member.shape not in ((models, examples), (models, 1))
    ):
        raise InputError(
            f"`is_member` must be a bool tensor of shape ({models}, {examples}) or ({models}, 1)."
        )
    member = is_member.to("cpu").expand_as(shadows)
    inside, var_in = _fit(shadows, member, shared_variance)
    outside, var_out = _fit(shadows, ~member, shared_variance)
    return (
        (attacked - outside) ** 2 / var_out - (attacked - inside) ** 2 / var_in + (var_out / var_in).log()
    ) / 2


def _fit(margins: Tensor, chosen: Tensor, shared_variance: bool) -> tuple[Tensor, Tensor]:
    """Return each example's mean and variance over the chosen models."""
    count = chosen.sum(dim=0)
    if int(count.min()) < 2:
        raise InputError(
            f"example {int(count.argmin())} has {int(count.min())} models of a kind, expected at least two "
            "trained with it and two without."
        )
    mean = (margins * chosen).sum(dim=0) / count
    variance = ((margins - mean) ** 2 * chosen).sum(dim=0) / (count - 1)
    lowest, highest = (
        margins.where(chosen, math.inf).amin(dim=0),
        margins.where(chosen, -math.inf).amax(dim=0),
    )
    variance = variance.where(lowest < highest, 0.0)  # equal numbers may leave a rounding error
    if shared_variance:
        variance = variance.mean().expand_as(variance)
    if not bool((variance > 0).all()):
        raise InputError(
            f"all models of a kind have the same margin for example {int(variance.argmin())}: no Gaussian "
            "fits. Use more models, or shared_variance=True."
        )
    return mean, variance


def klom(unlearned_margins: Tensor, retrained_margins: Tensor, *, num_bins: int = 20) -> Tensor:
    r"""Return KLoM, the KL divergence of margins, for each example in nats.

    .. math:: \mathrm{KLoM}(x) = \sum_b p_b \ln \frac{p_b}{q_b}

    where p and q are the shares of unlearned and of retrained models whose margin of x falls into bin b.
    Source: Georgiev et al., *Attribute-to-Delete: Machine Unlearning via Datamodel Matching*, 2024, appendix
    E.1. As in their code margins are clipped to -100..100, twenty equal bins span both kinds of models, and q
    is raised to 1e-5 where p is not 0 and then normalised again, so KLoM is at most about 11.5. Unlike there,
    the largest margin falls into the last bin rather than into none.

    Few models make it large: even where the two kinds do not differ it is far from 0 unless models are many
    more than bins. Compare with KLoM of one set of retrained models against another of the same size.

    Args:
        unlearned_margins: From :func:`logit_margin`, shape (models, examples), at least two models.
        retrained_margins: Shape (other models, examples), at least two.
        num_bins: Bins for each example.

    Returns:
        Shape (examples,), float64.

    Example:
        >>> unlearned, retrained = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [0.0], [0.0], [1.0]])
        >>> klom(unlearned, retrained)  # ln(4 / 3) / 2
        tensor([0.1438], dtype=torch.float64)
    """
    count = check_integer("num_bins", num_bins, minimum=1)
    unlearned = check_values("unlearned_margins", unlearned_margins, ndim=2)
    samples = [
        _check_models(name, given, unlearned.shape[1]).clamp(-100, 100)
        for name, given in (("unlearned_margins", unlearned), ("retrained_margins", retrained_margins))
    ]
    both = torch.cat(samples)
    low, width = both.amin(dim=0), both.amax(dim=0) - both.amin(dim=0)
    width = width.where(width > 0, 1.0)  # all margins equal: one bin holds all

    def shares(values: Tensor) -> Tensor:
        bins = (count * (values - low) / width).long().clamp(max=count - 1)
        zeros = torch.zeros(count, values.shape[1], dtype=torch.float64)
        return zeros.scatter_add(0, bins, torch.ones_like(values)) / len(values)

    p, q = map(shares, samples)
    q = q.clamp(min=1e-5).where(p > 0, q)
    q = q / q.sum(dim=0)
    return (torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum(dim=0)


def _check_models(name: str, margins: Tensor, num_examples: int) -> Tensor:
    values = check_values(name, margins, ndim=2)
    if len(values) < 2 or values.shape[1] != num_examples:
        raise InputError(
            f"`{name}` must have shape (models >= 2, {num_examples}), one row for each model and one column "
            f"for each example, got {tuple(values.shape)}."
        )
    return values
