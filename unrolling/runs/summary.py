"""A run in a line, for whoever waits for it."""

from collections.abc import Mapping
from typing import Any

from unrolling.store import Record


def run_name(settings: Mapping[str, Any]) -> str:
    """Return what tells a run from its neighbours, from its settings by name."""
    return (
        f"{settings['dataset']} {settings['model']} gamma={settings['gamma']:g} "
        f"N={settings['pretrain_epochs']} seed={settings['seed']}"
    )


def run_summary(record: Record) -> str:
    """Return a finished run's name, its e and v after the last step, and how long it took."""
    trace = record.result["trace"]
    return (
        f"{run_name(record.config)}: e={trace['e'][-1]:.4g} v={trace['v'][-1]:.4g} "
        f"in {record.provenance['seconds']:.1f} s"
    )
