"""The expansion of SGD against real SGD, dense Hessians and the literal sums of Eq. 5 and 6."""

import weakref
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toy_losses import quadratics, sgd

from unrolling import batch_loss, cross_entropy, expand_sgd, make_generator, seeded, snapshot
from unrolling._checks import InputError
from unrolling.model_loss import gradient
from unrolling.oracles import dense_hessian
from unrolling.parameters import distance, norm, to_vector


def loss_fn(model, batch):
    return cross_entropy(model(batch[0]), batch[1])


def net_losses(steps, activation=nn.Tanh, batch_norm=False, seed=3):
    """Return a small net, its weights, and the losses of `steps` batches of six examples."""
    with seeded(seed, "net"):
        middle = [nn.BatchNorm1d(4)] if batch_norm else []
        model = nn.Sequential(nn.Linear(3, 4), *middle, activation(), nn.Linear(4, 3)).double()
        batches = [
            (2 * torch.randn(6, 3, dtype=torch.float64), torch.randint(0, 3, (6,))) for _ in range(steps)
        ]
    losses = [batch_loss(model, loss_fn, batch, training=batch_norm) for batch in batches]
    return model, snapshot(model), losses


def literal_sums(losses, params, eta):
    """Return first sum, second sum and leading term exactly as Eq. 4 to 6 are written."""
    g = [to_vector(gradient(loss, params)) for loss in losses]
    h = [dense_hessian(loss, params) for loss in losses]
    f = [torch.zeros_like(g[0])]
    for i in range(1, len(g)):
        f.append(-eta * h[i] @ (-eta * sum(g[:i]) + sum(f[:i])))
    leading = sum((eta**2 * h[i] @ g[j] for i in range(len(g)) for j in range(i)), torch.zeros_like(g[0]))
    return -eta * sum(g), sum(f), leading


@pytest.mark.paper("Eq. 4 and 5")
@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    steps=st.integers(1, 12),
    size=st.integers(1, 6),
    seed=st.integers(0, 10**6),
    eta=st.floats(1e-3, 0.5),
)
def test_expansion_is_exact_on_quadratic_losses(steps, size, seed, eta):
    params, losses = quadratics(steps, size, seed)
    trained, unrolled = sgd(losses, params, eta), expand_sgd(losses, params, learning_rate=eta)
    scale = norm(unrolled.first_sum) + norm(unrolled.second_sum) + norm(params)
    assert distance(unrolled.approximation, trained) < 1e-10 * scale


@pytest.mark.paper("Eq. 4-6")
@settings(deadline=None, derandomize=True, max_examples=10)
@given(
    steps=st.integers(1, 7),
    activation=st.sampled_from([nn.Tanh, nn.ReLU]),
    seed=st.integers(0, 10**6),
    eta=st.floats(1e-3, 0.3),
)
def test_sums_equal_the_literal_sums_with_dense_hessians(steps, activation, seed, eta):
    _, params, losses = net_losses(steps, activation, seed=seed)
    unrolled = expand_sgd(losses, params, learning_rate=eta)
    found = unrolled.first_sum, unrolled.second_sum, unrolled.leading
    for sum_, expected in zip(found, literal_sums(losses, params, eta), strict=True):
        torch.testing.assert_close(to_vector(sum_), expected, rtol=1e-10, atol=1e-13)
    whole = to_vector(params) + to_vector(unrolled.first_sum) + to_vector(unrolled.second_sum)
    torch.testing.assert_close(to_vector(unrolled.approximation), whole, rtol=1e-13, atol=1e-13)


@settings(deadline=None, derandomize=True, max_examples=15)
@given(order=st.permutations(range(8)), seed=st.integers(0, 10**6))
def test_first_sum_does_not_depend_on_the_order_of_the_batches(order, seed):
    _, params, losses = net_losses(8, seed=seed)
    reference = expand_sgd(losses, params, learning_rate=0.1)
    turned = expand_sgd([losses[i] for i in order], params, learning_rate=0.1)
    gap = to_vector(turned.first_sum) - to_vector(reference.first_sum)
    assert gap.abs().max() < 1e-12


def test_second_sum_depends_on_the_order_of_the_batches():
    _, params, losses = net_losses(8)
    forwards, backwards = (expand_sgd(turn, params, learning_rate=0.1) for turn in (losses, losses[::-1]))
    assert distance(forwards.second_sum, backwards.second_sum) > 0.01 * norm(forwards.second_sum)


@settings(deadline=None, derandomize=True, max_examples=10)
@given(steps=st.integers(2, 8), seed=st.integers(0, 10**6), eta=st.floats(1e-3, 0.3))
def test_powers_of_eta_in_the_sums_of_a_net(steps, seed, eta):
    _, params, losses = net_losses(steps, seed=seed)
    one, two = (expand_sgd(losses, params, learning_rate=factor * eta) for factor in (1, 2))
    torch.testing.assert_close(to_vector(two.first_sum), 2 * to_vector(one.first_sum))
    torch.testing.assert_close(to_vector(two.leading), 4 * to_vector(one.leading))
    tiny = expand_sgd(losses, params, learning_rate=1e-6)
    assert distance(tiny.second_sum, tiny.leading) < 1e-3 * norm(tiny.leading)


def test_second_sum_of_one_step_is_zero():
    _, params, losses = net_losses(1)
    unrolled = expand_sgd(losses, params, learning_rate=0.7)
    assert norm(unrolled.second_sum) == norm(unrolled.leading) == 0
    assert distance(unrolled.approximation, sgd(losses, params, 0.7)) < 1e-14


def test_second_sum_of_losses_linear_in_the_weights_is_zero():
    params = {"a": torch.randn(3, generator=make_generator(0)), "b": torch.ones(2, 2)}
    losses = [lambda p, c=c: c * (p["a"].sum() + 2 * p["b"].sum()) for c in (1.0, -3.0, 2.0)]
    unrolled = expand_sgd(losses, params, learning_rate=0.5)
    assert norm(unrolled.second_sum) == norm(unrolled.leading) == 0


def coefficients(points, values):
    """Return the exact coefficients, lowest first, of the polynomial through the points."""
    result = [Fraction(0)] * len(points)
    for k, (x, y) in enumerate(zip(points, values, strict=True)):
        basis, others = [Fraction(1)], [p for m, p in enumerate(points) if m != k]
        for other in others:
            raised = [Fraction(0), *basis]
            basis = [a - other * b for a, b in zip(raised, [*basis, Fraction(0)], strict=True)]
        weight = y / np.prod([x - other for other in others])
        result = [a + weight * b for a, b in zip(result, basis, strict=True)]
    return result


@pytest.mark.paper("Eq. 5 and 6")
@pytest.mark.parametrize("t", [2, 3, 5])
def test_second_sum_is_a_polynomial_in_eta_with_powers_two_to_t(t):
    # Small integers and quarters: float64 computes every number here without rounding.
    losses = [lambda p, h=h: (h * p["w"] ** 2 / 2 - p["w"]).sum() for h in (1.0, 2.0, -1.0, 3.0, 1.0)[:t]]
    params = {"w": torch.tensor([3.0], dtype=torch.float64)}
    points = [Fraction(k, 4) for k in range(1, t + 4)]
    unrolled = [expand_sgd(losses, params, learning_rate=float(eta)) for eta in points]
    powers = coefficients(points, [Fraction(u.second_sum["w"].item()) for u in unrolled])
    assert [k for k, c in enumerate(powers) if c != 0] == list(range(2, t + 1))
    assert all(
        Fraction(u.leading["w"].item()) == powers[2] * eta**2 for u, eta in zip(unrolled, points, strict=True)
    )


@pytest.mark.paper("Eq. 4-6")
@pytest.mark.parametrize(("terms", "order"), [("first", 2), ("leading", 3), ("second", 3)])
def test_order_of_the_error_in_eta_on_a_smooth_net(terms, order):
    _, params, losses = net_losses(6)

    def error(eta):
        unrolled, trained = (
            expand_sgd(losses, params, learning_rate=eta),
            to_vector(sgd(losses, params, eta)),
        )
        found = to_vector(params) + to_vector(unrolled.first_sum)
        if terms != "first":
            found += to_vector(unrolled.leading if terms == "leading" else unrolled.second_sum)
        return float((found - trained).norm())

    assert np.log2(error(2e-3) / error(1e-3)) == pytest.approx(order, abs=0.03)


def test_cost_is_linear_in_the_number_of_steps():
    _, params, losses = net_losses(9)
    calls = 0

    def counted(loss):
        def call(p):
            nonlocal calls
            calls += 1
            return loss(p)

        return call

    unrolled = expand_sgd(map(counted, losses), params, learning_rate=0.1)
    assert (unrolled.num_steps, unrolled.hvps) == (9, 16)
    assert calls == 9  # one gradient a step


class Marker:
    def __call__(self, grad):
        return None


def test_graphs_of_earlier_steps_are_not_kept():
    graphs, most = [], 0

    def loss(p):
        nonlocal most
        inner = p["w"].tanh()
        marker = Marker()
        inner.register_hook(marker)  # lives as long as the graph does
        graphs.append(weakref.ref(marker))
        del marker
        most = max(most, sum(graph() is not None for graph in graphs))
        return (inner**2).sum()

    expand_sgd([loss] * 10, {"w": torch.ones(3)}, learning_rate=0.1)
    assert len(graphs) == 10
    assert most == 1


def test_expanding_leaves_no_trace():
    model, params, losses = net_losses(4, batch_norm=True)
    own = dict(model.named_parameters())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state, mode = torch.get_rng_state(), model.training
    expand_sgd(losses, own, learning_rate=0.1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in own.values())
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training == mode
    assert distance(params, own) == 0


def test_sums_are_detached_and_shaped_as_the_parameters():
    model, _, losses = net_losses(3)
    own = dict(model.named_parameters())
    unrolled = expand_sgd(losses, own, learning_rate=0.1)
    for sum_ in (unrolled.first_sum, unrolled.second_sum, unrolled.leading, unrolled.approximation):
        assert {k: p.shape for k, p in sum_.items()} == {k: p.shape for k, p in own.items()}
        assert not any(p.requires_grad for p in sum_.values())


def test_bad_input_is_refused():
    _, params, losses = net_losses(2)
    with pytest.raises(InputError, match="learning_rate must be larger than 0"):
        expand_sgd(losses, params, learning_rate=0)
    with pytest.raises(InputError, match="`losses` is empty"):
        expand_sgd([], params, learning_rate=0.1)
    with pytest.raises(InputError, match="Put it in a list"):
        expand_sgd(losses[0], params, learning_rate=0.1)
    with pytest.raises(InputError, match="`initial_params` must be a dict"):
        expand_sgd(losses, nn.Linear(3, 2), learning_rate=0.1)


def test_a_series_that_overflows_is_refused():
    params = {"w": torch.ones(1)}
    with pytest.raises(InputError, match="its series diverges at learning_rate 100"):
        expand_sgd([lambda p: (p["w"] ** 2).sum()] * 40, params, learning_rate=100.0)
