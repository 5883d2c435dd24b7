"""Every method of the registry on a tiny logistic regression and a tiny net, and where theory is exact."""

import copy
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import unrolling
from unrolling import (
    BatchOrder,
    Objective,
    load_dataset,
    make_batch_order,
    make_generator,
    seeded,
    verification_error,
)
from unrolling._checks import InputError
from unrolling.methods import METHODS, Method, assumptions, register_method
from unrolling.methods.others.certified_removal import run_certified_removal
from unrolling.methods.others.newton_removal import (
    full_hessian,
    run_newton_removal,
    softmax_regression_constants,
)
from unrolling.methods.problem import NotApplicable, Outcome, Problem
from unrolling.model_loss import gradient
from unrolling.parameters import norm
from unrolling.runs import RunConfig, obtain, trace_frame
from unrolling.runs.unlearned import RUN_METHODS, column
from unrolling.store import Store
from unrolling.studies.taxonomy.scores import Setting, choose_classes, into_unit_ball, run_matrix

README = Path(unrolling.__file__).parent / "methods" / "README.md"
EXACT = {"retrain", "sisa"}
SETTING = Setting(
    model="linear",
    l2=0.01,
    batch_size=8,
    epochs=1,
    learning_rate=0.5,
    forget="batch",
    num_forget=8,
    noise=0.1,
    delta=1e-5,
)


def make(kind="logistic", *, num_classes=2, forget=(3, 8), n=24, d=4, epochs=2, size=6, l2=0.05, **changes):
    generator = make_generator(0, "registry", kind)
    labels = torch.arange(n) % num_classes
    centres = torch.randn(num_classes, d, dtype=torch.float64, generator=generator)
    inputs = centres[labels] + torch.randn(n, d, dtype=torch.float64, generator=generator)
    with seeded(0, "model"):
        model = {
            "logistic": lambda: nn.Linear(d, num_classes),
            "net": lambda: nn.Sequential(nn.Linear(d, 5), nn.Tanh(), nn.Linear(5, num_classes)),
            "batch norm": lambda: nn.Sequential(
                nn.Linear(d, 5), nn.BatchNorm1d(5), nn.Linear(5, num_classes)
            ),
        }[kind]()
    settings = {
        "model": model.double(),
        "loss_fn": Objective("weight_decay", l2),
        "l2": l2,
        "inputs": inputs,
        "labels": labels,
        "num_classes": num_classes,
        "order": make_batch_order(n, size, epochs, generator),
        "learning_rate": 0.2,
        "forget": forget,
        "seed": 0,
    }
    return Problem(**settings | changes)


def whole_batch(kind, **changes):
    """F is a batch of its own."""
    order = BatchOrder(((0, 1, 2), (3, 4), (5, 6, 7)) * 2)
    return make(kind, n=8, order=order, forget=(3, 4), **changes)


def a_class(kind, num_classes=3):
    return make(kind, num_classes=num_classes, forget=tuple(range(1, 24, num_classes)))


# Each of these must be applicable to each method that can be applied to such a model at all.
PROBLEMS = {"logistic": make("logistic"), "net": make("net"), "class": a_class("net")}
REFUSED = {
    "logistic": {"linear_filtration"},
    "net": {"linear_filtration", "certified_removal", "newton_removal"},
    "class": {"certified_removal", "newton_removal"},
}


def error(outcome):
    return verification_error(outcome.unlearned.params, outcome.retrained.params)


def same(first, second):
    assert first.params.keys() == second.params.keys()
    assert all(torch.equal(first.params[name], second.params[name]) for name in first.params)


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_an_outcome_or_says_why_not(name, kind):
    problem = PROBLEMS[kind]
    if name in REFUSED[kind]:
        with pytest.raises(NotApplicable):
            METHODS[name].run(problem)
        return
    before = copy.deepcopy(problem.model.state_dict())
    trained = {key: value.clone() for key, value in problem.final_params.items()}
    state = torch.get_rng_state()

    outcome = METHODS[name].run(problem)

    assert isinstance(outcome, Outcome)
    for model in (outcome.trained, outcome.unlearned, outcome.retrained):
        assert all(bool(p.isfinite().all()) and not p.requires_grad for p in model.params.values())
        logits = model.logits(problem.inputs)
        assert logits.shape == (len(problem.inputs), problem.num_classes)
        assert not logits.requires_grad
        assert not bool(logits.isnan().any())
    for cost in (outcome.cost, outcome.retraining):
        assert cost.gradients >= 0
        assert cost.hvps >= 0
        assert cost.stored_bytes >= 0
    assert outcome.retraining.gradients > 0
    assert all(isinstance(flag, str) and flag for flag in outcome.broken)
    torch.testing.assert_close(dict(problem.model.state_dict()), dict(before), rtol=0, atol=0)
    torch.testing.assert_close(problem.final_params, trained, rtol=0, atol=0)
    torch.testing.assert_close(unrolling.snapshot(problem.trained), trained, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("name", METHODS)
def test_running_a_method_again_gives_the_same_bits(name, kind):
    if name in REFUSED[kind]:
        return
    first = METHODS[name].run(PROBLEMS[kind])
    again = METHODS[name].run(replace(PROBLEMS[kind]))
    for model in ("trained", "unlearned", "retrained"):
        same(getattr(first, model), getattr(again, model))


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("name", sorted(EXACT))
def test_exact_methods_have_no_error_bit_for_bit(name, kind):
    outcome = METHODS[name].run(PROBLEMS[kind])
    same(outcome.unlearned, outcome.retrained)
    inputs = PROBLEMS[kind].inputs
    assert torch.equal(outcome.unlearned.logits(inputs), outcome.retrained.logits(inputs))
    assert verification_error(outcome.trained.params, outcome.retrained.params) > 0


def test_doing_nothing_leaves_the_trained_model_and_costs_nothing():
    outcome = METHODS["nothing"].run(make())
    same(outcome.unlearned, outcome.trained)
    assert (outcome.cost.gradients, outcome.cost.hvps, outcome.cost.stored_bytes) == (0, 0, 0)


# Where theory is exact


class Plane(nn.Module):
    """One output; its mean is a loss that is linear in the weights."""

    def __init__(self, d=4):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, d, dtype=torch.float64))

    def forward(self, inputs):
        return (inputs @ self.weight)[:, None].expand(-1, 2)


def mean_output(model, batch):
    return model(batch[0]).mean()


@pytest.mark.parametrize("name", ["single_gradient", "second_order", "linear_propagation", "amnesiac"])
def test_first_order_methods_are_exact_on_a_linear_loss(name):
    problem = whole_batch("logistic", model=Plane(), loss_fn=mean_output, l2=0.0)
    outcome = METHODS[name].run(problem)
    assert verification_error(outcome.trained.params, outcome.retrained.params) > 0.1
    assert error(outcome) < 1e-12


@pytest.mark.parametrize("name", ["second_order", "linear_propagation"])
def test_removal_from_parts_of_batches_is_exact_on_a_linear_loss(name):
    problem = make(model=Plane(), loss_fn=mean_output, l2=0.0)
    outcome = METHODS[name].run(problem)
    assert verification_error(outcome.trained.params, outcome.retrained.params) > 0.01
    assert error(outcome) < 1e-12


def test_single_gradient_adds_back_the_sum_over_the_batch_size():
    problem = make(model=Plane(), loss_fn=mean_output, l2=0.0)
    outcome = METHODS["single_gradient"].run(problem)
    x = problem.inputs
    expected = problem.initial_params["weight"].clone()
    for batch in problem.order:
        expected -= 0.2 * sum(x[i] for i in batch if i not in problem.forget) / len(batch)
    torch.testing.assert_close(outcome.unlearned.params["weight"], expected)
    # Retraining averages over the examples that stay, and the outcome says so.
    assert error(outcome) > 1e-3
    flag = f"in {len(problem.forget_steps)} steps others stay, and are averaged over fewer examples"
    assert flag in outcome.broken


def squared(model, batch):
    return assumptions.squared_loss(model(batch[0]), batch[1])


def test_linear_propagation_is_exact_on_quadratic_losses_for_parts_of_batches():
    problem = make(loss_fn=squared, l2=0.0, learning_rate=0.05)
    outcome = METHODS["linear_propagation"].run(problem)
    assert verification_error(outcome.trained.params, outcome.retrained.params) > 1e-3
    assert error(outcome) < 1e-12


def test_second_order_is_exact_for_two_steps_on_quadratic_losses_for_parts_of_batches():
    order = BatchOrder(((0, 3, 1), (3, 4, 8, 2)))  # the expansion ends with the terms of second order
    problem = make(loss_fn=squared, l2=0.0, order=order)
    outcome = METHODS["second_order"].run(problem)
    assert verification_error(outcome.trained.params, outcome.retrained.params) > 1e-3
    assert error(outcome) < 1e-12


@pytest.mark.parametrize("parts", [True, False])
def test_second_order_error_shrinks_with_the_cube_of_the_learning_rate(parts):
    errors = []
    for eta in (4e-3, 2e-3):
        problem = (make if parts else whole_batch)("net", learning_rate=eta)
        errors.append(error(METHODS["second_order"].run(problem)))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(3, abs=0.1)


def test_deltagrad_with_every_step_exact_is_retraining():
    problem = make("net")
    outcome = METHODS["deltagrad"].run(problem)  # 8 steps: all within the burn-in
    assert error(outcome) < 1e-12


def test_ntk_scrubbing_is_exact_where_its_theory_is():
    model = nn.Linear(4, 2).double()
    for p in model.parameters():
        nn.init.zeros_(p)  # so that weight decay pulls to w_0

    def loss(model, batch):
        return squared(model, batch) + 0.05 * sum(p.square().sum() for p in model.parameters()) / 2

    order = BatchOrder((tuple(range(24)),) * 800)
    problem = make(model=model, loss_fn=loss, order=order)
    outcome = METHODS["ntk_scrubbing"].run(problem)
    assert outcome.broken == ()
    assert verification_error(outcome.trained.params, outcome.retrained.params) > 1e-3
    assert error(outcome) < 1e-10


def test_newton_removal_is_near_the_retrained_minimum_and_within_its_bound():
    problem = make(num_classes=3, l2=0.5)
    outcome = run_newton_removal(problem)
    moved = verification_error(outcome.trained.params, outcome.retrained.params)
    assert error(outcome) < 0.1 * moved
    assert outcome.cost.hvps == pytest.approx((4 * 3 + 3) * 2 / 6)


def test_minimum_of_newton_removal_is_where_the_gradient_of_the_training_loss_vanishes():
    problem = make(num_classes=3, l2=0.5, forget=(3,))
    # The noise is the same in all three models: what is left of differences is the minima's.
    outcome = run_newton_removal(problem)
    shift = {name: outcome.trained.params[name] - p for name, p in outcome.retrained.params.items()}
    minima = []
    for examples in (problem.examples, problem.retained):
        model, index = copy.deepcopy(problem.model), list(examples)
        solver = torch.optim.LBFGS(
            model.parameters(),
            max_iter=500,
            tolerance_grad=1e-12,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )

        def closure(model=model, index=index, solver=solver):
            solver.zero_grad()
            value = problem.loss_fn(model, (problem.inputs[index], problem.labels[index]))
            value.backward()
            return value

        solver.step(closure)
        minima.append(unrolling.snapshot(model))
    for name, p in shift.items():
        torch.testing.assert_close(p, minima[0][name] - minima[1][name], rtol=1e-4, atol=1e-6)


def test_constants_of_softmax_regression_bound_gradients_and_third_derivatives():
    generator = make_generator(0, "constants")
    _, sharpest = softmax_regression_constants(1.0)
    largest = 0.0
    for scale in (0.1, 1.0, 3.0):
        for _ in range(200):
            logits = scale * torch.randn(4, dtype=torch.float64, generator=generator)
            u = torch.randn(4, dtype=torch.float64, generator=generator)
            p, u = logits.softmax(0), u / u.norm()
            third = float((p * (u - p @ u) ** 3).sum())
            largest = max(largest, abs(third))
    assert largest <= sharpest
    # Two classes attain the bound: p = (1 + 1 / sqrt(3)) / 2 along (1, -1) / sqrt(2).
    p = torch.tensor([(1 + 3**-0.5) / 2, (1 - 3**-0.5) / 2], dtype=torch.float64)
    u = torch.tensor([1.0, -1.0], dtype=torch.float64) / math.sqrt(2)
    assert abs(float((p * (u - p @ u) ** 3).sum())) == pytest.approx(sharpest)


def test_certified_removal_trains_the_problems_own_model():
    # With hardly any noise its minimum gives the logits of the problem's, trained to convergence.
    order = BatchOrder((tuple(range(24)),) * 3000)
    problem = make(order=order, learning_rate=0.5, forget=(3,))
    outcome = run_certified_removal(problem, noise_scale=1e-4, epsilon=1.0, delta=0.1)
    for own, other in ((outcome.trained, problem.trained), (outcome.retrained, problem.retrained)):
        logits, expected = own.logits(problem.inputs), other(problem.inputs).detach()
        torch.testing.assert_close(
            logits[:, 1] - logits[:, 0], expected[:, 1] - expected[:, 0], rtol=1e-3, atol=1e-3
        )


def test_newton_step_of_certified_removal_is_taken_when_the_noise_covers_it():
    outcome = run_certified_removal(make(n=200, l2=0.5))
    assert not any("trained anew" in flag for flag in outcome.broken)
    moved = verification_error(outcome.trained.params, outcome.retrained.params)
    assert 0 < error(outcome) < 0.01 * moved


def test_certified_removal_says_when_it_trains_anew():
    outcome = run_certified_removal(make(n=24, l2=0.05), delta=1e-300)
    assert any("trained anew" in flag for flag in outcome.broken)
    assert error(outcome) == 0


def test_lipschitz_constant_holds_at_the_minimum():
    problem = make(num_classes=3, order=BatchOrder((tuple(range(24)),) * 3000), learning_rate=0.3)
    assert assumptions.converged(problem) == ()
    longest, _ = assumptions.linear_features(problem).bound(problem.inputs)
    lipschitz, _ = softmax_regression_constants(longest)
    steepest = max(
        norm(gradient(problem.mean_loss([i]), problem.final_params)) for i in range(len(problem.inputs))
    )
    assert 0.1 * lipschitz < steepest <= lipschitz


def test_filtered_models_never_predict_the_forgotten_class():
    problem = a_class("logistic")
    outcome = METHODS["linear_filtration"].run(problem)
    others = [0, 2]
    for model in (outcome.unlearned, outcome.retrained):
        logits = model.logits(problem.inputs)
        assert bool((logits[:, 1] == -torch.inf).all())
        assert bool(logits[:, others].isfinite().all())
    own = outcome.unlearned.params
    expected = problem.inputs @ own["weight"].T + own["bias"]
    torch.testing.assert_close(outcome.unlearned.logits(problem.inputs)[:, others], expected)
    torch.testing.assert_close(
        outcome.retrained.logits(problem.inputs)[:, others],
        problem.retrained(problem.inputs).detach()[:, others],
    )
    assert outcome.broken == ()
    assert METHODS["linear_filtration"].run(PROBLEMS["class"]).broken


def test_dp_sgd_unlearns_by_doing_nothing_and_says_what_its_guarantee_is_worth():
    outcome = METHODS["dp_sgd"].run(a_class("net"))
    same(outcome.trained, outcome.unlearned)
    assert any("guarantee for 8 examples is empty" in flag for flag in outcome.broken)
    assert any("l2" in flag for flag in outcome.broken)
    plain = METHODS["dp_sgd"].run(make("net", l2=0.0, forget=(3,), loss_fn=Objective("cross_entropy")))
    assert plain.broken == ()


def test_amnesiac_methods_say_whom_they_undo_with_the_forgotten():
    for name in ("amnesiac", "amnesiac_released"):
        problem = make("net", order=BatchOrder(((0, 3, 1), (2, 4, 8, 0), (5, 6))))
        assert METHODS[name].run(problem).broken[0] == "4 examples that stay are undone with F"
        assert METHODS[name].run(whole_batch("net")).broken == assumptions.FOLLOWS_THE_TRAJECTORY


# What is counted


def test_costs_of_the_papers_methods_are_those_of_the_examples_they_touch():
    problem = make("net", epochs=3)
    size = sum(p.nbytes for p in problem.initial_params.values())
    single = METHODS["single_gradient"].run(problem).cost
    assert (single.gradients, single.hvps, single.stored_bytes) == (pytest.approx(2 / 6), 0, size)
    final = METHODS["final_gradient"].run(problem).cost
    assert (final.gradients, final.hvps, final.stored_bytes) == (pytest.approx(2 / 6), 0, 0)
    assert METHODS["retrain"].run(problem).cost.gradients == pytest.approx(3 * 22 / 6)
    propagated = METHODS["linear_propagation"].run(problem).cost
    assert propagated.stored_bytes == 12 * size
    assert propagated.gradients == 2 * len(problem.forget_steps)


def test_final_gradient_counts_every_forgotten_example_once():
    problem = make("net", epochs=3)
    outcome = METHODS["final_gradient"].run(problem)
    x, y = problem.inputs[[3, 8]], problem.labels[[3, 8]]

    def loss(params):
        logits = torch.func.functional_call(problem.model, params, (x,))
        return nn.functional.cross_entropy(logits, y, reduction="sum") / 6

    slope = gradient(loss, problem.final_params)
    for name, p in problem.final_params.items():
        torch.testing.assert_close(outcome.unlearned.params[name], p + 0.2 * slope[name])
    assert any("more often" in flag for flag in outcome.broken)


# Assumptions


def test_flags_are_computed_from_the_problem():
    clean = make(size=1, learning_rate=1e-4, forget=(3,))
    assert METHODS["single_gradient"].run(clean).broken == ()
    assert METHODS["deltagrad"].run(clean).broken == ()
    assert assumptions.smooth(clean) == ()
    assert assumptions.smooth(make("net", model=nn.Sequential(nn.Linear(4, 2), nn.ReLU()).double()))
    assert assumptions.batches_of_one(make()) == ("batches of 6, not 1 (Corollary 1)",)
    assert assumptions.small_expansion(clean) == ()
    assert assumptions.small_expansion(replace(clean, learning_rate=5.0))
    assert assumptions.strongly_convex(make("net")) == ("the loss is not known to be convex",)
    assert "strongly" in assumptions.strongly_convex(make(l2=0.0))[0]
    assert "strongly" in assumptions.strongly_convex(make(loss_fn=squared, l2=0.0))[0]
    assert "not known" in assumptions.strongly_convex(make(loss_fn=Objective("sd", 0.5), l2=0.0))[0]
    relu = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    assert "the loss has kinks (ReLU)" in METHODS["single_gradient"].run(make(model=relu)).broken
    assert assumptions.quadratic(make(loss_fn=squared, l2=0.0)) == ()
    assert assumptions.quadratic(make())
    assert assumptions.few_forgotten(make()) == ()
    assert assumptions.few_forgotten(make(forget=(1, 2, 3)))
    assert assumptions.converged(make())
    assert "others stay" in assumptions.whole_batches(make())[0]
    assert assumptions.whole_batches(whole_batch("net")) == ()


def test_sigma_is_the_largest_singular_value_of_the_mean_losses_hessian():
    problem = make("net")
    dense = full_hessian(problem.mean_loss(problem.examples), problem.initial_params)
    assert problem.sigma == pytest.approx(float(torch.linalg.matrix_norm(dense, 2)), rel=1e-3)


def test_linear_features_have_the_logits_of_the_model():
    with seeded(0, "model"):
        model = nn.Sequential(nn.Flatten(), nn.Tanh(), nn.Linear(4, 2)).double()
    problem = make(model=model)
    features = assumptions.linear_features(problem)(problem.inputs)
    layer = torch.cat([model[2].weight, model[2].bias[:, None]], dim=1)
    torch.testing.assert_close(features @ layer.T, model(problem.inputs))
    assert assumptions.linear_features(make("net")) is None
    dropout = make(model=nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 2)).double())
    assert assumptions.linear_features(dropout) is None
    longest = float(model[1](problem.inputs).norm(dim=1).max())
    bound, flags = assumptions.linear_features(problem).bound(problem.inputs)
    assert bound == pytest.approx(math.sqrt(longest**2 + 1))
    assert "by looking" in flags[0]
    assert assumptions.linear_features(problem).bound(problem.inputs / 100) == (math.sqrt(2), ())
    assert assumptions.linear_features(make(model=nn.Sequential(nn.Linear(4, 2), nn.Tanh()).double())) is None


# Misuse


@pytest.mark.parametrize(
    ("name", "problem", "message"),
    [
        ("certified_removal", lambda: make("net"), "convex"),
        ("newton_removal", lambda: make("net"), "convex"),
        ("certified_removal", lambda: make(num_classes=3), "two classes here, got 3"),
        ("certified_removal", lambda: make(l2=0.0), "l2 > 0"),
        ("newton_removal", lambda: make(loss_fn=Objective("sd", 0.5), l2=0.0), "the loss is another"),
        ("newton_removal", lambda: make(d=1100), "more than 2000"),
        ("dp_sgd", lambda: make("batch norm"), "batch norm"),
        ("dp_sgd", lambda: make(loss_fn=Objective("sd", 0.5), l2=0.0), "the training loss is another"),
        ("single_gradient", lambda: make("batch norm"), "batch norm mixes"),
        (
            "deltagrad",
            lambda: make("net", model=nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 2)).double()),
            "plain SGD",
        ),
        ("linear_filtration", make, "forgets a whole class"),
        ("linear_filtration", lambda: replace(a_class("net"), model=zeros(3)), "singular"),
        (
            "sisa",
            lambda: make(n=8, order=BatchOrder(((0, 1, 2, 3),)), forget=(0,)),
            "need at least 9 examples",
        ),
        ("ntk_scrubbing", lambda: make(d=400_000), "Use fewer examples"),
        ("fisher_scrubbing", lambda: make(d=400_000), "Use fewer examples"),
    ],
)
def test_misuse_is_refused_in_one_clear_error(name, problem, message):
    with pytest.raises(NotApplicable, match=message) as caught:
        METHODS[name].run(problem())
    assert "\n" not in str(caught.value)


def zeros(num_classes):
    """The logits of a last layer that starts from zeros sum to zero for ever."""
    model = nn.Linear(4, num_classes).double()
    for p in model.parameters():
        nn.init.zeros_(p)
    return model


# The registry


def test_names_titles_and_sources():
    for method in METHODS.values():
        assert isinstance(method, Method)
        assert method.title
        assert method.source
        assert "\n" not in method.title + method.source
        assert method.run.__doc__


@pytest.fixture
def registry():
    """The registry; it and the table of runs are as they were when the test is over."""
    tables = METHODS, RUN_METHODS
    before = [dict(table) for table in tables]
    yield METHODS
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


def test_method_from_outside_the_package_is_registered_and_run(registry):
    def run(problem):
        return METHODS["nothing"].run(problem)

    register_method("mine", Method("do nothing, in my own way", "me", run))
    assert registry["mine"].run(make()).broken == ()
    with pytest.raises(InputError, match="'mine' already"):
        register_method("mine", registry["mine"])


def follow_the_recipe():
    """What the code of the README defines, once it has run."""
    names = {"verification_error": verification_error}
    for block in re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, "README.md", "exec"), names)
    return names


def test_recipe_of_the_readme_runs_and_its_claim_holds(registry):
    names = follow_the_recipe()
    problem = whole_batch("logistic", model=Plane(), loss_fn=mean_output, l2=0.0)
    names["test_ascent_is_exact_on_a_linear_loss"](problem)
    outcome = registry["ascent"].run(make("net"))
    assert norm(outcome.unlearned.params) > 0
    assert outcome.cost.gradients == 4


def test_a_method_by_the_recipe_is_in_figure_1_and_in_the_figures_over_settings(registry, tmp_path):
    follow_the_recipe()
    digits = choose_classes(load_dataset("digits"), (3, 8)).subset(42, 20, make_generator(0, "subset"))
    chosen = {name: METHODS[name] for name in ("retrain", "nothing", "final_gradient", "ascent")}
    cells, rows = run_matrix(into_unit_ball(digits), SETTING, range(2), chosen)
    values = cells.pivot(index="metric", columns="method", values="value")
    # F is a batch that one step trained on: a step uphill from the end is the final gradient.
    assert values.loc["verification_error", "ascent"] == pytest.approx(
        values.loc["verification_error", "final_gradient"], rel=1e-12
    )
    assert values.loc["verification_error", "ascent"] != values.loc["verification_error", "nothing"]
    assert set(rows["method"]) == set(chosen)

    config = RunConfig(
        dataset="digits",
        train_size=96,
        test_size=50,
        model="mlp",
        batch_size=16,
        pretrain_epochs=0,
        epochs=1,
        sigma_every=6,
        record_every=2,
    )
    frame = trace_frame(obtain([config], store=Store(tmp_path)))
    assert frame["v_ascent"].tolist() == pytest.approx(frame["v_final_gradient"].tolist(), rel=1e-12)
    assert (frame["v_ascent"] != frame["v_nothing"]).all()


def test_columns_of_a_run_are_those_of_the_table(registry):
    """Stored runs have these, and figures and claims read them by name."""
    columns = [column(name) for name in RUN_METHODS]
    assert columns == ["v", "v_final_gradient", "v_amnesiac", "v_amnesiac_released", "v_nothing"]


def test_every_adapter_the_readme_names_exists():
    text = README.read_text(encoding="utf-8")
    for name in re.findall(r"^- `([\w`, ]+?)[`(:]", text, re.MULTILINE):
        assert hasattr(Problem, name) or name in Problem.__dataclass_fields__, name
