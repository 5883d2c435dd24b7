"""The analysis of Figure 3, its price and the reach of unlearning, where the answers are known by hand."""

import made_up_runs as made_up
import numpy as np
import pandas as pd
import pytest

from unrolling._checks import InputError
from unrolling.runs import load_profile, published
from unrolling.runs.frames import error_from_roots
from unrolling.store import Record
from unrolling.studies.frames import reach
from unrolling.studies.unlearning_error.frames import (
    break_even,
    costs,
    doublings,
    every_other,
    growth,
    halving,
    linearity,
)
from unrolling.unlearning_error import unlearning_error


def test_e_from_roots_is_eq_9_with_the_mean_root_in_every_committed_run():
    runs = published(load_profile("small").experiment("proxy").configs(("steps", "strength")), "small")
    assert len(runs) == 70
    for run in runs:
        trace, sigma, t = run.result["trace"], run.result["sigma"], run.result["trace"]["step"][-1]
        roots = [
            abs(value) ** 0.5 for at, value in zip(sigma["step"], sigma["eigenvalue"], strict=True) if at < t
        ]
        expected = unlearning_error(
            learning_rate=run.config["learning_rate"],
            weight_change=trace["weight_change"][-1],
            sigma_avg=sum(roots) / len(roots),
            num_steps=t,
        )
        assert error_from_roots(run, t) == pytest.approx(expected, rel=1e-9)


def trace(e, *, steps=None, model="mlp", seed=0):
    steps = range(1, len(e) + 1) if steps is None else steps
    names = {"address": f"{model}-{seed}", "dataset": "digits", "model": model, "seed": seed}
    return pd.DataFrame({"step": list(steps), "e": e}).assign(**names)


def test_a_straight_line_is_linear_whatever_its_offset_and_a_parabola_is_not():
    steps = np.arange(1, 11)
    lines = pd.concat([trace(3.0 * steps - 2), trace((steps - 5.0) ** 2, seed=1)])
    straight, bent = linearity(lines).to_dict("records")
    assert straight["r_squared"] == pytest.approx(1)
    assert straight["spearman"] == pytest.approx(1)
    # Sums over t = 1..10 by hand: covariance 82.5, variances 82.5 and 610.5 (each times ten).
    assert bent["r_squared"] == pytest.approx(82.5**2 / (82.5 * 610.5))
    assert bent["seed"] == 1
    assert bent["spearman"] < 0.5


def test_linearity_wants_three_points():
    with pytest.raises(InputError, match="at least 3 recorded steps, run mlp-0 has 2"):
        linearity(trace([1.0, 2.0]))


@pytest.mark.parametrize("power", [1, 2, 3])
def test_a_power_law_is_halved_by_its_power(power):
    steps = np.array([5, 10, 15, 20, 30])
    found = halving(trace(steps ** float(power), steps=steps))
    assert found["step"].tolist() == [10, 20, 30]
    assert found["halved"].tolist() == pytest.approx([2.0**-power] * 3)


def test_halves_are_taken_within_a_run():
    found = halving(pd.concat([trace([1.0, 4.0]), trace([5.0, 6.0], seed=1)]))
    assert found[["seed", "halved"]].to_numpy().tolist() == [[0, 1 / 4], [1, 5 / 6]]


def test_reach_is_eta_t_sigma_and_v_over_doing_nothing():
    found = reach(
        pd.DataFrame(
            {"learning_rate": [0.1], "step": [20], "sigma_avg": [3.0], "v": [0.5], "v_nothing": [2.0]}
        )
    )
    assert found["size"].item() == pytest.approx(6)
    assert found["ratio"].item() == 0.25


def test_break_even_is_the_smallest_harmful_size_of_each_seed():
    points = pd.DataFrame(
        {
            "model": "mlp",
            "seed": [0, 0, 0, 0, 1, 1],
            "size": [8.0, 4.0, 2.0, 1.0, 3.0, 9.0],
            "ratio": [0.9, 1.1, 1.0, 0.2, 0.5, 0.99],
        }
    )
    first, second = break_even(points).to_dict("records")
    assert (first["seed"], first["size"], first["largest"]) == (0, 2, 8)
    assert np.isnan(second["size"])
    assert second["largest"] == 9


def test_settings_are_named_by_model_and_data():
    runs = made_up.records(model=["mlp", "vgg-small"], dataset=["digits"], gamma=[0.0], seed=[0])
    assert growth(runs)["setting"].unique().tolist() == ["mlp, digits", "vgg-small, digits"]


def test_the_powers_of_the_last_doubling_are_those_of_power_laws():
    steps = np.array([5, 10, 15, 20])
    run = trace(steps**2.5, steps=steps).assign(
        setting="mlp, digits", weight_change=steps**0.5, sigma_avg=3.0 * steps**1.0
    )
    (row,) = doublings(run).to_dict("records")
    assert row.pop("setting") == "mlp, digits"
    assert row == pytest.approx({"e": 2.5, "steps": np.log2(19 / 9), "weight_change": 0.5, "sigma_avg": 1})


def test_the_parts_of_a_doubling_make_up_the_whole_in_every_stored_run():
    runs = growth(
        published(load_profile("small").experiment("unlearning_error").configs("settings"), "small")
    )
    found = doublings(runs)
    assert len(found) == 12
    parts = found[["steps", "weight_change", "sigma_avg"]].sum(axis=1)
    assert parts.to_numpy() == pytest.approx(found["e"].to_numpy(), rel=1e-9)


def costly(model, hvps, samples, steps=100):
    """A run with so many products in its samples of sigma."""
    result = {"sigma": {"step": list(range(samples))}, "sigma_hvps": hvps, "steps": steps}
    return Record({"model": model, "dataset": "digits"}, {}, result | {"num_parameters": 7}, {})


def test_costs_are_counted_over_the_runs_of_a_setting():
    runs = [costly("mlp", 30, 10), costly("vgg", 40, 4), costly("mlp", 90, 10)]
    mlp, vgg = costs(runs).to_dict("records")
    assert mlp == {
        "setting": "mlp, digits",
        "weights": 7,
        "products": pytest.approx(6),  # 120 in 20 samples
        "gradients": pytest.approx(13),
        "of_retraining": pytest.approx(260 / 200),  # 20 samples beside 200 steps
        "every_200": pytest.approx(13 / 200),
    }
    assert vgg["gradients"] == pytest.approx(21)


@pytest.mark.parametrize("eigenvalues", [[2.0, -6.0, 4.0, -12.0], [-6.0, 2.0, 12.0, 4.0]])
def test_every_other_sample_changes_sigma_by_a_factor_whichever_is_larger(eigenvalues):
    run = Record({}, {}, {"sigma": {"eigenvalue": eigenvalues}}, {})
    assert every_other(run) == pytest.approx(3)


def test_the_stored_runs_of_every_part_are_whole():
    small = load_profile("small").experiment("unlearning_error")
    for part in small.parts:
        configs = small.configs(part)
        records = published(configs, "small")
        assert len(records) == len(configs)
        assert not any(record.provenance["dirty"] for record in records)
