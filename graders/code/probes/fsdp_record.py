"""What happened in one rank, told as it happens over a pipe to the conductor. Runs INSIDE the sandbox.

An event is one JSON line: its kind, the line of the submission that led to it, and plain facts, after a mark made of a key
that only the rank and the conductor have, so that what is written to the pipe beside it counts for nothing. Replaced
functions are remembered, so that it can be told at the end whether the submission put others in their place.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch

TORCH = os.path.dirname(torch.__file__) + os.sep
DISTRIBUTED = (TORCH + "distributed" + os.sep, TORCH + "optim" + os.sep)
HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
MAX_OF_A_KIND, MAX_LINES = 400, 12


class Recorder:
    """Tells events, knows which mends are on and which functions were replaced."""

    def __init__(self, fd: int, path: str, mends: frozenset[str], key: bytes) -> None:
        seen = 0

        def sign(text: bytes) -> bytes:
            nonlocal seen
            seen += 1
            return mark(key, seen, text)

        self.sign = sign
        self.fd, self.path, self.mends = fd, path, mends
        self.counts: Counter[str] = Counter()
        self.told: set[str] = set()
        self.replaced: list[tuple[Any, str, Any]] = []
        self.watched: list[tuple[Any, dict[str, Any]]] = []
        self.originals: dict[Any, Any] = {}
        self.write, self.dumps, self.quiet = os.write, json.dumps, 0
        self.getpid, self.pid = os.getpid, os.getpid()

    def tell(self, kind: str, once: bool = False, **facts: Any) -> None:
        """Send an event; with `once` an equal one is sent a single time."""
        if self.quiet or self.getpid() != self.pid:
            return  # a process that the rank started is no rank
        text = self.dumps({"kind": kind, "line": self.line(), **facts})
        if once and text in self.told:
            return
        self.told.add(text)
        self.counts[kind] += 1
        if self.counts[kind] <= MAX_OF_A_KIND:
            data = text.encode()
            data = self.sign(data) + b" " + data + b"\n"
            while data:
                data = data[self.write(self.fd, data) :]

    def mends_it(self, kind: str, error: str) -> bool:
        """Tell of an error that a run with a mend could get past; True when this run has that mend."""
        self.tell("mendable", once=True, mend=kind, error=error[:600], mended=kind in self.mends)
        return kind in self.mends

    def line(self) -> int:
        """The innermost line of the submission that is being run; 0 when there is none."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame.f_code.co_filename == self.path:
                return frame.f_lineno
            frame = frame.f_back
        return 0

    def lines(self) -> list[int]:
        """The lines of the submission that are being run, the outermost first."""
        found: list[int] = []
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame.f_code.co_filename == self.path:
                found.append(frame.f_lineno)
            frame = frame.f_back
        return found[::-1][:MAX_LINES]

    @contextlib.contextmanager
    def silence(self) -> Iterator[None]:
        self.quiet += 1
        try:
            yield
        finally:
            self.quiet -= 1

    def replace(self, name: str, make: Callable[[Any], Any], *owners: Any) -> None:
        """Put make(original) in the place of `name` in each owner that has that original."""
        original = owners[0].__dict__[name] if isinstance(owners[0], type) else getattr(owners[0], name)
        plain = original.__func__ if isinstance(original, (staticmethod, classmethod)) else original
        new = functools.wraps(plain)(make(plain))
        with contextlib.suppress(TypeError, ValueError):
            vars(new)["__signature__"] = inspect.signature(plain)
        del new.__wrapped__
        self.originals[new] = plain
        placed = type(original)(new) if isinstance(original, (staticmethod, classmethod)) else new
        for owner in owners:
            setattr(owner, name, placed)
            self.replaced.append((owner, name, new))

    def hide(self) -> None:
        """Who asks where a function of torch's comes from is told of the original, as where nobody watches."""
        find, unwrap = inspect.getfile, inspect.unwrap

        def original(thing: Any) -> Any:
            plain = getattr(thing, "__func__", thing)
            return self.originals.get(plain, thing) if inspect.isfunction(plain) else thing

        self.replace("getfile", lambda real: lambda object: find(original(object)), inspect)  # named as Python has it
        self.replace("unwrap", lambda real: lambda func, *, stop=None: unwrap(original(func), stop=stop), inspect)

    def watch(self, *spaces: Any) -> None:
        """Remember the functions and classes of modules and classes as they are now."""
        self.watched = [(space, {k: v for k, v in vars(space).items() if callable(v)}) for space in spaces]

    def tampered(self) -> list[str]:
        """Names that are no longer ours or torch's. torch itself may wrap functions of its own."""
        names = [
            f"{space.__name__}.{name}"
            for space, before in self.watched
            for name, value in before.items()
            if (now := vars(space).get(name)) is not value and not _file_of(now).startswith((TORCH, HERE))
        ]
        for owner, name, new in self.replaced:
            found = vars(owner).get(name)
            if getattr(found, "__func__", found) is not new:
                names.append(f"{getattr(owner, '__name__', owner)}.{name}")
        if sys.gettrace() is not None or sys.getprofile() is not None:
            names.append("sys.settrace")
        return names[:20]


def _file_of(function: Any) -> str:
    return str(getattr(getattr(function, "__code__", None), "co_filename", ""))


def mark(key: bytes, number: int, text: bytes) -> bytes:
    """What stands before the nth event."""
    return hashlib.blake2b(b"%d " % number + text, key=key, digest_size=8).hexdigest().encode()


def called_by_torch(depth: int = 2) -> bool:
    """Is the caller of the function that asks inside torch? Our own frames between them don't count."""
    frame: FrameType | None = sys._getframe(depth)
    while frame is not None and frame.f_code.co_filename.startswith(HERE):
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename.startswith(TORCH)
