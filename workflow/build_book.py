"""Run the notebooks with a profile's parameters and render the book.

A notebook is run again only if something it depends on changed: its source, its parameters, the files of the
package and the committed results that it reaches by imports, its data sets or the locked environment. The
book is rendered again only if a page, an executed notebook or the configuration changed. If anything fails,
the last good book stays as it is. One builder at a time is at work on a profile.
"""

import argparse
import fcntl
import json
import math
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import nbformat

from workflow.due import LOCK, Inputs, file_digest, why_due
from workflow.hosting import repository_address
from workflow.imports import PACKAGE, Imports
from workflow.parameters import ParameterError, Scalar, choose_parameters, notebook_defaults
from workflow.runner import Outcome, end_of_log, run_notebook, run_script
from workflow.staging import Layout, book_notebooks, hash_files, kernel_environment, lay_out

ROOT = Path(__file__).resolve().parent.parent
HEARTBEAT = 20.0  # seconds without a line after which we say what is still running


class BuildError(Exception):
    """The book was not built; the message says why."""


def say(text: str) -> None:
    """Print a line at once, also into a pipe."""
    print(text, flush=True)


def profile_parameters(profile: str, device: str | None = None) -> dict[str, dict[str, Scalar]]:
    """Return what the profile asks of each notebook: here, and below, the builder meets the package.

    Args:
        profile: Its name.
        device: Where the notebooks that compute runs do so, if not where the profile says.

    Raises:
        ValueError: If there is no such profile, or no such device here.
    """
    from unrolling.runs import RunConfig, choose_device, notebook_parameters

    asked = notebook_parameters(profile)
    if device is None:
        return asked
    choose_device(device, RunConfig())
    return {slug: given | {"device": device} if "device" in given else given for slug, given in asked.items()}


def profile_data(profile: str, root: Path) -> dict[str, dict[str, Path | None]]:
    """Return where the files are that the profile's notebooks read from the data root, by slug and name.

    Args:
        profile: Its name.
        root: The repository, to which a relative ``UNROLLING_DATA`` belongs.
    """
    from unrolling.data import DATASETS, find_datasets
    from unrolling.runs import load_profile, notebook_parameters

    used = {slug: {given.get("dataset")} for slug, given in notebook_parameters(profile).items()}
    for experiment in load_profile(profile).experiments.values():
        grids = (grid.get("dataset", ()) for grid in experiment.parts.values())
        used[experiment.notebook].update({experiment.fixed.get("dataset")}, *grids)
    where = {
        found.name: Path(found.where) if found.available else None
        for found in find_datasets(kernel_environment(root).get("UNROLLING_DATA"))
        if not DATASETS[found.name].embedded
    }
    return {slug: {name: where[name] for name in names & where.keys()} for slug, names in used.items()}


def _read_manifest(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}  # nothing is known to be up to date


def _write_manifest(path: Path, manifest: Mapping) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    os.replace(partial, path)


@contextmanager
def _alone(layout: Layout) -> Iterator[None]:
    """Hold this profile's lock, which the system takes back from a process that ends, however it does.

    Raises:
        BuildError: If another builder has it.
    """
    layout.work.mkdir(parents=True, exist_ok=True)
    with (layout.work / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise BuildError(
                f"process {lock.read()} is building this book ({layout.profile}): wait for it, or end it."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def run_notebooks(
    layout: Layout,
    parameters: Mapping[str, Mapping[str, Scalar]],
    data: Mapping[str, Mapping[str, Path | None]],
    *,
    jobs: int,
    timeout: float,
) -> dict[str, dict]:
    """Bring every notebook's executed copy up to date; return the manifest's entries.

    Args:
        layout: Where everything is.
        parameters: Of each notebook.
        data: Where the data sets of each notebook are, see :func:`profile_data`.
        jobs: Notebooks at a time.
        timeout: Seconds a notebook may take.

    Raises:
        BuildError: If any notebook failed; the others are finished and kept.
    """
    manifest = _read_manifest(layout.manifest)
    entries: dict[str, dict] = manifest.get("notebooks", {})
    imports, made_from = Imports(layout.root), Inputs(layout.root)
    inputs, due = {}, {}
    for slug, given in parameters.items():
        source, entry = layout.source(slug), entries.get(slug, {})
        inputs[slug] = made_from.of(source, given, imports.of_notebook(source), data.get(slug, {}))
        due[slug] = why_due(entry.get("inputs"), inputs[slug])
        if not due[slug] and entry["executed"] != file_digest(layout.executed(slug)):
            due[slug] = "its executed copy is gone or was changed"
        if not due[slug]:
            say(f"  {slug:32} up to date ({entry['seconds']:.0f} s when it ran)")
    due = {slug: why for slug, why in due.items() if why}

    stopped = threading.Event()
    started: dict[str, float] = {}
    finished: dict[str, Outcome] = {}

    def run(slug: str) -> None:
        started[slug] = time.monotonic()
        say(f"  {slug:32} started: {due[slug]}")
        outcome = run_notebook(layout, slug, parameters[slug], timeout=timeout, stop=stopped.is_set)
        finished[slug] = outcome
        verdict = "done" if not outcome.reasons else "stopped" if stopped.is_set() else "FAILED"
        rest = f"; {len(due) - len(finished)} to go" if len(finished) < len(due) else ""
        say(f"  {slug:32} {verdict} in {outcome.seconds:.1f} s, peak {outcome.peak_mb} MB{rest}")

    def still_running() -> str:
        now = time.monotonic()
        return ", ".join(
            f"{slug} for {now - began:.0f} s" for slug, began in started.items() if slug not in finished
        )

    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(run, slug): slug for slug in due}
        waiting = set(futures)
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=HEARTBEAT, return_when=FIRST_COMPLETED)
                if not done:
                    say(f"  running: {still_running()}")
                for future in done:
                    future.result()
                    slug = futures[future]
                    entries.pop(slug, None)
                    if not finished[slug].reasons:
                        entries[slug] = {
                            "inputs": inputs[slug],
                            "executed": file_digest(layout.executed(slug)),
                            "parameters": dict(parameters[slug]),
                            "seconds": round(finished[slug].seconds, 1),
                            "peak_mb": finished[slug].peak_mb,
                        }
                    # Written after each notebook, so that an interrupted build resumes where it was.
                    _write_manifest(layout.manifest, {**manifest, "notebooks": entries})
        except BaseException:
            stopped.set()  # the threads kill their notebooks; the pool's exit waits for them
            pool.shutdown(cancel_futures=True)
            raise

    failed = {slug: outcome for slug, outcome in finished.items() if outcome.reasons}
    for slug, outcome in failed.items():
        log = layout.log(slug).relative_to(layout.root)
        say(f"\n--- {slug}: {'; '.join(outcome.reasons)}. The end of {log}:\n{end_of_log(layout.log(slug))}")
        if layout.failed(slug).exists():
            say(f"--- as far as it got: {layout.failed(slug).relative_to(layout.root)}")
    if failed:
        raise BuildError(f"{len(failed)} of {len(parameters)} notebooks failed: {', '.join(failed)}.")
    return {slug: entries[slug] for slug in parameters}


def render(layout: Layout, slugs: list[str], repository: str | None) -> bool:
    """Render the stage and put the book in its place; return whether there was anything to do.

    The rendering is from scratch, because an incremental one would not repeat the warnings of unchanged
    pages, and warnings are errors here.
    """
    lay_out(layout, slugs, repository)
    # the package, because its docstrings are the page of the public names
    sources = [layout.stage, layout.root / PACKAGE, layout.root / LOCK]
    inputs = hash_files(layout.root, sources)
    manifest = _read_manifest(layout.manifest)
    if manifest.get("rendered") == inputs and (layout.html / "index.html").exists():
        return False

    output, log = layout.work / "render", layout.log("render")
    shutil.rmtree(output, ignore_errors=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    options = ["-n", "-W", "--keep-going", "-q", "--path-output", str(output)]
    code, _, _ = run_script(
        ["jupyter-book", "build", *options, str(layout.stage)],
        log,
        cwd=layout.root,
        environment=os.environ,
        timeout=math.inf,
        stop=lambda: False,
    )
    if code:
        say(f"\n--- the end of {log.relative_to(layout.root)}:\n{end_of_log(log)}")
        raise BuildError("jupyter-book failed or warned; warnings are errors. The last good book is kept.")

    old = layout.work / "replaced"
    shutil.rmtree(old, ignore_errors=True)
    if layout.html.exists():
        os.replace(layout.html, old)
    os.replace(output / "_build" / "html", layout.html)
    for leftover in (old, output):
        shutil.rmtree(leftover, ignore_errors=True)
    _write_manifest(layout.manifest, {**manifest, "rendered": inputs})
    return True


def build(
    root: Path,
    profile: str,
    of_profile: Mapping[str, Mapping[str, Scalar]],
    data: Mapping[str, Mapping[str, Path | None]] | None = None,
    *,
    jobs: int = 2,
    timeout: float = 1800,
) -> Path:
    """Build the book below ``root`` and return its folder.

    Args:
        root: A repository: ``_toc.yml``, ``_config.yml``, ``book/`` and ``notebooks/``.
        profile: Name of the profile; it names the folders of the build.
        of_profile: The profile's parameters for each notebook, by slug.
        data: Where the data sets of each notebook are, by slug; None for one that is not here.
        jobs: Notebooks at a time.
        timeout: Seconds a notebook may take.

    Raises:
        BuildError: If a notebook or the rendering failed, or another builder is at work; an earlier book is
            left alone.
        ValueError: If what names the repository is no address.
    """
    layout, repository = Layout(root, profile), repository_address(os.environ)
    try:
        slugs = book_notebooks(root)
    except FileNotFoundError as error:
        raise BuildError(str(error)) from None
    if unknown := sorted(set(of_profile) - set(slugs)):
        raise BuildError(f"profile {profile!r} has parameters for no such notebook: {', '.join(unknown)}.")
    parameters = {}
    for slug in slugs:
        try:
            defaults = notebook_defaults(nbformat.read(layout.source(slug), as_version=4))
            parameters[slug] = choose_parameters(slug, defaults, profile, of_profile)
        except ParameterError as error:
            raise BuildError(f"notebooks/{slug}.ipynb, profile {profile!r}: {error}") from None

    start = time.monotonic()
    with _alone(layout):
        say(f"Notebooks, profile {profile}, {jobs} at a time:")
        entries = run_notebooks(layout, parameters, data or {}, jobs=jobs, timeout=timeout)
        ran = time.monotonic()
        new = render(layout, slugs, repository)
    end = time.monotonic()

    slowest = max(slugs, key=lambda slug: entries[slug]["seconds"])
    largest = max(slugs, key=lambda slug: entries[slug]["peak_mb"])
    say(
        f"Notebooks   {ran - start:6.1f} s   slowest: {slowest}, {entries[slowest]['seconds']:.1f} s; "
        f"most memory: {largest}, {entries[largest]['peak_mb']} MB"
    )
    say(f"Rendering   {end - ran:6.1f} s" if new else "Rendering   up to date")
    say(f"The book    {(layout.html / 'index.html').relative_to(root)}")
    return layout.html


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m workflow.build_book", description=__doc__)
    parser.add_argument("--profile", default="quick", help="quick (default), small or paper")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N (default: what the profile says)")
    parser.add_argument("--jobs", type=int, default=2, help="notebooks at a time (default 2)")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds a notebook may take")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository (default: this one)")
    args = parser.parse_args()
    # Being terminated is as being interrupted: the notebooks must not run on without us.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        of_profile = profile_parameters(args.profile, args.device)
        data = profile_data(args.profile, args.root.resolve())
        build(args.root.resolve(), args.profile, of_profile, data, jobs=args.jobs, timeout=args.timeout)
    except (BuildError, ValueError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; what was finished is kept")


if __name__ == "__main__":
    main()
