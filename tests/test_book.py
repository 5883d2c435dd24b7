"""The built book: complete, offline, and every page drawn as meant in a real browser.

``UNROLLING_BOOK`` names another book than ``_build/html``.
"""

import functools
import http.server
import importlib.util
import json
import os
import re
import shutil
import threading
from collections import Counter
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from bs4 import BeautifulSoup

from unrolling.studies.ledger import evaluate
from workflow.staging import machine_paths, read_toc

ROOT = Path(__file__).resolve().parent.parent
BOOK = Path(os.environ.get("UNROLLING_BOOK", ROOT / "_build" / "html")).resolve()
REPOSITORY = BOOK.parent.parent
PAGES = read_toc(REPOSITORY)
BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",  # macOS: not a command
)
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)

each_page = pytest.mark.parametrize("page", PAGES)


@pytest.fixture(scope="module", autouse=True)
def built(needs):
    needs((BOOK / "index.html").exists(), "there is no book: run `make book`")


@functools.cache
def soup(page):
    return BeautifulSoup((BOOK / f"{page}.html").read_text(), "html.parser")


def article(page):
    return soup(page).select_one("article")


# What the files say.


@each_page
def test_page_exists_and_has_a_title(page):
    assert article(page).h1.get_text(strip=True)


def test_the_start_page_leads_to_the_root_of_the_book():
    assert f"{PAGES[0]}.html" in (BOOK / "index.html").read_text()


@each_page
def test_page_loads_nothing_from_elsewhere(page):
    # links for the reader to follow may lead outside; what a page loads may not
    for tag in soup(page).find_all(["script", "link", "img", "iframe", "source", "object", "video"]):
        for attribute in ("src", "href", "data", "poster"):
            address = urlsplit(tag.get(attribute, ""))
            assert address.scheme in ("", "data"), tag
            assert not address.netloc, tag


@each_page
def test_links_within_the_book_lead_somewhere(page):
    here = BOOK / f"{page}.html"
    for tag in soup(page).select("[href], [src]"):
        address = urlsplit(tag.get("href") or tag.get("src"))
        if address.scheme or address.netloc:
            continue
        target = (here.parent / unquote(address.path)).resolve() if address.path else here
        assert target.exists(), tag
        if address.fragment and target.suffix == ".html":
            goal = soup(target.relative_to(BOOK).with_suffix("").as_posix())
            assert goal.find(id=unquote(address.fragment)), tag


@each_page
def test_page_shows_no_traceback_and_no_path_of_this_machine(page):
    text = (BOOK / f"{page}.html").read_text()
    assert "Traceback (most recent call last)" not in text
    assert not [path for path in machine_paths(ROOT) if path in text]


@each_page
def test_ids_are_unique(page):
    # plotly draws into the first element of its id, and a link goes there
    ids = Counter(tag["id"] for tag in article(page).find_all(id=True))
    assert not [name for name, count in ids.items() if count > 1]


@each_page
def test_every_image_has_a_text_in_its_place(page):
    assert all(image.get("alt", "").strip() for image in article(page).find_all("img"))


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("notebooks/")])
def test_every_figure_cell_is_a_numbered_figure(page):
    notebook = nbformat.read(REPOSITORY / f"{page}.ipynb", as_version=4)
    figures = [
        cell.metadata.mystnb.figure for cell in notebook.cells if "figure" in cell.metadata.get("mystnb", {})
    ]
    for figure in figures:
        drawn = article(page).find("figure", id=figure.name)
        assert drawn, figure.name
        assert re.match(r"Fig\. \d+", drawn.select_one(".caption-number").get_text()), figure.name
        assert drawn.find(["img", "svg"]) or drawn.select_one(".plotly-graph-div"), figure.name


def test_the_search_knows_every_page():
    index = (BOOK / "searchindex.js").read_text().removeprefix("Search.setIndex(").removesuffix(")")
    index = json.loads(index)
    assert set(PAGES) <= set(index["docnames"])
    assert len(index["terms"]) > 100


def test_notebooks_of_the_book_write_nothing_to_stderr():
    # the book leaves that stream out, so a warning there would go unread
    for path in sorted((REPOSITORY / "_build" / "quick" / "executed").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            assert not [o.text for o in cell.get("outputs", []) if o.get("name") == "stderr"], path.name


# What a browser sees.


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address():
    handler = functools.partial(QuietHandler, directory=str(BOOK))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(needs):
    needs(CHROMIUM, "no Chromium found: install the system's package `chromium`")
    needs(importlib.util.find_spec("playwright"), "no playwright: run `make browser`")
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield chromium
        chromium.close()


class Visit:
    """One page open in the browser, with everything it complained of or asked for elsewhere."""

    def __init__(self, browser, url):
        self.complaints, self.outside = [], []
        home = urlsplit(url)
        context = browser.new_context(viewport={"width": 1200, "height": 900})
        context.set_default_timeout(300_000)  # ms; a busy machine is no fault of the page
        self.tab = context.new_page()

        def route(route):
            asked = urlsplit(route.request.url)
            if asked.scheme in ("data", "blob") or (asked.scheme, asked.netloc) == (home.scheme, home.netloc):
                route.continue_()
            else:
                self.outside.append(route.request.url)
                route.abort()

        context.route("**/*", route)
        self.tab.on("console", lambda m: self.complaints.append(m.text) if m.type == "error" else None)
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("requestfailed", lambda request: self.complaints.append(request.url))
        self.tab.goto(url, wait_until="load")
        self.settle()

    def settle(self):
        """Wait until formulas and figures are drawn; a figure that never is shows in the tests below."""
        self.tab.evaluate(
            """async () => {
              if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
              const late = () => document.querySelector('.plotly-graph-div:not(.js-plotly-plot)');
              for (let i = 0; i < 600 && late(); i++)
                await new Promise(resolve => setTimeout(resolve, 100));
            }"""
        )

    def count(self, selector):
        return self.tab.locator(selector).count()


@pytest.fixture(scope="module")
def visit(browser, address):
    return functools.cache(lambda page: Visit(browser, f"{address}/{page}.html"))


@each_page
def test_page_opens_without_complaint_and_asks_nobody_else(page, visit):
    seen = visit(page)
    assert seen.complaints == []
    assert seen.outside == []


@each_page
def test_every_formula_is_typeset(page, visit):
    seen = visit(page)
    # MathJax leaves unbalanced braces as they are and shows an unknown macro in red, both without a word
    assert seen.count(".math:not(:has(mjx-container))") == 0
    assert seen.count("mjx-merror, [data-mml-node=merror], [data-mml-node=mtext][fill=red]") == 0


@each_page
def test_no_formula_is_cut_off_on_a_wide_screen(page, visit):
    tab = visit(page).tab
    tab.set_viewport_size({"width": 1280, "height": 900})
    wide = tab.evaluate(
        """() => [...document.querySelectorAll('div.math mjx-container')]
          .filter(formula => formula.scrollWidth > formula.clientWidth + 1)
          .map(formula => [formula.closest('[id]').id, formula.scrollWidth, formula.clientWidth])"""
    )
    tab.set_viewport_size({"width": 1200, "height": 900})
    assert wide == []


@each_page
def test_every_interactive_figure_is_drawn(page, visit):
    seen = visit(page)
    assert seen.count(".plotly-graph-div:not(:has(.main-svg))") == 0


@each_page
def test_each_theme_shows_one_of_the_two_images_of_a_figure(page, visit):
    seen = visit(page)
    for theme in ("light", "dark"):
        seen.tab.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
        for image in seen.tab.locator(".dual-figure img").all():
            shown = f"only-{theme}" in image.get_attribute("class")
            assert image.is_visible() == shown, theme


@each_page
def test_page_fits_a_narrow_screen(page, visit):
    seen = visit(page)
    tab = seen.tab
    tab.set_viewport_size({"width": 400, "height": 900})
    tab.reload()
    seen.settle()
    widest = tab.evaluate("Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)")
    tab.set_viewport_size({"width": 1200, "height": 900})
    assert widest <= 400


SLIDER_STATE = """() => JSON.stringify(document.querySelector('.plotly-graph-div:has(.slider-container)')
    ._fullData.map(t => [t.visible, t.x, t.y, t.z].map(part => part && part.length ? [...part] : part)))"""


def test_the_slider_moves_the_figure(visit):
    tab = visit("notebooks/08_sd_loss").tab
    rail = tab.locator(".plotly-graph-div .slider-rail-touch-rect").first
    rail.scroll_into_view_if_needed()
    before = tab.evaluate(SLIDER_STATE)
    box, grip = rail.bounding_box(), tab.locator(".slider-grip-rect").first.bounding_box()
    tab.mouse.move(grip["x"] + grip["width"] / 2, grip["y"] + grip["height"] / 2)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + box["height"] / 2, steps=5)
    tab.mouse.up()
    tab.wait_for_function(f"before => ({SLIDER_STATE})() !== before", arg=before)


def test_the_ledger_shows_the_rows_that_its_filters_ask_for(visit):
    tab = visit("notebooks/19_claims").tab
    rows = tab.locator(".claims-ledger tbody tr")
    assert rows.count() == 102
    tab.locator(".claims-ledger select[name=kind]").select_option("theorem")
    tab.locator(".claims-ledger select[name=verdict]").select_option("contradicted")
    shown = tab.locator(".claims-ledger tbody tr:visible")
    wanted = tab.locator('.claims-ledger tr[data-kind="theorem"][data-verdict="contradicted"]').count()
    assert 0 < shown.count() == wanted < 102
    assert tab.locator(".claims-ledger output").inner_text() == f"{wanted} of 102 claims"
    tab.locator(".claims-ledger select[name=chapter]").select_option("App. C")
    assert shown.count() == 0


def test_the_ledger_of_the_book_is_the_one_of_the_command_line():
    (link,) = article("notebooks/19_claims").select('a[download="claims.json"]')
    rows = json.loads(unquote(link["href"].split(",", 1)[1]))
    ours = {entry.claim.id: entry.to_dict() for entry in evaluate(["T02", "T20", "E01"])}
    found = {row["id"]: row for row in rows if row["id"] in ours}
    assert len(rows) == 102
    assert found == json.loads(json.dumps(ours))


def test_pages_open_from_the_file_system(browser):
    for page in PAGES:
        seen = Visit(browser, (BOOK / f"{page}.html").as_uri())
        assert seen.complaints == []
        assert seen.outside == []
        assert seen.count(".math:not(:has(mjx-container)), .plotly-graph-div:not(:has(.main-svg))") == 0
