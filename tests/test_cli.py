"""The command line: what it prints, what it stores, and how it refuses."""

import json
import subprocess
import sys
from typing import NamedTuple

import pytest

from unrolling.cli import main
from unrolling.experiments import ledger, published_store
from unrolling.paper import Finding

SMALL_RUN = [
    "run", "--dataset", "digits", "--train-size", "64", "--test-size", "20", "--model", "mlp", "--width", "4",
    "--batch-size", "16", "--pretrain-epochs", "0", "--sigma-every", "2", "--record-every", "2",
]  # fmt: skip


class Result(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


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
    assert by_name["figure-7"]["notebook"] == "06_training_with_sd_loss"
    assert by_name["figure-7"]["module"] == "unrolling.trackers"
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
    assert address in json.loads(cli("store", "verify", "--store", other, "--json").stdout)["damaged"]
    damaged = cli("store", "list", "--store", other)
    assert damaged.returncode == 2
    assert "remove-damaged" in damaged.stderr
    assert address in json.loads(cli("store", "remove-damaged", "--store", other, "--json").stdout)["removed"]
    assert not path.exists()


def test_store_verbs_look_after_committed_matrices(cli):
    folder = published_store("small").root / "taxonomy"
    (path,) = folder.glob("*.json")
    listed = cli("store", "list", "--store", folder).stdout
    assert listed.startswith(f"{path.stem} cifar10-jpeg resnet-small: ")
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
        ([*SMALL_RUN, "--forget-batch", "4"], "forget_batch and forget_count must name"),
        ([*SMALL_RUN, "--device", "tpu9"], "unknown device"),
        (["run", "--dataset", "cifar10"], "unrolling data cifar10 --download"),
        (["run", "--dataset", "cifar10-jpeg"], "UNROLLING_DATA"),
        (["run", "--dataset", "image_folder"], "image_folder"),
        (["data", "--download"], "needs the name"),
        (["data", "imagenet"], "unknown data set"),
        (["data", "digits", "--download"], "digits"),
        (["store", "show"], "takes an ADDRESS"),
        (["store", "show", "feed"], "no run 'feed'"),
        (["store", "import", "nothing.gz"], "cannot read the packed runs"),
        (["store", "pack", "no/such/folder/runs.gz"], "cannot write"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(cli, arguments, message):
    result = cli(*arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stdout == ""


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
    for folder, text in (("encoders", "encoder of 20,000 texts"), ("taxonomy", "16 methods by 21 metrics")):
        listed = cli("store", "list", "--store", published_store("small").root / folder)
        assert listed.returncode == 0
        assert text in listed.stdout
