"""Keep the source notebooks in one canonical form.

Sources hold no outputs, except those that nbval compares (cells tagged ``nbval-check-output``), which
``refresh`` stores by running the notebook with its own defaults. Only this module writes them.
"""

import argparse
import ast
import hashlib
import re
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from workflow.acceptance import reasons_to_reject
from workflow.parameters import ParameterError, cells_tagged, notebook_defaults
from workflow.staging import kernel_environment

ROOT = Path(__file__).resolve().parent.parent
CHECKED = "nbval-check-output"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
GLUED = "application/papermill.record/"
#: Digits of a computed number in a checked output. Processors agree to some 14 in float64, before the
#: differences and quotients that a page takes, and nbval compares letter by letter.
MAX_DIGITS = 4
MACHINE_PATH = re.compile(r"/(?:home|root|Users)/[^\s\"']+")
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d[\d,]*)?\.?\d+(?:e[-+]?\d+)?(?!\w)", re.IGNORECASE)
CAPTION_SOURCE = re.compile(r"\bpaper('s)? (fig(ure|\.)|table)|\bours\b", re.IGNORECASE)


def is_checked(cell: NotebookNode) -> bool:
    """Return whether nbval compares this cell's output with the stored one."""
    return CHECKED in cell.metadata.get("tags", [])


def canonical(notebook: NotebookNode) -> NotebookNode:
    """Return the notebook in the one form that is committed; a fixed point of itself.

    Cell ids come from the cells' text, so a notebook written anew differs only where it was changed. Of the
    metadata only what the tools here read is kept.
    """
    cells, seen = [], set()
    for cell in notebook.cells:
        source = cell.source.rstrip()
        metadata = {key: cell.metadata[key] for key in ("mystnb", "tags") if cell.metadata.get(key)}
        if "tags" in metadata:
            metadata["tags"] = sorted(set(metadata["tags"]))

        repeat = 0
        while (name := _cell_id(cell.cell_type, source, repeat)) in seen:
            repeat += 1
        seen.add(name)

        if cell.cell_type == "code":
            kept = is_checked(cell)
            clean = nbformat.v4.new_code_cell(
                source,
                metadata=metadata,
                id=name,
                execution_count=cell.execution_count if kept else None,
                outputs=_joined(cell.outputs) if kept else [],
            )
        else:
            clean = nbformat.v4.new_markdown_cell(source, metadata=metadata, id=name)
        cells.append(clean)
    metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    return nbformat.from_dict({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})


def _joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join what was printed: where a kernel cuts its stream is chance."""
    joined: list[NotebookNode] = []
    for output in outputs:
        last = joined[-1] if joined else {}
        if output.output_type == "stream" == last.get("output_type") and output.name == last["name"]:
            output = nbformat.v4.new_output("stream", name=output.name, text=last["text"] + output.text)
            joined.pop()
        joined.append(output)
    return joined


def _cell_id(kind: str, source: str, repeat: int) -> str:
    return hashlib.sha256(f"{kind}\n{repeat}\n{source}".encode()).hexdigest()[:8]


def canonical_text(notebook: NotebookNode) -> str:
    """Return the bytes, as text, that a source notebook must have."""
    return nbformat.writes(canonical(notebook)).rstrip("\n") + "\n"


def _parameter_problems(notebook: NotebookNode) -> list[str]:
    try:
        notebook_defaults(notebook)
    except ParameterError as error:
        return [str(error)]
    (cell,) = cells_tagged(notebook, "parameters")
    lines = cell.source.splitlines()
    return [
        f"parameter line without a trailing comment: {lines[node.end_lineno - 1]}"
        for node in ast.parse(cell.source).body
        if "#" not in lines[node.end_lineno - 1][node.end_col_offset :]
    ]


def _output_problems(notebook: NotebookNode) -> list[str]:
    checked = [cell for cell in notebook.cells if is_checked(cell)]
    problems = [] if checked else [f"no cell is tagged {CHECKED!r}: nbval would compare nothing"]
    for cell in checked:
        # nbval skips a cell without a count in silence, and compares no images.
        if cell.execution_count is None:
            problems.append(f"checked cell {cell.id} has no execution count: nbval would skip it")
        texts = [
            output
            for output in cell.outputs
            if output.output_type == "stream" or "text/plain" in output.get("data", {})
        ]
        if not texts:
            problems.append(f"checked cell {cell.id} stores no text to compare")
        if any(kind.startswith(GLUED) for output in cell.outputs for kind in output.get("data", {})):
            problems.append(
                f"checked cell {cell.id} stores a glued number with all of its digits: glue elsewhere"
            )
        for output in texts:
            text = output.get("text") or output["data"]["text/plain"]
            problems += [
                f"checked cell {cell.id} shows {number}, which another processor may round otherwise: show "
                f"at most {MAX_DIGITS} digits, or whether it is near enough"
                for number in _fragile_numbers(text, cell.source)
            ]
    for cell in notebook.cells:
        if cell.cell_type == "code" and not is_checked(cell) and (cell.outputs or cell.execution_count):
            problems.append(f"cell {cell.id} stores an output that nothing checks")
    return problems


def _fragile_numbers(text: str, source: str) -> list[str]:
    """Return the numbers in a text whose digits, or whose sign, may be a rounding error's.

    Whole numbers count things, numbers that stand in the source were not computed, and 1e-12 is a tolerance.
    """
    fragile = []
    for number in NUMBER.findall(text):
        plain = number.lstrip("+-").replace(",", "")
        if plain.isdigit() or plain in source:
            continue
        many = len(re.split("[eE]", plain)[0].replace(".", "").lstrip("0")) > MAX_DIGITS
        signed_zero = number[0] in "+-" and float(plain) == 0
        tiny = 0 < float(plain) < 1e-8 and not plain.startswith("1e")
        if many or signed_zero or tiny:
            fragile.append(number)
    return fragile


def _figure_problems(notebook: NotebookNode) -> list[str]:
    problems = []
    for cell in notebook.cells:
        figure = cell.metadata.get("mystnb", {}).get("figure")
        if figure is None:
            continue
        if not figure.get("name"):
            problems.append(f"figure cell {cell.id} has no name to refer to")
        if not CAPTION_SOURCE.search(figure.get("caption", "")):
            problems.append(f"the caption of {figure.get('name')} names neither 'Paper Fig. N' nor 'ours'")
        keywords = [node.arg for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.keyword)]
        if "alt" not in keywords and not cell.metadata.mystnb.get("image", {}).get("alt"):
            problems.append(f"figure {figure.get('name')} has no alt text: pass alt=")
    return problems


def problems(text: str) -> list[str]:
    """Return what is wrong with a source notebook, given as the file's text; empty if nothing is."""
    notebook = nbformat.reads(text, as_version=4)
    found = _parameter_problems(notebook) + _output_problems(notebook) + _figure_problems(notebook)
    if path := MACHINE_PATH.search(text):
        found.append(f"it shows a path of some machine: {path[0]}")
    if text != canonical_text(notebook):
        found.append("it is not in canonical form: run `make notebooks`")
    return found


def clean(path: Path) -> str:
    """Write a source notebook in canonical form."""
    path.write_text(canonical_text(nbformat.read(path, as_version=4)), encoding="utf-8")
    return "in canonical form"


def refresh(path: Path) -> str:
    """Run a notebook with its defaults and store the outputs of its checked cells."""
    source = nbformat.read(path, as_version=4)
    executed = nbformat.from_dict(source)
    client = NotebookClient(
        executed,
        timeout=1800,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute(env=kernel_environment(path.parent.parent))
    if reasons := reasons_to_reject(source, executed, {}):
        raise RuntimeError("; ".join(reasons))
    path.write_text(canonical_text(executed), encoding="utf-8")
    return f"{sum(map(is_checked, executed.cells))} checked outputs stored"


def check(path: Path) -> str:
    """Raise unless a source notebook is as it must be."""
    if found := problems(path.read_text(encoding="utf-8")):
        raise RuntimeError("; ".join(found))
    return "ok"


VERBS: dict[str, Callable[[Path], str]] = {"clean": clean, "check": check, "refresh": refresh}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m workflow.notebooks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"{verb:8} {function.__doc__}" for verb, function in VERBS.items()),
    )
    parser.add_argument("verb", choices=VERBS)
    parser.add_argument("name", nargs="*", help="notebooks, as 08_sd_loss; default: all")
    args = parser.parse_args()
    everything = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    if unknown := sorted(set(args.name) - set(everything)):
        parser.error(f"no such notebook: {', '.join(unknown)}; there are {', '.join(everything)}")
    bad = 0
    for name in args.name or everything:
        try:
            verdict = VERBS[args.verb](ROOT / "notebooks" / f"{name}.ipynb")
        except Exception as error:  # say which notebook, go on with the next one
            verdict, bad = f"FAILED: {error}", bad + 1
        print(f"{name:32} {verdict}", flush=True)
    if bad:
        sys.exit(1)


if __name__ == "__main__":
    main()
