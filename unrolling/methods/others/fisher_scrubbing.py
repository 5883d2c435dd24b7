r"""Fisher scrubbing: noise on the weights, most where what is retained notices it least.

Golatkar, Achille, Soatto, "Eternal Sunshine of the Spotless Net: Selective Forgetting in Deep Networks", CVPR
2020. Their theory is for a quadratic loss; their deep networks use the diagonal Fisher information for the
Hessian and leave the Newton step out.

Their published notebook differs from the formula below. It scales the variance by 1 / (F + 1e-8), not its
square root, clamps that at 1e3 (1e2 in the last layer), averages it over the inputs of each unit, multiplies
it by 10 in the last layer and in one-dimensional parameters and, to forget a class, sets the class's weights
in the last layer to zero before the noise. None of this is done here.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from unrolling._checks import InputError, check_integer, check_real
from unrolling.methods import assumptions
from unrolling.methods.cost import Cost, Unlearned
from unrolling.methods.others.per_example import ExampleJacobians
from unrolling.methods.problem import Outcome, Problem, applicable
from unrolling.model_loss import gradient
from unrolling.parameters import Params, check_same_parameters, load_parameters, trainable
from unrolling.seeding import make_generator
from unrolling.surroundings import full_precision
from unrolling.training import independent_copy


@full_precision()
def diagonal_fisher(model: nn.Module, params: Params, inputs: Tensor, *, chunk_size: int = 32) -> Params:
    r"""Return the diagonal of the Fisher information, with labels drawn from the model, in expectation.

    .. math:: F_{jj} = \frac{1}{n} \sum_{i=1}^n \sum_{y=1}^c p_w(y \mid x_i)
              \left( \frac{\partial \log p_w(y \mid x_i)}{\partial w_j} \right)^2

    No label of the data enters. For softmax regression it is the diagonal of the Hessian of the mean
    cross-entropy; in general that of the generalised Gauss-Newton matrix.

    Args:
        model: From inputs to logits (batch, c), evaluated in evaluation mode, one example at a time. Any
            model that PyTorch trains will do; the examples of a chunk share a pass where ``vmap`` allows it.
        params: The weights w, named as in the model.
        inputs: Shape (n, ...).
        chunk_size: Examples whose gradients are held at once: chunk_size * c copies of the weights.

    Returns:
        The diagonal, named and shaped as ``params``.
    """
    check_integer("chunk_size", chunk_size, minimum=1)
    return _fisher_and_passes(model, params, inputs, chunk_size)[0]


@full_precision()
def fisher_scrub_unlearn(
    final_params: Params,
    model: nn.Module,
    retained_inputs: Tensor,
    *,
    strength: float,
    generator: torch.Generator,
    damping: float = 0.0,
    newton_loss: Callable[[Params], Tensor] | None = None,
    batch_size: int = 1,
) -> Unlearned:
    r"""Return the weights with noise of the optimal shape added, after a Newton step if wanted.

    .. math:: w'' = w_t \ [\, - F^{-1} \nabla \mathcal{L}_R(w_t) \,] \
              + (\lambda s^2)^{1/4} F^{-1/4} \epsilon , \qquad \epsilon \sim \mathcal{N}(0, I)

    F is the diagonal Fisher information of the retained examples at w_t (plus ``damping``). It is derived for
    a loss that is quadratic around the optimum; elsewhere nothing is guaranteed. Buffers, such as the running
    statistics of batch norm, stay as they are.

    Args:
        final_params: Weights w_t after training.
        model: The network; its own weights are not used.
        retained_inputs: All that is kept, shape (n, ...). The forgotten examples are not needed.
        strength: :math:`\lambda s^2`, >= 0. :math:`\lambda` weighs forgetting against the loss on what is
            retained; s is how far training strays from the gradient flow of their theory. 0 adds no noise.
        generator: Source of the noise.
        damping: Added to F, >= 0. Needed where a weight has no influence on any output.
        newton_loss: ``loss(params) -> scalar``, the mean training loss over the retained examples; adds the
            Newton step, with the diagonal F in place of the Hessian.
        batch_size: Examples of one gradient equivalent.

    Returns:
        New weights. They cost a gradient per retained example and class, and one per retained example for
        the Newton step; nothing is stored.

    Raises:
        InputError: If an entry of F plus damping is zero, or a number is out of range.
    """
    strength = check_real("strength", strength, minimum=0)
    damping = check_real("damping", damping, minimum=0)
    check_integer("batch_size", batch_size, minimum=1)
    fisher, passes = _fisher_and_passes(model, final_params, retained_inputs)
    fisher = {name: f + damping for name, f in fisher.items()}
    empty = sum(int((f == 0).sum()) for f in fisher.values())
    if empty:
        raise InputError(
            f"the Fisher information of {empty} weights is zero, so their noise would be infinite. "
            "Pass damping > 0."
        )
    unlearned = {name: p.detach().clone() for name, p in final_params.items()}
    if newton_loss is not None:
        passes += len(retained_inputs)
        for name, slope in gradient(newton_loss, final_params).items():
            unlearned[name] -= slope / fisher[name]
    for name, p in unlearned.items():
        noise = torch.randn(p.shape, generator=generator, dtype=p.dtype, device=generator.device).to(p.device)
        p += strength**0.25 * fisher[name] ** -0.25 * noise
    cost = Cost(gradients=passes / batch_size, hvps=0, stored_bytes=0)
    return Unlearned(unlearned, cost)


def _fisher_and_passes(
    model: nn.Module, params: Params, inputs: Tensor, chunk_size: int = 32
) -> tuple[Params, int]:
    """Return the diagonal and how many gradients of a log-probability it took."""
    check_same_parameters(trainable(model), params, ("model", "params"))
    if len(inputs) == 0:
        raise InputError("`inputs` is empty: expected at least one example.")
    placed = independent_copy(model).eval()
    load_parameters(placed, params)
    log_probabilities = ExampleJacobians(placed, lambda logits: logits.log_softmax(dim=1)[0])
    total = {name: torch.zeros_like(p) for name, p in params.items()}
    passes = 0
    for part in inputs.split(chunk_size):
        slopes, logs = log_probabilities(part)
        passes += logs.numel()
        for name, slope in slopes.items():
            total[name] += torch.einsum("nc,nc...->...", logs.exp(), slope.square())
    return {name: p / len(inputs) for name, p in total.items()}, passes


def run_fisher_scrubbing(problem: Problem, *, strength: float = 1e-6, damping: float = 1e-4) -> Outcome:
    """Add the noise, without the Newton step, as the authors do for deep networks.

    Strength and damping are our choice: the noise has a standard deviation of 0.03 where F is 1, and of 0.3
    where the retained data has nothing to say.

    Raises:
        NotApplicable: If there are too many weights, examples and classes, or the model gives no logits.
    """
    assumptions.check_jacobian(problem, "Fisher scrubbing")
    with applicable():
        unlearned = fisher_scrub_unlearn(
            problem.final_params,
            problem.trained,
            problem.inputs[list(problem.retained)],
            strength=strength,
            damping=damping,
            generator=make_generator(problem.seed, "fisher scrubbing"),
            batch_size=problem.batch_size,
        )
    return problem.outcome(unlearned, assumptions.quadratic(problem) + assumptions.converged(problem))
