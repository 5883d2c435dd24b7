"""Sigma at the sizes and precisions that people train in: millions of float32 weights, half precision."""

import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import nn

from unrolling import (
    Objective,
    batch_loss,
    build_model,
    hvp,
    make_generator,
    seeded,
    sgd_step,
    top_singular_value,
)
from unrolling.curvature import hessian_operator
from unrolling.parameters import from_vector, to_vector, trainable

OUTLIERS = (10.0, 5.0, 4.0, 3.0, 2.5, 2.0)


def diagonal(size, dtype, *, sign=1):
    """A quadratic loss with a diagonal Hessian: a band in [0, 1] and six outliers, the largest 10 or -10."""
    entries = torch.linspace(0, 1, size, dtype=torch.float64)
    entries[: len(OUTLIERS)] = torch.tensor(OUTLIERS, dtype=torch.float64)
    entries[0] *= sign
    entries = entries.to(dtype)
    return (lambda p: (entries * p["w"] ** 2).sum() / 2), {"w": torch.ones(size, dtype=dtype)}, entries


def true_residual(entries, found):
    vector = found.vector["w"].double()
    return float((entries.double() * vector - found.eigenvalue * vector).norm())


SMALLER, LARGER = 4_000_000, 12_000_000


@pytest.mark.parametrize(
    ("size", "sign", "max_basis"),
    [(SMALLER, sign, basis) for sign in (1, -1) for basis in (12, 4, None)]
    + [(LARGER, 1, 12), (LARGER, -1, 12), (LARGER, 1, None)],
)
def test_sigma_of_millions_of_float32_weights(size, sign, max_basis):
    loss, params, entries = diagonal(size, torch.float32, sign=sign)
    found = top_singular_value(loss, params, max_basis=max_basis)
    assert found.converged
    assert found.eigenvalue == pytest.approx(10 * sign, rel=1e-3)
    assert 0 < found.residual <= 1e-2 * found.value
    assert found.residual == pytest.approx(true_residual(entries, found), rel=1e-3)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("size", [100, 1_000, 100_000])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sigma_of_half_precision(dtype, size, sign):
    loss, params, entries = diagonal(size, dtype, sign=sign)
    found = top_singular_value(loss, params)
    rounding = torch.finfo(dtype).eps
    assert found.converged
    assert found.eigenvalue == pytest.approx(10 * sign, rel=1e-2)
    assert found.vector["w"].dtype == torch.float32
    # Every entry of a product is rounded to half precision, which the residual cannot know.
    assert found.residual == pytest.approx(true_residual(entries, found), abs=rounding * found.value)


@pytest.mark.parametrize("max_hvps", [1, 2, 3, 5, 64])
@pytest.mark.parametrize("max_basis", [None, 3, 12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_residual_is_that_of_the_returned_pair_wherever_it_stops(dtype, max_basis, max_hvps):
    """Stopped by the tolerance, by the products, or by the size of the space."""
    for size in (1, 3, 5, 200):
        loss, params, entries = diagonal(max(size, 6), dtype)
        if size < 6:
            keep = entries[:size].clone()
            loss, params, entries = (
                (lambda p, d=keep: (d * p["w"] ** 2).sum() / 2),
                {"w": torch.ones(size, dtype=dtype)},
                keep,
            )
        found = top_singular_value(loss, params, rtol=1e-3, max_hvps=max_hvps, max_basis=max_basis)
        floor = 20 * torch.finfo(dtype).eps * found.value
        assert found.residual == pytest.approx(true_residual(entries, found), rel=1e-3, abs=floor)
        if found.converged:
            assert found.value == pytest.approx(10, rel=1e-3)
            assert found.residual <= 1e-3 * found.value
        else:
            assert found.hvps == max_hvps


def test_an_exhausted_space_is_not_called_converged_unless_its_residual_is_small():
    """H of rank one: after two products beta is rounding, and so is the residual."""
    direction = torch.linspace(1, 2, 50)
    found = top_singular_value(lambda p: (p["w"] @ direction) ** 2 / 2, {"w": torch.ones(50)}, rtol=1e-6)
    assert found.converged
    assert found.hvps <= 3
    assert found.value == pytest.approx(float(direction @ direction), rel=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_sigma_scales_with_the_loss(scale):
    """No absolute number is hidden in the stopping rule."""
    loss, params, _ = diagonal(1_000, torch.float32)
    one, other = (top_singular_value(lambda p, c=c: c * loss(p), params) for c in (1.0, scale))
    assert other.value == pytest.approx(scale * one.value, rel=1e-4)
    assert other.hvps == one.hvps
    assert other.converged


def test_a_hessian_of_zero_is_zero():
    found = top_singular_value(lambda p: 0 * (p["w"] ** 2).sum(), {"w": torch.ones(2_000_000)})
    assert (found.value, found.residual, found.converged, found.hvps) == (0, 0, True, 1)


def network_loss(name, image_size):
    """A network of the paper at full width in float32, three steps from its initialisation, on 8 images."""
    with seeded(0, name):
        model = build_model(name, 10, input_shape=(3, image_size, image_size)).float()
        inputs, labels = torch.randn(8, 3, image_size, image_size), torch.arange(8)
    objective = Objective("cross_entropy")
    for _ in range(3):
        sgd_step(model, (inputs, labels), objective, 0.05)
    return model, batch_loss(model, objective, (inputs, labels))


def in_double(model, loss):
    batch = loss.batch[0].double(), loss.batch[1]
    return batch_loss(model.double(), loss.loss_fn, batch), trainable(model)


def test_sigma_of_resnet18_at_full_width_in_float32():
    """ARPACK in float64, at the same weights, is the oracle."""
    model, loss = network_loss("resnet18", 8)
    params = trainable(model)
    found = top_singular_value(loss, params, generator=make_generator(0))
    vector = to_vector(found.vector)
    off = hessian_operator(loss, params)(vector) - found.eigenvalue * vector
    assert found.converged
    assert found.residual == pytest.approx(float(off.double().norm()), rel=0.02)

    product = hessian_operator(*in_double(model, loss))
    operator = LinearOperator(
        (len(vector), len(vector)), matvec=lambda v: product(torch.from_numpy(v).ravel()).numpy()
    )
    start = torch.randn(len(vector), generator=make_generator(1), dtype=torch.float64).numpy()
    (largest,) = eigsh(operator, k=1, ncv=6, which="LM", v0=start, tol=1e-2, return_eigenvectors=False)
    assert found.eigenvalue == pytest.approx(largest, rel=1e-2)


def test_sigma_of_vgg19_at_full_width_in_float32_is_that_in_float64():
    model, loss = network_loss("vgg19", 32)
    found = top_singular_value(loss, trainable(model), generator=make_generator(0))
    assert found.converged
    vector = to_vector(found.vector)
    off = hessian_operator(loss, trainable(model))(vector) - found.eigenvalue * vector
    assert found.residual == pytest.approx(float(off.double().norm()), rel=0.05)
    wide, params = in_double(model, loss)
    other = top_singular_value(wide, params, generator=make_generator(1))
    assert found.eigenvalue == pytest.approx(other.eigenvalue, rel=1e-2)


def test_sigma_of_a_network_as_large_as_distilbert_in_float32():
    """66 million weights, most of them an embedding of which a batch uses little."""
    with seeded(0, "large"):
        model = nn.Sequential(nn.Embedding(30_522, 768), nn.Flatten(), nn.Linear(8 * 768, 6_600), nn.Tanh())
        model.append(nn.Linear(6_600, 2))
        batch = torch.randint(0, 30_522, (4, 8)), torch.tensor([0, 1, 0, 1])
    loss, params = batch_loss(model, Objective("cross_entropy"), batch), trainable(model)
    assert sum(p.numel() for p in params.values()) > 60_000_000
    found = top_singular_value(loss, params, max_basis=4)
    image = to_vector(hvp(loss, params, from_vector(to_vector(found.vector), params)))
    vector = to_vector(found.vector)
    assert found.converged
    assert found.residual == pytest.approx(
        float((image.double() - found.eigenvalue * vector.double()).norm()), rel=0.05
    )
    # The Rayleigh quotient of a converged pair is as near as the square of its residual.
    assert found.eigenvalue == pytest.approx(float(vector.double() @ image.double()), rel=1e-4)
