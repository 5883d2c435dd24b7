"""The import layers of the package: a module imports only what stands below it."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

import unrolling

PACKAGE = Path(unrolling.__file__).parent
CORE = {
    "_checks",
    "_folders",
    "_sizes",
    "_files",
    "seeding",
    "parameters",
    "batches",
    "surroundings",
    "refusals",
    "model_loss",
}
ALLOWED = {
    "_checks": set(),
    "_folders": {"_checks"},
    "_sizes": {"_checks"},
    "_files": set(),
    "seeding": {"_checks"},
    "parameters": {"_checks", "seeding"},
    "batches": {"_checks", "seeding", "parameters"},
    "surroundings": set(),
    "refusals": {"_checks", "parameters", "surroundings"},
    "model_loss": {"_checks", "parameters", "refusals", "surroundings"},
    "losses": CORE,
    "models": CORE,
    "data": CORE,
    "curvature": CORE,
    "unlearning_error": CORE,
    "oracles": CORE,
    "expansion": CORE | {"curvature"},
    "training": CORE,
    "_examples": {"_checks"},
    "_optimizer": CORE,
    "loading": CORE,
    "probes": CORE | {"curvature"},
    "forgetting": CORE | {"_examples", "probes"},
    "trackers": CORE
    | {"_examples", "_optimizer", "training", "curvature", "unlearning_error", "probes", "forgetting"},
    "methods": CORE | {"losses", "curvature", "training", "trackers"},
    "metrics": CORE,
    "store": {"_checks", "_folders", "_sizes", "_files"},
    "paper": {"_checks"},
    "number_text": set(),
    "plotting": {"_checks", "metrics"},
}
ALLOWED["runs"] = set(ALLOWED) - {"plotting", "paper"}
ALLOWED["studies"] = set(ALLOWED) - {"plotting"}
ALLOWED["page"] = {"_checks", "number_text", "store", "paper", "plotting", "runs", "studies"} | {
    "data",
    "models",
}
ALLOWED["cli"] = set(ALLOWED) - {"cli", "page", "plotting"}
ALLOWED["__main__"] = {"cli"}
HEAVY = {
    "torchvision",
    "transformers",
    "tokenizers",
    "datasets",
    "papermill",
    "matplotlib",
    "seaborn",
    "plotly",
    "PIL",
    "sklearn",
    "opacus",
}


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def layer(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def draws(path):
    """Return whether a module draws what a study found; the ledger, which needs no plots, leaves it out."""
    return layer(path) == "studies" and path.name == "figures.py"


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == "unrolling")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_import_only_the_layers_below(path):
    own = layer(path)
    assert own in ALLOWED, f"{own} has no layer yet: give it one here and in the design"
    names = [name for name in imports(ast.parse(path.read_text())) if name.startswith("unrolling.")]
    used = {name.split(".")[1] for name in names} - {own, "__version__"}
    allowed = ALLOWED[own] | ({"plotting"} if draws(path) else set())
    assert used <= allowed, f"{own} must not import {sorted(used - allowed)}"
    assert not any(name == "unrolling" for name in imports(ast.parse(path.read_text())) if own not in {"cli"})


#: Pages that are not called after their study.
STUDY_OF = {"05_singular_values": "unlearning_error", "13_fine_tuning_text": "text"}


@pytest.mark.parametrize(
    "path", sorted((PACKAGE.parent / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem
)
def test_a_page_has_one_study(path):
    """A page imports what is public, what all studies share, and its own study."""
    own = STUDY_OF.get(path.stem, path.stem[3:])
    cells = nbformat.read(path, as_version=4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    names = [name.split(".") for cell in code for name in imports(ast.parse(cell))]
    parts = [name[1:] for name in names if name[0] == "unrolling" and len(name) > 1]
    assert not [".".join(part) for part in parts if part[0].startswith("_") or part[0] in ("cli", "store")]
    studies = {part[1] for part in parts if part[0] == "studies"}
    shared = {module.stem for module in (PACKAGE / "studies").glob("*.py")}
    assert studies - shared <= {own}


#: Those that measure parts of the package are left out, and the one that needs texts as tokens, for which
#: there is no public name; the others stand where any user stands.
BENCHMARKS = {
    path
    for path in (PACKAGE.parent / "benchmarks").glob("*.py")
    if path.stem not in {"growth", "gpu", "ingredients", "vmapped", "workloads"}
}


@pytest.mark.parametrize("path", sorted(BENCHMARKS), ids=lambda p: p.name)
def test_benchmarks_use_only_the_public_names(path):
    froms = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    names = {f"{node.module}.{alias.name}" for node in froms for alias in node.names}
    api = (PACKAGE.parent / "book" / "api.md").read_text()
    documented = set(re.findall(r"^\.\. (?:auto\w+|py:data):: (\S+)$", api, re.MULTILINE))
    assert {name for name in names if name.startswith("unrolling.")} <= documented


#: What runs and studies need and the package alone does not.
ONLY_RUNS = {"scipy", "pandas", "yaml"}


@pytest.mark.parametrize(("module", "heavy"), [("unrolling", HEAVY | ONLY_RUNS), ("unrolling.cli", HEAVY)])
def test_importing_the_package_or_its_command_line_loads_nothing_heavy(module, heavy):
    script = f"import sys, {module}; print(*sorted(m for m in sys.modules if '.' not in m))"
    loaded = set(
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        ).stdout.split()
    )
    assert not loaded & heavy


def test_the_face_of_the_package_is_small():
    assert len(unrolling.__all__) <= 35


@pytest.mark.parametrize(
    "module", ["unrolling", "unrolling.methods", "unrolling.methods.others", "unrolling.metrics"]
)
def test_public_names_exist_and_are_documented(module):
    face = importlib.import_module(module)
    assert len(set(face.__all__)) == len(face.__all__)
    for name in face.__all__:
        assert getattr(face, name).__doc__, f"{name} has no docstring"


def test_subpackages_are_there_once_the_package_is_imported():
    script = "import unrolling; print(unrolling.metrics.klom, unrolling.methods.others.sisa_train)"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
