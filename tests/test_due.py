"""Which pages a change reruns, and why: imports read statically, data by the module that reads them."""

import os
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from unrolling.data import DATASETS
from workflow.build_book import profile_data
from workflow.due import Inputs, tree_digest, why_due
from workflow.imports import Imports, data_files

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = {
    "unrolling/__init__.py": "from unrolling.maths import cube, square\nfrom unrolling.other import thing\n"
    "__version__ = '1'\n",
    "unrolling/maths.py": "def square(): ...\ndef cube():\n    from unrolling.part import lazily\n",
    "unrolling/other.py": "thing = 1\n",
    "unrolling/cli.py": "import unrolling.studies.one\n",
    "unrolling/part/__init__.py": "from unrolling.part.a import lazily\nfrom unrolling.part.b import table\n",
    "unrolling/part/a.py": "lazily = 1\n",
    "unrolling/part/b.py": "FOLDER = 'tables'\ntable = f'{FOLDER}/x.csv'\n",
    "unrolling/part/tables/x.csv": "1\n",
    "unrolling/part/orphan.csv": "1\n",
    "unrolling/part/README.md": "1\n",
    "unrolling/ledger.py": "import unrolling.studies as s\nwalk(s.__path__)\ndef evaluate(): ...\n",
    "unrolling/studies/__init__.py": "",
    "unrolling/studies/one.py": "PAGE = 'page'\n",
    "unrolling/studies/two.py": "PAGE = 'another'\nfrom unrolling.other import thing\n",
    "unrolling/committed.py": "place = 'results'\n",
    "results/small/a.json": "{}",
    "results/small/lines.cache": "{}",
    "results/small/unfinished/a.pt": "",
    "benchmarks/results/speed.json": "{}",
}


@pytest.fixture
def reached(tmp_path):
    """What a notebook with these cells reaches, as names below the root."""
    for name, text in PACKAGE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    def of(*cells):
        nbformat.write(new_notebook(cells=[new_code_cell(cell) for cell in cells]), tmp_path / "page.ipynb")
        found = Imports(tmp_path).of_notebook(tmp_path / "page.ipynb")
        names = {path.relative_to(tmp_path).as_posix().removeprefix("unrolling/") for path in found}
        return names - {"part/orphan.csv"}  # see below

    return of


LAZY = {"__init__.py", "maths.py", "part/__init__.py", "part/a.py"}


@pytest.mark.parametrize(
    ("cells", "files"),
    [
        (["x = 1"], set()),
        (["from unrolling import thing"], {"__init__.py", "other.py"}),
        (["from unrolling import square"], LAZY),  # the whole module, with what its functions import
        (["import unrolling", "%time\nunrolling.cube()"], LAZY),
        (["import unrolling as un\nun.maths.square()"], LAZY),
        (["from unrolling import __version__"], {"__init__.py"}),
        (
            ["def f():\n    from unrolling.part.a import lazily"],
            {"__init__.py", "part/__init__.py", "part/a.py"},
        ),
        (
            ["from unrolling.part import table as t"],
            {"__init__.py", "part/__init__.py", "part/b.py", "part/tables/x.csv"},
        ),
        (["import unrolling.ledger"], {"__init__.py", "ledger.py", "studies/__init__.py", "studies/one.py"}),
        (
            ["from unrolling.ledger import evaluate\nevaluate()"],
            {"__init__.py", "ledger.py", "other.py"}
            | {f"studies/{name}.py" for name in ("__init__", "one", "two")},
        ),
        (["from unrolling.committed import place"], {"__init__.py", "committed.py", "results/small/a.json"}),
        (["open('benchmarks')"], {"benchmarks/results/speed.json"}),
    ],
)
def test_a_page_reaches_what_it_imports_and_what_that_imports(reached, cells, files):
    assert reached(*cells) == files


def test_data_that_no_module_names_count_for_every_page(reached, tmp_path):
    reached("x = 1")
    assert Imports(tmp_path).of_notebook(tmp_path / "page.ipynb") == {tmp_path / "unrolling/part/orphan.csv"}


def test_what_reading_a_store_or_an_unfinished_run_leaves_is_no_data(reached, tmp_path):
    assert [path.name for path in data_files(tmp_path / "results")] == ["a.json"]


@pytest.fixture
def page(tmp_path):
    """A page's inputs as they are now, with two files and a data set."""
    for name in ("page.ipynb", "a.py", "b.py", "requirements.lock", "data/x/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one")

    def inputs(parameters=(("steps", 3),), files=("a.py", "b.py"), place="data/x"):
        given = [tmp_path / name for name in files]
        return Inputs(tmp_path).of(tmp_path / "page.ipynb", dict(parameters), given, {"x": tmp_path / place})

    return inputs


def test_nothing_changed_nothing_is_due(page, tmp_path):
    before = page()
    (tmp_path / "c.py").write_text("new")
    assert why_due(before, page()) is None


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("page.ipynb", "its notebook changed"),
        ("a.py", "a.py changed"),
        ("requirements.lock", "requirements.lock changed"),
        ("data/x/1.png", "data set x changed"),
        ("data/x/2.png", "data set x changed"),
    ],
)
def test_a_change_is_named(page, tmp_path, name, why):
    before = page()
    (tmp_path / name).write_text("another content")
    assert why_due(before, page()) == why


def test_other_changes_are_named(page, tmp_path):
    before = page()
    assert why_due(before, page(parameters={"steps": 4})) == "parameter steps changed"
    assert why_due(before, page(files=("a.py",))) == "b.py changed"
    assert why_due(before, page(files=("a.py", "page.ipynb"))) == "b.py and 1 more changed"
    assert why_due(before, page(place="data/none")) == "data set x changed"
    assert why_due(before, page() | {"python": "4"}) == "another Python"
    assert why_due(None, page()) == why_due("of an earlier builder", page()) == "not run yet"


def test_a_data_root_counts_by_what_is_in_it_and_not_by_its_name(page, tmp_path):
    before = page()
    os.rename(tmp_path / "data", tmp_path / "moved")
    assert why_due(before, page(place="moved/x")) is None
    os.utime(tmp_path / "moved" / "x" / "1.png", ns=(0, 1))
    assert why_due(before, page(place="moved/x")) == "data set x changed"


def test_a_data_set_may_be_one_file(tmp_path):
    (tmp_path / "x.tar.xz").write_text("one")
    one = tree_digest(tmp_path / "x.tar.xz")
    (tmp_path / "x.tar.xz").write_text("longer")
    assert None is not one != tree_digest(tmp_path / "x.tar.xz")


def test_pages_of_a_profile_name_the_data_sets_that_are_files(tmp_path, monkeypatch):
    monkeypatch.setenv("UNROLLING_DATA", str(tmp_path))
    (tmp_path / "cifar10-jpeg").mkdir()
    assert not any(profile_data("quick", tmp_path).values())  # its data are embedded
    small = profile_data("small", tmp_path)
    assert small["09_training_with_sd_loss"]["cifar10-jpeg"] == tmp_path / "cifar10-jpeg"
    assert small["14_text"]["imdb"] is None
    assert all(not DATASETS[name].embedded for places in small.values() for name in places)


# This repository


@pytest.fixture(scope="module")
def pages():
    imports = Imports(ROOT)
    return {
        path.stem: {found.relative_to(ROOT).as_posix() for found in imports.of_notebook(path)}
        for path in (ROOT / "notebooks").glob("*.ipynb")
    }


@pytest.mark.parametrize(
    ("file", "on", "off"),
    [
        ("unrolling/studies/sd_loss/claims.py", {"08_sd_loss", "19_claims"}, {"11_proxy", "14_text"}),
        ("unrolling/expansion.py", {"03_unrolling_sgd"}, {"01_taxonomy", "08_sd_loss"}),
        ("unrolling/paper/claims.csv", {"08_sd_loss", "19_claims"}, {"00_quickstart"}),
        ("benchmarks/results/growth.json", {"18_speed_and_memory"}, {"00_quickstart", "19_claims"}),
        ("results/small/digits.jsonl.gz", {"11_proxy", "19_claims"}, set()),
    ],
)
def test_a_change_here_reruns_the_pages_that_it_touches(pages, file, on, off):
    assert on <= {slug for slug, files in pages.items() if file in files}
    assert not off & {slug for slug, files in pages.items() if file in files}


def test_no_page_depends_on_the_command_line(pages):
    assert not any("unrolling/cli.py" in files for files in pages.values())


def test_every_data_file_of_the_package_has_a_module_that_reads_it(pages):
    data = {path.relative_to(ROOT).as_posix() for path in data_files(ROOT / "unrolling")}
    lists = {name for name in data if name.startswith("unrolling/runs/lists/")}  # the command line's
    assert lists
    assert data - lists <= pages["19_claims"]
    assert not any(lists & files for files in pages.values())
