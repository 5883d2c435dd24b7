"""DP-SGD against a loop over examples, and its accounts against the Gaussian mechanism in closed form."""

import itertools
import math
import sys

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import norm as normal
from torch import nn

from unrolling import cross_entropy, make_generator, seeded, snapshot
from unrolling._checks import InputError, UnrollingError
from unrolling.methods.others.dp_sgd import dp_sgd_train, dp_sgd_unlearn, group_privacy
from unrolling.parameters import distance, to_vector

OPTIONS = {
    "learning_rate": 0.3,
    "batch_size": 6,
    "num_steps": 5,
    "noise_multiplier": 1.0,
    "clipping_norm": 0.7,
    "delta": 1e-5,
}


def net():
    with seeded(0, "net"):
        return nn.Sequential(nn.Linear(3, 8), nn.GroupNorm(2, 8), nn.Tanh(), nn.Linear(8, 4)).double()


def data(n=24):
    generator = make_generator(0, "data")
    inputs = 3 * torch.randn(n, 3, dtype=torch.float64, generator=generator)
    return inputs, torch.randint(0, 4, (n,), generator=generator)


def train(model, inputs, labels, seed=0, **options):
    return dp_sgd_train(model, inputs, labels, generator=make_generator(seed, "dp"), **OPTIONS | options)


def gaussian_delta(epsilon, mu):
    """Balle and Wang (2018), Theorem 5, for sensitivity / noise = mu."""
    return normal.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * normal.cdf(-mu / 2 - epsilon / mu)


def gaussian_epsilon(delta, mu):
    return brentq(lambda epsilon: gaussian_delta(epsilon, mu) - delta, 0, 100)


def test_without_noise_it_is_sgd_on_clipped_gradients_of_single_examples():
    model, (inputs, labels) = net(), data()
    found = train(model, inputs, labels, noise_multiplier=0)
    generator, clipped = make_generator(0, "dp"), 0
    for _ in range(OPTIONS["num_steps"]):
        total = [torch.zeros_like(p) for p in model.parameters()]
        for i in (torch.rand(24, generator=generator) < 6 / 24).nonzero()[:, 0].tolist():
            loss = cross_entropy(model(inputs[i : i + 1]), labels[i : i + 1])
            slopes = torch.autograd.grad(loss, list(model.parameters()))
            length = torch.cat([g.flatten() for g in slopes]).norm()
            clipped += int(length > 0.7)
            for sum_, slope in zip(total, slopes, strict=True):
                sum_ += slope * min(1.0, 0.7 / float(length))
        with torch.no_grad():
            for p, step in zip(model.parameters(), total, strict=True):
                p -= 0.3 / 6 * step
    assert clipped > 5
    assert distance(found.params, snapshot(model)) < 1e-5  # Opacus adds 1e-6 to every norm
    assert found.epsilon == math.inf


def test_a_step_without_examples_is_noise_of_the_stated_size():
    model = nn.Linear(200, 50).double()
    inputs, labels = torch.ones(24, 200, dtype=torch.float64), torch.zeros(24, dtype=torch.int64)
    start = to_vector(snapshot(model))
    seed = next(
        seed
        for seed in range(50)
        if not (torch.rand(24, generator=make_generator(seed, "dp")) < 1 / 24).any()
    )

    def one_step(noise_multiplier):
        options = {"batch_size": 1, "num_steps": 1, "learning_rate": 0.1}
        return train(model, inputs, labels, seed, noise_multiplier=noise_multiplier, **options)

    assert torch.equal(to_vector(one_step(0).params), start)
    found = one_step(1.5)
    noise = (to_vector(found.params) - start) / (0.1 * 1.5 * 0.7)
    assert float(noise.square().mean()) == pytest.approx(1, abs=5 * (2 / len(noise)) ** 0.5)
    assert abs(float(noise.mean())) < 5 / len(noise) ** 0.5


@pytest.mark.parametrize(("noise", "steps"), [(1.0, 1), (4.0, 10), (20.0, 100)])
def test_with_all_examples_in_every_step_epsilon_bounds_the_gaussian_mechanism_closely(noise, steps):
    inputs, labels = data(8)
    found = train(
        net(), inputs, labels, batch_size=8, noise_multiplier=noise, num_steps=steps, learning_rate=1e-3
    )
    exact = gaussian_epsilon(1e-5, math.sqrt(steps) / noise)
    assert exact <= found.epsilon <= 1.15 * exact


@pytest.mark.parametrize(("batch_size", "noise"), [(6, 1.0), (2, 0.7)])
def test_with_sampling_epsilon_bounds_the_exact_curve_of_one_step(batch_size, noise):
    """One example, clipped to norm 1: N(0, s^2) without it, (1 - q) N(0, s^2) + q N(1, s^2) with it."""
    inputs, labels = data()
    found = train(net(), inputs, labels, batch_size=batch_size, noise_multiplier=noise, num_steps=1)
    q = batch_size / 24

    def without(x):
        return normal.pdf(x, 0, noise)

    def with_it(x):
        return (1 - q) * without(x) + q * normal.pdf(x, 1, noise)

    for p, r in ((without, with_it), (with_it, without)):
        edges = np.linspace(-12, 12, 49)

        def excess(x, p=p, r=r):
            return max(p(x) - math.exp(found.epsilon) * r(x), 0)

        exact = sum(quad(excess, a, b)[0] for a, b in itertools.pairwise(edges))
        assert exact <= 1e-5
    everything = gaussian_epsilon(1e-5, 1 / noise)
    assert found.epsilon < everything  # sampling amplifies privacy


def test_noise_and_batches_come_from_the_generator_alone():
    inputs, labels = data()
    model = net()
    first = train(model, inputs, labels)
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    assert distance(train(model, inputs, labels).params, first.params) == 0
    assert torch.equal(torch.rand(2), expected)
    assert distance(train(model, inputs, labels, seed=1).params, first.params) > 0.1


def test_the_initial_model_is_left_alone():
    model, (inputs, labels) = net(), data()
    model.eval()
    before = snapshot(model)
    assert distance(train(model, inputs, labels).params, before) > 0.1
    assert distance(snapshot(model), before) == 0
    assert not model.training
    assert all(p.grad is None and not hasattr(p, "grad_sample") for p in model.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())


def test_unlearning_changes_nothing_costs_nothing_and_states_the_guarantee_of_the_group():
    inputs, labels = data()
    trained = train(net(), inputs, labels, noise_multiplier=5.0)
    found = dp_sgd_unlearn(trained, 3)
    assert distance(found, trained.params) == 0
    assert (found.cost.gradients, found.cost.hvps, found.cost.stored_bytes) == (0, 0, 0)
    assert (found.epsilon, found.delta) == group_privacy(trained.epsilon, 1e-5, 3)


@pytest.mark.parametrize("m", [1, 2, 5])
@pytest.mark.parametrize("mu", [0.05, 0.3])
def test_group_privacy_holds_for_the_gaussian_mechanism(m, mu):
    """m examples move the mean m times as far; the exact curve there must stay below the general bound."""
    epsilon = gaussian_epsilon(1e-5, mu)
    group_epsilon, group_delta = group_privacy(epsilon, 1e-5, m)
    assert gaussian_delta(group_epsilon, m * mu) <= group_delta * (1 + 1e-6)


def test_group_privacy_is_the_recursion_of_the_definition():
    """P(S) <= e^eps Q(S) + delta, m times over, gives delta (1 + e^eps + ... + e^((m - 1) eps)) at most."""
    epsilon, delta = 0.4, 1e-6
    slack = 0.0
    for m in range(1, 9):
        slack = math.exp(epsilon) * slack + delta
        group_epsilon, group_delta = group_privacy(epsilon, delta, m)
        assert group_epsilon == pytest.approx(m * epsilon)
        assert slack <= group_delta * (1 + 1e-12) <= m * slack * (1 + 1e-9)
        assert group_delta == pytest.approx(m * math.exp((m - 1) * epsilon) * delta)
    assert group_privacy(5.0, 1e-5, 1000)[1] == math.inf


def test_batch_norm_is_refused_with_what_to_do():
    inputs, labels = data()
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    with pytest.raises(InputError, match=r"layer '1' is batch norm.*Use group norm.*ModuleValidator"):
        train(model, inputs, labels)


def test_the_replacement_that_the_message_names_works():
    from opacus.validators import ModuleValidator

    inputs, labels = data()
    model = nn.Sequential(nn.Linear(3, 4), nn.Unflatten(1, (2, 2)), nn.BatchNorm1d(2), nn.Flatten())
    assert train(ModuleValidator.fix(model).double(), inputs, labels).epsilon > 0
    # Of one number that a group has in an example there is no variance.
    model = ModuleValidator.fix(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))).double()
    with pytest.raises(InputError, match="takes no example on its own: Expected more than 1 value"):
        train(model, inputs, labels)


def test_layers_that_keep_statistics_of_the_data_are_refused():
    inputs, labels = data()
    model = nn.Sequential(nn.Linear(3, 4), nn.InstanceNorm1d(4, affine=True, track_running_stats=True))
    with pytest.raises(InputError, match=r"layer '1' keeps running statistics.*track_running_stats=False"):
        train(model.double(), inputs, labels)


def test_without_opacus_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opacus", None)
    with pytest.raises(UnrollingError, match="pip install opacus"):
        train(net(), *data())


def test_bad_input_is_named():
    model, (inputs, labels) = net(), data()
    for name, value in [
        ("learning_rate", 0),
        ("batch_size", 25),
        ("num_steps", 0),
        ("noise_multiplier", -1),
        ("clipping_norm", 0),
        ("delta", 1.0),
    ]:
        with pytest.raises(InputError, match=name):
            train(model, inputs, labels, **{name: value})
    with pytest.raises(InputError, match="group_size"):
        group_privacy(1.0, 1e-5, 0)
    with pytest.raises(InputError, match="epsilon must be at least 0"):
        group_privacy(-1.0, 1e-5, 1)


def test_without_noise_there_is_no_guarantee_and_unlearning_says_so():
    trained = train(net(), *data(), noise_multiplier=0)
    for m, delta in ((1, 1e-5), (3, math.inf)):
        found = dp_sgd_unlearn(trained, m)
        assert (found.epsilon, found.delta) == (math.inf, delta)
        assert distance(found, trained.params) == 0
    assert group_privacy(math.inf, 1e-5, 2) == (math.inf, math.inf)
    for epsilon in (math.nan, -math.inf, "1"):
        with pytest.raises(InputError, match="epsilon must be"):
            group_privacy(epsilon, 1e-5, 1)


def test_noise_falls_on_parameters_that_the_loss_does_not_use():
    """Whether one is used may depend on the data, so what is published of it is noise as well."""

    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(3, 4), nn.Linear(30, 40)

        def forward(self, x):
            return self.used(x)

    with seeded(0, "half"):
        model = Half().double()
    found = train(model, *data(), num_steps=1, learning_rate=0.1)
    noise = (found.params["unused.weight"] - model.unused.weight.detach()) / (0.1 * 0.7 / 6)
    assert float(noise.square().mean()) == pytest.approx(1, abs=5 * (2 / 1200) ** 0.5)


def test_a_frozen_model_and_layers_that_refuse_one_example_are_named():
    with pytest.raises(InputError, match="no trainable parameters"):
        train(net().requires_grad_(False), *data())
