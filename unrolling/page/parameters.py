"""The parameters of the page that is running: what it was given, checked, and how to give it again.

papermill injects an unknown name with no more than a line in its log, and never looks at types or values:
the page itself has to.
"""

import ast
import shlex
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from unrolling.page.allowed import check_page, page_parameters
from unrolling.runs.profiles import Scalar

#: How the cell begins that papermill writes.
_INJECTED = "# Parameters\n"


def check_parameters(page: str, names: MutableMapping[str, Any]) -> str:
    """Raise unless the page can run with the parameters that it was given.

    Called in a notebook's first cell after its parameters, before anything is computed. The defaults of a
    page are those of the quick profile: where papermill gives another profile, what it does not give gets
    that profile's value.

    Args:
        page: The notebook's name, without ending.
        names: The notebook's ``globals()``. Of a kernel's history, ``In``, the cell is read that papermill
            wrote, for names that the page does not have, and for those that it was not given.

    Returns:
        The command that runs the page with these parameters.

    Raises:
        InputError: If a parameter is unknown or missing, or its type or value does not fit.
    """
    defaults = page_parameters(page)
    injected = _injected_names(names.get("In", ()), set(defaults))
    if "profile" in injected:
        of_profile = page_parameters(page, names["profile"])
        names.update({name: value for name, value in of_profile.items() if name not in injected})
    values = {name: names[name] for name in (*defaults, *injected) if name in names}
    check_page(page, values)
    return _command(page, {name: value for name, value in values.items() if value != defaults[name]})


def _injected_names(history: Sequence[str], declared: set[str]) -> list[str]:
    """Return the names that papermill's cell assigns, if one ran since the parameters last got a value."""
    injected: list[str] = []
    for cell in history:
        if cell.startswith(_INJECTED):
            injected = _assigned(cell)
        elif declared <= set(_assigned(cell)):
            injected = []  # the page is run again from its parameters on
    return injected


def _assigned(cell: str) -> list[str]:
    try:
        body = ast.parse(cell).body
    except SyntaxError:
        return []  # a person's slip, which the kernel has shown
    return [target.id for node in body for target in ast.walk(node) if _is_stored(target)]


def _is_stored(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def _command(page: str, changed: Mapping[str, Scalar]) -> str:
    options = [f"{_flag(value)} {name} {shlex.quote(str(value))}" for name, value in changed.items()]
    return " ".join([f"papermill notebooks/{page}.ipynb {page}.ipynb --cwd notebooks", *options])


def _flag(value: Scalar) -> str:
    """Return papermill's flag: ``-p`` takes text that looks like a number for one, ``-r`` does not."""
    if not isinstance(value, str):
        return "-p"
    try:
        ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return "-p" if value else "-r"
    return "-r"
