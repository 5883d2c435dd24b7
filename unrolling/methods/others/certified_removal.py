r"""Certified removal from linear models: a Newton step, hidden by noise that was in the training loss.

Guo, Goldstein, Hannun, van der Maaten, "Certified Data Removal from Machine Learning Models", ICML 2020.
Binary classification and regression; the paper's multi-class models are one such model per class.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unrolling._checks import InputError, check_choice, check_examples, check_integer, check_real
from unrolling.batches import Examples
from unrolling.methods.assumptions import convex_features
from unrolling.methods.cost import Cost, Unlearned
from unrolling.methods.others.linear_model import (
    LINEAR_LOSSES,
    LinearMinimum,
    check_linear_data,
    linear_gradient,
    linear_hessian,
    minimise_linear,
)
from unrolling.methods.problem import Model, NotApplicable, Outcome, Problem
from unrolling.parameters import Params
from unrolling.seeding import make_generator
from unrolling.surroundings import full_precision


@dataclass(frozen=True, kw_only=True)
class RemovalSettings:
    r"""The training problem and the promise.

    .. math:: \mathcal{L}_b(w) = \sum_{i=1}^n \ell(w^\top x_i, y_i) + \frac{\lambda n}{2} \|w\|^2 + b^\top w,
              \qquad b \sim N(0, \sigma^2 I)

    Attributes:
        loss: A key of :data:`LINEAR_LOSSES`; logistic takes targets of -1 and 1.
        l2: :math:`\lambda > 0`.
        noise_scale: :math:`\sigma > 0`. A larger one allows more removals and costs accuracy.
        epsilon: :math:`\epsilon`, at most 1.
        delta: :math:`\delta`, below 1.
        tolerance: Training stops at :math:`\|\nabla \mathcal{L}_b\| \le` this; it counts against the budget.

    Example:
        >>> settings = RemovalSettings(l2=0.1, noise_scale=1.0, epsilon=1.0, delta=1.5 * math.exp(-2))
        >>> round(settings.budget, 12)  # c = 2
        0.5
    """

    loss: str = "logistic"
    l2: float
    noise_scale: float
    epsilon: float
    delta: float
    tolerance: float = 1e-9

    def __post_init__(self) -> None:
        check_choice("loss", self.loss, LINEAR_LOSSES)
        for name in ("l2", "noise_scale", "epsilon", "delta", "tolerance"):
            check_real(name, getattr(self, name), above=0)
        if self.epsilon > 1:
            raise InputError(
                f"epsilon must be at most 1, got {self.epsilon:g}: the noise is calibrated for that range."
            )
        if self.delta >= 1:
            raise InputError(f"delta must be below 1, got {self.delta:g}: it would promise nothing.")
        if self.tolerance > self.budget:
            raise InputError(
                f"the noise hides a residual of {self.budget:.2e}, less than the tolerance of training, "
                f"{self.tolerance:.2e}. Use a larger noise_scale or a smaller tolerance."
            )

    @property
    def budget(self) -> float:
        r"""The gradient residual :math:`\sigma \epsilon / c` that the noise hides, Theorem 3.

        There :math:`\delta = 1.5 e^{-c^2 / 2}`.
        """
        return self.noise_scale * self.epsilon / math.sqrt(2 * math.log(1.5 / self.delta))


@dataclass(frozen=True)
class CertifiedModel:
    r"""A linear model from which examples can be removed.

    Attributes:
        params: ``{"weight": w}``, shape (1, d), as of ``nn.Linear(d, 1, bias=False)``.
        noise: b, shape (d,). Whoever knows it sees through the guarantee.
        kept: Which examples are still in, bool of shape (n,).
        spent: Bound on :math:`\|\nabla \mathcal{L}_b(w)\|` over the kept examples.
        settings: The problem and the promise.
    """

    params: Params
    noise: Tensor
    kept: Tensor
    spent: float
    settings: RemovalSettings


@dataclass(frozen=True, eq=False)
class CertifiedRemoval(Unlearned):
    r"""The weights w'', and the model to go on with.

    Attributes:
        model: The same weights with the budget they leave.
        bound: Data-dependent bound on what this Newton step added to the gradient residual.
        worst_case: The bound known before the data are; never below ``bound``.
        retrained: Whether the budget was exhausted, so that the weights are newly trained with new noise.
    """

    model: CertifiedModel
    bound: float
    worst_case: float
    retrained: bool


@full_precision()
def train_certified(
    inputs: Tensor, targets: Tensor, settings: RemovalSettings, *, generator: torch.Generator
) -> CertifiedModel:
    r"""Draw b and train to the minimiser of :math:`\mathcal{L}_b`.

    Args:
        inputs: Shape (n, d); for the logistic loss with :math:`\|x_i\| \le 1`, on which the bounds rest.
        targets: Shape (n,), of the dtype of ``inputs``; for the logistic loss -1 and 1.
        settings: The problem and the promise.
        generator: Source of b.

    Raises:
        InputError: If inputs or targets are not as above.
        UnrollingError: If rounding keeps the gradient above the tolerance.
    """
    return _train(inputs, targets, settings, generator)[0]


@full_precision()
def certified_removal_unlearn(
    model: CertifiedModel,
    inputs: Tensor,
    targets: Tensor,
    forget: Examples,
    *,
    generator: torch.Generator,
    batch_size: int = 1,
) -> CertifiedRemoval:
    r"""Remove m of n examples by one Newton step, or retrain if the budget does not cover it.

    With H the Hessian and :math:`X_R` the inputs of the n - m examples that stay (Corollary 1):

    .. math:: \begin{gathered}
              w'' = w + H^{-1} \Delta, \qquad
              \Delta = m \lambda w + \sum_{i \in F} \nabla \ell(w^\top x_i, y_i), \\
              \|\nabla \mathcal{L}_b(w'')\| \le \|\nabla \mathcal{L}_b(w)\|
              + \gamma \|X_R\|_2 \|H^{-1} \Delta\| \|X_R H^{-1} \Delta\|
              \end{gathered}

    The bounds add up over removals. While their sum is within the budget, w'' is to be
    :math:`(\epsilon, \delta)`-indistinguishable from the minimiser without F, for requests that were
    chosen without looking at the model. On least squares :math:`\gamma = 0`: w'' is the minimiser.

    Where this departs from the paper, and what to know:

    * ``worst_case`` is :math:`\gamma m^2 (2C + p / n)^2 / (\lambda^2 (n - m))` with
      :math:`p = \|b\| + \|\nabla \mathcal{L}_b(w)\|`. The paper prints :math:`4 \gamma m^2 C^2 / \dots`, from
      :math:`\|w\| \le C / \lambda`, which holds for the loss without b.
    * What training left of the gradient counts against the budget; the paper trains to the minimiser.
    * Both bounds are twice what the remainder of the Taylor series allows, as in the paper.
    * That a small residual hides F is the paper's Theorem 3. Its size alone does not: weights rounded to a
      fine grid have a small residual too, and lie on the grid. The noise b is hidden as
      :math:`T(b) = b - \nabla \mathcal{L}_b(w'')`, whose density also has the factor
      :math:`\det(\partial T / \partial b)`. Nothing here bounds it. The tests compute it: in one dimension
      the guarantee holds with it, and in more its logarithm is far below :math:`\epsilon`.

    Args:
        model: From :func:`train_certified`, or ``model`` of an earlier removal.
        inputs: The same n examples as in training, removed ones included.
        targets: Their targets.
        forget: F, examples that are still in: whole numbers in any form, or a mask of shape (n,).
        generator: Source of new noise, should the model be retrained.
        batch_size: Examples of one gradient equivalent.

    Returns:
        The new weights and model. The cost counts a dense Hessian as d products, and a pass that only
        computes outputs as a gradient; :math:`\|X_R\|_2` is not counted, and b is what must be stored.

    Raises:
        InputError: If ``forget`` is empty, everything, or names an example that is not in.
    """
    settings, loss = model.settings, LINEAR_LOSSES[model.settings.loss]
    check_integer("batch_size", batch_size, minimum=1)
    check_linear_data(inputs, targets, settings.loss)
    kept = _without(model.kept, forget, len(inputs))
    gone = model.kept & ~kept
    weights, size, removed = model.params["weight"][0], int(kept.sum()), int(gone.sum())
    x, y = inputs[kept], targets[kept]

    slope = linear_gradient(loss, weights, inputs[gone], targets[gone], settings.l2)
    step = torch.linalg.solve(linear_hessian(loss, weights, x, y, settings.l2), slope)
    spectral = float(torch.linalg.matrix_norm(x, 2))
    bound = loss.curvature_lipschitz * spectral * float(step.norm()) * float((x @ step).norm())
    worst_case = worst_case_bound(
        settings.loss,
        num_kept=size,
        num_removed=removed,
        l2=settings.l2,
        perturbation=float(model.noise.norm()) + model.spent,
    )
    gradients, products = removed + size, inputs.shape[1] * size

    retrained = model.spent + bound > settings.budget
    if retrained:
        new, minimum = _train(x, y, settings, generator)
        new = replace(new, kept=kept)
        gradients += minimum.gradients * size
        products += minimum.hessians * inputs.shape[1] * size
    else:
        new = replace(model, params={"weight": (weights + step)[None]}, kept=kept, spent=model.spent + bound)
    cost = Cost(gradients / batch_size, products / batch_size, model.noise.nbytes)
    broken = ("the noise does not cover the Newton step: trained anew instead",) if retrained else ()
    return CertifiedRemoval(new.params, cost, new, bound, worst_case, retrained, broken=broken)


def worst_case_bound(
    loss: str, *, num_kept: int, num_removed: int, l2: float, perturbation: float = 0.0
) -> float:
    r"""Return the bound on the gradient residual that needs no data (Theorem 1, there without b).

    .. math:: \frac{\gamma m^2 (2 C + p / n)^2}{\lambda^2 (n - m)}

    Args:
        loss: A key of :data:`LINEAR_LOSSES`.
        num_kept: n - m.
        num_removed: m.
        l2: :math:`\lambda`.
        perturbation: :math:`p = \|b\| + \|\nabla \mathcal{L}_b(w)\|`. At 0 this is the printed bound.

    Example:
        >>> bound = worst_case_bound("logistic", num_kept=999, num_removed=1, l2=0.01)
        >>> round(bound * 6 * 3**0.5, 2)  # 4 / (0.01^2 * 999)
        40.04
    """
    check_integer("num_kept", num_kept, minimum=1)
    check_integer("num_removed", num_removed, minimum=1)
    check_real("l2", l2, above=0)
    terms = LINEAR_LOSSES[check_choice("loss", loss, LINEAR_LOSSES)]
    if not terms.curvature_lipschitz:  # the slope of such a loss has no bound, and needs none
        return 0.0
    slope = num_removed * (2 * terms.slope_bound + perturbation / (num_kept + num_removed))
    return terms.curvature_lipschitz * slope**2 / (l2**2 * num_kept)


def _train(
    inputs: Tensor, targets: Tensor, settings: RemovalSettings, generator: torch.Generator
) -> tuple[CertifiedModel, LinearMinimum]:
    check_linear_data(inputs, targets, settings.loss)
    noise = torch.randn(inputs.shape[1], dtype=inputs.dtype, generator=generator, device=generator.device).to(
        inputs.device
    )
    noise *= settings.noise_scale
    minimum = minimise_linear(
        inputs, targets, noise, loss=settings.loss, l2=settings.l2, tolerance=settings.tolerance
    )
    kept = torch.ones(len(inputs), dtype=torch.bool, device=inputs.device)
    params = {"weight": minimum.weights[None]}
    return CertifiedModel(params, noise, kept, minimum.residual, settings), minimum


def _without(kept: Tensor, forget: Examples, num_examples: int) -> Tensor:
    """Return ``kept`` without ``forget``."""
    if kept.shape != (num_examples,):
        raise InputError(
            f"the model was trained on {len(kept)} examples, `inputs` has {num_examples}. "
            "Pass all of them; the model knows which are still in."
        )
    left = kept.clone()
    for example in check_examples("forget", forget, total=num_examples):
        if not kept[example]:
            raise InputError(f"example {example} was removed before; `forget` takes examples still in.")
        left[example] = False
    if not bool(left.any()):
        raise InputError("`forget` holds every example that is still in; nothing would be left to train on.")
    return left


def run_certified_removal(
    problem: Problem, *, epsilon: float = 1.0, delta: float = 1e-4, noise_scale: float = 1.0
) -> Outcome:
    r"""Train the same binary model to the minimum of :math:`\mathcal{L}_b`, and remove F from it.

    Of two logits only the difference :math:`u^\top x` matters, and given u the l2 term is least at
    :math:`\frac{\lambda}{4} \|u\|^2`. So this is Guo et al.'s problem with half the l2, and for inputs
    divided by B with :math:`\lambda / (2 B^2)`. Computed in float64. M' has the same b as M'', so that the
    distance between them is that of the Newton step to the minimum, not of two draws of b.

    Raises:
        NotApplicable: If the problem is not regularised logistic regression of two classes.
    """
    features = convex_features(problem, "certified removal")
    if problem.num_classes != 2:
        raise NotApplicable(f"certified removal is for two classes here, got {problem.num_classes}.")
    examples = list(problem.examples)
    x = features(problem.inputs[examples]).double()
    bound, looked = features.bound(problem.inputs[examples])
    x, y = x / bound, 2 * problem.labels[examples].double() - 1
    settings = RemovalSettings(
        l2=problem.l2 / (2 * bound**2), noise_scale=noise_scale, epsilon=epsilon, delta=delta
    )
    generator = make_generator(problem.seed, "certified removal")
    model = train_certified(x, y, settings, generator=generator)
    gone = [place for place, example in enumerate(examples) if example in set(problem.forget)]
    found = certified_removal_unlearn(model, x, y, gone, generator=generator, batch_size=problem.batch_size)
    kept = found.model.kept
    reference = minimise_linear(
        x[kept],
        y[kept],
        found.model.noise,
        loss=settings.loss,
        l2=settings.l2,
        tolerance=settings.tolerance,
    )

    def as_model(params: Params) -> Model:
        def logits(inputs: Tensor) -> Tensor:
            half = features(inputs).double() @ params["weight"][0] / (2 * bound)
            return torch.stack([-half, half], dim=1)

        return Model(params, logits)

    size = int(kept.sum()) / problem.batch_size
    return Outcome(
        trained=as_model(model.params),
        unlearned=as_model(found),
        retrained=as_model({"weight": reference.weights[None]}),
        cost=found.cost,
        retraining=Cost(reference.gradients * size, reference.hessians * x.shape[1] * size, 0),
        broken=(*looked, *found.broken),
    )
