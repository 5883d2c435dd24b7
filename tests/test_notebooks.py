"""The source notebooks are what nbval, papermill and the book need; and the checks for it find faults.

That the notebooks run is nbval's part: pytest collects ``notebooks/`` as well.
"""

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from unrolling.runs import PROFILES
from workflow.build_book import profile_parameters
from workflow.notebooks import canonical, canonical_text, problems, refresh
from workflow.parameters import choose_parameters, notebook_defaults
from workflow.staging import book_notebooks

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_the_book_names_every_notebook():
    assert sorted(book_notebooks(ROOT)) == [path.stem for path in SOURCES]
    assert SOURCES


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_source_notebook_is_as_it_must_be(path):
    assert problems(path.read_text()) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_defaults_are_the_quick_profile(path):
    # nbval runs the defaults and the book the quick profile: they share their runs only if these agree
    defaults = notebook_defaults(nbformat.read(path, as_version=4))
    asked = choose_parameters(path.stem, defaults, "quick", profile_parameters("quick"))
    assert {name: defaults[name] for name in asked} == asked


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_notebook_accepts_every_profile(path, profile):
    defaults = notebook_defaults(nbformat.read(path, as_version=4))
    choose_parameters(path.stem, defaults, profile, profile_parameters(profile))


def good_notebook():
    """Return a canonical notebook without a fault: title, parameters, a checked cell, a figure."""
    figure = {"figure": {"name": "fig-x", "caption": "Something, as the paper's Figure 3; ours."}}
    cells = [
        new_markdown_cell("# Title"),
        new_code_cell("steps = 3  # of SGD", metadata={"tags": ["parameters"]}),
        new_code_cell(
            "print(steps)",
            metadata={"tags": ["nbval-check-output"]},
            execution_count=2,
            outputs=[new_output("stream", text="3\n")],
        ),
        new_code_cell("figure(draw, alt='a line')", metadata={"mystnb": figure}),
    ]
    return canonical(new_notebook(cells=cells))


def test_a_good_notebook_has_no_problems():
    assert problems(canonical_text(good_notebook())) == []


def test_a_stream_that_the_kernel_cut_is_joined():
    whole, cut = good_notebook(), good_notebook()
    checked = next(cell for cell in cut.cells if cell.get("outputs"))
    checked.outputs = [new_output("stream", text=part) for part in "3\n"]
    assert canonical_text(cut) == canonical_text(whole)
    other = new_output("stream", name="stderr", text="3\n")
    checked.outputs = [new_output("stream", text="3\n"), other]
    assert canonical(cut).cells[cut.cells.index(checked)].outputs == checked.outputs


def two_parameter_cells(notebook):
    notebook.cells[3].metadata.tags = ["parameters"]


def derived_parameter(notebook):
    notebook.cells[1].source = "steps = 3  # of SGD\ntwice = 2 * steps  # derived"


def uncommented_parameter(notebook):
    notebook.cells[1].source = "steps = 3"


def nothing_checked(notebook):
    del notebook.cells[2]


def lost_count(notebook):
    notebook.cells[2].execution_count = None


def lost_output(notebook):
    notebook.cells[2].outputs = []


def only_an_image(notebook):
    notebook.cells[2].outputs = [new_output("display_data", data={"image/png": "AAAA"})]


def shows(notebook, text):
    notebook.cells[2].outputs = [new_output("stream", text=f"{text}\n")]


def glued_in_a_checked_cell(notebook):
    record = {"application/papermill.record/text/plain": "25.33501070137591"}
    notebook.cells[2].outputs.append(new_output("display_data", data=record))


def many_digits(notebook):
    shows(notebook, "v = 3.1416")


def many_digits_as_a_value(notebook):
    notebook.cells[2].outputs = [
        new_output("execute_result", data={"text/plain": "{'e': 12345.678}"}, execution_count=2)
    ]


def many_digits_in_scientific_notation(notebook):
    shows(notebook, "[1.23456e-05]")


def rounding_error(notebook):
    shows(notebook, "apart by 2e-17")


def sign_of_a_zero(notebook):
    shows(notebook, "loses -0.0 points")


def machine_path(notebook):
    notebook.cells[0].source = "Saved in /home/someone/runs"


def caption_without_source(notebook):
    notebook.cells[3].metadata.mystnb.figure.caption = "Something."


def nameless_figure(notebook):
    notebook.cells[3].metadata.mystnb.figure.name = ""


def figure_without_alt(notebook):
    notebook.cells[3].source = "figure(draw)"


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (two_parameter_cells, "expected one cell tagged 'parameters', found 2"),
        (derived_parameter, "twice must be an int, float, str or bool literal"),
        (uncommented_parameter, "without a trailing comment: steps = 3"),
        (nothing_checked, "nbval would compare nothing"),
        (lost_count, "has no execution count"),
        (lost_output, "stores no text to compare"),
        (only_an_image, "stores no text to compare"),
        (glued_in_a_checked_cell, "stores a glued number"),
        (many_digits, "shows 3.1416, which another processor may round otherwise"),
        (many_digits_as_a_value, "shows 12345.678, which"),
        (many_digits_in_scientific_notation, "shows 1.23456e-05, which"),
        (rounding_error, "shows 2e-17, which"),
        (sign_of_a_zero, "shows -0.0, which"),
        (machine_path, "a path of some machine: /home/someone/runs"),
        (caption_without_source, "the caption of fig-x names neither"),
        (nameless_figure, "has no name"),
        (figure_without_alt, "figure fig-x has no alt text"),
    ],
)
def test_a_fault_is_found(harm, message):
    notebook = good_notebook()
    harm(notebook)
    found = problems(canonical_text(notebook))
    assert len(found) == 1
    assert message in found[0]


@pytest.mark.parametrize(
    "text",
    [
        "v 0.1481, 1.500e+03 and 1,234 of 126,658",
        "seed 2026, 4 x 96 = 384, -7, [10000]",
        "eta 0.00123456 agrees to 1e-12: True",  # of the source
        "version 1.2.34567, x12.34567, 0.0",
    ],
)
def test_numbers_that_hold_everywhere_may_be_shown(text):
    notebook = good_notebook()
    notebook.cells[2].source = "print(steps, 0.00123456, 1e-12)"
    shows(notebook, text)
    assert problems(canonical_text(notebook)) == []


def test_an_output_that_nothing_checks_is_found_and_removed():
    notebook = good_notebook()
    notebook.cells[3].execution_count = 3
    notebook.cells[3].outputs = [new_output("stream", text="stale\n")]
    text = nbformat.writes(notebook) + "\n"
    assert any("that nothing checks" in found for found in problems(text))
    assert "stale" not in canonical_text(notebook)


def test_canonical_form_is_a_fixed_point_and_keeps_the_ids_of_unchanged_cells():
    notebook = good_notebook()
    assert canonical(notebook) == notebook
    notebook.cells.insert(1, new_markdown_cell("New text"))
    notebook.cells.insert(1, new_markdown_cell("New text"))
    ids = [cell.id for cell in canonical(notebook).cells]
    assert [ids[0], *ids[3:]] == [cell.id for cell in good_notebook().cells]
    assert len(set(ids)) == len(ids)


def test_refresh_stores_what_the_cell_prints_now(tmp_path):
    notebook = good_notebook()
    del notebook.cells[3]
    notebook.cells[1].source = "steps = 7  # of SGD"
    path = tmp_path / "notebooks" / "x.ipynb"
    path.parent.mkdir()
    path.write_text(canonical_text(notebook))

    refresh(path)

    assert problems(path.read_text()) == []
    assert nbformat.read(path, as_version=4).cells[2].outputs[0].text == "7\n"
