"""Argument checks that say what was expected, what came and what to do."""

import difflib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from numbers import Integral, Real
from typing import Any


class UnrollingError(Exception):
    """Base of every error that a user can mend; the command line prints it as one line and exits with 2."""


class InputError(UnrollingError, ValueError):
    """An argument is outside what the function is defined for."""


class NotFiniteError(InputError):
    """A derivative is infinite or NaN, as those of a training that diverges are."""


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


def check_free(what: str, name: str, taken: Iterable[str]) -> str:
    """Return ``name`` if nothing of this kind is called so yet."""
    if name in taken:
        raise InputError(f"there is a {what} {name!r} already; choose another name.")
    return name


def check_real(
    name: str,
    value: object,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
) -> float:
    """Return ``value`` as a finite float from ``minimum`` (or above ``above``) up to ``maximum``."""
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
    if maximum is not None and number > maximum:
        raise InputError(f"{name} must be at most {maximum:g}, got {number:g}.")
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


def check_examples(name: str, examples: object, *, total: int | None = None) -> tuple[int, ...]:
    """Return the numbers of some examples (or steps) as plain ints: in the order given, of a set ascending.

    Args:
        name: Of the argument, for messages.
        examples: Whole numbers in a list, range, set, array, tensor or series, or one of them; or a mask: as
            many booleans as there are examples, true for those that are meant.
        total: How many examples there are. Without it a mask is refused, as its length cannot be checked.

    Raises:
        InputError: If there is none, one is negative, named twice, or not there; or if these are no numbers.
    """
    wanted = f"`{name}` must be whole numbers in a list, range, set, array or tensor of one dimension"
    if examples is None or isinstance(examples, str | bytes | Mapping):
        raise InputError(f"{wanted}, got {examples!r:.40} ({type(examples).__name__}).")
    values = _plain(examples)
    found = [_plain(value) for value in values] if isinstance(values, Iterable) else [values]
    if not found:
        raise InputError(f"`{name}` is empty: expected at least one.")
    if all(isinstance(value, bool) for value in found):
        if total is None:
            raise InputError(
                f"`{name}` is a mask of {len(found)} booleans; expected numbers here. Pass "
                "torch.where(mask)[0] or numpy.flatnonzero(mask)."
            )
        if len(found) != total:
            raise InputError(
                f"`{name}` is a mask of {len(found)} booleans, but there are {total} to choose from."
            )
        found = [place for place, chosen in enumerate(found) if chosen]
        if not found:
            raise InputError(f"`{name}` is a mask that chooses nothing: expected at least one.")
    for value in found:
        if isinstance(value, bool) or not isinstance(value, Integral):
            nested = isinstance(value, list | tuple)
            hint = " Take [0] of torch.where(...), and flatten() of nonzero()." if nested else ""
            raise InputError(f"{wanted}, got {value!r:.40} in it ({type(value).__name__}).{hint}")
    numbers = tuple(int(value) for value in found)
    if min(numbers) < 0:
        raise InputError(f"`{name}` names {min(numbers)}: numbers count from 0, none is negative.")
    if total is not None and max(numbers) >= total:
        raise InputError(f"`{name}` names {max(numbers)}, but there are {total}: expected 0 to {total - 1}.")
    if len(set(numbers)) < len(numbers):
        twice = next(number for number, count in Counter(numbers).items() if count > 1)
        raise InputError(f"`{name}` names {twice} twice; expected each once.")
    return tuple(sorted(numbers)) if isinstance(values, Set) else numbers


def _plain(value: Any) -> Any:
    """Return arrays and tensors as lists, and theirs of no dimension as numbers."""
    return value.tolist() if hasattr(value, "tolist") else value


def check_logits(logits: Any) -> None:
    """Raise unless a model's output is one tensor of shape (batch, classes)."""
    if not hasattr(logits, "softmax"):
        raise InputError(
            f"the model returned a {type(logits).__name__}; expected logits, one tensor of shape (batch, "
            "classes). Wrap it in a module whose forward returns them, for example model(inputs).logits."
        )
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise InputError(f"`logits` must have shape (batch, classes >= 2), got {tuple(logits.shape)}.")
