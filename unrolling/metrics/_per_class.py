"""Attacks that look at one class at a time, as those with shadow models do."""

from collections.abc import Callable

import torch
from torch import Tensor

from unrolling._checks import InputError
from unrolling.metrics._inputs import LabelledOutputs


def score_per_class(
    score: Callable[[Tensor, Tensor, Tensor], Tensor],
    shadow_member: LabelledOutputs,
    shadow_nonmember: LabelledOutputs,
    query: LabelledOutputs,
) -> Tensor:
    """Return ``score(members, nonmembers, queries)`` of each class, in the order of the query examples.

    Every pair holds values, one row for each example, and labels.
    """
    (members, member_labels), (others, other_labels), (queries, labels) = (
        shadow_member,
        shadow_nonmember,
        query,
    )
    scores = torch.empty(len(queries), dtype=torch.float64)
    for label in labels.unique().tolist():
        own, theirs = members[member_labels == label], others[other_labels == label]
        for name, values in (("shadow_member", own), ("shadow_nonmember", theirs)):
            if not len(values):
                raise InputError(f"`{name}` has no example of class {label}, which `query` asks about.")
        scores[labels == label] = score(own, theirs, queries[labels == label])
    return scores
