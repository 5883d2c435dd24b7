"""The gate between an executed notebook and the book.

papermill's own marks cannot be trusted: after a killed kernel or a time-out the file says that every cell
completed. So the file itself is examined, beside papermill's exit code.
"""

from collections.abc import Iterable, Mapping

from nbformat import NotebookNode

from workflow.parameters import ParameterError, Scalar, cells_tagged, parse_assignments

IMAGE_TYPES = ("image/png", "image/jpeg")


def _output_texts(output: NotebookNode) -> Iterable[str]:
    yield output.get("text", "")
    for mime, data in output.get("data", {}).items():
        if mime not in IMAGE_TYPES:
            yield str(data)


def paths_in_outputs(notebook: NotebookNode, paths: Iterable[str]) -> list[str]:
    """Return those of ``paths`` (of this machine) that some output of the notebook shows."""
    texts = [
        text
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        for text in _output_texts(output)
    ]
    return [path for path in paths if any(path in text for text in texts)]


def reasons_to_reject(
    source: NotebookNode, executed: NotebookNode, asked: Mapping[str, Scalar], paths: Iterable[str] = ()
) -> list[str]:
    """Return why ``executed`` is not a whole run of ``source`` with the parameters ``asked``; empty if it is.

    Args:
        source: The notebook as it is in the repository.
        executed: What papermill wrote.
        asked: The parameters given to papermill.
        paths: Directories of this machine, which no output may show.
    """
    reasons = []
    injected = cells_tagged(executed, "injected-parameters")
    ours = [cell for cell in executed.cells if cell not in injected]

    if cells_tagged(executed, "papermill-error-cell-tag"):
        reasons.append("papermill marked an exception")
    if [(c.cell_type, c.source) for c in ours] != [(c.cell_type, c.source) for c in source.cells]:
        reasons.append("its cells are not those of the source notebook")

    for number, cell in enumerate(executed.cells):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        if cell.execution_count is None:
            reasons.append(f"cell {number} was not run")
        if any(output.output_type == "error" for output in cell.outputs):
            reasons.append(f"cell {number} raised an exception")

    try:
        given = [parse_assignments(cell.source) for cell in injected]
    except ParameterError as error:
        reasons.append(f"its injected parameters cannot be read: {error}")
    else:
        if given != ([dict(asked)] if asked else []):
            reasons.append(f"its parameters are {given}, asked for {dict(asked)}")

    reasons += [f"an output shows the path {path}" for path in paths_in_outputs(executed, paths)]
    return reasons
