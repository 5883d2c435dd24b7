"""Where data sets and pretrained models are looked for."""

import os
from pathlib import Path

from unrolling._checks import InputError, shown

_PROJECT = Path(__file__).resolve().parents[1]


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Return ``root``, else the environment's ``UNROLLING_DATA``, else ``./data``.

    Where there is no ``./data``, that of the project counts if the package is installed from its folder:
    notebooks run in another one.
    """
    if root is not None:
        return expand("root", root)
    if named := os.environ.get("UNROLLING_DATA"):
        return expand("UNROLLING_DATA", named)
    here, of_project = Path("data"), _PROJECT / "data"
    installed_from_it = (_PROJECT / "pyproject.toml").exists()
    return of_project if installed_from_it and of_project.is_dir() and not here.is_dir() else here


def expand(name: str, path: object) -> Path:
    """Return a path with ``~`` and ``~user`` written out.

    Args:
        name: What it was given as, for the message.
        path: The path.

    Raises:
        InputError: If it names nothing, or the home folder of somebody who has none here.
    """
    if not isinstance(path, str | os.PathLike) or not str(path) or "\0" in str(path):
        raise InputError(f"{name} must be the name of a file or folder, got {shown(path)}.")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(
            f"{name} {str(path)!r} begins with a home folder that is not known here. Write the whole path."
        ) from error
