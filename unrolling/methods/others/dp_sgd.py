r"""DP-SGD: train so that every example matters little, and then unlearn by doing nothing.

Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar, Zhang, "Deep Learning with Differential Privacy", CCS 2016,
by Opacus (Yousefpour et al., 2021), which clips the gradients of single examples, adds the noise and keeps
the accounts. Of differential privacy the paper says, in section 3.3, that it is "in essence stating that a
model has already unlearned": the weights are distributed nearly as if any one example had not been there.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from unrolling._checks import InputError, UnrollingError, check_integer, check_real
from unrolling.losses import cross_entropy
from unrolling.methods.assumptions import loss_is
from unrolling.methods.cost import Cost, Unlearned
from unrolling.methods.others.per_example import ExampleJacobians
from unrolling.methods.problem import Model, NotApplicable, Outcome, Problem, applicable, as_model
from unrolling.parameters import Params, snapshot, trainable
from unrolling.seeding import make_generator, seeded
from unrolling.training import independent_copy


@dataclass(frozen=True)
class Private:
    r"""Privately trained weights.

    Attributes:
        params: The trained weights.
        epsilon: With ``delta`` the guarantee :math:`(\epsilon, \delta)` for one example added or removed.
        delta: As asked for.
        buffers: Of the trained model; spectral norm's change in training.
    """

    params: Params
    epsilon: float
    delta: float
    buffers: Params = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class PrivatelyUnlearned(Unlearned):
    r"""The weights as they were, and the guarantee for the group that asked.

    Attributes:
        epsilon: m times that for one example.
        delta: A value of 1 or more guarantees nothing.
    """

    epsilon: float
    delta: float


def dp_sgd_train(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    learning_rate: float,
    batch_size: int,
    num_steps: int,
    noise_multiplier: float,
    clipping_norm: float,
    delta: float,
    generator: torch.Generator,
    logit_loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
) -> Private:
    r"""Return weights trained by DP-SGD, with the privacy they give.

    .. math:: w \leftarrow w - \frac{\eta}{b} \Big( \sum_{i \in B} g_i \min(1, C / \|g_i\|_2)
              + \sigma C \, \mathcal{N}(0, I) \Big)

    Each example is in the batch B with probability q = b / n, independently (Poisson sampling), as the
    accounts assume. They are kept in Rényi differential privacy, whose :math:`\epsilon` is an upper bound.

    Args:
        model: Where training starts; left as it is. It must treat examples independently: no batch norm.
            Any other that PyTorch trains will do, also on token numbers; see
            ``ExampleJacobians`` for when that takes longer.
        inputs: All examples, shape (n, ...), on the model's device.
        labels: Their classes, shape (n,).
        learning_rate: :math:`\eta`, constant.
        batch_size: b, the *expected* number of examples per step.
        num_steps: How many steps.
        noise_multiplier: :math:`\sigma`, in units of the clipping norm; 0 gives no privacy.
        clipping_norm: C.
        delta: The :math:`\delta` at which :math:`\epsilon` is reported, well below 1 / n.
        generator: Source of batches and noise, on the model's device. PyTorch's generators are not
            cryptographic: a guarantee against an adversary who may attack them needs another.
        logit_loss: ``logit_loss(logits, labels)``, the mean over the examples. A penalty on the weights
            cannot be clipped per example and has no place here.

    Raises:
        InputError: If a number is out of range, or a layer keeps statistics of the data, as batch norm does.
        UnrollingError: If Opacus is not installed.
    """
    eta = check_real("learning_rate", learning_rate, above=0)
    check_integer("batch_size", batch_size, minimum=1, maximum=len(inputs))
    check_integer("num_steps", num_steps, minimum=1)
    check_real("noise_multiplier", noise_multiplier, minimum=0)
    check_real("clipping_norm", clipping_norm, above=0)
    _check_delta(delta)
    if not trainable(model):
        raise InputError("the model has no trainable parameters; there is nothing to train.")
    _check_layers(model)
    try:
        from opacus import accountants, optimizers
    except ImportError as error:
        raise UnrollingError("DP-SGD needs Opacus: pip install opacus.") from error

    trained = independent_copy(model).train()
    params = trainable(trained)
    optimizer = optimizers.DPOptimizer(
        torch.optim.SGD(params.values(), lr=eta),
        noise_multiplier=noise_multiplier,
        max_grad_norm=clipping_norm,
        expected_batch_size=batch_size,
        generator=generator,
    )
    accountant, rate = accountants.RDPAccountant(), batch_size / len(inputs)
    optimizer.attach_step_hook(accountant.get_optimizer_hook_fn(rate))
    losses = ExampleJacobians(trained, lambda logits, label: logit_loss(logits, label).reshape(1))
    for _ in range(num_steps):
        chosen = torch.rand(len(inputs), generator=generator, device=generator.device) < rate
        index = chosen.nonzero()[:, 0].to(inputs.device)
        slopes = losses(inputs[index], labels[index])[0] if len(index) else {}
        for name, p in params.items():
            # A step without data is noise all the same.
            p.grad_sample = slopes[name][:, 0] if slopes else p.new_zeros((0, *p.shape))
        optimizer.step()
        optimizer.zero_grad()
    epsilon = accountant.get_epsilon(delta) if noise_multiplier else math.inf
    buffers = {name: b.detach().clone() for name, b in trained.named_buffers()}
    return Private(snapshot(trained), float(epsilon), delta, buffers)


def _check_layers(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            raise InputError(
                f"layer {name!r} is batch norm, which mixes the examples of a batch: there is no gradient "
                "per example. Use group norm: opacus.validators.ModuleValidator.fix(model) replaces each one."
            )
        if isinstance(module, _NormBase) and module.track_running_stats:
            raise InputError(
                f"layer {name!r} keeps running statistics of the data, which no noise hides. Use "
                "track_running_stats=False."
            )


def group_privacy(epsilon: float, delta: float, group_size: int) -> tuple[float, float]:
    r"""Return the guarantee for m examples at once: :math:`(m \epsilon, \; m e^{(m - 1) \epsilon} \delta)`.

    Dwork, Roth, "The Algorithmic Foundations of Differential Privacy", 2014, and Vadhan, "The Complexity of
    Differential Privacy", 2017, Lemma 2.2: m applications of the definition, one example at a time.

    Args:
        epsilon: For one example, >= 0; infinite for training without noise, which guarantees nothing.
        delta: For one example, in (0, 1).
        group_size: m.

    Example:
        >>> group_privacy(0.5, 1e-6, 1)
        (0.5, 1e-06)
    """
    if epsilon != math.inf:
        epsilon = check_real("epsilon", epsilon, minimum=0)
    _check_delta(delta)
    m = check_integer("group_size", group_size, minimum=1)
    exponent = (m - 1) * epsilon if m > 1 else 0.0
    return m * epsilon, m * delta * math.exp(exponent) if exponent < 700 else math.inf


def dp_sgd_unlearn(trained: Private, num_forgotten: int) -> PrivatelyUnlearned:
    r"""Return the trained weights unchanged: the baseline that unlearns nothing, at no cost.

    The guarantee compares with training without the ``num_forgotten`` examples and is :func:`group_privacy`
    of that for one. It fades fast with their number, and is empty (:math:`\epsilon = \infty`) where there
    was no noise.

    Args:
        trained: See :func:`dp_sgd_train`.
        num_forgotten: m, how many examples were asked to be forgotten.
    """
    epsilon, delta = group_privacy(trained.epsilon, trained.delta, num_forgotten)
    params = {name: p.clone() for name, p in trained.params.items()}
    broken: tuple[str, ...] = ()
    if epsilon == math.inf:
        broken = ("trained without noise, which guarantees nothing",)
    elif delta >= 1:
        broken = (f"the guarantee for {num_forgotten} examples is empty (delta {delta:.1e})",)
    return PrivatelyUnlearned(
        params, Cost(gradients=0, hvps=0, stored_bytes=0), epsilon, delta, broken=broken
    )


def _check_delta(delta: float) -> None:
    if check_real("delta", delta, above=0) >= 1:
        raise InputError(f"delta must be below 1, got {delta:g}.")


def run_dp_sgd(
    problem: Problem, *, noise_multiplier: float = 1.0, clipping_norm: float = 1.0, delta: float = 1e-5
) -> Outcome:
    """Train a private model of its own from M_0, in as many steps as the problem, and change nothing.

    M' is trained in the same way without F, with batches and noise of its own: they cannot be shared, since
    what is sampled differs. So the distance between M'' and M' is mostly noise.

    Raises:
        NotApplicable: If the training loss is not cross-entropy (plus an l2 term), or a layer keeps
            statistics of the data, as batch norm does.
    """
    if not loss_is(problem, cross_entropy):
        raise NotApplicable("DP-SGD clips gradients of the cross-entropy; the training loss is another.")

    def train_privately(examples: tuple[int, ...], name: str) -> Private:
        index = list(examples)
        with seeded(problem.seed, "dp-sgd dropout", name):
            return dp_sgd_train(
                problem.model,
                problem.inputs[index],
                problem.labels[index],
                learning_rate=problem.learning_rate,
                batch_size=min(problem.batch_size, len(index)),
                num_steps=len(problem.order),
                noise_multiplier=noise_multiplier,
                clipping_norm=clipping_norm,
                delta=delta,
                generator=make_generator(problem.seed, "dp-sgd", name, device=problem.inputs.device),
            )

    def measured(private: Private) -> Model:
        module = independent_copy(problem.model)
        module.load_state_dict(private.buffers, strict=False)
        return as_model(module, private.params)

    with applicable():
        trained = train_privately(problem.examples, "M")
        retrained = train_privately(problem.retained, "M'")
    found = dp_sgd_unlearn(trained, len(problem.forget))
    without = ("trained without the l2 term, which cannot be clipped per example",) if problem.l2 else ()
    return Outcome(
        trained=measured(trained),
        unlearned=measured(replace(trained, params=found)),
        retrained=measured(retrained),
        cost=found.cost,
        retraining=Cost(gradients=len(problem.order), hvps=0, stored_bytes=problem.retraining.stored_bytes),
        broken=(*without, *found.broken),
    )
