"""Layer by layer: e and v of the package are those of a loop by hand with torch.optim.

The singular values come from central differences of gradients, so no second derivative is trusted.
"""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from unrolling import UnlearningTracker, forget_loss, single_gradient_unlearn, snapshot, verification_error
from unrolling._checks import InputError

ETA, STEPS, BATCH, TOKENS, WIDTH = 0.1, 4, 6, 3, 4


class Head(nn.Module):
    """``body`` between tokens (or vectors of them) and three classes."""

    def __init__(self, body, *, embed=None):
        super().__init__()
        self.embed, self.body = embed or nn.Embedding(7, WIDTH), body
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, tokens):
        return self.head(self.body(self.embed(tokens)).mean(dim=1))


class First(nn.Module):
    """The first of the outputs of a layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


class Attention(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.layer = nn.MultiheadAttention(WIDTH, 2, dropout=dropout, batch_first=True)

    def forward(self, x):
        return self.layer(x, x, x)[0]


class ChannelsFirst(nn.Module):
    """A layer that wants (batch, channels, length)."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x.transpose(1, 2)).transpose(1, 2)


class LowRank(nn.Module):
    """LoRA: a frozen layer, and a trained product of two thin ones beside it."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.down, self.up = nn.Linear(WIDTH, 2, bias=False), nn.Linear(2, WIDTH, bias=False)

    def forward(self, x):
        return self.frozen(x) + self.up(self.down(x))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, x):
        return self.used(x)


class Bag(nn.Module):
    """A sum of embeddings, as a layer of its own; the rest sees one token."""

    def __init__(self, mode):
        super().__init__()
        self.layer = nn.EmbeddingBag(7, WIDTH, mode=mode)

    def forward(self, tokens):
        return self.layer(tokens)[:, None]


def frozen(layer):
    return layer.requires_grad_(False)


def conv(*args, **options):
    return ChannelsFirst(nn.Conv1d(*args, **options))


LAYERS = {
    "linear": lambda: Head(nn.Linear(WIDTH, WIDTH)),
    "convolution": lambda: Head(conv(WIDTH, WIDTH, 2, padding=1)),
    "transposed convolution": lambda: Head(ChannelsFirst(nn.ConvTranspose1d(WIDTH, WIDTH, 2))),
    "batch norm": lambda: Head(ChannelsFirst(nn.BatchNorm1d(WIDTH))),
    "instance norm": lambda: Head(
        nn.Sequential(ChannelsFirst(nn.InstanceNorm1d(WIDTH, affine=True)), nn.Tanh())
    ),
    "group norm": lambda: Head(ChannelsFirst(nn.GroupNorm(2, WIDTH))),
    "layer norm": lambda: Head(nn.LayerNorm(WIDTH)),
    "RMS norm": lambda: Head(nn.RMSNorm(WIDTH)),
    "local response norm": lambda: Head(ChannelsFirst(nn.LocalResponseNorm(2))),
    "dropout": lambda: Head(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.5))),
    "alpha dropout": lambda: Head(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.AlphaDropout(0.3))),
    "ReLU in place": lambda: Head(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(inplace=True))),
    "SiLU in place": lambda: Head(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.SiLU(inplace=True))),
    "PReLU": lambda: Head(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.PReLU())),
    "GELU": lambda: Head(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU())),
    "softmax": lambda: Head(nn.Softmax(dim=-1)),
    "maximum": lambda: Head(ChannelsFirst(nn.MaxPool1d(2))),
    "LSTM": lambda: Head(First(nn.LSTM(WIDTH, WIDTH, batch_first=True))),
    "LSTM, two layers, dropout": lambda: Head(
        First(nn.LSTM(WIDTH, WIDTH, num_layers=2, dropout=0.5, batch_first=True))
    ),
    "LSTM, both ways": lambda: Head(First(nn.LSTM(WIDTH, WIDTH // 2, bidirectional=True, batch_first=True))),
    "GRU": lambda: Head(First(nn.GRU(WIDTH, WIDTH, batch_first=True))),
    "RNN": lambda: Head(First(nn.RNN(WIDTH, WIDTH, batch_first=True))),
    "embedding with padding": lambda: Head(nn.Identity(), embed=nn.Embedding(7, WIDTH, padding_idx=0)),
    "attention": lambda: Head(Attention()),
    "attention with dropout": lambda: Head(Attention(0.4)),
    "transformer": lambda: Head(nn.TransformerEncoderLayer(WIDTH, 2, 6, dropout=0.2, batch_first=True)),
    "weight norm": lambda: Head(parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH))),
    "hard sigmoid": lambda: Head(nn.Hardsigmoid()),
    "spectral norm": lambda: Head(parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH))),
    "orthogonal": lambda: Head(parametrizations.orthogonal(nn.Linear(WIDTH, WIDTH))),
    "tied": lambda: Head(Tied()),
    "frozen": lambda: Head(nn.Linear(WIDTH, WIDTH), embed=frozen(nn.Embedding(7, WIDTH))),
    "unused": lambda: Head(Unused()),
    "low rank": lambda: Head(LowRank(), embed=frozen(nn.Embedding(7, WIDTH))),
}


def loss_fn(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def make(name):
    torch.manual_seed(0)
    model = LAYERS[name]().double().train()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.mul_(1.5)  # further from the linear regime
    return model, [(torch.randint(7, (BATCH, TOKENS)), torch.randint(3, (BATCH,))) for _ in range(STEPS)]


def by_differences(model, batch, step=1e-5):
    """The largest singular value of the Hessian in evaluation mode, from gradients alone."""
    model = copy.deepcopy(model).eval()
    params = [p for p in model.parameters() if p.requires_grad]

    def gradient():
        found = torch.autograd.grad(loss_fn(model, batch), params, allow_unused=True, materialize_grads=True)
        return torch.cat([g.reshape(-1) for g in found])

    rows = []
    with torch.no_grad():
        for p in params:
            for i in range(p.numel()):
                entry = p.view(-1)[i]
                value = entry.clone()
                sides = []
                for sign in (1, -1):
                    entry.copy_(value + sign * step)
                    with torch.enable_grad():
                        sides.append(gradient())
                entry.copy_(value)
                rows.append((sides[0] - sides[1]) / (2 * step))
    hessian = torch.stack(rows)
    hessian[(hessian == 0).all(dim=0)] = 0  # what never trains, such as the vector of the padding
    return float(torch.linalg.matrix_norm((hessian + hessian.T) / 2, 2))


def by_hand(model, data, *, first=0, sampled=()):
    """Train a copy; return it, the gradient of its first step, and singular values before some steps."""
    model, gradient, sigmas = copy.deepcopy(model), None, []
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=ETA)
    for step in range(first, STEPS):
        if step in sampled:
            sigmas.append(by_differences(model, data[step]))
        torch.manual_seed(step)  # both M and M' draw the masks of a step
        optimizer.zero_grad()
        loss_fn(model, data[step]).backward()
        if gradient is None:
            gradient = {
                name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
                for name, p in model.named_parameters()
                if p.requires_grad
            }
        optimizer.step()
    return model, gradient, sigmas


def distance(first, second):
    return sum(float((first[name] - second[name]).square().sum()) for name in first) ** 0.5


@pytest.mark.parametrize("name", LAYERS)
def test_e_and_v_are_those_of_a_loop_by_hand(name):
    model, data = make(name)
    before = snapshot(model)
    trained, gradient, sigmas = by_hand(model, data, sampled=(0, 2))
    retrained, _, _ = by_hand(model, data, first=1)
    now, other = snapshot(trained), snapshot(retrained)
    change = distance(now, before)
    e = ETA**2 * change / STEPS * sum(sigmas) / 2 * (STEPS**2 - STEPS) / 2
    v = distance({n: now[n] + ETA * gradient[n] for n in now}, other)

    torch.manual_seed(0)
    forgotten = forget_loss(model, loss_fn, data[0], random_state=torch.get_rng_state())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=ETA)
    tracker = UnlearningTracker(model, loss_fn, optimizer=optimizer, every=2, rtol=1e-5, max_hvps=200)
    for step, batch in enumerate(data):
        torch.manual_seed(step)
        tracker.step(batch)
        optimizer.zero_grad()
        loss_fn(model, batch).backward()
        optimizer.step()
    found = tracker.result()
    assert found.broken == ()
    assert found.converged
    assert found.weight_change == pytest.approx(change, rel=1e-12)
    assert found.unlearning_error == pytest.approx(e, rel=1e-5)
    unlearned = single_gradient_unlearn(snapshot(model), before, forgotten, learning_rate=ETA)
    assert verification_error(unlearned, other) == pytest.approx(v, rel=1e-10)
    assert v > 0


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_a_layer_without_a_second_derivative_is_named_and_its_steps_are_undone(mode):
    LAYERS["bag"] = lambda: Head(nn.Tanh(), embed=Bag(mode))
    model, data = make("bag")
    del LAYERS["bag"]
    with pytest.raises(InputError, match=r"layer 'embed\.layer' \(EmbeddingBag\) cannot be differentiated"):
        UnlearningTracker(model, loss_fn, learning_rate=ETA).step(data[0])
    before, (trained, gradient, _) = snapshot(model), by_hand(model, data)
    unlearned = single_gradient_unlearn(
        snapshot(trained), before, forget_loss(model, loss_fn, data[0]), learning_rate=ETA
    )
    expected = {name: w + ETA * gradient[name] for name, w in snapshot(trained).items()}
    assert distance(unlearned, expected) < 1e-14
