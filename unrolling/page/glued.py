"""The numbers of a page's sentences."""

from collections.abc import Mapping
from typing import Any

from myst_nb import glue


def glue_all(prefix: str, numbers: Mapping[str, Any]) -> None:
    """Glue numbers and texts for the sentences of the page, each as ``prefix-name``, and show nothing.

    Args:
        prefix: The page's, for example ``error``.
        numbers: By name. Those of numpy and torch become Python's own, which a format applies to.
    """
    for name, number in numbers.items():
        glue(f"{prefix}-{name}", number.item() if hasattr(number, "item") else number, display=False)
