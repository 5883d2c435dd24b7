"""What a page of the book shows beside its text: figures for both themes, run cards, reported against ours.

Every function returns HTML for the notebook to display. All text put into it is escaped. A figure gets its
number and caption from the metadata of its cell:
``{"mystnb": {"figure": {"name": "fig-sd-landscape", "caption": "..."}}}``.
"""

import base64
import io
import json
import math
import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from numbers import Integral
from typing import Any
from urllib.parse import quote

import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure

from unrolling._checks import InputError
from unrolling.experiments.provenance import commit, versions
from unrolling.plotting import theme
from unrolling.store import Record

_LOADED = datetime.now(UTC)  # a run that began later was computed for this page
_PIXELS_PER_INCH = 100  # on the page; the image itself has twice as many
_INK = "#7a7a7a"  # plotly text: one grey for both pages, about 4.2:1 on white and on near-black
_FAINT = "rgba(122, 122, 122, 0.25)"


def _check_figure(name: str, alt: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise InputError(
            "a figure's name must be lower-case letters, digits and hyphens, as in 'fig-sd-landscape'; "
            f"got {name!r}."
        )
    if not alt.strip():
        raise InputError(f"figure {name!r} needs an `alt` text: say what one sees, for who does not see it.")


def _distinct(values: Iterable[object]) -> str:
    """Return the different values in order of appearance: mixed ones are listed, not hidden."""
    return ", ".join(dict.fromkeys(str(value) for value in values if value is not None)) or "not recorded"


def _tools(data: pd.DataFrame, name: str, command: str | None, runs: Sequence[Record]) -> str:
    """Return the line below a figure: its runs, its data as CSV and the command that makes it again."""
    uri = "data:text/csv;charset=utf-8," + quote(data.to_csv(index=False), safe=",")
    link = f'<a class="figure-data" download="{name}.csv" href="{uri}">data (CSV)</a>'
    details = f"<details><summary>command</summary><pre>{escape(command)}</pre></details>" if command else ""
    made = ""
    if runs:
        seeds = _distinct(run.config["seed"] for run in runs)
        names = _distinct(run.data["name"] for run in runs)
        made = f'<span class="figure-runs">{escape(f"{len(runs)} runs on {names}, seeds {seeds}")}</span>'
    return f'<div class="figure-tools">{made}{link}{details}</div>'


def figure(
    draw: Callable[[Figure], object],
    *,
    data: pd.DataFrame,
    name: str,
    alt: str,
    command: str | None = None,
    runs: Sequence[Record] = (),
    size: tuple[float, float] = (7.0, 4.0),
) -> HTML:
    """Draw a figure for the light and again for the dark page; the book's style sheet shows one of the two.

    Args:
        draw: ``draw(fig)`` fills an empty matplotlib figure, for example
            ``lambda fig: lines_over_steps(frame, fig.subplots(), "e", num_classes=10)``.
        data: What is drawn; readers download it as ``<name>.csv``.
        name: The figure's name, as in the metadata of its cell.
        alt: What one sees, for who does not see it.
        command: The command line that makes the figure again.
        runs: The runs that it was made from, named below it; none if it was computed on the page.
        size: Width and height in inches of 100 page pixels.
    """
    _check_figure(name, alt)
    images = []
    for page in ("light", "dark"):
        with theme(page):
            fig = Figure(figsize=size, layout="constrained")
            draw(fig)
            png = io.BytesIO()
            fig.savefig(png, format="png", dpi=2 * _PIXELS_PER_INCH, metadata={"Software": None})
        source = base64.b64encode(png.getvalue()).decode()
        width = round(size[0] * _PIXELS_PER_INCH)
        images.append(
            f'<img class="only-{page}" alt="{escape(alt)}" width="{width}" '
            f'src="data:image/png;base64,{source}">'
        )
    return HTML(f'<div class="dual-figure">{"".join(images)}</div>{_tools(data, name, command, runs)}')


class InteractiveFigure:
    """A plotly figure as HTML for the book and as plotly's own format for JupyterLab and VS Code."""

    def __init__(self, html: str, plotly_json: dict[str, Any]):
        self.html = html
        self._plotly_json = plotly_json

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        return {
            "text/html": self.html,
            "text/plain": "interactive figure",
            "application/vnd.plotly.v1+json": self._plotly_json,
        }


def interactive(
    fig: Any, *, data: pd.DataFrame, name: str, alt: str, command: str | None = None
) -> InteractiveFigure:
    """Show a plotly figure in colours for both themes, with the same line below it as :func:`figure`.

    Args:
        fig: A ``plotly.graph_objects.Figure``. Its background, text and axis colours are overwritten.
        data: What is drawn; readers download it as ``<name>.csv``.
        name: The figure's name, as in the metadata of its cell; it must differ from all others on the page.
        alt: What one sees, for who does not see it.
        command: The command line that makes the figure again.
    """
    _check_figure(name, alt)
    clear = "rgba(0, 0, 0, 0)"
    margin = {"l": 60, "r": 20, "t": 40, "b": 50}
    fig.update_layout(
        template="none", paper_bgcolor=clear, plot_bgcolor=clear, font_color=_INK, margin=margin
    )
    for slider in fig.layout.sliders:
        slider.update(bgcolor=_FAINT, activebgcolor=_INK, bordercolor=_INK, tickcolor=_INK)
    fig.update_xaxes(gridcolor=_FAINT, zerolinecolor=_FAINT, linecolor=_INK)
    fig.update_yaxes(gridcolor=_FAINT, zerolinecolor=_FAINT, linecolor=_INK)
    drawing = fig.to_html(
        full_html=False,
        include_plotlyjs=False,  # the book loads it once, from its own files
        include_mathjax=False,
        div_id=f"{name}-plot",  # the name itself is the id of the numbered figure
        config={"responsive": True, "displaylogo": False},
    )
    html = f'<div class="interactive-figure" role="img" aria-label="{escape(alt)}">{drawing}</div>'
    return InteractiveFigure(html + _tools(data, name, command, ()), json.loads(fig.to_json()))


def _versions(provenances: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    def named(provenance: Mapping[str, Any]) -> str | None:
        name = provenance.get("commit")
        return name and name[:12] + (" with uncommitted changes" if provenance.get("dirty") else "")

    found = {
        name: _distinct(provenance.get(key) for provenance in provenances)
        for name, key in (
            ("unrolling", "unrolling"),
            ("Python", "python"),
            ("torch", "torch"),
            ("numpy", "numpy"),
        )
    }
    return {
        "Versions": "; ".join(f"{name} {version}" for name, version in found.items()),
        "Platform": _distinct(provenance.get("platform") for provenance in provenances),
        "Commit": _distinct(map(named, provenances)),
    }


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _run_rows(runs: Sequence[Record]) -> dict[str, str]:
    provenances = [run.provenance for run in runs]
    started = [datetime.fromisoformat(provenance["started"]) for provenance in provenances]
    fresh = sum(start >= _LOADED for start in started)
    newest = max(range(len(runs)), key=started.__getitem__)
    data = [run.data for run in runs]
    return {
        "Runs": f"{len(runs)} ({fresh} computed for this page, {len(runs) - fresh} read from the store)",
        "Seeds": _distinct(run.config.get("seed") for run in runs),
        "Data": _distinct(f"{d['name']}: {d['description']} (fingerprint {d['fingerprint']})" for d in data),
        "Device": _distinct(provenance["device"] for provenance in provenances),
        "Precision": _distinct(run.config["dtype"] for run in runs),
        "Threads": _distinct(provenance["threads"] for provenance in provenances),
        "Duration": f"{_seconds(sum(provenance['seconds'] for provenance in provenances))} in all; "
        f"{_seconds(provenances[newest]['seconds'])} for the newest run, "
        f"begun {started[newest].astimezone(UTC):%Y-%m-%d %H:%M} UTC",
    }


def run_card(
    *,
    profile: str,
    runs: Sequence[Record] = (),
    computed: Mapping[str, object] | None = None,
    title: str = "How these numbers were made",
) -> HTML:
    """Say what ran for this page, from the runs themselves.

    Args:
        profile: The profile's name.
        runs: Records of the store.
        computed: For a page without runs: facts about what it computed itself, such as its seed.
        title: The card's heading; it is folded below it.
    """
    rows = {"Profile": profile}
    if runs:
        rows |= _run_rows(runs) | _versions([run.provenance for run in runs])
    else:
        rows |= {"Runs": "none in the store: the page computed what it shows"}
        rows |= {name: str(fact) for name, fact in (computed or {}).items()}
        rows |= {"Duration": f"{_seconds((datetime.now(UTC) - _LOADED).total_seconds())} up to here"}
        rows |= _versions([{"platform": platform.system(), **versions(), **commit()}])
    body = "".join(f'<tr><th scope="row">{escape(k)}</th><td>{escape(v)}</td></tr>' for k, v in rows.items())
    addresses = "".join(f"<li><code>{escape(str(run.address))}</code></li>" for run in runs)
    listing = (
        f"<details><summary>addresses of all runs</summary><ul>{addresses}</ul></details>" if runs else ""
    )
    return HTML(
        f'<details class="run-card"><summary>{escape(title)}</summary>'
        f"<table>{body}</table>{listing}</details>"
    )


@dataclass(frozen=True)
class Missing:
    """A cell of :func:`reported` with no number, and why."""

    reason: str


def _number(value: float, digits: int) -> str:
    """Return an integer as it is, other numbers with ``digits`` significant digits, zeros included."""
    shown = str(value) if isinstance(value, Integral) else f"{value:#.{digits}g}".removesuffix(".")
    return shown.replace("-", "−")


def interval_text(estimate: tuple[float, float, float], digits: int = 3) -> str:
    """Return ``(mean, low, high)`` as text for a sentence.

    Example:
        >>> interval_text((1.25, 1.0, 1.5), 2)
        '1.2 [1.0, 1.5]'
    """
    mean, low, high = estimate
    shown = _number(mean, digits)
    if math.isfinite(low) and math.isfinite(high):  # one seed has no interval
        shown += f" [{_number(low, digits)}, {_number(high, digits)}]"
    return shown


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
    shown = _number(mean, digits)
    if ends and all(map(math.isfinite, ends)):  # one seed has no interval
        low, high = (_number(end, digits) for end in ends)
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
