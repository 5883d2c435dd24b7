"""How numbers are written, with their intervals and where there is none."""

import math
from dataclasses import dataclass
from numbers import Integral


@dataclass(frozen=True)
class Missing:
    """A cell of a table with no number, and why."""

    reason: str


def number_text(value: float, digits: int) -> str:
    """Return an integer as it is, other numbers with ``digits`` significant digits, zeros included."""
    shown = str(value) if isinstance(value, Integral) else f"{value:#.{digits}g}".removesuffix(".")
    return shown.replace("-", "−")


def interval_text(estimate: tuple[float, float, float], digits: int = 3) -> str:
    """Return ``(mean, low, high)`` as text for a sentence.

    Example:
        >>> interval_text((1.25, 1.0, 1.5), 2)
        '1.2 [1.0, 1.5]'
    """
    mean, low, high = estimate
    shown = number_text(mean, digits)
    if math.isfinite(low) and math.isfinite(high):  # one seed has no interval
        shown += f" [{number_text(low, digits)}, {number_text(high, digits)}]"
    return shown
