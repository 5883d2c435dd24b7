"""What the paper reports: its tables and correlations, as printed."""

from unrolling.paper.tables import REPORTED, reported_table

__all__ = ["REPORTED", "reported_table"]
