"""Randomness is an argument: streams are reproducible, independent, and leave the caller's state alone."""

import random

import numpy as np
import pytest
import torch

from unrolling import make_generator, seeded
from unrolling._checks import InputError


def draw(*stream):
    return torch.randn(4, generator=make_generator(*stream))


def test_a_stream_is_its_seed_and_name():
    assert torch.equal(draw(1, "a"), draw(1, "a"))
    assert not torch.equal(draw(1, "a"), draw(2, "a"))
    assert not torch.equal(draw(1, "a"), draw(1, "b"))
    assert not torch.equal(draw(1, "start", 0), draw(1, "start", 1))


def test_names_do_not_run_together():
    assert not torch.equal(draw(1, "ab", "c"), draw(1, "a", "bc"))


def test_seeded_block_does_not_depend_on_the_global_state_and_gives_it_back():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    with seeded(0, "weights"):
        first = torch.randn(3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    with seeded(0, "weights"):
        assert torch.equal(torch.randn(3), first)


def test_streams_are_pinned_across_versions():
    """The stored results depend on this number: sha256 of "(1, 'a')", its first 8 bytes, halved."""
    assert make_generator(1, "a").initial_seed() == 0x15091D93113801AA


@pytest.mark.parametrize("seed", [-1, 1.5, "1", True])
def test_bad_seeds_are_refused(seed):
    with pytest.raises(InputError, match="seed"):
        make_generator(seed, "a")


def test_the_state_comes_back_from_a_block_that_fails():
    def draw_and_fail():
        with seeded(0, "weights"):
            raise ValueError(torch.randn(3))

    torch.manual_seed(5)
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="tensor"):
        draw_and_fail()
    assert torch.equal(torch.get_rng_state(), state)


def test_numpy_and_python_are_not_touched():
    numpy_state, python_state = np.random.get_state()[1].copy(), random.getstate()
    with seeded(0, "weights"):
        assert (np.random.get_state()[1] == numpy_state).all()
        assert random.getstate() == python_state


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_weights_made_on_a_gpu_are_a_function_of_the_seed_and_the_gpu_state_comes_back():
    def weights():
        with seeded(0, "weights"):
            return torch.nn.Linear(3, 2, device="cuda").weight.detach().clone()

    torch.manual_seed(5)
    first = weights()  # may be what starts CUDA
    after = torch.randn(4, device="cuda")
    torch.manual_seed(5)
    assert torch.equal(torch.randn(4, device="cuda"), after)
    torch.randn(7, device="cuda")
    state = torch.cuda.get_rng_state()
    assert torch.equal(weights(), first)
    assert torch.equal(torch.cuda.get_rng_state(), state)
