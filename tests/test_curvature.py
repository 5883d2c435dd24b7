"""Curvature against dense references: autograd's Hessian, scipy's eigsh, curvlinops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from toy_transformers import KINDS, TOKENS, toy_network

from benchmarks.growth import peak_memory
from unrolling import Objective, batch_loss, hvp, make_generator, seeded, top_singular_value
from unrolling._checks import InputError
from unrolling.curvature import _BoundedBasis
from unrolling.models.text import TextClassifier
from unrolling.parameters import from_vector, to_vector, trainable


def quadratic(matrix):
    """A loss whose Hessian is `matrix` everywhere."""
    return lambda params: params["w"] @ matrix @ params["w"] / 2


def spectrum_matrix(eigenvalues, seed=0):
    size = len(eigenvalues)
    basis = torch.linalg.qr(
        torch.randn(size, size, generator=make_generator(seed, "basis"), dtype=torch.float64)
    )[0]
    return basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T


@pytest.fixture
def small_net():
    """A tanh net with batch norm, warmed up so that evaluation and training mode differ."""
    with seeded(0, "net"):
        model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
        batch = torch.randn(12, 4, dtype=torch.float64), torch.randint(0, 3, (12,))
    model(batch[0] * 3 + 1)
    return model, batch


def dense_hessian(loss, params):
    flat = to_vector(params).detach()
    return torch.autograd.functional.hessian(lambda vector: loss(from_vector(vector, params)), flat)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("name", "strength"), [("sd", 0.7), ("logit_hessian", 0.5), ("l2", 0.3), ("weight_decay", 0.3)]
)
def test_hvp_equals_the_dense_hessian(small_net, name, strength, training):
    model, batch = small_net
    params = trainable(model)
    loss = batch_loss(model, Objective(name, strength), batch, training=training)
    vector = from_vector(
        torch.randn(to_vector(params).numel(), dtype=torch.float64, generator=make_generator(1)), params
    )
    expected = dense_hessian(loss, params) @ to_vector(vector)
    torch.testing.assert_close(to_vector(hvp(loss, params, vector)), expected, rtol=1e-9, atol=1e-12)


def test_hvp_does_not_depend_on_the_order_of_the_vectors_dict(small_net):
    model, batch = small_net
    params, loss = trainable(model), batch_loss(model, Objective("sd", 0.5), batch)
    vector = {name: torch.full_like(p, 0.1 * i) for i, (name, p) in enumerate(params.items())}
    turned = dict(reversed(vector.items()))
    assert torch.equal(to_vector(hvp(loss, params, vector)), to_vector(hvp(loss, params, turned)))


def test_hvp_of_a_linear_loss_is_zero():
    params = {"w": torch.ones(3), "unused": torch.ones(2)}
    product = hvp(lambda p: p["w"].sum(), params, {"w": torch.ones(3), "unused": torch.ones(2)})
    assert to_vector(product).abs().max() == 0
    alone = {"w": torch.ones(3)}
    assert hvp(lambda p: p["w"].sum(), alone, alone)["w"].abs().max() == 0


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")  # raised while curvlinops is imported
def test_top_singular_value_equals_eigsh_and_curvlinops_on_a_net(small_net):
    from curvlinops import HessianLinearOperator

    model, batch = small_net
    model.eval()
    params = trainable(model)
    loss = batch_loss(model, Objective("cross_entropy"), batch)
    found = top_singular_value(loss, params, rtol=1e-8, generator=make_generator(0))

    reference = HessianLinearOperator(model, nn.CrossEntropyLoss(), list(model.parameters()), [batch])
    size = reference.shape[0]

    def matvec(vector):
        return (reference @ torch.from_numpy(np.ascontiguousarray(vector).ravel())).detach().numpy()

    operator = LinearOperator((size, size), matvec=matvec, dtype=np.float64)
    largest = eigsh(operator, k=1, which="LM", return_eigenvectors=False, rng=np.random.default_rng(0))[0]
    assert found.eigenvalue == pytest.approx(largest, rel=1e-7)
    assert found.value == pytest.approx(abs(largest), rel=1e-7)
    assert found.converged


def test_top_singular_value_when_the_dominant_eigenvalue_is_negative():
    matrix = spectrum_matrix([-5.0, 1.0, 2.0, 0.5, -0.1])
    found = top_singular_value(quadratic(matrix), {"w": torch.zeros(5).double()}, generator=make_generator(0))
    assert found.eigenvalue == pytest.approx(-5.0, rel=1e-3)
    assert found.value == pytest.approx(torch.linalg.matrix_norm(matrix, 2).item(), rel=1e-3)


def test_top_singular_value_when_both_ends_are_nearly_equal():
    """Power iteration does not converge here; a fresh batch-norm net looks like this."""
    matrix = spectrum_matrix([-3.48, 3.53, *np.linspace(-1, 1, 58)])
    found = top_singular_value(
        quadratic(matrix), {"w": torch.zeros(60).double()}, rtol=1e-4, generator=make_generator(0)
    )
    assert found.value == pytest.approx(3.53, rel=1e-6)
    assert found.hvps < 60


@settings(max_examples=40, deadline=None)
@given(eigenvalues=st.lists(st.floats(-10, 10), min_size=1, max_size=8), seed=st.integers(0, 10))
def test_top_singular_value_is_the_induced_norm_of_any_small_matrix(eigenvalues, seed):
    matrix = spectrum_matrix(eigenvalues, seed)
    params = {"w": torch.zeros(len(eigenvalues)).double()}
    found = top_singular_value(quadratic(matrix), params, rtol=1e-10, generator=make_generator(seed))
    # Lanczos meets each distinct eigenvalue once, so it ends within the size of the matrix.
    assert found.value == pytest.approx(max(map(abs, eigenvalues)), rel=1e-6, abs=1e-8)
    assert found.hvps <= len(eigenvalues)


@pytest.mark.parametrize("seed", range(5))
def test_an_end_that_settles_early_does_not_hide_a_larger_one_that_does_not(seed):
    """4.9 stands alone and is found in a few products; -5 ends a dense band, which takes many more."""
    eigenvalues = torch.cat([torch.linspace(-5, 1, 200), torch.tensor([4.9])]).double()
    found = top_singular_value(
        quadratic(torch.diag(eigenvalues)),
        {"w": torch.zeros(201).double()},
        rtol=1e-3,
        max_hvps=150,
        generator=make_generator(seed),
    )
    assert found.converged
    assert found.eigenvalue == pytest.approx(-5, rel=1e-3)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    eigenvalues=st.lists(st.floats(-10, 10), min_size=1, max_size=12),
    seed=st.integers(0, 10),
    max_basis=st.integers(3, 5),
)
def test_a_small_basis_finds_the_induced_norm_too(eigenvalues, seed, max_basis):
    matrix = spectrum_matrix(eigenvalues, seed)
    params = {"w": torch.zeros(len(eigenvalues)).double()}
    found = top_singular_value(
        quadratic(matrix),
        params,
        rtol=1e-5,  # the error of the value is its square
        max_hvps=3000,
        max_basis=max_basis,
        generator=make_generator(seed),
    )
    assert found.converged
    assert found.value == pytest.approx(max(map(abs, eigenvalues)), rel=1e-6, abs=1e-8)


SPECTRA = {
    "negative end": [-5.0, *np.linspace(-1, 2, 80)],
    "both ends nearly equal": [-3.48, 3.53, *np.linspace(-1, 1, 80)],
    "ends in clusters": [*np.linspace(-3, -2.9, 10), *np.linspace(-1, 1, 60), *np.linspace(3.1, 3.2, 10)],
    "a pair at the top": [4.0, 4.0, *np.linspace(-2, 2, 80)],
    "dense band": list(np.linspace(-1, 0.9, 80)),
}


@pytest.mark.parametrize("max_basis", [3, 4, 6])
@pytest.mark.parametrize("eigenvalues", SPECTRA.values(), ids=SPECTRA.keys())
def test_a_small_basis_finds_the_larger_end_of_hard_spectra(eigenvalues, max_basis):
    matrix = spectrum_matrix(eigenvalues)
    params = {"w": torch.zeros(len(eigenvalues)).double()}
    found = top_singular_value(
        quadratic(matrix),
        params,
        rtol=1e-3,
        max_hvps=500,
        max_basis=max_basis,
        generator=make_generator(0),
    )
    largest = max(eigenvalues, key=abs)
    assert found.converged
    assert found.eigenvalue == pytest.approx(largest, rel=1e-3)
    error = matrix @ found.vector["w"] - found.eigenvalue * found.vector["w"]
    assert found.residual == pytest.approx(error.norm().item(), rel=1e-4)
    assert found.residual <= 1e-3 * found.value


def test_a_basis_that_never_fills_changes_nothing_but_rounding():
    loss, params = quadratic(spectrum_matrix(SPECTRA["dense band"])), {"w": torch.zeros(80).double()}
    whole, bounded = (
        top_singular_value(loss, params, max_basis=max_basis, generator=make_generator(0))
        for max_basis in (None, 64)
    )
    assert whole.hvps == bounded.hvps
    assert whole.value == pytest.approx(bounded.value, rel=1e-12)


def most_copies_at_once(size, max_basis):
    """Return the most bytes that an estimate holds at once, in copies of the weights."""
    eigenvalues = torch.linspace(-1, 0.9, size, dtype=torch.float64)
    params = {"w": torch.zeros(size).double()}

    def estimate():
        found = top_singular_value(
            lambda p: p["w"] @ (p["w"] * eigenvalues) / 2,
            params,
            rtol=1e-5,
            max_hvps=32,
            max_basis=max_basis,
            generator=make_generator(0),
        )
        assert found.hvps == 32

    return peak_memory(estimate) / (8 * size)


def test_a_small_basis_bounds_the_vectors_that_are_kept():
    few, more, all_of_them = (most_copies_at_once(100_000, max_basis) for max_basis in (4, 9, None))
    assert more - few == pytest.approx(5, abs=0.5)
    assert 32 < all_of_them < 32 + 16 + 8  # while 16 rows become 32, both are there


def test_the_returned_vector_is_an_eigenvector_and_restarts_at_once():
    matrix = spectrum_matrix([4.0, 1.0, 0.3, -2.0])
    params = {"w": torch.zeros(4).double()}
    found = top_singular_value(quadratic(matrix), params, rtol=1e-9, generator=make_generator(0))
    torch.testing.assert_close(
        matrix @ found.vector["w"], found.eigenvalue * found.vector["w"], rtol=0, atol=1e-8
    )
    assert top_singular_value(quadratic(matrix), params, rtol=1e-6, start=found.vector).hvps == 1


def test_running_out_of_products_is_reported_with_a_lower_bound():
    matrix = spectrum_matrix(list(np.linspace(-1, 1, 50)))
    params = {"w": torch.zeros(50).double()}
    found = top_singular_value(quadratic(matrix), params, rtol=1e-9, max_hvps=5, generator=make_generator(0))
    assert not found.converged
    assert found.hvps == 5
    assert found.value < 1
    image = matrix @ found.vector["w"] - found.eigenvalue * found.vector["w"]
    assert found.residual == pytest.approx(image.norm().item(), rel=1e-6)


def test_measuring_leaves_no_trace(small_net):
    model, batch = small_net
    model.train()
    model[1].eval()  # a mixed state must come back as it was
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random_state = torch.get_rng_state()
    for training in (False, True):
        loss = batch_loss(model, Objective("sd", 0.5), batch, training=training)
        top_singular_value(loss, trainable(model), generator=make_generator(0))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_dropout_in_training_mode_leaves_the_random_state_and_repeats_its_mask():
    model = nn.Sequential(nn.Linear(4, 20), nn.Dropout(0.5), nn.Linear(20, 3)).double()
    batch = torch.ones(2, 4, dtype=torch.float64), torch.zeros(2, dtype=torch.int64)
    loss = batch_loss(model, Objective("cross_entropy"), batch, training=True)
    random_state = torch.get_rng_state()
    first = loss(trainable(model))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(loss(trainable(model)), first)
    torch.rand(1)  # from another state, another mask
    assert not torch.equal(loss(trainable(model)), first)


def test_training_and_evaluation_mode_measure_different_hessians(small_net):
    model, batch = small_net
    values = [
        top_singular_value(
            batch_loss(model, Objective("sd", 0.5), batch, training=training),
            trainable(model),
            generator=make_generator(0),
        ).value
        for training in (False, True)
    ]
    assert abs(values[0] - values[1]) > 0.01 * max(values)


def test_bad_input_is_named():
    params = {"w": torch.ones(2)}
    square = quadratic(torch.eye(2))
    with pytest.raises(InputError, match="'gradient' or None, got 'warm'"):
        top_singular_value(square, params, start="warm", generator=make_generator(0))
    with pytest.raises(InputError, match="'gradient' or None, got Tensor"):
        top_singular_value(square, params, start=torch.ones(2), generator=make_generator(0))
    with pytest.raises(InputError, match="scalar"):
        hvp(lambda p: p["w"], params, params)
    with pytest.raises(InputError, match=r"Use dict\(model.named_parameters"):
        hvp(square, [torch.ones(2)], params)
    with pytest.raises(InputError, match="`start` must be finite"):
        top_singular_value(square, params, start={"w": torch.tensor([1.0, torch.nan])})
    with pytest.raises(InputError, match="must not be zero"):
        top_singular_value(square, params, start={"w": torch.zeros(2)})
    with pytest.raises(InputError, match="diverged"):
        top_singular_value(lambda p: (p["w"] * torch.inf).square().sum(), params, generator=make_generator(0))


@pytest.fixture(scope="module", params=KINDS)
def attention(request):
    """The loss of a toy transformer, and its dense Hessian through attention that is written out."""
    labels = torch.tensor([0, 1, 1])
    networks = [toy_network(request.param, attention=name).double().eval() for name in ("sdpa", "eager")]
    model, written_out = networks
    params = {f"network.{name}": p.detach() for name, p in model.named_parameters()}

    def by_hand(vector):
        state = {n.removeprefix("network."): p for n, p in from_vector(vector, params).items()}
        mask = (TOKENS != 0).long()
        logits = functional_call(written_out, state, (TOKENS,), {"attention_mask": mask}).logits
        return -logits.log_softmax(dim=1)[range(3), labels].mean()

    dense = torch.autograd.functional.hessian(by_hand, to_vector(params))
    loss = batch_loss(TextClassifier(model), Objective("cross_entropy"), (TOKENS, labels))
    return loss, params, dense


def test_hvp_through_attention_equals_the_dense_hessian(attention):
    loss, params, dense = attention
    vector = torch.randn(len(dense), dtype=torch.float64, generator=make_generator(1))
    found = to_vector(hvp(loss, params, from_vector(vector, params)))
    torch.testing.assert_close(found, dense @ vector, rtol=1e-9, atol=1e-10)


def test_top_singular_value_through_attention_is_the_dense_one(attention):
    loss, params, dense = attention
    expected = torch.linalg.matrix_norm(dense, 2)
    assert expected > 0.1
    found = top_singular_value(loss, params, rtol=1e-8, max_hvps=len(dense), generator=make_generator(0))
    assert found.value == pytest.approx(float(expected), rel=1e-9)


def test_hvp_leaves_a_caller_the_fused_attention_that_it_cannot_use_itself(attention):
    loss, params, dense = attention
    vector = from_vector(torch.ones(len(dense), dtype=torch.float64), params)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        found = hvp(loss, params, vector)
        assert not torch.backends.cuda.math_sdp_enabled()
    torch.testing.assert_close(to_vector(found), dense.sum(dim=1), rtol=1e-9, atol=1e-10)


def test_a_start_at_an_eigenvector_misses_a_larger_eigenvalue_and_a_random_one_does_not():
    matrix = torch.diag(torch.tensor([14.0, 10.0, 1.0, -3.0], dtype=torch.float64))
    params = {"w": torch.zeros(4, dtype=torch.float64)}
    earlier = {"w": torch.eye(4, dtype=torch.float64)[1]}  # the top eigenvector before 14 overtook
    assert top_singular_value(quadratic(matrix), params, start=earlier).value == pytest.approx(10)
    found = top_singular_value(quadratic(matrix), params, generator=make_generator(0))
    assert found.value == pytest.approx(14)


def test_estimates_never_fall_and_end_at_the_value():
    matrix = spectrum_matrix([float(i) for i in range(-20, 22)])
    params = {"w": torch.ones(42, dtype=torch.float64)}
    found = top_singular_value(quadratic(matrix), params, rtol=1e-6, generator=make_generator(0))
    assert len(found.estimates) == found.hvps > 5
    assert list(found.estimates) == sorted(found.estimates)
    assert found.estimates[-1] == found.value


def test_without_a_generator_every_call_starts_alike():
    matrix = spectrum_matrix(SPECTRA["dense band"])
    params = {"w": torch.zeros(80).double()}
    one, two = (top_singular_value(quadratic(matrix), params, max_hvps=4) for _ in range(2))
    assert one.estimates == pytest.approx(two.estimates, rel=1e-12)
    other = top_singular_value(quadratic(matrix), params, max_hvps=4, generator=make_generator(7))
    assert abs(other.value / one.value - 1) > 1e-6


def test_a_start_from_the_gradient_saves_products_where_the_gradient_is_in_the_top_space():
    matrix = spectrum_matrix([5.0, -4.9, *torch.linspace(-1, 1, 198).tolist()])
    top = torch.linalg.eigh(matrix).eigenvectors[:, [0, -1]].sum(dim=1)
    found = {
        (start, at): top_singular_value(
            quadratic(matrix), {"w": weights}, start=start, generator=make_generator(0)
        )
        for start in (None, "gradient")
        for at, weights in (("top", top), ("stationary", torch.zeros_like(top)))
    }
    for norm in found.values():
        assert norm.value == pytest.approx(5, rel=1e-3)
    assert found["gradient", "top"].hvps <= found[None, "top"].hvps - 2
    assert found["gradient", "stationary"].estimates == found[None, "stationary"].estimates


@pytest.mark.parametrize("size", [50, 10_000])  # in one piece and in several
def test_a_basis_is_turned_as_by_one_product_of_matrices(size):
    generator = make_generator(0)
    vectors = [torch.randn(size, generator=generator, dtype=torch.float64) for _ in range(4)]
    columns = torch.randn(4, 2, generator=generator, dtype=torch.float64)
    expected = (torch.stack(vectors).T @ columns).T
    basis = _BoundedBasis(vectors[0].clone())
    basis.extend(vector.clone() for vector in vectors[1:])
    basis.turn(columns)
    torch.testing.assert_close(torch.stack(basis), expected)
