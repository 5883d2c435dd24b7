"""S01 to S03 on made-up traces whose answer is known."""

import numpy as np
import pytest

from unrolling.store import Record
from unrolling.studies.noise import ratio_noise
from unrolling.studies.unlearning_error import training_for_less as checks

MODELS = ("resnet-small", "vgg-small", "mlp", "mlp-tanh")
STEPS = np.arange(15, 151, 15)  # five epochs of 30


def records(e, accuracy=lambda t, seed: t / 200 + seed / 1000, settings=2, seeds=3):
    """Two settings, three seeds by default; e and accuracy as functions of step (and seed)."""
    return [
        Record(
            config={"dataset": "digits", "model": MODELS[number], "seed": seed},
            data={"name": "digits", "fingerprint": "0"},
            result={
                "trace": {
                    "step": STEPS.tolist(),
                    "e": [float(e(t)) for t in STEPS],
                    "accuracy": [float(accuracy(t, seed)) for t in STEPS],
                },
                "sigma": {"step": [0], "eigenvalue": [1.0]},
                "steps_per_epoch": 30,
            },
            provenance={},
        )
        for number in range(settings)
        for seed in range(seeds)
    ]


@pytest.mark.parametrize(
    ("e", "verdict"),
    [
        (lambda t: 3 * t, "reproduced"),
        (lambda t: t**4, "partly"),  # it rises
        (lambda t: np.sin(t), "contradicted"),
    ],
)
def test_a_straight_line_is_told_from_a_bent_one(e, verdict):
    assert checks.unlearning_error_grows_linearly(records(e)).verdict == verdict


def test_the_parabola_of_the_reason_is_that_of_the_recorded_steps():
    reason = checks.unlearning_error_grows_linearly(records(lambda t: t**2)).reason
    r_squared = np.corrcoef(STEPS, STEPS**2)[0, 1] ** 2
    assert f"parabola t^2 has {r_squared:.2f}" in reason
    assert f"between {r_squared:.3f} and {r_squared:.3f}" in reason


def test_proportional_growth_leaves_a_half_and_a_parabola_a_quarter():
    line = checks.fewer_steps_lower_the_error_in_proportion(records(lambda t: 3 * t))
    bent = checks.fewer_steps_lower_the_error_in_proportion(records(lambda t: t**2))
    assert (line.verdict, line.value) == ("reproduced", pytest.approx(0.5))
    assert (bent.verdict, bent.value) == ("contradicted", pytest.approx(0.25))
    assert "0 of 8 cases" in bent.reason  # two settings, epochs 2 to 5
    assert "More than half" in bent.reason


@pytest.mark.parametrize(
    ("accuracy", "verdict"),
    [
        (lambda t, seed: t / 200 + seed / 1000, "reproduced"),
        (lambda t, seed: t / 20000 + seed / 100, "reproduced"),  # seeds differ by more, but not in their gain
        (lambda t, seed: (seed - 0.9) * t / 200, "undecided"),
        (lambda t, seed: 1 - t / 200, "contradicted"),
    ],
)
def test_a_gain_counts_if_its_interval_over_seeds_is_above_0(accuracy, verdict):
    found = checks.fewer_steps_cost_accuracy(records(lambda t: t, accuracy))
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("share", "verdict"), [(2.1, "reproduced"), (1.9, "undecided"), (-2.1, "contradicted")]
)
def test_the_gain_of_one_seed_counts_beyond_twice_the_noise(share, verdict):
    slope = share * ratio_noise("accuracy") / 100 / 120  # from step 30 to step 150
    found = checks.fewer_steps_cost_accuracy(records(lambda t: t, lambda t, seed: slope * t, seeds=1))
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("powers", "verdict"),
    [
        ((1.0, 1.2), "reproduced"),
        ((1.0, 2.0), "undecided"),  # straight in one setting, with R^2 = 0.95 in the other
        ((4.0, 5.0), "partly"),  # bent in both, but rising
    ],
)
def test_one_seed_decides_how_straight_e_is_where_all_settings_agree_with_a_margin(powers, verdict):
    runs = [run for power in powers for run in records(lambda t, p=power: t**p, settings=1, seeds=1)]
    runs[1].config["model"] = MODELS[1]
    assert checks.unlearning_error_grows_linearly(runs).verdict == verdict


@pytest.mark.parametrize(
    ("power", "verdict"), [(1.0, "reproduced"), (1.5, "undecided"), (2.0, "contradicted")]
)
def test_one_seed_decides_what_half_of_the_steps_leave_with_a_margin(power, verdict):
    """Half of the steps leave 0.5, 0.35 and 0.25."""
    found = checks.fewer_steps_lower_the_error_in_proportion(records(lambda t: t**power, seeds=1))
    assert found.verdict == verdict


def test_the_gain_is_that_from_one_epoch_to_five():
    found = checks.fewer_steps_cost_accuracy(records(lambda t: t))
    assert found.value == pytest.approx(100 * (150 - 30) / 200)
