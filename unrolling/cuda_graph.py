r"""Steps of SGD recorded once as a CUDA graph, and replayed.

At a batch of 32 a GPU computes faster than Python can ask: an eager step of ResNet-18 is some hundred
kernels, each launched on its own. A graph launches all of them at once, and computes the same.
"""

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from unrolling._checks import InputError
from unrolling.training import Batch, LossFn, Stepper, sgd_step

#: Steps before a recording, in which libraries choose their kernels and allocate what they keep.
WARM_UP = 3


#: A graph, and where it reads its batch.
Recording = tuple[torch.cuda.CUDAGraph, Batch]


def step_kind(model: nn.Module, batch: Batch, learning_rate: float) -> tuple:
    """Return all that a recorded step of a model by a loss takes for granted; another kind needs another one.

    That is the learning rate, the shapes, types and device of the batch, the mode of every layer, which
    weights are trained, and where weights and buffers lie in memory: they may be overwritten between the
    steps, as ``load_state_dict`` does, and if they are exchanged, the step is another.
    """
    return (
        learning_rate,
        tuple((part.shape, part.dtype, part.device) for part in batch),
        tuple(layer.training for layer in model.modules()),
        tuple((value.data_ptr(), value.dtype, value.requires_grad) for value in _state(model)),
    )


class GraphStepper(Stepper):
    """Takes the steps of :func:`unrolling.train` on a CUDA device by replaying recorded ones.

    Experimental: compared with eager steps by a test that needs a GPU, and not used for any stored run.

    A step is recorded for each model, loss and :func:`step_kind`; the first of a kind is slow. Nothing else
    in Python takes part in a replay, so a loss or a model that decides anything by looking at its data cannot
    be recorded. What was recorded is given up with its model or its loss.
    """

    def __init__(self) -> None:
        # Weak at both levels: a loss, too, may hold the model.
        self._recorded: WeakKeyDictionary[nn.Module, WeakKeyDictionary[LossFn, dict[tuple, Recording]]]
        self._recorded = WeakKeyDictionary()
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
        with torch.cuda.device(device):
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
