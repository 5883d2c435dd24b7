"""The batch order as a value."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
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


@given(sizes, st.integers(0, 5))
@settings(deadline=None, derandomize=True)
def test_batches_by_length_see_every_example_once_an_epoch(drawn, seed):
    num_examples, batch_size, num_epochs, reshuffle = drawn
    lengths = torch.randint(1, 9, (num_examples,), generator=make_generator(seed, "lengths"))

    def draw():
        return make_batch_order(
            num_examples, batch_size, num_epochs, make_generator(seed), reshuffle=reshuffle, lengths=lengths
        )

    order = draw()
    assert order == draw()
    full, rest = divmod(num_examples, batch_size)
    sizes = [batch_size] * full + [rest] * bool(rest)
    assert [len(step) for step in order] == sizes * num_epochs
    for epoch in range(num_epochs):
        steps = order.steps[epoch * len(sizes) : (epoch + 1) * len(sizes)]
        assert sorted(i for step in steps for i in step) == list(range(num_examples))
        # All of it is one pool: the full batches, put in order, are sorted by length.
        batches = sorted(lengths[list(step)].tolist() for step in steps[:full])
        in_order = [length for batch in batches for length in batch]
        assert in_order == sorted(in_order)


def padding(order, lengths):
    """Tokens of padding for each token of text, when a batch is as long as its longest example."""
    steps = [lengths[list(step)] for step in order]
    return sum(len(step) * int(step.max()) for step in steps) / int(lengths.sum()) - 1


def test_batches_by_length_carry_little_padding_in_random_order():
    lengths = (torch.randn(4000, generator=make_generator(0, "lengths")).exp() * 200).long().clamp(3, 512)
    plain = make_batch_order(4000, 16, 1, make_generator(1))
    sorted_ = make_batch_order(4000, 16, 1, make_generator(1), lengths=lengths)
    assert padding(plain, lengths) > 0.8
    assert padding(sorted_, lengths) < 0.03
    # Batches come in no order of length: neighbours correlate by chance alone (1 / sqrt(250) = 0.06).
    means = torch.tensor([float(lengths[list(step)].double().mean()) for step in sorted_])
    assert abs(float(torch.corrcoef(torch.stack([means[:-1], means[1:]]))[0, 1])) < 0.25
    # What pools contain is random: a batch's neighbours in length differ between seeds.
    assert sorted_ != make_batch_order(4000, 16, 1, make_generator(2), lengths=lengths)


def test_the_batch_that_is_not_full_is_random_in_length():
    lengths = torch.arange(1, 1011)
    rest = [
        i
        for seed in range(40)
        for i in make_batch_order(1010, 20, 1, make_generator(seed), lengths=lengths)[50]
    ]
    # 400 uniform draws from 1..1010: mean 505.5, standard deviation of the mean 14.6.
    assert abs(float(lengths[rest].double().mean()) - 505.5) < 60


def test_without_lengths_nothing_is_drawn_otherwise():
    expected = torch.randperm(50, generator=make_generator(3)).split(8)
    assert make_batch_order(50, 8, 1, make_generator(3)).steps == tuple(tuple(b.tolist()) for b in expected)


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
    with pytest.raises(InputError, match=r"one number per example \(4\), got shape \(3,\)"):
        make_batch_order(4, 2, 1, make_generator(0), lengths=[5, 6, 7])
    with pytest.raises(InputError, match="step must be between 0 and 1, got 2"):
        order[2]
    with pytest.raises(InputError, match="at no step"):
        order.without_batch((7, 8))
    with pytest.raises(InputError, match="example 9 is at no step"):
        order.without_example(9)
    with pytest.raises(InputError, match="whole number"):
        make_batch_order(4, 2.0, 1, torch.Generator())


@pytest.mark.parametrize("generator", [None, 0, "0"])
def test_the_source_of_the_permutation_is_not_the_global_one(generator):
    with pytest.raises(
        InputError, match=r"`generator` must be a torch.Generator, such as make_generator\(seed\)"
    ):
        make_batch_order(4, 2, 1, generator)
