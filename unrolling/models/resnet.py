"""Residual networks for small images (He et al., 2016) with a 3 x 3 stem and no max-pooling.

The paper trains the ResNet-18 of github.com/kuangliu/pytorch-cifar; this is the same network. At width 64
and 10 classes it has 11,173,962 parameters.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def _conv3x3(in_channels: int, out_channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm, added to a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = _conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = _conv3x3(out_channels, out_channels, 1)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, smaller by the stride."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet(nn.Module):
    """Stem, stages of basic blocks, global average pooling, one linear layer.

    Every stage after the first halves the image and doubles the channels. Images of any size fit.

    Args:
        in_channels: Channels of the input.
        num_classes: Number of logits.
        width: Channels of the stem and the first stage.
        stages: Basic blocks per stage; ``(2, 2, 2, 2)`` is ResNet-18.
    """

    def __init__(self, in_channels: int, num_classes: int, width: int, stages: Sequence[int]):
        super().__init__()
        self.conv1 = _conv3x3(in_channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        blocks, channels = [], width
        for stage, num_blocks in enumerate(stages):
            for block in range(num_blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(BasicBlock(channels, width * 2**stage, stride))
                channels = width * 2**stage
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (batch, classes)."""
        out = self.blocks(F.relu(self.bn1(self.conv1(x))))
        return self.linear(out.mean(dim=(2, 3)))
