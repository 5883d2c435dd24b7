"""load: weights back into a module, or a refusal in words; what is not in the weights stays."""

import copy

import pytest
import torch
from torch import nn
from toy_transformers import toy_network

from unrolling import Unlearned, load, snapshot
from unrolling._checks import InputError
from unrolling.methods import Cost


class Net(nn.Module):
    """Batch norm, a tied head, and a name that starts as a wrapper's does."""

    def __init__(self, outputs=6):
        super().__init__()
        self.embed = nn.Linear(6, 4, bias=False)
        self.norm = nn.BatchNorm1d(4)
        self.module = nn.Linear(4, 4)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(4, outputs)
        if outputs == 6:
            self.tied = nn.Linear(4, 6, bias=False)
            self.tied.weight = nn.Parameter(self.embed.weight.detach().T.contiguous())
            self.again = nn.Linear(4, 6, bias=False)
            self.again.weight = self.tied.weight

    def forward(self, x):
        return self.head(self.dropout(self.module(self.norm(self.embed(x)))))


def other(model):
    """Other weights for ``model``, as a method returns them."""
    torch.manual_seed(1)
    return {name: torch.randn_like(p) for name, p in snapshot(model).items()}


def same(model, params):
    return all(torch.equal(p, params[name]) for name, p in snapshot(model).items())


@pytest.mark.parametrize("result", [dict, lambda w: Unlearned(w, Cost(1, 0, 0))])
def test_weights_go_in_and_buffers_stay(result):
    model = Net()
    model(torch.randn(8, 6))
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    params = other(model)
    assert load(model, result(params)) is model
    assert same(model, params)
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())
    assert model.again.weight is model.tied.weight


def wrapped(kind, model):
    if kind == "compiled":
        return torch.compile(model)
    if kind == "data parallel":
        return nn.DataParallel(model)
    if kind == "compiled, data parallel":
        return nn.DataParallel(torch.compile(model))
    model.module = torch.compile(model.module)  # one layer alone
    return model


KINDS = ["compiled", "data parallel", "compiled, data parallel", "a layer compiled"]


@pytest.mark.parametrize("kind", KINDS)
def test_prefixes_of_wrapped_modules_are_stripped_on_either_side(kind):
    plain, inside = Net(), Net()
    params = other(plain)
    wrapper = wrapped(kind, inside)
    load(wrapper, params)
    assert all(torch.equal(a, b) for a, b in zip(snapshot(wrapper).values(), params.values(), strict=True))
    back = load(Net(), snapshot(wrapper))
    assert same(back, params)


def test_a_state_dict_brings_its_buffers():
    trained, fresh = Net(), Net()
    trained(torch.randn(8, 6))
    load(fresh, trained.state_dict())
    assert all(torch.equal(value, fresh.state_dict()[key]) for key, value in trained.state_dict().items())
    assert same(load(Net(), trained), snapshot(trained))


def test_values_are_converted_and_frozen_ones_stay():
    model = Net()
    model.head.requires_grad_(False)
    head, params = model.head.weight.clone(), other(model)
    load(model, {name: value.double() for name, value in params.items()})
    assert same(model, params)
    assert torch.equal(model.head.weight, head)
    assert model.embed.weight.dtype == torch.float32


def test_statistics_are_re_estimated_on_request():
    model = Net()
    model(torch.randn(8, 6))
    model.module.eval()
    data = [torch.randn(10, 6) + 3 for _ in range(4)]
    params, random = other(model), torch.get_rng_state()
    load(model, params, batches=((x, "label") for x in data))
    with torch.no_grad():
        seen = torch.stack([model.embed(x) for x in data])
    torch.testing.assert_close(model.norm.running_mean, seen.mean(dim=(0, 1)))
    torch.testing.assert_close(model.norm.running_var, seen.var(dim=1).mean(dim=0))
    assert model.norm.momentum == 0.1
    assert (model.training, model.module.training) == (True, False)
    assert torch.equal(random, torch.get_rng_state())


def test_batches_may_be_dicts():
    model = toy_network("bert")
    tokens = {"input_ids": torch.tensor([[2, 5, 3]]), "labels": torch.tensor([1])}
    load(model, other(model), batches=[tokens])  # it has no statistics, and nothing to do
    net = nn.Sequential()
    net.norm = nn.BatchNorm1d(2)
    net.forward = lambda x: net.norm(x)
    load(net, snapshot(net), batches=[{"x": torch.tensor([[1.0, 2.0], [3.0, 6.0]])}])
    assert net.norm.running_mean.tolist() == [2.0, 4.0]


def test_a_parameter_may_have_the_name_of_one_inside_a_module_called_module():
    model = nn.Module()
    model.weight, model.module = nn.Parameter(torch.zeros(2)), nn.Linear(2, 2)
    params = other(model)
    assert same(load(model, params), params)


def refused(words, model, params, **options):
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=words) as caught:
        load(model, params, **options)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_another_head_is_refused_in_words():
    model = Net(outputs=3)
    refused(r"'head.weight' is \(3, 4\) in the model and \(2, 4\) .* another head", model, other(Net(2)))


def test_names_that_do_not_match_are_refused():
    model = Net()
    params = other(model)
    misspelt = {name.replace("head.bias", "head.bais"): value for name, value in params.items()}
    refused("no parameter 'head.bais'. Did you mean 'head.bias'?", model, misspelt)
    refused("lacks 1 of .* head.bias", model, {n: p for n, p in params.items() if n != "head.bias"})
    refused("lacks 8 of", model, {})
    tied = {**params, "again.weight": params["tied.weight"] + 1}
    refused("one tied parameter in the model, and two values", model, tied)
    load(model, {**params, "again.weight": params["tied.weight"]})
    refused("differ only in a prefix", model, {**params, "_orig_mod.head.bias": params["head.bias"]})
    refused("must be a dict", model, list(params.values()))
    refused("must be a dict", model, {"head.bias": [1.0]})
    with pytest.raises(InputError, match=r"`model` must be a torch\.nn\.Module"):
        load(params, model)


def test_no_batches_are_no_statistics():
    model = Net()
    model(torch.randn(8, 6))
    mean = model.norm.running_mean.clone()
    with pytest.raises(InputError, match="`batches` is empty"):
        load(model, snapshot(model), batches=[])
    assert torch.equal(model.norm.running_mean, mean)


def test_a_batch_that_fails_leaves_the_momenta():
    model = Net()
    with pytest.raises(RuntimeError):
        load(model, snapshot(model), batches=[torch.randn(4, 6), torch.randn(4, 5)])
    assert model.norm.momentum == 0.1


def test_a_buffer_with_two_names_is_loaded_by_either():
    """As in two batch norms that share their statistics."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    model[2].running_mean = model[1].running_mean
    load(model, {**snapshot(model), "2.running_mean": torch.tensor([3.0, 4.0])})
    assert model[1].running_mean.tolist() == [3.0, 4.0]
