"""The rows of the tables and the numbers of the sentences, on frames whose answers are known by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from unrolling.number_text import Missing
from unrolling.store import Record
from unrolling.studies.unlearning_error.numbers import (
    bound_numbers,
    cost_numbers,
    growth_numbers,
    reach_numbers,
    reading_numbers,
    spread_numbers,
    unsettled_numbers,
)
from unrolling.studies.unlearning_error.tables import (
    bound_rows,
    cost_rows,
    doubling_rows,
    growth_rows,
    reach_rows,
    reading_rows,
    spread_rows,
)

STEPS = np.arange(10, 101, 10)  # five epochs of 20


def traces(powers=(1.0, 1.0), settings=("mlp, digits",)):
    """Runs of each setting, e a power of t for each seed; accuracy is 0.2 an epoch, less a tenth a seed."""
    return pd.concat(
        [
            pd.DataFrame({"step": STEPS, "e": STEPS**power, "accuracy": STEPS / 100 - seed / 10}).assign(
                address=f"{setting}-{seed}",
                setting=setting,
                dataset="digits",
                model=setting[:3],
                seed=seed,
                weight_change=STEPS**0.5,
                sigma_avg=2.0,
                learning_rate=0.1,
                v=3.0 + seed,
                v_nothing=2.0,
            )
            for setting in settings
            for seed, power in enumerate(powers)
        ],
        ignore_index=True,
    )


#: Sizes, ratios and the three forms of two networks; the second does no harm.
POINTS = pd.DataFrame(
    {
        "model": ["a"] * 4 + ["b"] * 2,
        "seed": [0, 0, 1, 1, 0, 0],
        "step": [1, 2, 1, 2, 3, 4],
        "learning_rate": [0.1, 0.2, 0.3, 0.4, 0.1, 0.2],
        "size": [0.5, 4.0, 0.8, 16.0, 0.1, 20.0],
        "ratio": [0.1, 1.0, 0.3, 2.0, 0.2, 0.9],
        "v": [2.0, 2.0, 4.0, 4.0, 1.0, 1.0],
        "e": [1.0, 2.0, 8.0, 0.4, 3.0, 3.0],
        "e_corrected": [4.0, 4.0, 8.0, 2.0, 3.0, 0.5],
        "e_targeted": [6.0, 4.0, 20.0, 40.0, 3.0, 9.0],
    }
)


def test_growth_is_told_setting_by_setting_with_its_interval_over_seeds():
    straight, bent = growth_rows(pd.concat([traces(), traces((2.0, 2.0), ["vgg, digits"])]))
    assert (straight["setting"], bent["setting"]) == ("mlp, digits", "vgg, digits")
    assert straight["R²"] == pytest.approx((1, 1, 1))
    assert bent["R²"][0] == pytest.approx(np.corrcoef(STEPS, STEPS**2)[0, 1] ** 2)
    halved = "e(t/2) / e(t), at the end"
    assert (straight[halved][0], bent[halved][0]) == (pytest.approx(0.5), pytest.approx(0.25))
    half_width = stats.t.ppf(0.975, 1) * 5  # accuracies 100 and 90 %: standard error 5
    assert straight["acc. 5 epochs, %"] == pytest.approx((95, 95 - half_width, 95 + half_width))
    assert straight["acc. 1 epoch, %"][0] == pytest.approx(15)


def test_doublings_are_told_factor_by_factor():
    (row,) = doubling_rows(traces((2.0, 2.0)))
    assert row["log₂ of e(t) / e(t/2)"][0] == pytest.approx(2)
    assert row["from t − 1"][0] == pytest.approx(np.log2(99 / 49))
    assert row["from weight change"][0] == pytest.approx(0.5)
    assert row["from σ_avg"][0] == 0


def test_a_bound_is_counted_where_it_is_none():
    first, second = bound_rows(POINTS)
    assert (first["network"], first["points"]) == ("a", 4)
    assert first["e below v, %"] == 50  # 1 of 2 and 0.4 of 4; as large as v is not below
    assert first["e/η below v, %"] == 25
    assert first["e* below v, %"] == 0
    assert first["median e*/v, size < 1"] == 4  # of 3 and 5
    assert first["median e*/v, size ≥ 1"] == 6  # of 2 and 10
    assert second["e/η below v, %"] == 50


def test_the_reach_is_the_geometric_mean_over_seeds_or_a_reason():
    first, second = reach_rows(POINTS)
    assert first["seeds with harm"] == "2 of 2"
    low, high = stats.ttest_1samp(np.log([4, 16]), 0).confidence_interval()
    assert first["smallest harmful ηtσ"] == pytest.approx((8, np.exp(low), np.exp(high)))
    assert first["median ratio, ηtσ < 1"] == pytest.approx(0.2)
    assert first["rank corr. by ηtσ"] == pytest.approx(1)
    assert first["rank corr. by η"] == pytest.approx(0.8)
    assert first["rank corr. by t"] == pytest.approx(stats.spearmanr([1, 2, 1, 2], [1, 3, 2, 4]).statistic)
    assert (second["seeds with harm"], second["smallest harmful ηtσ"]) == (
        "0 of 1",
        Missing("no ratio reaches 1"),
    )


def test_costs_and_spreads_are_named_as_on_the_page():
    costs = pd.DataFrame(
        {"setting": ["x"], "weights": [7], "products": [6.0], "gradients": [13.0]}
        | {"of_retraining": [1.3], "every_200": [0.065]}
    )
    (row,) = cost_rows(costs)
    assert list(row.values()) == ["x", 7, 6.0, 13.0, 1.3, 0.065]
    assert list(row)[2:] == [
        "products per sample",
        "gradients per sample",
        "e / retraining, here",
        "every 200 steps",
    ]
    run = Record({"sigma_every": 10}, {}, {"sigma": {"eigenvalue": [1.0, -3.0, 1.0, 3.0]}}, {})
    numbers = cost_numbers(pd.concat([costs, 2 * costs]), [run])
    assert numbers == {
        "cost-low": 13.0,
        "cost-high": 26.0,
        "here-low": 1.3,
        "here-high": 2.6,
        "200": 0.13,
        "every": 10,
        "other-median": pytest.approx(3),
        "other-worst": pytest.approx(3),
    }
    spread = pd.DataFrame(
        {"network": ["mlp", "mlp", "vgg-small"], "epochs": [1, 5, 5], "least": 1.0, "median": 2.0}
        | {"most": [4.0, 5.0, 6.0], "deviation": 0.5, "needed": [3, 9, 25], "with_loss": [0.1, 0.2, 0.3]}
    )
    assert [row["most / median"] for row in spread_rows(spread)] == [2, 2.5, 3]
    assert [row["samples for 10 %"] for row in spread_rows(spread)] == [3, 9, 25]
    assert spread_numbers(spread) == {"k-low": 3, "k-high": 25, "steep-mlp": 0.2, "steep-vgg": 0.3}


def test_the_numbers_of_growth_are_the_extremes_over_all_runs():
    found = growth_numbers(traces((1.0, 2.0)))
    bent = np.corrcoef(STEPS, STEPS**2)[0, 1] ** 2
    assert found == pytest.approx(
        {"r2-low": bent, "r2-high": 1, "parabola": bent}
        | {"half-low": 0.25, "half-high": 0.5, "end-low": 0.25, "end-high": 0.5}
    )


def test_halves_at_the_end_are_of_each_runs_last_step():
    run = traces((1.0, 1.0))
    run.loc[(run["seed"] == 0) & (run["step"] == 50), "e"] = 10.0
    found = growth_numbers(run)
    assert (found["end-low"], found["end-high"]) == (pytest.approx(0.1), pytest.approx(0.5))


def test_the_numbers_of_the_bound_are_powers_of_ten():
    found = bound_numbers(POINTS, smooth="a")
    assert found["span-e"] == pytest.approx(np.log10(3 / 0.1))
    assert found["span-e_targeted"] == pytest.approx(np.log10(10 / 2))
    assert (found["tight-low"], found["tight-high"]) == (3, 5)  # sizes below 1 alone


def test_the_numbers_of_the_reach():
    stored = POINTS.assign(size=POINTS["size"] / 2)
    assert reach_numbers(POINTS, stored, traces()) == pytest.approx(
        {"harm-low": 4, "harm-high": 16, "harm-cifar-low": 2, "large-share": 50, "large-median": 1.45}
        | {"fig3-small": 20, "fig3-size": 20, "fig3-low": 1.5, "fig3-high": 2}
    )


def test_runs_with_an_unsettled_sample_are_counted():
    runs = [Record({}, {}, {"sigma_converged": settled}, {}) for settled in (True, False, True)]
    assert unsettled_numbers(runs) == {"unsettled": 1, "all-runs": 3}


def test_readings_are_told_network_by_network():
    errors = pd.DataFrame({"this page": [1.0, 100.0], "training mode": [50.0, 200.0]})
    columns = ["end", "low", "high"]
    normed = pd.DataFrame([[0.25, 0.2, 1.0], [2.0, 2.0, 50.0]], ["at w_0", "training mode"], columns)
    plain = pd.DataFrame(
        [[0.5, 0.5, 0.6], [0.9, 0.8, 1.0], [1.0, 1.0, 1.1]],
        ["root of it", "at w_0", "training mode"],
        columns,
    )
    found = reading_numbers({"n": errors, "p": errors}, {"n": normed, "p": plain}, plain="p", normed="n")
    assert found == pytest.approx(
        {"w0-end": 4, "train-first": 50, "train-end": 2, "growth-eval": 100, "growth-train": 4}
        | {"tanh-low": 0.8, "tanh-high": 1.1}  # the root is no reading that keeps the norm
    )
    (row,) = reading_rows({"n": normed, "p": plain}, ["at w_0"])
    assert list(row.values()) == ["at w_0", 0.25, 0.2, 1.0, 0.9, 0.8, 1.0]
    assert list(row)[1] == "n: at the end"
