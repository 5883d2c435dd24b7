"""Figures for both themes, with their data and the command that makes them again.

A figure gets its number and caption from the metadata of its cell:
``{"mystnb": {"figure": {"name": "fig-sd-landscape", "caption": "..."}}}``.
"""

import base64
import io
import json
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure

from unrolling._checks import InputError
from unrolling.page.run_card import all_seeds, distinct
from unrolling.plotting import theme
from unrolling.store import Record

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


def _tools(data: pd.DataFrame, name: str, command: str | None, runs: Sequence[Record]) -> str:
    """Return the line below a figure: its runs, its data as CSV and the command that makes it again."""
    uri = "data:text/csv;charset=utf-8," + quote(data.to_csv(index=False), safe=",")
    link = f'<a class="figure-data" download="{name}.csv" href="{uri}">data (CSV)</a>'
    details = f"<details><summary>command</summary><pre>{escape(command)}</pre></details>" if command else ""
    made = ""
    if runs:
        names = distinct(run.data["name"] for run in runs)
        count = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
        origin = escape(f"{count} on {names}, seeds {all_seeds(runs)}")
        made = f'<span class="figure-runs">{origin}</span>'
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
