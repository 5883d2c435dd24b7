"""What an attack's scores tell apart: the ROC curve, its area, and the true positives at few false ones."""

from dataclasses import dataclass

import torch
from torch import Tensor

from unrolling._checks import InputError, check_real
from unrolling.metrics._inputs import check_values


@dataclass(frozen=True)
class RocCurve:
    """The attack "a member, if the score is at least the threshold" at every threshold.

    Attributes:
        thresholds: From infinity, where nobody is called a member, down to the lowest score.
        true_positive_rates: Share of members called members, same shape.
        false_positive_rates: Share of non-members called members, same shape.
        auc: Area under the curve: the probability that a member's score is the higher one of a random pair,
            ties counting half. 0.5 is guessing.
    """

    thresholds: Tensor
    true_positive_rates: Tensor
    false_positive_rates: Tensor
    auc: float


def roc_curve(member_scores: Tensor, nonmember_scores: Tensor) -> RocCurve:
    """Return the ROC curve of scores that are meant to be higher for members.

    Args:
        member_scores: Shape (members,). A loss or an entropy is lower for members: pass it negated.
        nonmember_scores: Shape (non-members,).

    Example:
        >>> roc_curve(torch.tensor([0.9, 0.4]), torch.tensor([0.4, 0.1])).auc  # pairs: 1, 1, 1/2, 1
        0.875
    """
    members = check_values("member_scores", member_scores)
    others = check_values("nonmember_scores", nonmember_scores)
    scores = torch.cat([members, others]).unique().flip(0)

    def share_at_least(sample: Tensor) -> Tensor:
        below = torch.searchsorted(sample.sort().values, scores).double()
        return torch.cat([torch.zeros(1, dtype=torch.float64), (len(sample) - below) / len(sample)])

    true, false = share_at_least(members), share_at_least(others)
    return RocCurve(
        thresholds=torch.cat([torch.full((1,), torch.inf, dtype=torch.float64), scores]),
        true_positive_rates=true,
        false_positive_rates=false,
        auc=float(torch.trapezoid(true, false)),
    )


def tpr_at_fpr(curve: RocCurve, false_positive_rate: float) -> float:
    """Return the largest true positive rate among thresholds with at most this false positive rate.

    Carlini et al., *Membership Inference Attacks From First Principles*, 2022, section III: an attack matters
    if it is sure about a few, which an average over all examples does not show. Points of the curve are not
    interpolated. Below 1 / non-members only thresholds without any false positive are left, so the number of
    non-members must be well above 1 / ``false_positive_rate``.

    Args:
        curve: From :func:`roc_curve`.
        false_positive_rate: Between 0 and 1; 0.001 or 0.01 are usual.
    """
    if not isinstance(curve, RocCurve):
        raise InputError(f"`curve` must be from roc_curve(...), got {type(curve).__name__}.")
    limit = check_real("false_positive_rate", false_positive_rate, minimum=0)
    if limit > 1:
        raise InputError(f"false_positive_rate must be at most 1, got {limit:g}.")
    return float(curve.true_positive_rates[curve.false_positive_rates <= limit].max())
