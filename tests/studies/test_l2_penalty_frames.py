"""The bookkeeping of section 6.1's penalties on numbers small enough to do by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from unrolling._checks import InputError
from unrolling.paper import replicate_band
from unrolling.runs import load_profile
from unrolling.runs.frames import error_from_roots
from unrolling.store import Record
from unrolling.studies.l2_penalty.frames import (
    against_plain,
    beside_table_3,
    cell_means,
    printed_cells,
)


@pytest.fixture
def rows():
    """Two seeds, each without penalty, with weight decay and with the printed penalty."""
    frame = pd.DataFrame(
        {
            "loss": ["sd", "sd", "weight_decay", "weight_decay", "l2", "l2"],
            "gamma": [0.0, 0.0, 0.1, 0.1, 0.1, 0.1],
            "seed": [0, 1, 0, 1, 1, 0],
            "e": [1.0, 10.0, 4.0, 10.0, 30.0, 5.0],
            "accuracy": [0.9, 0.8, 0.8, 0.75, 0.8, 0.95],
        }
    ).assign(dataset="digits", model="mlp", pretrain_epochs=0)
    return frame.assign(
        **dict.fromkeys(("e_root", "weight_norm", "weight_change", "sigma_avg", "v"), frame["e"])
    )


def test_both_penalties_are_compared_with_the_plain_run_of_the_same_seed(rows):
    found = against_plain(rows)
    assert found["loss"].tolist() == ["weight_decay"] * 2 + ["l2"] * 2
    assert found["e"].tolist() == [4, 1, 3, 5]
    assert found["accuracy_lost"].tolist() == pytest.approx([10, 5, 0, -5])


@pytest.mark.parametrize("setting", ["dataset", "model", "pretrain_epochs"])
def test_a_plain_run_of_another_setting_does_not_count(rows, setting):
    rows.loc[rows["gamma"] == 0, setting] = 1 if setting == "pretrain_epochs" else "another"
    with pytest.raises(InputError, match="needs exactly one run with gamma = 0"):
        against_plain(rows)


def test_ratios_of_a_cell_have_their_geometric_mean_and_points_the_plain_one(rows):
    decay, printed = cell_means(against_plain(rows)).to_dict("records")
    assert (decay["loss"], printed["loss"]) == ("weight_decay", "l2")
    assert decay["e"] == pytest.approx(2)  # of 4 and 1
    assert printed["sigma_avg"] == pytest.approx(math.sqrt(15))
    assert decay["accuracy_lost"] == pytest.approx(7.5)


def test_strengths_are_cells_of_their_own(rows):
    rows.loc[3, "gamma"] = 0.2
    assert len(cell_means(against_plain(rows))) == 3


# Beside Table 3


def test_printed_cells_are_compared_with_their_own_column():
    cells = printed_cells().set_index(["dataset", "model", "pretrain_epochs", "gamma"])
    assert cells.loc[("cifar100", "vgg19", 0, 0.1), "ratio"] == pytest.approx(3211.49 / 359.05)
    assert cells.loc[("cifar10", "resnet18", 20, 0.1), "ratio"] == pytest.approx(86.73 / 161.09)
    beyond = cells["beyond"]
    assert beyond[("cifar100", "vgg19", 0, 0.1)] == 1
    assert beyond[("cifar10", "resnet18", 20, 0.1)] == -1
    assert beyond[("cifar10", "resnet18", 40, 0.001)] == 0
    assert np.isnan(beyond[("cifar10", "vgg19", 40, 0.0001)])  # the paper's empty cell
    assert np.isnan(beyond[("cifar100", "resnet18", 20, 0.1)])


# e beside Table 3


def record(e, *, gamma, seed=0, loss="sd", dataset="cifar10", model="resnet18", pretrain_epochs=20):
    """A run of which e with the root in sigma is known, and e itself is the square of that."""
    return Record(
        config={
            "dataset": dataset,
            "model": model,
            "pretrain_epochs": pretrain_epochs,
            "loss": loss,
            "gamma": float(gamma),
            "seed": seed,
            "learning_rate": 0.1,
        },
        data={"name": dataset, "fingerprint": "0"},
        result={
            "trace": {"step": [201, 402], "e": [e**2, 1.0]},
            "sigma": {"step": [0, 100, 200, 201], "eigenvalue": [e**2, -(e**2), e**2, 1e9]},
        },
        provenance={},
    )


def test_the_root_is_of_the_absolute_eigenvalue_and_of_the_samples_before_t():
    assert error_from_roots(record(7.0, gamma=0), 201) == pytest.approx(7)


def test_agreement_with_table_3_is_within_the_replicates_spread():
    printed = 161.09  # CIFAR-10, ResNet-18, N = 20, no penalty
    for factor, within in ((1, True), (replicate_band(2)[1] ** 0.99, True), (1.5, False)):
        runs = [record(printed * factor, gamma=0, seed=seed) for seed in (0, 1)]
        cells = beside_table_3(runs, 201)
        # A run without penalty is a cell of both penalties.
        assert cells["loss"].tolist() == ["l2", "weight_decay"]
        assert cells["found"].tolist() == pytest.approx([printed * factor] * 2)
        assert cells["seeds"].tolist() == [2, 2]
        assert cells["within"].tolist() == [within] * 2


def test_only_cells_of_the_table_are_compared():
    others = [
        record(1.0, gamma=0, dataset="digits"),
        record(1.0, gamma=0.5, loss="l2"),
        record(1.0, gamma=0.1, loss="logit_hessian"),
        record(1.0, gamma=0, pretrain_epochs=10),
    ]
    empty = record(1.0, gamma=0.0001, loss="l2", model="vgg19", pretrain_epochs=40)
    assert beside_table_3([*others, empty], 201).empty


def test_the_paper_profile_has_every_cell_of_table_3():
    configs = load_profile("paper").experiment("l2_penalty").configs(("plain", "weight_decay"))
    runs = {(c.dataset, c.model, c.pretrain_epochs, c.gamma) for c in configs}
    cells = printed_cells()
    assert runs == set(
        zip(cells["dataset"], cells["model"], cells["pretrain_epochs"], cells["gamma"], strict=True)
    )
