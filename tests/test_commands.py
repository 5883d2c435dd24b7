"""Every command that a document or a page shows works, each tried in the cheapest form that can fail.

What computes for long is parsed and its runs are resolved, or it is run on results that are stored; the rest
is run. A command of a kind that is not known here fails, so that none goes unchecked.
"""

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import torch
from papermill.cli import _resolve_type

from unrolling import cli
from unrolling._checks import UnrollingError
from unrolling.data import DATASETS
from unrolling.page.allowed import check_page, page_parameters
from unrolling.runs import PROFILES, collect, published_store
from unrolling.runs.lists import load_list
from unrolling.store import Store

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *ROOT.glob("book/*.md"),
    *(ROOT / folder / "README.md" for folder in ("benchmarks", "unrolling/methods", "unrolling/metrics")),
]
PROGRAMS = r"(?:\.venv/bin/)?(?:unrolling|make|papermill|python|pip|hf)"
#: Of the command line: what does little, and is run as it stands.
RUN = {"list", "data", "doctor", "store"}


def written(text):
    """The commands of a text in Markdown: the lines of its shell blocks, and those between backticks."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    # A role such as {doc}`...` names a page.
    return lines + re.findall(
        rf"(?<!\}})`({PROGRAMS} [^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    )


def shown(page):
    """The commands that a page writes out; those made from its parameters are in test_page_parameters."""
    for cell in nbformat.read(page, as_version=4).cells:
        if cell.cell_type == "markdown":
            yield from written(cell.source)
        else:
            yield from re.findall(r'command="([^"]*)"', cell.source)


def all_commands():
    """Where each command stands first, by the command."""
    found = [(path, line) for path in DOCUMENTS for line in written(path.read_text(encoding="utf-8"))]
    found += [(path, line) for path in sorted(ROOT.glob("notebooks/*.ipynb")) for line in shown(path)]
    places = {}
    for path, line in found:
        for command in re.sub(r"\s+#.*", "", line).split(" && "):
            places.setdefault(command.strip().removeprefix(".venv/bin/"), path.name)
    return [pytest.param(command, id=f"{name}: {command}") for command, name in places.items()]


class Asked(Exception):
    """Raised in place of computing; the command has said which runs it wants."""


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """A folder without data, and with one stored run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNROLLING_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("UNROLLING_STORE", str(tmp_path / "runs"))
    Store("runs").put(next(iter(published_store("small"))))
    (tmp_path / "results").symlink_to(ROOT / "results")
    return tmp_path


def try_unrolling(words, monkeypatch):
    arguments = cli.make_parser().parse_args(words)
    if words[0] == "run":

        def compute_all(configs, *args, **options):
            if configs:
                raise Asked
            yield from ()

        monkeypatch.setattr(collect, "_compute_all", compute_all)
        if arguments.profile == "quick":  # where all data are embedded
            with pytest.raises(Asked):
                cli.main(words)
            return "computed"
        return ("shown", None, "refused")[cli.main(words)]
    elif words[0] == "work":
        assert load_list(arguments.list).configs(arguments.profile)
    elif words[0] == "data" and len(words) > 1:
        source = DATASETS[words[1]]
        assert source.download or not arguments.download
    elif words[0] in RUN:
        if words[:2] == ["store", "import"]:
            Store("runs").pack(words[2])
        assert cli.main(words) == 0
    else:
        assert words[0] == "claims"
    return None


def try_make(words):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    verb, *settings = words
    assert re.search(rf"^{verb}:.*##", makefile, re.MULTILINE)
    for setting in settings:
        name, value = setting.split("=")
        assert re.search(rf"^{name} *\?=|\$\({name}\)", makefile, re.MULTILINE)
        if name == "PROFILE":
            assert value in (*PROFILES, "...")
        if name == "NOTEBOOK":
            assert (ROOT / "notebooks" / f"{value}.ipynb").exists()
    subprocess.run(["make", "--dry-run", *words], cwd=ROOT, check=True, capture_output=True)


def try_papermill(words):
    source, output, *options = words
    page = Path(source).stem
    assert (ROOT / source).exists()
    assert Path(output).suffix == ".ipynb"
    given = page_parameters(page)
    while options:
        flag, *options = options
        name = options.pop(0)
        if flag == "--cwd":
            assert (ROOT / name).is_dir()
        else:
            assert flag == "-p"
            given[name] = _resolve_type(options.pop(0))
    if given.get("device") == "cuda" and not torch.cuda.is_available():
        given["device"] = "auto"  # the rest of it can be tried without a GPU
    check_page(page, given)


def try_python(words):
    assert words[0] == "-m"
    assert importlib.util.find_spec(words[1])
    if words[1] == "pytest":
        assert (ROOT / words[2]).exists()


def try_elsewhere(program, words):
    if program == "pip":
        name, extras = re.fullmatch(r"([\w.]+)(?:\[([\w,]+)\])?", words[-1]).groups()
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert words[0] == "install"
        assert name in (project["name"], ".")
        assert set(extras.split(",") if extras else ()) <= project["optional-dependencies"].keys()
    elif program == "hf":
        assert words[0] == "download"
        assert Path(sys.executable).with_name("hf").exists() or shutil.which("hf")
    else:
        assert program in ("mkdir", "export"), f"nothing here checks commands such as {program}"


@pytest.mark.parametrize("command", all_commands())
def test_commands_of_documents_and_pages_work(command, empty, monkeypatch, capsys):
    program, *words = shlex.split(command)
    if program == "unrolling":
        if "--help" in words:
            with pytest.raises(SystemExit) as left:
                cli.main(words)
            assert left.value.code == 0
            return
        done, said = try_unrolling(words, monkeypatch), capsys.readouterr().err
        assert done != "refused" or "must be computed, which needs what is not here" in said
        assert done == "shown" or "--store" not in words or words[0] != "run"
    elif program == "make":
        try_make(words)
    elif program == "papermill":
        try_papermill(words)
    elif program == "python":
        try_python(words)
    else:
        try_elsewhere(program, words)


def test_the_search_finds_blocks_and_inline_commands():
    text = "Run `make book` or {doc}`unrolling SGD <x>`.\n\n```sh\n.venv/bin/unrolling list  # all\n```\n"
    assert written(text) == [".venv/bin/unrolling list  # all", "make book"]


def test_claims_are_checked_and_shown(empty, capsys):
    assert cli.main(["claims", "T07", "T17"]) == 0
    assert "criterion:" in capsys.readouterr().out


PAGES_OF_SMALL = ("01_taxonomy", "13_fine_tuning_text", "14_text")


@pytest.mark.parametrize("page", PAGES_OF_SMALL)
def test_a_page_of_small_is_made_from_stored_runs_alone(page, empty):
    """As `make book PROFILE=small` runs it, without data, pretrained weights or a run but the committed."""
    from unrolling.runs import notebook_parameters
    from workflow.staging import kernel_environment

    given = empty / "parameters.yml"
    given.write_text(json.dumps(notebook_parameters("small")[page]))
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "--kernel", "python3"]
    files = ["--parameters_file", str(given), str(ROOT / "notebooks" / f"{page}.ipynb"), "out.ipynb"]
    done = subprocess.run([*command, *files], capture_output=True, text=True, env=kernel_environment(empty))
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((empty / "runs").rglob("*.json"))) == 1, "something was computed"


def test_a_page_whose_runs_are_not_stored_says_so_in_one_line(empty):
    with pytest.raises(UnrollingError, match=r"^1 of 1 runs must be computed, which needs [^\n]*imdb[^\n]*$"):
        collect.obtain([collect.RunConfig(dataset="imdb", model="distilbert-small", dtype="float32")])
