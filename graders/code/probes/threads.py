"""What a program does in threads of its own, recorded as what it does itself. Runs INSIDE the sandbox, beside untrusted code.

A recorder sees one thread. Here each thread that the program starts hands its operations to whoever records at the
time. It may work only while the program is at work on an answer: what goes on afterwards could change anything later,
and is told. A worker of a pool that waits for more is no such work.
"""

from __future__ import annotations

import _thread
import dis
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import thread as pools
from contextlib import contextmanager
from queue import SimpleQueue
from types import CodeType, FrameType
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

IDLE: CodeType = vars(pools)["_worker"].__code__  # a pool's thread
WAITING = {step.positions.lineno for step in dis.get_instructions(IDLE) if step.argval == "get" and step.positions}
STARTS = ("_start_new_thread", "_start_joinable_thread")  # the latter from Python 3.13 on
AFTER_S, LOOK_S = 0.25, 0.002  # a pool hears of a result a moment before its thread has put it away
CLOCK, SLEEP, _current_frames = time.perf_counter, time.sleep, sys._current_frames  # before a program puts others in their places
STILL_AT_WORK = "time after an answer is given (let threads end before that)"


class Threads:
    """Those that the program has started, and the recorder of this moment."""

    def __init__(self) -> None:
        self.main = _thread.get_ident()
        self._log: Any = None
        self._alive: set[_Started] = set()
        self._tell: Callable[[str, FrameType], None] | None = None

    def follow(self, tell: Callable[[str, FrameType], None] | None) -> CodeType:
        """From now on. Returns the code that stands at the bottom of each of these threads."""
        for name in STARTS:
            if start := getattr(threading, name, None):
                setattr(threading, name, self._following(start))
        if bars := sys.modules.get("tqdm"):  # else it starts a thread that looks after them
            vars(bars)["tqdm"].monitor_interval = 0
        self._tell = tell
        return _Started.run.__code__

    def _following(self, start: Callable[..., Any]) -> Callable[..., Any]:
        def start_followed(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
            started = _Started(self, function)
            self._alive.add(started)
            try:
                return start(started.run, *args, **options)
            except BaseException:  # it never runs
                self._alive.discard(started)
                raise

        return start_followed

    @contextmanager
    def recorded_by(self, log: TorchDispatchMode) -> Iterator[None]:
        """While it is entered, `log` gets what is done here and in the program's threads."""
        self._log = log
        try:
            with log:
                yield
        finally:
            self._log = None

    def record(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        log = self._log  # once, as it may end meanwhile
        return log.__torch_dispatch__(func, types, args, kwargs) if log else func(*args, **kwargs)

    def settle(self) -> None:
        """After an answer: tell of a thread that is still at work, and will be a moment from now."""
        end = CLOCK() + AFTER_S
        while self._tell and (frame := self._at_work()):
            if CLOCK() > end:
                self._tell(STILL_AT_WORK, frame)
                self._tell = None  # once is enough
            else:
                SLEEP(LOOK_S)

    def _at_work(self) -> FrameType | None:
        frames = _current_frames() if self._alive else {}
        at = [frames.get(started.ident, frames[self.main]) for started in self._alive.copy()]
        return next((frame for frame in at if not _is_idle(frame)), None)


def _is_idle(frame: FrameType) -> bool:
    """Does it wait for work, and not in a queue of the program's own making, which could do anything meanwhile?

    What is called from another line there is the program's: work that is no code of Python's has no frame of its own.
    """
    is_waiting = frame.f_code is IDLE and frame.f_lineno in WAITING
    return is_waiting and type(frame.f_locals.get("work_queue")) is SimpleQueue


class _Started:
    """One thread, from its start to its end."""

    def __init__(self, threads: Threads, function: Callable[..., Any]) -> None:
        self.threads, self.function, self.ident = threads, function, 0

    def run(self, *args: Any, **kwargs: Any) -> None:
        self.ident = _thread.get_ident()
        try:
            with _Handing(self.threads):
                self.function(*args, **kwargs)
        finally:
            self.threads._alive.discard(self)


class _Handing(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Hands the operations of a thread over."""

    def __init__(self, threads: Threads) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.threads = threads

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.threads.record(func, types, args, kwargs or {})


THREADS = Threads()
