r"""What a training does beyond plain SGD, in words: Eq. 9 is derived for plain SGD at one learning rate."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.optim import SGD, Optimizer

from unrolling._checks import InputError
from unrolling.parameters import Params, norm


@dataclass
class Seen:
    """What a tracker has seen of a training: kept with its state, told in its result."""

    rate_sum: float = 0.0
    rate_min: float = math.inf
    rate_max: float = 0.0
    calls: int = 0  # of ``step`` since the last step of the optimiser
    most_calls: int = 1
    unmoved: int = 0  # calls of ``step`` with the weights of the call before
    outside: int = 0  # changes of the weights between two steps of the optimiser
    ignored: int = 0  # samples of a loss that does not use the model
    factors: list[float | None] = field(default_factory=list)
    phrases: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)

    def take(self, rate: float, factor: float | None, phrases: Iterable[str]) -> None:
        """Take note of a step of the optimiser: its rate, momentum factor, and what else it does."""
        self.rate_sum += rate
        self.rate_min, self.rate_max = min(self.rate_min, rate), max(self.rate_max, rate)
        self.phrases += [phrase for phrase in phrases if phrase not in self.phrases]
        if factor not in self.factors:
            self.factors.append(factor)

    def mean_rate(self, num_steps: int) -> float:
        """Return the mean of the rates over the steps; to the bit the rate, if there was one."""
        return self.rate_max if self.rate_min == self.rate_max else self.rate_sum / num_steps

    def broken(self, num_steps: int, *, curved: bool) -> tuple[str, ...]:
        """Say what Eq. 9 asks and the training did not meet; ``curved``: some sample of sigma is not 0."""
        found = list(self.phrases)
        if self.rate_min < self.rate_max:
            found.append(f"a schedule: rates from {self.rate_min:g} to {self.rate_max:g}; e takes their mean")
        if self.most_calls > 1:
            found.append(
                f"gradient accumulation: up to {self.most_calls} calls of step for one step of the "
                "optimiser; sigma is that of the first part"
            )
        if self.unmoved:
            found.append(
                f"at {self.unmoved} of {num_steps} steps the weights had not moved since the one before "
                "(gradient accumulation? Pass `optimizer`, whose own steps are then counted)"
            )
        if self.outside:
            found.append(
                f"the weights changed outside the optimiser's steps (loaded? {self.outside} times), and the "
                "weight change counts that as training"
            )
        if self.different:
            more = f" (and {len(self.different) - 1} more)" if len(self.different) > 1 else ""
            found.append(f"{self.different[0]}{more}: clipping, another optimiser or rate, or another loss")
        if self.ignored:
            found.append("the loss does not depend on the model that loss_fn is given, so that sigma is 0")
        elif not curved:
            found.append("sigma is 0 at every sample: this loss is linear in the weights")
        if (ranks := _ranks()) > 1:
            found.append(f"one of {ranks} ranks: sigma is that of this rank's part of each batch")
        return tuple(found)


def _ranks() -> int:
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def unwrapped(optimizer: Any) -> Optimizer:
    """Return the optimiser itself: Accelerate and Lightning wrap it, and only it tells of its steps.

    Raises:
        InputError: If there is none.
    """
    inner = optimizer
    while not hasattr(inner, "_optimizer_step_pre_hooks") and hasattr(inner, "optimizer"):
        inner = inner.optimizer
    if not isinstance(inner, Optimizer) or not hasattr(inner, "_optimizer_step_pre_hooks"):
        raise InputError(f"`optimizer` must be a torch.optim.Optimizer, got {type(optimizer).__name__}.")
    return inner


def groups_of(optimizer: Optimizer, params: Params) -> list[dict[str, Any]]:
    """Return the optimiser's groups that hold some of ``params``."""
    own = {id(p) for p in params.values()}
    return [group for group in optimizer.param_groups if any(id(p) in own for p in group["params"])]


def learning_rates(groups: list[dict[str, Any]]) -> list[float]:
    """Return the groups' learning rates now."""
    return [float(group["lr"]) for group in groups]


def beyond_plain_sgd(optimizer: Optimizer, params: Params) -> tuple[str, ...]:
    """Return what the step that it is about to take has and a plain SGD step on all of ``params`` has not."""
    groups = groups_of(optimizer, params)
    held = {id(p) for group in groups for p in group["params"]}
    alone = [name for name, p in params.items() if id(p) not in held]
    found = [f"the optimiser does not hold {len(alone)} of the parameters ({alone[0]})"] if alone else []
    if type(optimizer) is not SGD:
        return (f"the optimiser is {type(optimizer).__name__}, not plain SGD", *found)
    for group in groups:
        if momentum := group["momentum"]:
            name = "Nesterov momentum" if group["nesterov"] else "momentum"
            found.append(f"{name} {float(momentum):g}")
        if decay := group["weight_decay"]:
            found.append(f"weight decay {float(decay):g} in the optimiser, which sigma knows nothing of")
        if group["maximize"]:
            found.append("the optimiser maximizes the loss")
    rates = learning_rates(groups)
    if min(rates) < max(rates):
        found.append(f"groups with rates from {min(rates):g} to {max(rates):g}; e takes the largest")
    return tuple(dict.fromkeys(found))


def momentum_factor(optimizer: Optimizer, params: Params) -> float | None:
    r"""Return :math:`(1 - d) / (1 - \beta)`, how often SGD with momentum applies a gradient; None of others.

    d is the dampening. Nesterov's variant applies it as often.
    """
    if not isinstance(optimizer, SGD):
        return None
    kinds = {(float(g["momentum"]), float(g["dampening"])) for g in groups_of(optimizer, params)}
    ((beta, dampening), *others) = kinds
    return None if others or not 0 < beta < 1 else (1 - dampening) / (1 - beta)


def difference(applied: Params, expected: Params, *, slack: float = 0.0, random: bool = False) -> str | None:
    r"""Say how the gradient that a step applied differs from that of the loss on its batch, if it does.

    Args:
        applied: The gradient that the step was taken with.
        expected: That of the loss on the batch.
        slack: What rounding may make of it, a norm.
        random: Whether the loss draws random numbers. The step may have drawn others; then only a
            gradient that is ``expected`` times a number tells.
    """
    eps = max(torch.finfo(p.dtype).eps for p in expected.values())
    tolerance = max(0.01, 4 * eps)
    gap = norm({name: applied[name] - g for name, g in expected.items()})
    lengths = norm(applied), norm(expected)
    if not gap > tolerance * max(lengths) + slack or not math.isfinite(gap):
        return None
    if not all(lengths):
        return "is 0" if not lengths[0] else "is not 0, as that of loss_fn on the batch is"
    cosine = sum(float((applied[name] * g).sum()) for name, g in expected.items()) / math.prod(lengths)
    if cosine > 1 - tolerance**2 or cosine < tolerance**2 - 1:
        return f"is {math.copysign(lengths[0] / lengths[1], cosine):.3g} times that of loss_fn on the batch"
    return None if random else f"is not that of loss_fn on the batch (cosine {cosine:.2f})"
