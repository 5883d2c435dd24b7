"""The probes pass every layer whose second derivative is right, and name the one that is wrong."""

import random

import pytest
import torch
from torch import nn

from unrolling import UnlearningTracker, batch_loss, snapshot
from unrolling._checks import InputError
from unrolling.probes import check_deterministic, check_symmetric


def net(*layers, dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(*layers).to(dtype)


def loss_fn(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def batch_of(dtype=torch.float64):
    torch.manual_seed(1)
    return torch.randn(8, 4).to(dtype), torch.randint(3, (8,))


def normed():
    return torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 6))


class Wrong(torch.autograd.Function):
    """A product whose gradient in w forgets that it depends on x: as weight_norm's does in PyTorch 2.15."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        return grad * w, grad * x.detach()


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x):
        return Wrong.apply(x, self.scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_backward_pass_that_is_wrong_is_found_and_its_layer_named(dtype):
    model = net(nn.Linear(4, 6), Scaled(), nn.Tanh(), nn.Linear(6, 3), dtype=dtype)
    data = batch_of(dtype)
    words = r"not symmetric \(u\.Hv and v\.Hu differ by .*, most of all in '(0\.weight|0\.bias|1\.scale)'\."
    with pytest.raises(InputError, match=words) as caught:
        check_symmetric(batch_loss(model, loss_fn, data), snapshot(model))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="not symmetric"):
        UnlearningTracker(model, loss_fn, learning_rate=0.1).step(data)
    UnlearningTracker(model, loss_fn, learning_rate=0.1, probe=False).step(data)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "layers",
    [
        (nn.Linear(4, 3),),
        (nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)),
        (nn.Linear(4, 6), nn.LayerNorm(6), nn.GELU(), nn.Dropout(0.5), nn.Linear(6, 3)),
        (torch.nn.utils.parametrizations.spectral_norm(nn.Linear(4, 6)), nn.Tanh(), nn.Linear(6, 3)),
        (normed(), nn.Tanh(), nn.Linear(6, 3)),
    ],
    ids=["linear", "batch norm", "layer norm, dropout", "spectral norm", "weight norm"],
)
@pytest.mark.parametrize("training", [False, True])
def test_what_is_right_passes(layers, dtype, training):
    model = net(*layers, dtype=dtype)
    loss = batch_loss(model, loss_fn, batch_of(dtype), training=training)
    state, generators = snapshot(model), torch.get_rng_state()
    check_deterministic(loss, snapshot(model))
    check_symmetric(loss, snapshot(model))
    assert all(torch.equal(p, state[name]) for name, p in snapshot(model).items())
    assert torch.equal(generators, torch.get_rng_state())


def test_a_linear_loss_has_a_symmetric_hessian_of_zeros():
    check_symmetric(lambda p: p["w"].sum(), {"w": torch.ones(3)})


def test_two_passes_that_differ_are_named():
    calls = iter(range(100))
    with pytest.raises(InputError, match=r"two passes .* differ, 0 and 1"):
        check_deterministic(lambda p: p["w"].sum() * 0 + next(calls), {"w": torch.ones(3)})
    numbers = random.Random(0)
    model = net(nn.Linear(4, 3))
    noisy = batch_loss(model, lambda m, b: loss_fn(m, b) * numbers.random(), batch_of())
    with pytest.raises(InputError, match="draws random numbers"):
        check_deterministic(noisy, snapshot(model))


def test_a_loss_that_is_no_scalar_is_named():
    with pytest.raises(InputError, match=r"scalar, got shape \(3,\)"):
        check_deterministic(lambda p: p["w"], {"w": torch.ones(3)})
