"""What is measured: four networks on data that needs no download, fresh and after some epochs of training.

Everything is float32, the precision of a usual PyTorch program, and resident on the device.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unrolling import BatchOrder, build_model, load_dataset, make_batch_order, make_generator, seeded, train
from unrolling.data.text import encode, learn_wordpiece

BATCH_SIZE = 32
LEARNING_RATE = 0.1
#: What "trained" means: epochs of SGD, and of AdamW where plain SGD hardly leaves the start.
TRAINED_EPOCHS = 2
ADAMW_EPOCHS = 4
VOCABULARY, TOKENS = 4000, 64


def digits(enlarged: bool = False) -> tuple[Tensor, Tensor]:
    """Return the embedded digits, 1 x 8 x 8, or enlarged to the paper's 3 x 32 x 32."""
    data = load_dataset("digits")
    inputs = data.train_inputs.float()
    if enlarged:
        inputs = F.interpolate(inputs, size=(32, 32), mode="bilinear").expand(-1, 3, -1, -1).contiguous()
    return inputs, data.train_labels


def reviews() -> tuple[Tensor, Tensor]:
    """Return the first 64 word pieces of embedded synthetic reviews, as many as there are digits."""
    texts = load_dataset("reviews")
    data = encode(texts, learn_wordpiece(texts.train_texts, VOCABULARY), max_tokens=TOKENS)
    return data.train_inputs[:1440].long(), data.train_labels[:1440]


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

    @property
    def steps_of_an_epoch(self) -> int:
        return -(-len(self.inputs) // BATCH_SIZE)

    def order(self, steps: int) -> BatchOrder:
        """Return the first ``steps`` batches of as many epochs as they need."""
        epochs = -(-steps // self.steps_of_an_epoch)
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
            model, data = build_model(name, 2, input_shape=(TOKENS,), vocab_size=VOCABULARY), reviews()
        elif name == "resnet18":
            model, data = build_model("resnet18", 10, width=width), digits(enlarged=True)
        else:
            model, data = build_model(name, 10, input_shape=(1, 8, 8)), digits()
    workload = Workload(name, model, *data)
    if trained and name == "distilbert-small":
        _train_by_adamw(workload)
    elif trained:
        order = workload.order(TRAINED_EPOCHS * workload.steps_of_an_epoch)
        train(model, *data, order, loss_fn, learning_rate=LEARNING_RATE)
    return workload


def _train_by_adamw(workload: Workload) -> None:
    optimizer = torch.optim.AdamW(workload.model.parameters(), lr=1e-3)
    for index in workload.order(ADAMW_EPOCHS * workload.steps_of_an_epoch):
        optimizer.zero_grad()
        loss_fn(workload.model, (workload.inputs[list(index)], workload.labels[list(index)])).backward()
        optimizer.step()
    workload.model.zero_grad()
