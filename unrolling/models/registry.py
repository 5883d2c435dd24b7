"""Networks by name."""

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import nn

from unrolling._checks import InputError, check_choice, check_integer, check_real, shown
from unrolling._folders import data_root
from unrolling.models.linear import linear, mlp
from unrolling.models.pretrained import PREFIX, find_pretrained
from unrolling.models.resnet import ResNet
from unrolling.models.text import distilbert_small, pretrained_classifier
from unrolling.models.vgg import VGG, VGG19, VGG_SMALL

#: The largest number of units, channels, classes, tokens or pixels along an axis.
LARGEST_SIZE = 10_000_000
#: The largest number of numbers in one input.
LARGEST_INPUT = 10**9
#: What the axes of one input are.
IMAGE, TOKENS, ANY = ("channels", "height", "width"), ("tokens",), ()


@dataclass(frozen=True)
class _Wanted:
    """What :func:`build_model` was asked for."""

    name: str
    input_shape: tuple[int, ...]
    num_classes: int
    width: int
    vocab_size: int
    dropout: float
    root: Path


class _Architecture(NamedTuple):
    description: str
    axes: tuple[str, ...]
    width: int | None  # None: there is nothing to widen
    build: Callable[[_Wanted], nn.Module]


def _pretrained(description: str) -> _Architecture:
    return _Architecture(
        description,
        TOKENS,
        None,
        lambda it: pretrained_classifier(
            find_pretrained(it.name, it.root), it.input_shape[0], it.num_classes, it.dropout
        ),
    )


_ARCHITECTURES = {
    "linear": _Architecture(
        "softmax regression", ANY, None, lambda it: linear(it.input_shape, it.num_classes)
    ),
    "mlp": _Architecture(
        "one hidden layer of 32 ReLU units",
        ANY,
        32,
        lambda it: mlp(it.input_shape, it.num_classes, it.width, nn.ReLU),
    ),
    "mlp-tanh": _Architecture(
        "one hidden layer of 32 tanh units: a smooth loss",
        ANY,
        32,
        lambda it: mlp(it.input_shape, it.num_classes, it.width, nn.Tanh),
    ),
    "resnet-small": _Architecture(
        "ResNet of three basic blocks, 8-16-32 channels, batch norm",
        IMAGE,
        8,
        lambda it: ResNet(it.input_shape[0], it.num_classes, it.width, (1, 1, 1)),
    ),
    "vgg-small": _Architecture(
        "VGG of four convolutions, 8-16-32-32 channels, batch norm",
        IMAGE,
        8,
        lambda it: VGG(it.input_shape, it.num_classes, it.width, VGG_SMALL),
    ),
    "resnet18": _Architecture(
        "the paper's ResNet-18 for 32 x 32 images",
        IMAGE,
        64,
        lambda it: ResNet(it.input_shape[0], it.num_classes, it.width, (2, 2, 2, 2)),
    ),
    "vgg19": _Architecture(
        "the paper's VGG-19 with batch norm for 32 x 32 images",
        IMAGE,
        64,
        lambda it: VGG(it.input_shape, it.num_classes, it.width, VGG19),
    ),
    "distilbert-small": _Architecture(
        "DistilBERT of two layers, 64 wide, new weights",
        TOKENS,
        64,
        lambda it: distilbert_small(
            it.input_shape[0], it.num_classes, it.width, it.vocab_size, dropout=it.dropout
        ),
    ),
    "distilbert-base-uncased": _pretrained("the paper's DistilBERT, pretrained"),
    "minilm-l6": _pretrained("an encoder of six layers, 384 wide, pretrained on sentence pairs"),
}

MODELS: dict[str, str] = {name: known.description for name, known in _ARCHITECTURES.items()}
"""What :func:`build_model` can build: name -> one line at its default width."""


def check_model(name: str) -> str:
    """Return ``name`` if :func:`build_model` knows it."""
    if isinstance(name, str) and name.startswith(PREFIX) and name != PREFIX:
        return name
    return check_choice("model", name, _ARCHITECTURES)


def takes_tokens(name: str) -> bool:
    """Return whether a model reads texts."""
    return check_model(name).startswith(PREFIX) or _ARCHITECTURES[name].axes == TOKENS


def is_pretrained(name: str) -> bool:
    """Return whether a model's weights, and its tokeniser, come from files."""
    return takes_tokens(name) and name != "distilbert-small"


def build_model(
    name: str,
    num_classes: int,
    *,
    input_shape: tuple[int, ...] = (3, 32, 32),
    width: int | None = None,
    vocab_size: int = 4000,
    dropout: float = 0.0,
    root: str | os.PathLike[str] | None = None,
) -> nn.Module:
    """Return a new network with PyTorch's default initialisation, or a pretrained one with a new head.

    The weights are drawn from PyTorch's global generator; wrap the call in
    :func:`unrolling.seeded` to make them a function of a seed.

    Args:
        name: A key of :data:`MODELS`, or ``hf:`` and the name or folder of any sequence classifier of the
            transformers library.
        num_classes: Number of logits, c.
        input_shape: (channels, height, width) of one image; (1, 8, 8) for the digits; (tokens,) of the
            longest text. Softmax regression and the networks of one hidden layer take any shape.
        width: Hidden units, channels of the first convolution (the others are multiples of it), or width of
            the embeddings. By default the one in the model's description, 64 for the paper's image models.
        vocab_size: Token numbers of ``distilbert-small``; the others do not use it.
        dropout: Rate of dropout of text models; the others have none.
        root: The data root, where pretrained models are looked for first; by default ``UNROLLING_DATA``.

    Returns:
        A module from inputs of shape ``(batch, *input_shape)`` to logits (batch, num_classes).

    Raises:
        InputError: If the name is unknown, a number is out of range, or the image is too small to be pooled.
        DataError: If the files of a pretrained model are missing or damaged.

    Example:
        >>> model = build_model("mlp", 10, input_shape=(1, 8, 8))
        >>> sum(p.numel() for p in model.parameters())  # 64 x 32 + 32 + 32 x 10 + 10
        2410
    """
    known = _ARCHITECTURES.get(check_model(name)) or _pretrained(name)
    check_integer("num_classes", num_classes, minimum=2, maximum=LARGEST_SIZE)
    check_integer("vocab_size", vocab_size, minimum=5, maximum=LARGEST_SIZE)
    if check_real("dropout", dropout, minimum=0) >= 1:
        raise InputError(f"dropout must be below 1, got {dropout:g}.")
    if isinstance(input_shape, str) or not isinstance(input_shape, Iterable):
        raise InputError(
            f"input_shape must be one size per axis, such as (3, 32, 32), got {shown(input_shape)}."
        )
    input_shape = tuple(input_shape)
    axes = known.axes or tuple(f"axis {i}" for i in range(len(input_shape)))
    if len(input_shape) != len(axes) or not axes:
        expected = ", ".join(known.axes) or "one size per axis"
        raise InputError(f"input_shape of {name!r} must be ({expected}), got {tuple(input_shape)}.")
    for axis, size in zip(axes, input_shape, strict=True):
        check_integer(f"{axis} of input_shape", size, minimum=1, maximum=LARGEST_SIZE)
    if math.prod(map(int, input_shape)) > LARGEST_INPUT:
        raise InputError(f"input_shape {input_shape} has more than {LARGEST_INPUT:,} numbers. Choose less.")
    if width is None:
        width = known.width or 0
    elif known.width is None:
        raise InputError(f"model {name!r} has no width, got width={width}. Leave it out.")
    else:
        check_integer("width", width, minimum=1, maximum=LARGEST_SIZE)
    wanted = _Wanted(
        name,
        tuple(map(int, input_shape)),
        int(num_classes),
        int(width),
        int(vocab_size),
        dropout,
        data_root(root),
    )
    try:
        return known.build(wanted)
    except (MemoryError, RuntimeError) as error:  # PyTorch's own word for memory that there is not
        reason = str(error).strip().splitlines()
        raise InputError(
            f"cannot build {name!r} of width {width} for inputs of {wanted.input_shape}: "
            f"{reason[0] if reason else 'not enough memory'} Choose smaller numbers."
        ) from error
