"""DeltaGrad against real retraining, the BFGS recursion and losses on which it is exact."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from unrolling import (
    BatchOrder,
    batch_loss,
    cross_entropy,
    make_batch_order,
    make_generator,
    seeded,
    snapshot,
    train,
)
from unrolling._checks import InputError
from unrolling.methods import WeightLog
from unrolling.methods.others.deltagrad import bfgs_product, deltagrad_unlearn
from unrolling.model_loss import gradient
from unrolling.parameters import distance
from unrolling.training import copy_for_retraining


def without(order, forget):
    steps = (tuple(i for i in batch if i not in forget) for batch in order)
    return [batch for batch in steps if batch]


def descend(params, loss_on, order, eta):
    """Train for real; return the weights before each step and after the last."""
    path = [params]
    for batch in order:
        slope = gradient(loss_on(batch), path[-1])
        path.append({name: w - eta * slope[name] for name, w in path[-1].items()})
    return path


def full_batches(n, steps):
    return BatchOrder((tuple(range(n)),) * steps)


def quadratic(n, hessian, seed=0):
    """Return the start and mean losses (w - c_i)' H (w - c_i) / 2 with a centre per example."""
    d = len(hessian)
    generator = make_generator(seed, "quadratic")
    centres = torch.randn(n, d, dtype=torch.float64, generator=generator)

    def loss_on(batch):
        gaps = centres[list(batch)]
        return lambda p: ((p["w"] - gaps) @ hessian * (p["w"] - gaps)).sum() / (2 * len(batch))

    return {"w": torch.zeros(d, dtype=torch.float64)}, loss_on


def logistic(n, d):
    """Return the start and mean regularised losses; the first 64 examples are one and the same."""
    generator = make_generator(0, "logistic")
    inputs = torch.randn(n, d, dtype=torch.float64, generator=generator)
    noise = torch.randn(n, dtype=torch.float64, generator=generator)
    targets = (inputs @ torch.linspace(-1, 1, d, dtype=torch.float64) + noise).sign()
    inputs[:64], targets[:64] = inputs[0].clone(), -1.0

    def loss_on(batch):
        x, y = inputs[list(batch)], targets[list(batch)]
        return lambda p: -nn.functional.logsigmoid(y * (x @ p["w"])).mean() + 2.5e-3 * p["w"] @ p["w"]

    return {"w": torch.zeros(d, dtype=torch.float64)}, loss_on


def replay(start, loss_on, order, forget, eta, **options):
    """Return what DeltaGrad made of a run, the retrained weights, and the trained ones."""
    path = descend(start, loss_on, order, eta)
    found = deltagrad_unlearn(path[-1], path[:-1], loss_on, order, forget, learning_rate=eta, **options)
    return found, descend(start, loss_on, without(order, forget), eta)[-1], path[-1]


def bfgs_recursion(pairs):
    """Return the BFGS matrix as textbooks update it, one pair after the other."""
    s, y = pairs[-1]
    matrix = s @ y / (s @ s) * torch.eye(len(s), dtype=s.dtype)
    for s, y in pairs:
        image = matrix @ s
        matrix = matrix - torch.outer(image, image) / (s @ image) + torch.outer(y, y) / (s @ y)
    return matrix


def convex_pairs(d, q, seed):
    generator = make_generator(seed, "pairs")
    root = torch.randn(d, d, dtype=torch.float64, generator=generator)
    hessian = root @ root.T + 0.1 * torch.eye(d, dtype=torch.float64)
    steps = torch.randn(q, d, dtype=torch.float64, generator=generator)
    scales = 10 ** (4 * torch.rand(q, 1, dtype=torch.float64, generator=generator) - 3)
    return hessian, [(s, hessian @ s) for s in scales * steps]


def as_matrix(pairs):
    columns = torch.eye(len(pairs[0][0]), dtype=torch.float64)
    return torch.stack([bfgs_product(pairs, column) for column in columns])


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.integers(1, 7), st.integers(1, 5), st.integers(0, 10**6))
def test_compact_form_is_the_bfgs_recursion(d, q, seed):
    _, pairs = convex_pairs(d, q, seed)
    expected = bfgs_recursion(pairs)
    torch.testing.assert_close(as_matrix(pairs), expected, rtol=1e-6, atol=1e-8 * float(expected.norm()))
    s, y = pairs[-1]
    torch.testing.assert_close(bfgs_product(pairs, s), y, rtol=1e-6, atol=1e-8 * float(y.norm()))


def test_compact_form_allows_the_same_pair_twice():
    _, pairs = convex_pairs(4, 1, 0)
    torch.testing.assert_close(as_matrix(pairs * 3), as_matrix(pairs), rtol=1e-10, atol=1e-10)


def test_conjugate_steps_reveal_the_hessian_and_merely_independent_ones_do_not():
    hessian, pairs = convex_pairs(4, 4, 1)
    eigenvectors = torch.linalg.eigh(hessian).eigenvectors.T
    conjugate = [(s, hessian @ s) for s in eigenvectors]
    torch.testing.assert_close(as_matrix(conjugate), hessian, rtol=1e-9, atol=1e-9)
    assert torch.linalg.matrix_rank(torch.stack([s for s, _ in pairs])) == 4
    assert (as_matrix(pairs) - hessian).norm() > 0.1 * hessian.norm()


@pytest.mark.parametrize("reshuffle", [False, True])
def test_with_period_1_it_is_retraining(reshuffle):
    start, loss_on = logistic(90, 3)
    order = make_batch_order(90, 8, 4, make_generator(0, "order"), reshuffle=reshuffle)
    forget = {5, 17, 66, *order[2]}  # a whole batch among them: in a fixed order its steps disappear
    found, retrained, _ = replay(start, loss_on, order, forget, 0.3, period=1)
    assert distance(found, retrained) < 1e-13
    assert found.fallbacks == 0
    first = next(k for k, batch in enumerate(order) if forget & set(batch))
    emptied = sum(set(batch) <= forget for batch in order)
    assert found.replayed_steps == len(order) - first
    assert found.exact_steps == found.replayed_steps - emptied
    assert emptied == (1 if reshuffle else 4)


def test_with_period_1_it_is_what_the_trainer_makes_of_the_order_without_the_example():
    with seeded(1, "net"):
        net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    generator = make_generator(1, "data")
    inputs = torch.randn(40, 3, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, 3, (40,), generator=generator)
    order = make_batch_order(40, 5, 3, generator)

    def loss_fn(model, batch):
        return cross_entropy(model(batch[0]), batch[1])

    def loss_on(batch):
        index = list(batch)
        return batch_loss(net, loss_fn, (inputs[index], labels[index]), training=True)

    retrained, log = copy_for_retraining(net), WeightLog(net)
    train(net, inputs, labels, order, loss_fn, learning_rate=0.2, observers=[log])
    train(retrained, inputs, labels, order.without_example(7), loss_fn, learning_rate=0.2)
    final = snapshot(net)
    found = deltagrad_unlearn(final, log.weights, loss_on, order, [7], learning_rate=0.2, period=1)
    assert distance(found, snapshot(retrained)) < 1e-13
    assert distance(final, snapshot(retrained)) > 1e-3
    assert found.cost.stored_bytes == 24 * (3 * 4 + 4 + 4 * 3 + 3) * 8


@pytest.mark.parametrize("d", [1, 5])
@pytest.mark.parametrize("steps_per_epoch", [1, 4])
def test_quadratic_with_one_curvature_in_all_directions_is_replayed_exactly(d, steps_per_epoch):
    start, loss_on = quadratic(20, 2.0 * torch.eye(d, dtype=torch.float64))
    generator = make_generator(0, "order")
    order = make_batch_order(20, 20 // steps_per_epoch, 60 // steps_per_epoch, generator)
    found, retrained, trained = replay(start, loss_on, order, {3, 4}, 0.05, period=7, burn_in=2)
    assert distance(found, retrained) < 1e-12
    assert distance(trained, retrained) > 1e-2
    assert found.exact_steps < 15


def test_quadratic_with_other_curvatures_is_not_replayed_exactly_even_with_as_many_pairs_as_dimensions():
    start, loss_on = quadratic(20, torch.diag(torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)))
    found, retrained, trained = replay(start, loss_on, full_batches(20, 60), {3, 4}, 0.2, history=3)
    assert 1e-9 < distance(found, retrained) < 0.1 * distance(trained, retrained)


def test_error_is_proportional_to_the_part_forgotten_at_a_fixed_number_of_steps():
    start, loss_on = logistic(2000, 6)
    order = full_batches(2000, 50)
    errors, distances = [], []
    for m in (1, 2, 4):
        found, retrained, trained = replay(start, loss_on, order, range(m), 0.5)
        errors.append(distance(found, retrained))
        distances.append(distance(trained, retrained))
    # o(m / n) would make the slope larger than 1. So small a part is far inside the paper's regime.
    assert np.diff(np.log2(errors)) == pytest.approx([1, 1], abs=0.03)
    assert np.diff(np.log2(distances)) == pytest.approx([1, 1], abs=0.03)
    assert max(errors[i] / distances[i] for i in range(3)) < 0.02


def test_error_vanishes_as_training_converges():
    start, loss_on = logistic(300, 4)
    share = []
    for steps in (50, 450, 1000):
        found, retrained, trained = replay(start, loss_on, full_batches(300, steps), range(5), 0.5)
        share.append(distance(found, retrained) / distance(trained, retrained))
    assert share[1] < 0.01 * share[0]
    assert share[2] < 0.01 * share[1]


def test_sgd_is_replayed_to_a_small_part_of_the_distance():
    start, loss_on = logistic(400, 4)
    order = make_batch_order(400, 100, 30, make_generator(0, "order"), reshuffle=True)
    found, retrained, trained = replay(start, loss_on, order, range(60, 70), 0.3)
    assert distance(found, retrained) < 0.1 * distance(trained, retrained)
    assert found.exact_steps < 0.35 * len(order)


def test_more_exact_steps_bring_it_nearer():
    start, loss_on = logistic(300, 4)
    order, errors = full_batches(300, 80), []
    for period in (2, 5, 20):
        found, retrained, _ = replay(start, loss_on, order, range(5), 0.5, period=period)
        errors.append(distance(found, retrained))
    assert errors == sorted(errors)


def test_where_the_loss_is_not_convex_every_step_is_exact():
    start, loss_on = quadratic(10, -0.5 * torch.eye(2, dtype=torch.float64))
    found, retrained, _ = replay(start, loss_on, full_batches(10, 20), {1}, 0.1, period=5, burn_in=2)
    assert distance(found, retrained) < 1e-10
    assert (found.exact_steps, found.fallbacks) == (20, 14)  # due: 0 to 2, 7, 12, 17


def test_a_pair_steeper_than_the_learning_rate_allows_is_not_trusted():
    # Gradient descent on curvature 11 with rate 0.2 overshoots more than it corrects.
    start, loss_on = quadratic(10, 11.0 * torch.eye(1, dtype=torch.float64))
    found, retrained, _ = replay(start, loss_on, full_batches(10, 12), {1}, 0.2, period=4, burn_in=1)
    assert found.exact_steps == 12
    assert distance(found, retrained) < 1e-9


def test_steps_before_the_first_forgotten_example_are_free():
    start, loss_on = logistic(100, 3)
    order = BatchOrder(tuple(tuple(range(10 * k, 10 * k + 10)) for k in range(10)))
    found, retrained, _ = replay(start, loss_on, order, {72}, 0.5, period=1)
    assert distance(found, retrained) < 1e-14
    assert found.replayed_steps == found.exact_steps == 3
    assert found.cost.gradients == 30


@pytest.mark.parametrize(("period", "burn_in"), [(5, 10), (2, 0), (1, 0), (50, 3), (13, 1)])
def test_cost_is_full_gradients_at_exact_steps_and_the_forgotten_ones_at_the_others(period, burn_in):
    start, loss_on = logistic(100, 3)
    path = descend(start, loss_on, full_batches(100, 40), 0.5)
    seen = 0

    def counted(batch):
        nonlocal seen
        loss = loss_on(batch)

        def call(params):
            nonlocal seen
            seen += len(batch)
            return loss(params)

        return call

    found = deltagrad_unlearn(
        path[-1],
        iter(path[:-1]),
        counted,
        full_batches(100, 40),
        [0, 64, 65],
        learning_rate=0.5,
        period=period,
        burn_in=burn_in,
        batch_size=100,
    )
    due = [k for k in range(40) if k <= burn_in or (k - burn_in) % period == 0]
    # At step 0 there is no pair yet, so that without a burn-in the first steps fall back.
    exact = len(due) + found.fallbacks
    assert found.exact_steps == exact
    assert found.fallbacks == (1 if (period, burn_in) == (2, 0) else 0)
    assert found.cost.gradients == seen / 100 == pytest.approx(exact + (40 - exact) * 3 / 100)
    assert found.cost.hvps == 0
    assert found.cost.stored_bytes == 40 * 3 * 8


def test_nothing_of_the_callers_is_changed():
    start, loss_on = logistic(100, 3)
    order = full_batches(100, 15)
    path = descend(start, loss_on, order, 0.5)
    before = [{name: w.clone() for name, w in weights.items()} for weights in path]
    deltagrad_unlearn(path[-1], path[:-1], loss_on, order, [0], learning_rate=0.5)
    assert all(torch.equal(a["w"], b["w"]) for a, b in zip(path, before, strict=True))


def test_a_run_that_does_not_fit_is_refused():
    start, loss_on = logistic(100, 3)
    order = full_batches(100, 15)
    path = descend(start, loss_on, order, 0.5)

    def unlearn(trajectory=path[:-1], forget=(0,), eta=0.5, order=order):
        return deltagrad_unlearn(path[-1], trajectory, loss_on, order, forget, learning_rate=eta)

    with pytest.raises(InputError, match="training moved by a gradient of norm"):
        unlearn(eta=0.4)
    with pytest.raises(InputError, match="holds 14 steps, `order` has 15"):
        unlearn(path[:-2])
    with pytest.raises(InputError, match="more than the 14 steps"):
        unlearn(order=full_batches(100, 14))
    with pytest.raises(InputError, match="`forget` is empty"):
        unlearn(forget=())
    with pytest.raises(InputError, match="example 100 is at no step"):
        unlearn(forget=[3, 100])
    with pytest.raises(InputError, match="holds every example"):
        unlearn(forget=range(100))
    with pytest.raises(InputError, match="period must be at least 1"):
        deltagrad_unlearn(path[-1], path[:-1], loss_on, order, [0], learning_rate=0.5, period=0)


def test_the_check_of_the_run_tells_a_slightly_wrong_learning_rate_from_rounding():
    start, loss_on = logistic(100, 3)
    order = BatchOrder(tuple(tuple(range(10 * k, 10 * k + 10)) for k in range(10)))
    path = descend(start, loss_on, order, 0.5)
    deltagrad_unlearn(path[-1], path[:-1], loss_on, order, [72], learning_rate=0.5)
    with pytest.raises(InputError, match="training moved by a gradient"):
        deltagrad_unlearn(path[-1], path[:-1], loss_on, order, [72], learning_rate=0.5 * (1 + 1e-7))


def test_a_gradient_lost_in_the_rounding_of_the_weights_is_no_reason_to_refuse():
    def loss_on(batch):  # every example pulls to the same point, which is reached before F is seen
        return lambda p: ((p["w"] - 1 / 3) ** 2).sum() / 2

    order = BatchOrder(((0, 1),) * 60 + ((1, 2),) * 5)
    found, _, trained = replay({"w": torch.zeros(2, dtype=torch.float64)}, loss_on, order, [2], 0.3)
    assert distance(found, trained) < 1e-9


def test_float32_is_replayed_to_its_rounding():
    start, double_loss_on = logistic(100, 3)

    def loss_on(batch):
        return lambda p: double_loss_on(batch)({"w": p["w"].double()}).float()

    start = {"w": start["w"].float()}
    order = make_batch_order(100, 20, 10, make_generator(0, "order"))
    found, retrained, trained = replay(start, loss_on, order, [70, 71], 0.3, period=1)
    assert found["w"].dtype == torch.float32
    assert distance(found, retrained) < 1e-5 < 1e-2 * distance(trained, retrained)


def test_batch_norm_in_training_mode_is_refused():
    with seeded(1, "net"):
        net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
    generator = make_generator(1, "data")
    inputs = torch.randn(40, 3, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, 3, (40,), generator=generator)
    order = make_batch_order(40, 8, 2, generator)

    def loss_fn(model, batch):
        return cross_entropy(model(batch[0]), batch[1])

    def loss_on(batch):
        index = list(batch)
        return batch_loss(net, loss_fn, (inputs[index], labels[index]), training=True)

    log = WeightLog(net)
    train(net, inputs, labels, order, loss_fn, learning_rate=0.1, observers=[log])
    forget = order[0][:3]
    with pytest.raises(InputError, match="no batch norm or dropout in training mode"):
        deltagrad_unlearn(snapshot(net), log.weights, loss_on, order, forget, learning_rate=0.1)


def test_a_run_that_does_not_fit_is_refused_where_the_first_forgotten_batch_is_whole():
    """There the replay takes no step, so only a check of its own can tell."""
    start, loss_on = logistic(100, 3)
    order = BatchOrder(tuple(tuple(range(10 * k, 10 * k + 10)) for k in range(10)))
    path = descend(start, loss_on, order, 0.5)
    found = deltagrad_unlearn(path[-1], path[:-1], loss_on, order, order[4], learning_rate=0.5)
    again = deltagrad_unlearn(path[-1], path[:-1], loss_on, order, order[4], learning_rate=0.5, batch_size=10)
    assert again.cost.gradients == 5  # the five steps that follow; the check is no part of it
    assert distance(found, descend(start, loss_on, order.without_batch(order[4]), 0.5)[-1]) < 1e-9
    with pytest.raises(InputError, match="training moved by a gradient"):
        deltagrad_unlearn(path[-1], path[:-1], loss_on, order, order[4], learning_rate=0.4)
