"""A page stops before it computes anything if it was given what it cannot run with: every page, every kind.

The cells are run here, in this process, up to the check; one test has papermill and a kernel do it.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from papermill.cli import _resolve_type

from unrolling import build_model
from unrolling._checks import InputError
from unrolling.page import check_parameters
from unrolling.page.allowed import check_page, page_parameters
from unrolling.runs import PROFILES, load_profile, notebook_parameters
from workflow.parameters import notebook_defaults

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
TEXTS = {"reviews", "imdb"}
SHAPES = {"digits": (10, (1, 8, 8)), "cifar10": (10, (3, 32, 32)), "cifar100": (100, (3, 32, 32))}


def source(page):
    return nbformat.read(ROOT / "notebooks" / f"{page}.ipynb", as_version=4)


def code(page):
    return [cell.source for cell in source(page).cells if cell.cell_type == "code"]


def open_page(page, injected=None):
    """Run a page's first cells up to its check, with what papermill would inject between them."""
    parameters, imports = code(page)[:2]
    checked = next(line for line in imports.splitlines() if "check_parameters(" in line)
    cells = [parameters]
    if injected is not None:
        cells.append("# Parameters\n" + "".join(f"{name} = {value!r}\n" for name, value in injected.items()))
    cells.append(imports[: imports.index(checked) + len(checked)])
    names = {"In": [""], "nan": float("nan"), "inf": float("inf")}
    for cell in cells:
        names["In"].append(cell)
        exec(compile(cell, page, "exec"), names)
    return names


def bad_values(page):
    """Values that no parameter of this page can have, by name: wrong types, and out of range."""
    for name, default in page_parameters(page).items():
        if isinstance(default, str):
            wrong = [3, 2.5, True, None, ["3", "8"], "nonsense"]
        elif isinstance(default, float):
            wrong = ["1e-3", True, None, [0.1], float("nan"), float("inf"), -1.0]
        else:
            wrong = ["3", 2.5, True, None, [3], float("nan"), -1]
        for value in wrong:
            yield name, value
    own = page_parameters(page)
    zero = {"learning_rate", "batch_size", "num_seeds", "num_epochs", "num_steps", "grid_points", "noise"}
    for name in zero & set(own):
        yield name, type(own[name])(0)
    for name in {"seed", "num_seeds", "num_epochs", "num_steps", "grid_points"} & set(own):
        yield name, 10**12  # of batches and data sets what is too much depends on the data
    for name in {"dataset"} & set(own):
        yield from (
            (name, other) for other in (["digits", "cifar10"] if own[name] in TEXTS else sorted(TEXTS))
        )
    for name in {"model"} & set(own):
        yield name, "mlp" if own["dataset"] in TEXTS else "distilbert-small"


@pytest.mark.parametrize("page", PAGES)
def test_every_page_declares_what_the_quick_profile_gives_it(page):
    declared, given = notebook_defaults(source(page)), page_parameters(page)
    assert list(declared) == list(given)
    assert declared == given
    assert list(map(type, declared.values())) == list(map(type, given.values()))


@pytest.mark.parametrize("page", PAGES)
def test_every_page_checks_before_it_computes(page):
    imports = code(page)[1]
    before = imports[: imports.index('check_parameters("')].splitlines()
    plain = re.compile(r"import |from |    \w+( as \w+)?,$|\)$|COMMAND = $|$")
    assert [line for line in before if not plain.match(line)] == []
    assert f'check_parameters("{page}", globals())' in imports


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("page", PAGES)
def test_every_page_takes_its_defaults_and_what_a_profile_gives(page, profile):
    open_page(page)
    open_page(page, notebook_parameters(profile)[page])


@pytest.mark.parametrize("page", PAGES)
def test_an_unknown_name_stops_every_page(page):
    with pytest.raises(InputError, match=rf"^unknown parameter of {page} 'gama': expected one of [^\n]*$"):
        open_page(page, {"gama": 2.0})
    near = list(page_parameters(page))[-1]
    with pytest.raises(InputError, match=f"Did you mean '{near}'"):
        open_page(page, {f"{near}s": 1})


@pytest.mark.parametrize("page", PAGES)
def test_an_unknown_profile_stops_every_page(page):
    with pytest.raises(
        InputError,
        match=r"^unknown profile 'nonsense': expected one of narrow, paper, paper-jpeg, quick, small",
    ):
        open_page(page, {"profile": "nonsense"})


@pytest.mark.parametrize("page", PAGES)
def test_a_wrong_type_or_value_stops_every_page_with_one_line(page):
    defaults = page_parameters(page)
    for name, value in bad_values(page):
        with pytest.raises(InputError) as caught:
            check_page(page, defaults | {name: value})
        assert re.search(rf"\b{name.replace('dataset', 'data ?set')}\b[^\n]*$", str(caught.value))


@pytest.mark.parametrize(
    ("page", "given", "message"),
    [
        (
            "00_quickstart",
            {"dataset": "reviews"},
            "dataset must have images, got 'reviews': expected one of digits, cifar10, ",
        ),
        ("00_quickstart", {"model": "distilbert-small"}, "model must read images, as 'mlp' does, got"),
        ("01_taxonomy", {"classes": [3, 8]}, "classes must be text such as '3 8', got [3, 8] (list)"),
        ("01_taxonomy", {"classes": "3, 8"}, "classes must be text of whole numbers with spaces"),
        ("01_taxonomy", {"net_classes": 3}, "net_classes must be text such as '', got 3 (int)"),
        ("01_taxonomy", {"num_seeds": 0}, "num_seeds must be between 1 and 10000, got 0"),
        ("01_taxonomy", {"num_seeds": "3"}, "num_seeds must be a whole number, got '3' (str)"),
        ("01_taxonomy", {"num_seeds": 2.5}, "num_seeds must be a whole number, got 2.5 (float)"),
        ("01_taxonomy", {"forget": "batches"}, "unknown forget set 'batches'"),
        ("01_taxonomy", {"noise": 0}, "noise must be larger than 0, got 0"),
        ("03_unrolling_sgd", {"num_steps": 30}, "num_steps must be between 31 and"),
        ("08_sd_loss", {"num_steps": 29}, "num_steps must be between 30 and"),
        (
            "14_text",
            {"dataset": "digits"},
            "dataset must have texts, got 'digits': expected one of reviews, imdb",
        ),
        ("06_beyond_the_first_sum", {"train_size": 63}, "train_size must be at least 64, got 63"),
        ("07_l2_penalty", {"train_size": 16}, "batch_size must be at most train_size, got 32 and 16"),
        (
            "07_l2_penalty",
            {"train_size": 64},
            "train_size must be a multiple of 192 on this page, whose runs",
        ),
        ("07_l2_penalty", {"train_size": 1000}, "compared at the ends of epochs: take 960, got 1000."),
        ("10_influence_of_pretraining", {"train_size": 480}, "a multiple of 288 on this page"),
        ("12_conventions", {"train_size": 64}, "train_size must make 8 batches an epoch"),
        (
            "04_unlearning_error",
            {"num_seeds": 10**9},
            "num_seeds must be between 1 and 10000, got 1000000000",
        ),
    ],
)
def test_what_stopped_a_page_is_said(page, given, message):
    with pytest.raises(InputError, match=re.escape(message)):
        open_page(page, given)


@pytest.mark.parametrize("page", PAGES)
def test_every_data_set_that_a_page_names_fits_its_models(page):
    (cell,) = (cell for cell in source(page).cells if "parameters" in cell.metadata.get("tags", []))
    comment = re.search(r"^dataset = .*?#(.*)", cell.source, re.MULTILINE)
    named = set(
        re.findall(r"\b(digits|cifar10|cifar100|cifar10-jpeg|imdb|reviews)\b", comment[1] if comment else "")
    )
    for dataset in named:
        open_page(page, {"dataset": dataset})
        for profile in PROFILES:
            experiments = [e for e in load_profile(profile).experiments.values() if e.notebook == page]
            models = {c.model for e in experiments for c in e.configs(e.parts, dataset=dataset)}
            if dataset in SHAPES and profile == "quick":
                classes, shape = SHAPES[dataset]
                for model in models | {page_parameters(page).get("model", "mlp")}:
                    build_model(model, classes, input_shape=shape)


def test_the_names_are_those_of_the_last_cell_that_papermill_wrote():
    page, names = "08_sd_loss", page_parameters("08_sd_loss")
    declared = "".join(f"{name} = {value!r}\n" for name, value in names.items())
    wrong = "# Parameters\ngama = 1\n"

    def check(*history):
        check_parameters(page, names | {"gama": 1, "In": ["", *history, "check_parameters(...)"]})

    check(declared)  # gama is a name of the page's own, or of a person's
    check(declared, "gama = 1")
    check(declared, wrong, "import os", declared)  # run again from the top, without papermill's cell
    check(declared, wrong, "# Parameters\ngrid_points = 3\n")  # corrected
    check(declared, "a person's slip")
    for history in ((declared, wrong), (declared, declared, wrong, "import os"), (wrong,)):
        with pytest.raises(InputError, match="unknown parameter of 08_sd_loss 'gama'"):
            check(*history)
    check_parameters(page, names)  # outside a kernel there is no history
    del names["grid_points"]
    with pytest.raises(InputError, match="parameter 'grid_points' of 08_sd_loss is missing: give it a value"):
        check(declared)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("page", PAGES)
def test_what_papermill_does_not_give_with_a_profile_has_the_profiles_value(page, profile):
    names = page_parameters(page) | {"profile": profile, "seed_of_my_own": 5}
    names["In"] = ["", f"# Parameters\nprofile = {profile!r}\n", "check_parameters(...)"]
    check_parameters(page, names)
    assert {name: names[name] for name in page_parameters(page)} == page_parameters(page, profile)
    assert names["seed_of_my_own"] == 5


def test_what_papermill_gives_stays_and_without_a_profile_nothing_is_changed():
    page = "09_training_with_sd_loss"
    names = page_parameters(page) | {"profile": "paper", "dataset": "cifar10-jpeg", "num_seeds": 1}
    cell = "# Parameters\nprofile = 'paper'\ndataset = 'cifar10-jpeg'\nnum_seeds = 1\n"
    command = check_parameters(page, names | {"In": ["", cell, "check_parameters(...)"]})
    for given in ("profile paper", "dataset cifar10-jpeg", "num_seeds 1", "model resnet18", "dtype float32"):
        assert f" {given}" in command
    assert " model " not in check_parameters(
        page, dict(names)
    )  # by hand: what the page shows is what it does
    given = names | {"profile": "quick", "In": ["", cell.replace("profile = 'paper'\n", ""), "check"]}
    assert " model " not in check_parameters(page, given)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("page", PAGES)
def test_the_command_of_a_page_gives_it_the_same_parameters_again(page, profile):
    asked = notebook_parameters(profile)[page]
    words = shlex.split(check_parameters(page, asked))
    assert words[:5] == ["papermill", f"notebooks/{page}.ipynb", f"{page}.ipynb", "--cwd", "notebooks"]
    options = zip(words[5::3], words[6::3], words[7::3], strict=True)
    given = {name: value if flag == "-r" else _resolve_type(value) for flag, name, value in options}
    assert page_parameters(page) | given == asked


def test_papermill_shows_the_line_and_ends_with_an_error(tmp_path):
    # What papermill itself would run to the end, with a default in place of what was asked for.
    page = "18_speed_and_memory"
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "-p", "profil", "small"]
    files = [str(ROOT / "notebooks" / f"{page}.ipynb"), str(tmp_path / "out.ipynb")]
    done = subprocess.run([*command, *files], capture_output=True, text=True, env=environment)
    assert done.returncode
    assert f"InputError: unknown parameter of {page} 'profil': expected one of profile." in done.stderr
    ran = [cell.get("execution_count") for cell in nbformat.read(files[1], as_version=4).cells]
    assert len([count for count in ran if count]) <= 3
