"""Figure 1 as an executable table: every method on one problem, judged by every metric."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from unrolling._checks import InputError, check_choice, check_integer, check_real
from unrolling.batches import BatchOrder, make_batch_order
from unrolling.data import Dataset
from unrolling.data.dataset import content_fingerprint
from unrolling.losses import Objective
from unrolling.methods.problem import NotApplicable, Outcome, Problem
from unrolling.methods.registry import METHODS, Method
from unrolling.metrics.case import Case, Run, Undefined
from unrolling.metrics.intervals import t_interval
from unrolling.metrics.registry import METRICS, Metric, measure
from unrolling.model_loss import batch_loss
from unrolling.models import build_model, check_model
from unrolling.parameters import to_vector, trainable
from unrolling.seeding import make_generator, seeded

#: The methods at the two ends of the scale: exact unlearning, and none.
EXACT, NOTHING = "retrain", "nothing"
#: How a description names what :func:`into_unit_ball` does.
UNIT_BALL = "in the unit ball"
FORGET_SETS = ("batch", "examples", "class")


@dataclass(frozen=True, kw_only=True)
class Setting:
    r"""What is trained, what is forgotten, and what metrics suppose; the data and the seeds come apart.

    Attributes:
        model: A name of :func:`unrolling.build_model`.
        l2: :math:`\lambda` of the term :math:`\frac{\lambda}{2} \|w\|^2` in the loss.
        batch_size: Examples of a step.
        epochs: Passes over the data, all with the same batches in the same order.
        learning_rate: :math:`\eta`.
        forget: ``"batch"``, random examples that are a batch of their own in every epoch, as in section 8.3;
            ``"examples"``, the same spread over the batches; or ``"class"``, all of the last class.
        num_forget: Examples to forget; a class has as many as it has.
        noise: Standard deviation of the Gaussian noise that metrics of published weights suppose.
        delta: :math:`\delta` at which they give :math:`\varepsilon`.
    """

    model: str
    l2: float
    batch_size: int
    epochs: int
    learning_rate: float
    forget: str
    num_forget: int
    noise: float
    delta: float

    def __post_init__(self) -> None:
        check_model(self.model)
        check_choice("forget set", self.forget, FORGET_SETS)
        check_integer("num_forget", self.num_forget, minimum=1)
        check_integer("batch_size", self.batch_size, minimum=1)
        check_integer("epochs", self.epochs, minimum=1)
        check_real("l2", self.l2, minimum=0)
        for name in ("learning_rate", "noise", "delta"):
            check_real(name, getattr(self, name), above=0)


def choose_classes(data: Dataset, classes: Sequence[int]) -> Dataset:
    """Return the examples of these classes, numbered from 0 in this order, as a data set of its own.

    Raises:
        InputError: If there are fewer than two, one comes twice, or one is not a class of ``data``.
    """
    for label in classes:
        check_integer("a class", label, maximum=data.num_classes - 1)
    if len(set(classes)) < max(2, len(classes)):
        raise InputError(f"expected at least two different classes, got {list(classes)}.")
    number = torch.full((data.num_classes,), -1)
    number[list(classes)] = torch.arange(len(classes))
    train, test = number[data.train_labels], number[data.test_labels]
    return replace(
        data,
        train_inputs=data.train_inputs[train >= 0],
        train_labels=train[train >= 0],
        test_inputs=data.test_inputs[test >= 0],
        test_labels=test[test >= 0],
        class_names=tuple(data.class_names[label] for label in classes),
        fingerprint=content_fingerprint(data.fingerprint, "classes", *map(str, classes)),
        description=f"{data.description}; {words_for_classes(classes)}",
    )


def words_for_classes(classes: Sequence[int]) -> str:
    """Return how a description names chosen classes."""
    return f"only classes {', '.join(map(str, classes))}"


def into_unit_ball(data: Dataset) -> Dataset:
    """Return the data in double precision, divided by the largest norm of a training input: another data set.

    Theories of convex losses suppose norms of at most 1.
    """
    largest = float(data.train_inputs.double().flatten(1).norm(dim=1).max())
    return replace(
        data,
        train_inputs=data.train_inputs.double() / largest,
        test_inputs=data.test_inputs.double() / largest,
        fingerprint=content_fingerprint(data.fingerprint, UNIT_BALL),
        description=f"{data.description}; {UNIT_BALL}",
    )


def make_problem(data: Dataset, setting: Setting, seed: int) -> Problem:
    r"""Return the problem of one seed, on the CPU.

    The seed draws :math:`w_0`, the batches, and what methods draw. F is the same for all seeds.

    Args:
        data: As from :func:`into_unit_ball`.
        setting: What to train and to forget.
        seed: Of this problem.
    """
    shape = tuple(data.train_inputs.shape[1:])
    with seeded(seed, "weights"):
        model = build_model(setting.model, data.num_classes, input_shape=shape)
    forget = _forget_set(data, setting)
    return Problem(
        model=model.to(data.train_inputs.dtype),
        loss_fn=Objective("weight_decay", setting.l2),
        l2=setting.l2,
        inputs=data.train_inputs,
        labels=data.train_labels,
        num_classes=data.num_classes,
        order=_order(data, setting, forget, make_generator(seed, "batch order")),
        learning_rate=setting.learning_rate,
        forget=forget,
        seed=seed,
    )


def _forget_set(data: Dataset, setting: Setting) -> tuple[int, ...]:
    if setting.forget == "class":
        return tuple((data.train_labels == data.num_classes - 1).nonzero().squeeze(1).tolist())
    check_integer("num_forget", setting.num_forget, minimum=1, maximum=len(data.train_labels) - 1)
    drawn = torch.randperm(len(data.train_labels), generator=make_generator(0, "forget set"))
    return tuple(sorted(drawn[: setting.num_forget].tolist()))


def _order(
    data: Dataset, setting: Setting, forget: tuple[int, ...], generator: torch.Generator
) -> BatchOrder:
    size, num_examples = setting.batch_size, len(data.train_labels)
    if setting.forget != "batch":
        return make_batch_order(num_examples, size, setting.epochs, generator)
    others = torch.tensor(sorted(set(range(num_examples)) - set(forget)))
    shuffled = others[torch.randperm(len(others), generator=generator)]
    epoch = [tuple(batch.tolist()) for batch in shuffled.split(size)]
    place = int(torch.randint(len(epoch) + 1, (1,), generator=generator))
    return BatchOrder((*epoch[:place], forget, *epoch[place:]) * setting.epochs)


def make_case(
    problems: Sequence[Problem], outcomes: Sequence[Outcome], data: Dataset, setting: Setting
) -> Case:
    """Return what metrics are given of one method: its models over the seeds."""
    first = problems[0]
    shapes = {name: p.shape for name, p in trainable(first.model).items()}
    models = (model for o in outcomes for model in (o.trained, o.unlearned, o.retrained))
    own_network = all({name: p.shape for name, p in model.params.items()} == shapes for model in models)
    index = list(first.forget)
    forgotten = first.inputs[index], first.labels[index]
    return Case(
        runs=tuple(Run(o.trained, o.unlearned, o.retrained) for o in outcomes),
        inputs=first.inputs,
        labels=first.labels,
        forget=first.forget,
        test_inputs=data.test_inputs,
        test_labels=data.test_labels,
        noise=setting.noise,
        delta=setting.delta,
        learning_rate=setting.learning_rate,
        forget_loss=batch_loss(first.model, first.loss_fn, forgotten) if own_network else None,
    )


def run_matrix(
    data: Dataset,
    setting: Setting,
    seeds: Sequence[int],
    methods: Mapping[str, Method] = METHODS,
    metrics: Mapping[str, Metric] = METRICS,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    r"""Run every method on the problem of every seed, and measure with every metric.

    Metrics have different units and some have a value other than 0 even for exact unlearning, so a cell also
    says how far it is on the way from exact unlearning to none:

    .. math:: left = \frac{|value - exact|}{|value_{nothing} - exact_{nothing}|}

    where *exact* is what the method's own retrained models give. It is NaN where the metric cannot tell doing
    nothing from retraining here: where the 95 % t-interval of their mean difference over seeds holds 0, or
    where there is none, because the metric gives one number for all seeds.

    Args:
        data: As from :func:`into_unit_ball`.
        setting: What to train and to forget.
        seeds: One problem for each.
        methods: Name -> method; ``"retrain"`` and ``"nothing"`` must be among them.
        metrics: Name -> metric.

    Returns:
        Two tables. One row per method and metric: ``method``, ``metric``, ``space``, ``value`` (the mean over
        seeds, or one number for all), ``low`` and ``high`` (its 95 % t-interval over seeds; NaN for one
        number), ``exact``, ``reason`` (why there is no value, else empty) and ``left``. One row per method:
        ``method``, ``title``, ``gradients`` and ``hvps`` of unlearning relative to the gradients of
        retraining, ``megabytes`` stored, ``broken`` assumptions, and ``reason`` if it does not apply.
    """
    for end in (EXACT, NOTHING):
        check_choice("method", end, methods)
    problems = [make_problem(data, setting, seed) for seed in seeds]
    rows, cells = [], []
    # Most methods share M and M', and so what exact unlearning gives: by metric and by these models.
    exact: dict[tuple[str, bytes], tuple[float, ...]] = {}
    for name, method in methods.items():
        row = {"method": name, "title": method.title, "reason": ""}
        try:
            outcomes = [method.run(problem) for problem in problems]
        except NotApplicable as why:
            rows.append(row | {"reason": str(why)})
            cells += [_cell(name, column, metric, reason=str(why)) for column, metric in metrics.items()]
            continue
        rows.append(row | _costs(outcomes))
        case = make_case(problems, outcomes, data, setting)
        models = _fingerprint(case)
        for column, metric in metrics.items():
            try:
                values = measure(metric, case)
                if (column, models) not in exact:
                    known = metric.target is not None
                    exact[column, models] = (
                        (metric.target,) * len(values) if known else measure(metric, case.exact)
                    )
                goal = exact[column, models]
                cells.append(_cell(name, column, metric, values, goal))
            except Undefined as why:
                cells.append(_cell(name, column, metric, reason=str(why)))
    return _with_left(pd.DataFrame(cells)), pd.DataFrame(rows)


def _fingerprint(case: Case) -> bytes:
    """Return what all M and M' are, by their weights and by their outputs on the test set."""
    models = [model for run in case.runs for model in (run.trained, run.retrained)]
    parts = [part for model in models for part in (to_vector(model.params), model.logits(case.test_inputs))]
    return b"".join(part.numpy().tobytes() for part in parts)


def _cell(
    method: str,
    name: str,
    metric: Metric,
    values: Sequence[float] = (),
    exact: Sequence[float] = (),
    reason: str = "",
) -> dict[str, object]:
    value, low, high = _interval(values)
    gap, *span = _interval(np.subtract(values, exact))
    return {
        "method": method,
        "metric": name,
        "space": metric.space,
        "value": value,
        "low": low,
        "high": high,
        "exact": float(np.mean(exact)) if len(exact) else math.nan,
        "told": gap != 0 and (span[0] > 0 or span[1] < 0),
        "reason": reason,
    }


def _interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean over seeds and its t-interval; NaN where there is none."""
    return t_interval(values) if len(values) else (math.nan, math.nan, math.nan)


def _with_left(cells: pd.DataFrame) -> pd.DataFrame:
    """Put ``left`` in the place of ``told``."""
    difference = (cells["value"] - cells["exact"]).abs()
    end = difference.where((cells["method"] == NOTHING) & cells["told"])
    left = difference / end.groupby(cells["metric"]).transform("first")
    return cells.drop(columns="told").assign(left=left)


def _costs(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """Return the costs, on average over the seeds."""

    def mean(values: Sequence[float]) -> float:
        return float(np.mean(values))

    return {
        "gradients": mean([o.cost.gradients / o.retraining.gradients for o in outcomes]),
        "hvps": mean([o.cost.hvps / o.retraining.gradients for o in outcomes]),
        "megabytes": mean([o.cost.stored_bytes / 1e6 for o in outcomes]),
        "broken": "; ".join(_distinct(part for o in outcomes for part in o.broken)),
    }


def _distinct(flags: Iterable[str]) -> list[str]:
    """Return each flag once, with the numbers of the first seed that has it."""
    first: dict[str, str] = {}
    for flag in flags:
        first.setdefault(re.sub(r"[\d.]+(e[+-]?\d+)?", "#", flag), flag)
    return list(first.values())
