"""Runs, profiles and exhibits: what the paper's figures and tables are made from here."""

from unrolling.experiments.collect import (
    choose_device,
    default_store,
    final_frame,
    obtain,
    published,
    published_store,
    trace_frame,
)
from unrolling.experiments.config import RunConfig, config_from, setting_docs
from unrolling.experiments.exhibits import EXHIBITS, Exhibit, find_exhibit
from unrolling.experiments.ledger import claims_of_page, evaluate
from unrolling.experiments.profiles import PROFILES, load_profile, notebook_parameters

__all__ = [
    "EXHIBITS",
    "PROFILES",
    "Exhibit",
    "RunConfig",
    "choose_device",
    "claims_of_page",
    "config_from",
    "default_store",
    "evaluate",
    "final_frame",
    "find_exhibit",
    "load_profile",
    "notebook_parameters",
    "obtain",
    "published",
    "published_store",
    "setting_docs",
    "trace_frame",
]
