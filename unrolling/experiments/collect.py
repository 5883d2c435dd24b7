"""Ask for runs and get them: from the store if they are there, computed and stored if not."""

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from unrolling._checks import DataError, InputError, check_integer
from unrolling.checkpoint import Checkpoint
from unrolling.data import Dataset
from unrolling.experiments.config import RunConfig, config_from
from unrolling.experiments.encoder import encoder_of, obtain_encoder, starts_from_encoder
from unrolling.experiments.inputs import data_fingerprint, data_settings, load_data
from unrolling.experiments.profiles import PROFILES
from unrolling.experiments.provenance import provenance
from unrolling.experiments.run import Progress, execute
from unrolling.experiments.stored import must_be_computed, stored_fingerprints
from unrolling.store import Record, Store, make_address

#: The project's folder if the package is installed from it, else the folder one works in.
_SOURCE = Path(__file__).resolve().parents[2]
PROJECT = _SOURCE if (_SOURCE / "pyproject.toml").exists() else Path.cwd()


def default_store() -> Store:
    """Return the store that runs are written to: ``UNROLLING_STORE``, else ``runs/`` in the project."""
    return Store(os.environ.get("UNROLLING_STORE") or PROJECT / "runs")


def published_store(profile: str) -> Store:
    """Return the committed results of a profile."""
    return Store(PROJECT / "results" / profile)


def choose_device(device: str, config: RunConfig) -> torch.device:
    """Return the device to run on.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. ``auto`` takes a GPU for float32 runs where there
            is one, and the CPU for float64 runs, whose bits are the same on every CPU thread count.
        config: The run.
    """
    if device == "auto":
        return torch.device("cuda" if config.dtype == "float32" and torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"unknown device {device!r}: expected auto, cpu, cuda or cuda:N.") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"device {device!r} asked for, but PyTorch sees no CUDA device here. Use cpu or auto."
        )
    return chosen


def compute(
    config: RunConfig,
    store: Store,
    *,
    dataset: Dataset | None = None,
    device: str = "auto",
    graphs: bool = False,
    progress: Progress | None = None,
) -> Record:
    """Compute one run and store it. An interrupted run goes on from its checkpoint.

    Args:
        config: The run.
        store: Where the record, and the checkpoint while the run lasts, are kept.
        dataset: The run's data if it is loaded already.
        device: See :func:`choose_device`.
        graphs: Take the steps in CUDA graphs, see :class:`unrolling.cuda_graph.GraphStepper`.
        progress: Called with (steps done, steps in all).
    """
    chosen = choose_device(device, config)
    dataset = load_data(config, store) if dataset is None else dataset
    store.check_writable()
    encoder = obtain_encoder(encoder_of(config), store) if starts_from_encoder(config) else None
    checkpoint = Checkpoint(
        store.root / "unfinished" / f"{make_address(config.to_dict(), dataset.fingerprint)}.pt"
    )
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    result = execute(
        config,
        dataset,
        device=chosen,
        checkpoint=checkpoint,
        progress=progress,
        encoder=encoder,
        graphs=graphs,
    )
    if encoder:
        result["encoder"] = {"address": encoder.address, "weights": encoder.digest}
    record = Record(
        config=config.to_dict(),
        data={"name": dataset.name, "description": dataset.description, "fingerprint": dataset.fingerprint},
        result=result,
        provenance=provenance(chosen, started, time.perf_counter() - clock, graphs),
    )
    store.put(record)
    checkpoint.remove()
    return record


def obtain(
    configs: Sequence[RunConfig],
    *,
    store: Store | None = None,
    device: str = "auto",
    graphs: bool = False,
    jobs: int = 1,
    report: Callable[[int, int, Record], None] | None = None,
    progress: Progress | None = None,
) -> list[Record]:
    """Return the records of these runs, in their order; those not stored yet are computed.

    Stored runs are found without the data or the pretrained weights that made them, by their settings. Where
    these are here, runs of other versions of them are not taken.

    Args:
        configs: The runs.
        store: Where to look and to write. If not given, runs are written to :func:`default_store` and looked
            for there and among the committed results.
        device: See :func:`choose_device`.
        graphs: Take the steps in CUDA graphs, see :class:`unrolling.cuda_graph.GraphStepper`.
        jobs: Processes that compute at once.
        report: Called with (runs done, runs to compute, the newest record) as they come.
        progress: Called with (steps done, steps in all) within a run, where one process computes.

    Raises:
        DataError: If a run must be computed whose data or pretrained weights are not here.
    """
    check_integer("jobs", jobs, minimum=1)
    places = [store] if store else [default_store(), *map(published_store, PROFILES)]
    addresses, absent = _find_addresses(configs, places)
    records = {address: _look_up(address, places) for address in addresses}
    missing = {a: c for a, c in zip(addresses, configs, strict=True) if records[a] is None}
    for config in missing.values():
        if reason := absent.get(data_settings(config)):
            raise must_be_computed(len(missing), len(records), "runs", reason)
    made = _compute_all(list(missing.values()), places[0], jobs, progress, device=device, graphs=graphs)
    for done, record in enumerate(made, 1):
        records[record.address] = record
        if report:
            report(done, len(missing), record)
    return [record for address in addresses if (record := records[address])]


def _find_addresses(
    configs: Sequence[RunConfig], places: Sequence[Store]
) -> tuple[list[str], dict[tuple[Any, ...], DataError]]:
    """Return the runs' addresses, and why data cannot be loaded, by what decides them.

    The address of a run whose data are not here is that of the stored run with these settings.
    """
    fingerprints: dict[Any, str] = {}
    absent: dict[Any, DataError] = {}
    for config in configs:
        key = data_settings(config)
        if key not in fingerprints and key not in absent:
            try:
                fingerprints[key] = data_fingerprint(config)
            except DataError as error:
                absent[key] = error
    fingerprints |= stored_fingerprints(absent, lambda own: data_settings(config_from(own)), places)
    keys = map(data_settings, configs)
    return [
        make_address(config.to_dict(), fingerprints.get(key, "not here"))
        for config, key in zip(configs, keys, strict=True)
    ], absent


def _look_up(address: str, places: Sequence[Store]) -> Record | None:
    return next((place.get(address) for place in places if address in place), None)


def _compute_all(
    configs: list[RunConfig], store: Store, jobs: int, progress: Progress | None, **how: Any
) -> Iterator[Record]:
    if jobs == 1 or len(configs) < 2:
        dataset, loaded = None, None
        for config in configs:
            wanted = data_settings(config)
            if wanted != loaded:
                dataset, loaded = load_data(config, store), wanted
            yield compute(config, store, dataset=dataset, progress=progress, **how)
        return
    # What many runs share is made once, before they start.
    for config in {data_settings(config): config for config in configs if config.features}.values():
        load_data(config, store)
    for encoder in dict.fromkeys(encoder_of(config) for config in configs if starts_from_encoder(config)):
        obtain_encoder(encoder, store)
    # Spawned, not forked: a forked process inherits PyTorch's thread pools in an unknown state.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        futures = [pool.submit(compute, config, store, **how) for config in configs]
        for future in as_completed(futures):
            yield future.result()


def _one_thread() -> None:
    torch.set_num_threads(1)


def by_config(records: Iterable[Record]) -> dict[RunConfig, Record]:
    """Return runs by their settings; of two with equal settings, the later one."""
    return {config_from(record.config): record for record in records}


def published(configs: Iterable[RunConfig], profile: str) -> list[Record]:
    """Return those of these runs that are among the committed results of a profile; nothing is computed."""
    found = by_config(published_store(profile))
    return [found[config] for config in configs if config in found]


def _settings(record: Record) -> dict[str, Any]:
    return dataclasses.asdict(config_from(record.config))


def trace_frame(records: Iterable[Record]) -> pd.DataFrame:
    """Return the runs' traces in long form: a row per recorded step, with the run's settings beside it."""
    frames = [
        pd.DataFrame(record.result["trace"]).assign(**_settings(record), address=record.address)
        for record in records
    ]
    return pd.concat(frames, ignore_index=True)


def final_frame(records: Iterable[Record]) -> pd.DataFrame:
    """Return one row per run: the last recorded step, the scalars of its result, and its settings."""
    rows = []
    for record in records:
        last = {name: values[-1] for name, values in record.result["trace"].items()}
        scalars = {name: value for name, value in record.result.items() if not isinstance(value, dict)}
        rows.append({**scalars, **last, **_settings(record), "address": record.address})
    return pd.DataFrame(rows)
