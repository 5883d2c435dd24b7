"""The runs of the page that is running: computed where its parameters say, and told of in its log."""

import io
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from unrolling.runs.collect import choose_device, obtain
from unrolling.runs.config import RunConfig, config_from
from unrolling.runs.profiles import Experiment, Scalar
from unrolling.runs.provenance import describe_device
from unrolling.runs.summary import run_name, run_summary
from unrolling.store import Record

#: Runs that are computed at once, by the kind of device: one has a card for itself.
_AT_ONCE = {"cpu": 2, "cuda": 1}


def run_settings(experiment: Experiment, names: Mapping[str, Any]) -> dict[str, Scalar]:
    """Return what the page's parameters say of an experiment's runs, for :meth:`Experiment.configs`.

    Args:
        experiment: The page's.
        names: The notebook's ``globals()``.
    """
    return {name: names[name] for name in experiment.parameters}


def obtain_for_page(configs: Sequence[RunConfig], device: str) -> list[Record]:
    """Return the records of these runs: from the store if they are there, computed and stored if not.

    What is computed is told in the log of the notebook's kernel, which is that of papermill: how many runs,
    where, and a line for each that is finished. The page itself is the same, computed or stored.

    Args:
        configs: The runs.
        device: See :func:`unrolling.runs.collect.choose_device`.
    """
    devices = {choose_device(device, config) for config in {c.dtype: c for c in configs}.values()}
    at_once = min((_AT_ONCE[chosen.type] for chosen in devices), default=1)
    waiting: list[RunConfig] = []

    def running() -> str:
        return ", ".join(run_name(vars(config)) for config in waiting[:at_once])

    def begin(missing: Sequence[RunConfig]) -> None:
        waiting.extend(missing)
        where = ", ".join(sorted(map(describe_device, devices)))
        how = ", ".join(sorted({config.dtype for config in missing}))
        some = f"{len(missing)} of {len(set(configs))} runs"
        # papermill leaves the line of its bar open
        _log(f"\n{some} to compute on {where} in {how}; running: {running()}")

    def report(done: int, total: int, record: Record) -> None:
        waiting.remove(config_from(record.config))
        rest = f"; running: {running()}" if waiting else ""
        _log(f"[{done}/{total}] {run_summary(record)}{rest}")

    return obtain(configs, device=device, jobs=at_once, begin=begin, report=report)


def _log(text: str) -> None:
    """Write a line where the kernel's own messages go; what is printed would be an output of the cell."""
    try:
        log = sys.stderr.fileno()  # a kernel's answers with the stream that it was started with
    except io.UnsupportedOperation:
        log = 2
    os.write(log, f"{text}\n".encode())
