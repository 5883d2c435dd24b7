r"""The metrics under one signature: from a :class:`Case` to a number for each seed, or one for all of them.

An entry adds nothing to the function that it calls but the choice of what to compare. Metrics of many models
use those of the other seeds, and never fit and judge with the same ones:

- shadow models are the models retrained with the other seeds: they never saw F;
- the likelihood ratios of a seed come from Gaussians fitted to all other seeds;
- distributions are compared between unlearned models of one half of the seeds and retrained models of the
  other half, because models of one seed share :math:`w_0` and order, and would look alike for that alone.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unrolling._checks import InputError, check_free
from unrolling.metrics._inputs import LabelledOutputs
from unrolling.metrics.case import Case, Measured, Run, Undefined
from unrolling.metrics.leakage import epsilon_lower_bound, gaussian_weight_divergence
from unrolling.metrics.likelihood_ratio import klom, likelihood_ratio_scores, logit_margin
from unrolling.metrics.membership import loss_threshold_attack, shadow_model_attack
from unrolling.metrics.outputs import output_distance, relearn_time
from unrolling.metrics.privacy_risk import privacy_risk_score, privacy_risk_score_released
from unrolling.metrics.roc import roc_curve
from unrolling.metrics.weights import epsilon_bound, kl_divergence_bound
from unrolling.model_loss import gradient
from unrolling.parameters import Params, add, check_same_parameters, distance

#: Steps after which relearning is given up.
RELEARN_STEPS = 300


class Metric(NamedTuple):
    """A column of the matrix.

    Attributes:
        title: What the number is, in one line.
        space: Where it compares: weights, weight distribution, outputs, or membership.
        target: What exact unlearning gives, seed by seed; None if that depends on the problem: then it is
            what the retrained models give.
        measure: A number for each seed, or one for all seeds together.
    """

    title: str
    space: str
    target: float | None
    measure: Callable[[Case], Sequence[float] | float]


def measure(metric: Metric, case: Case) -> tuple[float, ...]:
    """Return the metric's numbers: one for each seed, or a single one for all.

    Raises:
        Undefined: If there is none. What the metric's function refuses is undefined, for its reason.
    """
    try:
        found = metric.measure(case)
    except InputError as refusal:
        raise Undefined(str(refusal)) from refusal
    values = torch.tensor([found] if isinstance(found, float) else list(found), dtype=torch.float64)
    if not bool(values.isfinite().all()):
        raise Undefined("the value is not finite.")
    return tuple(values.tolist())


# Weights


def _distance(first: Params, second: Params) -> float:
    try:
        check_same_parameters(first, second, ("first", "second"))
    except InputError:
        raise Undefined("the weights do not have the same shape; the method changes the network.") from None
    return distance(first, second)


def _verification_errors(case: Case) -> list[float]:
    return [_distance(run.unlearned.params, run.retrained.params) for run in case.runs]


def _relative_to_nothing(case: Case) -> list[float]:
    nothing = _verification_errors(case.nothing)
    if min(nothing) == 0:
        raise Undefined("M and M' have the same weights: there is nothing to compare with.")
    return [v / own for v, own in zip(_verification_errors(case), nothing, strict=True)]


def _relative_to_seeds(case: Case) -> list[float]:
    """Return v over the mean distance of M' to the models retrained with the other seeds."""
    _need_seeds(case, 2, "to see how far retrained models are apart")
    goals = [run.retrained.params for run in case.runs]
    floors = [sum(_distance(own, other) for other in goals) / (len(goals) - 1) for own in goals]
    if min(floors) == 0:
        raise Undefined("retraining gives the same weights with every seed: there is no floor.")
    return [v / floor for v, floor in zip(_verification_errors(case), floors, strict=True)]


# Distributions of weights


def _noisy_kl(case: Case) -> list[float]:
    return [kl_divergence_bound(v, case.noise) for v in _verification_errors(case)]


def _noisy_epsilon(case: Case) -> list[float]:
    return [epsilon_bound(v, case.noise, case.delta) for v in _verification_errors(case)]


def _fitted_kl(case: Case) -> float:
    """Return the fitted KL divergence over its expectation for equal distributions."""
    _need_seeds(case, 8, "four models in either half: with fewer the expectation is infinite")
    ratios = []
    for unlearned, retrained in _halves(case):
        found = gaussian_weight_divergence(
            [model.params for model in unlearned], [model.params for model in retrained]
        )
        if not found.num_weights:
            raise Undefined("every seed gives the same weights: there is no distribution.")
        ratios.append(found.value / found.expected_if_equal)
    return sum(ratios) / len(ratios)


def _epsilon_lower_bound(case: Case) -> float:
    """Return what the sign of the summed U-LiRA scores shows, fitted on half of the seeds."""
    half = len(case.runs) // 2
    trials = len(case.runs) - half
    certain = epsilon_lower_bound(
        true_positives=trials, num_positives=trials, false_positives=0, num_negatives=trials
    )
    if half < 2 or certain.value == 0:
        raise Undefined(f"{trials} trials cannot show any epsilon above 0; those of 11 seeds can.")
    margins = _margins(case)
    shadows, kind = _pair(margins.unlearned[:half], margins.retrained[:half])
    called = [
        int((likelihood_ratio_scores(shadows, kind, part[half:]).sum(dim=1) > 0).sum())
        for part in (margins.unlearned, margins.retrained)
    ]
    return epsilon_lower_bound(
        true_positives=called[0],
        num_positives=trials,
        false_positives=called[1],
        num_negatives=trials,
    ).value


# Outputs


def _output_distance(part: str) -> Callable[[Case], list[float]]:
    def mean_distance(case: Case) -> list[float]:
        inputs, _ = case.data(part)
        pairs = ((_softmax(run.unlearned, inputs), _softmax(run.retrained, inputs)) for run in case.runs)
        return [output_distance(*pair).mean for pair in pairs]

    return mean_distance


def _accuracy(part: str) -> Callable[[Case], list[float]]:
    def share_right(case: Case) -> list[float]:
        inputs, labels = case.data(part)
        right = (run.unlearned.logits(inputs).argmax(dim=1) == labels for run in case.runs)
        return [float(hits.double().mean()) for hits in right]

    return share_right


def _relearn_steps(case: Case) -> list[float]:
    loss = case.forget_loss
    if loss is None:
        raise Undefined("the models are not the problem's network: there is no loss by which to relearn F.")
    steps = []
    for run in case.runs:
        with torch.no_grad():
            known = float(loss(run.trained.params))
        found = relearn_time(
            run.unlearned.params,
            lambda params, _: add(params, gradient(loss, params), -case.learning_rate),
            loss,
            target=known,
            max_steps=RELEARN_STEPS,
        )
        if not found.reached:
            raise Undefined(f"F is not relearned within {RELEARN_STEPS} steps.")
        steps.append(float(found.steps))
    return steps


# Membership


def _loss_threshold(case: Case) -> list[float]:
    """Return Yeom et al.'s advantage: forgotten examples against test examples."""
    advantages = []
    for run in case.runs:
        forgotten, retained, test = (
            torch.nn.functional.cross_entropy(_logits(run.unlearned, inputs), labels, reduction="none")
            for inputs, labels in map(case.data, ("forgotten", "retained", "test"))
        )
        attack = loss_threshold_attack(forgotten, test, threshold=float(retained.mean()))
        advantages.append(attack.advantage)
    return advantages


def _attacks(case: Case, output: Callable[[Measured, Tensor], Tensor]) -> Iterator[list[LabelledOutputs]]:
    """Yield for each seed the shadow models' members and non-members, then F and the others to be told apart.

    Half of the test set teaches the attack, the other half is told apart from F. Members and non-members
    teach in equal numbers. All of these are spread evenly over the classes, in whatever order they come.
    """
    _need_seeds(case, 2, "for shadow models")
    (seen, seen_labels), (forgotten, labels), (test, test_labels) = map(
        case.data, ("retained", "forgotten", "test")
    )
    size = min(len(seen_labels), len(test_labels) // 2)
    by_class = test_labels.argsort(stable=True)
    members = _spread(seen_labels.argsort(stable=True), size)
    strangers, judged = _spread(by_class[::2], size), by_class[1::2]
    for own in range(len(case.runs)):
        shadows = [run.retrained for other, run in enumerate(case.runs) if other != own]
        model = case.runs[own].unlearned

        def teach(inputs: Tensor, truth: Tensor, shadows: list[Measured] = shadows) -> LabelledOutputs:
            return torch.cat([output(shadow, inputs) for shadow in shadows]), truth.repeat(len(shadows))

        yield [
            teach(seen[members], seen_labels[members]),
            teach(test[strangers], test_labels[strangers]),
            (output(model, forgotten), labels),
            (output(model, test[judged]), test_labels[judged]),
        ]


def _spread(indices: Tensor, size: int) -> Tensor:
    """Return ``size`` of these indices, evenly spread."""
    return indices[torch.arange(size) * len(indices) // max(size, 1)]


def _shadow_models(case: Case) -> list[float]:
    """Return the area under the ROC curve of Shokri et al.'s attack: F against test examples."""
    areas = []
    for members, others, (forgotten, labels), (test, test_labels) in _attacks(case, _softmax):
        query = torch.cat([forgotten, test]), torch.cat([labels, test_labels])
        scores = shadow_model_attack(members, others, query)
        areas.append(roc_curve(scores[: len(labels)], scores[len(labels) :]).auc)
    return areas


def _privacy_risk(case: Case) -> list[float]:
    """Return the mean privacy risk score of F."""
    attacks = _attacks(case, _softmax)
    return [float(privacy_risk_score(*parts[:3]).mean()) for parts in attacks]


def _privacy_risk_released(case: Case) -> list[float]:
    """Return the mean over F of the score as released, which is given logits; 0 / 0 is left out."""
    found = [privacy_risk_score_released(*parts[:3]).nanmean() for parts in _attacks(case, _logits)]
    if any(bool(value.isnan()) for value in found):
        raise Undefined("the score as released is 0 / 0 for every forgotten example of a seed.")
    return [float(value) for value in found]


def _likelihood_ratio(case: Case) -> list[float]:
    """Return LiRA's area under the ROC curve: do F's margins look trained on, in M'' more than in M'?"""
    return _held_out_areas(case, "trained")


def _unlearning_likelihood_ratio(case: Case) -> list[float]:
    """Return U-LiRA's area under the ROC curve: do F's margins look unlearned, in M'' more than in M'?"""
    return _held_out_areas(case, "unlearned")


def _held_out_areas(case: Case, inside: str) -> list[float]:
    _need_seeds(case, 3, "two models of either kind besides the one that is judged")
    margins = _margins(case)
    areas = []
    for own in range(len(case.runs)):
        others = [seed for seed in range(len(case.runs)) if seed != own]
        shadows, kind = _pair(getattr(margins, inside)[others], margins.retrained[others])
        judged = torch.stack([margins.unlearned[own], margins.retrained[own]])
        scores = likelihood_ratio_scores(shadows, kind, judged, shared_variance=True)
        areas.append(roc_curve(scores[0], scores[1]).auc)
    return areas


def _mean_klom(case: Case) -> float:
    """Return KLoM's mean over F."""
    _need_seeds(case, 4, "two models in either half")
    inputs, labels = case.data("forgotten")

    def margins(models: Sequence[Measured]) -> Tensor:
        return torch.stack([logit_margin(_logits(model, inputs), labels) for model in models])

    found = [klom(margins(unlearned), margins(retrained)).mean() for unlearned, retrained in _halves(case)]
    return float(sum(found) / len(found))


# What entries share


class _Margins(NamedTuple):
    trained: Tensor
    unlearned: Tensor
    retrained: Tensor


def _margins(case: Case) -> _Margins:
    """Return the margins of F, shape (seeds, examples), of the three kinds of models."""
    inputs, labels = case.data("forgotten")
    kinds = zip(*case.runs, strict=True)
    return _Margins(
        *(torch.stack([logit_margin(_logits(model, inputs), labels) for model in kind]) for kind in kinds)
    )


def _pair(inside: Tensor, outside: Tensor) -> tuple[Tensor, Tensor]:
    """Return shadow margins of both kinds and which of them are "in"."""
    kind = torch.tensor([True] * len(inside) + [False] * len(outside))
    return torch.cat([inside, outside]), kind[:, None]


def _halves(case: Case) -> list[tuple[list[Measured], list[Measured]]]:
    """Return M'' of one half of the seeds with M' of the other, and the other way round."""
    even, odd = case.runs[::2], case.runs[1::2]

    def models(first: Sequence[Run], second: Sequence[Run]) -> tuple[list[Measured], list[Measured]]:
        return [run.unlearned for run in first], [run.retrained for run in second]

    return [models(even, odd), models(odd, even)]


def _need_seeds(case: Case, count: int, why: str) -> None:
    if len(case.runs) < count:
        raise Undefined(f"it needs {count} seeds, {why}; there are {len(case.runs)}.")


def _logits(model: Measured, inputs: Tensor) -> Tensor:
    values = model.logits(inputs)
    if not bool(values.isfinite().all()):
        raise Undefined("the logits are not all finite: the method takes a class out of the outputs.")
    return values


def _softmax(model: Measured, inputs: Tensor) -> Tensor:
    return model.logits(inputs).double().softmax(dim=1)


METRICS: dict[str, Metric] = {
    "verification_error": Metric(
        "v, l2 distance to the retrained weights", "weights", 0, _verification_errors
    ),
    "verification_error_relative": Metric("v over v of doing nothing", "weights", 0, _relative_to_nothing),
    "verification_error_by_floor": Metric(
        "v over the distance between models retrained with different seeds", "weights", 0, _relative_to_seeds
    ),
    "kl_noisy": Metric(
        "KL divergence in nats if noise is added to the weights", "weight distribution", 0, _noisy_kl
    ),
    "epsilon_noisy": Metric(
        "epsilon at delta if noise is added to the weights", "weight distribution", 0, _noisy_epsilon
    ),
    "kl_fitted": Metric(
        "KL divergence of Gaussians fitted to the weights, over its expectation for equal distributions",
        "weight distribution",
        None,
        _fitted_kl,
    ),
    "epsilon_lower_bound": Metric(
        "epsilon that an attack's successes show at 95 %", "weight distribution", 0, _epsilon_lower_bound
    ),
    "output_distance_forgotten": Metric(
        "mean distance of the softmax outputs to M' on the forgotten examples",
        "outputs",
        0,
        _output_distance("forgotten"),
    ),
    "output_distance_retained": Metric(
        "the same on the retained examples", "outputs", 0, _output_distance("retained")
    ),
    "output_distance_test": Metric("the same on the test set", "outputs", 0, _output_distance("test")),
    "accuracy_forgotten": Metric(
        "accuracy on the forgotten examples", "outputs", None, _accuracy("forgotten")
    ),
    "accuracy_retained": Metric("accuracy on the retained examples", "outputs", None, _accuracy("retained")),
    "accuracy_test": Metric("accuracy on the test set", "outputs", None, _accuracy("test")),
    "relearn_steps": Metric(
        "gradient steps on F until it is known as well as before", "outputs", None, _relearn_steps
    ),
    "loss_threshold": Metric(
        "advantage of a threshold on the loss (Yeom et al.)", "membership", None, _loss_threshold
    ),
    "shadow_models": Metric(
        "area under the ROC curve of shadow models (Shokri et al.)", "membership", None, _shadow_models
    ),
    "privacy_risk": Metric(
        "mean privacy risk score of F (Song and Mittal)", "membership", None, _privacy_risk
    ),
    "privacy_risk_released": Metric(
        "the same as released: on logits", "membership", None, _privacy_risk_released
    ),
    "lira": Metric(
        "area under the ROC curve of likelihood ratios, trained on against retrained (LiRA)",
        "membership",
        0.5,
        _likelihood_ratio,
    ),
    "u_lira": Metric(
        "the same, unlearned against retrained (U-LiRA)", "membership", 0.5, _unlearning_likelihood_ratio
    ),
    "klom": Metric("mean KL divergence of F's margins (KLoM)", "membership", None, _mean_klom),
}
"""All metrics: name -> entry. Ordered as the paper's section 3.2: weights, their distribution, outputs."""


def register_metric(name: str, metric: Metric) -> None:
    """Add a metric of your own to :data:`METRICS`.

    Args:
        name: Its key, as in ``measure(METRICS[name], case)``.
        metric: See the README of this folder for a recipe.

    Raises:
        InputError: If the name is taken.
    """
    METRICS[check_free("metric", name, METRICS)] = metric
