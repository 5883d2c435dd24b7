"""Linear filtration: what it must do to the mean logits, measured on the filtered model itself."""

import copy

import pytest
import torch
from torch import nn

from unrolling import Objective, make_batch_order, make_generator, seeded, train
from unrolling._checks import InputError
from unrolling.methods.others.linear_filtration import (
    FILTRATIONS,
    filtration_matrix,
    linear_filtration_unlearn,
)
from unrolling.models.resnet import ResNet

C, FORGET = 4, 2
KEEP = [0, 1, 3]


def problem(bias=True):
    with seeded(0, "filtration"):
        model = nn.Sequential(
            nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, C, bias=bias)
        ).double()
        return model, torch.randn(60, 5, dtype=torch.float64), torch.arange(60) % C


def filtered_model(model, params):
    """The model a user would run: its last layer has an output less."""
    twin = copy.deepcopy(model)
    twin[3] = nn.Linear(6, C - 1, bias=model[3].bias is not None).double()
    twin.load_state_dict(twin.state_dict() | params)
    return twin


def mean_logits(model, inputs, labels):
    """Column i: the mean logits of class i."""
    logits = model.eval()(inputs).detach()
    return torch.stack([logits[labels == i].sum(0) / (labels == i).sum() for i in range(C)], dim=1)


def unlearn(model, inputs, labels, variant, **options):
    return linear_filtration_unlearn(
        model, inputs, labels, FORGET, variant=variant, generator=make_generator(0, "z"), **options
    )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("variant", FILTRATIONS)
def test_mean_logits_of_the_other_classes_stay_and_those_of_the_forgotten_one_go_to_z(variant, bias):
    model, inputs, labels = problem(bias)
    before = mean_logits(model, inputs, labels)
    found = unlearn(model, inputs, labels, variant)
    after = mean_logits(filtered_model(model, found), inputs, labels)
    torch.testing.assert_close(after[:, KEEP], before[KEEP][:, KEEP])
    own = before[KEEP, FORGET]
    others = sum(before[i, j] for i in KEEP for j in KEEP) / 9
    z = {
        "naive": own,
        "normalization": own + others - (own[0] + own[1] + own[2]) / 3,
        "zeroing": torch.zeros(3, dtype=torch.float64),
        "randomization": torch.randn(3, dtype=torch.float64, generator=make_generator(0, "z")),
    }[variant]
    torch.testing.assert_close(after[:, FORGET], z)


def test_the_naive_filtration_drops_a_row_of_the_last_layer():
    model, inputs, labels = problem()
    params = unlearn(model, inputs, labels, "naive")
    torch.testing.assert_close(params["3.weight"], model[3].weight.detach()[KEEP])
    torch.testing.assert_close(params["3.bias"], model[3].bias.detach()[KEEP])


@pytest.mark.parametrize("variant", FILTRATIONS)
def test_the_matrix_solves_its_equations(variant):
    means = torch.randn(C, C, dtype=torch.float64, generator=make_generator(1))
    matrix = filtration_matrix(means, FORGET, variant, generator=make_generator(2))
    torch.testing.assert_close(matrix @ means[:, KEEP], means[KEEP][:, KEEP])
    assert matrix.shape == (C - 1, C)
    if variant == "normalization":
        assert float((matrix @ means[:, FORGET]).mean()) == pytest.approx(float(means[KEEP][:, KEEP].mean()))


def test_only_the_last_layer_changes_and_the_model_is_left_alone():
    model, inputs, labels = problem()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    params = unlearn(model, inputs, labels, "normalization")
    assert params.keys() == dict(model.named_parameters()).keys()
    assert all(torch.equal(p, before[name]) for name, p in params.items() if not name.startswith("3."))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    params["0.weight"] += 1
    assert torch.equal(model[0].weight, before["0.weight"])


def test_the_condition_number_is_that_of_the_class_means():
    model, inputs, labels = problem()
    model.eval()
    singular_values = torch.linalg.svdvals(mean_logits(model, inputs, labels))
    found = unlearn(model, inputs, labels, "zeroing").condition_number
    assert found == pytest.approx(float(singular_values[0] / singular_values[-1]))


def test_in_single_precision_the_product_loses_no_more_than_the_weights_do():
    """A has a condition number of 1e4; solving in float32 would leave errors around 1e-3."""
    left, _, right = torch.linalg.svd(
        torch.randn(C, C, dtype=torch.float64, generator=make_generator(3)), full_matrices=False
    )
    means = (left @ torch.diag(torch.tensor([1.0, 0.1, 0.01, 1e-4], dtype=torch.float64)) @ right).float()
    matrix = filtration_matrix(means, FORGET, "zeroing")
    exact = filtration_matrix(means.double(), FORGET, "zeroing")
    assert ((matrix - exact).norm() / exact.norm()).item() < 1e-7


def test_the_cost_is_one_pass_over_the_examples():
    model, inputs, labels = problem()
    cost = unlearn(model, inputs, labels, "naive", batch_size=8).cost
    assert (cost.gradients, cost.hvps, cost.stored_bytes) == (60 / 8, 0, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_softmax_regression_from_zeros_has_no_filtration_and_is_refused(dtype):
    """Its gradients sum to zero over classes, so do its logits: the rows of A are dependent, exactly."""
    _, inputs, labels = problem()
    model, inputs = nn.Sequential(nn.Linear(5, C)).to(dtype), inputs.to(dtype)
    nn.init.zeros_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    order = make_batch_order(60, 6, 5, make_generator(0))
    train(model, inputs, labels, order, Objective("cross_entropy"), learning_rate=0.5)
    assert model[0].weight.norm() > 0.1
    with pytest.raises(InputError, match="singular"):
        linear_filtration_unlearn(model, inputs, labels, FORGET)


def test_a_network_of_the_package_has_a_filtration():
    with seeded(0, "resnet"):
        model = ResNet(1, C, 2, (1, 1)).double()
        inputs = torch.randn(12, 1, 8, 8, dtype=torch.float64)
    params = linear_filtration_unlearn(model, inputs, torch.arange(12) % C, 0)
    assert params["linear.weight"].shape == (C - 1, 4)


def test_bad_input_is_named():
    model, inputs, labels = problem()
    with pytest.raises(InputError, match="Did you mean 'normalization'"):
        linear_filtration_unlearn(model, inputs, labels, FORGET, variant="normalisation")
    with pytest.raises(InputError, match="between 0 and 3, got 4"):
        linear_filtration_unlearn(model, inputs, labels, C)
    with pytest.raises(InputError, match=r"examples of each.*\[30, 30, 0, 0\]"):
        linear_filtration_unlearn(model, inputs, labels % 2, FORGET)
    with pytest.raises(InputError, match=r"must end in a torch\.nn\.Linear"):
        linear_filtration_unlearn(nn.Sequential(model, nn.Softmax(1)), inputs, labels, FORGET)
    with pytest.raises(InputError, match=r"must end in a torch\.nn\.Linear"):
        linear_filtration_unlearn(nn.Sequential(nn.Tanh()), inputs, labels, FORGET)
    with pytest.raises(InputError, match=r"must end in a torch\.nn\.Linear"):
        linear_filtration_unlearn(nn.Sequential(model, nn.Tanh()), inputs, labels, FORGET)
    with pytest.raises(InputError, match="pass `generator`"):
        linear_filtration_unlearn(model, inputs, labels, FORGET, variant="randomization")
    with pytest.raises(InputError, match=r"shape \(c, c\)"):
        filtration_matrix(torch.zeros(2, 3), 0, "naive")


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(C, C), nn.Linear(C, C)
        self.last.weight = self.first.weight

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


@pytest.mark.parametrize(
    "last",
    [
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(C, C)),
        lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(C, C)),
        lambda: nn.utils.spectral_norm(nn.Linear(C, C)),
        Tied,
    ],
)
def test_a_last_layer_whose_weight_is_not_its_own_is_refused(last):
    with seeded(0, "filtration"):
        model, inputs = nn.Sequential(last()).double(), torch.randn(60, C, dtype=torch.float64)
    with pytest.raises(InputError, match="is tied to another layer's or computed from other parameters"):
        unlearn(model, inputs, torch.arange(60) % C, "naive")
