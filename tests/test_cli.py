"""The command line: what it prints, what it stores, and how it refuses."""

import gzip
import json
import re
import subprocess
import sys
from typing import NamedTuple

import pytest

from unrolling._checks import printable, shown
from unrolling.cli import main
from unrolling.paper import Finding
from unrolling.runs import load_profile, published_store
from unrolling.store import Record, Store
from unrolling.studies import ledger

SMALL_RUN = [
    "run", "--dataset", "digits", "--train-size", "64", "--test-size", "20", "--model", "mlp", "--width", "4",
    "--batch-size", "16", "--pretrain-epochs", "0", "--sigma-every", "2", "--record-every", "2",
]  # fmt: skip


class Result(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


#: Batches of 32, 1, 32, 1, ... and a network whose last maps are single pixels.
LONE_RUN = ["run", "--dataset", "digits", "--model", "resnet18", "--width", "4", "--train-size", "33"]


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """The command line in this process, with an empty store and an empty data root."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNROLLING_STORE", str(tmp_path / "runs"))
    monkeypatch.setenv("UNROLLING_DATA", str(tmp_path))

    def call(*arguments, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as left:
            code = left.code
        return Result(code, *capsys.readouterr())

    return call


def test_the_installed_command_answers_and_returns_its_exit_code(tmp_path):
    def command(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "unrolling.cli", *arguments], capture_output=True, text=True
        )

    assert command("--version").stdout.startswith("unrolling ")
    assert command("run", "figure-99").returncode == 2


def test_list_names_everything_a_program_could_ask_for(cli):
    catalogue = json.loads(cli("list", "--json").stdout)
    assert set(catalogue) == {"figures", "datasets", "models", "losses", "methods", "metrics", "profiles"}
    assert all(entry["name"] and entry["title"] for entries in catalogue.values() for entry in entries)
    by_name = {entry["name"]: entry for entry in catalogue["figures"]}
    assert by_name["figure-7"]["notebook"] == "09_training_with_sd_loss"
    assert by_name["figure-7"]["module"] == "unrolling.studies.training_with_sd_loss"
    text = cli("list").stdout
    assert all(entry["name"] in text for entries in catalogue.values() for entry in entries)


def test_run_computes_once_and_reports(cli):
    first = cli(*SMALL_RUN, "--json")
    (run,) = json.loads(first.stdout)
    assert "[1/1]" in first.stderr
    assert run["config"]["model"] == "mlp"
    assert run["result"]["steps"] == 4
    again = cli(*SMALL_RUN)
    assert "[1/1]" not in again.stderr
    assert run["address"] in again.stdout


def test_run_of_a_figure_takes_its_grid_from_the_profile(cli):
    made = cli(
        "run",
        "figure-8",
        "--num-seeds",
        1,
        "--model",
        "mlp",
        "--batch-size",
        360,
        "--train-size",
        720,
        "--json",
    )
    runs = json.loads(made.stdout)
    assert [run["config"]["gamma"] for run in runs] == [0, 0.5, 1, 1.5, 2, 2.5]
    assert {run["config"]["pretrain_epochs"] for run in runs} == {1}


def test_store_verbs_carry_a_run_elsewhere_and_clean_up(cli, tmp_path):
    (run,) = json.loads(cli(*SMALL_RUN, "--json").stdout)
    address = run["address"]
    assert address in cli("store", "list").stdout
    shown = json.loads(cli("store", "show", address).stdout)
    assert shown["result"] == run["result"]
    assert shown["provenance"]["torch"]
    assert json.loads(cli("store", "pack", "runs.gz", "--json").stdout)["packed"] == 1
    other = tmp_path / "other"
    assert json.loads(cli("store", "import", "runs.gz", "--store", other, "--json").stdout)["imported"] == 1
    path = other / f"{address}.json"
    path.write_text(path.read_text()[:-30])
    verified = cli("store", "verify", "--store", other, "--json")
    assert address in json.loads(verified.stdout)["damaged"]
    assert verified.returncode == 2
    assert "1 of the runs in" in verified.stderr
    damaged = cli("store", "list", "--store", other)
    assert damaged.returncode == 2
    assert "remove-damaged" in damaged.stderr
    assert address in json.loads(cli("store", "remove-damaged", "--store", other, "--json").stdout)["removed"]
    assert not path.exists()


def test_store_verbs_look_after_committed_matrices(cli):
    folder = published_store("small").root / "taxonomy"
    listed = cli("store", "list", "--store", folder).stdout.splitlines()
    names = {path.stem for path in folder.glob("*.json")}
    assert {line.split()[0] for line in listed if " cifar10-jpeg " in line} == names
    assert any(line.startswith("2289c689e6e36daf cifar10-jpeg resnet-small: ") for line in listed)
    assert json.loads(cli("store", "verify", "--store", folder, "--json").stdout)["damaged"] == {}


def test_data_lists_and_describes(cli):
    found = {entry["name"]: entry for entry in json.loads(cli("data", "--json").stdout)}
    assert found["digits"]["available"]
    assert not found["cifar10"]["available"]
    assert json.loads(cli("data", "digits", "--json").stdout)["train"] == [1440, 1, 8, 8]
    assert json.loads(cli("data", "reviews", "--json").stdout)["test"] == [800]


def test_doctor_reports_versions_devices_data_and_store(cli, tmp_path):
    facts = json.loads(cli("doctor", "--json").stdout)
    assert facts["versions"]["torch"]
    assert "cpu" in facts["devices"]
    assert facts["store"] == {"folder": str(tmp_path / "runs"), "writable": True, "runs": 0}
    (tmp_path / "file").write_text("")
    blocked = json.loads(cli("doctor", "--json", UNROLLING_STORE=str(tmp_path / "file" / "x")).stdout)
    assert "cannot write" in blocked["store"]["writable"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "figure-99"], "unknown figure or table 'figure-99'"),
        (["run", "figure-5"], "needs no runs"),
        (["run", "table-1", "--profile", "huge"], "unknown profile 'huge'"),
        (["run", "table-1", "--seed", "3"], "unknown parameter 'seed'"),
        (["run", "--num-seeds", "3"], "for one run give --seed"),
        (["run", "--dataset", "mnist"], "unknown data set 'mnist'"),
        (["run", "--model", "resnet"], "unknown model"),
        (["run", "--loss", "mse"], "unknown loss"),
        (["run", "--gamma", "-1"], "gamma must be at least 0"),
        (["run", "--gamma", "nan"], "gamma must be finite"),
        (["run", "--learning-rate", "0"], "learning_rate must be larger than 0"),
        ([*SMALL_RUN, "--batch-size", "65"], "batch_size must be at most"),
        (LONE_RUN, "step 1 trains M on one example, of which batch norm takes no statistics"),
        ([*SMALL_RUN, "--forget-batch", "4"], "forget_batch and forget_count must name"),
        ([*SMALL_RUN, "--device", "tpu9"], "unknown device"),
        (["run", "--dataset", "cifar10"], "unrolling data cifar10 --download"),
        (["run", "--dataset", "cifar10-jpeg"], "UNROLLING_DATA"),
        (["run", "--dataset", "image_folder"], "image_folder"),
        (["data", "--download"], "needs the name"),
        (["data", "imagenet"], "unknown data set"),
        (["data", "digits", "--download"], "digits"),
        (["store", "show"], "takes an ADDRESS"),
        ([*SMALL_RUN, "--epochs", 10**9], "epochs must be between 1 and 10000000, got 1000000000"),
        ([*SMALL_RUN, "--epochs", 9_999_999], "make 39,999,996 steps; expected at most 10,000,000"),
        ([*SMALL_RUN, "--pretrain-epochs", 99999999999], "pretrain_epochs must be between 0 and 10000000"),
        ([*SMALL_RUN, "--width", 10**9], "width must be between 0 and 65536, got 1000000000"),
        ([*SMALL_RUN, "--width", 99999999999999999999], "width must be between 0 and 65536"),
        ([*SMALL_RUN, "--model", "resnet18", "--width", 60000], "Choose a smaller width or model"),
        ([*SMALL_RUN, "--vocab-size", 99999999999], "vocab_size must be between 5 and 1000000"),
        ([*SMALL_RUN, "--max-tokens", 10**9], "max_tokens must be between 3 and 100000"),
        ([*SMALL_RUN, "--seed", 10**30], "seed must be between 0 and"),
        ([*SMALL_RUN, "--seed", "-1"], "seed must be between 0 and"),
        ([*SMALL_RUN, "--batch-size", 10**30], "batch_size must be between 1 and"),
        ([*SMALL_RUN, "--epochs", "9" * 5000], "invalid int value"),
        (
            [*SMALL_RUN, "--epochs", "1e3"],
            "argument --epochs: invalid int value: '1e3'. See 'unrolling run --help'",
        ),
        ([*SMALL_RUN, "--epochs"], "argument --epochs: expected one argument"),
        ([*SMALL_RUN, "--sigma-batch", 100000], "sigma_batch must be at most the 64 training examples"),
        ([*SMALL_RUN, "--gamm", 1], "unknown argument '--gamm'. Did you mean --gamma?"),
        ([*SMALL_RUN, "--gamm=1"], "unknown argument '--gamm=1'. Did you mean --gamma?"),
        (["run", "figure-7", "figure-8"], "unknown argument 'figure-8'"),
        (["data", "--downlaod"], "Did you mean --download?"),
        (["store", "list", "--stor", "x"], "Did you mean --store?"),
        ([*SMALL_RUN, "--gamma", "1e400"], "gamma must be finite, got inf"),
        (["run", "table-1", "--num-seeds", 10**9], "num_seeds must be between 1 and 1000"),
        (["run", "table-1", "--jobs", 10**9], "--jobs must be between 1 and 256"),
        ([*SMALL_RUN, "--jobs", 0], "--jobs must be between 1 and 256"),
        *(
            ([*SMALL_RUN, "--device", name], f"unknown device '{name}'")
            for name in ("meta", "mps", "xla", "")
        ),
        ([*SMALL_RUN, "--store", ""], "--store must be the name of a file or folder, got ''"),
        (["store", "list", "--store", ""], "--store must be the name of a file or folder, got ''"),
        (["data", "digits", "--root", ""], "root must be the name of a file or folder, got ''"),
        (["data", "digits", "--root", "~nobody-at-all"], "home folder that is not known here"),
        ([*SMALL_RUN, "--store", "~nobody-at-all/runs"], "home folder that is not known here"),
        (
            ["run", "--dataset", "reviews", "--model", "hf:~nobody-at-all/x"],
            "home folder that is not known here",
        ),
        (["run", "--dataset", "reviews", "--model", "hf:" + "a" * 5000], "is not here"),
        (["run", "--dataset", "\udcff\x1b[31m"], r"unknown data set '\udcff\x1b[31m'"),
        (["run", "--dataset", "x" * 10**5], "unknown data set 'xxx"),
        (["data", "image_folder", "--root", "a" * 5000], "image_folder"),
        (["data", "cifar10", "--root", "a" * 5000], "cifar10"),
        ([], "required: VERB"),
        (["fly"], "invalid choice: 'fly'"),
        (["store", "list"], "no run store"),
        (["store", "verify"], "no run store"),
        (["store", "verify", "--store", "no/such"], "no run store no/such"),
        (["store", "verify", "--store", __file__], "no run store"),
        (["store", "pack", "x.gz", "--store", "no/such"], "no run store no/such"),
        (["store", "remove-damaged", "--store", "no/such"], "no run store no/such"),
        (["store", "verify", "--skip-damaged"], "--skip-damaged goes with"),
        (["store", "import", "."], "it is a folder"),
        (["store", "import", "/dev/zero"], "no regular file"),
        (["store", "import", ""], "takes a FILE|must be the name of a file"),
        (["store", "import", "nothing.gz"], "cannot read the packed runs"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2_and_nothing_is_written(
    cli, tmp_path, arguments, message
):
    result = cli(*arguments, UNROLLING_CACHE=str(tmp_path / "cache"))
    assert result.returncode == 2
    assert message in result.stderr or re.search(message, result.stderr)
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stdout == ""
    made = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(tmp_path / "cache" in path.parents for path in made)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["store", "show", "feed"], "no run 'feed'"),
        (["store", "show", "../" * 9], "no run"),
        (["store", "show", "x" * 5000], "no run"),
        (["store", "pack", "no/such/folder/runs.gz"], "cannot write"),
        (["store", "pack", ""], "packed file must be the name of a file"),
        (["store", "pack", "."], "it is there and no packed store"),
        (["store", "pack", "notes.txt"], "it is there and no packed store"),
        (["store", "pack", "/dev/null"], "it is there and no packed store"),
        (["store", "import", "runs/package.json"], "cannot read the packed runs"),
    ],
)
def test_bad_input_to_a_store_that_is_there_changes_nothing(cli, tmp_path, arguments, message):
    (tmp_path / "runs").mkdir()
    for name in ("runs/package.json", "notes.txt"):
        (tmp_path / name).write_text("precious")
    result = cli(*arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stdout == ""
    found = {str(path.relative_to(tmp_path)): path for path in tmp_path.rglob("*") if path.is_file()}
    assert {name: path.read_text() for name, path in found.items()} == dict.fromkeys(
        ("runs/package.json", "notes.txt"), "precious"
    )


def test_remove_damaged_leaves_alone_what_is_no_run(cli, tmp_path):
    store = tmp_path / "runs"
    store.mkdir()
    (tmp_path / "abcdefghijklm.json").write_text("precious")
    (store / "package.json").write_text("{}")
    (store / f"{'0' * 16}.json").write_text("half a")
    (store / "evil.jsonl.gz").write_bytes(gzip.compress(b'{"address":"../abcdefghijklm","a":1}'))
    facts = json.loads(cli("store", "remove-damaged", "--json").stdout)
    assert facts["removed"].keys() == {"0" * 16}
    assert list(facts["damaged, and left alone"]) == [f"{store / 'evil.jsonl.gz'}, line 1"]
    assert (tmp_path / "abcdefghijklm.json").read_text() == "precious"
    verified = cli("store", "verify")
    assert verified.returncode == 2
    assert "no runs: ['package.json']" in verified.stdout
    (store / "evil.jsonl.gz").unlink()
    assert cli("store", "verify").returncode == 0


def test_an_import_says_which_results_it_replaced(cli, tmp_path):
    (run,) = json.loads(cli(*SMALL_RUN, "--json").stdout)
    cli("store", "pack", "runs.gz")
    assert "replaced" not in cli("store", "import", "runs.gz").stdout
    record = Store(tmp_path / "runs").get(run["address"])
    record.result["steps"] = 5
    Store(tmp_path / "runs").put(record)
    assert run["address"] in cli("store", "import", "runs.gz").stdout
    assert Store(tmp_path / "runs").get(run["address"]).result["steps"] == 4


def test_runs_of_every_form_are_listed(cli, tmp_path):
    """Encoders, matrices and runs of a later version, on a line each that moves no cursor."""
    store = Store(tmp_path / "runs")
    odd = [
        {},
        {"dataset": "x"},
        {"dataset": "\x1b[31m\nred", "model": "m", "gamma": "much"},
        {"kind": "encoder"},
    ]
    for config in odd:
        store.put(Record(config, {"fingerprint": "0"}, {"trace": {"e": [], "v": 5}}, {}))
    result = cli("store", "list")
    assert result.returncode == 0
    assert len(result.stdout.splitlines()) == len(odd)
    assert "\x1b" not in result.stdout
    committed = published_store("small").root / "encoders"
    assert "encoder of distilbert-small" in cli("store", "list", "--store", committed).stdout


def test_class_names_cannot_move_the_cursor(cli, tmp_path):
    red = "red\x1b[2J\u202e\udcff"
    for split in ("train", "test"):
        for label in (red, "blue"):
            (tmp_path / "talk" / split / label).mkdir(parents=True)
            (tmp_path / "talk" / split / label / "0.txt").write_text(f"{split} {label[:3]}")
    result = cli("data", "text_folder", "--root", tmp_path / "talk", UNROLLING_CACHE=str(tmp_path / "cache"))
    assert result.returncode == 0
    assert r"blue, red\x1b[2J\u202e\udcff" in result.stdout
    again = cli("data", "text_folder", "--root", tmp_path / "talk", "--json")  # from the cache
    assert json.loads(again.stdout)["classes"] == ["blue", red]


def test_too_little_memory_is_one_line(cli, monkeypatch):
    def fail(*arguments):
        raise MemoryError

    monkeypatch.setattr("unrolling.cli.load_dataset", fail)
    result = cli("data", "digits")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "memory" in result.stderr


def test_a_foreign_checkpoint_does_not_stop_a_run(cli, tmp_path):
    (run,) = json.loads(cli(*SMALL_RUN, "--json").stdout)
    for content in ("hello\n", "", "{}"):
        (tmp_path / "runs" / f"{run['address']}.json").unlink()
        (tmp_path / "runs" / "unfinished").mkdir(exist_ok=True)
        (tmp_path / "runs" / "unfinished" / f"{run['address']}.pt").write_text(content)
        with pytest.warns(UserWarning, match=f"{run['address']}.* the run starts over"):
            (again,) = json.loads(cli(*SMALL_RUN, "--json").stdout)
        assert again["result"] == run["result"]


def test_what_is_shown_is_short_and_on_one_line():
    assert shown("a\nb") == r"'a\nb'"
    assert shown(10**5000) == "a int"
    assert len(shown("x" * 1000)) < 100
    assert printable("a\x1b[1m\tb\u202e\ud800é 日") == r"a\x1b[1m\tb\u202e\ud800é 日"


def test_a_store_that_cannot_be_written_stops_a_run_before_it_starts(cli, tmp_path):
    (tmp_path / "file").write_text("")
    result = cli(*SMALL_RUN, "--store", tmp_path / "file" / "runs")
    assert result.returncode == 2
    assert "cannot write to the run store" in result.stderr


@pytest.mark.parametrize("verb", ["run", "list", "data", "store", "doctor"])
def test_help_explains_every_verb(cli, verb):
    result = cli(verb, "--help")
    assert result.returncode == 0
    assert "--json" in result.stdout


def test_a_truncated_archive_is_one_clear_line(cli, tmp_path):
    (tmp_path / "cifar10-jpeg.tar.xz").write_bytes(b"\xfd7zXZ\x00 and then nothing")
    result = cli("data", "cifar10-jpeg", UNROLLING_CACHE=str(tmp_path / "cache"))
    assert result.returncode == 2
    assert "cifar10-jpeg" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


# claims


@pytest.fixture
def two_claims(monkeypatch):
    """A registry with two checks: one that holds and one that fails."""
    ledger.all_checks()  # the real checks must not register themselves later
    monkeypatch.setattr(ledger, "_CHECKS", {})
    for id, held in (("T13", True), ("T19", False)):
        found = Finding(propositions={"it": held}, value=1.0, value_is="a number", reason=f"It is {held}.")
        ledger.check(id, page="a_page")(lambda found=found: found)


def test_claims_prints_the_ledger_and_its_verdicts(cli, two_claims):
    lines = cli("claims").stdout.splitlines()
    assert len(lines) == 103
    assert lines[-1] == "102 claims, 1 reproduced, 1 contradicted, 100 not yet run"
    (line,) = cli("claims", "--verdict", "contradicted").stdout.splitlines()[:-1]
    assert line.startswith("T19  contradicted")
    assert "It is False." in cli("claims", "T19").stdout


def test_claims_as_json_are_the_ledgers_entries(cli, two_claims):
    rows = json.loads(cli("claims", "--json").stdout)
    assert rows == json.loads(json.dumps([entry.to_dict() for entry in ledger.evaluate()]))
    (row,) = json.loads(cli("claims", "T13", "--json").stdout)
    assert (row["id"], row["verdict"], row["value"]) == ("T13", "reproduced", 1.0)


def test_unknown_claims_are_refused(cli):
    answer = cli("claims", "T99")
    assert answer.returncode == 2
    assert "unknown claim 'T99'" in answer.stderr


def test_encoders_and_tables_are_listed_like_runs(cli):
    for folder, text in (
        ("encoders", "imdb encoder of distilbert-small: 20000 texts"),
        ("taxonomy", "16 methods by 21 metrics"),
    ):
        listed = cli("store", "list", "--store", published_store("small").root / folder)
        assert listed.returncode == 0
        assert text in listed.stdout


# work

LIST = """
description: two runs of a grid
profile: quick
runs:
  - {experiment: training_with_sd_loss, part: strength, seeds: [0], where: {gamma: [2.0, 0]}}
"""


def test_work_computes_a_list_and_leaves_a_packed_store(cli, tmp_path, monkeypatch):
    grid = load_profile("quick").experiment("training_with_sd_loss")
    for name, value in {"train_size": 32, "test_size": 20, "model": "linear", "batch_size": 16}.items():
        monkeypatch.setitem(grid.parameters, name, value)
    (tmp_path / "mine.yml").write_text(LIST)
    done = cli("work", "mine.yml", "--pack", "mine.jsonl.gz", "--budget-minutes", "60")
    assert done.returncode == 0
    assert "[1/2] digits linear gamma=2" in done.stderr
    assert "runs: 2\nstored: 2\nleft: 0\npacked: 2\nfile: mine.jsonl.gz" in done.stdout
    other = Store(tmp_path / "other")
    assert other.unpack(tmp_path / "mine.jsonl.gz").runs == 2
    again = cli("work", "mine.yml", "--json")
    assert (json.loads(again.stdout), again.stderr) == ({"runs": 2, "stored": 2, "left": 0}, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["narow"], "unknown list of runs 'narow'"),
        (["nowhere.yml"], "cannot read the list of runs 'nowhere.yml'"),
        (["core", "--profile", "papr"], "unknown profile 'papr'"),
        (["core", "--budget-minutes", "0"], "minutes must be"),
        (["core", "--jobs", "0"], "--jobs must be"),
        (["core"], "cifar10"),
    ],
)
def test_work_refuses_in_one_line(cli, arguments, message):
    done = cli("work", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
