r"""NTK scrubbing: move the weights as training a linearised network without the forgotten data would.

Golatkar, Achille, Soatto, "Forgetting Outside the Box: Scrubbing Deep Networks of Information Accessible from
Input-Output Observations", ECCV 2020. The network is linearised at w_0, where gradient descent on a squared
loss with weight decay towards w_0 has a closed form; its kernel is the neural tangent kernel.
"""

import torch
from torch import Tensor, nn

from unrolling._checks import InputError, check_examples, check_integer, check_real
from unrolling.batches import Examples
from unrolling.methods import assumptions
from unrolling.methods.cost import Cost, Unlearned
from unrolling.methods.others.per_example import ExampleJacobians
from unrolling.methods.problem import Outcome, Problem, applicable
from unrolling.parameters import (
    Params,
    add,
    check_same_parameters,
    from_vector,
    load_parameters,
    to_vector,
    trainable,
)
from unrolling.surroundings import full_precision
from unrolling.training import independent_copy


@full_precision()
def ntk_scrub_unlearn(
    final_params: Params,
    initial_params: Params,
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    forget: Examples,
    *,
    weight_decay: float,
    scale: float = 1.0,
    batch_size: int = 1,
) -> Unlearned:
    r"""Return :math:`w'' = w_t + s \, (w_{lin}(R) - w_{lin}(D))`.

    :math:`w_{lin}(S)` is where the linearised network ends on the examples S: the minimum of

    .. math:: \begin{gathered}
              \frac{1}{2 |S|} \sum_{i \in S} \| f(x_i; w_0) + \nabla f(x_i; w_0)^\top (w - w_0) - y_i \|^2
              + \frac{\mu}{2} \| w - w_0 \|^2 , \\
              w_{lin}(S) = w_0 - G_S (G_S^\top G_S + |S| \mu I)^{-1} (f_S - y_S) ,
              \end{gathered}

    with the gradients of all outputs on S as the columns of :math:`G_S`. So it is exact where the network is
    linear in w, the loss squared, the weight decay *towards* :math:`w_0`, and training has converged. For
    networks trained otherwise it is a heuristic. The authors then add noise, see
    :func:`~unrolling.methods.others.fisher_scrub_unlearn`.

    Args:
        final_params: Weights w_t after training.
        initial_params: Weights w_0 that training started from and decays to.
        model: From inputs to outputs (batch, c), evaluated in evaluation mode; its own weights are not used.
        inputs: All examples D, forgotten ones included, shape (n, ...).
        targets: y, shape (n, c): numbers, or one-hot classes.
        forget: The examples to forget: whole numbers in any form, or a mask of shape (n,).
        weight_decay: :math:`\mu > 0`.
        scale: s. The authors pick it by an angle criterion, since the linearised network's step is often too
            short or too long; 1 is what the derivation gives.
        batch_size: Examples of one gradient equivalent.

    Returns:
        New weights. They cost a gradient per example and output, and w_0. The linear algebra is not
        counted: it takes :math:`O((n c)^2 |w| + (n c)^3)` operations and the memory of n c copies of the
        weights, so this is for small sets.

    Raises:
        InputError: If ``forget`` is empty, everything, or not among the examples, if shapes do not fit, or if
            the weight decay is too small to solve for the weights.
    """
    decay = check_real("weight_decay", weight_decay, above=0)
    scale = check_real("scale", scale)
    check_integer("batch_size", batch_size, minimum=1)
    check_same_parameters(final_params, initial_params, ("final_params", "initial_params"))
    check_same_parameters(trainable(model), initial_params, ("model", "initial_params"))
    gone = set(check_examples("forget", forget, total=len(inputs)))
    if len(gone) == len(inputs):
        raise InputError("`forget` holds every example; nothing would be left to train on.")
    initial = {name: p.detach() for name, p in initial_params.items()}
    jacobian, outputs = _linearise(model, initial, inputs)
    if targets.shape != outputs.shape:
        raise InputError(
            f"`targets` must have the outputs' shape {tuple(outputs.shape)}, got {tuple(targets.shape)}. "
            "For class numbers pass torch.nn.functional.one_hot(labels, c)."
        )
    residuals = outputs - targets.double()
    kernel = torch.einsum("ncp,mdp->ncmd", jacobian, jacobian)

    def linear_solution(rows: list[int]) -> Tensor:
        """Return w_lin of these examples, counted from w_0."""
        size = len(rows) * outputs.shape[1]
        gram = kernel[rows][:, :, rows].reshape(size, size)
        gram += len(rows) * decay * torch.eye(size, dtype=gram.dtype, device=gram.device)
        factor, failed = torch.linalg.cholesky_ex(gram)
        if failed:
            raise InputError(
                f"the kernel of {len(rows)} examples plus {decay:g} is singular: try a larger weight_decay."
            )
        weights = torch.cholesky_solve(residuals[rows].reshape(size, 1), factor)
        return -(weights.T @ jacobian[rows].reshape(size, -1))[0]

    everything = list(range(len(inputs)))
    direction = linear_solution([i for i in everything if i not in gone]) - linear_solution(everything)
    cost = Cost(
        gradients=outputs.numel() / batch_size,
        hvps=0,
        stored_bytes=sum(p.nbytes for p in initial_params.values()),
    )
    change = from_vector(direction.to(to_vector(initial).dtype), initial)
    return Unlearned(add(final_params, change, scale), cost)


def _linearise(model: nn.Module, params: Params, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Jacobian of every output, shape (n, c, |w|), and the outputs, shape (n, c), in float64."""
    placed = independent_copy(model).eval()
    load_parameters(placed, params)
    slopes, outputs = ExampleJacobians(placed, lambda logits: logits[0])(inputs)
    # The kernel squares the condition of the Jacobian: in single precision little would be left.
    return torch.cat([slope.flatten(2) for slope in slopes.values()], dim=2).double(), outputs.double()


def run_ntk_scrubbing(problem: Problem) -> Outcome:
    """Move the weights as the linearised network would, with the problem's l2 for the weight decay.

    Where the problem has none, 1e-3 is taken: some is needed. The noise that the authors add is left out.

    Raises:
        NotApplicable: If there are too many weights, examples and classes, or the model gives no logits.
    """
    assumptions.check_jacobian(problem, "NTK scrubbing")
    examples = list(problem.examples)
    decay = problem.l2 or 1e-3
    with applicable():
        unlearned = ntk_scrub_unlearn(
            problem.final_params,
            problem.initial_params,
            problem.model,
            problem.inputs[examples],
            nn.functional.one_hot(problem.labels[examples], problem.num_classes),
            [place for place, example in enumerate(examples) if example in set(problem.forget)],
            weight_decay=decay,
            batch_size=problem.batch_size,
        )
    broken = []
    if assumptions.linear_features(problem) is None:
        broken.append("the network is not linear in its weights")
    if not assumptions.loss_is(problem, assumptions.squared_loss):
        broken.append("the loss is not squared")
    if not problem.l2:
        broken.append(f"weight decay of {decay:g} where training had none")
    elif any(bool(p.any()) for p in problem.initial_params.values()):
        broken.append("weight decay pulls to 0, not to w_0")
    return problem.outcome(unlearned, (*broken, *assumptions.converged(problem)))
