"""What a page of the book shows beside its text; all of it HTML, and all text put into it is escaped."""

from unrolling.intervals import Missing, interval_text
from unrolling.page.claims import claims, ledger
from unrolling.page.figures import InteractiveFigure, figure, interactive
from unrolling.page.glue import glue_all
from unrolling.page.parameters import check_parameters
from unrolling.page.run_card import run_card
from unrolling.page.runs import obtain_for_page, run_settings
from unrolling.page.tables import reported

__all__ = [
    "InteractiveFigure",
    "Missing",
    "check_parameters",
    "claims",
    "figure",
    "glue_all",
    "interactive",
    "interval_text",
    "ledger",
    "obtain_for_page",
    "reported",
    "run_card",
    "run_settings",
]
