"""UnlearningTracker in a loop of one's own: exact on a quadratic, silent towards the training."""

import copy

import pytest
import torch
from torch import nn

from unrolling import (
    BatchOrder,
    UnlearningTracker,
    accuracy,
    make_generator,
    seeded,
    top_singular_value,
    trackers,
    train,
)
from unrolling._checks import InputError
from unrolling.trackers import Recorder, WeightLog


class Quadratic(nn.Module):
    """Loss (w - c)' A (w - c) / 2 with the batch (A, c)."""

    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size, dtype=torch.float64))


def quadratic_loss(model, batch):
    matrix, centre = batch
    offset = model.weight - centre
    return offset @ matrix @ offset / 2


def batches(num, size=5):
    generator = make_generator(0, "batches")
    for _ in range(num):
        matrix = torch.randn(size, size, dtype=torch.float64, generator=generator)
        yield matrix + matrix.T, torch.randn(size, dtype=torch.float64, generator=generator)


@pytest.mark.paper("Eq. 9")
@pytest.mark.parametrize("max_basis", [None, 3])
def test_tracker_on_quadratics_gives_equation_9_from_its_exact_factors(max_basis):
    model, eta = Quadratic(5), 0.01
    tracker = UnlearningTracker(
        model, quadratic_loss, learning_rate=eta, every=2, rtol=1e-8, max_hvps=500, max_basis=max_basis
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=eta)
    for batch in batches(7):
        tracker.step(batch)
        optimizer.zero_grad()
        quadratic_loss(model, batch).backward()
        optimizer.step()
    sampled = [torch.linalg.matrix_norm(matrix, 2).item() for matrix, _ in list(batches(7))[::2]]
    sigma = sum(sampled) / len(sampled)
    change = model.weight.detach().norm().item()
    found = tracker.result()
    assert found.sigma_steps == (0, 2, 4, 6)
    assert found.num_steps == 7
    assert found.converged
    assert (found.hvps > 4 * 5) == (max_basis is not None)  # the whole space has 5 directions
    assert [abs(value) for value in found.eigenvalues] == pytest.approx(sampled, rel=1e-6)
    assert any(value < 0 for value in found.eigenvalues)  # a square root would have been NaN here
    assert found.unlearning_error == pytest.approx(eta**2 * change / 7 * sigma * (49 - 7) / 2, rel=1e-6)
    assert found.unlearning_error_corrected == pytest.approx(found.unlearning_error / eta)


def test_unlearning_error_is_zero_after_one_step():
    model = Quadratic(5)
    tracker = UnlearningTracker(model, quadratic_loss, learning_rate=0.1)
    (batch,) = batches(1)
    tracker.step(batch)
    quadratic_loss(model, batch).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert tracker.result().unlearning_error == 0
    assert tracker.result().weight_change > 0


def net_and_data():
    with seeded(0, "net"):
        model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.ReLU(), nn.Linear(6, 3))
        return model, [(torch.randn(8, 4), torch.randint(0, 3, (8,))) for _ in range(5)]


def own_loop(model, data, tracker=None):
    """A user's loop: batch norm, dropout from the global generator, an optimiser of their choice."""
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters())
    for inputs, labels in data:
        if tracker:
            tracker.step((inputs, labels))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()


def test_tracking_does_not_change_a_users_training():
    model, data = net_and_data()
    tracked = copy.deepcopy(model)
    own_loop(model, data)
    tracker = UnlearningTracker(
        tracked, lambda m, batch: nn.functional.cross_entropy(m(batch[0]), batch[1]), learning_rate=1e-3
    )
    own_loop(tracked, data, tracker)
    for name, value in model.state_dict().items():
        assert torch.equal(value, tracked.state_dict()[name])
    assert tracker.result().unlearning_error > 0


def test_tracker_resumes_from_its_state():
    model, _ = Quadratic(5), None
    first = UnlearningTracker(model, quadratic_loss, learning_rate=0.1, every=2)
    data = list(batches(6))
    for batch in data[:3]:
        first.step(batch)
    with torch.no_grad():
        model.weight += 1
    second = UnlearningTracker(model, quadratic_loss, learning_rate=0.1, every=2)
    second.load_state_dict(first.state_dict())
    for tracker in (first, second):
        for batch in data[3:]:
            tracker.step(batch)
    assert first.result() == second.result()
    assert second.result().weight_change == pytest.approx(5**0.5)


def test_a_fixed_hessian_batch_replaces_the_current_one():
    model = Quadratic(5)
    current, fixed = batches(2)
    tracker = UnlearningTracker(model, quadratic_loss, learning_rate=0.1, hessian_batch=fixed, rtol=1e-8)
    tracker.step(current)
    assert tracker.result().sigma_avg == pytest.approx(torch.linalg.matrix_norm(fixed[0], 2).item())


def test_every_sample_starts_in_its_own_direction_which_the_seed_and_the_step_decide(monkeypatch):
    starts = []

    def recorded(loss, params, *, generator, **options):
        starts.append(torch.randn(5, generator=generator, dtype=torch.float64))
        return top_singular_value(loss, params, generator=generator, **options)

    monkeypatch.setattr(trackers, "top_singular_value", recorded)
    for seed in (0, 3):
        tracker = UnlearningTracker(Quadratic(5), quadratic_loss, learning_rate=0.1, every=2, seed=seed)
        for batch in batches(6):
            tracker.step(batch)
    expected = [
        torch.randn(5, generator=make_generator(seed, "lanczos start", step), dtype=torch.float64)
        for seed in (0, 3)
        for step in (0, 2, 4)
    ]
    assert all(map(torch.equal, starts, expected))
    assert len({tuple(start.tolist()) for start in starts}) == len(expected) == len(starts)


@pytest.mark.parametrize("mode", [True, False])
def test_accuracy_counts_in_evaluation_mode_and_gives_the_mode_back(mode):
    model, data = net_and_data()
    model.train(mode)
    model[2].eval()
    state = copy.deepcopy(model.state_dict())
    inputs, labels = (torch.cat(parts) for parts in zip(*data, strict=True))
    found = accuracy(model, inputs, labels, batch_size=7)
    assert [module.training for module in model] == [mode, mode, False, mode, mode]
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    with torch.no_grad():
        assert found == float((model.eval()(inputs).argmax(dim=1) == labels).double().mean())


def test_accuracy_of_nothing_is_named():
    model, ((inputs, labels), *_) = net_and_data()
    for x, y in ((inputs[:0], labels[:0]), (inputs, labels[:7]), (inputs[:7], labels)):
        with pytest.raises(InputError, match=f"at least one example .* got {len(x)} inputs"):
            accuracy(model, x, y)
    with pytest.raises(InputError, match="batch_size must be at least 1"):
        accuracy(model, inputs, labels, batch_size=0)


def test_recorder_keeps_every_nth_row_and_the_last():
    recorder = Recorder(lambda done: {"square": done**2}, every=3, total=7)
    for step in range(7):
        recorder.after_step(step)
    assert recorder.rows == [{"step": n, "square": n**2} for n in (3, 6, 7)]


def test_weight_log_holds_copies_of_the_weights_before_every_step():
    inputs, labels = torch.arange(12.0).reshape(6, 2), torch.zeros(6, dtype=torch.int64)
    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.zero_()
    order = BatchOrder(((0, 1), (2,), (3, 4, 5)))
    log = WeightLog(model)
    train(
        model,
        inputs.double(),
        labels,
        order,
        lambda m, batch: m(batch[0]).sum(),  # gradient: the sum of the inputs
        learning_rate=0.5,
        observers=[log],
    )
    seen = [w["weight"].squeeze().tolist() for w in log.weights]
    assert seen == [[0.0, 0.0], [-1.0, -2.0], [-3.0, -4.5]]
    assert model.weight.squeeze().tolist() == [-15.0, -18.0]


def test_bad_input_is_named():
    model = Quadratic(2)
    with pytest.raises(InputError, match="learning_rate"):
        UnlearningTracker(model, quadratic_loss, learning_rate=0)
    with pytest.raises(InputError, match="every must be at least 1"):
        UnlearningTracker(model, quadratic_loss, learning_rate=0.1, every=0)
    with pytest.raises(InputError, match="no step was tracked"):
        UnlearningTracker(model, quadratic_loss, learning_rate=0.1).result()
    model.weight.requires_grad_(False)
    with pytest.raises(InputError, match="no trainable parameters"):
        UnlearningTracker(model, quadratic_loss, learning_rate=0.1)


def test_a_start_from_the_gradient_is_passed_on():
    matrix = torch.diag(torch.tensor([5.0, -4.5, *torch.linspace(-1, 1, 98).tolist()], dtype=torch.float64))
    model = Quadratic(100)
    centre = torch.eye(100, dtype=torch.float64)[:2].sum(dim=0)  # the gradient is in the top space
    found = {}
    for start in (None, "gradient"):
        tracker = UnlearningTracker(model, quadratic_loss, learning_rate=0.1, start=start)
        tracker.step((matrix, centre))
        found[start] = tracker.result()
    assert found["gradient"].sigma_avg == pytest.approx(5, rel=1e-3)
    assert found["gradient"].hvps < found[None].hvps
