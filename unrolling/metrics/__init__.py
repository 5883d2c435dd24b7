"""Metrics of unlearning, one file for each space they live in (section 3.2); README.md: how to add one."""

from unrolling.metrics.registry import METRICS, Metric, measure

__all__ = ["METRICS", "Metric", "measure"]
