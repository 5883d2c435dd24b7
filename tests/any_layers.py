"""Small networks, one for each kind of layer that PyTorch trains, in float64; each gives three logits."""

import warnings

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

from unrolling import build_model, seeded

NUMBER, TOKENS, CLASSES = 12, 5, 3


class Last(nn.Module):
    """Recurrent cells, read at the last token."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell(3, 4, batch_first=True)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.up, self.head = nn.Linear(3, 4), nn.Linear(4, CLASSES)

    def forward(self, x):
        x = self.up(x)
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(dim=1))


class Words(nn.Module):
    def __init__(self, embedding):
        super().__init__()
        self.embedding, self.head = embedding, nn.Linear(4, CLASSES)

    def forward(self, x):
        found = self.embedding(x)
        return self.head(torch.tanh(found.mean(dim=1) if found.ndim == 3 else found))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, CLASSES)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.other = nn.Linear(6, CLASSES), nn.Linear(6, 2)

    def forward(self, x):
        return self.body(x)


class Sometimes(nn.Module):
    """A branch that only some batches take: what is trained depends on the data."""

    def __init__(self):
        super().__init__()
        self.body, self.branch = nn.Linear(6, CLASSES), nn.Linear(6, CLASSES)

    def forward(self, x):
        found = self.body(x)
        return found + self.branch(x) if bool(x[0, 0] > 0) else found


class LoRA(nn.Module):
    """A frozen layer with a low-rank change, as adapters wrap it."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(6, CLASSES).requires_grad_(False)
        self.down, self.up = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.randn(CLASSES, 2))

    def forward(self, x):
        return self.base(x) + x @ self.down.T @ self.up.T


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(6, 5), nn.Linear(5, CLASSES)

    def forward(self, x):
        return self.head(F.elu_(self.first(x)))


class Recomputing(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh())
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x):
        return self.head(checkpoint(self.block, x, use_reentrant=False))


def flat(*layers):
    return lambda: nn.Sequential(*(layer() for layer in layers))


def images(norm):
    return flat(
        lambda: nn.Conv2d(1, 4, 2),
        norm,
        nn.Tanh,
        nn.Flatten,
        lambda: nn.Linear(36, CLASSES),
    )


def hidden(layer):
    return flat(lambda: nn.Linear(6, 4), layer, nn.Tanh, lambda: nn.Linear(4, CLASSES))


def frozen():
    model = hidden(nn.Identity)()
    model[0].requires_grad_(False)
    return model


FLAT, IMAGES, SEQUENCES, WORDS = (6,), (1, 4, 4), (TOKENS, 3), None
#: Kind -> how to build it, and the shape of one example; None stands for token numbers.
KINDS = {
    "linear": (hidden(nn.Identity), FLAT),
    "convolution": (images(nn.Identity), IMAGES),
    "batch norm": (images(lambda: nn.BatchNorm2d(4)), IMAGES),
    "batch norm, flat": (hidden(lambda: nn.BatchNorm1d(4)), FLAT),
    "layer norm": (hidden(lambda: nn.LayerNorm(4)), FLAT),
    "group norm": (images(lambda: nn.GroupNorm(2, 4)), IMAGES),
    "instance norm": (images(lambda: nn.InstanceNorm2d(4, affine=True)), IMAGES),
    "rms norm": (hidden(lambda: nn.RMSNorm(4)), FLAT),
    "dropout": (hidden(lambda: nn.Dropout(0.3)), FLAT),
    "rnn": (lambda: Last(nn.RNN), SEQUENCES),
    "gru": (lambda: Last(nn.GRU), SEQUENCES),
    "lstm": (lambda: Last(nn.LSTM), SEQUENCES),
    "attention": (Attention, SEQUENCES),
    "embedding": (lambda: Words(nn.Embedding(8, 4)), WORDS),
    "embedding with padding": (lambda: Words(nn.Embedding(8, 4, padding_idx=0)), WORDS),
    "sparse embedding": (lambda: Words(nn.Embedding(8, 4, sparse=True)), WORDS),
    "embedding bag": (lambda: Words(nn.EmbeddingBag(8, 4)), WORDS),
    "weight norm": (lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(6, CLASSES))), FLAT),
    "old weight norm": (lambda: nn.Sequential(weight_norm(nn.Linear(6, CLASSES))), FLAT),
    "spectral norm": (lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, CLASSES))), FLAT),
    "old spectral norm": (lambda: nn.Sequential(spectral_norm(nn.Linear(6, CLASSES))), FLAT),
    "tied": (Tied, FLAT),
    "frozen": (frozen, FLAT),
    "unused": (Unused, FLAT),
    "used sometimes": (Sometimes, FLAT),
    "adapter": (LoRA, FLAT),
    "in-place activation": (hidden(lambda: nn.ELU(inplace=True)), FLAT),
    "in place first": (flat(lambda: nn.ELU(inplace=True), lambda: nn.Linear(6, CLASSES)), FLAT),
    "in-place function": (InPlace, FLAT),
    "recomputing": (Recomputing, FLAT),
    "distilbert-small": (
        lambda: build_model("distilbert-small", CLASSES, input_shape=(TOKENS,), width=4, vocab_size=8),
        WORDS,
    ),
}


def build(kind):
    with seeded(0, "layers"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the old norms are still in use
        return KINDS[kind][0]().double()


def data(kind):
    """Return twelve examples; those of token numbers end with padding, and start with none."""
    shape = KINDS[kind][1]
    with seeded(1, "layers"):
        labels = torch.arange(NUMBER) % CLASSES
        if shape is not None:
            return torch.randn(NUMBER, *shape, dtype=torch.float64), labels
        tokens = torch.randint(1, 8, (NUMBER, TOKENS))
        lengths = torch.randint(1, TOKENS + 1, (NUMBER, 1))
        return tokens.where(torch.arange(TOKENS) < lengths, 0), labels
