"""Several networks of one architecture trained as one by ``torch.vmap``: the same steps, a gamma for each."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from unrolling.losses import logit_std
from unrolling.parameters import training_mode


class Ensemble:
    """Takes plain SGD steps on Eq. 10 for several models at once, each with its own gamma and batch.

    Args:
        models: Of one architecture; they are copied.
        gammas: A strength for each.
    """

    def __init__(self, models: Sequence[nn.Module], gammas: Sequence[float]):
        self._model = models[0]
        params, self.buffers = stack_module_state(list(models))
        self.params = {name: p.detach() for name, p in params.items()}
        self._gammas = next(iter(self.params.values())).new_tensor(list(gammas))
        self._slopes = vmap(grad(self._loss))

    def _loss(
        self,
        params: dict[str, Tensor],
        buffers: dict[str, Tensor],
        gamma: Tensor,
        inputs: Tensor,
        labels: Tensor,
    ) -> Tensor:
        logits = functional_call(self._model, (params, buffers), (inputs,))
        return F.cross_entropy(logits, labels) + gamma * logit_std(logits).mean()

    def step(self, inputs: Tensor, labels: Tensor, learning_rate: float) -> None:
        """Take one step on batches of shape (models, batch, ...)."""
        with training_mode(self._model, True):
            slopes = self._slopes(self.params, self.buffers, self._gammas, inputs, labels)
        torch._foreach_add_(
            [self.params[name] for name in slopes], list(slopes.values()), alpha=-learning_rate
        )
