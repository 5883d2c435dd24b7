"""Where data sets and pretrained models are looked for."""

import os
from pathlib import Path

_PROJECT = Path(__file__).resolve().parents[1]


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Return ``root``, else the environment's ``UNROLLING_DATA``, else ``./data``.

    Where there is no ``./data``, that of the project counts if the package is installed from its folder:
    notebooks run in another one.
    """
    named = root if root is not None else os.environ.get("UNROLLING_DATA")
    if named:
        return Path(named).expanduser()
    here, of_project = Path("data"), _PROJECT / "data"
    installed_from_it = (_PROJECT / "pyproject.toml").exists()
    return of_project if installed_from_it and of_project.is_dir() and not here.is_dir() else here
