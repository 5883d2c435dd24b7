r"""Linear filtration: forget a whole class by mixing the logits so that its examples look like others.

Baumhauer, Schöttle, Zeppelzauer, "Machine Unlearning: Linear Filtration for Logit-based Classifiers", Machine
Learning 111, 2022. Only the last layer changes; what the layers below learnt from the class stays. The
authors call this weak unlearning.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unrolling._checks import InputError, check_choice, check_integer
from unrolling.methods.cost import Cost, Unlearned
from unrolling.methods.problem import Model, NotApplicable, Outcome, Problem, applicable, as_model
from unrolling.parameters import Params, snapshot, training_mode
from unrolling.seeding import make_generator
from unrolling.surroundings import full_precision

FILTRATIONS: dict[str, str] = {
    "naive": "leave the class's logit out, nothing more",
    "normalization": "shift the class's mean logits to the level of the other classes'",
    "randomization": "replace the class's mean logits by standard normal numbers",
    "zeroing": "replace the class's mean logits by zeros",
}
"""The variants: name -> one line."""


@dataclass(frozen=True, eq=False)
class Filtered(Unlearned):
    r"""The weights, with a filtered last layer.

    Attributes:
        condition_number: :math:`\sigma_1 / \sigma_c` of the class means A. Errors of these means reach the
            new weights up to this many times larger.
    """

    condition_number: float


def filtration_matrix(
    class_means: Tensor, forget_class: int, variant: str, *, generator: torch.Generator | None = None
) -> Tensor:
    r"""Return :math:`F = B A^{-1}`, shape (c - 1, c), which maps all logits to those of the other classes.

    Column i of A is the mean logit vector of class i. B is A without row k; its column k is replaced by

    .. math:: z = B_k \ (\text{naive}) , \quad
              z = B_k - \overline{B_k} + \overline{B_{\ne k}} \ (\text{normalization}) , \quad
              z \sim \mathcal{N}(0, I) \ (\text{randomization}) , \quad z = 0 \ (\text{zeroing}) ,

    where the bars are means over all entries. So F keeps the mean logits of the other classes,
    :math:`F A_i = B_i`, and sends those of the forgotten class to z.

    Args:
        class_means: A, shape (c, c), column i for class i.
        forget_class: k.
        variant: A key of :data:`FILTRATIONS`.
        generator: Source of z; needed for "randomization" only.

    Raises:
        InputError: If A is singular, or an argument is out of range.

    Example:
        >>> filtration_matrix(torch.tensor([[2.0, 0.0], [0.0, 4.0]]), 1, "zeroing")
        tensor([[1., 0.]])
    """
    if class_means.ndim != 2 or class_means.shape[0] != class_means.shape[1] or len(class_means) < 2:
        raise InputError(f"`class_means` must have shape (c, c), c >= 2, got {tuple(class_means.shape)}.")
    check_integer("forget_class", forget_class, maximum=len(class_means) - 1)
    check_choice("filtration", variant, FILTRATIONS)
    condition = float(torch.linalg.cond(class_means))
    # Below this the rows are independent to working precision (the rule of numpy.linalg.matrix_rank).
    if not condition * len(class_means) * torch.finfo(class_means.dtype).eps < 1:
        raise InputError(
            f"the matrix of mean logits is singular (condition number {condition:.1e}): there is no "
            "filtration. If the last layer started from zeros, the logits of every example sum to zero: "
            "start from random weights. Otherwise train until the classes differ."
        )
    keep = [i for i in range(len(class_means)) if i != forget_class]
    wanted = class_means[keep].clone()
    column = wanted[:, forget_class]
    if variant == "normalization":
        column += wanted[:, keep].mean() - column.mean()
    elif variant == "zeroing":
        column.zero_()
    elif variant == "randomization":
        if generator is None:
            raise InputError("filtration 'randomization' draws random numbers: pass `generator`.")
        column.copy_(torch.randn(len(keep), generator=generator, dtype=wanted.dtype, device=generator.device))
    return torch.linalg.solve(class_means.double(), wanted.double(), left=False).to(wanted.dtype)


@full_precision()
def linear_filtration_unlearn(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    forget_class: int,
    *,
    variant: str = "normalization",
    generator: torch.Generator | None = None,
    batch_size: int = 1,
) -> Filtered:
    r"""Return the last layer with :math:`F W` and :math:`F b` in place of W and b; it has c - 1 outputs.

    Classes above the forgotten one move down by one. Everything else of the model stays as it is.

    Args:
        model: Its last layer is a ``nn.Linear`` that computes the logits. Evaluated in evaluation mode.
        inputs: Examples of every class, the forgotten one too, shape (n, ...).
        labels: Their classes, shape (n,).
        forget_class: k, the class to forget.
        variant: A key of :data:`FILTRATIONS`. The authors recommend "normalization".
        generator: Needed for "randomization" only.
        batch_size: Examples of one gradient equivalent.

    Returns:
        All trainable weights with the last layer replaced, the condition number of the class means, and the
        cost. That is n forward passes, counted as gradients (an upper bound), and nothing stored.

    Raises:
        InputError: If the model does not end in a linear layer with a weight of its own, a class has no
            examples, or the class means are linearly dependent.
    """
    check_integer("batch_size", batch_size, minimum=1)
    name, layer, logits = _last_layer(model, inputs)
    num_classes = layer.out_features
    counts = labels.bincount(minlength=num_classes)
    if len(counts) > num_classes or not bool(counts.all()):
        raise InputError(
            f"the mean logits of {num_classes} classes need examples of each of them, got {counts.tolist()} "
            "examples per class."
        )
    means = torch.stack([logits[labels == i].mean(dim=0) for i in range(num_classes)], dim=1)
    matrix = filtration_matrix(means, forget_class, variant, generator=generator)
    params = snapshot(model)
    filtered = {own: matrix @ p.detach() for own, p in layer.named_parameters(prefix=name)}
    below = ("what the layers below learnt from the class stays",) if params.keys() - filtered else ()
    return Filtered(
        params | filtered,
        cost=Cost(gradients=len(inputs) / batch_size, hvps=0, stored_bytes=0),
        condition_number=float(torch.linalg.cond(means)),
        broken=below,
    )


def _last_layer(model: nn.Module, inputs: Tensor) -> tuple[str, nn.Linear, Tensor]:
    """Return the last linear layer, its name, and the logits, which must be its output."""
    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    name, layer = linear[-1] if linear else ("", model)
    outputs: list[Tensor] = []
    hook = layer.register_forward_hook(lambda module, args, output: outputs.append(output))
    try:
        with torch.no_grad(), training_mode(model, False):
            logits = [model(part.clone()) for part in inputs.split(500)]
    finally:
        hook.remove()
    if not linear or [id(output) for output in outputs] != [id(part) for part in logits]:
        raise InputError(
            "the model must end in a torch.nn.Linear whose outputs are the logits, got one that does not. "
            "Linear filtration multiplies that layer's weights."
        )
    weights = {own for own, _ in layer.named_parameters()}
    uses = sum(p is layer.weight for module in model.modules() for p in module.parameters(recurse=False))
    if not {"weight"} <= weights <= {"weight", "bias"} or uses > 1:
        raise InputError(
            f"the weight of the last layer, {name!r}, is tied to another layer's or computed from other "
            "parameters (as by weight norm): it cannot be multiplied alone."
        )
    return name, layer, torch.cat(logits)


def run_linear_filtration(problem: Problem, *, variant: str = "normalization") -> Outcome:
    """Filter the class that F is out of the last layer.

    M'' has one output less. So has M' here: retrained without F, and then without the class's row. For
    inputs, both give the class the logit minus infinity, at its place.

    Args:
        problem: F must be all examples of one class.
        variant: A key of :data:`FILTRATIONS`; the default is what the authors recommend.

    Raises:
        NotApplicable: If F is not a whole class, the model does not end in a linear layer, or the matrix of
            mean logits is singular.
    """
    classes = {int(problem.labels[example]) for example in problem.forget}
    forget_class = min(classes)
    members = {i for i in problem.examples if int(problem.labels[i]) == forget_class}
    if len(classes) > 1 or members != set(problem.forget):
        raise NotApplicable(
            f"linear filtration forgets a whole class; F has {len(problem.forget)} examples of "
            f"{len(classes)} classes, and class {forget_class} has {len(members)}."
        )
    index = list(problem.examples)
    with applicable():
        found = linear_filtration_unlearn(
            problem.trained,
            problem.inputs[index],
            problem.labels[index],
            forget_class,
            variant=variant,
            generator=make_generator(problem.seed, "linear filtration"),
            batch_size=problem.batch_size,
        )
    name, _, _ = _last_layer(problem.trained, problem.inputs[index])
    keep = [i for i in range(problem.num_classes) if i != forget_class]
    rows = {own: p[keep] for own, p in snapshot(problem.retrained).items() if own.rpartition(".")[0] == name}

    def as_filtered(module: nn.Module, params: Params) -> Model:
        def logits(inputs: Tensor) -> Tensor:
            found = as_model(module, params).logits(inputs)
            full = found.new_full((len(found), problem.num_classes), -torch.inf)
            full[:, keep] = found
            return full

        return Model(params, logits)

    return Outcome(
        trained=as_model(problem.trained),
        unlearned=as_filtered(problem.trained, found),
        retrained=as_filtered(problem.retrained, snapshot(problem.retrained) | rows),
        cost=found.cost,
        retraining=problem.retraining,
        broken=found.broken,
    )
