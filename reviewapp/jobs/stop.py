"""A request to stop, which comes as a signal at any moment, and where it may interrupt the work.

An exception out of nowhere is safe in a grader, whose sandbox ends with it. In the middle of a COMMIT it is not: the
connection is left in a state in which nobody can say whether the job is ours. So it is raised only in the part of
the work that is marked interruptible, and waits for that part otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class WorkerStopping(BaseException):
    """The worker was asked to stop. No Exception, so that no grader takes it for a fault of its own."""


class Stop:
    """For one job in one process."""

    def __init__(self, is_closing: Callable[[], bool] = lambda: False) -> None:
        self.is_asked = False
        self.is_closing = is_closing  # the worker will soon ask: begin nothing new
        self._may_raise = False

    def ask(self) -> None:
        """Called by the signal; raises WorkerStopping if the work may be interrupted right now, once."""
        self.is_asked = True
        if self._may_raise:
            self._may_raise = False
            raise WorkerStopping

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """The part of the work that may be left at any moment; not even begun if the request is there already."""
        self._may_raise = True
        try:
            if self.is_asked:
                raise WorkerStopping
            yield
        finally:
            self._may_raise = False
