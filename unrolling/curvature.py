r"""Hessian-vector products and the largest singular value of the Hessian.

For a symmetric H the induced 2-norm, the largest singular value, is :math:`\max_i |\lambda_i|`. Section 5.2
calls it "the square root of the largest eigenvalue", and the released code takes that root; the root is a
different quantity and, where the dominant eigenvalue is negative, not a number.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from unrolling._checks import InputError, NotFiniteError, check_integer, check_real
from unrolling.model_loss import Loss, derivatives, differentiable, evaluate
from unrolling.parameters import Params, dense, dot, from_vector, same_parameters, to_vector
from unrolling.refusals import missing_derivatives_named, no_recomputation
from unrolling.seeding import make_generator
from unrolling.surroundings import full_precision, plain_autograd, random_state_kept, threads

#: Vectors as long as the weights that a sample keeps unless told otherwise.
MAX_BASIS = 12


class _StandIn(torch.autograd.Function):
    """A scalar whose derivative with respect to a vector is whatever direction one puts into a list.

    Handing the direction to ``torch.autograd.grad`` instead makes PyTorch import sympy, which takes most of a
    second.
    """

    @staticmethod
    def forward(ctx, vector, direction):
        ctx.direction = direction
        return vector.new_zeros(())

    @staticmethod
    def backward(ctx, _):
        return ctx.direction[0], None


class _TwiceDifferentiable(TorchFunctionMode):
    """Writes out the functions whose second derivative PyTorch lacks, or has wrong."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch._weight_norm:  # its double backward takes the norm for a constant
            direction, length, *dim = args
            return direction * (length / torch.norm_except_dim(direction, 2, *dim))
        if func is F.hardsigmoid:
            return F.relu6(args[0] + 3) / 6
        return func(*args, **(kwargs or {}))


def quadratic_model(loss: Loss, params: Params) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    r"""Return the gradient at ``params`` and :math:`v \mapsto \nabla^2 \mathcal{L}(w)\, v`, both on vectors.

    The graph of the gradient is built once and kept for every later product, so k products cost one gradient
    and k backward passes. ``params`` and their gradients are only read; the caller's grad mode, autocast and
    random state neither matter nor change. Attention is computed by PyTorch's plain kernel, because the fused
    ones cannot be differentiated twice.

    Args:
        loss: ``loss(params) -> scalar``, closed over its batch.
        params: Where the Hessian is taken.

    Returns:
        The gradient, and a function from a vector of as many entries to the product, both detached. Vectors
        are in the precision of the parameters, at least float32, though half precision is multiplied as such.

    Raises:
        InputError: If the loss is no scalar, does not depend on ``params``, or cannot be differentiated
            twice; the message names the layer.
    """
    model = getattr(loss, "model", None)
    leaves = differentiable(params)
    inputs = list(leaves.values())
    with (
        plain_autograd(),
        random_state_kept({p.device for p in inputs}),
        missing_derivatives_named(model, lambda: loss(params)),
        sdpa_kernel(SDPBackend.MATH),
        _TwiceDifferentiable(),
    ):
        with no_recomputation(model):
            value = evaluate(loss, leaves)
        flat = torch.cat([g.reshape(-1) for g in derivatives(value, inputs, create_graph=True)])
        # The stand-in holds the graph alone: who wants only products need not keep the gradient in memory.
        direction: list[Tensor] = []
        stand_in = _StandIn.apply(flat, direction) if flat.requires_grad else None
    own, wide = flat.dtype, torch.promote_types(flat.dtype, torch.float32)

    def product(vector: Tensor) -> Tensor:
        if stand_in is None:  # the loss is linear in every parameter
            return torch.zeros_like(vector)
        direction[:] = [vector.to(own)]
        with plain_autograd(), missing_derivatives_named(model, lambda: loss(params)):
            parts = torch.autograd.grad(stand_in, inputs, retain_graph=True, materialize_grads=True)
        direction.clear()
        return torch.cat([dense(part).reshape(-1) for part in parts]).to(wide)

    return flat.detach().to(wide), product


def hessian_operator(loss: Loss, params: Params) -> Callable[[Tensor], Tensor]:
    r"""Return :math:`v \mapsto \nabla^2 \mathcal{L}(w)\, v` on vectors; see :func:`quadratic_model`."""
    return quadratic_model(loss, params)[1]


def hvp(loss: Loss, params: Params, vector: Params) -> Params:
    r"""Return the exact Hessian-vector product :math:`\nabla^2 \mathcal{L}(w)\, v` (Pearlmutter, 1994).

    Args:
        loss: ``loss(params) -> scalar``, closed over its batch.
        params: The weights w.
        vector: The direction v, named and shaped as ``params``.

    Returns:
        The product, named and shaped as ``params``.

    Example:
        >>> w = {"w": torch.tensor([1.0, 2.0])}
        >>> hvp(lambda p: (p["w"] ** 3).sum(), w, {"w": torch.ones(2)})["w"]  # H = diag(6 w)
        tensor([ 6., 12.])
    """
    ordered = same_parameters(params, vector, ("params", "vector"))
    product = from_vector(hessian_operator(loss, params)(to_vector(ordered).detach()), params)
    return {name: part.to(params[name].dtype) for name, part in product.items()}


@dataclass(frozen=True)
class SpectralNorm:
    r"""The largest singular value of a Hessian and how it was found.

    Attributes:
        value: :math:`\sigma_1 = |\lambda|_{\max}`.
        eigenvalue: The eigenvalue of that size, with its sign.
        vector: Its unit eigenvector, named and shaped as the parameters, in float32 or float64.
        hvps: Hessian-vector products used.
        estimates: The value after every product; but for rounding it never falls.
        residual: :math:`\|H q - \lambda q\|_2` of the returned pair, as Lanczos knows it.
        converged: Whether the residuals met the tolerance.
    """

    value: float
    eigenvalue: float
    vector: Params
    hvps: int
    estimates: tuple[float, ...]
    residual: float
    converged: bool


@full_precision()
def top_singular_value(
    loss: Loss,
    params: Params,
    *,
    rtol: float = 1e-2,
    max_hvps: int = 64,
    max_basis: int | None = MAX_BASIS,
    start: Params | Literal["gradient"] | None = None,
    generator: torch.Generator | None = None,
) -> SpectralNorm:
    r"""Return :math:`\sigma_1 = \|\nabla^2 \mathcal{L}(w)\|_2 = |\lambda|_{\max}` by Lanczos.

    The Lanczos basis is reorthogonalised in full. Both ends of the spectrum are followed, so a dominant
    negative eigenvalue, or two of nearly equal size and opposite sign, do not mislead it (power iteration
    stalls there). It stops when :math:`\|H q - \theta q\| \le rtol \cdot \sigma_1` for the larger end, and
    the other end either meets the same tolerance or cannot overtake it within its own residual. This proves
    that :math:`\theta` is near an eigenvalue; that none is larger is only very likely, as a random
    start has some of every eigenvector. A smaller ``rtol`` makes it likelier; the book counts how much.

    With ``max_basis`` a full basis is replaced by its two Ritz vectors at the ends of the spectrum, and
    Lanczos goes on from there (thick restart: Wu and Simon, SIAM J. Matrix Anal. Appl. 22, 2000). It needs
    more products, the more the smaller the basis is and the tighter the tolerance.

    Args:
        loss: ``loss(params) -> scalar``, closed over its batch.
        params: The weights at which the Hessian is taken.
        rtol: Relative tolerance on the residual; the error of the eigenvalue itself is usually its square.
        max_hvps: Products allowed; each costs about two gradients.
        max_basis: Vectors as long as w that are kept at most, 3 or more; a product needs two more for a
            while. None keeps one for each product, in a matrix that starts with room for 8 and doubles.
        start: First direction; random by default. "gradient" takes the gradient and a random direction in
            equal parts: the gradient of a network is mostly in the span of the top eigenvectors (Gur-Ari,
            Roberts and Dyer, arXiv:1812.04754), which saves products. From a start that is nearly an
            eigenvector, such as the one of an earlier Hessian, a larger eigenvalue whose vector it has little
            of is easily missed.
        generator: Source of the random start; by default one with a fixed seed, so that every call with the
            same loss starts alike.

    Returns:
        A :class:`SpectralNorm`. If ``max_hvps`` ran out, ``converged`` is False and ``value`` a lower bound.

    Raises:
        InputError: If the Hessian or ``start`` is not finite, ``start`` is zero, or the loss is no scalar,
            does not depend on ``params``, or cannot be differentiated twice; the message names the layer.
    """
    check_real("rtol", rtol, above=0)
    check_integer("max_hvps", max_hvps, minimum=1)
    if max_basis is not None:
        check_integer("max_basis", max_basis, minimum=3)
    gradient, product = quadratic_model(loss, params)
    direction = _first_direction(start, gradient, params, generator)
    size, precision = len(direction), torch.finfo(direction.dtype).eps
    length = _length(direction)
    del gradient
    if not math.isfinite(length):
        if isinstance(start, Mapping):
            raise InputError("`start` must be finite.")
        raise NotFiniteError(
            "the gradient is not finite: training has probably diverged; try a smaller learning rate."
        )
    if not length > 0:
        raise InputError("`start` must not be zero.")

    first_vector = direction / length
    basis = _WholeBasis(first_vector) if max_basis is None else _BoundedBasis(first_vector)
    del direction, first_vector  # as long as the weights, and not needed again
    projected = torch.zeros(1, 1, dtype=torch.float64, device="cpu")  # the Hessian on the span of the basis
    hvps = 0
    estimates: list[float] = []
    while True:
        image = product(basis.newest)
        hvps += 1
        with threads(1):
            projected[-1, -1] = dot(image, basis.newest)
            image = basis.orthogonal_part(image)
            beta = _length(image)
        if not (projected[-1, -1].isfinite() and math.isfinite(beta)):
            raise NotFiniteError(
                "the Hessian-vector product is not finite: training has probably diverged; "
                "try a smaller learning rate."
            )
        ritz, vectors = torch.linalg.eigh(projected)
        residuals = beta * vectors[-1].abs()
        top = int(ritz.abs().argmax())
        value = float(ritz[top].abs())
        estimates.append(value)
        other = 0 if top == len(ritz) - 1 else len(ritz) - 1
        # No residual can be told from 0 below a few roundings of the value. The number of weights has no
        # place here: with it, an ordinary beta of a large network would count as an exhausted space.
        tolerance = max(rtol, 4 * precision) * value
        converged = float(residuals[top]) <= tolerance and (
            float(residuals[other]) <= tolerance or float(ritz[other].abs() + residuals[other]) <= value
        )
        if converged or len(basis) == size or hvps == max_hvps:
            break
        # The Hessian takes the basis into its own span and, from the last vector, beta times the next one.
        coupling = torch.zeros(len(basis), dtype=torch.float64, device="cpu")
        coupling[-1] = beta
        if len(basis) == max_basis:
            ends = vectors[:, [0, -1]]
            basis.turn(ends)
            projected, coupling = torch.diag(ritz[[0, -1]]), ends.T @ coupling
        basis.append(image.div_(beta))
        del image
        projected = F.pad(projected, (0, 1, 0, 1))
        projected[-1, :-1] = projected[:-1, -1] = coupling

    vector = basis.combination(vectors[:, top])
    return SpectralNorm(
        value=value,
        eigenvalue=float(ritz[top]),
        vector=from_vector(vector.div_(_length(vector)), params),
        hvps=hvps,
        estimates=tuple(estimates),
        residual=float(residuals[top]),
        converged=converged,
    )


def _first_direction(
    start: Params | str | None, gradient: Tensor, params: Params, generator: torch.Generator | None
) -> Tensor:
    """Return where Lanczos starts, of any length."""
    if isinstance(start, Mapping):
        return to_vector(same_parameters(params, start, ("params", "start"))).detach().to(gradient.dtype)
    if not (start is None or (isinstance(start, str) and start == "gradient")):
        got = repr(start) if isinstance(start, str) else type(start).__name__
        raise InputError(
            f"`start` must be a dict[str, Tensor] named as `params`, 'gradient' or None, got {got}."
        )
    generator = make_generator(0, "lanczos start") if generator is None else generator
    random = torch.randn(len(gradient), generator=generator, dtype=gradient.dtype, device=generator.device)
    random = random.to(gradient.device)
    if start is None or not gradient.norm() > 0:
        return random
    return gradient / gradient.norm() + random / random.norm()


def _length(vector: Tensor) -> float:
    return float(vector.norm()) if vector.dtype == torch.float64 else math.sqrt(dot(vector, vector))


class _WholeBasis:
    """Orthonormal vectors, all of them: rows of one matrix, which doubles when it is full."""

    def __init__(self, first: Tensor):
        self._rows = first.new_empty(8, len(first))
        self._count = 0
        self.append(first)

    def __len__(self) -> int:
        return self._count

    def append(self, vector: Tensor) -> None:
        if self._count == len(self._rows):
            more = self._rows.new_empty(2 * self._count, len(vector))
            more[: self._count] = self._rows
            self._rows = more
        # The newest stays a tensor of its own too: where a row starts in memory can change the last bits.
        self._rows[self._count] = self.newest = vector
        self._count += 1

    def orthogonal_part(self, image: Tensor) -> Tensor:
        """Return ``image`` without its part in the span."""
        known = self._rows[: self._count]
        for _ in range(2):  # twice is enough (Kahan and Parlett)
            if known.dtype == torch.float64:
                parts = known @ image
            else:
                parts = image.new_tensor([dot(vector, image) for vector in known])
            image = image - known.T @ parts
        return image

    def combination(self, column: Tensor) -> Tensor:
        known = self._rows[: self._count]
        return known.T @ column.to(known)


class _BoundedBasis(list[Tensor]):
    """Orthonormal vectors of which only a few are kept; what can be done in place is."""

    def __init__(self, first: Tensor):
        super().__init__([first])

    @property
    def newest(self) -> Tensor:
        return self[-1]

    def orthogonal_part(self, image: Tensor) -> Tensor:
        """Return ``image``, overwritten, without its part in the span."""
        for _ in range(2):
            for vector in self:
                image.sub_(vector * dot(vector, image))
        return image

    def turn(self, columns: Tensor) -> None:
        """Replace the vectors by their combinations, one for each column."""
        count = min(16, 1 + len(self[0]) // 2**12)  # long vectors in pieces, so that the copies are small
        for pieces in zip(*(vector.chunk(count) for vector in self), strict=True):
            known = torch.stack(pieces)
            turned = [known.T @ column.to(known) for column in columns.T]
            for piece, new in zip(pieces, turned, strict=False):
                piece.copy_(new)
        del self[columns.shape[1] :]

    def combination(self, column: Tensor) -> Tensor:
        """Return a combination; the basis is of no use afterwards."""
        self.turn(column[:, None])
        return self[0]
