"""The batch order as a value."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unrolling import BatchOrder, make_batch_order, make_generator
from unrolling._checks import InputError

sizes = st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(0, 4), st.booleans()).filter(
    lambda drawn: drawn[1] <= drawn[0]
)


@given(sizes)
def test_every_epoch_sees_every_example_once(drawn):
    num_examples, batch_size, num_epochs, reshuffle = drawn
    order = make_batch_order(num_examples, batch_size, num_epochs, make_generator(0), reshuffle=reshuffle)
    per_epoch = -(-num_examples // batch_size)
    assert len(order) == per_epoch * num_epochs
    for epoch in range(num_epochs):
        seen = Counter(i for step in order.steps[epoch * per_epoch : (epoch + 1) * per_epoch] for i in step)
        assert seen == Counter(range(num_examples))


def test_epochs_repeat_their_batches_unless_reshuffled():
    fixed = make_batch_order(20, 4, 3, make_generator(0))
    assert fixed.steps[:5] == fixed.steps[5:10] == fixed.steps[10:]
    fresh = make_batch_order(20, 4, 3, make_generator(0), reshuffle=True)
    assert fresh.steps[:5] != fresh.steps[5:10]


def test_without_batch_leaves_it_out_of_every_epoch():
    order = BatchOrder(((0, 1), (2, 3), (4,)) * 2)
    assert order.steps_of_batch((2, 3)) == (1, 4)
    assert order.without_batch((2, 3)).steps == ((0, 1), (4,)) * 2
    shared = BatchOrder(((0, 1), (1, 2)))
    assert shared.without_batch((0, 1)).steps == ((1, 2),)


def test_without_example_removes_it_in_place():
    order = BatchOrder(((0, 1), (2, 3), (4,), (1, 4)))
    assert order.without_example(4).steps == ((0, 1), (2, 3), (1,))


def test_the_same_generator_gives_the_same_order_and_another_seed_another():
    def draw(seed):
        return make_batch_order(50, 8, 2, make_generator(seed, "batch order"))

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_bad_input_is_named():
    order = BatchOrder(((0, 1), (2,)))
    with pytest.raises(InputError, match=r"batch_size must be at most the number of examples \(4\), got 5"):
        make_batch_order(4, 5, 1, make_generator(0))
    with pytest.raises(InputError, match="step must be between 0 and 1, got 2"):
        order[2]
    with pytest.raises(InputError, match="at no step"):
        order.without_batch((7, 8))
    with pytest.raises(InputError, match="example 9 is at no step"):
        order.without_example(9)
    with pytest.raises(InputError, match="whole number"):
        make_batch_order(4, 2.0, 1, torch.Generator())
