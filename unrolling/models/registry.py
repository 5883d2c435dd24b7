"""Networks by name."""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from unrolling._checks import InputError, check_choice, check_integer
from unrolling.models.linear import linear, mlp
from unrolling.models.resnet import ResNet
from unrolling.models.vgg import VGG, VGG19, VGG_SMALL

Shape = tuple[int, int, int]


class _Architecture(NamedTuple):
    description: str
    width: int | None  # None: there is nothing to widen
    build: Callable[[Shape, int, int], nn.Module]  # (input_shape, num_classes, width)


_ARCHITECTURES = {
    "linear": _Architecture("softmax regression", None, lambda shape, classes, _: linear(shape, classes)),
    "mlp": _Architecture(
        "one hidden layer of 32 ReLU units",
        32,
        lambda shape, classes, width: mlp(shape, classes, width, nn.ReLU),
    ),
    "mlp-tanh": _Architecture(
        "one hidden layer of 32 tanh units: a smooth loss",
        32,
        lambda shape, classes, width: mlp(shape, classes, width, nn.Tanh),
    ),
    "resnet-small": _Architecture(
        "ResNet of three basic blocks, 8-16-32 channels, batch norm",
        8,
        lambda shape, classes, width: ResNet(shape[0], classes, width, (1, 1, 1)),
    ),
    "vgg-small": _Architecture(
        "VGG of four convolutions, 8-16-32-32 channels, batch norm",
        8,
        lambda shape, classes, width: VGG(shape, classes, width, VGG_SMALL),
    ),
    "resnet18": _Architecture(
        "the paper's ResNet-18 for 32 x 32 images",
        64,
        lambda shape, classes, width: ResNet(shape[0], classes, width, (2, 2, 2, 2)),
    ),
    "vgg19": _Architecture(
        "the paper's VGG-19 with batch norm for 32 x 32 images",
        64,
        lambda shape, classes, width: VGG(shape, classes, width, VGG19),
    ),
}

MODELS: dict[str, str] = {name: known.description for name, known in _ARCHITECTURES.items()}
"""What :func:`build_model` can build: name -> one line at its default width."""


def build_model(
    name: str, num_classes: int, *, input_shape: Shape = (3, 32, 32), width: int | None = None
) -> nn.Module:
    """Return a new network with PyTorch's default initialisation.

    The weights are drawn from PyTorch's global generator; wrap the call in
    :func:`unrolling.seeded` to make them a function of a seed.

    Args:
        name: A key of :data:`MODELS`.
        num_classes: Number of logits, c.
        input_shape: (channels, height, width) of one image; (1, 8, 8) for the digits.
        width: Hidden units, or channels of the first convolution (the others are multiples of it). By
            default the one in the model's description, 64 for the paper's models.

    Returns:
        A module from inputs of shape (batch, channels, height, width) to logits (batch, num_classes).

    Raises:
        InputError: If the name is unknown, a number is out of range, or the image is too small to be pooled.

    Example:
        >>> model = build_model("mlp", 10, input_shape=(1, 8, 8))
        >>> sum(p.numel() for p in model.parameters())  # 64 x 32 + 32 + 32 x 10 + 10
        2410
    """
    known = _ARCHITECTURES[check_choice("model", name, _ARCHITECTURES)]
    check_integer("num_classes", num_classes, minimum=2)
    if len(input_shape) != 3:
        raise InputError(f"input_shape must be (channels, height, width), got {tuple(input_shape)}.")
    for axis, size in zip(("channels", "height", "width"), input_shape, strict=True):
        check_integer(f"{axis} of input_shape", size, minimum=1)
    if width is None:
        width = known.width
    elif known.width is None:
        raise InputError(f"model {name!r} has no width, got width={width}. Leave it out.")
    else:
        check_integer("width", width, minimum=1)
    return known.build(input_shape, num_classes, width)
