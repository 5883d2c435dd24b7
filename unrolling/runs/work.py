"""Work through a list of runs for as long as there is time; what was begun goes on, what is stored stays."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unrolling._checks import UnrollingError, check_real
from unrolling._files import replacing
from unrolling.runs.collect import default_store, find_addresses, obtain, published_store
from unrolling.runs.config import RunConfig
from unrolling.runs.profiles import PROFILES
from unrolling.runs.stopping import Stop, Stopped
from unrolling.store import Store


@dataclass(frozen=True)
class Outcome:
    """How far a list of runs has come.

    Attributes:
        stored: Addresses of its runs that are stored.
        failed: What the others said that cannot be computed, such as those that diverge, by address.
        left: How many are neither.
    """

    stored: tuple[str, ...]
    failed: dict[str, str]
    left: int


def work(
    configs: Sequence[RunConfig],
    *,
    store: Store | None = None,
    minutes: float | None = None,
    stop: Stop | None = None,
    **how: Any,
) -> Outcome:
    """Compute runs in their order until all are done, or the time is over, or somebody asks to stop.

    What is computing then saves itself and goes on with the next call. A run that diverges is kept as a line
    in the store's folder ``failed`` and not tried again; delete the file to do so.

    Args:
        configs: The runs, the most decisive first.
        store: Where to look and to write, as of :func:`unrolling.runs.obtain`.
        minutes: The time there is; by default there is no end to it.
        stop: Asked after every step, see :mod:`unrolling.runs.stopping`.
        how: Further arguments of :func:`unrolling.runs.obtain`: ``device``, ``graphs``, ``jobs``,
            ``report`` and ``progress``.

    Raises:
        InputError: If ``minutes`` is not a positive number.
        UnrollingError: Whatever ends all runs, such as data that are missing or a disk that is full.
    """
    until = time.monotonic() + 60 * check_real("minutes", minutes, above=0) if minutes is not None else None

    def over() -> bool:
        return bool(stop and stop()) or (until is not None and time.monotonic() >= until)

    place = store or default_store()
    places = [store] if store else [place, *map(published_store, PROFILES)]
    addresses, _ = find_addresses(configs, places)
    of_run = dict(zip(configs, addresses, strict=True))
    before = _failures(place, addresses)

    def failed(config: RunConfig, error: UnrollingError) -> None:
        _note(place, of_run[config], str(error))

    tried = [config for config, address in of_run.items() if address not in before]
    with suppress(Stopped):
        obtain(tried, store=store, stop=over, failed=failed, **how)
    failures = _failures(place, addresses)
    stored = tuple(address for address in addresses if any(address in place for place in places))
    return Outcome(stored, failures, len(addresses) - len(stored) - len(failures))


def _failures(store: Store, addresses: Sequence[str]) -> dict[str, str]:
    there = {address: _note_of(store, address) for address in addresses}
    return {address: path.read_text("utf-8").strip() for address, path in there.items() if path.is_file()}


def _note(store: Store, address: str, message: str) -> None:
    path = _note_of(store, address)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(f"{message}\n".encode())


def _note_of(store: Store, address: str) -> Path:
    return store.root / "failed" / f"{address}.txt"
