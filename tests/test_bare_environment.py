"""The command line runs where only what the package depends on is installed, and not the package itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: What pages, plots and image or text data need, and what runs the notebooks.
OPTIONAL = {
    "papermill",
    "nbformat",
    "nbclient",
    "nbconvert",
    "IPython",
    "ipykernel",
    "jupyter",
    "jupyter_client",
    "notebook",
    "matplotlib",
    "seaborn",
    "plotly",
    "snakemake",
    "torchvision",
    "transformers",
    "tokenizers",
    "safetensors",
    "datasets",
    "opacus",
    "hypothesis",
    "pytest",
}
BLOCKED = """
import importlib.metadata, runpy, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

def version(name, of=importlib.metadata.version):
    if name == "unrolling":
        raise importlib.metadata.PackageNotFoundError(name)
    return of(name)

sys.meta_path.insert(0, Missing())
importlib.metadata.version = version
{then}
"""
MLP = "--dataset digits --model mlp --pretrain-epochs 1 --epochs 1"


def bare(then, folder):
    """Run a script for which none of the optional packages is there."""
    return subprocess.run(
        [sys.executable, "-c", BLOCKED.format(blocked=OPTIONAL, then=then)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "UNROLLING_STORE": str(folder / "runs")},
    )


def command(arguments, folder):
    argv = ["unrolling", *arguments.split()]
    return bare(f"sys.argv = {argv!r}; runpy.run_module('unrolling.cli', None, '__main__')", folder)


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        ("list", "figures and tables"),
        (f"run {MLP}", "accuracy"),
        ("data", "digits"),
        ("claims T01", "1 claims, 1 reproduced"),
        ("doctor", "not installed"),
    ],
    ids=lambda value: value.split()[0],
)
def test_verbs_need_no_optional_package(arguments, printed, tmp_path):
    found = command(arguments, tmp_path)
    assert found.returncode == 0, found.stderr
    assert printed in found.stdout
    assert "Traceback" not in found.stderr


def test_what_a_verb_stored_another_one_verifies(tmp_path):
    assert command(f"run {MLP}", tmp_path).returncode == 0
    found = command("store verify", tmp_path)
    assert (found.returncode, found.stdout) == (0, "runs: 1\ndamaged: {}\n")


def test_what_is_missing_is_named_in_one_line(tmp_path):
    found = command("run --dataset digits --model hf:none --pretrain-epochs 1", tmp_path)
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1


def test_only_pages_and_plots_are_not_there(tmp_path):
    script = """
import importlib, pkgutil, unrolling
def fail(name):
    pass
for module in pkgutil.walk_packages(unrolling.__path__, "unrolling.", onerror=fail):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        print(module.name, error.name)
"""
    found = bare(script, tmp_path)
    missing = dict(line.split() for line in found.stdout.splitlines())
    figures = {
        name for name in missing if name.startswith("unrolling.studies.") and name.endswith(".figures")
    }
    assert missing.keys() - figures == {"unrolling.page", "unrolling.plotting"}, found.stderr
    assert {*missing.values()} == {"IPython", "matplotlib", "seaborn"}
