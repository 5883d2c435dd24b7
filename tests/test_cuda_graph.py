"""Steps from CUDA graphs are the eager ones; and where there is no CUDA, that is said."""

import pytest
import torch

from unrolling import (
    Objective,
    build_model,
    copy_for_retraining,
    load_dataset,
    make_batch_order,
    make_generator,
    seeded,
    train,
)
from unrolling._checks import InputError
from unrolling.cuda_graph import GraphStepper
from unrolling.experiments import RunConfig
from unrolling.experiments.run import execute
from unrolling.training import Stepper


def trained(device, stepper):
    """Return M and M' after two epochs of 20 images by fours and one left over; M' never sees image 3."""
    with seeded(0, "graph"):
        model = build_model("resnet-small", 3, input_shape=(1, 8, 8)).double().to(device)
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


def test_without_cuda_nothing_is_done_in_silence():
    with pytest.raises(InputError, match="needs model and data on a CUDA device, got a batch on cpu"):
        trained("cpu", GraphStepper())
    config = RunConfig(dataset="digits", model="linear", pretrain_epochs=1)
    with pytest.raises(InputError, match="Leave the stepper"):
        execute(config, load_dataset("digits"), graphs=True)
