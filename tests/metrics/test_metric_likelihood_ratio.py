"""Likelihood ratios and KLoM: by hand, against scipy, and on Gaussians whose ROC curve and KL are known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from unrolling import make_generator
from unrolling._checks import InputError
from unrolling.metrics.likelihood_ratio import klom, likelihood_ratio_scores, logit_margin
from unrolling.metrics.roc import roc_curve, tpr_at_fpr


def normal(*shape, seed=0, mean=0.0, scale=1.0):
    return mean + scale * torch.randn(*shape, generator=make_generator(seed, "margins"), dtype=torch.float64)


def column(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


def ratio(member, other, attacked, **options):
    """Return the scores for models of which each is of one kind for all examples."""
    kinds = torch.arange(len(member) + len(other))[:, None] < len(member)
    return likelihood_ratio_scores(torch.cat([member, other]), kinds, attacked, **options)


def test_margin_is_the_logit_scaled_confidence():
    logits, labels = normal(50, 4, scale=2.0), torch.arange(50) % 4
    p = logits.softmax(dim=1)[torch.arange(50), labels]
    torch.testing.assert_close(logit_margin(logits, labels), (p / (1 - p)).log())
    torch.testing.assert_close(logit_margin(logits.log_softmax(dim=1), labels), logit_margin(logits, labels))


def test_margin_keeps_its_digits_where_the_probability_rounds_to_one():
    logits = torch.tensor([[60.0, 0.0, 0.0]])
    assert float(logits.double().softmax(dim=1)[0, 0]) == 1.0
    assert float(logit_margin(logits, torch.tensor([0]))) == pytest.approx(60 - math.log(2), abs=1e-12)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(seed=st.integers(0, 10**6), inside=st.integers(2, 6), outside=st.integers(2, 6))
def test_scores_are_differences_of_scipys_log_densities(seed, inside, outside):
    member, other = normal(inside, 3, seed=seed, mean=1.0), normal(outside, 3, seed=seed + 1)
    attacked = normal(2, 3, seed=seed + 2, scale=3.0)
    expected = sum(
        sign * stats.norm.logpdf(attacked, m.numpy().mean(axis=0), m.numpy().std(axis=0, ddof=1))
        for sign, m in ((1, member), (-1, other))
    )
    np.testing.assert_allclose(ratio(member, other, attacked), expected, atol=1e-9)


def test_scores_with_one_shared_variance_by_hand():
    member = torch.tensor([[0.0, 5.0], [2.0, 5.0]])  # means 1, 5; variances 2, 0; shared 1
    other = torch.tensor([[-1.0, 0.0], [1.0, 4.0]])  # means 0, 2; variances 2, 8; shared 5
    found = ratio(member, other, torch.tensor([[2.0, 4.0]]), shared_variance=True)
    expected = [math.log(5) / 2 + 4 / 10 - 1 / 2, math.log(5) / 2 + 4 / 10 - 1 / 2]
    assert found.tolist()[0] == pytest.approx(expected)


def test_ratio_has_the_curve_of_two_gaussians_at_a_known_distance():
    # Means one apart, enough models for the fits to be those Gaussians: AUC = Phi(1 / sqrt 2).
    fits = normal(20_000, 1, mean=1.0, seed=1), normal(20_000, 1, seed=2)
    quantiles = torch.from_numpy(stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000))[:, None]
    member, other = (ratio(*fits, quantiles + shift) for shift in (1.0, 0.0))
    curve = roc_curve(member.flatten(), other.flatten())
    assert curve.auc == pytest.approx(stats.norm.cdf(1 / math.sqrt(2)), abs=2e-3)
    expected = stats.norm.cdf(1 + stats.norm.ppf(0.01))
    assert tpr_at_fpr(curve, 0.01) == pytest.approx(expected, abs=3e-3)


def test_examples_judged_one_by_one_are_told_apart_where_one_threshold_for_all_fails():
    # Examples differ far more in difficulty than membership moves each of them.
    difficulty = normal(500, seed=1, scale=20.0)
    fits = difficulty + normal(64, 500, seed=2, mean=2.0), difficulty + normal(64, 500, seed=3)
    members, others = difficulty + normal(1, 500, seed=4, mean=2.0), difficulty + normal(1, 500, seed=5)
    one_threshold = roc_curve(members.flatten(), others.flatten()).auc
    one_by_one = roc_curve(*(ratio(*fits, m).flatten() for m in (members, others))).auc
    assert one_threshold < 0.6
    assert one_by_one == pytest.approx(stats.norm.cdf(math.sqrt(2)), abs=0.03)


def test_models_outside_the_fits_show_nothing_where_there_is_nothing_and_models_inside_do():
    fits = normal(4, 5000, seed=1), normal(4, 5000, seed=2)
    fresh = normal(4, 5000, seed=3), normal(4, 5000, seed=4)

    def auc(pair):
        return roc_curve(*(ratio(*fits, m).flatten() for m in pair)).auc

    assert abs(auc(fresh) - 0.5) < 0.02
    assert auc(fits) > 0.65


def test_each_example_has_models_of_its_own_of_either_kind():
    shadows, attacked = normal(9, 40, seed=1), normal(2, 40, seed=2)
    member = torch.rand(9, 40, generator=make_generator(0, "halves")).argsort(dim=0) < 4
    found = likelihood_ratio_scores(shadows, member, attacked)
    for i in range(40):
        alone = ratio(
            shadows[member[:, i], i : i + 1], shadows[~member[:, i], i : i + 1], attacked[:, i : i + 1]
        )
        torch.testing.assert_close(found[:, i : i + 1], alone)


def test_klom_of_a_histogram_made_by_hand():
    # Four bins from 0 to 4: shares 1/2, 1/4, 0, 1/4 against 1/4, 1/4, 1/4, 1/4.
    unlearned, retrained = column(0.0, 0.5, 1.0, 4.0), column(0.5, 1.5, 2.0, 3.0)
    assert float(klom(unlearned, retrained, num_bins=4)) == pytest.approx(0.5 * math.log(2), abs=1e-12)


def slow_klom(unlearned, retrained, num_bins):
    values = []
    for u, r in zip(unlearned.T.numpy(), retrained.T.numpy(), strict=True):
        u, r = np.clip(u, -100, 100), np.clip(r, -100, 100)
        both = np.concatenate([u, r])
        edges = np.linspace(both.min(), both.max(), num_bins + 1)
        p, q = (np.histogram(v, edges)[0] / len(v) for v in (u, r))
        values.append(stats.entropy(p, np.where(p > 0, np.maximum(q, 1e-5), q)))  # it normalises both
    return values


@settings(deadline=None, derandomize=True, max_examples=40)
@given(seed=st.integers(0, 10**6), models=st.integers(2, 30), num_bins=st.integers(1, 25))
def test_klom_is_that_of_the_slow_reference(seed, models, num_bins):
    unlearned, retrained = normal(models, 4, seed=seed, scale=60.0), normal(models + 3, 4, seed=seed + 1)
    expected = slow_klom(unlearned, retrained, num_bins)
    np.testing.assert_allclose(klom(unlearned, retrained, num_bins=num_bins), expected, atol=1e-12)


def test_klom_of_many_models_approaches_the_divergence_of_the_gaussians():
    # KL of N(1, 1) and N(0, 1) is 1/2. Binning can only lose; twenty bins lose little.
    unlearned, retrained = normal(200_000, 1, seed=1, mean=1.0), normal(200_000, 1, seed=2)
    assert float(klom(unlearned, retrained)) == pytest.approx(0.5, abs=0.02)
    assert float(klom(unlearned, retrained, num_bins=3)) < 0.45


def test_klom_of_equal_models_is_zero_and_of_separate_ones_the_floor():
    margins = normal(30, 5)
    np.testing.assert_allclose(klom(margins, margins), 0, atol=1e-15)
    np.testing.assert_array_equal(klom(torch.ones(3, 2), torch.ones(4, 2)), 0)
    apart = klom(column(1.0, 1.0), column(0.0, 0.0), num_bins=2)
    assert float(apart) == pytest.approx(5 * math.log(10), abs=1e-4)
    torch.testing.assert_close(klom(column(1e9, 1e9), column(0.0, 0.0), num_bins=2), apart)  # clipped


def test_klom_of_few_models_is_far_from_zero_where_nothing_differs():
    def mean_klom(models):
        return float(klom(normal(models, 300, seed=1), normal(models, 300, seed=2)).mean())

    few, more, many = map(mean_klom, (10, 100, 10_000))
    assert few > 2
    assert few > 4 * more > 16 * many
    assert many < 0.01


ROWS = torch.tensor([[0.0, 1.0], [1.0, 3.0]])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ratio(ROWS[:1], ROWS, ROWS), "example 0 has 1 models of a kind, expected at least two"),
        (lambda: ratio(ROWS, ROWS, ROWS[:, :1]), "`margins`.*each of the 2 examples.*got shape \\(2, 1\\)"),
        (lambda: ratio(ROWS, ROWS, ROWS[0]), "`margins`.*2 dimension"),
        (lambda: likelihood_ratio_scores(ROWS, ROWS, ROWS), "`is_member` must be a bool tensor.*\\(2, 1\\)"),
        (
            lambda: ratio(
                ROWS, torch.tensor([[0.0, 0.1], [1.0, 0.1], [1.0, 0.1]], dtype=torch.float64), ROWS
            ),
            "same margin for example 1.*shared_variance",
        ),
        (lambda: klom(ROWS, ROWS[:1]), "`retrained_margins`.*models >= 2"),
        (lambda: klom(ROWS, ROWS, num_bins=0), "num_bins must be at least 1"),
        (lambda: logit_margin(torch.zeros(2, 1), torch.zeros(2).long()), "at least two classes"),
    ],
)
def test_misuse_is_said_in_words(call, words):
    with pytest.raises(InputError, match=words):
        call()
