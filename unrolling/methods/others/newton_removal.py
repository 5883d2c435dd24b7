r"""Newton removal: one Newton step from a stored Hessian, without the data that stay, and noise.

Sekhari, Acharya, Kamath, Suresh, "Remember What You Want to Forget: Algorithms for Machine Unlearning",
NeurIPS 2021, Algorithm 1.
"""

import math

import torch
from torch import Tensor

from unrolling._checks import InputError, UnrollingError, check_integer, check_real
from unrolling.curvature import Loss, quadratic_model
from unrolling.methods.assumptions import convex_features
from unrolling.methods.cost import Cost, Unlearned
from unrolling.methods.problem import NotApplicable, Outcome, Problem, as_model
from unrolling.model_loss import gradient
from unrolling.parameters import Params, add, from_vector, to_vector
from unrolling.seeding import make_generator
from unrolling.surroundings import full_precision


def full_hessian(loss: Loss, params: Params) -> Tensor:
    r"""Return the Hessian of ``loss`` as a dense matrix, shape (d, d): what training has to store.

    It takes d Hessian-vector products, and as many numbers as the square of the weights.

    Args:
        loss: ``loss(params) -> scalar``; for :func:`newton_unlearn` the mean over all training examples.
        params: Where to take it, the minimiser; rows follow ``unrolling.parameters.to_vector``.
    """
    return _slope_and_hessian(loss, params)[1]


def newton_removal_bound(
    *,
    num_examples: int,
    num_forgotten: int,
    strong_convexity: float,
    lipschitz: float,
    hessian_lipschitz: float,
) -> float:
    r"""Return :math:`\gamma \ge \|\bar w - w'\|`: how far the Newton step ends from the retrained minimiser.

    .. math:: \gamma = \frac{M L^2 m^2}{2 \lambda^3 (n - m)^2}

    **Derivation.** Let F_R be the mean loss on what stays and
    :math:`q = \frac{1}{n - m} \sum_{i \in F} \nabla l_i(w)`. At the minimiser w of the mean over all,
    :math:`\nabla F_R(w) = -q`. Strong convexity gives
    :math:`\|w - w'\| \le \|q\| / \lambda \le m L / (\lambda (n - m))`. As :math:`\nabla F_R(w') = 0`,

    .. math:: \bar w - w' = \nabla^2 F_R(w)^{-1}
              \bigl( \nabla^2 F_R(w) (w - w') - (\nabla F_R(w) - \nabla F_R(w')) \bigr) ,

    and the bracket is at most :math:`\frac{M}{2} \|w - w'\|^2`. So one power of :math:`\lambda` comes from
    the inverse and two from the distance. The power 3 is also the only one that leaves :math:`\gamma` alone
    when all losses are multiplied by one number, which moves no minimiser.

    The paper's :math:`2 M L^2 m^2 / (\lambda^3 n^2)` follows for :math:`m \le n / 2` and is up to four times
    larger; for more deletions it does not follow.

    Args:
        num_examples: n, before the removal.
        num_forgotten: m.
        strong_convexity: :math:`\lambda` of every example's loss.
        lipschitz: L, bound on the gradient of an example's loss. At the minimiser is enough.
        hessian_lipschitz: M, Lipschitz constant of the Hessian of an example's loss.

    Example:
        >>> sizes = {"num_examples": 5, "num_forgotten": 1}
        >>> newton_removal_bound(**sizes, strong_convexity=0.5, lipschitz=2, hessian_lipschitz=1)
        1.0
    """
    n = check_integer("num_examples", num_examples, minimum=2)
    m = check_integer("num_forgotten", num_forgotten, minimum=1, maximum=n - 1)
    convexity = check_real("strong_convexity", strong_convexity, above=0)
    slope = check_real("lipschitz", lipschitz, minimum=0)
    bend = check_real("hessian_lipschitz", hessian_lipschitz, minimum=0)
    return bend * (slope * m / (n - m)) ** 2 / (2 * convexity**3)


def gaussian_noise_scale(shift: float, *, epsilon: float, delta: float) -> float:
    r"""Return the noise that makes two points ``shift`` apart :math:`(\epsilon, \delta)`-indistinguishable.

    .. math:: s = \frac{\gamma}{\epsilon} \sqrt{2 \ln(1.25 / \delta)}

    Dwork and Roth, "The Algorithmic Foundations of Differential Privacy", 2014, appendix A.

    Args:
        shift: :math:`\gamma`, for example :func:`newton_removal_bound`.
        epsilon: :math:`\epsilon`, at most 1: the formula is not valid for large ones.
        delta: :math:`\delta`, below 1.
    """
    check_real("shift", shift, minimum=0)
    check_real("epsilon", epsilon, above=0)
    check_real("delta", delta, above=0)
    if epsilon > 1 or delta >= 1:
        raise InputError(f"expected epsilon at most 1 and delta below 1, got {epsilon:g} and {delta:g}.")
    return shift / epsilon * math.sqrt(2 * math.log(1.25 / delta))


@full_precision()
def newton_unlearn(
    params: Params,
    hessian: Tensor,
    forget_loss: Loss,
    *,
    num_examples: int,
    num_forgotten: int,
    strong_convexity: float,
    noise_scale: float,
    generator: torch.Generator,
    batch_size: int = 1,
) -> Unlearned:
    r"""Return :math:`w'' = \bar w + N(0, s^2 I)`, with F the m forgotten of n examples.

    .. math:: \bar w = w + \hat H^{-1} \frac{1}{n - m} \sum_{i \in F} \nabla l_i(w), \qquad
              \hat H = \frac{1}{n - m} \Bigl( n H - \sum_{i \in F} \nabla^2 l_i(w) \Bigr)

    :math:`\hat H` is the Hessian of the mean loss on what stays; none of those data are touched. Where the
    losses are quadratic, :math:`\bar w` is the retrained minimiser and needs no noise.

    For :math:`(\epsilon, \delta)`-unlearning, take one s for the largest m to be served, that is
    :func:`gaussian_noise_scale` of :func:`newton_removal_bound`, and add the same noise to a model of which
    nothing is forgotten: that is what w'' is indistinguishable from. A scale from each request's own m, as
    Algorithm 1 may be read, would give the latter model none.

    Args:
        params: w, the minimiser of the mean loss over all n; a gradient left there adds to the error.
        hessian: H, its Hessian at w, from :func:`full_hessian`.
        forget_loss: Mean loss over the forgotten examples, ``loss(params) -> scalar``, regularised as in
            training.
        num_examples: n.
        num_forgotten: m.
        strong_convexity: :math:`\lambda`, for the check that :math:`\hat H` is as convex as was claimed.
        noise_scale: s, see :func:`gaussian_noise_scale`; 0 for :math:`\bar w` itself.
        generator: Source of the noise.
        batch_size: Examples of one gradient equivalent.

    Returns:
        New weights. They cost a gradient and d products over the forgotten examples; H is stored.

    Raises:
        InputError: If sizes do not fit, or :math:`\hat H` has an eigenvalue below ``strong_convexity``.

    Example:
        >>> mean = {"w": torch.tensor([2.0])}  # of 1, 2 and 3; the losses are (w - x)^2 / 2
        >>> found = newton_unlearn(
        ...     mean,
        ...     torch.eye(1),
        ...     lambda p: ((p["w"] - 3) ** 2).sum() / 2,
        ...     num_examples=3,
        ...     num_forgotten=1,
        ...     strong_convexity=1.0,
        ...     noise_scale=0.0,
        ...     generator=torch.Generator(),
        ... )
        >>> found["w"]
        tensor([1.5000])
    """
    n = check_integer("num_examples", num_examples, minimum=2)
    m = check_integer("num_forgotten", num_forgotten, minimum=1, maximum=n - 1)
    check_integer("batch_size", batch_size, minimum=1)
    convexity = check_real("strong_convexity", strong_convexity, above=0)
    scale = check_real("noise_scale", noise_scale, minimum=0)
    vector = to_vector(params).detach()
    if hessian.shape != (len(vector), len(vector)):
        raise InputError(
            f"`hessian` must have shape ({len(vector)}, {len(vector)}), got {tuple(hessian.shape)}."
        )
    slope, forgotten = _slope_and_hessian(forget_loss, params)
    kept = (n * hessian - m * forgotten) / (n - m)
    least = float(torch.linalg.eigvalsh(kept)[0])
    if least < convexity * (1 - math.sqrt(torch.finfo(vector.dtype).eps)):
        raise InputError(
            f"the Hessian on what stays has the eigenvalue {least:.3g}, below strong_convexity "
            f"{convexity:.3g}: the method needs strongly convex losses, and in `hessian` the "
            "mean over all examples at `params`."
        )
    vector = vector + torch.linalg.solve(kept, m / (n - m) * slope)
    noise = torch.randn(len(vector), dtype=vector.dtype, generator=generator, device=generator.device)
    cost = Cost(m / batch_size, len(vector) * m / batch_size, hessian.nbytes)
    return Unlearned(from_vector(vector + scale * noise.to(vector.device), params), cost)


def _slope_and_hessian(loss: Loss, params: Params) -> tuple[Tensor, Tensor]:
    slope, product = quadratic_model(loss, params)
    columns = [product(column) for column in torch.eye(len(slope), dtype=slope.dtype, device=slope.device)]
    hessian = torch.stack(columns)
    return slope, (hessian + hessian.T) / 2


def softmax_regression_constants(longest: float) -> tuple[float, float]:
    r"""Return L and M of softmax regression on inputs of norm at most B, with an l2 term.

    .. math:: L = 2 \sqrt{2} B , \qquad M = \frac{\sqrt{2}}{3 \sqrt{3}} B^3

    The cross-entropy's gradient in the logits is :math:`p - e_y`, of norm at most :math:`\sqrt{2}`; at a
    minimiser the l2 term's gradient is minus a mean of such, so it adds as much at most. Along a direction u
    of the logits the third derivative is the third central moment of u under p. That of a variable in an
    interval of length R is at most :math:`R^3 / (6 \sqrt{3})`, and the entries of a unit vector lie within
    :math:`R = \sqrt{2}`. Both constants hold before the data are seen, given B.

    Args:
        longest: B; a constant 1 for the bias counts as an input.
    """
    check_real("longest", longest, minimum=0)
    return 2 * math.sqrt(2) * longest, math.sqrt(2) / (3 * math.sqrt(3)) * longest**3


def run_newton_removal(problem: Problem, *, epsilon: float = 1.0, delta: float = 1e-4) -> Outcome:
    r"""Take the same softmax regression to its minimum, and remove F by a Newton step and noise.

    The constants are those of :func:`softmax_regression_constants` and
    :math:`\lambda` is the problem's l2. M, M'' and M' all carry the same draw of the noise, so that their
    distances are those of the points which the noise is to hide.

    Raises:
        NotApplicable: If the problem is not regularised softmax regression, or has too many weights.
    """
    features = convex_features(problem, "Newton removal")
    size = sum(p.numel() for p in problem.initial_params.values())
    if size > 2000:
        raise NotApplicable(f"Newton removal stores a dense Hessian; {size} weights are more than 2000.")
    n, m = len(problem.examples), len(problem.forget)
    everything = problem.mean_loss(problem.examples)
    minimum, _, _ = _newton_minimum(everything, problem.final_params)
    reference, gradients, hessians = _newton_minimum(
        problem.mean_loss(problem.retained), problem.final_params
    )

    longest, looked = features.bound(problem.inputs[list(problem.examples)])
    lipschitz, hessian_lipschitz = softmax_regression_constants(longest)
    shift = newton_removal_bound(
        num_examples=n,
        num_forgotten=m,
        strong_convexity=problem.l2,
        lipschitz=lipschitz,
        hessian_lipschitz=hessian_lipschitz,
    )
    scale = gaussian_noise_scale(shift, epsilon=epsilon, delta=delta)
    generator = make_generator(problem.seed, "newton removal")
    step = newton_unlearn(
        minimum,
        full_hessian(everything, minimum),
        problem.mean_loss(problem.forget),
        num_examples=n,
        num_forgotten=m,
        strong_convexity=problem.l2,
        noise_scale=0.0,
        generator=generator,
        batch_size=problem.batch_size,
    )
    noise = {
        name: torch.randn(p.shape, dtype=p.dtype, generator=generator).to(p.device)
        for name, p in minimum.items()
    }
    broken = [*looked]
    if scale > float(to_vector(minimum).abs().max()):
        broken.append(f"noise of {scale:.1e} per weight hides the shift, and the model")
    part = (n - m) / problem.batch_size
    return Outcome(
        trained=as_model(problem.trained, add(minimum, noise, scale)),
        unlearned=as_model(problem.trained, add(step, noise, scale)),
        retrained=as_model(problem.trained, add(reference, noise, scale)),
        cost=step.cost,
        retraining=Cost(gradients * part, hessians * size * part, 0),
        broken=tuple(broken),
    )


def _newton_minimum(loss: Loss, params: Params) -> tuple[Params, int, int]:
    """Return the minimiser of a strongly convex loss, and what it took: gradients and Hessians.

    A step is halved until it shrinks the gradient; a short enough one always does.
    """
    vector = to_vector(params).detach()
    slope = to_vector(gradient(loss, params))
    gradients, hessians = 1, 0
    # Further down rounding decides.
    while float(slope.norm()) > 100 * torch.finfo(vector.dtype).eps * (1 + float(vector.norm())):
        step = torch.linalg.solve(full_hessian(loss, from_vector(vector, params)), slope)
        hessians += 1
        length = 1.0
        while True:
            candidate = to_vector(gradient(loss, from_vector(vector - length * step, params)))
            gradients += 1
            if float(candidate.norm()) <= (1 - length / 4) * float(slope.norm()):
                break
            length /= 2
            if length < 1e-6:
                raise UnrollingError("Newton's method is stopped by rounding; use float64.")
        vector, slope = vector - length * step, candidate
    return from_vector(vector, params), gradients, hessians
