"""What the GPU benchmark times computes the same as the eager loop."""

import pytest
import torch

from benchmarks.vmapped import Ensemble
from unrolling import Objective, build_model, seeded, sgd_step


@pytest.mark.parametrize("name", ["resnet-small", "vgg-small", "mlp"])
def test_models_trained_as_one_are_those_trained_one_by_one(name):
    gammas = [0.0, 0.5, 2.0]
    with seeded(0, "ensemble"):
        models = [build_model(name, 10, input_shape=(1, 8, 8)).double() for _ in gammas]
        inputs, labels = torch.randn(4, 3, 6, 1, 8, 8).double(), torch.randint(10, (4, 3, 6))
    together = Ensemble(models, gammas)
    for step in range(4):
        together.step(inputs[step], labels[step], 0.1)
        for number, (model, gamma) in enumerate(zip(models, gammas, strict=True)):
            model.train()
            sgd_step(model, (inputs[step][number], labels[step][number]), Objective("sd", gamma), 0.1)
    for number, model in enumerate(models):
        for key, value in model.state_dict().items():
            own = (together.params | together.buffers)[key][number]
            torch.testing.assert_close(own, value, rtol=1e-9, atol=1e-11)
