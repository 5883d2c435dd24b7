"""Ask for runs and get them: from the store if they are there, computed and stored if not."""

import dataclasses
import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch

from unrolling._checks import DataError, InputError, UnrollingError, check_integer, shown
from unrolling.data import Dataset
from unrolling.runs.checkpoint import Checkpoint
from unrolling.runs.config import RunConfig, config_from
from unrolling.runs.encoder import encoder_of, obtain_encoder, starts_from_encoder
from unrolling.runs.execute import execute
from unrolling.runs.inputs import data_fingerprint, data_settings, load_data
from unrolling.runs.limits import check_work
from unrolling.runs.profiles import PROFILES
from unrolling.runs.provenance import provenance
from unrolling.runs.stopping import Stop, Stopped, asked_to_stop, at_work, check_stop, obey, signals_held
from unrolling.runs.stored import must_be_computed, stored_fingerprints
from unrolling.runs.trainer import Progress
from unrolling.store import Record, Store, make_address
from unrolling.training import DivergedError

#: Seconds between two looks at a request to stop, where other processes compute.
_LOOK = 0.2
#: The project's folder if the package is installed from it, else the folder one works in.
_PACKAGE = Path(__file__).resolve().parents[1]
_IN_PROJECT = (_PACKAGE.parent / "pyproject.toml").exists()
PROJECT = _PACKAGE.parent if _IN_PROJECT else Path.cwd()


def default_store() -> Store:
    """Return the store that runs are written to: ``UNROLLING_STORE``, else ``runs/`` in the project."""
    return Store(os.environ.get("UNROLLING_STORE") or PROJECT / "runs")


def published_store(profile: str) -> Store:
    """Return the committed results of a profile, which an installed package has in its own folder."""
    return Store((PROJECT if _IN_PROJECT else _PACKAGE) / "results" / profile)


def choose_device(device: str, config: RunConfig) -> torch.device:
    """Return the device to run on.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. ``auto`` takes a GPU for float32 runs where there
            is one, and the CPU for float64 runs.
        config: The run.
    """
    if device == "auto":
        return torch.device("cuda" if config.dtype == "float32" and torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", str(device)):
        raise InputError(f"unknown device {shown(device)}: expected auto, cpu, cuda or cuda:N.")
    chosen = torch.device(device)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"device {device!r} asked for, but PyTorch sees no CUDA device here. Use cpu or auto."
        )
    try:
        torch.empty(1, device=chosen)
    except RuntimeError as error:  # no such number, a driver that does not fit, a device that others fill
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"device {device!r} cannot be used: {reason} Use cpu or auto.") from error
    return chosen


def compute(
    config: RunConfig,
    store: Store,
    *,
    dataset: Dataset | None = None,
    device: str = "auto",
    graphs: bool = False,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> Record:
    """Compute one run and store it. An interrupted run goes on from its checkpoint.

    Args:
        config: The run.
        store: Where the record, and the checkpoint while the run lasts, are kept.
        dataset: The run's data if it is loaded already.
        device: See :func:`choose_device`.
        graphs: Take the steps in CUDA graphs, see :class:`unrolling.runs.cuda_graph.GraphStepper`.
        progress: Called with (steps done, steps in all).
        stop: Asked after every step, see :mod:`unrolling.runs.stopping`.

    Raises:
        Stopped: If the run was asked to stop; it has saved its checkpoint.
        UnrollingError: Whatever the run raised, with its address and settings before the message.
    """
    check_stop(stop)
    chosen = choose_device(device, config)
    dataset = load_data(config, store) if dataset is None else dataset
    check_work(config, dataset, chosen)
    store.check_writable()
    encoder = obtain_encoder(encoder_of(config), store, stop) if starts_from_encoder(config) else None
    address = make_address(config.to_dict(), dataset.fingerprint)
    checkpoint = _checkpoint(store, address)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    with _named(config, address):
        result = execute(
            config,
            dataset,
            device=chosen,
            checkpoint=checkpoint,
            progress=progress,
            encoder=encoder,
            graphs=graphs,
            stop=stop,
        )
    if encoder:
        result["encoder"] = {"address": encoder.address, "weights": encoder.digest}
    record = Record(
        config=config.to_dict(),
        data={"name": dataset.name, "description": dataset.description, "fingerprint": dataset.fingerprint},
        result=result,
        provenance=provenance(chosen, started, checkpoint.seconds, graphs),
    )
    store.put(record)
    checkpoint.remove()
    return record


def _checkpoint(store: Store, address: str) -> Checkpoint:
    """Return where a run's state is while it lasts."""
    return Checkpoint(store.root / "unfinished" / f"{address}.pt")


@contextmanager
def _named(config: RunConfig, address: str) -> Iterator[None]:
    """Say of every error which run it stopped, by the address and the settings that are not the defaults."""
    default = dataclasses.asdict(RunConfig())
    own = {name: value for name, value in dataclasses.asdict(config).items() if value != default[name]}
    run = f"run {address} ({', '.join(f'{name}={value}' for name, value in own.items())})"
    try:
        yield
    except Stopped:
        raise
    except UnrollingError as error:
        raise type(error)(f"{run}: {error}") from error
    except Exception as error:
        error.add_note(f"The error stopped {run}.")
        raise


def obtain(
    configs: Sequence[RunConfig],
    *,
    store: Store | None = None,
    device: str = "auto",
    graphs: bool = False,
    jobs: int = 1,
    begin: Callable[[Sequence[RunConfig]], None] | None = None,
    report: Callable[[int, int, Record], None] | None = None,
    progress: Progress | None = None,
    stop: Stop | None = None,
    failed: Callable[[RunConfig, UnrollingError], None] | None = None,
) -> list[Record]:
    """Return the records of these runs, in their order; those not stored yet are computed.

    The first run that fails, unless there is a ``failed``, and an interrupt, end the others as well; finished
    ones are stored by then, and the others go on from their checkpoints when they are asked for again. Those
    that other processes compute save them first, as all do that are asked to ``stop``.

    Stored runs are found without the data or the pretrained weights that made them, by their settings. Where
    these are here, runs of other versions of them are not taken.

    Args:
        configs: The runs.
        store: Where to look and to write. If not given, runs are written to :func:`default_store` and looked
            for there and among the committed results.
        device: See :func:`choose_device`.
        graphs: Take the steps in CUDA graphs, see :class:`unrolling.runs.cuda_graph.GraphStepper`.
        jobs: Processes that compute at once.
        begin: Called with the runs to compute, in the order in which they start, if there are any.
        report: Called with (runs done, runs to compute, the newest record) as they come.
        progress: Called with (steps done, steps in all) within a run, where one process computes.
        stop: Asked after every step, see :mod:`unrolling.runs.stopping`.
        failed: Called with a run that diverged, or that cannot be, and with what it raised; the others go on,
            and the records are without it.

    Raises:
        Stopped: If the runs were asked to stop. It says what is stored.
        UnrollingError: What the first run that failed raised, see :func:`compute`; if a process was killed.
        DataError: If a run must be computed whose data or pretrained weights are not here.
    """
    check_integer("jobs", jobs, minimum=1)
    places = [store] if store else [default_store(), *map(published_store, PROFILES)]
    addresses, absent = find_addresses(configs, places)
    records = {address: _look_up(address, places) for address in addresses}
    missing = {a: c for a, c in zip(addresses, configs, strict=True) if records[a] is None}
    for config in missing.values():
        if reason := absent.get(data_settings(config)):
            raise must_be_computed(len(missing), len(records), "runs", reason)
    if begin and missing:
        begin(list(missing.values()))
    how: dict[str, Any] = {"device": device, "graphs": graphs, "keep_going": failed is not None}
    made = _compute_all(list(missing.values()), places[0], jobs, progress, stop, **how)
    try:
        with closing(made):  # an error in `report` ends the runs as well
            for done, outcome in enumerate(made, 1):
                if isinstance(outcome, _Failure):
                    failed(*outcome)
                    continue
                records[outcome.address] = outcome
                if report:
                    report(done, len(missing), outcome)
    except Stopped as stopped:
        raise Stopped(_what_is_there(list(records), places)) from stopped
    return [record for address in addresses if (record := records[address])]


def find_addresses(
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
    fingerprints |= stored_fingerprints(absent, _data_settings_of, places)
    keys = map(data_settings, configs)
    return [
        make_address(config.to_dict(), fingerprints.get(key, "not here"))
        for config, key in zip(configs, keys, strict=True)
    ], absent


def _data_settings_of(settings: dict[str, Any]) -> tuple[Any, ...] | None:
    try:
        return data_settings(config_from(settings))
    except InputError:  # of a version that has other settings
        return None


def _look_up(address: str, places: Sequence[Store]) -> Record | None:
    return next((place.get(address) for place in places if address in place), None)


def _what_is_there(addresses: Sequence[str], places: Sequence[Store]) -> str:
    """Say how much of these runs is kept, whichever process made it."""
    stored = sum(any(address in place for place in places) for address in addresses)
    begun = sum(_checkpoint(places[0], address).path.is_file() for address in addresses)
    return f"stopped with {stored} of {len(addresses)} runs stored, and checkpoints of {begun} more"


def _compute_all(
    configs: list[RunConfig],
    store: Store,
    jobs: int,
    progress: Progress | None,
    stop: Stop | None,
    **how: Any,
) -> Generator["Record | _Failure", None, None]:
    if jobs == 1 or len(configs) < 2:
        dataset, loaded = None, None
        for config in configs:
            check_stop(stop)
            wanted = data_settings(config)
            if wanted != loaded:
                dataset, loaded = load_data(config, store), wanted
            yield _attempt(config, store, dataset=dataset, progress=progress, stop=stop, **how)
        return
    check_stop(stop)
    # What many runs share is made once, before they start.
    for config in {data_settings(config): config for config in configs if config.features}.values():
        load_data(config, store)
    for encoder in dict.fromkeys(encoder_of(config) for config in configs if starts_from_encoder(config)):
        obtain_encoder(encoder, store, stop)
    alive, asking = Pipe(duplex=False)
    # Spawned, not forked: a forked process inherits PyTorch's thread pools in an unknown state.
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), _start_worker, (alive,))
    with alive, asking, pool:
        try:
            with signals_held():
                waiting = {pool.submit(_compute_for_parent, config, store, **how) for config in configs}
            while waiting:
                done, waiting = wait(waiting, _LOOK if stop else None, FIRST_COMPLETED)
                for future in done:
                    yield future.result()
                if waiting:
                    check_stop(stop)
        except BaseException as error:  # a failed run, a request to stop, or the end of whoever asked
            asking.close()  # the workers save their runs and end
            pool.shutdown(cancel_futures=True)
            if not isinstance(error, BrokenProcessPool):
                raise
            raise UnrollingError(
                "a process that computed runs was killed, by hand or for want of memory. Ask for fewer jobs; "
                "what is finished is stored, and the rest goes on from its checkpoints."
            ) from error


def _start_worker(asking: Connection) -> None:
    """Compute on one thread, as long as the process that asked for the runs is there and wants them."""
    torch.set_num_threads(1)
    obey(asking)


def _compute_for_parent(config: RunConfig, store: Store, **how: Any) -> "Record | _Failure":
    with at_work():
        return _attempt(config, store, stop=asked_to_stop, **how)


class _Failure(NamedTuple):
    config: RunConfig
    error: UnrollingError


def _attempt(config: RunConfig, store: Store, *, keep_going: bool, **how: Any) -> Record | _Failure:
    try:
        return compute(config, store, **how)
    except (DivergedError, InputError) as error:  # others are about the machine, and about the other runs too
        if keep_going:
            return _Failure(config, error)
        raise


def by_config(records: Iterable[Record]) -> dict[RunConfig, Record]:
    """Return runs by their settings; of two with equal settings, on other data, the one that was made last.

    Runs with settings that this version does not know are nobody's here, and left out.
    """
    found = {}
    for record in sorted(records, key=lambda record: record.provenance.get("started", "")):
        with suppress(InputError):
            found[config_from(record.config)] = record
    return found


def published(configs: Iterable[RunConfig], profile: str) -> list[Record]:
    """Return those of these runs that are among the committed results of a profile; nothing is computed."""
    found = by_config(published_store(profile))
    return [found[config] for config in configs if config in found]
