"""Run a Python script that ends, with all that it started, when the process that started it is gone.

``python -P leashed.py SCRIPT ARGUMENTS``. The starter keeps the other end of the standard input open and
never writes; when it ends, in whatever way, the system closes it. A kernel would outlive its builder else.
"""

import os
import runpy
import sys
import threading

import psutil


def kill_tree(pid: int) -> None:
    """Kill a process and everything below it, itself last."""
    # A kernel is in a session of its own, so killing the process group would leave it running.
    process = psutil.Process(pid)
    for each in (*process.children(recursive=True), process):
        try:
            each.kill()
        except psutil.NoSuchProcess:
            continue


def _follow(leash: int) -> None:
    os.read(leash, 1)
    kill_tree(os.getpid())


def main() -> None:
    """Run the command line."""
    leash = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    threading.Thread(target=_follow, args=(leash,), daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
