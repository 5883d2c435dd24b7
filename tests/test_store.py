"""The run store: addresses, atomic and verified files, packing, and what goes wrong."""

import gzip
import json
import multiprocessing
import os
import tempfile
from contextlib import contextmanager

import pytest

from unrolling._checks import InputError, StoreError
from unrolling.store import Record, Store, make_address


def make_record(seed=0, value=1.5):
    return Record(
        config={"seed": seed, "gamma": 0.5},
        data={"name": "digits", "description": "digits", "fingerprint": "abc"},
        result={"trace": {"e": [value]}},
        provenance={"started": "2026-01-01T00:00:00", "seconds": 1.0},
    )


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


def test_a_stored_run_comes_back_whole(store):
    record = make_record()
    store.put(record)
    assert store.get(record.address) == record
    assert list(store) == [record]
    assert store.get("0" * 16) is None


def test_the_address_depends_on_settings_and_data_and_on_nothing_else():
    record = make_record()
    assert record.address == make_record(value=9.0).address
    assert record.address == make_address({"gamma": 0.5, "seed": 0}, "abc")  # order of the keys
    assert record.address != make_record(seed=1).address
    assert record.address != make_address(record.config, "abd")


def test_results_that_are_not_numbers_are_refused(store):
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.put(make_record(value=float("nan")))
    assert store.addresses() == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("1.5", "2.5"),
        lambda text: text.replace('"gamma":0.5', '"gamma":0.6'),
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"schema":1', '"schema":99'),
    ],
)
def test_a_damaged_run_is_named_and_can_be_removed(store, damage):
    record, other = make_record(), make_record(seed=1)
    path = store.put(record)
    store.put(other)
    path.write_text(damage(path.read_text()))
    with pytest.raises(StoreError, match=record.address):
        store.get(record.address)
    assert list(store.damaged()) == [record.address]
    store.remove(record.address)
    assert list(store) == [other]


def test_a_run_under_another_runs_name_is_damaged(store):
    path = store.put(make_record())
    path.rename(store.path(make_record(seed=1).address))
    with pytest.raises(StoreError, match="it holds run"):
        store.get(make_record(seed=1).address)


def test_packing_carries_runs_elsewhere_byte_for_byte(store, tmp_path):
    records = [make_record(seed) for seed in range(5)]
    for record in records:
        store.put(record)
    assert store.pack(tmp_path / "runs.gz") == 5
    assert store.pack(tmp_path / "again.gz") == 5
    packed = (tmp_path / "runs.gz").read_bytes()
    assert packed == (tmp_path / "again.gz").read_bytes()
    assert packed[4:8] == bytes(4)  # gzip's time stamp
    other = Store(tmp_path / "other")
    assert other.unpack(tmp_path / "runs.gz") == (5, [])
    assert {record.address: record for record in other} == {record.address: record for record in records}


def test_a_packed_file_in_the_folder_is_part_of_the_store_and_only_read(store, tmp_path):
    packed, loose = [make_record(seed) for seed in range(3)], make_record(seed=7)
    for record in packed:
        store.put(record)
    folder = Store(tmp_path / "results")
    folder.put(loose)
    store.pack(folder.root / "grid.jsonl.gz")
    assert folder.addresses() == sorted(record.address for record in [*packed, loose])
    assert {record.address: record for record in folder} == {r.address: r for r in [*packed, loose]}
    assert folder.get(packed[1].address) == packed[1]
    assert packed[1].address in folder
    assert folder.damaged() == {}
    with pytest.raises(InputError, match="is in a packed file"):
        folder.remove(packed[1].address)
    store.put(make_record(seed=3))
    store.pack(folder.root / "grid.jsonl.gz")  # a pack that has changed is read again
    os.utime(folder.root / "grid.jsonl.gz", ns=(1, 1))
    assert make_record(seed=3).address in folder
    (folder.root / "grid.jsonl.gz").write_bytes(b"not gzip")
    with pytest.raises(StoreError, match=r"cannot read the packed runs .*grid\.jsonl\.gz"):
        folder.get(packed[1].address)


def test_a_pack_that_comes_right_after_a_look_is_seen(store, tmp_path):
    store.put(make_record())
    folder = Store(tmp_path / "results")
    folder.put(make_record(seed=7))
    assert make_record().address not in folder
    before = folder.root.stat()
    store.pack(folder.root / "grid.jsonl.gz")
    os.utime(folder.root, ns=(before.st_atime_ns, before.st_mtime_ns))  # a clock that has not ticked since
    assert make_record().address in folder


def test_a_damaged_run_in_a_pack_is_named_and_spares_the_others(store, tmp_path):
    first, second = sorted((make_record(seed) for seed in range(2)), key=lambda record: record.address)
    store.put(first)
    store.put(second)
    folder = Store(tmp_path / "results")
    folder.root.mkdir()
    store.pack(folder.root / "grid.jsonl.gz")
    text = gzip.decompress((folder.root / "grid.jsonl.gz").read_bytes()).decode()
    damaged = text.replace("1.5", "2.5", 1)
    (folder.root / "grid.jsonl.gz").write_bytes(gzip.compress(damaged.encode()))
    assert folder.get(second.address) == second
    with pytest.raises(StoreError, match=r"grid\.jsonl\.gz, line 1"):
        folder.get(first.address)
    assert list(folder.damaged()) == [first.address]


def seeds(record):
    return f"seed {record.config['seed']}"


def test_the_lines_of_a_store_are_those_of_its_runs_loose_and_packed(store):
    for seed in range(4):
        store.put(make_record(seed))
    store.pack(store.root / "some.jsonl.gz", [make_record(seed).address for seed in (0, 1)])
    store.remove(make_record(0).address)
    expected = sorted(f"{make_record(seed).address} seed {seed}" for seed in range(4))
    for _ in range(2):  # read, then kept
        assert store.lines(seeds, name="seeds") == expected
    store.put(make_record(0))  # now in the pack and loose
    store.remove(make_record(3).address)
    store.put(make_record(4))
    expected = sorted(f"{make_record(seed).address} seed {seed}" for seed in (0, 1, 2, 4))
    assert store.lines(seeds, name="seeds") == expected


def test_only_runs_that_have_changed_are_read_again(store):
    path = store.put(make_record())
    found = store.lines(seeds, name="seeds")
    before = path.stat()
    path.write_text("x" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert store.lines(seeds, name="seeds") == found
    os.utime(path, ns=(1, 1))
    with pytest.raises(StoreError, match="damaged run"):
        store.lines(seeds, name="seeds")


def test_kept_lines_that_are_damaged_are_made_again(store):
    record = make_record()
    store.put(record)
    (store.root / "seeds.cache").write_text('{"half')
    assert store.lines(seeds, name="seeds") == [f"{record.address} seed 0"]
    assert Store(store.root / "none").lines(seeds, name="seeds") == []


def test_nothing_is_imported_from_a_pack_with_one_damaged_run(store, tmp_path):
    for seed in range(3):
        store.put(make_record(seed))
    store.pack(tmp_path / "runs.gz")
    lines = gzip.decompress((tmp_path / "runs.gz").read_bytes()).decode().splitlines()
    lines[1] = lines[1].replace("1.5", "2.5")
    (tmp_path / "bad.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    other = Store(tmp_path / "other")
    with pytest.raises(StoreError, match=r"bad.gz, line 2"):
        other.unpack(tmp_path / "bad.gz")
    assert other.addresses() == []
    for content in (b"not gzip", (tmp_path / "runs.gz").read_bytes()[:-20]):
        (tmp_path / "cut.gz").write_bytes(content)
        with pytest.raises(StoreError, match="cannot read the packed runs"):
            other.unpack(tmp_path / "cut.gz")


def test_a_store_that_cannot_be_written_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("in the way")
    blocked = Store(tmp_path / "file" / "runs")
    for attempt in (blocked.check_writable, lambda: blocked.put(make_record())):
        with pytest.raises(StoreError, match=r"cannot write to the run store .*UNROLLING_STORE"):
            attempt()
    assert blocked.addresses() == []


@contextmanager
def ordinary_user():
    """Root may write to read-only folders, so root takes another user's rights for a while."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_read_only_store_can_be_read_but_not_written():
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to other users
        store, record = Store(folder), make_record()
        store.put(record)
        os.chmod(folder, 0o555)
        with ordinary_user():
            assert store.get(record.address) == record
            assert store.lines(seeds, name="seeds") == [f"{record.address} seed 0"]
            with pytest.raises(StoreError, match="Permission denied"):
                store.put(make_record(seed=1))
        assert store.addresses() == [record.address]


def _write_many(root, first):
    for seed in range(first, first + 20):
        Store(root).put(make_record(seed % 30))


def test_many_writers_leave_only_whole_runs(store):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_many, args=(store.root, 10 * k)) for k in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert len(store.addresses()) == 30
    assert store.damaged() == {}
    assert not list(store.root.glob("*.tmp"))


def test_removing_what_is_not_there_is_an_error(store):
    with pytest.raises(InputError, match="no run 'nope'"):
        store.remove("nope")


def test_files_are_plain_json(store):
    path = store.put(make_record())
    assert json.loads(path.read_text())["config"] == {"seed": 0, "gamma": 0.5}
