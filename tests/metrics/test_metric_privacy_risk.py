"""The privacy risk score against hand-made histograms and a slow reference; the released one beside it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolling import make_generator
from unrolling._checks import InputError
from unrolling.metrics.privacy_risk import (
    modified_entropy,
    privacy_risk_score,
    privacy_risk_score_released,
)


def logits_of(size, num_classes, seed, scale=2.0, lead=0.0):
    """Return random logits, with the true class ahead by `lead`, and labels that hold every class."""
    generator = make_generator(seed, "logits")
    labels = torch.arange(size) % num_classes
    logits = scale * torch.randn(size, num_classes, generator=generator, dtype=torch.float64)
    logits[torch.arange(size), labels] += lead
    return logits, labels


def softmax(pair):
    return pair[0].softmax(dim=1), pair[1]


def with_entropies(*values):
    """Return two-class outputs of class 0 with these modified entropies: -2 (1 - p) ln p falls from p = 0."""
    low, high = torch.zeros(len(values), dtype=torch.float64), torch.ones(len(values), dtype=torch.float64)
    for _ in range(200):
        p = (low + high) / 2
        above = -2 * (1 - p) * p.log() > torch.tensor(values, dtype=torch.float64)
        low, high = torch.where(above, p, low), torch.where(above, high, p)
    return torch.stack([p, 1 - p], dim=1), torch.zeros(len(values), dtype=torch.int64)


def test_modified_entropy_by_hand():
    found = modified_entropy(torch.tensor([[0.5, 0.3, 0.2]]).double(), torch.tensor([0]))
    expected = -0.5 * math.log(0.5) - 0.3 * math.log(0.7) - 0.2 * math.log(0.8)
    assert float(found) == pytest.approx(expected)


def test_modified_entropy_of_the_sure_is_zero_if_right_and_capped_if_wrong():
    outputs = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    right, wrong = modified_entropy(outputs, torch.tensor([0, 1])).tolist()
    assert right == 0
    assert wrong == pytest.approx(2 * 30 * math.log(10))


@settings(deadline=None, derandomize=True, max_examples=50)
@given(seed=st.integers(0, 10**6), part=st.floats(0.05, 0.95))
def test_modified_entropy_falls_when_probability_moves_to_the_true_class(seed, part):
    before, labels = softmax(logits_of(5, 5, seed, scale=1.0))
    moved = before.clone()
    rows, source = torch.arange(5), (labels + 1) % 5
    moved[rows, labels] += part * before[rows, source]
    moved[rows, source] -= part * before[rows, source]
    assert bool((modified_entropy(moved, labels) < modified_entropy(before, labels)).all())


def test_scores_of_a_histogram_made_by_hand():
    # From 0.001 to 10 in four decades: one bin each. Class 0 only.
    members = with_entropies(0.001, 0.002, 0.02, 10.0)
    others = with_entropies(0.05, 0.03, 5.0, 2.0, 3.0)
    query = with_entropies(0.005, 0.05, 4.0, 1e-6, 11.0)
    scores = privacy_risk_score(members, others, query, num_bins=4)
    middle, last = (1 / 4) / (1 / 4 + 2 / 5), (1 / 4) / (1 / 4 + 3 / 5)
    assert scores.tolist() == pytest.approx([1.0, middle, last, 1.0, last])


def test_an_empty_bin_takes_the_nearest_filled_one_and_of_two_the_lower():
    members, others = with_entropies(0.001, 0.002), with_entropies(100.0, 0.02)
    # Five decades; the third, fourth and fifth from the left: 0.1 to 1 and 1 to 10 are empty.
    query = with_entropies(0.5, 5.0)
    assert privacy_risk_score(members, others, query).tolist() == [0.0, 0.0]
    assert privacy_risk_score(members, with_entropies(100.0), with_entropies(0.5)).tolist() == [1.0]
    assert privacy_risk_score(members, with_entropies(100.0), with_entropies(5.0)).tolist() == [0.0]


def slow_scores(members, others, query, num_bins, smoothing):
    """Compute the score from numpy's histograms, one example at a time."""
    scores = []
    for value, label in zip(modified_entropy(*query).tolist(), query[1].tolist(), strict=True):
        own, theirs = (
            np.maximum(modified_entropy(*pair)[pair[1] == label].numpy(), 1e-10) for pair in (members, others)
        )
        both = np.concatenate([own, theirs])
        edges = np.geomspace(both.min(), both.max(), num_bins + 1)
        edges[0], edges[-1] = both.min(), both.max()  # the last digit of geomspace
        p_in, p_out = (
            (np.histogram(v, edges)[0] + smoothing) / (len(v) + smoothing * num_bins) for v in (own, theirs)
        )
        inside = np.clip(np.searchsorted(edges, value, side="right") - 1, 0, num_bins - 1)
        filled = [k for k in range(num_bins) if p_in[k] + p_out[k] > 0]
        k = min(filled, key=lambda k: (abs(k - inside), k))
        scores.append(p_in[k] / (p_in[k] + p_out[k]))
    return scores


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(6, 40),
    num_bins=st.integers(1, 12),
    smoothing=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_scores_are_those_of_the_slow_reference(seed, size, num_bins, smoothing):
    members = softmax(logits_of(size, 3, seed, lead=4.0))
    others = softmax(logits_of(size + 5, 3, seed + 1, lead=1.0))
    query = softmax(logits_of(30, 3, seed + 2, scale=3.0, lead=2.0))
    found = privacy_risk_score(members, others, query, num_bins=num_bins, smoothing=smoothing)
    assert found.tolist() == pytest.approx(slow_scores(members, others, query, num_bins, smoothing))


def test_equal_distributions_give_one_half():
    shadow, query = softmax(logits_of(60, 3, 0)), softmax(logits_of(60, 3, 1))
    for smoothing in (0.0, 1.0):
        assert privacy_risk_score(shadow, shadow, query, smoothing=smoothing).tolist() == [0.5] * 60
    same = with_entropies(0.3, 0.3)  # all values equal: the bins have no width
    assert privacy_risk_score(same, same, with_entropies(0.1, 0.3, 0.5)).tolist() == [0.5] * 3


def test_planted_leakage_gives_one_and_zero():
    members, others = softmax(logits_of(60, 3, 0, lead=40.0)), softmax(logits_of(60, 3, 1, lead=-40.0))
    assert privacy_risk_score(members, others, members).tolist() == [1.0] * 60
    assert privacy_risk_score(members, others, others).tolist() == [0.0] * 60


@settings(deadline=None, derandomize=True, max_examples=40)
@given(seed=st.integers(0, 10**6), num_bins=st.integers(1, 10))
def test_scores_of_the_shadow_examples_themselves_add_up_to_the_number_of_members(seed, num_bins):
    members, others = softmax(logits_of(60, 3, seed, lead=3.0)), softmax(logits_of(60, 3, seed + 1))
    everyone = torch.cat([members[0], others[0]]), torch.cat([members[1], others[1]])
    assert float(privacy_risk_score(members, others, everyone, num_bins=num_bins).sum()) == pytest.approx(60)


def test_smoothing_by_hand_and_in_the_limit():
    members, others = with_entropies(0.001, 0.002, 1.0), with_entropies(0.5, 1.0)
    score = privacy_risk_score(members, others, with_entropies(0.001), num_bins=2, smoothing=1.0)
    assert float(score) == pytest.approx((3 / 5) / (3 / 5 + 1 / 4))
    far = privacy_risk_score(members, others, members, num_bins=2, smoothing=1e9)
    assert far.tolist() == pytest.approx([0.5] * 3)


def test_smallest_and_largest_probabilities_are_finite():
    sure = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.7, 0.3]]), torch.tensor([0, 0, 0])
    wrong = torch.tensor([[0.0, 1.0], [0.6, 0.4]]), torch.tensor([0, 0])
    assert privacy_risk_score(sure, wrong, wrong).isfinite().all()
    assert privacy_risk_score(sure, wrong, sure)[0] == 1


def test_the_released_score_changes_when_all_logits_of_an_example_rise_alike():
    pairs = [logits_of(90, 3, 0, lead=3.0), logits_of(90, 3, 1), logits_of(90, 3, 2)]
    raised = [(logits + 1.5, labels) for logits, labels in pairs]
    torch.testing.assert_close(
        privacy_risk_score(*map(softmax, raised)), privacy_risk_score(*map(softmax, pairs))
    )
    gap = privacy_risk_score_released(*raised) - privacy_risk_score_released(*pairs)
    assert float(gap.nan_to_num().abs().max()) > 0.1


def test_the_released_modified_entropy_meets_its_floor_by_hand():
    # One value alone makes bins without width; its class has logits -1 (own) and 3.
    low, high = torch.tensor([[-1.0, 3.0]]), torch.tensor([[0.5, 0.5]])
    floor = 30 * math.log(10)
    expected = [2 * floor + 3 * floor, math.log(2)]
    shadow = torch.cat([low, high]), torch.tensor([0, 0])
    # Equal bins between the two: a query at the seventh edge is in the eighth bin, which is empty.
    edge = expected[1] + 0.7 * (expected[0] - expected[1])
    own = math.exp(-1)  # a logit below 1 for which the formula gives a value of our choice
    other = (edge - (1 - own)) / floor  # above 1: its logarithm is at the floor too
    query = torch.tensor([[own, other], [0.5, 0.5]], dtype=torch.float64), torch.tensor([0, 0])
    found = privacy_risk_score_released(shadow, shadow, query)
    assert math.isnan(found[0])
    assert found[1] == 0.5


def test_with_probabilities_and_one_range_the_released_score_is_that_of_common_linear_bins():
    members, others = softmax(logits_of(40, 2, 0, lead=2.0)), softmax(logits_of(40, 2, 1))
    ends = with_entropies(1e-6, 12.0)  # in both: one range, so one set of edges

    def joined(pair):
        values = modified_entropy(*pair)
        keep = (pair[1] == 0) & (values > 1e-6) & (values < 12)
        return torch.cat([pair[0][keep], ends[0]]), torch.cat([pair[1][keep], ends[1]])

    members, others = joined(members), joined(others)
    own, theirs = (modified_entropy(*pair).numpy() for pair in (members, others))
    assert (own.min(), own.max()) == (theirs.min(), theirs.max())
    edges = np.linspace(own.min(), own.max(), 11)
    shares = [np.histogram(values, edges)[0] / len(values) for values in (own, theirs)]
    where = np.clip(np.searchsorted(edges, own, side="right") - 1, 0, 9)
    expected = shares[0][where] / (shares[0] + shares[1])[where]
    found = privacy_risk_score_released(members, others, members)
    np.testing.assert_allclose(found, expected)


def test_bins_of_their_own_hide_how_far_apart_members_and_others_are():
    # Members fill 0.1 to 0.9 evenly and non-members 0.1 to 10: in the members' range nearly all are members,
    # yet both have one tenth in each of their own ten bins.
    steps = np.linspace(0, 1, 10)
    members, others = with_entropies(*(0.1 + 0.8 * steps)), with_entropies(*(0.1 + 9.9 * steps))
    assert privacy_risk_score_released(members, others, members).tolist() == [0.5] * 10
    scores = privacy_risk_score(members, others, members, num_bins=2)  # the edge is at 1
    assert scores.tolist() == pytest.approx([10 / 11] * 10)


def test_the_released_score_is_nan_where_both_shares_are_zero():
    shadow = with_entropies(0.1, 0.2, 8.0)
    query = with_entropies(0.1, 4.0, 8.0)
    assert privacy_risk_score(shadow, shadow, query).tolist() == [0.5, 0.5, 0.5]
    found = privacy_risk_score_released(shadow, shadow, query).tolist()
    assert (found[0], found[2]) == (0.5, 0.5)
    assert math.isnan(found[1])
    # Bins without width: as there, their common edge belongs to the last bin, so only lower values miss it.
    same = with_entropies(0.3, 0.3)
    lower, equal, higher = privacy_risk_score_released(same, same, with_entropies(0.1, 0.3, 0.5)).tolist()
    assert math.isnan(lower)
    assert (equal, higher) == (0.5, 0.5)


PAIR = softmax(logits_of(4, 2, 0))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: privacy_risk_score(PAIR, PAIR, logits_of(4, 2, 0)), "query.*Are these logits"),
        (lambda: privacy_risk_score(PAIR[0], PAIR, PAIR), "`shadow_member` must be a pair.*got Tensor"),
        (lambda: privacy_risk_score(PAIR, PAIR, PAIR, num_bins=0), "num_bins must be at least 1"),
        (lambda: privacy_risk_score(PAIR, PAIR, PAIR, smoothing=-1.0), "smoothing must be at least 0"),
        (lambda: modified_entropy(PAIR[0], PAIR[1][:3]), "int64 class numbers of shape \\(4,\\)"),
        (
            lambda: privacy_risk_score((PAIR[0][:1], PAIR[1][:1]), PAIR, PAIR),
            "`shadow_member` has no example of class 1",
        ),
        (
            lambda: privacy_risk_score_released(PAIR, (PAIR[0][:1], PAIR[1][:1]), PAIR),
            "`shadow_nonmember` has no example of class 1",
        ),
    ],
)
def test_misuse_is_said_in_words(call, words):
    with pytest.raises(InputError, match=words):
        call()
