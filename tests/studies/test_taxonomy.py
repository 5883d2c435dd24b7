import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from unrolling._checks import InputError
from unrolling.data import load_dataset
from unrolling.methods.cost import Cost
from unrolling.methods.problem import NotApplicable
from unrolling.methods.registry import METHODS, Method
from unrolling.metrics.registry import METRICS, Metric
from unrolling.seeding import make_generator
from unrolling.studies.taxonomy.scores import (
    Setting,
    choose_classes,
    into_unit_ball,
    make_problem,
    run_matrix,
)

SETTING = Setting(
    model="linear",
    l2=0.01,
    batch_size=8,
    epochs=2,
    learning_rate=0.5,
    forget="batch",
    num_forget=8,
    noise=0.1,
    delta=1e-5,
)
CHEAP = ("retrain", "nothing", "single_gradient", "sisa", "linear_filtration")


@pytest.fixture(scope="module")
def data():
    digits = choose_classes(load_dataset("digits"), (3, 8))
    return into_unit_ball(digits.subset(42, 20, make_generator(0, "subset")))


@pytest.fixture(scope="module")
def tables(data):
    return run_matrix(data, SETTING, range(4), {name: METHODS[name] for name in CHEAP})


def test_chosen_classes_are_numbered_in_the_order_given():
    digits = load_dataset("digits")
    chosen = choose_classes(digits, (8, 3))
    for inputs, labels, source, truth in (
        (chosen.train_inputs, chosen.train_labels, digits.train_inputs, digits.train_labels),
        (chosen.test_inputs, chosen.test_labels, digits.test_inputs, digits.test_labels),
    ):
        for label, original in enumerate((8, 3)):
            assert torch.equal(inputs[labels == label], source[truth == original])
    assert chosen.class_names == ("8", "3")


def test_what_is_made_of_a_data_set_is_another():
    """Each has a fingerprint and a description of its own, and the same one when made again."""

    def made():
        digits = load_dataset("digits")
        chosen = [choose_classes(digits, classes) for classes in ((3, 8), (8, 3), (1, 7), range(10))]
        return [digits, *chosen, *map(into_unit_ball, (digits, *chosen))]

    for attribute in ("fingerprint", "description"):
        values = [getattr(each, attribute) for each in made()]
        assert len(set(values)) == len(values) == 10
        assert values == [getattr(each, attribute) for each in made()]
    assert made()[6].description.endswith("; only classes 3, 8; in the unit ball")


@pytest.mark.parametrize("classes", [(3,), (3, 3), (3, 10)])
def test_classes_that_make_no_problem_are_refused(classes):
    with pytest.raises(InputError, match="class"):
        choose_classes(load_dataset("digits"), classes)


def test_the_longest_training_input_has_norm_one(data):
    norms = data.train_inputs.flatten(1).norm(dim=1)
    assert float(norms.max()) == pytest.approx(1, abs=1e-15)


def epochs(problem):
    size = len(problem.order) // SETTING.epochs
    return [problem.order.steps[i * size : (i + 1) * size] for i in range(SETTING.epochs)]


@pytest.mark.parametrize("seed", range(6))
def test_a_forgotten_batch_is_a_step_of_its_own_in_every_epoch(data, seed):
    problem = make_problem(data, SETTING, seed)
    for epoch in epochs(problem):
        assert epoch.count(problem.forget) == 1
        assert sorted(example for batch in epoch for example in batch) == list(range(42))
    assert problem.forget == make_problem(data, SETTING, 0).forget


def test_seeds_draw_weights_batches_and_the_place_of_the_forgotten_one(data):
    problems = [make_problem(data, SETTING, seed) for seed in range(6)]
    assert len({problem.order.steps for problem in problems}) == 6
    assert len({float(problem.initial_params["1.weight"][0, 0]) for problem in problems}) == 6
    assert len({problem.forget_steps for problem in problems}) > 1


def test_forgotten_examples_are_spread_over_batches(data):
    problem = make_problem(data, replace(SETTING, forget="examples"), 0)
    assert any(problem.split(problem.order[step])[0] for step in problem.forget_steps)


def test_a_forgotten_class_is_all_of_the_last(data):
    problem = make_problem(data, replace(SETTING, forget="class"), 0)
    assert set(problem.forget) == set((data.train_labels == 1).nonzero().squeeze(1).tolist())


@pytest.mark.parametrize("change", [{"forget": "some"}, {"num_forget": 0}, {"epochs": 0}, {"l2": -1.0}])
def test_a_setting_that_makes_no_problem_is_refused(change):
    with pytest.raises(InputError):
        replace(SETTING, **change)


def row(cells, method):
    return cells[cells["method"] == method].set_index("metric")


def test_the_ends_of_the_scale_are_retraining_and_doing_nothing(tables):
    cells, _ = tables
    exact, nothing = row(cells, "retrain"), row(cells, "nothing")
    assert exact.loc["verification_error", "value"] == 0
    assert nothing.loc["verification_error", "value"] > 0
    told = nothing["left"].notna()
    assert told["verification_error"]
    assert not told["klom"]  # one number for all seeds has no interval
    assert (exact.loc[told, "left"] == 0).all()
    assert nothing.loc[told, "left"].to_numpy() == pytest.approx(1)


def test_every_cell_has_a_value_or_a_reason(tables):
    cells, _ = tables
    assert len(cells) == len(CHEAP) * len(METRICS)
    assert (cells["value"].notna() != (cells["reason"] != "")).all()
    filtration = row(cells, "linear_filtration")
    assert filtration["reason"].str.contains("forgets a whole class").all()
    assert "not the problem's network" in row(cells, "sisa").loc["relearn_steps", "reason"]


def test_costs_are_relative_to_retraining(tables):
    _, methods = tables
    costs = methods.set_index("method")
    assert costs.loc["retrain", "gradients"] == 1
    assert costs.loc["nothing", "gradients"] == 0
    # one epoch's gradient of the batch at w_0, twice: over the 2 * (42 - 8) / 8 gradients of retraining
    assert costs.loc["single_gradient", "gradients"] in (1 / 8.5, 2 / 8.5)
    assert "forgets a whole class" in costs.loc["linear_filtration", "reason"]


def shifted(by):
    """A method whose M and M'' have the weights of M' but for a shift."""

    def run(problem):
        outcome = METHODS["retrain"].run(problem)
        params = {name: p + by for name, p in outcome.retrained.params.items()}
        moved = replace(outcome.retrained, params=params)
        cost = Cost(gradients=by * outcome.retraining.gradients, hvps=0, stored_bytes=2_000_000)
        return replace(
            outcome,
            trained=moved,
            unlearned=moved,
            cost=cost,
            broken=(f"seed {problem.seed} is odd" if problem.seed else "small",),
        )

    return Method("shift", "", run)


def first_weights(case):
    return [float(run.unlearned.params["1.weight"][0, 0]) for run in case.runs]


def test_left_is_the_distance_from_exact_unlearning_over_that_of_doing_nothing(data):
    methods = {
        "retrain": METHODS["retrain"],
        "nothing": shifted(2.0),
        "quarter": shifted(0.5),
        "far": shifted(-6.0),
    }
    metrics = {"first": Metric("", "weights", None, first_weights)}
    cells, rows = run_matrix(data, SETTING, range(3), methods, metrics)
    assert cells["left"].to_numpy() == pytest.approx([0, 1, 0.25, 3])
    assert np.subtract(cells["value"], cells["exact"]).to_numpy() == pytest.approx([0, 2, 0.5, -6])
    values = first_weights_of_retrained(data, 3)
    half = 4.302652729911275 * np.std(values, ddof=1) / math.sqrt(3)  # t quantile, 2 degrees of freedom
    assert cells.loc[0, ["low", "high"]].tolist() == pytest.approx(
        [np.mean(values) - half, np.mean(values) + half]
    )
    costs = rows.set_index("method").loc["quarter"]
    assert (costs["gradients"], costs["megabytes"]) == (0.5, 2.0)
    assert costs["broken"] == "small; seed 1 is odd"


def first_weights_of_retrained(data, num_seeds):
    retrained = (make_problem(data, SETTING, seed).retrained for seed in range(num_seeds))
    return [float(model[1].weight[0, 0].detach()) for model in retrained]


@pytest.mark.parametrize(
    ("values", "told"),
    [([1.0, 1.1, 0.9], True), ([1.0, -1.0, 0.1], False), ([0.0, 0.0, 0.0], False), (1.0, False)],
)
def test_a_metric_that_cannot_tell_the_ends_apart_gives_no_scale(data, values, told):
    methods = {"retrain": METHODS["retrain"], "nothing": METHODS["nothing"]}
    metrics = {"fixed": Metric("", "outputs", 0.0, lambda case: values)}
    cells, _ = run_matrix(data, SETTING, range(3), methods, metrics)
    assert cells["left"].notna().all() == told


def test_exact_unlearning_is_judged_by_the_methods_own_retrained_models(data):
    def turned(problem):
        """The same weights; the outputs of M'' and M' are turned round."""
        outcome = METHODS["nothing"].run(problem)
        plain = outcome.retrained
        other = replace(plain, logits=lambda inputs: -plain.logits(inputs))
        return replace(outcome, unlearned=other, retrained=other)

    methods = {**{name: METHODS[name] for name in CHEAP[:2]}, "turned": Method("", "", turned)}
    cells, _ = run_matrix(data, SETTING, range(2), methods, {"accuracy_test": METRICS["accuracy_test"]})
    exact = cells.set_index("method")["exact"]
    assert exact["nothing"] == exact["retrain"]
    assert exact["turned"] == pytest.approx(1 - exact["retrain"])


def test_a_method_from_outside_the_package_takes_part(data):
    def refuse(problem):
        raise NotApplicable("it is Sunday.")

    methods = {**{name: METHODS[name] for name in CHEAP[:2]}, "mine": Method("rests", "", refuse)}
    cells, rows = run_matrix(data, SETTING, range(2), methods)
    assert (row(cells, "mine")["reason"] == "it is Sunday.").all()
    assert rows.set_index("method").loc["mine", "reason"] == "it is Sunday."


def test_a_scale_without_its_ends_is_refused(data):
    with pytest.raises(InputError, match="unknown method 'nothing'"):
        run_matrix(data, SETTING, range(2), {"retrain": METHODS["retrain"]})
