"""Privacy risk score: how likely each example's output is to be a member's (section 4.3, Figures 2 and 13).

Source: Song and Mittal, *Systematic Evaluation of Privacy Risks of Machine Learning Models*, 2021, the
paper's [27]. :func:`privacy_risk_score` is their score, :func:`privacy_risk_score_released` that of the code
published with *Unrolling SGD*.
"""

import torch
from torch import Tensor

from unrolling._checks import check_integer, check_real
from unrolling.metrics._inputs import (
    LabelledOutputs,
    check_labelled,
    check_labels,
    check_outputs,
    check_probabilities,
)
from unrolling.metrics._per_class import score_per_class

#: Floor of every argument of a logarithm, as in the authors' code: it caps a logarithm at 69, not infinity.
_SMALLEST_LOG_ARGUMENT = 1e-30
#: Modified entropies below this are put here before their logarithm is binned, as in the authors' code.
_SMALLEST_ENTROPY = 1e-10


def modified_entropy(probabilities: Tensor, labels: Tensor) -> Tensor:
    r"""Return each example's modified entropy: 0 if surely right, large if surely wrong.

    .. math:: \mathrm{Mentr}(p, y) = -(1 - p_y) \ln p_y - \sum_{i \neq y} p_i \ln(1 - p_i)

    Unlike entropy it falls with :math:`p_y` and rises with every other probability. Source: Song and Mittal,
    2021, Equation 8. Logarithms are taken of at least 1e-30, as in their code.

    Args:
        probabilities: Shape (examples, classes); a softmax in float64 keeps the digits of sure examples.
        labels: int64 class numbers of shape (examples,).

    Example:
        >>> modified_entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([0, 0]))  # ln 2 and 0
        tensor([0.6931, 0.0000], dtype=torch.float64)
    """
    values = check_probabilities("probabilities", probabilities)
    return _modified_entropy(values, check_labels(labels, values))


def _modified_entropy(values: Tensor, labels: Tensor) -> Tensor:
    """Return the formula's value whatever ``values`` are: probabilities, or logits as released."""
    index = labels[:, None]
    own = values.gather(1, index).squeeze(1)
    others = (values * (1 - values).clamp(min=_SMALLEST_LOG_ARGUMENT).log()).scatter(1, index, 0)
    return (own - 1) * own.clamp(min=_SMALLEST_LOG_ARGUMENT).log() - others.sum(dim=1)


def privacy_risk_score(
    shadow_member: LabelledOutputs,
    shadow_nonmember: LabelledOutputs,
    query: LabelledOutputs,
    *,
    num_bins: int = 5,
    smoothing: float = 0.0,
) -> Tensor:
    r"""Return each query example's privacy risk score: how probable it is that it was trained on.

    .. math:: \begin{gathered}
              r(x) = \frac{P_{in}}{P_{in} + P_{out}}, \\
              P_{in} = P(\mathrm{Mentr}(x) \mid y, \text{member}), \quad
              P_{out} = P(\mathrm{Mentr}(x) \mid y, \text{non-member})
              \end{gathered}

    where members and non-members are equally likely beforehand (Song and Mittal, 2021, Equations 13 and 15).
    Both probabilities are shares of the shadow model's examples of class y in one common set of bins, equally
    wide in the logarithm of the modified entropy, between the smallest and the largest value in that class.
    Query values outside this range count for the first or the last bin. A bin that holds no shadow example
    says nothing; the nearest one that does is taken, of two equally near the one of lower entropy. Five bins,
    the scale and these rules are the choices of the authors' code.

    Args:
        shadow_member: Probabilities (examples, classes) of a shadow model on data it was trained on, and the
            labels. The shadow model is trained as the attacked one, but on other data.
        shadow_nonmember: The same on data it was not trained on.
        query: Probabilities of the attacked model, in evaluation mode, and the labels.
        num_bins: Bins for each class.
        smoothing: Laplace smoothing :math:`\alpha \geq 0`: a share becomes
            :math:`(n_{bin} + \alpha) / (n + \alpha \cdot \text{bins})`, so few examples make no certainty.

    Returns:
        Shape (examples of ``query``,), float64.

    Raises:
        InputError: If outputs are no probabilities, or a class of ``query`` lacks shadow members or
            non-members.

    Example:
        >>> member = torch.tensor([[0.99, 0.01], [0.98, 0.02], [0.6, 0.4]]), torch.tensor([0, 0, 0])
        >>> other = torch.tensor([[0.98, 0.02], [0.6, 0.4], [0.55, 0.45]]), torch.tensor([0, 0, 0])
        >>> privacy_risk_score(member, other, member, num_bins=2)  # shares 2/3, 1/3 against 1/3, 2/3
        tensor([0.6667, 0.6667, 0.3333], dtype=torch.float64)
    """
    count = check_integer("num_bins", num_bins, minimum=1)
    alpha = check_real("smoothing", smoothing, minimum=0)

    def measure(name: str, pair: LabelledOutputs) -> LabelledOutputs:
        values, labels = check_labelled(name, pair, check_probabilities)
        return _modified_entropy(values, labels).clamp(min=_SMALLEST_ENTROPY).log(), labels

    def risk(members: Tensor, others: Tensor, queries: Tensor) -> Tensor:
        both = torch.cat([members, others])
        edges = _inner_edges(both, count)

        def shares(sample: Tensor) -> Tensor:
            return (_counts(sample, edges) + alpha) / (len(sample) + alpha * count)

        inside, outside = shares(members), shares(others)
        filled = (inside + outside > 0).nonzero().squeeze(1)
        distance = (_bin(queries, edges)[:, None] - filled).abs()
        nearest = filled[distance.argmin(dim=1)]  # argmin takes the first of equals: the lower bin
        return inside[nearest] / (inside + outside)[nearest]

    pairs = {"shadow_member": shadow_member, "shadow_nonmember": shadow_nonmember, "query": query}
    return score_per_class(risk, *(measure(name, pair) for name, pair in pairs.items()))


def privacy_risk_score_released(
    shadow_member: LabelledOutputs, shadow_nonmember: LabelledOutputs, query: LabelledOutputs
) -> Tensor:
    r"""Return the score as the code published with *Unrolling SGD* computes it, for comparison only.

    It differs from :func:`privacy_risk_score` in what it is given and in how it counts. The published scripts
    pass *logits*: where one is negative, or above 1, a logarithm in the modified entropy meets its floor of
    1e-30, and a constant added to all logits, which changes no prediction, changes the score. Then members
    and non-members are counted in ten bins *each between their own smallest and largest value*, equally wide
    there, so the two shares compared belong to different intervals: r is no probability of membership. Where
    both shares are 0 the score is NaN, as 0 / 0 is there.

    Pass logits for the published score. Pass probabilities to see the effect of the bins alone.

    Args:
        shadow_member: Outputs (examples, classes) of a shadow model on its training data, and the labels.
        shadow_nonmember: The same on data it was not trained on.
        query: Outputs of the attacked model, and the labels.

    Returns:
        Shape (examples of ``query``,), float64; may hold NaN.
    """

    def measure(name: str, pair: LabelledOutputs) -> LabelledOutputs:
        values, labels = check_labelled(name, pair, check_outputs)
        return _modified_entropy(values, labels), labels

    def risk(members: Tensor, others: Tensor, queries: Tensor) -> Tensor:
        def share(sample: Tensor) -> Tensor:
            edges = _inner_edges(sample, 10)
            return (_counts(sample, edges) / len(sample))[_bin(queries, edges)]

        inside, outside = share(members), share(others)
        return inside / (inside + outside)

    pairs = {"shadow_member": shadow_member, "shadow_nonmember": shadow_nonmember, "query": query}
    return score_per_class(risk, *(measure(name, pair) for name, pair in pairs.items()))


def _inner_edges(values: Tensor, num_bins: int) -> Tensor:
    """Return the edges between ``num_bins`` equal bins from the smallest to the largest value."""
    low, high = float(values.min()), float(values.max())
    return torch.linspace(low, high, num_bins + 1, dtype=torch.float64)[1:-1]


def _bin(values: Tensor, edges: Tensor) -> Tensor:
    """Return each value's bin; a value on an edge belongs to the upper bin."""
    return torch.bucketize(values, edges, right=True)


def _counts(values: Tensor, edges: Tensor) -> Tensor:
    return _bin(values, edges).bincount(minlength=len(edges) + 1).double()
