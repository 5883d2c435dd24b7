"""Steps from CUDA graphs are the eager ones; and where there is no CUDA, that is said."""

import copy
import gc
import weakref

import pytest
import torch
from graphs_on_the_cpu import rehearse
from torch import nn

from unrolling import (
    Objective,
    build_model,
    load_dataset,
    make_batch_order,
    make_generator,
    seeded,
    sgd_step,
    train,
)
from unrolling._checks import InputError
from unrolling.runs import RunConfig
from unrolling.runs.cuda_graph import GraphStepper
from unrolling.runs.execute import execute
from unrolling.runs.precision import float32_products
from unrolling.training import Stepper, copy_for_retraining


def trained(device, stepper, name="resnet-small"):
    """Return M and M' after two epochs of 20 images by fours and one left over; M' never sees image 3."""
    with seeded(0, "graph"):
        model = build_model(name, 3, input_shape=(1, 8, 8)).double().to(device)
        inputs, labels = torch.randn(21, 1, 8, 8).double(), torch.randint(3, (21,))
    retrained = copy_for_retraining(model)
    order = make_batch_order(21, 4, 2, make_generator(0, "order"))
    train(
        model,
        inputs.to(device),
        labels.to(device),
        order,
        Objective("sd", 0.5),
        learning_rate=0.1,
        retrained=retrained,
        forget=[3],
        stepper=stepper,
    )
    return [value.cpu() for each in (model, retrained) for value in each.state_dict().values()]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_replayed_steps_are_the_eager_steps():
    for eager, replayed in zip(trained("cuda", Stepper()), trained("cuda", GraphStepper()), strict=True):
        torch.testing.assert_close(eager, replayed, rtol=1e-9, atol=1e-12)


class Rehearsed(GraphStepper):
    """Takes steps on the CPU from what stands there for CUDA's graphs."""

    def take(self, model, batch, loss_fn, learning_rate, step):
        self._replay(model, batch, loss_fn, learning_rate)


@pytest.mark.parametrize("name", ["resnet-small", "vgg-small"])
def test_rehearsed_on_the_cpu_replayed_steps_are_the_eager_steps(name, monkeypatch):
    """Of M and M', batches of every size, buffers included: all that a step does is in the recording."""
    rehearse(monkeypatch)
    for eager, replayed in zip(
        trained("cpu", Stepper(), name), trained("cpu", Rehearsed(), name), strict=True
    ):
        torch.testing.assert_close(eager, replayed, rtol=1e-12, atol=1e-14)


def test_what_is_given_up_takes_nothing_away_from_what_stays(monkeypatch):
    """PyTorch refuses memory that no graph has any more, and clears a stream's workspaces with one graph."""
    rehearse(monkeypatch)
    stepper, model, batch = Rehearsed(), small_model()[:2], (torch.randn(5, 4), torch.arange(5) % 3)
    plain = copy.deepcopy(model)
    gone = small_model()[:2]
    stepper.take(gone, batch, LOSS, 0.1, 0)
    del gone
    gc.collect()
    stepper.take(model, batch, LOSS, 0.1, 0)
    sgd_step(plain, batch, LOSS, 0.1)
    other = small_model()[:2]
    stepper.take(other, batch, LOSS, 0.1, 0)
    del other
    gc.collect()
    stepper.take(model, batch, LOSS, 0.1, 1)
    sgd_step(plain, batch, LOSS, 0.1)
    torch.testing.assert_close(model.state_dict(), plain.state_dict())


def test_steppers_share_no_stream_and_the_graphs_of_one_share_memory(monkeypatch):
    rehearse(monkeypatch)
    steppers = [Rehearsed(), Rehearsed()]
    models = [small_model()[:2] for _ in range(2)]
    batch = torch.randn(5, 4), torch.arange(5) % 3
    for stepper in steppers:
        for model in models:
            stepper.take(model, batch, LOSS, 0.1, 0)
    (first, own), (second, others) = (next(iter(each._shared.values())) for each in steppers)
    assert first is not second
    assert own[0].pool() is own[1].pool()
    assert own[0].pool() is not others[0].pool()


def test_a_loss_that_looks_at_its_data_cannot_be_recorded(monkeypatch):
    rehearse(monkeypatch)
    batch = torch.randn(5, 4), torch.arange(5) % 3
    with pytest.raises(RuntimeError, match="not permitted"):
        Rehearsed().take(
            small_model()[:2], batch, lambda m, b: m(b[0]).sum() * float(b[0].detach().mean()), 0.1, 0
        )


class Counted(GraphStepper):
    """Says when it would record; what it would record needs no CUDA."""

    def __init__(self):
        super().__init__()
        self.recorded = 0

    def _record(self, model, batch, loss_fn, learning_rate):
        self.recorded += 1
        return self.recorded, batch


def small_model():
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))


def batch_of(count=5, *, dtype=torch.float32, labels=torch.int64, shape=()):
    return torch.zeros(count, 4, dtype=dtype), torch.zeros(count, *shape, dtype=labels)


LOSS = Objective("sd", 0.5)


def test_a_kind_of_step_is_recorded_once():
    """The values of batch and weights do not make a kind, and equal losses are one."""
    stepper, model = Counted(), small_model()
    first, _ = stepper._recording(model, batch_of(), LOSS, 0.1)
    other_values = batch_of()[0] + 1, batch_of()[1] + 1
    model.load_state_dict(small_model().state_dict())
    assert stepper._recording(model, other_values, Objective("sd", 0.5), 0.1)[0] == first
    assert stepper.recorded == 1


def frozen(model):
    model[0].bias.requires_grad_(False)


def moved(model):
    model[0].weight = nn.Parameter(model[0].weight.detach().clone())


CHANGES = {
    "learning rate": {"learning_rate": 0.2},
    "loss": {"loss_fn": Objective("sd", 0.25)},
    "size of the batch": {"batch": batch_of(3)},
    "type of the inputs": {"batch": batch_of(dtype=torch.float16)},
    "type of the labels": {"batch": batch_of(labels=torch.float32)},
    "shape of the labels": {"batch": batch_of(shape=(3,))},
    "mode": {"change": nn.Module.eval},
    "mode of a layer": {"change": lambda model: model[1].eval()},
    "weights that are trained": {"change": frozen},
    "place of the weights": {"change": moved},
    "type of the weights": {"change": nn.Module.double},
}


@pytest.mark.parametrize("what", CHANGES)
def test_another_kind_of_step_is_another_recording(what):
    step = {"batch": batch_of(), "loss_fn": LOSS, "learning_rate": 0.1, "change": lambda model: None}
    stepper, model = Counted(), small_model()
    for options in (step, step | CHANGES[what]):
        options["change"](model)
        stepper._recording(model, options["batch"], options["loss_fn"], options["learning_rate"])
    assert stepper.recorded == 2


def test_other_products_are_another_recording():
    stepper, model = Counted(), small_model()
    for products in ("ieee", "tf32", "ieee"):
        with float32_products(products):
            stepper._recording(model, batch_of(), LOSS, 0.1)
    assert stepper.recorded == 2


def test_models_and_losses_are_not_kept_alive():
    stepper, models = Counted(), [small_model() for _ in range(2)]
    losses = [LOSS, lambda network, batch, model=models[1]: model(batch[0]).sum()]  # holds its model
    for model, loss in zip(models, losses, strict=True):
        stepper._recording(model, batch_of(), loss, 0.1)
    alive = [weakref.ref(model) for model in models]
    del model, models, loss, losses
    gc.collect()
    assert [each() for each in alive] == [None, None]
    assert not stepper._recorded


def test_without_cuda_nothing_is_done_in_silence():
    with pytest.raises(InputError, match="needs model and data on a CUDA device, got a batch on cpu"):
        trained("cpu", GraphStepper())
    config = RunConfig(dataset="digits", model="linear", pretrain_epochs=1)
    with pytest.raises(InputError, match="Leave the stepper"):
        execute(config, load_dataset("digits"), graphs=True)
