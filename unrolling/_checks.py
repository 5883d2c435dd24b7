"""Argument checks that say what was expected, what came and what to do."""

import difflib
import math
from collections.abc import Iterable
from numbers import Integral, Real


class UnrollingError(Exception):
    """Base of every error that a user can mend; the command line prints it as one line and exits with 2."""


class InputError(UnrollingError, ValueError):
    """An argument is outside what the function is defined for."""


class DataError(UnrollingError):
    """A data set is missing or damaged."""


class StoreError(UnrollingError):
    """A stored run is damaged, or the store cannot be written."""


def shown(value: object, longest: int = 80) -> str:
    """Return ``value`` as a message shows it: on one line, and cut where it is long."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a number with more digits than Python writes, or whatever a foreign repr raises
        text = f"a {type(value).__name__}"
    return text if len(text) <= longest else f"{text[:longest]}..."


def printable(text: str) -> str:
    """Return ``text`` on one line, what a terminal would act on or cannot show written as an escape."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )


def check_choice(name: str, value: object, choices: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``choices``; suggest the nearest one otherwise."""
    known = sorted(choices)
    if isinstance(value, str) and value in known:
        return str(value)
    near = difflib.get_close_matches(shown(value).strip("'"), known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise InputError(f"unknown {name} {shown(value)}: expected one of {', '.join(known)}.{hint}")


def check_real(
    name: str, value: object, *, minimum: float | None = None, above: float | None = None
) -> float:
    """Return ``value`` as a finite float that is at least ``minimum`` (or larger than ``above``)."""
    if not isinstance(value, Real) or isinstance(value, bool):
        hint = (
            " In YAML write 1.0e-3 rather than 1e-3, which is a string there."
            if isinstance(value, str)
            else ""
        )
        raise InputError(f"{name} must be a number, got {shown(value)} ({type(value).__name__}).{hint}")
    try:
        number = float(value)
    except OverflowError:  # a whole number beyond the largest float
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"{name} must be finite, got {shown(value)}.")
    if minimum is not None and number < minimum:
        raise InputError(f"{name} must be at least {minimum:g}, got {number:g}.")
    if above is not None and number <= above:
        raise InputError(f"{name} must be larger than {above:g}, got {number:g}.")
    return number


def check_integer(name: str, value: object, *, minimum: int = 0, maximum: int | None = None) -> int:
    """Return ``value`` as an int in ``minimum..maximum``."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise InputError(f"{name} must be a whole number, got {shown(value)} ({type(value).__name__}).")
    number = int(value)
    if number < minimum or (maximum is not None and number > maximum):
        span = f"at least {minimum}" if maximum is None else f"between {minimum} and {maximum}"
        raise InputError(f"{name} must be {span}, got {shown(number)}.")
    return number
