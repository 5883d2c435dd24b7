"""The checks of section 8.5: the verdicts as counted, and that a broken ingredient changes them."""

import dataclasses
import math
from fractions import Fraction

import pytest

from unrolling.methods.cost import Cost
from unrolling.model_loss import gradient
from unrolling.parameters import add
from unrolling.studies.ledger import all_checks
from unrolling.studies.other_methods import claims as costs

VERDICTS = {"K01": "partly", "K02": "reproduced", "K03": "reproduced", "K04": "partly"}


def run(id):
    return all_checks()[id].function()


def patch(monkeypatch, name, change):
    """Replace a function of the module by ``change(original, *arguments)``."""
    original = getattr(costs, name)
    monkeypatch.setattr(costs, name, lambda *a, **k: change(original, *a, **k))


@pytest.mark.parametrize(("id", "verdict"), VERDICTS.items())
def test_verdicts_and_the_page_that_discusses_them(id, verdict):
    assert run(id).verdict == verdict
    assert all_checks()[id].page == "16_other_methods"


def test_only_one_shard_costs_what_is_printed():
    assert list(run("K01").propositions.values()) == [True, False]


def test_the_printed_size_is_necessary_and_not_the_break_even():
    assert list(run("K04").propositions.values()) == [True, False]


@pytest.mark.parametrize(("shards", "slices"), [(1, 1), (1, 5), (3, 1), (2, 3), (4, 6)])
def test_shares_are_the_sums_over_stages(shards, slices):
    whole = shards * sum(range(1, slices + 1))
    by_slice = [Fraction(sum(range(r, slices + 1)), whole) for r in range(1, slices + 1)]
    found = costs.forgetting_shares(costs.train_ensemble(shards, slices))
    assert found == (min(by_slice), sum(by_slice) / slices, max(by_slice))


def test_least_size_is_the_least_of_all_settings():
    for steps in range(1, 200):
        sizes = range(1, 40)
        cheaper = [max(s, r) for s in sizes for r in sizes if Fraction(2, s * (r + 1)) < Fraction(1, steps)]
        assert costs.least_size(steps) == min(cheaper)


def test_at_the_papers_number_of_steps_the_printed_size_is_a_third_of_it():
    k = costs.least_size(100_000)
    assert k * (k + 1) > 200_000 >= (k - 1) * k
    assert math.sqrt(100_000) / 2 - 1 == pytest.approx(157.1, abs=0.05)
    assert str(k) in run("K04").reason


def test_k01_would_hold_if_every_shard_were_retrained_for_a_share_of_one(monkeypatch):
    """2S / (R + 1) is what S shards take in units of one."""

    def every_shard(share, sisa, shard, part):
        return share(sisa, shard, part) * len(sisa.assignment) ** 2

    patch(monkeypatch, "forgetting_share", every_shard)
    assert run("K01").verdict == "reproduced"


def test_k01_notices_that_one_shard_goes_back_to_the_start(monkeypatch):
    patch(monkeypatch, "forgetting_share", lambda share, sisa, shard, part: share(sisa, shard, 0))
    assert run("K01").verdict == "contradicted"


def test_k02_notices_a_checkpoint_less(monkeypatch):
    def without_the_first(train, shards, slices):
        sisa = train(shards, slices)
        one = sisa.cost.stored_bytes // (shards * slices)
        return dataclasses.replace(sisa, cost=Cost(sisa.cost.gradients, 0, sisa.cost.stored_bytes - one))

    patch(monkeypatch, "train_ensemble", without_the_first)
    assert run("K02").verdict == "contradicted"


def test_k03_notices_a_gradient_per_epoch(monkeypatch):
    def one_by_one(unlearn, final, initial, loss, *, learning_rate, num_epochs):
        for _ in range(num_epochs):
            final = add(final, gradient(loss, initial), learning_rate)
        return final

    patch(monkeypatch, "single_gradient_unlearn", one_by_one)
    assert list(run("K03").propositions.values()) == [False, False, True]


def test_k03_notices_a_w_0_that_is_not_made_again(monkeypatch):
    seeds = iter(range(100))
    patch(monkeypatch, "seeded", lambda seeded, seed, *name: seeded(next(seeds), *name))
    assert list(run("K03").propositions.values()) == [True, True, False]


def test_k04_notices_settings_that_are_cheaper_than_they_are(monkeypatch):
    patch(monkeypatch, "forgetting_share", lambda share, *a: share(*a) / 1000)
    assert run("K04").verdict == "contradicted"


def test_k04_would_hold_for_another_cost(monkeypatch):
    """With 1 / (4 (k + 1)^2) of retraining, k = max(S, R), the break-even is where it is printed."""

    def another(share, sisa, shard, part):
        k = max(len(sisa.assignment), len(sisa.assignment[shard]))
        return 1 / (4 * (k + 1) ** 2 + Fraction(1, 2))  # a tie counts as cheaper

    patch(monkeypatch, "forgetting_share", another)
    assert run("K04").verdict == "reproduced"


def test_shards_cost_accuracy_on_the_digits():
    found = run("K05")
    assert found.verdict == "reproduced"
    assert -1 <= found.value <= -0.8


def test_accuracies_in_the_other_order_contradict_the_claim(monkeypatch):
    patch(monkeypatch, "assign_shards", lambda original, n, s, r, *, seed: original(n, 21 - s, r, seed=seed))
    assert run("K05").verdict == "contradicted"
