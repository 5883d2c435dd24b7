"""Interleaved timing, peak memory, and what the numbers were measured on."""

import ctypes
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("unrolling", "torch", "numpy", "scipy", "transformers", "pyhessian", "curvlinops-for-pytorch")

Times = dict[str, list[float]]


def timed(task: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Run ``task``; return what it returns with its seconds of processor time and of wall time."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    value = task()
    return value, {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


def interleaved(tasks: dict[str, Callable[[], Any]], repeats: int) -> dict[str, Times]:
    """Time the tasks in turns, so that other work on the machine slows all of them alike."""
    times: dict[str, Times] = {name: {"cpu": [], "wall": []} for name in tasks}
    names = list(tasks)
    for repeat in range(repeats):
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            for clock, seconds in timed(tasks[name])[1].items():
                times[name][clock].append(seconds)
    return times


def ratio(times: dict[str, Times], first: str, second: str) -> dict[str, Any]:
    """Return how many times as long ``first`` takes as ``second``: median over repeats, and the extremes."""
    found = {}
    for clock in ("cpu", "wall"):
        pairs = zip(times[first][clock], times[second][clock], strict=True)
        found[clock] = spread([a / b for a, b in pairs])
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median and the extremes."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def peak_memory(task: Callable[[], Any]) -> int | None:
    """Return by how many bytes ``task`` raises the process's resident memory; None where it is not known."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # memory that was freed must not be used again unseen
        Path("/proc/self/clear_refs").write_text("5")  # forget the highest mark
        before = _resident("VmRSS")
        task()
        return _resident("VmHWM") - before
    except (OSError, AttributeError):
        task()
        return None


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(field)


def versions() -> dict[str, str | None]:
    """Return the version of every package that takes part; None where one is missing."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def machine() -> dict[str, Any]:
    """Return what the numbers depend on besides the code."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor()
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "dtype": "float32",
        "versions": versions(),
    }


def write(
    name: str,
    results: dict[str, Any],
    load_before: tuple[float, ...],
    *,
    finished: bool = True,
    folder: Path | None = None,
) -> Path:
    """Write ``<name>.json`` in :data:`RESULTS` or another folder, with the machine and its load averages.

    What is not finished is written beside it, so that nothing half done is taken for a result.
    """
    load = {"before": load_before, "after": os.getloadavg()}
    folder = folder or RESULTS
    unfinished, path = folder / f"{name}.unfinished.json", folder / f"{name}.json"
    path = path if finished else unfinished
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "load_average": load, **results}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if finished:
        unfinished.unlink(missing_ok=True)
    return path


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a markdown table."""
    print(f"\n{title}\n")
    for row in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(_cell(value) for value in row) + " |", flush=True)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
