"""The tree that is rendered: pages and executed notebooks laid out as in the repository.

_build/<profile>/executed/   accepted copies, exactly as papermill wrote them
_build/<profile>/failed/     what a failed notebook left, for reading
_build/<profile>/logs/       one log per notebook
_build/stage/<profile>/      what jupyter-book sees: book/, notebooks/, _toc.yml, _config.yml
_build/html/                 the book (quick profile); _build/html-<profile>/ for the others
"""

import copy
import hashlib
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import nbformat
import yaml
from nbformat import NotebookNode

from workflow.hosting import linked

PAGES = ("_config.yml", "_toc.yml", "book")


@dataclass(frozen=True)
class Layout:
    """Where everything of one profile's build is."""

    root: Path
    profile: str

    @property
    def work(self) -> Path:
        """Everything of this profile that is kept between builds."""
        return self.root / "_build" / self.profile

    @property
    def manifest(self) -> Path:
        """What was run and rendered from which inputs."""
        return self.work / "manifest.json"

    @property
    def stage(self) -> Path:
        """The tree handed to jupyter-book."""
        return self.root / "_build" / "stage" / self.profile

    @property
    def html(self) -> Path:
        """The finished book."""
        name = "html" if self.profile == "quick" else f"html-{self.profile}"
        return self.root / "_build" / name

    def source(self, slug: str) -> Path:
        """The notebook in the repository."""
        return self.root / "notebooks" / f"{slug}.ipynb"

    def executed(self, slug: str) -> Path:
        """The accepted executed copy."""
        return self.work / "executed" / f"{slug}.ipynb"

    def failed(self, slug: str) -> Path:
        """What a failed run left."""
        return self.work / "failed" / f"{slug}.ipynb"

    def log(self, slug: str) -> Path:
        """What papermill and the kernel wrote on their streams."""
        return self.work / "logs" / f"{slug}.log"


def toc_files(toc: Mapping) -> list[str]:
    """Return every page of a table of contents, in order."""
    pages = [toc[key] for key in ("root", "file") if key in toc]
    for key in ("parts", "chapters", "sections"):
        for entry in toc.get(key, []):
            pages += toc_files(entry)
    return pages


def read_toc(root: Path) -> list[str]:
    """Return the pages of the book, without suffixes, in order."""
    return toc_files(yaml.safe_load((root / "_toc.yml").read_text()))


def book_notebooks(root: Path) -> list[str]:
    """Return the slugs of the book's notebooks, in order.

    Raises:
        FileNotFoundError: If table of contents and ``notebooks/`` do not name the same notebooks.
    """
    named = [page.removeprefix("notebooks/") for page in read_toc(root) if page.startswith("notebooks/")]
    there = {path.stem for path in (root / "notebooks").glob("*.ipynb")}
    if missing := [slug for slug in named if slug not in there]:
        raise FileNotFoundError(f"_toc.yml names notebooks that do not exist: {', '.join(missing)}.")
    if extra := sorted(there.difference(named)):
        raise FileNotFoundError(
            f"notebooks that _toc.yml does not name: {', '.join(extra)}. Add or move them."
        )
    return named


def kernel_environment(root: Path) -> dict[str, str]:
    """Return this process's environment with what notebook kernels need.

    Kernels run in ``notebooks/``, so the run store and the data root become absolute paths. One thread per
    kernel: the models are small, and two notebooks run at a time.
    """
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "UNROLLING_STORE": str((root / os.environ.get("UNROLLING_STORE", "runs")).absolute()),
    }
    if data := os.environ.get("UNROLLING_DATA"):
        environment["UNROLLING_DATA"] = str((root / Path(data).expanduser()).absolute())
    # The kernels' output is data here, and byte code makes importing torch three times faster.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment


def machine_paths(root: Path) -> list[str]:
    """Return the directories of this machine that no page may show, each with a closing slash."""
    return sorted({f"{path}/" for path in (root, Path(sys.prefix), Path.home()) if path != Path("/")})


def hash_files(root: Path, paths: Iterable[Path]) -> str:
    """Return a digest of the names below ``root`` and contents of the files among and below ``paths``."""
    digest = hashlib.sha256()
    for path in paths:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                content = hashlib.sha256(file.read_bytes()).hexdigest()
                digest.update(f"{file.relative_to(root).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def page_of(executed: NotebookNode) -> NotebookNode:
    """Return an executed notebook as a page: no path or time of the run, parameters folded.

    The ``parameters`` cell stays, closed, because it shows what can be changed; the cell that papermill
    injected is removed, because the page's run card says what was used. An interactive figure keeps its HTML
    form only; the other one is for JupyterLab.
    """
    page = copy.deepcopy(executed)
    page.metadata.pop("papermill", None)
    for cell in page.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("application/vnd.plotly.v1+json", None)
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags:
            cell.metadata["tags"] = [*tags, "remove-cell"]
        elif "parameters" in tags:
            cell.metadata["tags"] = sorted({*tags, "hide-input"})
            cell.metadata.setdefault("mystnb", {})["code_prompt_show"] = "What can be changed on this page"
    return page


def lay_out(layout: Layout, slugs: Iterable[str], repository: str | None) -> None:
    """Write the stage anew from the pages of the repository and the executed notebooks.

    Args:
        layout: Where it goes.
        slugs: The notebooks.
        repository: Address of the repository's page that the book links to, if it is known.
    """
    shutil.rmtree(layout.stage, ignore_errors=True)
    (layout.stage / "notebooks").mkdir(parents=True)
    for name in PAGES:
        source, target = layout.root / name, layout.stage / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copyfile(source, target)
    if repository:
        config = yaml.safe_load((layout.root / "_config.yml").read_text(encoding="utf-8"))
        (layout.stage / "_config.yml").write_text(
            yaml.safe_dump(linked(config, repository)), encoding="utf-8"
        )
    for slug in slugs:
        page = page_of(nbformat.read(layout.executed(slug), as_version=4))
        nbformat.write(page, layout.stage / "notebooks" / f"{slug}.ipynb")
