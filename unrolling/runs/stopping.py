"""A request to stop: how it is asked, how a run sees it, and what the run raises once it has saved itself.

A request is a function that says whether to stop. Whatever computes for long calls it between its steps, so
anything may be one: a signal that came, a deadline that has passed, the end of the process that asked.
"""

import _thread
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait

#: Says whether to stop.
Stop = Callable[[], bool]

#: Seconds that a run has to reach the end of its step and save; then it is ended without.
GRACE = 20.0
#: Seconds within which further signals belong to the first: many a tool sends one to a process and its group.
_ONE_REQUEST = 1.0
#: Seconds that a process which has nothing more to do has to hand over its result and end by itself.
_FAREWELL = 2.0


class Stopped(Exception):
    """Work ended because it was asked to, and goes on from there when it is asked for again."""


def check_stop(stop: Stop | None) -> None:
    """Raise :class:`Stopped` if that is asked for; for moments at which there is nothing to save."""
    if stop and stop():
        raise Stopped("stopped before there was something to save.")


class StopSignal:
    """A request that a signal makes.

    Attributes:
        number: Of the signal; None before one came.
    """

    number: int | None = None

    def __call__(self) -> bool:
        """Say whether one came."""
        return self.number is not None


@contextmanager
def stop_on_signals() -> Iterator[StopSignal]:
    """Take SIGINT (Ctrl-C) and SIGTERM for a request to stop, for a block in the main thread.

    Whoever asks again, or waits for longer than ``GRACE``, gets a KeyboardInterrupt. What this process was
    told to ignore stays ignored.
    """
    stop, asked_at = StopSignal(), 0.0
    impatience = threading.Timer(GRACE, lambda: _send_here(stop.number or signal.SIGINT))
    impatience.daemon = True

    def hear(number: int, frame: object) -> None:
        nonlocal asked_at
        if stop.number is None:
            stop.number, asked_at = number, time.monotonic()
            impatience.start()
        elif time.monotonic() - asked_at > _ONE_REQUEST:
            raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    heard = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    try:
        for number in heard:
            signal.signal(number, hear)
        yield stop
    finally:
        impatience.cancel()
        for number, handler in heard.items():
            signal.signal(number, handler)


def _send_here(number: int) -> None:
    """Send a signal to the main thread, and wake it where it waits."""
    if hasattr(signal, "pthread_kill"):  # not on Windows
        signal.pthread_kill(threading.main_thread().ident, number)
    else:
        _thread.interrupt_main(number)


@contextmanager
def signals_held() -> Iterator[None]:
    """Leave these signals, which a terminal or a batch system sends to all its processes, to this one.

    Processes that are started in the block do not see them.
    """
    if not hasattr(signal, "pthread_sigmask"):  # not on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# In a process that computes for another

_ASKED, _IDLE = threading.Event(), threading.Event()
_IDLE.set()


def obey(asking: Connection) -> None:
    """Let the other end of ``asking`` decide how long this process computes: until it is closed, or gone."""
    threading.Thread(target=_end_with, args=(asking,), daemon=True).start()


def asked_to_stop() -> bool:
    """Say whether this process has been asked to stop: its request, see :func:`obey`."""
    return _ASKED.is_set()


@contextmanager
def at_work() -> Iterator[None]:
    """Let what the block does save itself before this process ends."""
    _IDLE.clear()
    try:
        yield
    finally:
        _IDLE.set()


def _end_with(asking: Connection) -> None:
    with suppress(EOFError):
        asking.recv()  # nothing is ever sent
    _ASKED.set()
    _IDLE.wait(GRACE)
    # A pool that is still there ends this process in good order, when it has what was returned.
    parent = parent_process()
    wait([parent.sentinel] if parent else [], _FAREWELL)
    os._exit(1)
