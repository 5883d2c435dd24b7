"""The run store: addresses, atomic and verified files, packing, and what goes wrong."""

import gzip
import json
import multiprocessing
import os
import tempfile
import time
from contextlib import contextmanager

import pytest

from unrolling import store as store_module
from unrolling._checks import InputError, StoreError
from unrolling._files import ABANDONED
from unrolling.store import DamagedRun, Record, Store, _checksum, canonical, make_address, read_record


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
    for value, message in ((float("nan"), "not JSON compliant"), (object(), "not JSON serializable")):
        with pytest.raises(StoreError, match=f"cannot be stored: .*{message}"):
            store.put(make_record(value=value))
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


# ---- what is no run, or no store ----


def written(**changes):
    """A record with changed parts and the checksum that is right for them."""
    body = json.loads(make_record().to_json()) | changes
    body.pop("checksum")
    return canonical(body | {"checksum": _checksum(body)})


ODD = {
    "nothing": "",
    "a number": "5",
    "null": "null",
    "NaN": make_record().to_json().replace("1.5", "NaN"),
    "infinity": make_record().to_json().replace("1.5", "-Infinity"),
    "a number beyond the floats": make_record().to_json().replace("1.5", "1e999"),
    "a number of 5,000 digits": make_record().to_json().replace("1.5", "9" * 5000),
    "a hundred thousand lists": "[" * 100_000,
    "nested settings": '{"schema":1,"checksum":"","config":' + '{"a":' * 100_000,
    "settings that are a list": written(config=[1]),
    "settings that are a text": written(config="mlp"),
    "data that are a list": written(data=["abc"]),
    "data without a fingerprint": written(data={"name": "digits"}),
    "a fingerprint that is a number": written(data={"fingerprint": 5}),
    "a result that is null": written(result=None),
    "no provenance": written(provenance=None),
    "an address that is a list": written(address=[1]),
    "another address": written(address="../../somewhere"),
    "an earlier schema": written(schema=0),
    "a schema that is a text": written(schema="one"),
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
@pytest.mark.parametrize("way", ["loose", "packed"])
def test_whatever_stands_in_the_place_of_a_run_is_named_and_spares_the_others(store, text, way):
    record, other = make_record(), make_record(seed=1)
    store.put(other)
    if way == "loose":
        store.path(record.address).write_text(text + "\n")
        place = record.address
    else:
        (store.root / "some.jsonl.gz").write_bytes(gzip.compress(f"{text}\n".encode()))
        place = f"{store.root / 'some.jsonl.gz'}, line 1"
    faults = store.damaged()
    assert len(faults) == 1
    ((where, message),) = faults.items()
    assert where in (place, record.address)
    assert str(store.root) in message
    assert "\n" not in message
    assert len(message) < 600
    assert store.get(other.address) == other
    removed, left = store.remove_damaged()
    assert (len(removed), len(left)) == ((1, 0) if way == "loose" else (0, 1))
    assert store.get(other.address) == other


def test_only_files_named_as_runs_are_runs(store):
    """And only those can be removed: package.json is somebody's."""
    record = make_record()
    store.put(record)
    others = ["package.json", ".hidden.json", "0123.json", "0123456789ABCDEF.json", f"{'0' * 17}.json"]
    for name in others:
        (store.root / name).write_text("{}")
    (store.root / "folder.json").mkdir()
    assert store.addresses() == [record.address]
    assert store.other_files() == sorted([*others, "folder.json"])
    assert store.damaged() == {}
    assert store.remove_damaged() == ({}, {})
    assert store.lines(seeds, name="seeds") == [f"{record.address} seed 0"]
    assert all((store.root / name).exists() for name in others)


def test_what_is_not_damaged_but_cannot_be_used_is_left_alone(store, monkeypatch):
    later, moved, folder, unread = (make_record(seed) for seed in range(4))
    store.put(moved).rename(store.path("0" * 16))
    store.path(later.address).write_text(written(schema=store_module.SCHEMA + 1))
    store.path(folder.address).mkdir()
    store.put(unread)

    def cannot_be_read(path, limit):
        if path == store.path(unread.address):
            raise OSError(5, "Input/output error")
        return read(path, limit)

    read = store_module.read_regular
    monkeypatch.setattr(store_module, "read_regular", cannot_be_read)
    expected = {
        "0" * 16: "Rename or delete it",
        later.address: "has schema 2.*Update it",
        folder.address: "it is a folder",
        unread.address: "Input/output error",
    }
    removed, left = store.remove_damaged()
    assert removed == {}
    assert left.keys() == expected.keys()
    for address, message in expected.items():
        with pytest.raises(StoreError, match=message):
            store.get(address)
        assert store.path(address).exists()


@pytest.mark.parametrize("address", ["../abcdefghijklm", "../../etc/passwd", "", "x" * 5000, None, 5])
def test_an_address_cannot_lead_out_of_the_store(store, tmp_path, address):
    store.put(make_record())
    assert address not in store
    assert store.get(address) is None
    with pytest.raises(InputError, match="no run"):
        store.remove(address)
    with pytest.raises(InputError, match="expected an address"):
        store.path(address)


def test_a_packed_file_cannot_name_a_file_outside_of_the_store(store, tmp_path):
    outside = tmp_path / "abcdefghijklm.json"
    outside.write_text("precious")
    store.root.mkdir()
    lines = ['{"address":"../abcdefghijklm","checksum":1}', '{"address":"' + "0" * 16 + '","a":1}']
    (store.root / "evil.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    removed, left = store.remove_damaged()
    assert (removed, len(left)) == ({}, 2)
    assert outside.read_text() == "precious"


def test_a_line_that_says_another_address_than_it_has_is_not_taken(store):
    text = make_record().to_json()
    store.root.mkdir()
    lying = '{"address":"' + "0" * 16 + '",' + text[1:]  # the second of two equal keys counts
    (store.root / "evil.jsonl.gz").write_bytes(gzip.compress(lying.encode()))
    with pytest.raises(StoreError, match=f"it holds run {make_record().address}"):
        store.get("0" * 16)


def test_no_flipped_bit_of_a_packed_file_is_a_traceback_or_another_result(store, tmp_path):
    for seed in range(3):
        store.put(make_record(seed))
    store.pack(tmp_path / "runs.gz")
    content, seen = (tmp_path / "runs.gz").read_bytes(), set()
    for bit in range(0, 8 * len(content), 7):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        (tmp_path / "flipped.gz").write_bytes(flipped)
        try:
            assert Store(tmp_path / f"other{bit}").unpack(tmp_path / "flipped.gz").runs == 3
        except StoreError as error:
            seen.add(type(error.__cause__).__name__)
            assert not (tmp_path / f"other{bit}").exists()
    assert "error" in seen  # zlib's


def test_a_packed_file_unpacks_to_no_more_than_the_limit(store, tmp_path, monkeypatch):
    for seed in range(100):
        store.put(make_record(seed))
    store.pack(tmp_path / "runs.gz")
    monkeypatch.setenv("UNROLLING_MAX_GB", "1e-5")
    with pytest.raises(StoreError, match=r"unpacks to at least 1e-05 GB, .*UNROLLING_MAX_GB=GIGABYTES"):
        Store(tmp_path / "other").unpack(tmp_path / "runs.gz")
    for wrong in ("much", "0", "-1", "nan", "inf"):
        monkeypatch.setenv("UNROLLING_MAX_GB", wrong)
        with pytest.raises(InputError, match="UNROLLING_MAX_GB must be"):
            store.unpack(tmp_path / "runs.gz")
    monkeypatch.delenv("UNROLLING_MAX_GB")
    # One line of 65 MB from 65 kB: not a run, and noticed before the rest is unpacked.
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(store_module.LARGEST_RUN + 10), 9))
    with pytest.raises(StoreError, match="line 1 is longer than"):
        store.unpack(tmp_path / "bomb.gz")


def make_pipe(path):
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b""), "it is empty"),
        (lambda path: path.mkdir(), "it is a folder"),
        (make_pipe, "no regular file"),
        (lambda path: path.symlink_to("gone"), "No such file"),
        (lambda path: path.write_bytes(b"not gzip"), "Not a gzipped file"),
    ],
)
def test_what_is_no_packed_file_is_named_and_does_not_hide_loose_damage(store, tmp_path, make, message):
    damaged = store.put(make_record())
    damaged.write_text("half a")
    make(store.root / "some.jsonl.gz")
    faults = store.damaged()
    assert faults.keys() == {make_record().address, "some.jsonl.gz"}
    assert message in faults["some.jsonl.gz"]
    with pytest.raises(StoreError, match=f"cannot read the packed runs .*{message}"):
        store.unpack(store.root / "some.jsonl.gz")
    removed, left = store.remove_damaged()
    assert (removed.keys(), left.keys()) == ({make_record().address}, {"some.jsonl.gz"})


def test_packing_replaces_packed_files_and_nothing_else(store, tmp_path):
    run = store.put(make_record())
    (tmp_path / "notes.txt").write_text("precious")
    (tmp_path / "other.gz").write_bytes(gzip.compress(b"precious"))
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    before = run.read_bytes()
    for target in (run, *(tmp_path / name for name in ("notes.txt", "other.gz", "folder", "pipe"))):
        with pytest.raises(StoreError, match="it is there and no packed store"):
            store.pack(target)
    with pytest.raises(InputError, match="packed file must be the name of a file"):
        store.pack("")
    assert run.read_bytes() == before
    assert (tmp_path / "notes.txt").read_text() == "precious"
    assert store.pack(tmp_path / "runs.gz", []) == 0
    assert store.pack(tmp_path / "runs.gz") == store.pack(tmp_path / "runs.gz") == 1
    assert not list(tmp_path.glob("*.tmp"))


def test_a_packed_file_does_not_depend_on_the_order_of_what_is_asked_for(store, tmp_path):
    addresses = [store.put(make_record(seed)).stem for seed in range(5)]
    for name, order in (("one", addresses), ("two", addresses[::-1]), ("three", addresses * 2)):
        assert store.pack(tmp_path / name, order) == 5
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "one").read_bytes() == (tmp_path / "three").read_bytes()


def test_damaged_runs_stop_a_pack_unless_they_are_to_be_left_out(store, tmp_path):
    for seed in range(3):
        store.put(make_record(seed))
    store.path(make_record(1).address).write_text("half a")
    with pytest.raises(StoreError, match="damaged run"):
        store.pack(tmp_path / "runs.gz")
    assert not (tmp_path / "runs.gz").exists()
    assert store.pack(tmp_path / "runs.gz", skip_damaged=True) == 2
    assert Store(tmp_path / "other").unpack(tmp_path / "runs.gz") == (2, [])


def test_an_import_says_which_results_it_replaced(store, tmp_path):
    other = Store(tmp_path / "other")
    for seed, value in ((0, 1.5), (1, 9.0), (2, 1.5)):
        other.put(make_record(seed, value))
    other.pack(tmp_path / "runs.gz")
    for seed in range(2):
        store.put(make_record(seed))
    store.path(make_record(0).address).write_text("half a")  # which the import mends
    assert store.unpack(tmp_path / "runs.gz") == (3, [make_record(1).address])
    assert store.unpack(tmp_path / "runs.gz") == (3, [])
    assert {run.address: run for run in store} == {run.address: run for run in other}


@pytest.mark.parametrize("kept", ["[]", "5", "null", '{"a.json":5}', "[" * 100_000, "lines", "\0"])
def test_a_cache_that_lies_is_made_again(store, kept):
    path = store.put(make_record())
    facts = path.stat()
    if kept == "lines":  # of the right form, size and time, but not what was written
        own = f"{facts.st_size} {facts.st_mtime_ns}\n{make_record().address} a lie"
        kept = json.dumps({"checksum": "0", "lines": {path.name: own}})
    (store.root / "seeds.cache").write_text(kept)
    assert store.lines(seeds, name="seeds") == [f"{make_record().address} seed 0"]


def test_a_description_cannot_move_the_cursor_or_add_a_line(store):
    store.put(make_record())
    (line,) = store.lines(lambda record: "red \x1b[31m\nsecond \u202e line", name="x")
    assert line.endswith(r"red \x1b[31m\nsecond \u202e line")


@pytest.mark.parametrize("root", ["", "a\0b", 5, None, b"runs", "~nobody-at-all/runs"])
def test_a_store_is_a_folder_by_name(root):
    with pytest.raises(InputError, match="run store"):
        Store(root)


def test_a_home_folder_is_written_out(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Store("~/runs").root == tmp_path / "runs"


def test_a_store_that_may_not_be_entered_says_so():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        store = Store(f"{folder}/runs")
        store.put(make_record())
        os.chmod(store.root, 0)
        with ordinary_user():
            for attempt in (store.addresses, store.damaged, lambda: list(store), store._pack_paths):
                with pytest.raises(StoreError, match=r"cannot read the run store .*Permission denied"):
                    attempt()
            with pytest.raises(StoreError, match="Permission denied"):
                store.lines(seeds, name="seeds")
        os.chmod(store.root, 0o755)


@pytest.fixture
def full_disk(monkeypatch):
    """A disk on which a file can be made, and on which nothing can be written into it."""

    def refuse(*arguments):
        raise OSError(28, "No space left on device")

    class Full:
        def __init__(self, file):
            self._file = file

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self._file.close()

        write = refuse

    import unrolling._files

    real = unrolling._files.Path.open
    monkeypatch.setattr(unrolling._files.Path, "open", lambda *a, **k: Full(real(*a, **k)))
    monkeypatch.setattr(os, "fsync", refuse)


def test_a_full_disk_leaves_nothing_behind(store, tmp_path, full_disk):
    record = make_record()
    for attempt in (
        lambda: store.put(record),
        store.check_writable,
        lambda: store.pack(tmp_path / "runs.gz", []),
    ):
        with pytest.raises(StoreError, match="No space left on device"):
            attempt()
    assert list(store.root.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_what_killed_processes_left_is_cleared_away_and_what_is_being_written_is_not(store):
    store.put(make_record())
    old = ["tmpabcd_123.tmp", f"{'0' * 16}.json.{'a' * 16}.tmp", f"{'0' * 16}.pt.123.tmp"]
    others = [f"{'1' * 16}.json.{'b' * 16}.tmp", "my notes.tmp", "tmp.txt"]
    for name in old + others:
        (store.root / name).write_text("half a")
    for name in [*old, *others[1:]]:
        os.utime(store.root / name, (time.time() - ABANDONED - 60,) * 2)
    store.check_writable()
    assert {path.name for path in store.root.iterdir()} == {f"{make_record().address}.json", *others}


def test_files_have_the_rights_that_the_user_asks_for(store):
    before = os.umask(0o077)
    try:
        path = store.put(make_record())
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_run_too_large_to_be_one_is_not_read(store):
    store.root.mkdir()
    with store.path("0" * 16).open("wb") as file:
        file.truncate(10**12)  # a file of holes
    with pytest.raises(StoreError, match="it has 1,000,000,000,000 bytes"):
        store.get("0" * 16)


def test_damage_has_a_type_of_its_own():
    with pytest.raises(DamagedRun):
        read_record("{}", "here")
    with pytest.raises(StoreError, match="has schema 2") as raised:
        read_record(written(schema=2), "here")
    assert not isinstance(raised.value, DamagedRun)
