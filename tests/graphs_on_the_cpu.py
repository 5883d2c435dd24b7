"""CUDA graphs rehearsed on the CPU: what is recorded is a list of operations, and a replay runs them again.

As a GPU does, a recording computes nothing and refuses to look at a number; and graphs that share memory or
a stream fail where those of PyTorch do.
"""

from contextlib import contextmanager, nullcontext
from weakref import WeakSet

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

LOOKS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}

#: What batch norm overwrites, although its signature does not say so.
RUNNING = {"running_mean", "running_var"}


class Stream:
    def __init__(self):
        self.graphs = WeakSet()

    def wait_stream(self, other):
        assert isinstance(other, Stream)


class Graph:
    def __init__(self):
        self.steps, self.memory, self.whole, self.neighbours = [], None, True, ()

    def pool(self):
        return self.memory

    def replay(self):
        assert self.whole, "a graph of the same stream is gone, and with it the workspaces of this one"
        with torch._C._AutoDispatchBelowAutograd():
            for func, args, kwargs, out in self.steps:
                if not is_view(func):
                    for old, new in zip(tensors(out), tensors(func(*args, **kwargs)), strict=True):
                        if new is not old:
                            old.copy_(new)

    def __del__(self):
        for other in self.neighbours:
            other.whole = False


def tensors(value):
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def is_view(func):
    return any(r.alias_info and not r.alias_info.is_write for r in func._schema.returns)


class Recorder(TorchDispatchMode):
    def __init__(self, graph):
        super().__init__()
        self.graph, self.before, self.made = graph, {}, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in LOOKS:
            raise RuntimeError("operation not permitted when stream is capturing")
        kwargs = kwargs or {}
        for place, argument in enumerate(func._schema.arguments):
            if (argument.alias_info and argument.alias_info.is_write) or argument.name in RUNNING:
                given = args[place] if place < len(args) else kwargs.get(argument.name)
                for tensor in tensors(given):
                    self.before.setdefault(tensor.data_ptr(), (tensor.detach(), tensor.detach().clone()))
        out = func(*args, **kwargs)
        self.graph.steps.append((func, args, kwargs, out))
        if not is_view(func) and not any(r.alias_info for r in func._schema.returns):
            self.made += tensors(out)
        return out

    def forget(self):
        """Leave memory as if nothing had been computed: what was there as it was, what is new undefined."""
        for tensor in self.made:
            if tensor.is_floating_point():
                tensor.fill_(torch.nan)
        for tensor, old in self.before.values():
            tensor.copy_(old)


@contextmanager
def recording(graph, pool=None, stream=None):
    assert pool is None or any(other.memory is pool for other in stream.graphs), "use_count > 0"
    graph.memory = object() if pool is None else pool
    recorder = Recorder(graph)
    with recorder:
        yield
    with torch._C._AutoDispatchBelowAutograd():
        recorder.forget()
    stream.graphs.add(graph)
    graph.neighbours = stream.graphs


def rehearse(monkeypatch):
    """Put these graphs in the place of CUDA's for a test."""
    default = Stream()
    for name, value in {
        "Stream": Stream,
        "CUDAGraph": Graph,
        "graph": recording,
        "stream": lambda stream: nullcontext(),
        "current_stream": lambda: default,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
