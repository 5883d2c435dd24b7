"""Derivatives of every kind of layer that torch trains, against central differences of its own gradient."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import unrolling as un
from unrolling._checks import InputError
from unrolling.model_loss import gradient
from unrolling.parameters import from_vector, to_vector, trainable

NUMBERS = torch.Size([6, 3, 8])  # batch, time or channels, features
TOKENS = torch.tensor([[1, 2, 0], [3, 4, 5], [2, 2, 1], [6, 0, 0], [5, 1, 3], [4, 4, 4]])


class Last(nn.Module):
    """Keeps the outputs of a recurrent layer."""

    def forward(self, out):
        return out[0]


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x)[0]


class Lora(nn.Module):
    """A frozen linear layer with a trainable correction of rank two."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(8, 8).requires_grad_(False)
        self.down, self.up = nn.Linear(8, 2, bias=False), nn.Linear(2, 8, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x).tanh())


class WithUnused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.used(x)


def half_frozen():
    layers = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
    layers[0].requires_grad_(False)
    return layers


def old_weight_norm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(nn.Linear(8, 8))


LAYERS = {
    "linear": lambda: nn.Linear(8, 8),
    "conv1d": lambda: nn.Conv1d(3, 4, 3, padding=1),
    "conv2d": lambda: nn.Sequential(nn.Unflatten(2, (2, 4)), nn.Conv2d(3, 4, 2), nn.Flatten(2)),
    "transposed conv": lambda: nn.ConvTranspose1d(3, 2, 3),
    "batch norm": lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)),
    "batch norm without statistics": lambda: nn.BatchNorm1d(3, track_running_stats=False),
    "layer norm": lambda: nn.LayerNorm(8),
    "group norm": lambda: nn.Sequential(nn.Conv1d(3, 4, 1), nn.GroupNorm(2, 4)),
    "instance norm": lambda: nn.InstanceNorm1d(3, affine=True, track_running_stats=True),
    "rms norm": lambda: nn.RMSNorm(8),
    "local response norm": lambda: nn.Sequential(nn.Linear(8, 8), nn.LocalResponseNorm(2)),
    "dropout": lambda: nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)),
    "rnn": lambda: nn.Sequential(nn.RNN(8, 5, batch_first=True), Last()),
    "gru": lambda: nn.Sequential(nn.GRU(8, 5, batch_first=True, bidirectional=True), Last()),
    "lstm": lambda: nn.Sequential(nn.LSTM(8, 5, num_layers=2, batch_first=True), Last()),
    "lstm with projection": lambda: nn.Sequential(nn.LSTM(8, 5, proj_size=3, batch_first=True), Last()),
    "attention": Attention,
    "transformer": lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True),
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(8, 8)),
    "weight norm of a convolution": lambda: parametrizations.weight_norm(nn.Conv1d(3, 4, 3)),
    "old weight norm": old_weight_norm,
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(8, 8)),
    "old spectral norm": lambda: nn.utils.spectral_norm(nn.Linear(8, 8)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(8, 8), orthogonal_map="cayley"),
    "in-place activation": lambda: nn.Sequential(nn.Linear(8, 8), nn.ELU(inplace=True), nn.Linear(8, 8)),
    "activations": lambda: nn.Sequential(
        nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8), nn.SiLU(), nn.PReLU(), nn.Mish(), nn.Softplus()
    ),
    "hard sigmoid": lambda: nn.Sequential(nn.Linear(8, 8), nn.Hardsigmoid(), nn.Linear(8, 8)),
    "hard swish": lambda: nn.Sequential(nn.Linear(8, 8), nn.Hardswish(), nn.Linear(8, 8)),
    "bilinear upsampling": lambda: nn.Sequential(nn.Linear(8, 8), nn.Upsample(16, mode="linear")),
    "pooling": lambda: nn.Sequential(nn.Conv1d(3, 4, 3, padding=1), nn.AdaptiveAvgPool1d(3)),
    "tied": Tied,
    "frozen": half_frozen,
    "unused": WithUnused,
    "lora": Lora,
    "embedding": lambda: nn.Embedding(7, 5),
    "embedding with padding": lambda: nn.Embedding(7, 5, padding_idx=0),
    "sparse embedding": lambda: nn.Embedding(7, 5, sparse=True),
}


ANOTHER = nn.Linear(2, 2)


def loss_fn(model, batch):
    out = model(batch)
    return (
        (out * torch.linspace(0.5, 1.5, out.numel(), dtype=out.dtype).view(out.shape)).sin().square().mean()
    )


def case(kind, dtype=torch.float64):
    with un.seeded(0, kind):
        model = LAYERS[kind]().to(dtype)
        batch = TOKENS if "embedding" in kind else torch.randn(NUMBERS, dtype=dtype)
        direction = torch.randn(to_vector(trainable(model)).shape, dtype=dtype)
        if "batch norm" in kind or "instance" in kind:
            model.train()(torch.randn(NUMBERS, dtype=dtype) * 2 + 1)
        if "spectral" in kind:
            for _ in range(30):  # of its power iteration
                model.train()(batch)
    return model, batch, direction


def plain_gradient(model, batch, weights, training, kind=None):
    """The gradient as torch takes it in a training loop, with the dropout mask of one random state."""
    state = copy.deepcopy(model.state_dict())
    with torch.random.fork_rng():
        # Built anew where it can be: old weight norm cannot be copied once it ran.
        model = copy.deepcopy(model) if kind is None else LAYERS[kind]().to(torch.float64)
        model.load_state_dict(state)
        model.train(training)
        with torch.no_grad():
            for p, value in zip(trainable(model).values(), weights.values(), strict=True):
                p.copy_(value)
        torch.manual_seed(5)
        loss_fn(model, batch).backward()
    return torch.cat(
        [
            (
                torch.zeros_like(p) if p.grad is None else p.grad.to_dense() if p.grad.is_sparse else p.grad
            ).view(-1)
            for p in trainable(model).values()
        ]
    )


def measured_loss(model, batch, training):
    torch.manual_seed(5)  # what a dropout layer draws from, at every call
    return un.batch_loss(model, loss_fn, batch, training=training)


# In training mode the power iteration of spectral norm follows the weights without a gradient: what autograd
# gives is the Hessian of another function than the one that differences see.
MODES = [
    (kind, training) for kind in LAYERS for training in (False, True) if not ("spectral" in kind and training)
]


@pytest.mark.parametrize(("kind", "training"), MODES)
def test_gradient_and_hessian_of_every_layer(kind, training):
    model, batch, direction = case(kind)
    away = {name: p.detach() * 1.1 + 0.01 for name, p in trainable(model).items()}  # w_0 is not where M is
    loss = measured_loss(model, batch, training)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    expected = plain_gradient(model, batch, away, training, kind)
    torch.testing.assert_close(to_vector(gradient(loss, away)), expected, rtol=1e-8, atol=1e-12)

    step = 1e-5
    ends = [
        plain_gradient(model, batch, un_add(away, from_vector(direction, away), sign * step), training, kind)
        for sign in (1, -1)
    ]
    found = to_vector(un.hvp(loss, away, from_vector(direction, away)))
    torch.testing.assert_close(found, (ends[0] - ends[1]) / (2 * step), rtol=2e-5, atol=1e-7)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def un_add(params, direction, scale):
    return {name: p + scale * direction[name] for name, p in params.items()}


@pytest.mark.parametrize(
    "kind", ["linear", "weight norm", "sparse embedding", "lstm", "tied", "lora", "unused"]
)
def test_sigma_of_layers_is_the_norm_of_the_matrix_of_differences(kind):
    model, batch, _ = case(kind)
    weights = {name: p.detach().clone() for name, p in trainable(model).items()}
    step, size = 1e-5, to_vector(weights).numel()
    columns = [
        (
            plain_gradient(model, batch, un_add(weights, from_vector(unit, weights), step), False)
            - plain_gradient(model, batch, un_add(weights, from_vector(unit, weights), -step), False)
        )
        / (2 * step)
        for unit in torch.eye(size, dtype=torch.float64)
    ]
    found = un.top_singular_value(measured_loss(model, batch, False), weights, rtol=1e-6, max_hvps=500)
    assert found.value == pytest.approx(float(torch.linalg.matrix_norm(torch.stack(columns), 2)), rel=1e-4)


class Recomputing(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.block = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Tanh())
        self.reentrant = reentrant

    def forward(self, x):
        x = x if self.reentrant == "input" else self.first(x)
        if self.reentrant is None:
            return self.block(x)
        return checkpoint(self.block, x, use_reentrant=bool(self.reentrant))


@pytest.mark.parametrize("training", [False, True])
def test_the_gradient_of_a_model_that_recomputes_is_that_of_the_same_model_without(training):
    plain, again = Recomputing(None).double(), Recomputing(False).double()
    again.load_state_dict(plain.state_dict())
    again.train(not training)
    batch = torch.randn(NUMBERS, dtype=torch.float64)
    away = {name: p.detach() * 1.1 + 0.01 for name, p in trainable(plain).items()}
    found, expected = (to_vector(gradient(measured_loss(m, batch, training), away)) for m in (again, plain))
    torch.testing.assert_close(found, expected)
    assert all(torch.equal(again.state_dict()[n], value) for n, value in plain.state_dict().items())


@pytest.mark.parametrize("reentrant", [False, True, "input"])
def test_second_derivatives_of_a_model_that_recomputes_are_refused(reentrant):
    model = Recomputing(reentrant).double()
    loss = un.batch_loss(model, loss_fn, torch.randn(NUMBERS, dtype=torch.float64))
    params = trainable(model)
    with pytest.raises(InputError, match=r"recomputes activations in the backward pass.*Switch it off"):
        un.top_singular_value(loss, params)
    with pytest.raises(InputError, match="recomputes"):
        un.hvp(lambda p: 2 * loss(p), params, params)


def test_the_layer_that_recomputes_is_named():
    model = nn.Sequential(nn.Linear(8, 8), Recomputing(False)).double()
    with pytest.raises(InputError, match=r"layer '1\.block' \(Sequential\)|layer '1' \(Recomputing\)"):
        un.top_singular_value(
            un.batch_loss(model, loss_fn, torch.randn(NUMBERS, dtype=torch.float64)), trainable(model)
        )


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_a_layer_without_a_second_derivative_is_named(mode):
    model = nn.Sequential(nn.EmbeddingBag(7, 5, mode=mode), nn.Tanh()).double()
    loss = un.batch_loss(model, loss_fn, TOKENS)
    gradient(loss, trainable(model))  # the first exists
    with pytest.raises(InputError, match=r"layer '0' \(EmbeddingBag\) cannot be differentiated as often"):
        un.top_singular_value(loss, trainable(model))


def test_wrapped_models_and_plain_weights_fit_together():
    model, batch, direction = case("linear")
    weights = {name: p.detach() for name, p in trainable(model).items()}
    expected = un.hvp(un.batch_loss(model, loss_fn, batch), weights, from_vector(direction, weights))
    for wrapped in (nn.DataParallel(model), torch.compile(model, backend="eager")):
        own = {name: p.detach() for name, p in trainable(wrapped).items()}
        assert own.keys() != weights.keys()
        for w, m in ((weights, wrapped), (own, model), (own, wrapped)):
            found = un.hvp(un.batch_loss(m, loss_fn, batch), w, from_vector(direction, weights))
            torch.testing.assert_close(to_vector(found), to_vector(expected))
        assert un.verification_error(own, weights) == 0
    assert un.verification_error(weights, {name: p + 1 for name, p in own.items()}) == pytest.approx(72**0.5)


@pytest.mark.parametrize(
    ("name", "words"),
    [("wieght", "no parameter 'wieght'"), ("module.wieght", "no parameter"), ("0.weight", "no parameter")],
)
def test_a_name_that_the_model_does_not_have_is_refused(name, words):
    model, batch, _ = case("linear")
    loss = un.batch_loss(model, loss_fn, batch)
    wrong = {name: model.weight.detach(), "bias": model.bias.detach()}
    with pytest.raises(InputError, match=words):
        un.top_singular_value(loss, wrong)
    with pytest.raises(InputError, match="must have shape"):
        loss({"bias": torch.zeros(3)})


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda p: 3.0, "must return a scalar, got float"),
        (lambda p: p["w"], r"must return a scalar, got shape \(2,\)"),
        (lambda p: p["w"].sum().detach(), "does not depend on the parameters"),
        (lambda p: torch.zeros(()), "does not depend on the parameters"),
        (lambda p: (ANOTHER.weight**2).sum(), "does not depend on the parameters"),
    ],
)
def test_a_loss_that_is_none_is_refused(loss, words):
    params = {"w": torch.ones(2)}
    for measure in (
        lambda: gradient(loss, params),
        lambda: un.top_singular_value(loss, params),
        lambda: un.hvp(loss, params, params),
        lambda: un.expand_sgd([loss], params, learning_rate=0.1),
    ):
        with pytest.raises(InputError, match=words):
            measure()


def test_a_loss_function_with_another_signature_is_named():
    model, batch, _ = case("linear")
    with pytest.raises(
        InputError, match=r"takes \(outputs, labels, extra\): expected loss_fn\(model, batch\)"
    ):
        un.batch_loss(model, lambda outputs, labels, extra: outputs.sum(), batch)
    with pytest.raises(InputError, match=r"loss_fn\(model, batch\) failed: .* here Tensor"):
        un.batch_loss(model, lambda model, batch: len(0), batch)(trainable(model))


def test_parameters_that_cannot_be_differentiated_are_named():
    def loss(params):
        return sum(p.abs().square().sum() for p in params.values())

    with pytest.raises(InputError, match="real floating-point tensors on one device"):
        un.top_singular_value(loss, {"w": torch.ones(2, dtype=torch.complex64)})
    with pytest.raises(InputError, match="real floating-point tensors on one device"):
        un.top_singular_value(loss, {"w": torch.ones(2), "v": torch.ones(2, device="meta")})


def test_mixed_precisions_come_back_as_they_were():
    params = {"single": torch.ones(2), "double": torch.ones(2, dtype=torch.float64)}
    found = un.hvp(lambda p: (p["single"].double() * p["double"]).square().sum(), params, params)
    assert {name: p.dtype for name, p in found.items()} == {n: p.dtype for n, p in params.items()}
    torch.testing.assert_close(found["double"], torch.full((2,), 6.0, dtype=torch.float64))


def test_norms_neither_overflow_nor_vanish():
    assert un.verification_error(
        {"w": torch.full((20_000,), 1000.0, dtype=torch.float16)}, {"w": torch.zeros(20_000).half()}
    ) == pytest.approx(141_421, rel=1e-4)
    assert un.verification_error({"w": torch.full((100,), 1e-25)}, {"w": torch.zeros(100)}) == pytest.approx(
        1e-24
    )
