"""Membership inference by one threshold on the loss and by shadow models (section 3.2)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unrolling._checks import InputError, check_real
from unrolling.metrics._inputs import LabelledOutputs, check_labelled, check_probabilities, check_values
from unrolling.metrics._per_class import score_per_class


@dataclass(frozen=True)
class ThresholdAttack:
    """What one threshold achieves.

    Attributes:
        threshold: Highest loss that is called a member's.
        true_positive_rate: Share of members called members.
        false_positive_rate: Share of non-members called members.
        advantage: The difference of the two rates; 0 is guessing, 1 is certainty.
    """

    threshold: float
    true_positive_rate: float
    false_positive_rate: float

    @property
    def advantage(self) -> float:
        """Return TPR - FPR."""
        return self.true_positive_rate - self.false_positive_rate


def loss_threshold_attack(
    member_losses: Tensor, nonmember_losses: Tensor, *, threshold: float | None = None
) -> ThresholdAttack:
    r"""Call an example a member if its loss is at most the model's mean training loss.

    .. math:: \mathrm{Adv} = \Pr[\ell(x) \leq \tau \mid x \in D] - \Pr[\ell(x) \leq \tau \mid x \notin D]

    Source: Yeom, Giacomelli, Fredrikson and Jha, *Privacy Risk in Machine Learning*, 2018, section 3
    (the paper's [28]). For the 0-1 loss the advantage is the gap between training and test accuracy. That it
    is the generalisation gap for every bounded loss holds for another attack of theirs, which guesses
    "member" at random with probability :math:`1 - \ell / \max \ell`, not for a threshold.

    Args:
        member_losses: Each member's loss, shape (members,). To judge unlearning: the forgotten examples'.
        nonmember_losses: Each non-member's loss, shape (non-members,).
        threshold: :math:`\tau`; by default the mean of ``member_losses``. If these are only a part of the
            training set, such as the forgotten examples, pass the mean over the training set.

    Example:
        >>> attack = loss_threshold_attack(torch.tensor([0.1, 0.2, 0.9]), torch.tensor([0.3, 0.8, 1.2]))
        >>> round(attack.threshold, 2), round(attack.advantage, 4)  # two of three against one of three
        (0.4, 0.3333)
    """
    members = check_values("member_losses", member_losses)
    others = check_values("nonmember_losses", nonmember_losses)
    tau = float(members.mean()) if threshold is None else check_real("threshold", threshold)
    return ThresholdAttack(
        threshold=tau,
        true_positive_rate=float((members <= tau).double().mean()),
        false_positive_rate=float((others <= tau).double().mean()),
    )


def shadow_model_attack(
    shadow_member: LabelledOutputs,
    shadow_nonmember: LabelledOutputs,
    query: LabelledOutputs,
    *,
    classifier: Any = None,
) -> Tensor:
    """Return each query example's probability of being a member, from one attack model for each class.

    Source: Shokri, Stronati, Song and Shmatikov, *Membership Inference Attacks Against Machine Learning
    Models*, 2017, section V. The caller trains shadow models as the attacked model was trained, each on its
    own random half of some data. Their outputs on the half they saw and on the other half teach the attack
    models, one for each true label, which see the probabilities alone, in the order of the classes: sorting
    them, as later attacks do, would hide whether the true class is the probable one. Members and non-members
    count as often as they come, so pass about equally many.

    Args:
        shadow_member: Probabilities (examples, classes) of the shadow models on examples each was trained on,
            and the labels; outputs of several shadow models are concatenated.
        shadow_nonmember: The same for examples that the shadow model in question was not trained on.
        query: Probabilities of the attacked model, and the labels.
        classifier: A scikit-learn classifier with ``predict_proba``; a fresh copy is fitted for each class.
            By default a logistic regression on standardised inputs: one solution, no seed. Shokri et al. use
            a network, ``MLPClassifier((64,))``, which can also find members in the midst of others.

    Returns:
        Shape (examples of ``query``,), float64, for :func:`unrolling.metrics.roc_curve`.

    Raises:
        InputError: If outputs are no probabilities, or a class of ``query`` lacks shadow members or
            non-members.
    """
    from sklearn.base import clone
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if classifier is None:
        classifier = make_pipeline(StandardScaler(), LogisticRegression())
    elif not hasattr(classifier, "predict_proba"):
        raise InputError(
            f"`classifier` must have predict_proba, got {type(classifier).__name__} without. Of a support "
            "vector machine that is SVC(probability=True), or CalibratedClassifierCV around it."
        )

    def membership(members: Tensor, others: Tensor, queries: Tensor) -> Tensor:
        seen = torch.cat([torch.ones(len(members)), torch.zeros(len(others))])
        model = clone(classifier).fit(torch.cat([members, others]).numpy(), seen.numpy())
        return torch.from_numpy(model.predict_proba(queries.numpy())[:, 1])

    pairs = {"shadow_member": shadow_member, "shadow_nonmember": shadow_nonmember, "query": query}
    checked = [check_labelled(name, pair, check_probabilities) for name, pair in pairs.items()]
    return score_per_class(membership, *checked)
