"""How a GPU multiplies float32 numbers is a setting of a run, and leaves no trace."""

import pytest
import torch

from unrolling import Objective, batch_loss, hvp, load_dataset, snapshot
from unrolling._checks import InputError
from unrolling.methods.others.per_example import ExampleJacobians
from unrolling.runs import RunConfig
from unrolling.runs.execute import execute
from unrolling.runs.precision import float32_products

BACKENDS = torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn


def flags():
    return [backend.fp32_precision for backend in BACKENDS]


@pytest.mark.parametrize("kind", ["ieee", "tf32"])
def test_products_and_convolutions_are_of_one_kind_for_a_block(kind):
    before = flags()
    with float32_products(kind):
        assert flags() == [kind] * 3
    assert flags() == before


class Recurrent(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.linear = torch.nn.GRU(3, 4, batch_first=True), torch.nn.Linear(4, 2)

    def forward(self, inputs):
        return self.linear(self.cell(inputs)[0][:, -1])


@pytest.mark.parametrize("kind", ["ieee", "tf32"])
def test_recurrent_cells_are_measured_in_either_kind(kind):
    """They are computed without cuDNN; PyTorch's own switch for that fails on kinds chosen by name."""
    model, batch = Recurrent(), (torch.randn(5, 6, 3), torch.arange(5) % 2)
    loss = batch_loss(model, Objective("cross_entropy"), batch)
    weights, enabled = snapshot(model), torch.backends.cudnn.enabled
    with float32_products(kind):
        found = hvp(loss, weights, weights)
        slopes, _ = ExampleJacobians(model, lambda logits: logits[0])(batch[0])
    torch.testing.assert_close(found, hvp(loss, weights, weights))
    assert slopes["linear.weight"].shape == (5, 2, 2, 4)
    assert torch.backends.cudnn.enabled == enabled


def test_pytorch_alone_would_mix_two_kinds():
    """The reason why the kind is set in every run: convolutions are rounded unless one says otherwise."""
    assert torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_a_run_of_another_precision_has_another_address():
    plain = RunConfig(dataset="digits", dtype="float32")
    assert "products" not in plain.to_dict()
    rounded = RunConfig(dataset="digits", dtype="float32", products="tf32")
    assert rounded.to_dict() == plain.to_dict() | {"products": "tf32"}
    with pytest.raises(InputError, match="need a CUDA device, got cpu"):
        execute(rounded, load_dataset("digits"))


def test_bad_kinds_are_named():
    with pytest.raises(InputError, match="unknown kind of float32 products 'tf16'"):
        RunConfig(products="tf16")
    with pytest.raises(InputError, match="are those of dtype float32, got dtype float64"):
        RunConfig(products="tf32")
    with pytest.raises(InputError, match="unknown kind"), float32_products("bf16"):
        pass
