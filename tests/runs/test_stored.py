"""Stored runs are shown without the data or weights that made them; with these, only runs of theirs are."""

from dataclasses import replace

import pytest

from unrolling._checks import DataError
from unrolling.runs import RunConfig, collect, load_profile, obtain, published
from unrolling.runs.inputs import data_fingerprint
from unrolling.store import Record, Store
from unrolling.studies.taxonomy import matrices
from unrolling.studies.taxonomy.matrices import matrix_config, obtain_matrix, published_matrix

DIGITS = RunConfig(dataset="digits", train_size=40, test_size=20, model="linear", batch_size=20)


@pytest.fixture(autouse=True)
def nothing_here(tmp_path, monkeypatch):
    """No data but those in the package, no packages with weights, no runs but the committed ones."""
    monkeypatch.setenv("UNROLLING_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("UNROLLING_STORE", str(tmp_path / "runs"))
    monkeypatch.setattr("unrolling.models.pretrained.PACKAGED", {"minilm-l6": ("no_such_package", "model")})
    monkeypatch.setattr(collect, "compute", lambda *args, **options: pytest.fail("a run was computed"))
    monkeypatch.setattr(matrices, "run_matrix", lambda *args: pytest.fail("a table was computed"))


def made_up(config, fingerprint):
    return Record(config.to_dict(), {"name": config.dataset, "fingerprint": fingerprint}, {"v": 1}, {})


@pytest.mark.parametrize(
    ("experiment", "part"),
    [("training_with_sd_loss", "strength"), ("text", ("whole", "head", "images"))],
)
def test_committed_runs_are_there_without_their_data_and_weights(experiment, part):
    configs = load_profile("small").experiment(experiment).configs(part, num_seeds=1)
    for config in {config.dataset: config for config in configs}.values():
        with pytest.raises(DataError):
            data_fingerprint(config)
    assert obtain(configs) == published(configs, "small")
    assert len({record.data["fingerprint"] for record in obtain(configs)}) == (1 if part == "strength" else 3)


def test_what_must_be_computed_is_said_in_one_line():
    configs = load_profile("small").experiment("training_with_sd_loss").configs("strength", num_seeds=1)
    more = [*configs, replace(configs[0], seed=9), replace(configs[0], seed=10)]
    with pytest.raises(
        DataError, match=r"^2 of 7 runs must be computed, which needs what is not here: cifar10"
    ):
        obtain(more)
    with pytest.raises(
        DataError, match=r"^1 of 1 runs must be computed, .*run: unrolling data cifar100 --down"
    ):
        obtain([replace(configs[0], dataset="cifar100")])


def test_runs_of_data_that_are_here_must_be_of_these_data(tmp_path):
    store = Store(tmp_path)
    store.put(made_up(DIGITS, "0" * 16))
    with pytest.raises(pytest.fail.Exception, match="a run was computed"):
        obtain([DIGITS], store=store)
    own = made_up(DIGITS, data_fingerprint(DIGITS))
    store.put(own)
    assert obtain([DIGITS], store=store) == [own]


def test_runs_of_two_versions_of_the_data_are_not_mixed(tmp_path):
    store, config = Store(tmp_path), replace(DIGITS, dataset="cifar10")
    other = made_up(replace(config, train_size=41), "1" * 16)  # of other data, which is no matter
    for record in (first := made_up(config, "0" * 16), other):
        store.put(record)
    assert obtain([config], store=store) == [first]
    store.put(made_up(replace(config, seed=1), "2" * 16))
    with pytest.raises(DataError, match=r"2 versions of their data \(0{16}, 2{16}\), and nothing here says"):
        obtain([config], store=store)


def test_a_committed_table_is_there_without_its_data():
    of_page = load_profile("small").notebooks["01_taxonomy"]
    config = matrix_config(of_page, classes=of_page["net_classes"])
    assert obtain_matrix(config) == published_matrix(config, "small")
    with pytest.raises(
        DataError, match=r"^1 of 1 tables must be computed, which needs what is not here: cifar10-j"
    ):
        obtain_matrix(matrix_config(of_page, classes="3 5"))
