"""Fisher scrubbing: the Fisher information in closed form, the noise by its variance, Newton's step."""

import pytest
import torch
from torch import nn

from unrolling import batch_loss, cross_entropy, make_generator, seeded, snapshot
from unrolling._checks import InputError
from unrolling.methods.others.fisher_scrubbing import diagonal_fisher, fisher_scrub_unlearn
from unrolling.model_loss import gradient
from unrolling.oracles import dense_hessian
from unrolling.parameters import distance, load_parameters, to_vector


def loss_fn(model, batch):
    return cross_entropy(model(batch[0]), batch[1])


def data(n=20):
    generator = make_generator(0, "data")
    scale = torch.tensor([0.3, 1.0, 4.0], dtype=torch.float64)
    inputs = scale * torch.randn(n, 3, dtype=torch.float64, generator=generator)
    return inputs, torch.randint(0, 4, (n,), generator=generator)


def softmax_regression():
    with seeded(0, "regression"):
        return nn.Linear(3, 4).double()


def net():
    """Batch norm with running statistics that are not the initial ones, and dropout."""
    with seeded(0, "net"):
        model = nn.Sequential(
            nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 4)
        ).double()
        model(data()[0])
        return model


def scrub(model, inputs, seed=0, **options):
    generator = make_generator(seed, "noise")
    return fisher_scrub_unlearn(snapshot(model), model, inputs, generator=generator, **options)


def test_fisher_of_softmax_regression_is_the_closed_form_and_the_hessian_of_any_labels():
    model, (inputs, labels) = softmax_regression(), data()
    found = diagonal_fisher(model, snapshot(model), inputs)
    p = model(inputs).softmax(1).detach()
    torch.testing.assert_close(found["weight"], (p * (1 - p)).T @ inputs.square() / 20)
    torch.testing.assert_close(found["bias"], (p * (1 - p)).mean(0))
    hessian = dense_hessian(batch_loss(model, loss_fn, (inputs, labels)), snapshot(model))
    torch.testing.assert_close(to_vector(found), hessian.diagonal())


@pytest.mark.parametrize("chunk_size", [1, 7, 100])
def test_fisher_of_a_network_is_the_loop_over_examples_and_classes(chunk_size):
    model, (inputs, _) = net(), data()
    params = {name: p + 0.1 for name, p in snapshot(model).items()}
    found = diagonal_fisher(model, params, inputs, chunk_size=chunk_size)
    load_parameters(model, params)
    model.eval()
    expected = torch.zeros_like(to_vector(params))
    for x in inputs:
        for y in range(4):
            log = model(x[None]).log_softmax(1)[0, y]
            slopes = torch.autograd.grad(log, list(model.parameters()))
            expected += log.exp().detach() * torch.cat([g.flatten() for g in slopes]).square() / 20
    torch.testing.assert_close(to_vector(found), expected)


def test_the_noise_has_the_variance_of_the_formula():
    """400 scrubs of 16 weights whose Fisher information spans two decades, each scaled by its prediction."""
    model, (inputs, _) = softmax_regression(), data()
    fisher = to_vector(diagonal_fisher(model, snapshot(model), inputs))
    assert fisher.max() > 100 * fisher.min()
    start = to_vector(snapshot(model))
    predicted = (0.003 * torch.ones_like(fisher) / fisher).sqrt()  # variance
    draws = torch.stack(
        [to_vector(scrub(model, inputs, seed, strength=0.003)) - start for seed in range(400)]
    )
    ratio = draws.square().mean(0) / predicted
    assert float((ratio - 1).abs().max()) < 5 * (2 / 400) ** 0.5
    assert abs(float(ratio.mean()) - 1) < 5 * (2 / 6400) ** 0.5
    assert float((draws.mean(0) / predicted.sqrt()).abs().max()) < 5 / 400**0.5


def test_without_strength_it_is_the_identity():
    model, (inputs, _) = net(), data()
    assert distance(scrub(model, inputs, strength=0, damping=1e-6), snapshot(model)) == 0


class Logit(nn.Module):
    """Binary logistic regression on one number, with logits (0, w x)."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, x):
        return torch.stack([torch.zeros_like(x), self.weight * x], dim=1)


def test_with_one_weight_the_newton_step_is_newtons():
    model, inputs = Logit(), torch.randn(30, dtype=torch.float64, generator=make_generator(1))
    labels = (torch.rand(30, generator=make_generator(2)) < 0.5).long()
    loss = batch_loss(model, loss_fn, (inputs, labels))
    p = torch.sigmoid(0.3 * inputs)
    step = ((p - labels) * inputs).mean() / (p * (1 - p) * inputs.square()).mean()
    found = scrub(model, inputs, strength=0, newton_loss=loss)
    assert float(found["weight"]) == pytest.approx(0.3 - float(step), rel=1e-12)
    for _ in range(20):
        load_parameters(model, scrub(model, inputs, strength=0, newton_loss=loss))
    assert abs(float(gradient(loss, snapshot(model))["weight"])) < 1e-12


def test_the_noise_comes_on_top_of_the_newton_step():
    model, batch = softmax_regression(), data()
    loss = batch_loss(model, loss_fn, batch)
    start = snapshot(model)
    noise = to_vector(scrub(model, batch[0], strength=0.1)) - to_vector(start)
    newton = to_vector(scrub(model, batch[0], strength=0, newton_loss=loss))
    both = to_vector(scrub(model, batch[0], strength=0.1, newton_loss=loss))
    torch.testing.assert_close(both, newton + noise)


def test_a_weight_without_influence_is_refused_unless_damped():
    model, (inputs, _) = softmax_regression(), data()
    inputs[:, 1] = 0
    with pytest.raises(InputError, match="of 4 weights is zero"):
        scrub(model, inputs, strength=0.1)
    moved = scrub(model, inputs, strength=16.0, damping=1e-4)["weight"] - model.weight.detach()
    unit = torch.randn(4, 3, dtype=torch.float64, generator=make_generator(0, "noise"))
    torch.testing.assert_close(moved[:, 1], 2 * 10 * unit[:, 1])


def test_costs_are_counted():
    model, batch = net(), data()
    cost = scrub(model, batch[0], strength=0, damping=1e-6, batch_size=8).cost
    assert (cost.gradients, cost.hvps, cost.stored_bytes) == (20 * 4 / 8, 0, 0)
    loss = batch_loss(model, loss_fn, batch)
    cost = scrub(model, batch[0], strength=0, damping=1e-6, batch_size=8, newton_loss=loss).cost
    assert cost.gradients == 20 * 5 / 8


def test_nothing_of_the_callers_changes():
    model, (inputs, _) = net(), data()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    final = snapshot(model)
    scrubbed = fisher_scrub_unlearn(
        final, model, inputs, strength=1.0, damping=1e-3, generator=make_generator(0)
    )
    assert distance(scrubbed, final) > 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(p, before[name]) for name, p in final.items())
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_bad_input_is_named():
    model, (inputs, _) = softmax_regression(), data()
    with pytest.raises(InputError, match="strength must be at least 0"):
        scrub(model, inputs, strength=-1)
    with pytest.raises(InputError, match="damping must be at least 0"):
        scrub(model, inputs, strength=1, damping=-1)
    with pytest.raises(InputError, match="`inputs` is empty"):
        scrub(model, inputs[:0], strength=1)
    with pytest.raises(InputError, match="only one has"):
        diagonal_fisher(model, {"weight": model.weight}, inputs)
    with pytest.raises(InputError, match="chunk_size"):
        diagonal_fisher(model, snapshot(model), inputs, chunk_size=0)
