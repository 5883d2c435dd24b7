"""The analysis of Figure 3 and of the reach of unlearning, on traces whose answers are known by hand."""

import itertools

import numpy as np
import pandas as pd
import pytest

from unrolling._checks import InputError
from unrolling.runs import load_profile, published
from unrolling.runs.frames import error_from_roots
from unrolling.studies.frames import reach
from unrolling.studies.unlearning_error.frames import break_even, halving, linearity, samples_needed
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


def test_samples_needed_is_the_least_number_that_suffices():
    """By enumeration of all draws, with replacement, from a small pool."""
    pool = np.array([1.0, 1.0, 2.0, 6.0])

    def error(k):
        means = np.array([np.mean(draw) for draw in itertools.product(pool, repeat=k)])
        return np.sqrt(np.mean((means / pool.mean() - 1) ** 2))

    k = samples_needed(pool, 0.4)
    assert error(k) <= 0.4 < error(k - 1)


def test_equal_values_need_one_sample():
    assert samples_needed([2.0, 2.0, 2.0], 0.01) == 1


@pytest.mark.parametrize("pool", [[], [1.0, float("nan")], [1.0, 0.0], [[1.0]]])
def test_a_pool_that_is_none_is_refused(pool):
    with pytest.raises(InputError, match="`pool` must be positive numbers"):
        samples_needed(pool, 0.1)


def test_the_stored_runs_of_every_part_are_whole():
    small = load_profile("small").experiment("unlearning_error")
    for part in small.parts:
        configs = small.configs(part)
        records = published(configs, "small")
        assert len(records) == len(configs)
        assert not any(record.provenance["dirty"] for record in records)
