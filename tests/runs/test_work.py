"""A list of runs, worked through: in its order, to its end or to that of the time, past runs that fail."""

from dataclasses import replace

import pytest

from unrolling._checks import InputError, StoreError
from unrolling.runs import RunConfig, collect, obtain
from unrolling.runs.work import work
from unrolling.store import Store

TINY = RunConfig(
    dataset="digits",
    train_size=64,
    test_size=20,
    model="linear",
    batch_size=16,
    pretrain_epochs=1,
    sigma_every=4,
)
RUNS = [replace(TINY, gamma=gamma) for gamma in (2.0, 0.0, 1.0, 0.5)]
WILD = replace(TINY, model="mlp", learning_rate=1e30, dtype="float32")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


def test_runs_are_computed_in_their_order_and_once(store):
    seen = []

    def report(done, total, record):
        seen.append((done, total, record.config["gamma"]))

    found = work(RUNS, store=store, report=report)
    assert seen == [(1, 4, 2.0), (2, 4, 0.0), (3, 4, 1.0), (4, 4, 0.5)]
    assert (found.left, found.failed) == (0, {})
    assert found.stored == tuple(record.address for record in obtain(RUNS, store=store))
    work(RUNS, store=store, report=report)
    assert len(seen) == 4


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_that_diverges_is_noted_and_the_others_go_on(store, jobs, monkeypatch):
    runs = [RUNS[0], WILD, *RUNS[1:]]
    found = work(runs, store=store, jobs=jobs)
    assert (len(found.stored), found.left) == (4, 0)
    ((address, message),) = found.failed.items()
    assert f"run {address} (" in message
    assert "diverged" in message
    assert (store.root / "failed" / f"{address}.txt").read_text() == message + "\n"

    tried = []
    compute = collect.compute
    monkeypatch.setattr(collect, "compute", lambda c, *a, **k: tried.append(c) or compute(c, *a, **k))
    assert work(runs, store=store) == found
    assert tried == []
    (store.root / "failed" / f"{address}.txt").unlink()
    assert work(runs, store=store) == found
    assert tried == [WILD]


def test_the_store_is_none_the_worse_for_failures(store):
    work([RUNS[0], WILD], store=store)
    assert len(store.addresses()) == 1
    assert store.damaged() == {}


def test_when_the_time_is_over_runs_save_themselves_and_go_on_later(store, monkeypatch):
    """The clock stands still until the second run, and is past the end in the middle of it."""
    undisturbed = obtain(RUNS, store=Store(store.root.parent / "others"))
    steps, late = [], 3
    monkeypatch.setattr("unrolling.runs.work.time.monotonic", lambda: 60.0 * (len(steps) >= 8 + late))

    def progress(done, total):
        steps.append((done, total))

    found = work(RUNS, store=store, minutes=0.5, progress=progress)
    assert (len(found.stored), found.left) == (1, 3)
    assert steps[7:] == [(8, 8), (1, 8), (2, 8), (3, 8)]
    assert len(list((store.root / "unfinished").glob("*.pt"))) == 1

    steps.clear()
    found = work(RUNS, store=store, progress=progress)
    assert steps[0] == (5, 8)  # the fourth was taken and saved, but not told of
    assert (len(found.stored), found.left) == (4, 0)
    assert [record.result for record in obtain(RUNS, store=store)] == [r.result for r in undisturbed]


def test_a_request_to_stop_counts_as_the_end_of_the_time(store):
    assert work(RUNS, store=store, stop=lambda: True).left == 4


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), "5"])
def test_a_time_that_is_none_is_refused(store, minutes):
    with pytest.raises(InputError, match="minutes must be"):
        work(RUNS, store=store, minutes=minutes)


def test_what_concerns_all_runs_ends_them(store, monkeypatch):
    def full(self, record):
        raise StoreError("the disk is full.")

    monkeypatch.setattr(Store, "put", full)
    with pytest.raises(StoreError, match="the disk is full"):
        work(RUNS, store=store)
    assert not (store.root / "failed").exists()
