"""How a GPU multiplies float32 numbers is a setting of a run, and leaves no trace."""

import pytest
import torch

from unrolling import load_dataset
from unrolling._checks import InputError
from unrolling.experiments import RunConfig
from unrolling.experiments.run import execute
from unrolling.precision import float32_products

BACKENDS = torch.backends.cuda.matmul, torch.backends.cudnn.conv


def flags():
    return [backend.fp32_precision for backend in BACKENDS]


@pytest.mark.parametrize("kind", ["ieee", "tf32"])
def test_products_and_convolutions_are_of_one_kind_for_a_block(kind):
    before = flags()
    with float32_products(kind):
        assert flags() == [kind, kind]
    assert flags() == before


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
