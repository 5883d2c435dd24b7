"""What a notebook lets its user change, and whether what is asked for fits.

papermill injects an unknown parameter with no more than a line in its log, and never looks at types: a
misspelt name would quietly run the defaults. Here both are errors, before anything runs.
"""

import ast
from collections.abc import Mapping

from nbformat import NotebookNode

Scalar = int | float | str | bool


class ParameterError(ValueError):
    """A notebook's parameters, or those asked of it, are not what they must be."""


def cells_tagged(notebook: NotebookNode, tag: str) -> list[NotebookNode]:
    """Return the cells that carry ``tag``."""
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def parse_assignments(source: str) -> dict[str, Scalar]:
    """Return the ``name = literal`` lines of ``source`` as a dict.

    Raises:
        ParameterError: If anything else stands there: papermill cannot replace a derived value.
    """
    values = {}
    for node in ast.parse(source).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                pass
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                pass
            case _:
                raise ParameterError(f"expected only `name = literal`, got `{ast.unparse(node)}`.")
        try:
            literal = ast.literal_eval(value)
        except ValueError:
            # papermill writes infinity and NaN as calls
            literal = _float_call(value)
        if not isinstance(literal, Scalar):
            raise ParameterError(
                f"{name} must be an int, float, str or bool literal, got `{ast.unparse(value)}`."
            )
        if name in values:
            raise ParameterError(f"{name} is assigned twice.")
        values[name] = literal
    return values


def _float_call(value: ast.expr) -> float | None:
    match value:
        case ast.Call(func=ast.Name(id="float"), args=[ast.Constant(value=str(text))], keywords=[]):
            return float(text)
    return None


def notebook_defaults(notebook: NotebookNode) -> dict[str, Scalar]:
    """Return the values of the notebook's one ``parameters`` cell."""
    cells = cells_tagged(notebook, "parameters")
    if len(cells) != 1:
        raise ParameterError(f"expected one cell tagged 'parameters', found {len(cells)}.")
    return parse_assignments(cells[0].source)


def check_parameters(defaults: Mapping[str, Scalar], asked: Mapping[str, Scalar]) -> None:
    """Raise unless every parameter of ``asked`` exists in ``defaults`` with the same type.

    A whole number may be given where the default is a float.
    """
    for name, value in asked.items():
        if name not in defaults:
            raise ParameterError(f"unknown parameter {name!r}: the notebook has {', '.join(defaults)}.")
        kinds = {type(defaults[name])}
        if float in kinds:
            kinds.add(int)
        if type(value) not in kinds:
            raise ParameterError(
                f"parameter {name!r} must be {type(defaults[name]).__name__}, as its default "
                f"{defaults[name]!r}; got {value!r} ({type(value).__name__})."
            )


def choose_parameters(
    slug: str,
    defaults: Mapping[str, Scalar],
    profile: str,
    of_profile: Mapping[str, Mapping[str, Scalar]],
) -> dict[str, Scalar]:
    """Return the parameters ``profile`` asks of the notebook ``slug``, checked against its defaults.

    A notebook the profile says nothing about is told the profile's name, if it has such a parameter.
    """
    if slug in of_profile:
        asked = dict(of_profile[slug])
    else:
        asked = {"profile": profile} if "profile" in defaults else {}
    check_parameters(defaults, asked)
    return asked
