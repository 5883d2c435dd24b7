"""Readings of made-up runs: e from stored samples, effects paired by seed, and the numbers of the claims."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from unrolling._checks import InputError
from unrolling.paper import find_claim
from unrolling.runs import load_profile
from unrolling.store import Record
from unrolling.studies.conventions.frames import (
    LONGER,
    MET,
    PROTOCOL,
    RELEASED,
    SIGMA,
    TEXT,
    Reading,
    criteria,
    effect,
    effects,
    negative_samples,
    over_learning_rates,
    read,
)
from unrolling.unlearning_error import unlearning_error

READINGS = (*PROTOCOL, *RELEASED)
EIGENVALUES = [4.0, 9.0, 1.0, 16.0]


def made_up_run(seed=0, gamma=0.0, *, eigenvalues=EIGENVALUES, weight_change=2.0, eta=0.1, **measured):
    """Return a run of 2 epochs of 8 steps, with a sample of sigma every 2 and nothing after the first epoch.

    What is measured and not given is 1.
    """
    sigma = float(np.abs(eigenvalues[:4]).mean())
    row = {
        "weight_change": weight_change,
        "sigma_avg": sigma,
        "e": unlearning_error(learning_rate=eta, weight_change=weight_change, sigma_avg=sigma, num_steps=8),
        **dict.fromkeys(["v", "v_nothing", "v_amnesiac", "v_final_gradient", "accuracy"], 1.0),
        **measured,
    }
    row.setdefault("e_corrected", row["e"] / eta)
    config = {"seed": seed, "gamma": gamma, "learning_rate": eta, "pretrain_epochs": 1}
    result = {
        "trace": {"step": [8, 16]} | {name: [value, 7 * value] for name, value in row.items()},
        "sigma": {"step": [2 * i for i in range(len(eigenvalues))], "eigenvalue": list(eigenvalues)},
        "steps_per_epoch": 8,
        "accuracy_pretrained": 0.5,
        "num_classes": 10,
    }
    return Record(config, {"name": "digits", "description": "", "fingerprint": "0"}, result, {})


def base_of(reading):
    return reading.base or TEXT


def frame(**columns):
    return pd.DataFrame({"seed": 0, "v_nothing": 1.0, "sigma": 1.0, "weight_change": 1.0} | columns)


@pytest.mark.parametrize(
    ("sigma", "expected"), [("mean", 7.5), ("root", (2 + 3 + 1 + 4) / 4), ("last", 16), ("first", 4)]
)
def test_e_follows_its_convention_for_sigma(sigma, expected):
    row = read([made_up_run()], Reading("", "", "", sigma=sigma)).iloc[0]
    by_hand = unlearning_error(learning_rate=0.1, weight_change=2.0, sigma_avg=expected, num_steps=8)
    assert (row["sigma"], row["e"]) == (expected, pytest.approx(by_hand))


def test_a_negative_eigenvalue_counts_by_its_size_and_has_no_root():
    eigenvalues = np.array([4.0, -9.0])
    assert SIGMA["mean"](eigenvalues) == 6.5
    assert SIGMA["last"](eigenvalues) == 9
    assert math.isnan(SIGMA["root"](eigenvalues))
    row = read([made_up_run(eigenvalues=[4.0, -9.0])], Reading("", "", "", sigma="root")).iloc[0]
    assert math.isnan(row["e"])


def test_a_reading_takes_its_own_v_its_own_epoch_and_the_samples_up_to_it():
    run = made_up_run(v=3.0, v_amnesiac=5.0, eigenvalues=[*EIGENVALUES, -100.0])
    assert read([run])["v"].item() == 3
    assert read([run])["sigma"].item() == 7.5
    later = read([run], Reading("", "", "", v="v_amnesiac", num_epochs=2))
    assert (later["v"].item(), later["sigma"].item()) == (35, 26)
    with pytest.raises(InputError, match="no row at step 24, the end of epoch 3"):
        read([run], Reading("", "", "", num_epochs=3))


def test_every_run_is_paired_with_its_own_seed_and_strength():
    base = frame(seed=[0, 0, 1], gamma=[0.0, 1.0, 0.0], e=[1.0, 10.0, 100.0], v=[2.0, 4.0, 8.0])
    own = frame(seed=[1, 0, 0], gamma=[0.0, 1.0, 0.0], e=[300.0, 20.0, 8.0], v=[8.0, 4.0, 8.0], v_nothing=3.0)
    found = effect(own, base).set_index("seed")
    assert found["e"].tolist() == pytest.approx([4, 3])  # sqrt(20/10 * 8/1) and 300/100
    assert found["v"].tolist() == pytest.approx([2, 1])  # sqrt(4/4 * 8/2) and 8/8
    assert found["v_nothing"].tolist() == pytest.approx([3, 3])
    assert found["left"].tolist() == pytest.approx([math.sqrt(32) / 3, 8 / 3])


def test_the_correlation_is_taken_within_a_seed_over_strengths_and_compared_with_the_same_strengths():
    gamma = [0.0, 1.0, 2.0, 3.0]
    base = frame(gamma=gamma, e=[1.0, 2.0, 3.0, 0.1], v=[2.0, 4.0, 6.0, 9.0])
    own = frame(gamma=gamma[:3], e=[3.0, 2.0, 1.0], v=[2.0, 4.0, 6.0])
    found = effect(own, base).iloc[0]
    assert (found["correlation"], found["difference"]) == pytest.approx((-1, -2))
    few = effect(own[:2], base).iloc[0]
    assert math.isnan(few["correlation"])
    assert math.isnan(few["difference"])


def test_runs_without_a_root_are_left_out_and_runs_without_a_partner_refused():
    base = frame(gamma=[0.0, 1.0], e=[1.0, 2.0], v=[1.0, 1.0])
    own = frame(gamma=[0.0, 1.0], e=[math.nan, 6.0], v=[5.0, 2.0])
    assert effect(own, base)[["e", "v"]].iloc[0].tolist() == pytest.approx([3, 2])
    with pytest.raises(InputError, match="same seed and gamma"):
        effect(own, base[:1])


def test_effects_take_the_part_and_the_base_of_each_reading():
    runs = {"text": [made_up_run(v=2.0)], "longer": [made_up_run(v=4.0)], "x": [made_up_run(v=8.0)]}
    readings = [Reading("one", "", "", part="x"), Reading("two", "", "", part="x", base=LONGER)]
    found = effects(runs, readings)
    assert found[["label", "v"]].to_numpy().tolist() == [["one", pytest.approx(4)], ["two", pytest.approx(2)]]


@pytest.fixture
def runs():
    """Two seeds: e falls by 4 and by 16, v by 2 and 8, the weights' change explains half of log e."""
    gamma = [0.0, 1.0, 2.0]
    first = frame(seed=0, gamma=gamma, e=[8.0, 4.0, 2.0], v=[4.0, 3.0, 2.0], v_nothing=2.0)
    second = frame(seed=1, gamma=gamma, e=[32.0, 8.0, 2.0], v=[16.0, 4.0, 2.0], v_nothing=2.0)
    rows = pd.concat([first, second], ignore_index=True)
    factor = [1.0, 0.8, 0.5, 1.0, 0.8, 0.25]
    return rows.assign(weight_change=factor, sigma=factor)


def test_the_numbers_of_the_claims_by_hand(runs):
    found = criteria(runs)
    assert found["E01"] == 1
    assert found["E11"] == pytest.approx(1 / 8)
    assert found["A01"] == pytest.approx(0.2)  # the largest gamma is beyond the released 15
    assert found["A03"] == pytest.approx(0.5)
    assert found["V04"] == pytest.approx(
        np.mean([np.corrcoef([8, 4, 2], [4, 3, 2])[0, 1], np.corrcoef([32, 8, 2], [16, 4, 2])[0, 1]])
    )
    assert found["V07"] == pytest.approx(1 / 4)  # v's ratio, larger than e's
    seeds = np.log([3, 16]) / 3  # logarithms of the geometric means, one per seed
    upper = stats.t.interval(0.95, 1, seeds.mean(), stats.sem(seeds))[1]
    assert found["V14"] == pytest.approx(math.exp(upper))
    assert math.isnan(criteria(runs[runs["seed"] == 0])["V14"])


def test_runs_without_e_do_not_count_and_need_their_plain_run(runs):
    without_second = runs.assign(e=runs["e"].where((runs["seed"] == 0) | (runs["gamma"] > 0)))
    assert criteria(without_second)["E11"] == pytest.approx(2 / 8)
    without_one = runs.assign(e=runs["e"].where((runs["seed"] == 0) | (runs["gamma"] != 1)))
    assert criteria(without_one)["E11"] == pytest.approx(1 / 8)


def test_an_e_that_rises_has_no_fall_to_explain(runs):
    runs["e"] = 1 / runs["e"]
    found = criteria(runs)
    assert found["E01"] == 0
    assert math.isnan(found["A03"])
    assert not MET["A03"](found["A03"])


def test_criteria_are_those_of_the_ledger():
    limits = {
        "E01": ("at least 75 %", 0.75, 0.74),
        "E11": ("below half", 0.49, 0.5),
        "A01": ("within 25 %", 0.25, 0.26),
        "A03": ("at least 0.7", 0.7, 0.69),
        "V04": ("at least 0.9", 0.9, 0.89),
        "V07": ("below half", 0.49, 0.5),
        "V14": ("below 1", 0.99, 1.0),
    }
    assert MET.keys() == limits.keys()
    for id, (words, met, not_met) in limits.items():
        assert words in find_claim(id).criterion
        assert MET[id](met)
        assert not MET[id](not_met)


def test_exponents_of_the_learning_rate():
    rates = [0.01, 0.1, 1.0]
    records = [made_up_run(eta=eta, e=5 * eta**3, e_corrected=5 * eta**2, v=eta**2) for eta in rates]
    found = over_learning_rates(records).iloc[0]
    assert found[["e", "e_corrected", "v"]].tolist() == pytest.approx([3, 2, 2])
    assert found[["printed", "corrected"]].tolist() == pytest.approx([1, 1])


def test_negative_samples_are_counted_by_sample_and_by_run():
    records = [made_up_run(), made_up_run(eigenvalues=[-1.0, -2.0, 3.0]), made_up_run(eigenvalues=[-1.0])]
    found = negative_samples(records).iloc[0]
    assert found.tolist() == [1, 8, 3, 3, 2]


@pytest.mark.parametrize("profile", ["quick", "small", "paper"])
def test_every_reading_has_its_runs_and_a_partner_for_each(profile):
    experiment = load_profile(profile).experiment("conventions")

    def grid(part):
        return {(config.seed, config.gamma) for config in experiment.configs(part)}

    for reading in (TEXT, *READINGS):
        assert grid(reading.part) <= grid(base_of(reading).part)
    used = {reading.part for r in READINGS for reading in (r, base_of(r))}
    assert used | {"learning_rates", "untrained"} == set(experiment.parts)


def test_no_reading_changes_more_than_one_setting_of_the_runs_and_each_changes_something():
    experiment = load_profile("quick").experiment("conventions")
    for reading in READINGS:
        base = {(c.seed, c.gamma): c.to_dict() for c in experiment.configs(base_of(reading).part)}
        changed = {
            name
            for config in experiment.configs(reading.part)
            for name, value in config.to_dict().items()
            if base[config.seed, config.gamma].get(name) != value
        }
        of_columns = {
            name
            for name in ("sigma", "v", "num_epochs")
            if getattr(reading, name) != getattr(base_of(reading), name)
        }
        assert changed | of_columns, reading
        assert len(changed) <= 1, reading
        assert not changed or reading.part != base_of(reading).part
