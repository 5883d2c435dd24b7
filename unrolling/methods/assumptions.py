r"""What the theory of a method asks of a problem, computed from the problem where that is possible.

The checks return what does *not* hold, in a few words each, and nothing if all is well.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from unrolling._checks import InputError, check_logits
from unrolling.losses import cross_entropy, half_squared_l2_norm
from unrolling.methods.problem import NotApplicable, Problem
from unrolling.model_loss import gradient
from unrolling.parameters import norm, training_mode
from unrolling.training import independent_copy

Flags = tuple[str, ...]

FOLLOWS_THE_TRAJECTORY: Flags = ("the update depends on more than w_0 and the batch order (Corollary 1)",)

_KINKS = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Hardtanh, nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool2d)


def batches_of_one(problem: Problem) -> Flags:
    """Lemma 1 and Corollary 1 are for batches of one example."""
    return (f"batches of {problem.batch_size}, not 1 (Corollary 1)",) if problem.batch_size > 1 else ()


def whole_batches(problem: Problem) -> Flags:
    """Adding back a share is the first-order effect of retraining only if steps vanish as a whole."""
    steps = sum(1 for step in problem.forget_steps if problem.split(problem.order[step])[0])
    return (f"in {steps} steps others stay, and are averaged over fewer examples",) if steps else ()


def small_expansion(problem: Problem) -> Flags:
    r"""What the expansion of section 5 leaves out shrinks with :math:`\eta t \sigma_1`, to be below 1."""
    try:
        sigma = problem.sigma
    except InputError:  # a layer without a second derivative: first-order methods do without
        return ("eta t sigma is not known: the loss has no second derivative",)
    product = problem.learning_rate * len(problem.order) * sigma
    return (f"eta t sigma is {product:.1f}, not small",) if product >= 1 else ()


def smooth(problem: Problem) -> Flags:
    """A Taylor expansion needs a loss without kinks; looks for the layers of ``torch.nn`` that have some."""
    kinks = {type(module).__name__ for module in problem.model.modules() if isinstance(module, _KINKS)}
    return (f"the loss has kinks ({', '.join(sorted(kinks))})",) if kinks else ()


def quadratic(problem: Problem) -> Flags:
    """A squared loss of one linear layer, plus the l2 term."""
    if linear_features(problem) is not None and loss_is(problem, squared_loss):
        return ()
    return ("the loss is not quadratic",)


def strongly_convex(problem: Problem) -> Flags:
    """Cross-entropy and squared loss of one linear layer are convex, and strongly so with an l2 term."""
    known = loss_is(problem, cross_entropy) or loss_is(problem, squared_loss)
    if linear_features(problem) is None or not known:
        return ("the loss is not known to be convex",)
    return () if problem.l2 else ("without an l2 term the loss is not strongly convex",)


def converged(problem: Problem) -> Flags:
    """The gradient of the mean loss at the end is to be below a hundredth of that at the start."""
    loss = problem.mean_loss(problem.examples)
    first, last = (norm(gradient(loss, w)) for w in (problem.initial_params, problem.final_params))
    ratio = last / first if first else 0.0
    return (f"training stopped at {ratio:.0%} of the first gradient",) if ratio > 0.01 else ()


def few_forgotten(problem: Problem) -> Flags:
    """Methods that perturb the whole training set expect F to be a small part of it, at most a tenth here."""
    part = len(problem.forget) / len(problem.examples)
    return (f"F is {part:.0%} of the data, not a small part",) if part > 0.1 else ()


def loss_is(problem: Problem, logit_loss: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Return whether the training loss is ``logit_loss(logits, labels)`` plus the l2 term, at M_0 and M."""
    index = torch.tensor(problem.examples, device=problem.inputs.device)
    labels = problem.labels[index]
    for model in (problem.model, problem.trained):
        with torch.no_grad(), training_mode(model, False):
            logits = model(problem.inputs[index])
            check_logits(logits)
            expected = logit_loss(logits, labels)
            if problem.l2:
                expected = expected + problem.l2 * half_squared_l2_norm(model)
            if not torch.allclose(problem.loss_fn(model, (problem.inputs[index], labels)), expected):
                return False
    return True


def squared_loss(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Return :math:`\frac{1}{2} \|f(x) - e_y\|^2`, averaged over the batch."""
    return (logits - nn.functional.one_hot(labels, logits.shape[1])).square().sum(dim=1).mean() / 2


@dataclass(frozen=True)
class LinearFeatures:
    """What the only linear layer of a model sees.

    Attributes:
        body: All of the model but that layer; it has no weights.
        bias: Whether the layer has a bias, which is then the weight of a last feature of 1.
    """

    body: nn.Module
    bias: bool

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the features, shape (batch, d)."""
        with torch.no_grad():
            found = self.body(inputs.clone())
        return torch.cat([found, torch.ones_like(found[:, :1])], dim=1) if self.bias else found

    def bound(self, inputs: Tensor) -> tuple[float, Flags]:
        """Return B, at least the norm of every feature vector, and a flag if it took a look at the data.

        Of inputs in the unit ball it is supposed that they were known to be.
        """
        with torch.no_grad():
            features = self.body(inputs.clone())
        longest = float(features.norm(dim=1).max())
        known = longest <= 1 + 4 * torch.finfo(features.dtype).eps
        flags = () if known else (f"the bound {longest:.3g} on the inputs was found by looking at them",)
        return math.hypot(max(1.0, longest), self.bias), flags


def linear_features(problem: Problem) -> LinearFeatures | None:
    """Return what the only linear layer of the model sees, or None if the model is more than that.

    The only weights must be those of a ``nn.Linear`` whose outputs are the logits, and what it sees must be
    the same in training: no dropout or batch norm.
    """
    owners = [
        (name, module)
        for name, module in problem.model.named_modules()
        if [*module.parameters(recurse=False)]
    ]
    changes = any(isinstance(module, (_BatchNorm, _DropoutNd)) for module in problem.model.modules())
    if changes or len(owners) != 1 or not isinstance(owners[0][1], nn.Linear):
        return None
    ((name, layer),) = owners
    body: nn.Module = nn.Identity()
    if name:
        body = independent_copy(problem.model)
        parent, _, child = name.rpartition(".")
        setattr(body.get_submodule(parent), child, nn.Identity())
    body.eval()
    with torch.no_grad(), training_mode(problem.model, False):
        if not torch.allclose(layer(body(problem.inputs.clone())), problem.model(problem.inputs.clone())):
            return None
    return LinearFeatures(body, layer.bias is not None)


def convex_features(problem: Problem, method: str) -> LinearFeatures:
    """Return the features of a regularised softmax regression; refuse anything else.

    Raises:
        NotApplicable: If the loss is not cross-entropy plus an l2 term of one linear layer.
    """
    features = linear_features(problem)
    if features is None:
        raise NotApplicable(f"{method} needs a convex loss: the model must be one linear layer.")
    if not loss_is(problem, cross_entropy):
        raise NotApplicable(f"{method} is for cross-entropy plus the l2 term; the loss is another.")
    if not problem.l2:
        raise NotApplicable(f"{method} needs a strongly convex loss: an l2 term with l2 > 0.")
    return features


def check_jacobian(problem: Problem, method: str, *, limit: int = 30_000_000) -> None:
    """Refuse problems whose Jacobian, of every output of every example, has more than ``limit`` entries.

    Raises:
        NotApplicable: If it has more.
    """
    weights = sum(p.numel() for p in problem.initial_params.values())
    size = len(problem.examples) * problem.num_classes * weights
    if size > limit:
        raise NotApplicable(
            f"{method} takes the gradient of every output of every example, {size:.1e} numbers here; "
            f"it is for at most {limit:.0e}. Use fewer examples or a smaller model."
        )
