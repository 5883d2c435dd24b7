"""The wheel is the package: it works outside the checkout, with the committed results and all of its data."""

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement

from unrolling.studies.ledger import evaluate
from workflow.imports import data_files

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "unrolling", "results")
#: Of runs on images, on text, of many seeds; and one that needs no runs.
CLAIMS = ("E01", "A01", "R01", "T11")


def pip(*arguments):
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--no-deps", "--no-index"]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that the wheel of this checkout is installed into."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            skipped = shutil.ignore_patterns("__pycache__", "unfinished", "*.cache")
            shutil.copytree(ROOT / name, folder / "source" / name, ignore=skipped)
        else:
            (folder / "source").mkdir(exist_ok=True)
            shutil.copyfile(ROOT / name, folder / "source" / name)
    made = pip("wheel", "--no-build-isolation", "-w", str(folder), str(folder / "source"))
    assert made.returncode == 0, made.stderr
    (wheel,) = folder.glob("*.whl")
    assert wheel.stat().st_size < 5e6
    made = pip("install", "--target", str(folder / "site"), str(wheel))
    assert made.returncode == 0, made.stderr
    shutil.rmtree(folder / "source")
    return folder / "site"


@pytest.fixture
def outside(installed, tmp_path):
    """Run Python with the installed package in an empty folder."""

    def run(*arguments):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("UNROLLING_")}
        found = subprocess.run(
            [sys.executable, "-P", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment | {"PYTHONPATH": str(installed)},
        )
        assert found.returncode == 0, found.stderr
        return found.stdout

    return run


def test_the_installed_package_is_the_one_that_is_run(outside, installed):
    place = outside("-c", "import unrolling; print(unrolling.__file__)").strip()
    assert Path(place) == installed / "unrolling" / "__init__.py"


def test_verdicts_about_runs_are_those_of_the_checkout(outside, tmp_path, monkeypatch):
    found = {
        entry["id"]: entry for entry in json.loads(outside("-m", "unrolling", "claims", *CLAIMS, "--json"))
    }
    monkeypatch.setenv("UNROLLING_STORE", str(tmp_path / "none"))
    ours = {entry.claim.id: json.loads(json.dumps(entry.to_dict())) for entry in evaluate(CLAIMS)}
    assert found == ours
    assert [found[id]["profile"] for id in CLAIMS] == ["small", "small", "small", "any"]
    assert all(found[id]["runs"] for id in CLAIMS[:3])


def test_the_example_of_the_readme_runs(outside):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert re.search(r"^v after unlearning: 0\.\d+$", outside("-c", code), re.MULTILINE)


def test_every_data_file_and_recipe_travels(installed):
    def below(folder):
        recipes = [path for path in folder.rglob("README.md") if "__pycache__" not in path.parts]
        return {path.relative_to(folder).as_posix() for path in [*data_files(folder), *recipes]}

    assert below(installed / "unrolling") - {"py.typed"} == below(ROOT / "unrolling") | {
        f"results/{name}" for name in below(ROOT / "results")
    }
    assert (installed / "unrolling" / "py.typed").exists()


# What is to be installed with it


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.partition(".")[0]


def test_the_extras_for_a_page_have_all_that_notebooks_import():
    extras = PROJECT["optional-dependencies"]
    asked = chain(PROJECT["dependencies"], extras["plots"], extras["page"])
    installs = {Requirement(text).name for text in asked}
    owners = importlib.metadata.packages_distributions()
    names = set()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        for cell in cells:
            names |= set(imported(ast.parse(cell.source))) if cell.cell_type == "code" else set()
    names -= {"unrolling", *sys.stdlib_module_names}
    assert "myst_nb" in names
    assert {name for name in names if not installs & {owner.lower() for owner in owners[name]}} == set()


def test_the_pip_part_of_the_conda_environment_can_be_installed(needs):
    """As far as this goes without conda: everything is there in these versions, or could be fetched."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (part,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    uv = Path(sys.executable).with_name("uv")
    needs(uv.exists(), "no uv beside Python: run `make setup`")
    arguments = [word for line in part for word in line.split()]
    found = subprocess.run(
        [uv, "pip", "install", "--dry-run", "--python", sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert found.returncode == 0, found.stderr
