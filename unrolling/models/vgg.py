"""VGG networks for small images (Simonyan and Zisserman, 2015) with batch norm and one linear layer.

The paper trains the VGG-19 of github.com/kuangliu/pytorch-cifar; this is the same network. Its convolutions
keep their biases although batch norm follows, which makes 20,040,522 parameters at width 64 and 10 classes;
without these 5,504 biases there would be 20,035,018. In training mode batch norm subtracts a bias again, so
its gradient vanishes; in evaluation mode, where the released code measures the Hessian, it does not.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from unrolling._checks import InputError

POOL = 0
"""Marks a 2 x 2 max-pooling in a plan."""

VGG19 = (1, 1, POOL, 2, 2, POOL, 4, 4, 4, 4, POOL, 8, 8, 8, 8, POOL, 8, 8, 8, 8, POOL)
VGG_SMALL = (1, POOL, 2, POOL, 4, 4, POOL)


class VGG(nn.Module):
    """Convolutions and max-pooling as planned, global average pooling, one linear layer.

    On 32 x 32 images VGG-19's average is over a single pixel.

    Args:
        input_shape: (channels, height, width) of an image; each pooling halves it.
        num_classes: Number of logits.
        width: Channels of the first convolution.
        plan: For each layer its channels in units of ``width``, or :data:`POOL`.
    """

    def __init__(self, input_shape: tuple[int, int, int], num_classes: int, width: int, plan: Sequence[int]):
        super().__init__()
        smallest = 2 ** plan.count(POOL)
        if min(input_shape[1:]) < smallest:
            raise InputError(
                f"input_shape {tuple(input_shape)} is too small: this network halves the image "
                f"{plan.count(POOL)} times and needs at least {smallest} x {smallest} pixels. "
                "Choose a smaller network or larger images."
            )
        channels, layers = input_shape[0], []
        for multiple in plan:
            if multiple == POOL:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [
                nn.Conv2d(channels, multiple * width, 3, padding=1),
                nn.BatchNorm2d(multiple * width),
                nn.ReLU(),
            ]
            channels = multiple * width
        self.features = nn.Sequential(*layers)
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (batch, classes)."""
        return self.linear(self.features(x).mean(dim=(2, 3)))
