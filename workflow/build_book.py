"""Run the notebooks with a profile's parameters and render the book.

A notebook is run again only if something it depends on changed: its source, its parameters, the package,
the stored results, those of the benchmarks, the locked environment or the data root. The book is rendered
again only if a page, an executed notebook or the configuration changed. If anything fails, the last good book
stays as it is.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

import nbformat

from workflow.hosting import repository_address
from workflow.parameters import ParameterError, Scalar, choose_parameters, notebook_defaults
from workflow.runner import Outcome, end_of_log, run_notebook
from workflow.staging import Layout, book_notebooks, hash_files, lay_out

ROOT = Path(__file__).resolve().parent.parent
HEARTBEAT = 20.0  # seconds without a line after which we say what is still running


class BuildError(Exception):
    """The book was not built; the message says why."""


def say(text: str) -> None:
    """Print a line at once, also into a pipe."""
    print(text, flush=True)


def profile_parameters(profile: str, device: str | None = None) -> dict[str, dict[str, Scalar]]:
    """Return what the profile asks of each notebook: the one place where the builder meets the package.

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


def _file_hash(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def _surroundings(root: Path) -> dict[str, str]:
    """What every notebook depends on besides itself."""
    names = ("unrolling", "results", "benchmarks/results", "requirements.lock")
    return {
        "files": hash_files(root, [root / name for name in names]),
        "data": os.environ.get("UNROLLING_DATA", ""),
        "python": sys.version,
    }


def _inputs(layout: Layout, slug: str, parameters: Mapping[str, Scalar], surroundings: Mapping) -> str:
    text = json.dumps([_file_hash(layout.source(slug)), dict(parameters), dict(surroundings)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def run_notebooks(
    layout: Layout, parameters: Mapping[str, Mapping[str, Scalar]], *, jobs: int, timeout: float
) -> dict[str, dict]:
    """Bring every notebook's executed copy up to date; return the manifest's entries.

    Raises:
        BuildError: If any notebook failed; the others are finished and kept.
    """
    manifest = _read_manifest(layout.manifest)
    entries: dict[str, dict] = manifest.get("notebooks", {})
    surroundings = _surroundings(layout.root)
    inputs = {slug: _inputs(layout, slug, given, surroundings) for slug, given in parameters.items()}
    due = [
        slug
        for slug in parameters
        if entries.get(slug, {}).get("inputs") != inputs[slug]
        or entries[slug]["executed"] != _file_hash(layout.executed(slug))
    ]
    for slug in parameters:
        if slug not in due:
            say(f"  {slug:32} up to date ({entries[slug]['seconds']:.0f} s when it ran)")

    stopped = threading.Event()
    started: dict[str, float] = {}
    finished: dict[str, Outcome] = {}

    def run(slug: str) -> None:
        started[slug] = time.monotonic()
        say(f"  {slug:32} started")
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
                            "executed": _file_hash(layout.executed(slug)),
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
    inputs = hash_files(layout.root, [layout.stage, layout.root / "requirements.lock"])
    manifest = _read_manifest(layout.manifest)
    if manifest.get("rendered") == inputs and (layout.html / "index.html").exists():
        return False

    output, log = layout.work / "render", layout.log("render")
    shutil.rmtree(output, ignore_errors=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", "-n", "-W", "--keep-going", "-q"]
    with log.open("w") as stream:
        process = subprocess.run(
            [*command, "--path-output", str(output), str(layout.stage)],
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=layout.root,
        )
    if process.returncode:
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
    *,
    jobs: int = 2,
    timeout: float = 1800,
) -> Path:
    """Build the book below ``root`` and return its folder.

    Args:
        root: A repository: ``_toc.yml``, ``_config.yml``, ``book/`` and ``notebooks/``.
        profile: Name of the profile; it names the folders of the build.
        of_profile: The profile's parameters for each notebook, by slug.
        jobs: Notebooks at a time.
        timeout: Seconds a notebook may take.

    Raises:
        BuildError: If a notebook or the rendering failed; an earlier book is left alone.
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
    say(f"Notebooks, profile {profile}, {jobs} at a time:")
    entries = run_notebooks(layout, parameters, jobs=jobs, timeout=timeout)
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
        build(args.root.resolve(), args.profile, of_profile, jobs=args.jobs, timeout=args.timeout)
    except (BuildError, ValueError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; what was finished is kept")


if __name__ == "__main__":
    main()
