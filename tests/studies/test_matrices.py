"""Matrices in the store: found again as they were, computed once, and committed where a page asks."""

from dataclasses import replace

import pytest
from pandas.testing import assert_frame_equal

from unrolling import load_dataset, make_generator
from unrolling._checks import InputError, StoreError
from unrolling.methods.registry import METHODS
from unrolling.metrics.registry import METRICS
from unrolling.page.run_card import run_card
from unrolling.runs import collect, load_profile, published_store
from unrolling.store import Store, make_address
from unrolling.studies.taxonomy import matrices
from unrolling.studies.taxonomy.matrices import (
    MatrixConfig,
    matrix_config,
    matrix_data,
    matrix_tables,
    obtain_matrix,
    published_matrix,
)
from unrolling.studies.taxonomy.scores import Setting, choose_classes, run_matrix

PARAMETERS = {
    "dataset": "digits",
    "classes": "8 3",
    "model": "linear",
    "train_size": 40,
    "test_size": 20,
    "forget": "batch",
    "num_forget": 8,
    "batch_size": 8,
    "epochs": 1,
    "learning_rate": 0.5,
    "l2": 0.0,
    "noise": 0.1,
    "num_seeds": 3,
    "seed": 2,
}
FEW = ("retrain", "nothing", "linear_filtration", "sisa")


@pytest.fixture(scope="module")
def config():
    return matrix_config(PARAMETERS, methods=FEW)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("matrices"))


@pytest.fixture(scope="module")
def record(config, store):
    return obtain_matrix(config, store=store)


def nothing_is_computed(monkeypatch):
    monkeypatch.setattr(matrices, "run_matrix", lambda *args: pytest.fail("computed again"))


def test_parameters_become_a_matrix(config):
    assert (config.classes, config.seeds, config.methods) == ((8, 3), (2, 3, 4), FEW)
    assert config.setting.delta == 1e-5
    assert {name: value for name, value in vars(config.setting).items() if name != "delta"} == {
        name: PARAMETERS[name] for name in vars(config.setting) if name != "delta"
    }
    assert matrix_config({**PARAMETERS, "l2": 0}, methods=FEW) == config
    other = matrix_config(PARAMETERS, methods=FEW, classes="", forget="class")
    assert (other.classes, other.setting.forget) == ((), "class")


def test_the_data_are_the_chosen_classes_as_far_as_they_go(config):
    data = matrix_data(config)
    assert (len(data.train_labels), data.class_names) == (40, ("8", "3"))
    assert len(matrix_data(replace(config, test_size=10_000)).test_labels) < 100
    assert matrix_data(replace(config, classes=())).num_classes == 10


def test_the_stored_matrix_is_found_and_says_which_data_it_used():
    """Its record was written when the description named the whole data set only."""
    stored = Store(published_store("small").root / "taxonomy").get("2289c689e6e36daf")
    settings = {name: value for name, value in stored.config.items() if name not in ("dtype", "version")}
    settings |= {"setting": Setting(**stored.config["setting"])}
    config = MatrixConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})
    found = published_matrix(config, "small")
    assert found.address == stored.address == "2289c689e6e36daf"
    assert found.data["description"] == stored.data["description"] + "; only classes 3, 8; in the unit ball"
    assert replace(found, data=stored.data) == stored


def test_a_matrix_stored_earlier_keeps_its_address_and_says_which_data_it_used(config, record, tmp_path):
    """The address is made of the whole data set's fingerprint: classes stand in the settings."""
    digits = load_dataset("digits")
    chosen = replace(choose_classes(digits, (8, 3)), fingerprint=digits.fingerprint)
    whole = chosen.subset(40, 20, make_generator(0, "subset")).fingerprint
    assert record.address == make_address(config.to_dict(), whole)
    assert "; only classes 8, 3; 40 of " in record.data["description"]
    assert record.data["description"].endswith("; in the unit ball")
    earlier = replace(record, data=record.data | {"description": "the digits"})
    Store(tmp_path).put(earlier)
    found = obtain_matrix(config, store=Store(tmp_path))
    assert found.data["description"] == "the digits; only classes 8, 3; in the unit ball"
    card = run_card(profile="quick", runs=[found]).data
    assert "only classes 8, 3; in the unit ball" in card


def test_a_stored_matrix_comes_back_as_it_was_computed(config, record, store):
    computed = run_matrix(
        matrix_data(config), config.setting, config.seeds, {name: METHODS[name] for name in FEW}
    )
    for found, expected in zip(matrix_tables(store.get(record.address)), computed, strict=True):
        assert_frame_equal(found, expected)
    assert record.config["seeds"] == [2, 3, 4]
    assert record.config["metrics"] == list(METRICS)
    assert record.config["setting"]["learning_rate"] == 0.5
    assert record.data["name"] == "digits"
    assert record.provenance["device"].startswith("CPU")


def test_a_matrix_is_computed_once(config, record, store, monkeypatch):
    nothing_is_computed(monkeypatch)
    assert obtain_matrix(config, store=store) == record
    assert store.addresses() == [record.address]


@pytest.mark.parametrize(
    "change", [{"seeds": (0, 1, 2)}, {"methods": FEW[:2]}, {"train_size": 39}, {"metrics": ("klom",)}]
)
def test_another_matrix_is_not_taken_for_it(config, change, store, monkeypatch):
    monkeypatch.setattr(matrices, "run_matrix", lambda *args: (_ for _ in ()).throw(InterruptedError))
    with pytest.raises(InterruptedError):
        obtain_matrix(replace(config, **change), store=store)


def test_a_damaged_matrix_is_refused(config, record, tmp_path):
    store = Store(tmp_path)
    path = store.put(record)
    path.write_text(path.read_text().replace('"retrain"', '"nothing"', 1))
    with pytest.raises(StoreError, match="does not match its checksum"):
        obtain_matrix(config, store=store)


def test_matrices_stand_beside_the_runs_and_committed_ones_are_found(config, record, tmp_path, monkeypatch):
    nothing_is_computed(monkeypatch)
    monkeypatch.setattr(collect, "PROJECT", tmp_path)
    monkeypatch.setenv("UNROLLING_STORE", str(tmp_path / "runs"))
    assert published_matrix(config, "small") is None
    Store(tmp_path / "results" / "small" / "taxonomy").put(record)
    assert published_matrix(config, "small") == record
    assert published_matrix(config, "quick") is None
    assert published_matrix(replace(config, seeds=(0,)), "small") is None
    assert published_matrix(replace(config, setting=replace(config.setting, l2=0.1)), "small") is None
    assert published_matrix(replace(config, methods=tuple(METHODS)), "small") == record
    assert list(published_store("small")) == []
    assert obtain_matrix(config) == record
    assert not (tmp_path / "runs").exists()


def test_a_computed_matrix_goes_to_the_default_store(config, tmp_path, monkeypatch):
    monkeypatch.setattr(collect, "PROJECT", tmp_path)
    monkeypatch.setenv("UNROLLING_STORE", str(tmp_path / "runs"))
    found = obtain_matrix(replace(config, methods=FEW[:2], metrics=("verification_error",)))
    assert Store(tmp_path / "runs" / "taxonomy").addresses() == [found.address]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ("retrain", "forgetting")}, "unknown method 'forgetting'"),
        ({"metrics": ("vee",)}, "unknown metric 'vee'"),
        ({"train_size": 0}, "train_size"),
    ],
)
def test_a_matrix_of_what_is_not_there_is_refused(config, change, message):
    with pytest.raises(InputError, match=message):
        replace(config, **change)


def test_the_committed_matrix_is_whole_and_belongs_to_its_profile():
    parameters = load_profile("small").notebooks["01_taxonomy"]
    config = matrix_config(parameters, classes=parameters["net_classes"])
    record = published_matrix(config, "small")
    assert record is not None
    assert record.data["name"] == "cifar10-jpeg"
    assert not record.provenance["dirty"]
    cells, methods = matrix_tables(record)
    assert len(cells) == len(record.config["methods"]) * len(record.config["metrics"])
    assert list(methods["method"]) == record.config["methods"]
    assert {"retrain", "nothing", "single_gradient"} < set(record.config["methods"]) <= set(METHODS)
    assert (cells["value"].notna() != (cells["reason"] != "")).all()
    assert Store(published_store("small").root / "taxonomy").damaged() == {}
