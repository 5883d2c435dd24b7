"""Networks without convolutions: softmax regression and one hidden layer."""

import math

from torch import nn


def linear(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return softmax regression on the flattened input: its loss is convex in the weights."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), num_classes))


def mlp(input_shape: tuple[int, ...], num_classes: int, width: int, activation: type[nn.Module]) -> nn.Module:
    """Return a network with one hidden layer of ``width`` units.

    With tanh the loss is smooth, as the Taylor expansion of section 4.1 assumes; with ReLU it has kinks.
    """
    hidden = nn.Linear(math.prod(input_shape), width)
    return nn.Sequential(nn.Flatten(), hidden, activation(), nn.Linear(width, num_classes))
