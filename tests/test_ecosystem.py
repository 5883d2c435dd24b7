"""What somebody who knows the tools types first does right, or stops in one line."""

import subprocess
import sys
from pathlib import Path

import pytest
from test_workflow import GOOD, make_repository

from unrolling import __version__
from workflow.build_book import build
from workflow.staging import Layout

ROOT = Path(__file__).resolve().parent.parent


def run(command, folder):
    program, *arguments = command.split()
    return subprocess.run(
        [sys.executable, Path(sys.executable).with_name(program), *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
    )


def test_jupyter_book_on_the_sources_says_make_book(tmp_path):
    make_repository(tmp_path, only=GOOD, another=GOOD)
    found = run("jupyter-book build .", tmp_path)
    assert found.returncode == 1
    (line,) = [line for line in found.stderr.splitlines() if line.startswith("error: ")]
    assert "2 notebooks have not been run, the first is another" in line
    assert "`make book`" in line
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "_build" / "html" / "index.html").exists()


def test_jupyter_book_on_pages_that_were_run_builds_them(tmp_path):
    make_repository(tmp_path, only=GOOD)
    build(tmp_path, "quick", {})
    found = run("jupyter-book build .", Layout(tmp_path, "quick").stage)
    assert found.returncode == 0, found.stderr
    page = Layout(tmp_path, "quick").stage / "_build" / "html" / "notebooks" / "only.html"
    assert "steps 3 quick" in page.read_text()


@pytest.mark.parametrize(
    ("folder", "notebook"), [(".", "notebooks/12_conventions"), ("notebooks", "12_conventions")]
)
def test_jupyter_execute_runs_a_notebook_from_either_folder(folder, notebook):
    before = (ROOT / "notebooks" / "12_conventions.ipynb").read_bytes()
    found = run(f"jupyter-execute {notebook}.ipynb", ROOT / folder)
    assert found.returncode == 0, found.stderr
    assert (ROOT / "notebooks" / "12_conventions.ipynb").read_bytes() == before


def test_pytest_without_a_book_says_what_it_skips_and_how_to_get_it(tmp_path, monkeypatch):
    (tmp_path / "_toc.yml").write_bytes((ROOT / "_toc.yml").read_bytes())
    monkeypatch.setenv("UNROLLING_BOOK", str(tmp_path / "_build" / "html"))
    monkeypatch.delenv("CI", raising=False)
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/test_book.py", "-k", "search"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert found.returncode == 0, found.stdout
    assert "there is no book: run `make book`" in found.stdout


def test_the_package_is_the_command_line():
    found = subprocess.run(
        [sys.executable, "-m", "unrolling", "--version"], capture_output=True, text=True, cwd=ROOT
    )
    assert (found.returncode, found.stdout) == (0, f"unrolling {__version__}\n")


def test_make_check_collects_the_quick_files_and_no_other():
    from conftest import QUICK

    assert all(path.exists() for path in QUICK)
    found = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "--collect-only",
            "-q",
            "-m",
            "not slow",
            "tests",
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert found.returncode == 0, found.stdout
    files = {ROOT / line.partition("::")[0] for line in found.stdout.splitlines() if "::" in line}
    assert files == QUICK
