"""ROC curves and membership attacks: by hand, against scikit-learn, with planted leakage and with none."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn import metrics
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC

from unrolling import make_generator
from unrolling._checks import InputError
from unrolling.metrics.membership import loss_threshold_attack, shadow_model_attack
from unrolling.metrics.roc import roc_curve, tpr_at_fpr

FEW = st.lists(st.integers(-4, 4), min_size=1, max_size=12)


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_curve_of_six_points_by_hand():
    curve = roc_curve(vector(3, 2, 1), vector(2, 0, 0))
    assert curve.thresholds.tolist() == [math.inf, 3, 2, 1, 0]
    assert curve.true_positive_rates.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])
    assert curve.false_positive_rates.tolist() == pytest.approx([0, 0, 1 / 3, 1 / 3, 1])
    assert curve.auc == pytest.approx((3 + 2.5 + 2) / 9)  # won pairs, half for the tie
    assert tpr_at_fpr(curve, 0) == pytest.approx(1 / 3)
    assert tpr_at_fpr(curve, 0.33) == pytest.approx(1 / 3)  # not interpolated
    assert tpr_at_fpr(curve, 1 / 3) == 1


@settings(deadline=None, derandomize=True, max_examples=100)
@given(members=FEW, others=FEW)
def test_area_is_the_share_of_won_pairs_and_what_scikit_learn_finds(members, others):
    curve = roc_curve(vector(*members), vector(*others))
    pairs = [(m > o) + (m == o) / 2 for m in members for o in others]
    assert curve.auc == pytest.approx(np.mean(pairs))
    truth = [1] * len(members) + [0] * len(others)
    assert curve.auc == pytest.approx(metrics.roc_auc_score(truth, members + others))
    false, true, _ = metrics.roc_curve(truth, members + others, drop_intermediate=False)
    np.testing.assert_allclose(curve.false_positive_rates, false)
    np.testing.assert_allclose(curve.true_positive_rates, true)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(members=FEW, others=FEW)
def test_area_knows_only_the_order_of_the_scores_and_turns_round_with_the_roles(members, others):
    curve = roc_curve(vector(*members), vector(*others))
    assert roc_curve(vector(*members).exp(), vector(*others).exp()).auc == curve.auc
    assert roc_curve(vector(*others), vector(*members)).auc == pytest.approx(1 - curve.auc)


@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0])
def test_curve_of_two_gaussians_is_the_closed_form(shift):
    # Quantiles in the place of draws: what is left is the error of a step function, below 1 / n.
    others = torch.from_numpy(norm.ppf((np.arange(40_000) + 0.5) / 40_000))
    curve = roc_curve(others + shift, others)
    assert curve.auc == pytest.approx(norm.cdf(shift / math.sqrt(2)), abs=1e-3)
    for limit in (0.001, 0.01, 0.2):
        assert tpr_at_fpr(curve, limit) == pytest.approx(norm.cdf(shift + norm.ppf(limit)), abs=2e-3)


def test_threshold_attack_on_six_points_by_hand():
    attack = loss_threshold_attack(vector(0.0, 0.25, 1.25), vector(0.5, 0.75, 2.0))
    assert attack.threshold == 0.5
    assert (attack.true_positive_rate, attack.false_positive_rate) == pytest.approx((2 / 3, 1 / 3))
    assert attack.advantage == pytest.approx(1 / 3)
    assert loss_threshold_attack(vector(0.0, 0.2), vector(0.4, 0.1), threshold=0.3).advantage == 0.5


def test_a_loss_equal_to_the_threshold_is_a_members():
    assert loss_threshold_attack(vector(0.5), vector(0.5)).advantage == 0
    assert loss_threshold_attack(vector(0.5), vector(0.5)).true_positive_rate == 1


@settings(deadline=None, derandomize=True, max_examples=50)
@given(
    wrong=st.lists(st.booleans(), min_size=1, max_size=9).filter(lambda w: not all(w)),
    other=st.lists(st.booleans(), min_size=1, max_size=9),
)
def test_advantage_with_the_zero_one_loss_is_the_gap_of_the_accuracies(wrong, other):
    attack = loss_threshold_attack(torch.tensor(wrong), torch.tensor(other))
    assert attack.advantage == pytest.approx(np.mean(other) - np.mean(wrong))


def test_advantage_of_a_threshold_is_not_the_generalisation_gap_of_every_bounded_loss():
    members, others = vector(0.1, 0.3), vector(0.3, 0.3)
    assert float(others.mean() - members.mean()) == pytest.approx(0.1)
    assert loss_threshold_attack(members, others).advantage == 0.5


def test_losses_of_one_distribution_give_no_advantage():
    losses = torch.rand(20_000, generator=make_generator(0, "losses"), dtype=torch.float64)
    attack = loss_threshold_attack(losses[:10_000], losses[10_000:])
    assert abs(attack.advantage) < 4 * math.sqrt(0.25 * 2 / 10_000)  # four standard deviations
    # The same examples in both roles: exactly none.
    assert loss_threshold_attack(losses, losses).advantage == 0


def outputs(top, num_classes, seed):
    """Return outputs that give the true class the probability `top` and share the rest at random."""
    generator = make_generator(seed, "outputs")
    labels = torch.randint(0, num_classes, (len(top),), generator=generator)
    rest = torch.rand(len(top), num_classes, generator=generator, dtype=torch.float64)
    rest.scatter_(1, labels[:, None], 0.0)
    rest *= (1 - top[:, None]) / rest.sum(dim=1, keepdim=True)
    return rest.scatter(1, labels[:, None], top[:, None]), labels


def uniform(size, low, high, seed):
    return low + (high - low) * torch.rand(size, generator=make_generator(seed, "top"), dtype=torch.float64)


def auc_of(member_tops, nonmember_tops, **options):
    """Return the area for probabilities of the true class of which the first half comes from shadows."""
    member = outputs(member_tops, 4, 1)
    other = outputs(nonmember_tops, 4, 2)
    half = len(member_tops) // 2
    shadows = [tuple(part[:half] for part in pair) for pair in (member, other)]
    asked = [tuple(part[half:] for part in pair) for pair in (member, other)]
    return roc_curve(*(shadow_model_attack(*shadows, query, **options) for query in asked)).auc


def test_shadow_attack_finds_planted_leakage():
    assert auc_of(uniform(400, 0.9, 1.0, 1), uniform(400, 0.6, 0.8, 2)) == 1.0


def test_shadow_attack_is_sure_of_differences_that_are_plain_though_small():
    members = outputs(uniform(100, 0.9995, 1.0, 1), 4, 1)
    others = outputs(uniform(100, 0.9970, 0.9975, 2), 4, 2)
    assert float(shadow_model_attack(members, others, members).min()) > 0.8
    assert float(shadow_model_attack(members, others, others).max()) < 0.2


def test_shadow_attack_on_outputs_that_do_not_depend_on_membership_is_guessing():
    found = auc_of(uniform(4000, 0.6, 1.0, 1), uniform(4000, 0.6, 1.0, 2))
    assert abs(found - 0.5) < 4 * math.sqrt(1 / (6 * 2000))  # four standard deviations of an area by chance


def test_shadow_attack_learns_each_class_by_itself():
    # Class 0: members are surer. Class 1: members are less sure. One model for both would see nothing.
    tops = {True: torch.tensor([0.9, 0.6]).double(), False: torch.tensor([0.6, 0.9]).double()}
    pairs = {}
    for member, (first, second) in tops.items():
        values = torch.cat([first.expand(50), second.expand(50)])
        pairs[member] = torch.stack([values, 1 - values], dim=1), torch.arange(100) // 50
    scores = [shadow_model_attack(pairs[True], pairs[False], pairs[member]) for member in (True, False)]
    assert roc_curve(*scores).auc == 1.0


def test_shadow_attack_sees_whether_the_true_class_is_the_probable_one():
    # Members are surely right, non-members as surely wrong: sorted, their outputs are the same.
    members, labels = outputs(uniform(100, 0.9, 1.0, 1), 2, 1)
    others = 1 - members
    torch.testing.assert_close(others.sort(dim=1).values, members.sort(dim=1).values)
    shadows = (members, labels), (others, labels)
    assert roc_curve(*(shadow_model_attack(*shadows, query) for query in shadows)).auc == 1.0


def test_a_network_as_attack_model_finds_members_in_the_midst_of_others():
    members = uniform(400, 0.65, 0.75, 1)
    others = torch.cat([uniform(200, 0.5, 0.6, 2), uniform(200, 0.8, 0.9, 3)])
    others = others[torch.randperm(400, generator=make_generator(0, "mix"))]
    network = MLPClassifier((64,), solver="lbfgs", max_iter=2000, random_state=0)
    assert auc_of(members, others) < 0.7
    assert auc_of(members, others, classifier=network) > 0.95


def test_attack_models_leave_the_callers_classifier_unfitted():
    network = MLPClassifier((4,), solver="lbfgs", max_iter=2000, random_state=0)
    auc_of(uniform(80, 0.9, 1.0, 1), uniform(80, 0.6, 0.8, 2), classifier=network)
    assert not hasattr(network, "classes_")


PAIR = (torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: roc_curve(torch.zeros(0), torch.zeros(2)), "member_scores.*non-empty.*shape \\(0,\\)"),
        (lambda: roc_curve(torch.zeros(2), [0.0]), "nonmember_scores.*got list"),
        (lambda: roc_curve(torch.tensor([math.nan]), torch.zeros(2)), "member_scores.*finite"),
        (
            lambda: shadow_model_attack(PAIR, PAIR, PAIR, classifier=SVC()),
            "predict_proba.*SVC.*probability=True",
        ),
        (lambda: tpr_at_fpr(None, 0.1), "`curve` must be from roc_curve.*got NoneType"),
        (lambda: tpr_at_fpr(roc_curve(torch.ones(1), torch.zeros(1)), 2.0), "at most 1, got 2"),
        (lambda: loss_threshold_attack(torch.zeros(2, 2), torch.zeros(2)), "member_losses.*shape \\(2, 2\\)"),
        (lambda: shadow_model_attack(PAIR, PAIR, (PAIR[0].log(), PAIR[1])), "query.*Are these logits"),
        (lambda: shadow_model_attack(PAIR, PAIR, PAIR[0]), "`query` must be a pair.*got Tensor"),
        (lambda: shadow_model_attack((2 * PAIR[0] - 0.5, PAIR[1]), PAIR, PAIR), "rows >= 0 that sum to 1"),
        (lambda: shadow_model_attack(PAIR, PAIR, (PAIR[0], PAIR[1].float())), "int64 class numbers"),
        (lambda: shadow_model_attack(PAIR, PAIR, (PAIR[0], PAIR[1] + 1)), "between 0 and 1.*got 1 to 2"),
        (
            lambda: shadow_model_attack(PAIR, (PAIR[0][:1], PAIR[1][:1]), PAIR),
            "`shadow_nonmember` has no example of class 1",
        ),
        (
            lambda: shadow_model_attack((torch.ones(1, 1), torch.zeros(1).long()), PAIR, PAIR),
            "at least two classes",
        ),
    ],
)
def test_misuse_is_said_in_words(call, words):
    with pytest.raises(InputError, match=words):
        call()
