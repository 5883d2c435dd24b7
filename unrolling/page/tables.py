"""What the paper prints beside what we find, cell by cell."""

import math
from collections.abc import Iterable, Mapping
from html import escape

from IPython.display import HTML

from unrolling._checks import InputError
from unrolling.intervals import Missing, number_text


def _cell(value: object, digits: int) -> tuple[str, str]:
    """Return the class and the text of one table cell."""
    if isinstance(value, Missing):
        return "missing", f'–<span class="reason"> ({escape(value.reason)})</span>'
    if isinstance(value, str):
        return "text", escape(value)
    mean, *ends = value if isinstance(value, tuple) else (value,)
    if not math.isfinite(mean):
        raise InputError(
            f"a cell must hold a finite number, got {mean}. Say why it has none: Missing('...')."
        )
    shown = number_text(mean, digits)
    if ends and all(map(math.isfinite, ends)):  # one seed has no interval
        low, high = (number_text(end, digits) for end in ends)
        shown += f'<span class="interval"> [{low}, {high}]</span>'
    return "number", shown


def reported(rows: Iterable[Mapping[str, object]], *, digits: int = 4) -> HTML:
    """Show what the paper prints beside what we find, cell by cell.

    Args:
        rows: One mapping per row from column heading to cell: a number, a ``(mean, low, high)`` as
            :func:`~unrolling.plotting.interval` returns, a text, or :class:`Missing`. All have the same keys.
        digits: Significant digits of the numbers; integers are shown as they are.

    Example:
        >>> reported([{"γ": 1, "e printed": 101.8, "e here": (98.2, 90.1, 106.3)}])  # doctest: +SKIP
    """
    rows = list(rows)
    if not rows or any(row.keys() != rows[0].keys() for row in rows):
        raise InputError("`rows` must be at least one mapping, all with the same columns.")
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in rows[0])
    body = ""
    for row in rows:
        cells = (_cell(value, digits) for value in row.values())
        body += "<tr>" + "".join(f'<td class="{kind}">{text}</td>' for kind, text in cells) + "</tr>"
    return HTML(f'<table class="reported"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>')
