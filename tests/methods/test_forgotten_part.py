"""What of a training is due to F: steps, counts and the part of a loss, against lists written out."""

import pytest
import torch

from unrolling import BatchOrder
from unrolling.methods.forgotten_part import forgotten_part, split, steps_with, times_seen
from unrolling.model_loss import gradient

ORDER = BatchOrder(((0, 1), (2, 3), (4,), (2, 3), (0, 1), (2, 3)))
POINTS = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0], dtype=torch.float64)


def loss_on(examples):
    return lambda params: ((params["w"] - POINTS[list(examples)]) ** 2).mean() / 2


def test_steps_on_the_forgotten_and_how_often_each_batch_was_seen():
    steps = steps_with(ORDER, [3, 1])
    assert steps == (0, 1, 3, 4, 5)
    assert list(times_seen(ORDER, steps).items()) == [((0, 1), 2), ((2, 3), 3)]
    assert times_seen(ORDER, [step for step in steps if step < 3]) == {(0, 1): 1, (2, 3): 1}
    assert steps_with(ORDER, {9}) == ()
    assert split((3, 0, 2), {0, 2}) == ((3,), (0, 2))


@pytest.mark.parametrize("gone", [{2}, {3}, {2, 3}, {2, 3, 4}])
def test_the_part_is_what_retraining_leaves_out_of_a_step(gone):
    """The gradient of a mean of (w - x)^2 / 2 is w - mean(x); of what retraining has left, likewise."""
    weights = {"w": torch.tensor(5.0, dtype=torch.float64)}
    found = gradient(forgotten_part(loss_on, (2, 3), gone), weights)["w"]
    kept = [x for i, x in ((2, 4.0), (3, 8.0)) if i not in gone]
    assert float(found) == pytest.approx((5.0 - 6.0) - (5.0 - sum(kept) / len(kept) if kept else 0.0))
