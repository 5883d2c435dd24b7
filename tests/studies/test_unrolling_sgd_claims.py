"""The checks of section 5: the verdicts as measured, and other verdicts where an ingredient is another."""

import dataclasses

import pytest

from unrolling.model_loss import gradient
from unrolling.parameters import add, from_vector, to_vector
from unrolling.studies.ledger import all_checks, claims_of_page, evaluate
from unrolling.studies.unrolling_sgd import claims as unrolling_sgd

MEASURED = {
    "T11": {"exact on quadratic losses": True, "error on a smooth network": True},
    "T12": {"lowest power": True, "highest power": False},
    "T13": {"same in every order": True},
    "T14": {"linear in w": True, "first sum of a network": True},
    "T15": {"less than a tenth": True},
    "T16": {"same way": False, "equally long": False},
    "T17": {"all of 200": False},
    "T18": {"one step": True, "linear in w": True},
    "T20": {"t - 1": True},
    "T22": {"b = 1:": True, "b = 32:": False},
}


def held(id):
    """Run a check and return what held, keyed as above."""
    propositions = all_checks()[id].function().propositions
    assert len(propositions) == len(MEASURED[id])
    return {key: next(value for words, value in propositions.items() if key in words) for key in MEASURED[id]}


@pytest.mark.parametrize("id", MEASURED)
def test_verdict_is_as_measured(id):
    assert held(id) == MEASURED[id]


def test_page_has_these_claims():
    assert set(MEASURED) <= set(claims_of_page("03_unrolling_sgd"))


def test_reason_says_what_holds_instead_of_the_bound():
    (entry,) = evaluate(["T17"])
    assert entry.verdict == "contradicted"
    assert "199 of 200" in entry.reason


def patch(monkeypatch, name, change):
    """Replace a function of the module by ``change(original, *arguments)``."""
    original = getattr(unrolling_sgd, name)
    monkeypatch.setattr(unrolling_sgd, name, lambda *a, **k: change(original, *a, **k))


def test_t11_and_t12_notice_another_second_sum(monkeypatch):
    def with_eta(expand, losses, params, *, learning_rate):
        found = expand(losses, params, learning_rate=learning_rate)
        scaled = from_vector(learning_rate * to_vector(found.second_sum), params)
        return dataclasses.replace(
            found, second_sum=scaled, approximation=add(add(params, found.first_sum), scaled)
        )

    patch(monkeypatch, "expand_sgd", with_eta)
    assert held("T11") == {"exact on quadratic losses": False, "error on a smooth network": False}
    assert held("T12") == {"lowest power": False, "highest power": True}


def test_t13_notices_gradients_along_the_path(monkeypatch):
    def moving(expand, losses, params, *, learning_rate):
        found, w = expand(losses, params, learning_rate=learning_rate), params
        for loss in losses:
            w = add(w, gradient(loss, w), -learning_rate)
        return dataclasses.replace(found, first_sum=add(w, params, -1.0))

    patch(monkeypatch, "expand_sgd", moving)
    assert held("T13") == {"same in every order": False}


def test_t14_notices_a_gradient_that_is_added_for_one_epoch_only(monkeypatch):
    def once(unlearn, *arguments, num_epochs, **factors):
        return unlearn(*arguments, num_epochs=1, **factors)

    patch(monkeypatch, "single_gradient_unlearn", once)
    assert held("T14") == {"linear in w": False, "first sum of a network": False}


def test_t15_notices_a_leading_term_of_half_the_size(monkeypatch):
    def halved(expand, losses, params, *, learning_rate):
        found = expand(losses, params, learning_rate=learning_rate)
        return dataclasses.replace(found, leading=from_vector(to_vector(found.leading) / 2, params))

    patch(monkeypatch, "expand_sgd", halved)
    assert held("T15") == {"less than a tenth": False}


def test_t16_would_hold_if_the_weights_changed_by_the_sum_of_the_gradients(monkeypatch):
    def sum_of_gradients(sgd, problem, eta):
        w, losses = problem
        for loss in losses:
            w = add(w, gradient(loss, problem[0]))
        return w

    patch(monkeypatch, "_sgd", sum_of_gradients)
    assert held("T16") == {"same way": True, "equally long": True}


def test_t17_would_hold_for_a_right_side_large_enough(monkeypatch):
    patch(monkeypatch, "unlearning_error", lambda e, **factors: e(**factors) / factors["learning_rate"] ** 2)
    assert held("T17") == {"all of 200": True}


def test_t18_notices_a_bound_with_t_squared(monkeypatch):
    def squared(e, *, learning_rate, weight_change, sigma_avg, num_steps):
        return learning_rate**2 * weight_change * sigma_avg * num_steps / 2

    patch(monkeypatch, "unlearning_error", squared)
    assert held("T18") == {"one step": False, "linear in w": True}


def test_t20_and_t22_follow_the_products_counted(monkeypatch):
    # were x* alone to give every Hessian, t - 1 products would cost 1/b of training
    patch(monkeypatch, "_products", lambda products, t, own: [(own, own)] * (t - 1))
    assert held("T22") == {"b = 1:": True, "b = 32:": True}
    patch(monkeypatch, "_products", lambda products, t, own: [(own, own)] * t)
    assert held("T20") == {"t - 1": False}
