"""Distances of outputs, gaps of accuracies and relearning, by hand and where the truth is a formula."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolling import make_generator
from unrolling._checks import InputError
from unrolling.metrics.outputs import accuracy_gap, output_distance, relearn_time
from unrolling.model_loss import gradient
from unrolling.parameters import add


def probabilities(seed, size=9, num_classes=4):
    logits = torch.randn(size, num_classes, generator=make_generator(seed, "outputs"), dtype=torch.float64)
    return (3 * logits).softmax(dim=1)


def test_distance_by_hand():
    first = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.2, 0.6]])
    second = torch.tensor([[0.5, 0.1, 0.4], [0.2, 0.2, 0.6]])
    found = output_distance(first, second)
    assert (found.mean, found.max) == pytest.approx((0.2 * math.sqrt(2), 0.4 * math.sqrt(2)))


def test_distance_of_opposite_certainties_is_the_largest_there_is():
    found = output_distance(torch.eye(3), torch.eye(3).roll(1, dims=1))
    assert (found.mean, found.max) == pytest.approx((math.sqrt(2), math.sqrt(2)))


@settings(deadline=None, derandomize=True, max_examples=30)
@given(seeds=st.tuples(*[st.integers(0, 10**6)] * 3))
def test_distance_is_a_metric(seeds):
    first, second, third = map(probabilities, seeds)
    assert output_distance(first, first).max == 0
    assert output_distance(first, second) == output_distance(second, first)
    for part in ("mean", "max"):
        way = [getattr(output_distance(*pair), part) for pair in ((first, second), (second, third))]
        assert getattr(output_distance(first, third), part) <= sum(way) + 1e-12


def test_accuracy_gap_by_hand_from_logits_and_from_probabilities():
    labels = torch.tensor([0, 0, 1, 1])
    first = torch.tensor([[2.0, 1.0], [3.0, 0.0], [0.0, 1.0], [5.0, 0.0]])  # three right
    second = torch.tensor([[0.0, 1.0], [3.0, 0.0], [1.0, 0.0], [5.0, 0.0]])  # one right
    assert accuracy_gap(first, second, labels) == 0.5
    assert accuracy_gap(second, first, labels) == -0.5
    assert accuracy_gap(first.softmax(dim=1), second, labels) == 0.5


def quadratic(params):
    return (params["w"] ** 2).sum() / 2


def descend(params, index):
    return add(params, gradient(quadratic, params), -0.1)


@pytest.mark.parametrize("start", [0.5, 1.0, 4.0, 100.0])
def test_relearning_a_quadratic_takes_the_logarithm_of_the_distance(start):
    # Each step multiplies w by 0.9; the target w^2 / 2 = 1/2 is at w = 1.
    params = {"w": torch.tensor([start], dtype=torch.float64)}
    found = relearn_time(params, descend, quadratic, target=0.5, max_steps=1000)
    steps = max(0, math.ceil(math.log(start) / -math.log(0.9)))
    assert (found.steps, found.reached) == (steps, True)
    assert found.loss == pytest.approx((start * 0.9**steps) ** 2 / 2)
    assert float(params["w"]) == start


def test_relearning_gives_up_and_says_so():
    params = {"w": torch.tensor([1.0], dtype=torch.float64)}
    found = relearn_time(params, descend, quadratic, target=0.0, max_steps=5)
    assert (found.steps, found.reached) == (5, False)
    assert found.loss == pytest.approx(0.9**10 / 2)
    assert relearn_time(params, descend, quadratic, target=1.0, max_steps=0).reached


def test_relearning_that_diverges_is_not_reached():
    params = {"w": torch.tensor([1.0])}

    def explode(params, index):
        return {"w": params["w"] * math.nan}

    found = relearn_time(params, explode, quadratic, target=0.1, max_steps=3)
    assert (found.steps, found.reached) == (3, False)
    assert math.isnan(found.loss)


def test_steps_are_numbered_and_the_loss_is_not_looked_at_more_often_than_needed():
    seen, looks = [], []

    def step(params, index):
        seen.append(index)
        return {"w": params["w"] - 1}

    def loss(params):
        looks.append(params)
        return params["w"]

    found = relearn_time({"w": torch.tensor(3.0)}, step, loss, target=0.0, max_steps=9)
    assert (found.steps, seen, len(looks)) == (3, [0, 1, 2], 4)


ROWS = probabilities(0, size=2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: output_distance(ROWS, 3 * ROWS), "`retrained` must hold probabilities.*logits"),
        (lambda: output_distance(ROWS, ROWS[:1]), "same examples, got shapes \\(2, 4\\) and \\(1, 4\\)"),
        (lambda: accuracy_gap(ROWS, ROWS[:, :3], torch.tensor([0, 1])), "same examples"),
        (lambda: accuracy_gap(ROWS, ROWS, torch.tensor([0, 4])), "between 0 and 3"),
        (
            lambda: relearn_time({"w": ROWS}, lambda p, i: None, quadratic, target=0.0, max_steps=1),
            "step\\(params, index\\).*NoneType",
        ),
        (
            lambda: relearn_time({"w": ROWS}, descend, quadratic, target=math.nan, max_steps=1),
            "target must be finite",
        ),
    ],
)
def test_misuse_is_said_in_words(call, words):
    with pytest.raises(InputError, match=words):
        call()
