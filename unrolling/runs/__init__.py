"""Runs: what one is, how it is made, where it is kept, and its numbers as tables."""

from unrolling.runs.collect import choose_device, default_store, obtain, published, published_store
from unrolling.runs.config import RunConfig, config_from, setting_docs
from unrolling.runs.frames import after_epochs, final_frame, settings_of, trace_frame
from unrolling.runs.profiles import PROFILES, load_profile, notebook_parameters

__all__ = [
    "PROFILES",
    "RunConfig",
    "after_epochs",
    "choose_device",
    "config_from",
    "default_store",
    "final_frame",
    "load_profile",
    "notebook_parameters",
    "obtain",
    "published",
    "published_store",
    "setting_docs",
    "settings_of",
    "trace_frame",
]
