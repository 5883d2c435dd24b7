r"""Steps of SGD recorded once as a CUDA graph, and replayed.

At a batch of 32 a GPU computes faster than Python can ask: an eager step of ResNet-18 is some hundred
kernels, each launched on its own. A graph launches all of them at once, and computes the same.
"""

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from unrolling._checks import InputError
from unrolling.runs.precision import current_products
from unrolling.surroundings import random_state_kept
from unrolling.training import Batch, LossFn, Stepper, sgd_step

#: Steps before a recording, in which libraries choose their kernels and allocate what they keep.
WARM_UP = 3


#: A graph, and where it reads its batch.
Recording = tuple[torch.cuda.CUDAGraph, Batch]


def step_kind(model: nn.Module, batch: Batch, learning_rate: float) -> tuple:
    """Return all that a recorded step of a model by a loss takes for granted; another kind needs another one.

    That is the learning rate, how float32 is multiplied, the shapes, types and device of the batch, the mode
    of every layer, which weights are trained, and where weights and buffers lie in memory: they may be
    overwritten between the steps, as ``load_state_dict`` does; if they are exchanged, the step is another.
    """
    kind: list = [learning_rate, *current_products()]
    for part in batch:
        kind += part.shape, part.dtype, part.device
    # At every step: one walk over the layers is three times as fast as parameters() and buffers().
    for layer in model.modules():
        kind.append(layer.training)
        for value in (*layer._parameters.values(), *layer._buffers.values()):
            if value is not None:
                kind += value.data_ptr(), value.dtype, value.requires_grad
    return tuple(kind)


class GraphStepper(Stepper):
    """Takes the steps of :func:`unrolling.train` on a CUDA device by replaying recorded ones.

    Experimental: compared with eager steps by a test that needs a GPU, and not used for any stored run.

    A step is recorded for each model, loss and :func:`step_kind`; the first of a kind is slow. Nothing else
    in Python takes part in a replay, so a loss or a model that decides anything by looking at its data cannot
    be recorded. What was recorded is given up with its model or its loss, so keep one loss, rather than make
    an equal one, for all calls of :func:`unrolling.train`. Steppers do not share anything: they may replay
    at once, each on a stream of its own.
    """

    def __init__(self) -> None:
        # Weak at both levels: a loss, too, may hold the model.
        self._recorded: WeakKeyDictionary[nn.Module, WeakKeyDictionary[LossFn, dict[tuple, Recording]]]
        self._recorded = WeakKeyDictionary()
        # By device, a stream to record on and the graphs, which stay until the stepper goes: PyTorch takes
        # the memory and the workspaces that the others share away with one of them.
        self._shared: dict[torch.device, tuple[torch.cuda.Stream, list[torch.cuda.CUDAGraph]]] = {}

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
        with torch.cuda.device(device):
            self._replay(model, batch, loss_fn, learning_rate)

    def _replay(self, model: nn.Module, batch: Batch, loss_fn: LossFn, learning_rate: float) -> None:
        graph, places = self._recording(model, batch, loss_fn, learning_rate)
        for place, part in zip(places, batch, strict=True):
            place.copy_(part)
        graph.replay()

    def _recording(self, model: nn.Module, batch: Batch, loss_fn: LossFn, learning_rate: float) -> Recording:
        """Return the recording of this kind of step, made now if it is the first."""
        own = self._recorded.setdefault(model, WeakKeyDictionary()).setdefault(loss_fn, {})
        kind = step_kind(model, batch, learning_rate)
        if kind not in own:
            own[kind] = self._record(model, batch, loss_fn, learning_rate)
        return own[kind]

    def _record(self, model: nn.Module, batch: Batch, loss_fn: LossFn, learning_rate: float) -> Recording:
        device = batch[0].device
        if device not in self._shared:
            self._shared[device] = torch.cuda.Stream(), []
        # The workspaces of cuBLAS belong to a stream: on that of the recording they are made by the warm-up,
        # and no other stepper, which may be replaying at the same time, writes to them.
        aside, graphs = self._shared[device]
        places = batch[0].clone(), batch[1].clone()
        state = _state(model)
        before = [value.detach().clone() for value in state]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside), random_state_kept([device]):
            for _ in range(WARM_UP):
                sgd_step(model, places, loss_fn, learning_rate)
        torch.cuda.current_stream().wait_stream(aside)
        with torch.no_grad():
            for value, old in zip(state, before, strict=True):
                value.copy_(old)
        graph = torch.cuda.CUDAGraph()
        # The graphs run one after the other and keep no result, so they may share their memory.
        memory = graphs[0].pool() if graphs else None
        with torch.cuda.graph(graph, pool=memory, stream=aside):  # records, and computes nothing
            sgd_step(model, places, loss_fn, learning_rate)
        graphs.append(graph)
        return graph, places


def _state(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
