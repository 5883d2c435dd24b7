"""What is measured: four networks on data that needs no download, fresh and after two epochs of SGD.

Everything is float32, the precision of a usual PyTorch program, and resident on the device.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unrolling import BatchOrder, build_model, load_dataset, make_batch_order, make_generator, seeded, train

BATCH_SIZE = 32
LEARNING_RATE = 0.1
#: What "trained" means.
TRAINED_EPOCHS = 2


class DistilBert(nn.Module):
    """DistilBERT with two layers of width 64 and no dropout, for reviews of 64 tokens."""

    def __init__(self) -> None:
        from transformers import DistilBertConfig, DistilBertForSequenceClassification

        config = DistilBertConfig(
            vocab_size=4000,
            max_position_embeddings=64,
            dim=64,
            n_layers=2,
            n_heads=2,
            hidden_dim=128,
            dropout=0.0,
            attention_dropout=0.0,
            seq_classif_dropout=0.0,
            num_labels=2,
            attn_implementation="eager",  # PyTorch's fused attention has no second derivative
        )
        super().__init__()
        self.network = DistilBertForSequenceClassification(config)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits of shape (batch, 2)."""
        return self.network(input_ids=tokens).logits


def digits(enlarged: bool = False) -> tuple[Tensor, Tensor]:
    """Return the embedded digits, 1 x 8 x 8, or enlarged to the paper's 3 x 32 x 32."""
    data = load_dataset("digits")
    inputs = data.train_inputs.float()
    if enlarged:
        inputs = F.interpolate(inputs, size=(32, 32), mode="bilinear").expand(-1, 3, -1, -1).contiguous()
    return inputs, data.train_labels


def reviews(count: int = 1440, length: int = 64) -> tuple[Tensor, Tensor]:
    """Return made-up reviews: common words for both classes, and one word in eight from the class's own."""
    generator = make_generator(0, "benchmark", "reviews")
    labels = torch.randint(2, (count,), generator=generator)
    common = torch.multinomial(1 / torch.arange(1.0, 3801.0), count * length, True, generator=generator)
    own = 3800 + 100 * labels[:, None] + torch.randint(100, (count, length), generator=generator)
    telling = torch.rand(count, length, generator=generator) < 1 / 8
    return torch.where(telling, own, common.view(count, length)), labels


@dataclass(frozen=True)
class Workload:
    """A network with its data; ``batch`` is the one whose Hessian is taken."""

    name: str
    model: nn.Module
    inputs: Tensor
    labels: Tensor

    @property
    def batch(self) -> tuple[Tensor, Tensor]:
        return self.inputs[:BATCH_SIZE], self.labels[:BATCH_SIZE]

    def order(self, steps: int) -> BatchOrder:
        """Return the first ``steps`` batches of as many epochs as they need."""
        epochs = -(-steps * BATCH_SIZE // len(self.inputs))
        order = make_batch_order(
            len(self.inputs), BATCH_SIZE, epochs, make_generator(0, "benchmark"), reshuffle=True
        )
        return BatchOrder(order.steps[:steps])


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the mean cross-entropy."""
    return F.cross_entropy(model(batch[0]), batch[1])


NAMES = ("mlp", "resnet-small", "resnet18", "distilbert-small")


def build(name: str, *, trained: bool = False, width: int = 16) -> Workload:
    """Return a workload; ``width`` is that of ResNet-18, 64 in the paper and 16 here."""
    with seeded(0, "benchmark", name):
        if name == "distilbert-small":
            model, data = DistilBert(), reviews()
        elif name == "resnet18":
            model, data = build_model("resnet18", 10, width=width), digits(enlarged=True)
        else:
            model, data = build_model(name, 10, input_shape=(1, 8, 8)), digits()
    workload = Workload(name, model, *data)
    if trained:
        steps = TRAINED_EPOCHS * -(-len(data[0]) // BATCH_SIZE)
        train(model, *data, workload.order(steps), loss_fn, learning_rate=LEARNING_RATE)
    return workload
