"""Run one notebook through papermill in its own process, and say how it went."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import nbformat
import yaml

from workflow import leashed
from workflow.acceptance import reasons_to_reject
from workflow.parameters import Scalar
from workflow.staging import Layout, kernel_environment, machine_paths

LOG_LINES = 25


@dataclass(frozen=True)
class Outcome:
    """How a notebook's run ended.

    Attributes:
        seconds: Wall time, kernel start included.
        peak_mb: Largest resident memory of papermill or the kernel, in MB.
        reasons: Why the copy was not accepted; empty for a whole run.
    """

    seconds: float
    peak_mb: int
    reasons: tuple[str, ...]


def run_script(
    command: list[str],
    log: Path,
    *,
    cwd: Path,
    environment: Mapping[str, str],
    timeout: float,
    stop: Callable[[], bool],
) -> tuple[int, int, str | None]:
    """Run a script of this environment with its streams in ``log``.

    It is killed with its children at ``timeout``, at ``stop()``, and when this process ends, however it does.

    Args:
        command: The script's name and its arguments.
        log: Written anew.
        cwd: Where it runs.
        environment: What it sees.
        timeout: Seconds.
        stop: Asked whether to stop.

    Returns:
        Exit code, peak resident memory in MB of the process or a child it waited for, and why it was killed.
    """
    killed = None
    deadline = time.monotonic() + timeout
    script, *arguments = command
    python = [sys.executable, "-P", leashed.__file__, str(Path(sys.executable).with_name(script))]
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            [*python, *arguments],
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=stream,
            cwd=cwd,
            env=dict(environment),
        )
        with process.stdin:  # closed: its end, see workflow/leashed.py
            while True:
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    break
                if killed is None and (stop() or time.monotonic() > deadline):
                    killed = "the build was stopped" if stop() else f"took longer than {timeout:g} s"
                    leashed.kill_tree(process.pid)
                time.sleep(0.05)
    process.returncode = os.waitstatus_to_exitcode(status)  # Popen must not wait again
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return process.returncode, usage.ru_maxrss // unit, killed


def end_of_log(log: Path) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:])


def run_notebook(
    layout: Layout,
    slug: str,
    parameters: Mapping[str, Scalar],
    *,
    timeout: float,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Execute a notebook; its copy appears in ``executed/`` only if the run is whole, else in ``failed/``."""
    source, log = layout.source(slug), layout.log(slug)
    partial = layout.work / "running" / f"{slug}.ipynb"
    given = partial.with_suffix(".yml")
    for path in (partial, log, layout.executed(slug), layout.failed(slug)):
        path.parent.mkdir(parents=True, exist_ok=True)
    for stale in (partial, layout.executed(slug), layout.failed(slug)):
        stale.unlink(missing_ok=True)
    given.write_text(yaml.safe_dump(dict(parameters)), encoding="utf-8")

    # Paths are relative to the root, since papermill formats them with the parameters.
    here = [str(path.relative_to(layout.root)) for path in (given, source, partial)]
    command = ["papermill", "--no-progress-bar", "--log-output"]
    command += [
        "--kernel",
        "python3",
        "--language",
        "python",
        "--start-timeout",
        "300",
        "--cwd",
        "notebooks",
        "--parameters_file",
        *here,
    ]
    start = time.monotonic()
    code, peak_mb, killed = run_script(
        command,
        log,
        cwd=layout.root,
        environment=kernel_environment(layout.root),
        timeout=timeout,
        stop=stop,
    )
    seconds = time.monotonic() - start

    if killed or code:
        reasons = [killed or f"papermill ended with exit code {code}"]
    else:
        reasons = reasons_to_reject(
            nbformat.read(source, as_version=4),
            nbformat.read(partial, as_version=4),
            parameters,
            machine_paths(layout.root),
        )
    if not reasons:
        os.replace(partial, layout.executed(slug))
    elif partial.exists():
        shutil.move(partial, layout.failed(slug))
    return Outcome(seconds, peak_mb, tuple(reasons))
