"""Sphinx extension: a book of notebooks that nobody has run is an error, not a book without numbers.

``make book`` renders copies that it has executed. The sources store the outputs of checked cells alone, so
``jupyter-book build`` on the repository itself would leave out every other number and figure.
"""

import json
from pathlib import Path


def _was_run(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = (cell for cell in cells if cell["cell_type"] == "code" and "".join(cell["source"]).strip())
    return all(cell["execution_count"] for cell in code)


def _refuse_sources(app, config):
    waiting = [
        path.stem for path in sorted(Path(app.srcdir, "notebooks").glob("*.ipynb")) if not _was_run(path)
    ]
    if waiting:
        # not an error of Sphinx's, which jupyter-book would bury under a traceback
        raise SystemExit(
            f"error: {len(waiting)} notebooks have not been run, the first is {waiting[0]}; numbers and "
            "figures would be missing. `make book` runs them and renders _build/html."
        )


def setup(app):
    """Register the extension."""
    app.connect("config-inited", _refuse_sources)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
