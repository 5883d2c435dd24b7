"""The documents say what is so: examples run, tables equal the code, names exist, links lead somewhere."""

import importlib
import math
import re
from pathlib import Path

import pytest
import torch
import yaml

import unrolling
from unrolling.paper import reported_table
from unrolling.runs import PROFILES, RunConfig
from unrolling.runs.execute import execute
from unrolling.runs.inputs import load_data
from unrolling.studies.exhibits import EXHIBITS
from workflow import equations

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted(ROOT.glob("*.md")) + sorted((ROOT / "book").glob("*.md"))


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def section(text, title):
    """The text under a second-level heading."""
    return re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]


def table(text):
    """The body rows of the one table in ``text``, as lists of cells."""
    rows = [line.strip().strip("|").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def resolve(name):
    """The object called ``unrolling.<name>``; a dataclass field counts as an attribute of its class."""
    here, path = unrolling, "unrolling"
    for part in name.split("."):
        path += f".{part}"
        if part in getattr(here, "__dataclass_fields__", {}):
            here = here.__dataclass_fields__[part]
        elif hasattr(here, part):
            here = getattr(here, part)
        else:
            here = importlib.import_module(path)
    return here


# README


@pytest.fixture(scope="module")
def example():
    """What the example's names are after it has run."""
    (code,) = re.findall(r"```python\n(.*?)```", read("README.md"), re.DOTALL)
    names = {}
    with torch.random.fork_rng():
        exec(compile(code, "README.md", "exec"), names)
    return names


def test_example_of_the_readme_trains_as_torch_optim_does(example):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        inputs, labels = torch.randn(256, 20), torch.randint(2, (256,))
        model = torch.nn.Sequential(torch.nn.Linear(20, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for x, y in zip(inputs.split(32), labels.split(32), strict=True):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    for own, other in zip(example["model"].parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(own, other)


def test_unlearning_in_the_example_of_the_readme_comes_nearer_to_the_retrained_model(example):
    def gap(params):
        other = unrolling.snapshot(example["retrained"])
        return math.sqrt(sum(float((params[name] - other[name]).square().sum()) for name in other))

    assert gap(example["unlearned"]) < 0.5 * gap(unrolling.snapshot(example["model"]))


@pytest.mark.parametrize(
    "layers",
    ["nn.BatchNorm1d(16)", "nn.Dropout(0.5)", "nn.BatchNorm1d(16), nn.Dropout(0.5)", "nn.LayerNorm(16)"],
)
def test_the_example_of_the_readme_undoes_one_step_of_any_network(layers):
    (code,) = re.findall(r"```python\n(.*?)```", read("README.md"), re.DOTALL)
    for old, new in (("nn.Tanh()", f"{layers}, nn.Tanh()"), ("enumerate(data)", "enumerate(data[:1])")):
        assert code.count(old) == 1
        code = code.replace(old, new)
    names = {}
    with torch.random.fork_rng():
        exec(compile(code, "README.md", "exec"), names)
    w_0, w_1 = names["w_0"], unrolling.snapshot(names["model"])
    assert names["tracker"].result().broken == ()
    nothing = unrolling.verification_error(w_1, w_0)
    assert unrolling.verification_error(names["unlearned"], w_0) < 1e-5 * nothing
    assert unrolling.verification_error(unrolling.snapshot(names["forgetful"]), w_0) < 1e-5 * nothing


def test_table_of_the_readme_is_the_list_of_exhibits():
    found = table(section(read("README.md"), "Figures and tables"))
    assert found == [
        [
            exhibit.name.replace("-", " ").capitalize(),
            exhibit.title,
            f"[{exhibit.notebook}](notebooks/{exhibit.notebook}.ipynb)",
            f"`{exhibit.module}`",
        ]
        for exhibit in EXHIBITS
    ]


@pytest.mark.parametrize(
    ("document", "title"), [("README.md", "Profiles and data"), ("book/reproduce.md", "Profiles")]
)
def test_tables_of_profiles_name_every_profile(document, title):
    assert [row[0].split("`")[1] for row in table(section(read(document), title))] == list(PROFILES)


# Versions and links


def test_versions_agree():
    versions = {
        yaml.safe_load(read("CITATION.cff"))["version"],
        unrolling.__version__,
        re.search(r"^## (\S+)", read("CHANGELOG.md"), re.MULTILINE)[1],
    }
    assert len(versions) == 1


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(document):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text(encoding="utf-8"))
    files = [target for target in targets if not re.match(r"https?:|mailto:", target)]
    assert [target for target in files if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_existing_make_verbs(document):
    verbs = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    text = document.read_text(encoding="utf-8")
    named = re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE)
    assert set(named) <= verbs


# Notation


def names_in_code():
    text = read("book/notation.md")
    symbols = [row[2] for row in table(section(text, "Symbols"))]
    readings = [cell for row in table(section(text, "Two readings, two names")) for cell in row[1:]]
    return re.findall(r"`([\w.]+)`", " ".join(symbols + readings))


@pytest.mark.parametrize("name", names_in_code())
def test_names_of_the_notation_exist(name):
    resolve(name)


def test_scales_of_gamma_in_the_notation_are_those_of_the_code():
    rows = table(section(read("book/notation.md"), "Scales of gamma"))
    assert [row[0] for row in rows] == ["2", "10", "100"]
    for row in rows:
        classes = int(row[0])
        factor, collapse, collapse_released, largest, converted, share = map(float, row[1:])
        in_eq10 = unrolling.losses.gamma_from_released(largest, classes)
        assert factor == pytest.approx(1 / unrolling.losses.gamma_from_released(1.0, classes), abs=6e-4)
        assert collapse == pytest.approx(unrolling.losses.collapse_gamma(classes), abs=6e-4)
        assert unrolling.losses.gamma_from_released(collapse_released, classes) == pytest.approx(
            collapse, abs=6e-4
        )
        assert (converted, share) == pytest.approx((in_eq10, in_eq10 / collapse), abs=6e-4)


def test_largest_gammas_of_the_notation_are_the_papers():
    rows = {int(row[0]): float(row[4]) for row in table(section(read("book/notation.md"), "Scales of gamma"))}
    vision = reported_table("table4").groupby("dataset")["strength"].max()
    assert rows == {2: reported_table("table2")["strength"].max(), 10: vision.iloc[0], 100: vision.iloc[1]}


def test_recorded_columns_of_the_notation_are_those_of_a_run():
    config = RunConfig(
        dataset="digits", train_size=40, test_size=20, model="linear", batch_size=20, pretrain_epochs=0
    )
    rows = table(section(read("book/notation.md"), "Recorded columns"))
    trace = execute(config, load_data(config))["trace"]
    assert [row[0].strip("`") for row in rows] == list(trace)


# Equations


def test_table_of_equations_is_the_one_generated():
    text = read("book/notation.md")
    assert text == equations.page_with(text, equations.table(ROOT)), "run `python -m workflow.equations`"


@pytest.mark.parametrize("number", range(1, 17))
def test_every_equation_has_a_function_and_a_test(number):
    shown, words, functions, tests = table(section(read("book/notation.md"), "Equations"))[number - 1]
    assert shown == str(number)
    assert words
    assert functions, f'name "Eq. {number}" in the first line of the docstring of what computes it'
    assert tests, f'mark a test with @pytest.mark.paper("Eq. {number}")'


# The list of public names

PUBLIC = ("unrolling", "unrolling.methods", "unrolling.methods.others", "unrolling.metrics")


def grouped_names(module):
    """The groups of a module's ``__all__``, in order: (comment, names)."""
    source = Path(importlib.import_module(module).__file__).read_text(encoding="utf-8")
    listed = re.search(r"^__all__ = \[\n(.*?)^\]", source, re.MULTILINE | re.DOTALL)[1]
    groups = re.findall(r"    # (.*)\n((?:    \".*\n)+)", listed)
    return [(title, re.findall(r'"(\w+)"', names)) for title, names in groups]


def documented_names(module):
    """The groups of a module's section of the page, in order: (heading, names)."""
    parts = re.split(r"^### (.*)$", section(read("book/api.md"), f"`{module}`"), flags=re.MULTILINE)
    names = [
        re.findall(rf"^\.\. (?:auto\w+|py:data):: {module}\.(\w+)$", text, re.MULTILINE) for text in parts
    ]
    return list(zip(parts[1::2], names[2::2], strict=True))


@pytest.mark.parametrize("module", PUBLIC)
def test_api_page_documents_exactly_the_public_names_in_their_groups(module):
    top = set(unrolling.__all__) if module != "unrolling" else set()  # documented there
    groups = [(title, [name for name in names if name not in top]) for title, names in grouped_names(module)]
    assert documented_names(module) == groups
    assert [n for _, names in grouped_names(module) for n in names] == importlib.import_module(module).__all__


@pytest.mark.parametrize("module", PUBLIC)
def test_imports_of_a_public_module_are_grouped_as_its_names(module):
    source = Path(importlib.import_module(module).__file__).read_text(encoding="utf-8")
    above, _, listed = source.partition("__all__ = [")
    titles = re.findall(r"^ *# (.*)$", listed, re.MULTILINE)
    parts = re.split(r"^# (.*)$", above, flags=re.MULTILINE)
    imported = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert [title for title in imported if title in titles] == titles
    for title, names in grouped_names(module):
        assert set(re.findall(r"\w+", imported[title])) >= set(names), title


def test_what_the_api_page_documents_exists_once():
    names = re.findall(r"^\.\. (?:auto\w+|py:data):: unrolling\.(\S+)$", read("book/api.md"), re.MULTILINE)
    assert len(set(names)) == len(names)
    for name in names:
        resolve(name)
