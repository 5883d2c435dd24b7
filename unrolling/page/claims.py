"""The ledger on a page: the claims that the page discusses, or all of them to filter and to download."""

import json
import re
from collections.abc import Iterable
from html import escape
from urllib.parse import quote

import pandas as pd
from IPython.display import HTML

from unrolling.intervals import number_text
from unrolling.paper import KINDS, VERDICTS, Entry, count_verdicts
from unrolling.studies.ledger import claims_of_page, error_text, evaluate

# A filter hides rows; without scripts the page shows them all.
_FILTER = """
document.querySelectorAll(".claims-ledger").forEach((ledger) => {
  const filters = [...ledger.querySelectorAll("select")];
  const rows = [...ledger.querySelectorAll("tbody tr")];
  const apply = () => {
    rows.forEach((row) => {
      row.hidden = filters.some((f) => f.value && row.dataset[f.name] !== f.value);
    });
    ledger.querySelector("output").textContent =
      `${rows.filter((row) => !row.hidden).length} of ${rows.length} claims`;
  };
  filters.forEach((f) => f.addEventListener("change", apply));
  apply();
});
"""

_HELD = {True: "yes", False: "no", None: "open"}
_SYMBOLS = {
    "eta": "η",
    "gamma": "γ",
    "delta": "δ",
    "epsilon": "ε",
    "lambda": "λ",
    "sigma": "σ",
    "pi": "π",
    "sqrt": "√",
    "inf": "∞",
}


def claims(page: str) -> HTML:
    """Check the claims that a notebook discusses, and show what was found.

    Args:
        page: The notebook's name, without ending.
    """
    entries = evaluate(claims_of_page(page))
    return HTML(f'<div class="claims">{_table(entries)}</div>')


def ledger(entries: Iterable[Entry]) -> HTML:
    """Show the ledger: a table to filter by section, kind and verdict, also as JSON and CSV.

    Args:
        entries: What :func:`unrolling.studies.ledger.evaluate` returned.
    """
    entries = list(entries)
    chapters = dict.fromkeys(entry.claim.chapter for entry in entries)
    filters = (
        _select("chapter", "section", sorted(chapters, key=_chapter_order))
        + _select("kind", "kind", KINDS)
        + _select("verdict", "verdict", VERDICTS)
    )
    rows = [entry.to_dict() for entry in entries]
    downloads = _download("claims.json", "application/json", json.dumps(rows, indent=1, ensure_ascii=False))
    downloads += _download("claims.csv", "text/csv", pd.DataFrame(rows).to_csv(index=False))
    return HTML(
        f'<div class="claims claims-ledger"><div class="claims-tools">{filters}'
        f'<output aria-live="polite">{len(entries)} claims</output>{downloads}</div>'
        f"{_table(entries)}</div><script>{_FILTER}</script>"
    )


def _chapter_order(chapter: str) -> tuple[bool, int | str]:
    """Sections by number, then appendices by letter."""
    return (False, int(chapter[1:])) if chapter.startswith("§") else (True, chapter)


def _select(name: str, label: str, values: Iterable[str]) -> str:
    options = "".join(f'<option value="{escape(value)}">{escape(value)}</option>' for value in values)
    return f'<label>{label} <select name="{name}"><option value="">all</option>{options}</select></label>'


def _download(name: str, kind: str, text: str) -> str:
    return f'<a download="{name}" href="data:{kind};charset=utf-8,{quote(text)}">{name}</a>'


def _table(entries: list[Entry]) -> str:
    head = "".join(
        f'<th scope="col">{title}</th>' for title in ("claim", "what the paper says", "found here")
    )
    body = "".join(map(_row, entries))
    counts = ", ".join(f"{number} {verdict}" for verdict, number in count_verdicts(entries).items() if number)
    return (
        f"<table><caption>{len(entries)} claim{'s' * (len(entries) != 1)}: {counts}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _typeset(text: str) -> str:
    """Return the ledger's plain text as HTML with Greek letters, subscripts and superscripts."""
    text = escape(text).replace("||", "‖").replace("&gt;=", "≥").replace("&lt;=", "≤").replace("+-", "±")
    # A name of one letter has a subscript; a name of several, such as a file's, is left as it is.
    text = re.sub(r"(?<![A-Za-z])([a-z]+)(?![a-z])", lambda found: _SYMBOLS.get(found[1], found[1]), text)
    text = re.sub(r"((?<![A-Za-z])[A-Za-zα-ω]|‖)_(\w+|∞)", r"\1<sub>\2</sub>", text)
    return re.sub(r"\^(?:\(([^()]*)\)|([-+]?\w+))", r"<sup>\1\2</sup>", text)


def _row(entry: Entry) -> str:
    claim = entry.claim
    kind = entry.verdict.replace(" ", "-")
    changed = f" Changed after larger runs were read: {_typeset(claim.post_hoc)}." if claim.post_hoc else ""
    said = (
        f"{_typeset(claim.statement)}<small>{escape(claim.section)}, {claim.kind}; printed: "
        f"{_typeset(claim.reported)}. We say it holds if: {_typeset(claim.criterion)}.{changed}</small>"
    )
    return (
        f'<tr data-chapter="{escape(claim.chapter)}" data-kind="{claim.kind}" data-verdict="{entry.verdict}">'
        f'<th scope="row">{claim.id}</th><td>{said}</td>'
        f'<td><strong class="verdict {kind}">{entry.verdict}</strong> {_finding(entry)}</td></tr>'
    )


def _finding(entry: Entry) -> str:
    parts = _typeset(entry.reason)
    found = entry.finding
    if found is None:
        return parts
    shown = number_text(found.value, 3)
    if 0 < abs(found.value) < 1e-12:
        shown = error_text(found.value)
    if found.interval:
        shown += " [" + ", ".join(number_text(end, 3) for end in found.interval) + "]"
    parts += f"<small>{_typeset(found.value_is)}: {shown}"
    if len(found.propositions) > 1:
        held = (f"{_typeset(part)}: {_HELD[held]}" for part, held in found.propositions.items())
        parts += "; " + "; ".join(held)
    if entry.runs:
        seeds = f"{entry.num_seeds} seed" + "s" * (entry.num_seeds != 1)
        parts += f"; {len(entry.runs)} runs of the {entry.profile} profile, {seeds}"
    return parts + "</small>"
