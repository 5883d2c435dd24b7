"""Files that appear complete or not at all, and what a kill leaves of them."""

import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

#: Seconds after which an unfinished file is taken for the rest of a killed process.
ABANDONED = 600.0
# Names that this module gives; and those that earlier versions gave to runs and checkpoints.
_UNFINISHED = re.compile(r".+\.[0-9a-f]{16}\.tmp|tmp\w{8}\.tmp|[0-9a-f]{16}\.pt\.\d+\.tmp")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a new file that takes the place of ``path`` when the block ends; if it fails, nothing is left.

    Many processes may do so at once: the last one wins, and a reader sees a whole file throughout.
    """
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with unfinished.open("xb") as file:
            yield file
        os.replace(unfinished, path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise


def remove_abandoned(folder: Path) -> None:
    """Delete what killed processes left unfinished in ``folder``; a file that is being written stays."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not _UNFINISHED.fullmatch(entry.name):
                continue
            with suppress(OSError):
                if time.time() - entry.stat(follow_symlinks=False).st_mtime > ABANDONED:
                    os.unlink(entry.path)
