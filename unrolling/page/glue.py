"""The numbers of a section's sentences, glued by one call."""

from collections.abc import Mapping

import numpy as np


def glue_all(prefix: str, numbers: Mapping[str, object]) -> None:
    """Glue numbers, or texts of numbers, under the names ``prefix-name``, and show none of them.

    Args:
        prefix: What the names of a page's numbers begin with.
        numbers: By name. NumPy's numbers become Python's, which a format such as ``:.2f`` knows.
    """
    from myst_nb import glue

    for name, value in numbers.items():
        glue(f"{prefix}-{name}", value.item() if isinstance(value, np.generic) else value, display=False)
