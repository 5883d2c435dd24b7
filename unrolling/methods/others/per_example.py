"""The Jacobian of every example on its own: what Fisher and NTK scrubbing square, and DP-SGD clips."""

import warnings
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from unrolling._checks import InputError, check_logits
from unrolling.parameters import Params, dense, trainable
from unrolling.surroundings import plain_autograd, without_cudnn


class ExampleJacobians:
    """Computes the derivatives of k numbers per example in the trainable weights of a model.

    All examples go through the model together, by ``vmap``. Where PyTorch cannot do that, as in recurrent
    cells, in models that look at their data (texts cut to the longest), recompute layers or change buffers,
    they go one by one, which gives the same numbers in more time.

    Args:
        model: From inputs to logits (batch, c), used at its own weights and in its own mode. In training mode
            every example sees the buffers as they were before the call.
        numbers: ``numbers(logits, *rest) -> (k,)`` of one example, a batch of one.
    """

    def __init__(self, model: nn.Module, numbers: Callable[..., Tensor]):
        self._model, self._numbers = model, numbers
        self._together = True

    def __call__(self, *examples: Tensor) -> tuple[Params, Tensor]:
        """Return the derivatives, named as the weights and of shape (n, k, ...), and the numbers, (n, k).

        Args:
            examples: Inputs of shape (n, ...), and what else ``numbers`` takes, one row for each example.

        Raises:
            InputError: If the model takes no example on its own.
        """
        recurrent = any(isinstance(module, nn.RNNBase) for module in self._model.modules())
        # cuDNN's recurrent cells have no backward pass in evaluation mode.
        with plain_autograd(), without_cudnn() if recurrent else nullcontext():
            if self._together:
                try:
                    return self._all(examples)
                except (RuntimeError, ValueError):  # what is wrong with the model is raised again below
                    self._together = False
            try:
                return self._one_by_one(examples)
            except InputError:
                raise
            except (RuntimeError, ValueError) as error:
                reason = str(error).partition("\n")[0]
                raise InputError(f"the model takes no example on its own: {reason}") from error

    def _all(self, examples: tuple[Tensor, ...]) -> tuple[Params, Tensor]:
        weights = {name: p.detach() for name, p in trainable(self._model).items()}
        buffers = {name: b.clone() for name, b in self._model.named_buffers()}

        def of_one(weights: Params, *example: Tensor) -> tuple[Tensor, Tensor]:
            inputs, *rest = (part[None].clone() for part in example)
            found = self._of(functional_call(self._model, (weights, buffers), (inputs,)), *rest)
            return found, found

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            slopes, numbers = vmap(
                jacrev(of_one, has_aux=True), (None, *(0 for _ in examples)), randomness="different"
            )(weights, *examples)
        with torch.no_grad():
            for name, buffer in self._model.named_buffers():
                buffer.copy_(buffers[name])
        return {name: slope.detach() for name, slope in slopes.items()}, numbers.detach()

    def _one_by_one(self, examples: tuple[Tensor, ...]) -> tuple[Params, Tensor]:
        own = trainable(self._model)
        before = [(buffer, buffer.clone()) for buffer in self._model.buffers()]
        slopes, numbers = [], []
        for place in range(len(examples[0])):
            with torch.no_grad():
                for buffer, value in before:
                    buffer.copy_(value)
            inputs, *rest = (part[place : place + 1].clone() for part in examples)
            found = self._of(self._model(inputs), *rest)
            numbers.append(found.detach())
            slopes.append([_gradients(number, list(own.values())) for number in found])
        return {
            name: torch.stack([torch.stack([row[i] for row in rows]) for rows in slopes])
            for i, name in enumerate(own)
        }, torch.stack(numbers)

    def _of(self, logits: Tensor, *rest: Tensor) -> Tensor:
        check_logits(logits)
        return self._numbers(logits, *rest)


def _gradients(number: Tensor, params: list[Tensor]) -> list[Tensor]:
    """Return the gradient of one number, dense, and 0 in weights that it does not depend on."""
    if not number.requires_grad:
        return [torch.zeros_like(p) for p in params]
    grads = torch.autograd.grad(number, params, retain_graph=True, materialize_grads=True)
    return [dense(g) for g in grads]
