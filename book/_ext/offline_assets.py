"""Sphinx extension: the book serves MathJax and plotly.js itself, so that no page needs a network.

Both come from Python packages that the lock file pins. Sphinx loads MathJax on the pages with formulas;
plotly.js is loaded on the pages with an interactive figure.
"""

import importlib.util
import shutil
from pathlib import Path

# The full build: the smaller one fetches TeX extensions when a formula needs them.
MATHJAX = "mathjax/tex-svg-full.js"
PLOTLY = "plotly/plotly.min.js"


def _package(name):
    return Path(importlib.util.find_spec(name).origin).parent


def _use_own_mathjax(app, config):
    config.mathjax_path = MATHJAX


def _choose_scripts(app, pagename, templatename, context, doctree):
    # jupyter-book always adds sphinx-thebe, whose script names a foreign host. The lists are changed in
    # place, because a new one would lose what add_js_file appends below.
    context["script_files"][:] = [script for script in context["script_files"] if not _is_thebe(script)]
    context["css_files"][:] = [sheet for sheet in context["css_files"] if not _is_thebe(sheet)]
    if "plotly-graph-div" in (context.get("body") or ""):
        app.add_js_file(PLOTLY, priority=100)  # below 500: before the page's own scripts


def _is_thebe(asset):
    attributes = getattr(asset, "attributes", {})
    return "thebe" in f"{getattr(asset, 'filename', asset)} {attributes.get('body', '')}".lower()


def _copy_libraries(app, error):
    if error is not None or app.builder.format != "html":
        return
    for source, name in (
        (_package("sphinx-mathjax-offline") / "static" / MATHJAX, MATHJAX),
        (_package("plotly") / "package_data" / "plotly.min.js", PLOTLY),
    ):
        target = Path(app.outdir, "_static", name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def setup(app):
    """Register the extension."""
    app.connect("config-inited", _use_own_mathjax)
    app.connect("html-page-context", _choose_scripts)
    app.connect("build-finished", _copy_libraries)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
