"""How networks are usually trained: momentum, weight decay, a schedule, augmentation (sections 8 and 9).

The paper trains by plain SGD, "without" all of these. Its released code uses some of them in some scripts.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unrolling.parameters import trainable
from unrolling.seeding import make_generator, seeded
from unrolling.training import Batch, LossFn, Stepper, used_gradients


@dataclass(frozen=True)
class Recipe:
    r"""What is added to plain SGD.

    Attributes:
        momentum: :math:`\beta` of heavy-ball SGD.
        weight_decay: :math:`\lambda`, added to the gradient as :math:`\lambda w`.
        cosine: In epoch k of N the learning rate is :math:`\frac{\eta}{2} (1 + \cos(\pi k / N))`.
        augment: Random crops of the image with a border of 4 zeros, the mean colour of standardised
            images (the usual recipe has black), and random flips.
        frozen_statistics: Only the first step is taken in training mode.
    """

    momentum: float = 0.0
    weight_decay: float = 0.0
    cosine: bool = False
    augment: bool = False
    frozen_statistics: bool = False


#: Recipes of pre-training by name.
RECIPES: dict[str, Recipe] = {
    "plain": Recipe(),
    "cosine": Recipe(weight_decay=5e-4, cosine=True),  # the released pre-training script
    "full": Recipe(momentum=0.9, weight_decay=5e-4, cosine=True, augment=True),  # what section 9 removes
}


class RecipeStepper(Stepper):
    """Takes steps by a recipe, as ``torch.optim.SGD`` does, and owns the velocities of M and M'.

    Args:
        recipe: What to add to plain SGD.
        num_epochs: Epochs that the schedule spans.
        steps_per_epoch: Steps of one.
        seed: Of the augmentation and of dropout; a step's is the same wherever training was resumed.
        retrained: M', if there is one; any other model is M.
        dropout: "off"; "shared", M and M' draw the same masks at a step; or "independent". Of a batch that
            M' sees in part only, the masks differ either way.
        plain: Takes the steps of a recipe that adds nothing; default is :class:`unrolling.training.Stepper`.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        num_epochs: int,
        steps_per_epoch: int,
        seed: int,
        retrained: nn.Module | None = None,
        dropout: str = "off",
        plain: Stepper | None = None,
    ):
        self._recipe, self._seed = recipe, seed
        self._retrained, self._dropout = retrained, dropout
        self._plain = plain or Stepper()
        self._num_epochs, self._steps_per_epoch = num_epochs, steps_per_epoch
        self._velocities: WeakKeyDictionary[nn.Module, list[Tensor]] = WeakKeyDictionary()

    def take(self, model: nn.Module, batch: Batch, loss_fn: LossFn, learning_rate: float, step: int) -> None:
        """Take step number ``step`` in place."""
        if self._dropout == "off":
            return self._take(model, batch, loss_fn, learning_rate, step)
        own = self._dropout == "independent" and model is self._retrained
        with seeded(self._seed, "dropout", step, int(own)):
            self._take(model, batch, loss_fn, learning_rate, step)

    def _take(self, model: nn.Module, batch: Batch, loss_fn: LossFn, learning_rate: float, step: int) -> None:
        recipe = self._recipe
        if recipe == Recipe():
            return self._plain.take(model, batch, loss_fn, learning_rate, step)
        if recipe.frozen_statistics:
            model.train(step == 0)
        if recipe.augment:
            batch = crop_and_flip(batch[0], make_generator(self._seed, "augmentation", step)), batch[1]
        eta = learning_rate
        if recipe.cosine:
            eta *= (1 + math.cos(math.pi * (step // self._steps_per_epoch) / self._num_epochs)) / 2
        params, grads = used_gradients(model, batch, loss_fn)
        with torch.no_grad():
            every = trainable(model).values()
            kept = self._velocities.setdefault(model, [torch.zeros_like(p) for p in every])
            of = {id(p): v for p, v in zip(every, kept, strict=True)}
            velocity = [of[id(p)] for p in params]
            torch._foreach_mul_(velocity, recipe.momentum)
            torch._foreach_add_(velocity, torch._foreach_add(grads, params, alpha=recipe.weight_decay))
            torch._foreach_add_(params, velocity, alpha=-eta)

    def state(self, models: Iterable[nn.Module]) -> list[list[Tensor]]:
        """Return the velocities of these models, for an exact resume."""
        return [self._velocities.get(model, []) for model in models]

    def load_state(self, models: Iterable[nn.Module], state: list[list[Tensor]]) -> None:
        """Continue from :meth:`state`."""
        for model, velocity in zip(models, state, strict=True):
            if velocity:
                own = trainable(model).values()
                self._velocities[model] = [v.to(p.device) for v, p in zip(velocity, own, strict=True)]


def crop_and_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return every image cropped at a random place of itself with a border of 4 zeros, and maybe mirrored.

    Args:
        images: Shape (batch, channels, height, width).
        generator: On the CPU; four numbers are drawn for an image wherever the images are.
    """
    count, _, height, width = images.shape
    padded = F.pad(images, (4, 4, 4, 4))
    down, right = torch.randint(9, (2, count, 1), generator=generator)
    flip = torch.randint(2, (count, 1), generator=generator)
    rows = down + torch.arange(height)
    columns = right + torch.where(flip == 1, torch.arange(width).flip(0), torch.arange(width))
    which = torch.arange(count)[:, None, None]
    index = (t.to(images.device) for t in (which, rows[:, :, None], columns[:, None, :]))
    batch, row, column = index
    return padded[batch, :, row, column].movedim(-1, 1)
