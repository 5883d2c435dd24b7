"""Where data sets and pretrained models are looked for."""

import os
from pathlib import Path


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Return ``root``, else the environment's ``UNROLLING_DATA``, else ``./data``."""
    return Path(root if root is not None else os.environ.get("UNROLLING_DATA") or "data").expanduser()
