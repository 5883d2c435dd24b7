"""e against the v of several methods, on made-up points; and that the pages share their runs."""

import numpy as np
import pandas as pd
import pytest

from unrolling.runs import load_profile
from unrolling.studies.amnesiac.frames import METHODS, follow, follow_over_steps


def grid(v, v_nothing=1.0):
    """Two networks, three N, five strengths; e is the product of the three numbers, v a function of it."""
    rows = [
        {"dataset": "digits", "model": model, "pretrain_epochs": n, "batch_size": 32, "gamma": gamma}
        | {"e": scale * n * (1 + gamma)}
        for scale, model in ((1.0, "a"), (10.0, "b"))
        for n in (1, 2, 4)
        for gamma in range(5)
    ]
    frame = pd.DataFrame(rows)
    return frame.assign(v_amnesiac=v(frame), v_nothing=v_nothing)


def test_a_proportional_v_is_followed_in_every_way():
    found = follow(grid(lambda f: 0.01 * f["e"]), "v_amnesiac")
    for one in found[:3]:
        assert (one.value, one.low, one.high) == pytest.approx((1, 1, 1))


def test_a_v_that_knows_the_checkpoint_alone_is_not_followed_inside_of_it():
    def v(frame):
        return 0.01 * frame["e"] / (1 + frame["gamma"]) ** 2

    found = follow(grid(v), "v_amnesiac")
    assert found.pearson.value > 0
    assert found.inside.value == pytest.approx(-1)


def test_the_ratio_is_a_geometric_mean_and_one_is_no_help():
    ratios = np.tile([0.25, 1.0, 4.0], 10)
    found = follow(grid(lambda f: ratios * 3.0, v_nothing=3.0), "v_amnesiac")
    assert found.ratio == pytest.approx(1)
    assert found.helped == pytest.approx(1 / 3)


def test_over_steps_every_method_is_judged_by_its_own_v():
    steps = np.arange(1.0, 11.0)
    wave = np.sin(3 * steps)
    run = {"address": "x", "pretrain_epochs": 0, "model": "a", "seed": 0, "step": steps, "e": steps + wave}
    columns = {name: 1 + steps + (1 if name == "v_amnesiac" else -1) * wave for name in METHODS}
    found = follow_over_steps(pd.DataFrame(run | columns)).set_index("method")
    assert list(found.index) == list(METHODS)
    assert found.loc["v_amnesiac", "raw"] == pytest.approx(1)
    assert (found.drop("v_amnesiac")["given_steps"] < 0).all()


@pytest.mark.parametrize(
    ("profile", "parts"), [("quick", ("grid", "steps")), ("small", ("grid", "steps")), ("paper", ("steps",))]
)
def test_runs_are_shared_with_the_page_on_the_proxy(profile, parts):
    proxy, amnesiac = (load_profile(profile).experiment(name) for name in ("proxy", "amnesiac"))
    for part in parts:
        assert amnesiac.configs(part) == proxy.configs(part)


@pytest.mark.parametrize("profile", ["quick", "small", "paper"])
def test_settings_are_seen_in_two_epochs_for_after_one_the_methods_agree(profile):
    experiment = load_profile(profile).experiment("amnesiac")
    assert all(config.epochs >= 2 for part in ("grid", "steps") for config in experiment.configs(part))


def test_figure_14_has_52_settings_for_each_data_set_in_the_paper():
    experiment = load_profile("paper").experiment("amnesiac")
    for part in ("grid", "grid_cifar100"):
        settings = {(c.model, c.pretrain_epochs, c.gamma) for c in experiment.configs(part)}
        assert len(settings) == 52
        assert {n for _, n, _ in settings} == {20, 70}
