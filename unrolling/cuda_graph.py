r"""Steps of SGD recorded once as a CUDA graph, and replayed.

At a batch of 32 a GPU computes faster than Python can ask: an eager step of ResNet-18 is some hundred
kernels, each launched on its own. A graph launches all of them at once, and computes the same.
"""

import torch
from torch import Tensor, nn

from unrolling._checks import InputError
from unrolling.training import Batch, LossFn, Stepper, sgd_step

#: Steps before a recording, in which libraries choose their kernels and allocate what they keep.
WARM_UP = 3


class GraphStepper(Stepper):
    """Takes the steps of :func:`unrolling.train` on a CUDA device by replaying recorded ones.

    A step is recorded for each model, loss, learning rate and shape of the batch; the first of a kind is
    slow. What is recorded has its place in memory: weights and buffers may be overwritten between the steps,
    as ``load_state_dict`` does, but not exchanged. Nothing else in Python takes part in a replay, so a loss
    or a model that decides anything by looking at its data cannot be recorded.
    """

    def __init__(self) -> None:
        self._recorded: dict[tuple, tuple[torch.cuda.CUDAGraph, Batch]] = {}
        self._memory = None

    def take(self, model: nn.Module, batch: Batch, loss_fn: LossFn, learning_rate: float, step: int) -> None:
        """Take one step in place.

        Raises:
            InputError: If the batch is not on a CUDA device; there are no graphs elsewhere.
        """
        device = batch[0].device
        if device.type != "cuda":
            raise InputError(
                f"a CUDA graph needs model and data on a CUDA device, got a batch on {device}. "
                "Leave the stepper (or --cuda-graph) out."
            )
        kind = model, loss_fn, learning_rate, model.training, batch[0].shape
        with torch.cuda.device(device):
            if kind not in self._recorded:
                self._recorded[kind] = self._record(model, batch, loss_fn, learning_rate)
            graph, places = self._recorded[kind]
            for place, part in zip(places, batch, strict=True):
                place.copy_(part)
            graph.replay()

    def _record(
        self, model: nn.Module, batch: Batch, loss_fn: LossFn, learning_rate: float
    ) -> tuple[torch.cuda.CUDAGraph, Batch]:
        # The graphs run one after the other and keep no result, so they may share their memory.
        self._memory = self._memory or torch.cuda.graph_pool_handle()
        places = batch[0].clone(), batch[1].clone()
        state = _state(model)
        before = [value.detach().clone() for value in state]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside), torch.random.fork_rng(devices=[batch[0].device]):
            for _ in range(WARM_UP):
                sgd_step(model, places, loss_fn, learning_rate)
        torch.cuda.current_stream().wait_stream(aside)
        with torch.no_grad():
            for value, old in zip(state, before, strict=True):
                value.copy_(old)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory):  # records, and computes nothing
            sgd_step(model, places, loss_fn, learning_rate)
        return graph, places


def _state(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
