import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import unrolling.metrics
from unrolling._checks import InputError
from unrolling.metrics.case import Case, Run, Undefined
from unrolling.metrics.leakage import gaussian_weight_divergence
from unrolling.metrics.likelihood_ratio import klom, logit_margin
from unrolling.metrics.registry import METRICS, Metric, measure, register_metric
from unrolling.parameters import Params

NUM_SEEDS = 12
README = Path(unrolling.metrics.__file__).with_name("README.md")
WITH_TARGET = [name for name, metric in METRICS.items() if metric.target is not None]


@dataclass(frozen=True)
class Linear:
    """Logits x W."""

    weight: Tensor

    @property
    def params(self) -> Params:
        return {"weight": self.weight}

    def logits(self, inputs: Tensor) -> Tensor:
        return inputs @ self.weight


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_case(num_seeds=NUM_SEEDS, shift=0.5, **changes):
    """Three classes, 5 features; M'' lies between M and M', which differ at random."""
    runs = []
    for seed in range(num_seeds):
        goal, away = draw(5, 3, seed=10 + seed), draw(5, 3, seed=100 + seed)
        runs.append(Run(Linear(goal + away), Linear(goal + shift * away), Linear(goal)))
    inputs, test_inputs = draw(90, 5, seed=1), draw(60, 5, seed=2)
    labels, test_labels = torch.arange(90) % 3, torch.arange(60) % 3

    def forget_loss(params):
        return torch.nn.functional.cross_entropy(inputs[:9] @ params["weight"], labels[:9])

    case = Case(
        runs=tuple(runs),
        inputs=inputs,
        labels=labels,
        forget=tuple(range(9)),
        test_inputs=test_inputs,
        test_labels=test_labels,
        noise=0.5,
        delta=1e-3,
        learning_rate=0.1,
        forget_loss=forget_loss,
    )
    return replace(case, **changes)


def value(name, case):
    return measure(METRICS[name], case)


@pytest.mark.parametrize("name", WITH_TARGET)
def test_exact_unlearning_meets_the_target_of_every_metric_that_states_one(name):
    values = value(name, make_case().exact)
    assert values == (METRICS[name].target,) * len(values)


@pytest.mark.parametrize("name", [*METRICS])
def test_every_metric_gives_one_number_per_seed_or_one_for_all(name):
    assert len(value(name, make_case())) == (
        1 if name in {"kl_fitted", "epsilon_lower_bound", "klom"} else 12
    )


@pytest.mark.parametrize("name", ["verification_error", "kl_noisy", "epsilon_noisy", "output_distance_test"])
def test_distances_grow_from_exact_unlearning_to_none(name):
    half, full = (sum(value(name, case)) for case in (make_case(), make_case().nothing))
    assert 0 < half < full


def test_distances_of_weights_in_closed_form():
    models = [Linear(torch.tensor([[x], [0.0]], dtype=torch.float64)) for x in (0.0, 3.0, 9.0)]
    ahead = [Linear(model.weight + torch.tensor([[0.0], [4.0]])) for model in models]
    runs = tuple(Run(Linear(2 * m.weight + 8), a, m) for m, a in zip(models, ahead, strict=True))
    case = make_case(runs=runs)

    assert value("verification_error", case) == pytest.approx([4.0] * 3)
    nothing = [math.hypot(x + 8, 8) for x in (0.0, 3.0, 9.0)]
    assert value("verification_error_relative", case) == pytest.approx([4 / v for v in nothing])
    # mean distances of a retrained model to the two others: (3 + 9) / 2, (3 + 6) / 2, (9 + 6) / 2
    assert value("verification_error_by_floor", case) == pytest.approx([4 / 6, 4 / 4.5, 4 / 7.5])
    assert value("kl_noisy", case) == pytest.approx([4**2 / (2 * 0.5**2)] * 3)


def test_fitted_divergence_compares_models_of_different_seeds():
    case = make_case()
    unlearned = [run.unlearned.params for run in case.runs]
    retrained = [run.retrained.params for run in case.runs]
    found = [
        gaussian_weight_divergence(unlearned[first::2], retrained[second::2])
        for first, second in ((0, 1), (1, 0))
    ]
    expected = sum(one.value / one.expected_if_equal for one in found) / 2
    assert value("kl_fitted", case) == pytest.approx([expected])


def test_fitted_divergence_is_one_on_average_where_nothing_differs():
    runs = tuple(Run(*[Linear(draw(100, 100, seed=seed))] * 3) for seed in range(20))
    assert value("kl_fitted", make_case(runs=runs))[0] == pytest.approx(1, abs=0.05)


def test_klom_compares_models_of_different_seeds():
    case = make_case()
    inputs, labels = case.data("forgotten")
    unlearned, retrained = (
        torch.stack([logit_margin(getattr(run, kind).logits(inputs), labels) for run in case.runs])
        for kind in ("unlearned", "retrained")
    )
    expected = (klom(unlearned[::2], retrained[1::2]) + klom(unlearned[1::2], retrained[::2])).mean() / 2
    assert value("klom", case) == pytest.approx([float(expected)])


def known(case, kind):
    """Let the models of one kind know every forgotten example by far, up to a little noise."""
    inputs, labels = case.data("forgotten")

    def sure(number, model):
        target = torch.nn.functional.one_hot(labels, 3).double() * (20 + 0.01 * number)
        return Linear(torch.linalg.pinv(inputs) @ target)

    runs = (run._replace(**{kind: sure(i, getattr(run, kind))}) for i, run in enumerate(case.runs))
    return replace(case, runs=tuple(runs))


def identity_case():
    """Forgotten examples have a feature each, so that a model can know any of them."""
    case = make_case()
    inputs = torch.zeros(90, 100, dtype=torch.float64)
    inputs[range(90), range(90)] = 1
    test_inputs = torch.zeros(60, 100, dtype=torch.float64)
    test_inputs[:, 90:] = draw(60, 10, seed=5)
    runs = tuple(
        Run(*(Linear(draw(100, 3, seed=3 * i + kind)) for kind in range(3))) for i in range(NUM_SEEDS)
    )
    return replace(case, inputs=inputs, test_inputs=test_inputs, runs=runs)


def test_attacks_are_certain_where_the_unlearned_models_know_what_retrained_ones_do_not():
    case = known(identity_case(), "unlearned")
    assert value("u_lira", case) == (1.0,) * 12
    # six trials of either kind, all right: both rates are known to 1 - 0.025 ** (1 / 6)
    low = 0.025 ** (1 / 6)
    assert value("epsilon_lower_bound", case) == pytest.approx([math.log(low / (1 - low))])
    assert value("accuracy_forgotten", case) == (1.0,) * 12


def test_loss_threshold_tells_forgotten_from_test_examples():
    case = known(identity_case(), "unlearned")  # F is known, all else has the loss ln 3, but feature 95
    weights = [run.unlearned.weight.clone() for run in case.runs]
    for weight in weights:
        weight[95] = torch.tensor([5.0, 0.0, 0.0])  # right for a third of the test set
    test_inputs = torch.zeros(60, 100, dtype=torch.float64)
    test_inputs[:, 95] = 1
    case = replace(case.where(map(Linear, weights)), test_inputs=test_inputs)
    assert value("loss_threshold", case) == pytest.approx([2 / 3] * 12)


def test_likelihood_ratio_asks_whether_the_model_looks_trained_on_the_examples():
    case = known(identity_case(), "trained")
    looks_retrained = case.where(Linear(draw(100, 3, seed=200 + i)) for i in range(12))
    assert value("lira", case.nothing) == (1.0,) * 12
    assert sum(value("lira", looks_retrained)) / 12 == pytest.approx(0.5, abs=0.15)


def test_shadow_models_find_what_looks_like_training_data():
    case = identity_case()
    runs = []
    for number, run in enumerate(case.runs):
        retrained = draw(100, 3, seed=400 + number)
        for index, label in enumerate(case.labels[9:].tolist(), start=9):
            retrained[index, label] += 20  # all that is retained is known
        runs.append(run._replace(retrained=Linear(retrained)))
    case = known(replace(case, runs=tuple(runs)), "unlearned")
    assert min(value("shadow_models", case)) > 0.9


def test_half_of_the_test_set_teaches_and_the_other_half_is_judged():
    case = make_case()
    by_class = [[i for i in range(60) if case.test_labels[i] == label] for label in range(3)]
    moved = case.test_inputs.clone()
    moved[[members[place] for members in by_class for place in range(1, 20, 2)]] *= 3
    judged = replace(case, test_inputs=moved)
    assert value("privacy_risk", case) == value("privacy_risk", judged)  # it judges F alone
    assert value("shadow_models", case) != value("shadow_models", judged)


@pytest.mark.parametrize("name", ["shadow_models", "privacy_risk", "privacy_risk_released"])
@pytest.mark.parametrize("period", [1, 2, 20])
def test_attacks_do_not_depend_on_how_classes_follow_one_another(name, period):
    case = make_case()
    layout = torch.arange(60) // period % 3  # 20: sorted by class
    order = case.test_labels.argsort(stable=True)[layout.argsort(stable=True).argsort()]
    moved = replace(case, test_inputs=case.test_inputs[order], test_labels=case.test_labels[order])
    assert torch.equal(moved.test_labels, layout)
    assert value(name, moved) == pytest.approx(value(name, case))


def test_epsilon_lower_bound_finds_nothing_in_models_that_differ_by_chance():
    # A fit to the judged models themselves would tell them apart.
    case = replace(identity_case(), forget=tuple(range(80)))
    assert value("epsilon_lower_bound", case) == (0.0,)


def test_epsilon_lower_bound_needs_trials_that_can_show_something():
    assert value("epsilon_lower_bound", make_case(11).exact) == (0.0,)
    with pytest.raises(Undefined, match="5 trials cannot show any epsilon above 0; those of 11 seeds can"):
        value("epsilon_lower_bound", make_case(10))


def changed(case, seed, kind):
    runs = list(case.runs)
    runs[seed] = runs[seed]._replace(**{kind: Linear(draw(5, 3, seed=999))})
    return replace(case, runs=tuple(runs))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("shadow_models", "retrained"),
        ("privacy_risk", "retrained"),
        ("privacy_risk_released", "retrained"),
        ("lira", "trained"),
    ],
)
def test_the_judged_seed_teaches_nobody_about_itself(name, kind):
    before, after = (value(name, case) for case in (make_case(), changed(make_case(), 4, kind)))
    assert before[4] == after[4]
    assert before[:4] + before[5:] != after[:4] + after[5:]


def test_relearning_counts_the_steps_to_what_the_trained_model_knew():
    # gradient descent on w^2 / 2 halves w at every step: 8 -> 1
    at = [Linear(torch.tensor([[x]], dtype=torch.float64)) for x in (1.0, 8.0, 4.0)]
    halving = {"forget_loss": lambda p: (p["weight"] ** 2).sum() / 2, "learning_rate": 0.5}
    case = make_case(runs=(Run(*at),), **halving)
    assert value("relearn_steps", case) == (3.0,)
    assert value("relearn_steps", case.nothing) == (0.0,)


def test_relearning_that_does_not_end_is_undefined():
    case = make_case(forget_loss=lambda p: (p["weight"] ** 2).sum(), learning_rate=1e-9)
    with pytest.raises(Undefined, match="not relearned within 300 steps"):
        value("relearn_steps", case.where(Linear(model.trained.weight * 10) for model in case.runs))
    with pytest.raises(Undefined, match="not the problem's network"):
        value("relearn_steps", replace(case, forget_loss=None))


@pytest.mark.parametrize(
    ("name", "num_seeds", "words"),
    [
        ("verification_error_by_floor", 1, "needs 2 seeds"),
        ("kl_fitted", 7, "needs 8 seeds"),
        ("shadow_models", 1, "needs 2 seeds, for shadow models; there are 1"),
        ("lira", 2, "needs 3 seeds"),
        ("klom", 3, "needs 4 seeds"),
    ],
)
def test_too_few_seeds_are_a_reason(name, num_seeds, words):
    with pytest.raises(Undefined, match=words):
        value(name, make_case(num_seeds))
    value(name, make_case(num_seeds + 1))


def test_a_forgotten_class_leaves_shadow_models_without_members():
    case = make_case()
    with pytest.raises(Undefined, match="`shadow_member` has no example of class 2"):
        value("shadow_models", replace(case, forget=tuple(range(2, 90, 3))))


def test_weights_that_do_not_fit_have_no_distance():
    case = make_case()
    with pytest.raises(Undefined, match="do not have the same shape"):
        value("verification_error", case.where(Linear(draw(5, 2)) for _ in case.runs))


@pytest.mark.parametrize("name", ["lira", "klom", "loss_threshold", "privacy_risk_released"])
def test_a_class_taken_out_of_the_outputs_leaves_no_margin(name):
    class Filtered(Linear):
        def logits(self, inputs):
            return super().logits(inputs).index_fill(1, torch.tensor([2]), -math.inf)

    case = make_case()
    filtered = case.where(Filtered(run.unlearned.weight) for run in case.runs)
    with pytest.raises(Undefined, match="takes a class out of the outputs"):
        value(name, filtered)
    assert min(value("output_distance_test", filtered)) > 0


def test_models_that_never_changed_leave_nothing_to_compare_with():
    case = make_case()
    unmoved = replace(case, runs=tuple(Run(*[run.retrained] * 3) for run in case.runs))
    with pytest.raises(Undefined, match="the same weights"):
        value("verification_error_relative", unmoved)


def test_infinite_values_are_undefined():
    with pytest.raises(Undefined, match="not finite"):
        measure(Metric("", "weights", None, lambda case: [0.0, math.inf]), make_case())


@pytest.mark.parametrize("forget", [(), tuple(range(90))])
def test_a_case_refuses_to_forget_nothing_or_everything(forget):
    with pytest.raises(InputError, match=r"is empty|not everything"):
        make_case(forget=forget)


@pytest.fixture
def registry():
    """The registry, as it was when the test is over."""
    before = dict(METRICS)
    yield METRICS
    METRICS.clear()
    METRICS.update(before)


def test_recipe_of_the_readme_runs_and_its_claim_holds(registry):
    names = {"torch": torch}
    for block in re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, "README.md", "exec"), names)
    names["test_two_of_four_examples_are_called_otherwise"]()
    assert value("disagreement", make_case().exact) == (0.0,) * 12
    opposite = make_case().where(Linear(-run.retrained.weight) for run in make_case().runs)
    # of three classes the first of M' is the last of M''
    assert value("disagreement", opposite) == (1.0,) * 12


def test_a_taken_name_is_refused_and_its_metric_stays(registry):
    own = Metric("nothing", "outputs", 0, lambda case: 0.0)
    register_metric("mine", own)
    with pytest.raises(InputError, match="a metric 'mine' already"):
        register_metric("mine", METRICS["klom"])
    assert METRICS["mine"] is own


def test_everything_the_readme_names_exists():
    text = README.read_text(encoding="utf-8")
    for line in re.findall(r"^- (.*?):", text, re.MULTILINE):
        for name in re.findall(r"`(\w+)[`(]", line):
            assert hasattr(Case, name) or name in Case.__dataclass_fields__, name
    for name, file in re.findall(r"^\| `(\w+)` .* `(\w+\.py)` \|$", text, re.MULTILINE):
        assert re.search(rf"^(class|def) {name}\b|^{name}:", README.with_name(file).read_text(), re.MULTILINE)
