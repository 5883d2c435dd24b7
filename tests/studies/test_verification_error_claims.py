"""The checks of T01 to T10: the verdicts that were measured, and that a broken ingredient changes them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from unrolling.studies.ledger import all_checks
from unrolling.studies.verification_error import claims as checks

VERDICTS = {
    "T01": "reproduced",
    "T02": "reproduced",
    "T03": "reproduced",
    "T04": "reproduced",
    "T05": "reproduced",
    "T06": "partly",
    "T07": "contradicted",
    "T08": "partly",
    "T09": "reproduced",
    "T10": "reproduced",
}


def run(id):
    return all_checks()[id].function()


@pytest.mark.parametrize(("id", "verdict"), VERDICTS.items())
def test_verdicts_and_the_page_that_discusses_them(id, verdict):
    assert run(id).verdict == verdict
    assert all_checks()[id].page == "02_verification_error"


def test_results_are_the_same_on_every_call():
    for id in ("T01", "T05", "T09", "T10"):
        assert run(id) == run(id)


def test_only_the_first_power_has_no_bound():
    assert run("T06").propositions == {"p = 1": False, "p = 1.5": True, "p = 2": True, "p = 4": True}


def test_only_the_mean_of_the_norms_exceeds_the_reverse_bound():
    assert list(run("T08").propositions.values()) == [True, False]


@pytest.mark.parametrize("id", ["T03", "T04", "T05"])
def test_half_the_lipschitz_constant_is_not_enough(id, monkeypatch):
    whole = checks.log10_lipschitz_constant
    monkeypatch.setattr(checks, "log10_lipschitz_constant", lambda *a: whole(*a) - math.log10(2))
    assert run(id).verdict == "contradicted"


def test_orderings_without_one_of_them_are_counted(monkeypatch):
    whole = checks.orderings
    monkeypatch.setattr(checks, "orderings", lambda n, m: whole(n, m)[1:] or whole(n, m))
    assert list(run("T02").propositions.values()) == [False, True, False]


def test_models_that_keep_the_example_are_told_apart(monkeypatch):
    honest, calls = checks._retrained_models, []

    def careless(seeds, examples, labels):  # the third sample keeps x*
        calls.append(seeds)
        if len(calls) == 3:
            generator = checks.make_generator(0, "claims", "T01", "data")
            examples = torch.randn(12, 1, 1, 2, generator=generator, dtype=torch.float64)
            labels = (examples.flatten(1).sum(dim=1) > 0).long()
            examples[-1], labels[-1] = examples[-1] * 4, 1 - labels[-1]
        return honest(seeds, examples, labels)

    monkeypatch.setattr(checks, "_retrained_models", careless)
    found = run("T01").propositions
    assert found["same seed: weights and outputs agree bit for bit"]
    assert not found["other seeds: one distribution of outputs"]


def test_a_permutation_test_finds_a_shift_and_accepts_none():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 30, 3))
    assert checks.permutation_test(a, b + 1.5, rng) < 0.01
    accepted = [checks.permutation_test(*rng.normal(size=(2, 10, 2)), rng) > 0.05 for _ in range(100)]
    assert 85 <= sum(accepted) <= 100  # 95 expected


def test_small_supports_would_confirm_the_delta(monkeypatch):
    tiny = tuple(
        replace(toy, **{name: 1e-3 * getattr(toy, name) for name in ("trained", "retrained", "unlearned")})
        for toy in checks.toys()
        if toy.noise < 1
    )
    tiny = tuple(replace(toy, noise=1e-3 * toy.noise) for toy in tiny)
    monkeypatch.setattr(checks, "toys", lambda: tiny)
    whole = checks._bounded_supports
    monkeypatch.setattr(checks, "_bounded_supports", lambda toy, scale: whole(toy, min(scale, 1.0)))
    assert run("T07").verdict == "reproduced"


def test_outputs_that_jump_do_not_converge(monkeypatch):
    monkeypatch.setattr(checks, "shrink", lambda *a: ([1e-1, 1e-2, 1e-3, 1e-4, 1e-5], [1.0] * 5))
    assert run("T09").verdict == "contradicted"


def test_shrink_restores_the_model():
    with checks.seeded(0, "test"):
        model, other = nn.Linear(3, 2).double(), nn.Linear(3, 2).double()
        inputs = torch.randn(5, 3, dtype=torch.float64)
    before = checks.snapshot(model)
    errors, outputs = checks.shrink(model, checks.snapshot(other), inputs)
    assert checks.verification_error(checks.snapshot(model), before) == 0
    assert errors == pytest.approx([errors[0] / 10**k for k in range(5)])
    assert outputs == pytest.approx([outputs[0] / 10**k for k in range(5)])  # a linear model


def test_channels_permuted_without_their_batch_norm_change_the_outputs(monkeypatch):
    def careless(block, order):
        with torch.no_grad():
            block.conv1.weight.copy_(block.conv1.weight[order])
            block.conv2.weight.copy_(block.conv2.weight[:, order])

    monkeypatch.setattr(checks, "permute_channels", careless)
    assert run("T10").verdict == "contradicted"


def test_toys_are_what_the_claims_are_about():
    assert len(checks.toys()) == 100
    assert {toy.trained.shape[1] for toy in checks.toys()} == {1, 2}
    assert {len(toy.trained) for toy in checks.toys()} == {2, 4, 6, 24, 36, 576}
    ratios = [toy.moved / toy.noise for toy in checks.toys()]
    assert min(ratios) < 0.1
    assert max(ratios) > 10
