"""The checks of section 6.2: the verdicts as measured, and other verdicts where an ingredient is another."""

import pytest

from unrolling.losses import cross_entropy, logit_std
from unrolling.studies.ledger import all_checks, claims_of_page
from unrolling.studies.sd_loss import claims as checks

IDS = ("T24", "T25", "T26", "T27")


def held(id):
    """Run a check and return whether each of its propositions held, in order."""
    return list(all_checks()[id].function().propositions.values())


@pytest.mark.parametrize("id", IDS)
def test_claim_holds_as_measured(id):
    assert held(id) == [True, True]


def test_page_has_these_claims():
    assert set(IDS) <= set(claims_of_page("08_sd_loss"))


def test_t24_notices_the_unbiased_standard_deviation(monkeypatch):
    monkeypatch.setattr(checks, "logit_std", lambda logits: logits.std(dim=1))
    assert held("T24") == [False, True]


def test_t24_notices_a_penalty_of_twice_the_size(monkeypatch):
    original = checks.sd_loss
    monkeypatch.setattr(checks, "sd_loss", lambda logits, labels, gamma: original(logits, labels, 2 * gamma))
    assert held("T24") == [True, False]


def with_variance(logits, labels, gamma):
    """Return the SD loss with the variance in the place of the standard deviation: it has no collapse."""
    return cross_entropy(logits, labels) + gamma * logit_std(logits).square().mean()


def with_sum(logits, labels, gamma):
    """Return a loss that is not constant along lines of equal gap."""
    return cross_entropy(logits, labels) + gamma * logits.square().mean()


@pytest.mark.parametrize(("loss", "expected"), [(with_variance, [True, False]), (with_sum, [False, False])])
def test_t25_notices_another_penalty(monkeypatch, loss, expected):
    monkeypatch.setattr(checks, "sd_loss", loss)
    assert held("T25") == expected


def test_t26_notices_the_norm_of_the_preprint(monkeypatch):
    original = checks.minimum_norm_update
    # an update of the preprint's norm, epsilon^2 ||x||^2 / 2
    monkeypatch.setattr(checks, "minimum_norm_update", lambda x, gap: original(x, gap * float(x @ x)))
    assert held("T26") == [False, True]


def test_t27_notices_a_strength_that_acts_the_other_way(monkeypatch):
    original = checks.sd_loss
    monkeypatch.setattr(checks, "sd_loss", lambda logits, labels, gamma: original(logits, labels, 1 - gamma))
    assert held("T27") == [False, False]
