"""What ran for a page, from the runs themselves."""

import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from IPython.display import HTML

from unrolling.runs.config import RunConfig
from unrolling.runs.provenance import commit, versions
from unrolling.store import Record

_LOADED = datetime.now(UTC)  # a run that began later was computed for this page


def distinct(values: Iterable[object]) -> str:
    """Return the different values in order of appearance: mixed ones are listed, not hidden."""
    return ", ".join(dict.fromkeys(str(value) for value in values if value is not None)) or "not recorded"


def all_seeds(runs: Iterable[Record]) -> str:
    """Return the different seeds of some runs; a matrix of the taxonomy has several."""
    return distinct(seed for run in runs for seed in run.config.get("seeds", [run.config.get("seed")]))


def _versions(provenances: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    def named(provenance: Mapping[str, Any]) -> str | None:
        name = provenance.get("commit")
        return name and name[:12] + (" with uncommitted changes" if provenance.get("dirty") else "")

    found = {
        name: distinct(provenance.get(key) for provenance in provenances)
        for name, key in (
            ("unrolling", "unrolling"),
            ("Python", "python"),
            ("torch", "torch"),
            ("numpy", "numpy"),
        )
    }
    return {
        "Versions": "; ".join(f"{name} {version}" for name, version in found.items()),
        "Platform": distinct(provenance.get("platform") for provenance in provenances),
        "Commit": distinct(map(named, provenances)),
    }


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _run_rows(runs: Sequence[Record]) -> dict[str, str]:
    provenances = [run.provenance for run in runs]
    started = [datetime.fromisoformat(provenance["started"]) for provenance in provenances]
    fresh = sum(start >= _LOADED for start in started)
    newest = max(range(len(runs)), key=started.__getitem__)
    data = [run.data for run in runs]
    return {
        "Runs": f"{len(runs)} ({fresh} computed for this page, {len(runs) - fresh} read from the store)",
        "Seeds": all_seeds(runs),
        "Data": distinct(f"{d['name']}: {d['description']} (fingerprint {d['fingerprint']})" for d in data),
        "Device": distinct(provenance["device"] for provenance in provenances),
        "Precision": distinct(run.config["dtype"] for run in runs),
        "Products": distinct(run.config.get("products", RunConfig.products) for run in runs),
        "Threads": distinct(provenance["threads"] for provenance in provenances),
        "Duration": f"{_seconds(sum(provenance['seconds'] for provenance in provenances))} in all; "
        f"{_seconds(provenances[newest]['seconds'])} for the newest run, "
        f"begun {started[newest].astimezone(UTC):%Y-%m-%d %H:%M} UTC",
    }


def run_card(
    *,
    profile: str,
    runs: Sequence[Record] = (),
    computed: Mapping[str, object] | None = None,
    title: str = "How these numbers were made",
) -> HTML:
    """Say what ran for this page, from the runs themselves.

    Args:
        profile: The profile's name.
        runs: Records of the store.
        computed: For a page without runs: facts about what it computed itself, such as its seed.
        title: The card's heading; it is folded below it.
    """
    rows = {"Profile": profile}
    if runs:
        rows |= _run_rows(runs) | _versions([run.provenance for run in runs])
    else:
        rows |= {"Runs": "none in the store: the page computed what it shows"}
        rows |= {name: str(fact) for name, fact in (computed or {}).items()}
        rows |= {"Duration": f"{_seconds((datetime.now(UTC) - _LOADED).total_seconds())} up to here"}
        rows |= _versions([{"platform": platform.system(), **versions(), **commit()}])
    body = "".join(f'<tr><th scope="row">{escape(k)}</th><td>{escape(v)}</td></tr>' for k, v in rows.items())
    addresses = "".join(f"<li><code>{escape(str(run.address))}</code></li>" for run in runs)
    listing = (
        f"<details><summary>addresses of all runs</summary><ul>{addresses}</ul></details>" if runs else ""
    )
    return HTML(
        f'<details class="run-card"><summary>{escape(title)}</summary>'
        f"<table>{body}</table>{listing}</details>"
    )
