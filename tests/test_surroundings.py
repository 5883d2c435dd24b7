"""Whatever surrounds a measurement changes nothing, and the measurement changes nothing around it."""

import contextlib
import random

import numpy as np
import pytest
import torch
from torch import nn

import unrolling as un
from unrolling.curvature import hessian_operator
from unrolling.model_loss import gradient
from unrolling.oracles import dense_hessian
from unrolling.parameters import to_vector, trainable
from unrolling.surroundings import default_dtype, threads


def loss_fn(model, batch):
    """The mean cross-entropy, with noise on the inputs from every global generator that there is."""
    inputs, labels = batch
    noise = torch.rand(()) + float(np.random.rand()) + random.random()
    return nn.functional.cross_entropy(model(inputs) * (1 + noise), labels)


def quiet_loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def problem(compiled=False):
    with un.seeded(0, "surroundings"):
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
        batch = torch.randn(8, 4), torch.randint(0, 3, (8,))
    return (torch.compile(model, backend="eager") if compiled else model), batch


def seed_everything():
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)


def everything_random():
    return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()


def params_of(model):
    return {name: p.detach() for name, p in trainable(model).items()}


def tracked(model, batch):
    tracker = un.UnlearningTracker(model, loss_fn, learning_rate=0.1)
    tracker.step(batch)
    return torch.tensor(tracker.result().sigma_avg)


def unlearn(method):
    def run(model, batch):
        w = params_of(model)
        there = {name: p + 0.1 for name, p in w.items()}
        return to_vector(method(there, w, un.batch_loss(model, loss_fn, batch)))

    return run


def second_order(model, batch):
    w = params_of(model)
    losses = [un.batch_loss(model, loss_fn, batch)] * 3
    return to_vector(un.methods.second_order_unlearn(w, w, losses, [0], learning_rate=0.1))


MEASUREMENTS = {
    "batch_loss": lambda m, b: un.batch_loss(m, loss_fn, b)(params_of(m)).detach(),
    "gradient": lambda m, b: to_vector(gradient(un.batch_loss(m, loss_fn, b), params_of(m))),
    "hvp": lambda m, b: to_vector(un.hvp(un.batch_loss(m, loss_fn, b), params_of(m), params_of(m))),
    "top_singular_value": lambda m, b: torch.tensor(
        un.top_singular_value(un.batch_loss(m, loss_fn, b), params_of(m)).value
    ),
    "hessian_operator": lambda m, b: hessian_operator(un.batch_loss(m, loss_fn, b), params_of(m))(
        to_vector(params_of(m))
    ),
    "expand_sgd": lambda m, b: to_vector(
        un.expand_sgd([un.batch_loss(m, loss_fn, b)] * 3, params_of(m), learning_rate=0.1).second_sum
    ),
    "dense_hessian": lambda m, b: dense_hessian(un.batch_loss(m, loss_fn, b), params_of(m)),
    "tracker": tracked,
    "single_gradient": unlearn(
        lambda end, start, loss: un.single_gradient_unlearn(end, start, loss, learning_rate=0.1)
    ),
    "final_gradient": unlearn(
        lambda end, start, loss: un.methods.final_gradient_unlearn(end, loss, learning_rate=0.1)
    ),
    "second_order": second_order,
    "full_hessian": lambda m, b: un.methods.others.full_hessian(un.batch_loss(m, loss_fn, b), params_of(m)),
}


@contextlib.contextmanager
def gradients_off():
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    try:
        yield
    finally:
        torch.set_grad_enabled(before)


SURROUNDINGS = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "set_grad_enabled": gradients_off,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "threads of autograd": lambda: torch.autograd.set_multithreading_enabled(False),
}


@pytest.fixture(scope="module")
def expected():
    model, batch = problem()
    found = {}
    for name, measure in MEASUREMENTS.items():
        seed_everything()
        found[name] = measure(model, batch)
    return found


def test_the_reference_is_not_trivial(expected):
    assert all(bool(value.isfinite().all() and value.any()) for value in expected.values())


@pytest.mark.parametrize("surroundings", SURROUNDINGS.values(), ids=SURROUNDINGS.keys())
@pytest.mark.parametrize("name", MEASUREMENTS)
def test_the_callers_surroundings_change_nothing(name, surroundings, expected):
    model, batch = problem()
    seed_everything()
    with surroundings():
        found = MEASUREMENTS[name](model, batch)
    torch.testing.assert_close(found.clone(), expected[name], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_a_batch_made_under_inference_mode_will_do(name, expected):
    model, _ = problem()
    with torch.inference_mode():
        _, batch = problem()
    assert batch[0].is_inference()
    seed_everything()
    torch.testing.assert_close(MEASUREMENTS[name](model, batch), expected[name], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_another_default_dtype_changes_no_precision(name, monkeypatch):
    """Without the noise, which is drawn in the default type."""
    monkeypatch.setitem(globals(), "loss_fn", quiet_loss)
    model, batch = problem()
    expected = MEASUREMENTS[name](model, batch)
    with default_dtype(torch.float64):
        found = MEASUREMENTS[name](model, batch)
    if name not in ("top_singular_value", "tracker"):  # which are Python's numbers, made tensors here
        assert found.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("device", ["meta"])
def test_another_default_device_is_not_used(device):
    model, batch = problem()

    loss, params = un.batch_loss(model, quiet_loss, batch), params_of(model)
    plain = un.top_singular_value(loss, params), un.expand_sgd([loss] * 2, params, learning_rate=0.1)
    with torch.device(device):
        found = un.top_singular_value(loss, params), un.expand_sgd([loss] * 2, params, learning_rate=0.1)
        tracker = un.UnlearningTracker(model, quiet_loss, learning_rate=0.1)
        tracker.step(batch)
        assert tracker.result().sigma_avg == pytest.approx(plain[0].value, rel=1e-2)
    assert found[0].value == pytest.approx(plain[0].value, rel=1e-6)
    torch.testing.assert_close(to_vector(found[1].second_sum), to_vector(plain[1].second_sum))


@pytest.mark.parametrize("name", sorted(set(MEASUREMENTS) - {"tracker"}))
def test_compiled_models_run_eagerly(name, expected):
    model, batch = problem(compiled=True)
    seed_everything()
    torch.testing.assert_close(MEASUREMENTS[name](model, batch), expected[name], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_every_random_state_is_as_before(name):
    """The loss draws from PyTorch's, NumPy's and Python's generators."""
    model, batch = problem()
    seed_everything()
    before = everything_random()
    MEASUREMENTS[name](model, batch)
    assert everything_random() == before


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_the_random_state_comes_back_after_an_error_too(name):
    model, batch = problem()
    seed_everything()
    before = everything_random()
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        MEASUREMENTS[name](model, (batch[0][:, :2], batch[1]))
    assert everything_random() == before


def test_autocast_that_the_loss_enters_itself_counts():
    model, batch = problem()

    def rounded(model, batch):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return nn.functional.cross_entropy(model(batch[0]).float(), batch[1])

    params = params_of(model)
    plain = gradient(un.batch_loss(model, quiet_loss, batch), params)
    half = gradient(un.batch_loss(model, rounded, batch), params)
    difference = float((to_vector(plain) - to_vector(half)).norm() / to_vector(plain).norm())
    assert 1e-5 < difference < 0.1


def test_threads_are_given_back_after_an_error_too():
    before = torch.get_num_threads()
    inside = []

    def fail():
        with threads(before + 1):
            inside.append(torch.get_num_threads())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert inside == [before + 1]
    assert torch.get_num_threads() == before
