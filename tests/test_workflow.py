"""The builder, tried on a throw-away repository with the real papermill and jupyter-book."""

import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from workflow import equations, runner
from workflow.acceptance import reasons_to_reject
from workflow.build_book import BuildError, build
from workflow.parameters import ParameterError, check_parameters, choose_parameters, parse_assignments
from workflow.staging import Layout, kernel_environment, page_of

ROOT = Path(__file__).resolve().parent.parent
TOC = "format: jb-book\nroot: book/index\nparts:\n- caption: Part\n  numbered: true\n  chapters:\n"
PARAMETERS = "num_steps = 3  # steps\nprofile = 'quick'  # who asks"
GOOD = [PARAMETERS, "print('steps', num_steps, profile)"]


def notebook(*sources):
    cells = [new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    return new_notebook(cells=[new_markdown_cell("# A title"), *cells])


def make_repository(root, **notebooks):
    """Write a repository with this project's configuration and the given notebooks' code cells."""
    for name in ("_ext", "_assets"):
        shutil.copytree(ROOT / "book" / name, root / "book" / name)
    shutil.copyfile(ROOT / "_config.yml", root / "_config.yml")
    (root / "book" / "references.bib").write_text("")
    (root / "book" / "index.md").write_text("# The index\n\nText.\n")
    (root / "_toc.yml").write_text(TOC + "".join(f"  - file: notebooks/{name}\n" for name in notebooks))
    (root / "notebooks").mkdir()
    for name, sources in notebooks.items():
        nbformat.write(notebook(*sources), root / "notebooks" / f"{name}.ipynb")
    return root


def test_a_second_build_runs_nothing_and_a_changed_parameter_runs_only_its_notebook(tmp_path, capsys):
    make_repository(tmp_path, first=GOOD, second=GOOD)
    layout = Layout(tmp_path, "quick")

    html = build(tmp_path, "quick", {"first": {"num_steps": 5}})

    assert html == tmp_path / "_build" / "html"
    assert "steps 5 quick" in (html / "notebooks" / "first.html").read_text()
    assert "steps 3 quick" in (html / "notebooks" / "second.html").read_text()
    before = {slug: layout.executed(slug).read_bytes() for slug in ("first", "second")}
    capsys.readouterr()

    build(tmp_path, "quick", {"first": {"num_steps": 5}})

    assert {slug: layout.executed(slug).read_bytes() for slug in before} == before
    said = capsys.readouterr().out
    assert said.count("up to date") == 3
    assert "started" not in said

    build(tmp_path, "quick", {"first": {"num_steps": 6}})

    assert (
        "first                            started: parameter num_steps changed\n" in capsys.readouterr().out
    )
    assert layout.executed("first").read_bytes() != before["first"]
    assert layout.executed("second").read_bytes() == before["second"]
    assert "steps 6 quick" in (html / "notebooks" / "first.html").read_text()

    # an executed copy that someone touched is not trusted
    layout.executed("second").write_text(layout.executed("second").read_text().replace("steps 3", "steps 9"))
    build(tmp_path, "quick", {"first": {"num_steps": 6}})
    assert "steps 3 quick" in (html / "notebooks" / "second.html").read_text()


def is_running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_failing_notebooks_are_named_and_leave_the_last_good_book_alone(tmp_path, capsys, monkeypatch):
    make_repository(
        tmp_path,
        good=GOOD,
        raising=[PARAMETERS, "print('before')", "1 / 0"],
        killed=[PARAMETERS, "print('before')", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"],
        endless=[PARAMETERS, "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(1e6)"],
    )
    layout = Layout(tmp_path, "quick")
    layout.html.mkdir(parents=True)
    (layout.html / "index.html").write_text("the last good book")
    ends = [layout.executed("good"), layout.failed("raising"), layout.failed("killed")]

    def clock():
        """Stand still until the others have ended and the endless one runs, however busy the machine is."""
        awaited = [*ends, tmp_path / "notebooks" / "pid"]
        return 1e9 if all(path.exists() for path in awaited) else 0.0

    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=clock, sleep=time.sleep))

    with pytest.raises(BuildError, match="3 of 4 notebooks failed") as error:
        build(tmp_path, "quick", {}, timeout=12)

    assert all(name in str(error.value) for name in ("raising", "killed", "endless"))
    said = capsys.readouterr().out
    assert "ZeroDivisionError" in said
    assert "Kernel died" in said
    assert "endless: took longer than 12 s" in said
    assert [path.read_text() for path in layout.html.iterdir()] == ["the last good book"]
    assert [path.name for path in layout.executed("good").parent.iterdir()] == ["good.ipynb"]
    for name in ("raising", "killed"):
        assert "before" in layout.failed(name).read_text()
    assert not is_running(int((tmp_path / "notebooks" / "pid").read_text()))


def test_a_killed_builder_leaves_nothing_behind_and_keeps_others_out_while_it_lives(tmp_path, capfd):
    make_repository(
        tmp_path,
        only=[PARAMETERS, "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(1e6)"],
    )
    script = "import pathlib, sys, workflow.build_book as b; b.build(pathlib.Path(sys.argv[1]), 'quick', {})"
    builder = psutil.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT)
    try:
        while not (pid := tmp_path / "notebooks" / "pid").exists() or not pid.read_text():
            assert builder.poll() is None
            time.sleep(0.05)
        with pytest.raises(BuildError, match=f"process {builder.pid} is building this book") as error:
            build(tmp_path, "quick", {})
        assert "\n" not in str(error.value)
        below = builder.children(recursive=True)
        assert int(pid.read_text()) in {process.pid for process in below}
    finally:
        builder.kill()  # SIGKILL: it can do nothing any more
    builder.wait()
    _, alive = psutil.wait_procs(below, timeout=300)
    assert alive == []

    (tmp_path / "notebooks" / "only.ipynb").unlink()
    nbformat.write(notebook(*GOOD), tmp_path / "notebooks" / "only.ipynb")
    build(tmp_path, "quick", {})  # the lock went with its holder


def test_a_warning_of_the_renderer_fails_the_build_and_keeps_the_last_book(tmp_path, capsys):
    make_repository(tmp_path, only=GOOD)
    build(tmp_path, "quick", {})
    good = (tmp_path / "_build" / "html" / "book" / "index.html").read_text()
    with (tmp_path / "book" / "index.md").open("a") as page:
        page.write("\nSee {eq}`nowhere`.\n")

    for _ in range(2):  # a failed rendering is never up to date
        with pytest.raises(BuildError, match="warnings are errors"):
            build(tmp_path, "quick", {})
    assert "nowhere" in capsys.readouterr().out
    assert (tmp_path / "_build" / "html" / "book" / "index.html").read_text() == good


def test_parameters_are_checked_before_anything_runs(tmp_path, capsys):
    make_repository(tmp_path, only=GOOD)
    for asked, message in (
        ({"only": {"num_stpes": 5}}, "unknown parameter 'num_stpes'"),
        ({"only": {"num_steps": "5"}}, "'num_steps' must be int"),
        ({"onyl": {"num_steps": 5}}, "no such notebook: onyl"),
    ):
        with pytest.raises(BuildError, match=message):
            build(tmp_path, "quick", asked)
    assert capsys.readouterr().out == ""


def test_table_of_contents_and_notebooks_must_agree(tmp_path):
    make_repository(tmp_path, only=GOOD)
    (tmp_path / "notebooks" / "only.ipynb").rename(tmp_path / "notebooks" / "other.ipynb")
    with pytest.raises(BuildError, match="do not exist: only"):
        build(tmp_path, "quick", {})
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/index\n")
    with pytest.raises(BuildError, match="does not name: other"):
        build(tmp_path, "quick", {})


def executed_by_hand(source, asked):
    """Return what papermill would write for a whole run."""
    copy = nbformat.from_dict(source)
    if asked:
        lines = "".join(f"{name} = {value!r}\n" for name, value in asked.items())
        injected = new_code_cell("# Parameters\n" + lines, metadata={"tags": ["injected-parameters"]})
        copy.cells.insert(2, injected)
    for count, cell in enumerate((cell for cell in copy.cells if cell.cell_type == "code"), start=1):
        cell.execution_count = count
        cell.outputs = [nbformat.v4.new_output("stream", text="something\n")]
    return copy


def raise_in(copy):
    copy.cells[-1].outputs = [nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])]


def mark(copy):
    copy.cells.insert(0, new_markdown_cell("error", metadata={"tags": ["papermill-error-cell-tag"]}))


def forget_count(copy):
    copy.cells[-1].execution_count = None


def change_source(copy):
    copy.cells[-1].source += " "


def drop_cell(copy):
    del copy.cells[-1]


def inject_otherwise(copy):
    copy.cells[2].source = "num_steps = 4"


def inject_nothing(copy):
    del copy.cells[2]


def show_path(copy):
    copy.cells[-1].outputs[0].text = "saved in /some/where/x"


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (raise_in, "raised an exception"),
        (mark, "papermill marked an exception"),
        (forget_count, "was not run"),
        (change_source, "not those of the source"),
        (drop_cell, "not those of the source"),
        (inject_otherwise, "its parameters are"),
        (inject_nothing, "its parameters are"),
        (show_path, "shows the path /some/where/"),
    ],
)
def test_the_gate_rejects(harm, reason):
    source, asked = notebook(*GOOD), {"num_steps": 5}
    executed = executed_by_hand(source, asked)
    assert reasons_to_reject(source, executed, asked, ["/some/where/"]) == []
    harm(executed)
    assert any(reason in found for found in reasons_to_reject(source, executed, asked, ["/some/where/"]))


def test_the_page_of_a_notebook_hides_the_machine_and_the_injected_cell():
    executed = executed_by_hand(notebook(*GOOD), {"num_steps": 5})
    executed.metadata["papermill"] = {"input_path": "/some/where/x.ipynb"}
    for cell in executed.cells:
        cell.metadata["papermill"] = {"start_time": "now"}
        cell.metadata["execution"] = {"iopub.execute_input": "now"}

    page = page_of(executed)

    assert "papermill" in executed.metadata
    assert not any(word in str(page) for word in ("/some/where", "start_time", "iopub"))
    assert [cell.metadata.get("tags", []) for cell in page.cells] == [
        [],
        ["hide-input", "parameters"],
        ["injected-parameters", "remove-cell"],
        [],
    ]


def test_parse_assignments_reads_what_papermill_writes():
    source = "# Parameters\na = 1\nb: float = -2.5e-3\nc = \"it's\"\nd = True\ne = float('inf')\n"
    assert parse_assignments(source) == {"a": 1, "b": -0.0025, "c": "it's", "d": True, "e": float("inf")}


@pytest.mark.parametrize(
    "source", ["a = 1\nb = 2 * a", "a = [1]", "a = None", "import torch", "a = b = 1", "a = 1\na = 2"]
)
def test_parse_assignments_refuses_what_papermill_cannot_replace(source):
    with pytest.raises(ParameterError):
        parse_assignments(source)


def test_a_whole_number_may_stand_for_a_float_but_a_bool_for_nothing():
    check_parameters({"gamma": 1.5}, {"gamma": 2})
    for default in (1, 1.5, "x"):
        with pytest.raises(ParameterError, match="got True"):
            check_parameters({"p": default}, {"p": True})
    with pytest.raises(ParameterError, match="must be int"):
        check_parameters({"p": 1}, {"p": 1.0})


def test_a_notebook_the_profile_does_not_mention_is_told_the_profile_if_it_asks():
    assert choose_parameters("x", {"profile": "quick"}, "small", {}) == {"profile": "small"}
    assert choose_parameters("x", {"seed": 0}, "small", {}) == {}


def test_kernels_get_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.delenv("UNROLLING_STORE", raising=False)
    monkeypatch.setenv("UNROLLING_DATA", "some/data")
    environment = kernel_environment(tmp_path)
    assert environment["UNROLLING_STORE"] == str(tmp_path / "runs")
    assert environment["UNROLLING_DATA"] == str(tmp_path / "some/data")
    assert environment["OMP_NUM_THREADS"] == "1"


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A small package with tests and a page for the table of equations; (write a file, run the command)."""
    monkeypatch.setattr(equations, "ROOT", tmp_path)

    def write(name, text):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["equations", *arguments])
        equations.main()
        rows = (tmp_path / "book/notation.md").read_text().splitlines()
        return {row.split(" | ")[0]: row.split(" | ")[2:] for row in rows if row.startswith("| ")}

    write("book/api.md", ".. autofunction:: unrolling.known\n")
    write(
        "unrolling/part/maths.py",
        'def known():\n    """Return it, Eq. 4-6."""\n\n\n'
        'class Other:\n    """Eq. 2, 6 and 9 to 11.\n\n    Not Eq. 1.\n    """\n\n\n'
        'def _helper():\n    """Half of Eq. 2."""\n',
    )
    write("unrolling/runs/execute.py", 'def draw():\n    """Draw Eq. 3."""\n')
    marks = "".join(f'@pytest.mark.paper("Eq. 6")\ndef test_{n}(): ...\n' for n in "abcd")
    write("tests/test_maths.py", marks)
    write("book/notation.md", f"Before.\n\n{equations.BEGIN}\nold\n{equations.END}\n\nAfter.\n")
    return write, run


def test_equations_get_the_functions_and_tests_that_name_them(sources, tmp_path):
    _, run = sources
    rows = run()
    assert rows["| 4"] == rows["| 5"] == ["{py:obj}`~unrolling.known`", " |"]
    shown = "`test_maths.py::test_a`, `test_maths.py::test_b` and 2 more |"
    assert rows["| 6"] == ["{py:obj}`~unrolling.known`, `part.maths.Other`", shown]
    assert all(rows[f"| {n}"][0] == "`part.maths.Other`" for n in (2, 9, 10, 11))
    assert all(rows[f"| {n}"] == ["", " |"] for n in (1, 3, 7, 8, 12))
    assert len(rows) == 1 + 1 + 16
    text = (tmp_path / "book/notation.md").read_text()
    assert text.startswith("Before.\n\n<!--")
    assert text.endswith("-->\n\nAfter.\n")
    assert "old" not in text
    run("--check")


def test_a_renamed_function_or_test_is_noticed(sources, tmp_path):
    write, run = sources
    run()
    for name, old, new in (
        ("tests/test_maths.py", "test_a", "test_z"),
        ("unrolling/part/maths.py", "Other", "Another"),
    ):
        write(name, (tmp_path / name).read_text().replace(old, new))
        with pytest.raises(SystemExit, match="out of date: run `python -m workflow"):
            run("--check")
        run()
        run("--check")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("unrolling/part/maths.py", 'def known():\n    """Eq. 17."""\n', "there is no Eq. 17 in the paper"),
        ("tests/test_maths.py", "@pytest.mark.paper(9)\ndef test_a(): ...\n", "test_a: expected the mark as"),
        ("tests/test_maths.py", "@pytest.mark.paper\ndef test_a(): ...\n", "test_a: expected the mark as"),
        (
            "tests/test_maths.py",
            "@pytest.mark.paper('9')\ndef test_a(): ...\n",
            "test_a: expected the mark as",
        ),
        ("book/notation.md", "No table.\n", "must have the lines"),
        ("book/api.md", "", "documents no names"),
    ],
)
def test_what_cannot_be_read_is_said(sources, name, text, message):
    write, run = sources
    write(name, text)
    with pytest.raises(SystemExit, match=message):
        run("--check")
