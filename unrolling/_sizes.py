"""How much a file may unpack to: a small archive can hold more than the machine's memory."""

import errno
import os
import stat
from pathlib import Path

from unrolling._checks import InputError, check_real

#: Where the limit is set, in gigabytes.
VARIABLE = "UNROLLING_MAX_GB"


def size_limit() -> int:
    """Return the bytes that one data set or packed store may unpack to: 2 GB, or ``UNROLLING_MAX_GB``."""
    text = os.environ.get(VARIABLE) or "2"
    try:
        number = float(text)
    except ValueError:
        raise InputError(f"{VARIABLE} must be a number of gigabytes, got {text!r}.") from None
    return int(1e9 * check_real(VARIABLE, number, above=0))


def too_large(what: str, size: float, limit: int) -> str:
    """Return the message for what would unpack to more than the limit, as far as its ``size`` is known."""
    return (
        f"{what} unpacks to at least {size / 1e9:.3g} GB, more than the limit of {limit / 1e9:.3g} GB. If "
        f"that is meant, allow it: {VARIABLE}=GIGABYTES."
    )


def read_regular(path: Path, limit: int) -> bytes:
    """Return the content of a file; a folder, a pipe or a device, and what is too large, is not opened.

    Raises:
        OSError: If it cannot be read; ``strerror`` says why.
    """
    check_regular(path, limit)
    return path.read_bytes()


def check_regular(path: Path, limit: int) -> None:
    """Raise an :class:`OSError` unless ``path`` is a file of at most ``limit`` bytes; it is not opened."""
    facts = path.stat()
    if stat.S_ISDIR(facts.st_mode):
        raise OSError(errno.EISDIR, "it is a folder", str(path))
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    if facts.st_size > limit:
        raise OSError(errno.EFBIG, f"it has {facts.st_size:,} bytes, expected at most {limit:,}", str(path))
