"""Tasks in a process of their own, which is replaced when one fails: a CUDA error ends a process for good."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

Task = Callable[[], Any]

#: Seconds that a new process may take for its imports; they do not count for its first task.
PATIENCE = 120


class FailedError(Exception):
    """A task raised, took too long, or took its process with it; the message says which."""


class Apart:
    """Runs tasks one after the other in another process. Use it as a context manager.

    Tasks are functions of a module, or ``functools.partial`` of them, and return what can be pickled.
    """

    def __init__(self) -> None:
        self._process: multiprocessing.process.BaseProcess | None = None
        self._line: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def run(self, task: Task, seconds: float) -> Any:
        """Return what the task returns.

        Raises:
            FailedError: If it raises, ends its process, or takes longer than ``seconds``. The next task gets
                a new process.
        """
        new = self._process is None
        if new:
            context = multiprocessing.get_context("spawn")
            self._line, far = context.Pipe()
            self._process = context.Process(target=_serve, args=(far,))
            self._process.start()
            far.close()  # else the end of the process would not end the line
        try:
            if new and not self._line.poll(PATIENCE):
                raise FailedError(f"no process could be started in {PATIENCE} s")
            if new:
                self._line.recv()
            self._line.send(task)
            if not self._line.poll(seconds):
                raise FailedError(f"not done after {seconds:.0f} s, and ended")
            value, message = self._line.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode
            self._end()
            raise FailedError(f"its process ended with exit code {code}") from None
        except BaseException:
            self._end()
            raise
        if message is not None:
            self._end()
            raise FailedError(message)
        return value

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._line.close()
            self._process = None


def _serve(line: Connection) -> None:
    line.send("ready")
    while True:
        try:
            task = line.recv()
        except EOFError:
            return
        try:
            value, message = task(), None
        except Exception as error:
            value, message = None, f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        line.send((value, message))
