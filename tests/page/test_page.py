import base64
import io
import json
import math
import struct
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from matplotlib.image import imread

from unrolling._checks import InputError
from unrolling.page import Missing, figure, glue_all, interactive, interval_text, ledger, reported, run_card
from unrolling.page.claims import _typeset
from unrolling.paper import KINDS, VERDICTS, Entry, Finding, find_claim
from unrolling.plotting import interval
from unrolling.store import Record

FRAME = pd.DataFrame({"γ": [0.1, 1 / 3], "note": ['a "quoted", comma', "<b>&"]})


class Page(HTMLParser):
    """All tags with their attributes, and all text, as a browser reads them."""

    def __init__(self, shown):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(
            shown._repr_mimebundle_()["text/html"] if hasattr(shown, "_repr_mimebundle_") else shown.data
        )

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def draw(fig):
    fig.subplots().plot([0, 1], [0, 1])


def drawn(**changes):
    arguments = {"data": FRAME, "name": "fig-line", "alt": "a line", "command": "make <book>", "size": (3, 2)}
    return Page(figure(draw, **(arguments | changes)))


def png(image):
    return base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))


def test_figure_has_one_clear_image_per_theme_at_twice_its_width():
    light, dark = drawn().all("img")
    assert (light["class"], dark["class"]) == ("only-light", "only-dark")
    for image in (light, dark):
        width, height = struct.unpack(">II", png(image)[16:24])
        assert (width, height) == (600, 400)
        assert image["width"] == "300"
        assert imread(io.BytesIO(png(image)))[0, 0, 3] == 0  # the corner lets the page through


def test_the_two_images_differ_in_their_ink_only():
    pixels = [imread(io.BytesIO(png(image))) for image in drawn().all("img")]
    on_light, on_dark = (image[image[..., 3] > 0.99][:, :3].max(axis=1) for image in pixels)
    assert on_light.min() < 0.2
    assert on_dark.min() > 0.2
    assert (pixels[0][..., 3] > 0).sum() == (pixels[1][..., 3] > 0).sum()


def test_figure_is_the_same_bytes_each_time():
    assert [png(image) for image in drawn().all("img")] == [png(image) for image in drawn().all("img")]


def test_data_link_gives_back_the_frame():
    (link,) = drawn().all("a")
    assert link["download"] == "fig-line.csv"
    csv = unquote(link["href"].split(",", 1)[1])
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(csv)), FRAME)


def test_command_is_shown_escaped_and_left_out_when_there_is_none():
    assert "make <book>" in drawn().text
    assert "details" in dict(drawn().tags)
    assert "details" not in dict(drawn(command=None).tags)


def test_alt_text_is_escaped():
    assert [image["alt"] for image in drawn(alt='5" < γ & "x"').all("img")] == ['5" < γ & "x"'] * 2


@pytest.mark.parametrize("alt", ["", "  "])
def test_a_figure_without_alt_text_is_refused(alt):
    with pytest.raises(InputError, match="'fig-line' needs an `alt` text"):
        drawn(alt=alt)


def test_a_name_that_is_no_html_id_is_refused():
    with pytest.raises(InputError, match="lower-case letters, digits and hyphens"):
        drawn(name='x" onload="')


def test_interactive_figure_has_the_same_furniture_and_no_script_address():
    shown = interactive(
        go.Figure(go.Scatter(x=[0, 1], y=[2, 3])), data=FRAME, name="fig-line", alt='a "line"', command="make"
    )
    html = Page(shown)
    roles = [div for div in html.all("div") if div.get("role") == "img"]
    assert [div["aria-label"] for div in roles] == ['a "line"']
    assert "fig-line-plot" in [div.get("id") for div in html.all("div")]
    assert html.all("a")[0]["download"] == "fig-line.csv"
    assert not any("src" in script for script in html.all("script"))
    assert shown._repr_mimebundle_()["application/vnd.plotly.v1+json"]["data"][0]["type"] == "scatter"


def test_interactive_figure_without_alt_text_is_refused():
    with pytest.raises(InputError, match="needs an `alt` text"):
        interactive(go.Figure(), data=FRAME, name="fig-line", alt="")


def record(seed=0, **provenance):
    made = {
        "started": "2020-01-02T03:04:05+00:00",
        "seconds": 2.0,
        "device": "cpu",
        "threads": 1,
        "python": "3.11.7",
        "torch": "2.15.0",
        "numpy": "2.4.6",
        "platform": "Linux",
        "commit": "0123456789abcdef",
        "dirty": False,
        "unrolling": "0.1.0",
    }
    data = {"name": "digits", "description": "8x8 <images>", "fingerprint": "f00d"}
    return Record({"seed": seed, "dtype": "float64"}, data, {"e": 1.0}, made | provenance)


def card(*runs):
    rows = Page(run_card(profile="quick", runs=runs)).text
    return rows.split("addresses of all runs")


def test_run_card_says_what_ran():
    runs = record(0), record(1, seconds=3.0, started="2020-01-02T04:00:00+00:00")
    summary, addresses = card(*runs)
    for fact in ("quick", "2 (0 computed for this page, 2 read from the store)", "0, 1", "f00d", "cpu"):
        assert fact in summary
    assert "5.0 s in all; 3.0 s for the newest run, begun 2020-01-02 04:00 UTC" in summary
    assert "0123456789ab" in summary
    assert "uncommitted" not in summary
    assert addresses == runs[0].address + runs[1].address


def test_a_matrix_has_several_seeds():
    matrix = replace(record(), config={"seeds": [4, 5, 6], "dtype": "float64"})
    assert "4, 5, 6" in card(matrix)[0]
    assert "1 run on digits, seeds 4, 5, 6" in drawn(runs=[matrix]).text
    assert "2 runs on digits, seeds 0, 1" in drawn(runs=[record(0), record(1)]).text


def test_run_card_lists_mixed_values():
    summary, _ = card(record(0), record(1, device="cuda (H200)", commit="fedcba9876543210", dirty=True))
    assert "cpu, cuda (H200)" in summary
    assert "0123456789ab, fedcba987654 with uncommitted changes" in summary


def test_run_card_says_how_float32_was_multiplied():
    rounded = replace(record(1), config={"seed": 1, "dtype": "float32", "products": "tf32"})
    assert "Precisionfloat64Productsieee" in card(record(0))[0]
    assert "Precisionfloat64, float32Productsieee, tf32" in card(record(0), rounded)[0]


def test_run_card_tells_new_runs_from_stored_ones():
    summary, _ = card(record(0), record(1, started=datetime.now(UTC).isoformat()))
    assert "2 (1 computed for this page, 1 read from the store)" in summary


def test_run_card_escapes_what_runs_say():
    shown = run_card(profile="<script>", runs=[record()], title="a & b")
    assert "<script>" not in shown.data
    assert "8x8 &lt;images&gt;" in shown.data
    assert "a &amp; b" in shown.data


def test_run_card_of_a_page_without_runs_names_versions_only():
    (text,) = card()
    assert "none in the store" in text
    assert "unrolling 0.1.0" in text
    assert "Seeds" not in text


def test_run_card_of_a_page_without_runs_shows_what_it_computed_itself():
    text = Page(run_card(profile="quick", computed={"Seeds": 7})).text
    assert "Seeds7" in text


def test_reported_sets_printed_beside_ours_with_interval_and_reason():
    shown = reported(
        [
            {"γ": 1, "printed": 101.79, "ours": interval([98.0, 98.5, 98.1])},
            {"γ": 5, "printed": Missing("not in <Table 3>"), "ours": (-2.0, math.nan, math.nan)},
        ]
    )
    html = Page(shown)
    assert html.text == "γprintedours1101.898.20 [97.54, 98.86]5– (not in <Table 3>)−2.000"
    assert [cell["class"] for cell in html.all("td")] == ["number"] * 4 + ["missing", "number"]
    assert html.all("table") == [{"class": "reported"}]


def test_reported_refuses_a_number_that_is_none():
    with pytest.raises(InputError, match="Say why it has none: Missing"):
        reported([{"ours": math.nan}])


def test_reported_refuses_rows_with_different_columns():
    with pytest.raises(InputError, match="same columns"):
        reported([{"a": 1}, {"b": 1}])


def test_interval_text_reads_in_a_sentence_and_leaves_out_what_one_seed_cannot_say():
    assert interval_text((0.5, -0.25, 1.25), 2) == "0.50 [−0.25, 1.2]"
    assert interval_text(interval([3.0]), 3) == "3.00"


# The ledger


def entries():
    finding = Finding(
        propositions={"lowest": True, "high<est": False, "last": None},
        value=0.5,
        value_is="share & part",
        interval=(0.25, 0.75),
        reason="Half <of> it.",
    )
    return [
        Entry(find_claim("T12"), "partly", finding.reason, finding, "any", (), "03_unrolling_sgd"),
        Entry(find_claim("T08"), "not yet run", "No check."),
        Entry(
            find_claim("E01"), "not yet run", "Not here.", finding, "small", ("0a", "0b"), "06_training", 1
        ),
    ]


def test_ledger_has_a_row_per_claim_with_what_the_filters_need():
    shown = Page(ledger(entries()))
    rows = [row for row in shown.all("tr") if "data-kind" in row]
    assert [list(row.values()) for row in rows] == [
        ["§5", "theorem", "partly"],
        ["App. A", "theorem", "not yet run"],
        ["§8", "trend", "not yet run"],
    ]
    options = {row["value"] for row in shown.all("option")}
    assert {"§5", "§8", "App. A", "", *KINDS, *VERDICTS} == options
    assert [select["name"] for select in shown.all("select")] == ["chapter", "kind", "verdict"]
    assert "3 claims: 1 partly, 2 not yet run" in shown.text
    assert "Half <of> it." in shown.text
    assert "share & part: 0.500 [0.250, 0.750]; lowest: yes; high<est: no; last: open" in shown.text
    assert "2 runs of the small profile, 1 seed" in shown.text


def test_the_digits_of_a_rounding_error_are_not_shown():
    exact = Finding(propositions={"exact": True}, value=1.57e-15, value_is="error", reason="It is.")
    entry = Entry(find_claim("T11"), exact.verdict, exact.reason, exact, "any", (), "03_unrolling_sgd")
    assert "error: less than 1e-12" in Page(ledger([entry])).text


def test_ledger_gives_back_its_rows_as_json_and_csv():
    links = {link["download"]: link["href"] for link in Page(ledger(entries())).all("a")}
    rows = json.loads(unquote(links["claims.json"].split(",", 1)[1]))
    assert rows == json.loads(json.dumps([entry.to_dict() for entry in entries()]))
    table = pd.read_csv(io.StringIO(unquote(links["claims.csv"].split(",", 1)[1])))
    assert table["verdict"].tolist() == [row["verdict"] for row in rows]
    assert table["value"].tolist()[::2] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("plain", "shown"),
    [
        ("eta^2 ||w_t - w_0||", "η<sup>2</sup> ‖w<sub>t</sub> - w<sub>0</sub>‖"),
        ("((n-1)!)^m and 2^(1/p) ||f||_inf^(1-1/p)", "((n-1)!)<sup>m</sup> and 2<sup>1/p</sup> "
         "‖f‖<sub>∞</sub><sup>1-1/p</sup>"),
        ("sigma_avg >= 0.5, 10^-399 <= L", "σ<sub>avg</sub> ≥ 0.5, 10<sup>-399</sup> ≤ L"),
        ("beta of sd_loss, theta <b>", "beta of sd_loss, theta &lt;b&gt;"),
    ],
)  # fmt: skip
def test_formulas_of_the_ledger_are_typeset(plain, shown):
    assert _typeset(plain) == shown


def test_numbers_are_glued_by_name_and_not_shown():
    InteractiveShell.instance()
    with capture_output() as captured:
        glue_all("text", {"share": np.float64(0.25), "count": np.int64(3), "said": "0.2 [0.1, 0.3]"})
    found = {}
    for output in captured.outputs:
        (kind,) = output.data  # none that a page shows
        assert kind == "application/papermill.record/text/plain"
        found[output.metadata["scrapbook"]["name"]] = output.data[kind]
    assert found == {"text-share": "0.25", "text-count": "3", "text-said": "'0.2 [0.1, 0.3]'"}
