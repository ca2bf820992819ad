"""The warm parents of this process: started when first needed, shared by its threads, replaced when dead or old.

They end when the process that grades does: their sockets to us are then closed by the kernel. A forked child of ours
forgets them and starts its own. What runs inside is zygote.py.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from graders.sandbox import backends
from graders.sandbox.result import Limits, SandboxError

PRELOADED = ("torch", "torch.utils.checkpoint", "torch.utils._python_dispatch")
RUNS_PER_PARENT = 500
START_S = 120.0
COLD_S = 600.0


@dataclass
class Pipes:
    """One run's launcher: where its order goes in, its report and its complaints come out."""

    order: IO[bytes]
    report: IO[bytes]
    complaints: IO[bytes]

    def close(self) -> None:
        for stream in (self.order, self.report, self.complaints):
            with contextlib.suppress(OSError):
                stream.close()


class WarmParent:
    """A zygote process and the socket to it."""

    def __init__(self, modules: tuple[str, ...], *, keep_uid: bool) -> None:
        self.modules = modules
        self.runs = self.open_runs = 0
        self.keep_uid = keep_uid
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, tempfile.TemporaryFile() as said:
            wrapped = backends.wrap_warm_parent(theirs.fileno(), modules, keep_uid=keep_uid)
            self.process = subprocess.Popen(
                wrapped.argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
                pass_fds=(theirs.fileno(),),
                env=wrapped.env,
            )
            theirs.close()
            self.control.settimeout(START_S)
            if _receive(self.control) != b"ready":
                said.seek(0)
                why = said.read().decode(errors="replace").strip()[-500:]
                self.close()
                raise SandboxError(f"the warm parent did not start: {why or 'no word from it'}")

    @property
    def is_usable(self) -> bool:
        return self.process.poll() is None and self.runs < RUNS_PER_PARENT

    def begin(self, limits: Limits, door: Sequence[int]) -> Pipes:
        """Have it fork a launcher that waits for its order."""
        uid = backends.fresh_uid() if os.geteuid() == 0 and not self.keep_uid else 0
        head = json.dumps({"uid": uid, "disk_bytes": limits.disk_mb * backends.MIB}).encode()
        order, report, complaints = os.pipe(), os.pipe(), os.pipe()
        theirs, ours = (order[0], report[1], complaints[1]), (order[1], report[0], complaints[0])
        pipes = Pipes(*(os.fdopen(fd, "wb" if fd == order[1] else "rb", buffering=0) for fd in ours))
        try:
            socket.send_fds(self.control, [head], [*theirs, *door])
        except OSError as error:
            pipes.close()
            raise SandboxError(f"the warm parent can't be reached: {error}") from None
        finally:
            for fd in theirs:
                os.close(fd)
        self.runs += 1
        return pipes

    def close(self) -> None:
        """End it and every run in it."""
        self.control.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class _Shared:
    """The warm parents that this process uses now, one for each set of modules."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.parents: dict[tuple[str, ...], WarmParent] = {}
        self.why_not = ""
        self.cold_until = 0.0

    def begin(self, modules: tuple[str, ...], limits: Limits, door: Sequence[int], *, keep_uid: bool) -> tuple[WarmParent, Pipes]:
        with self.lock:
            parent = self.parents.get(modules)
            if parent and not parent.is_usable:
                self._put_away(parent)
            elif parent:
                with contextlib.suppress(SandboxError):
                    return self._begun(parent, limits, door)
                self._put_away(parent)  # it died since the last run
            parent = self.parents[modules] = WarmParent(modules, keep_uid=keep_uid)
            return self._begun(parent, limits, door)

    @staticmethod
    def _begun(parent: WarmParent, limits: Limits, door: Sequence[int]) -> tuple[WarmParent, Pipes]:
        pipes = parent.begin(limits, door)
        parent.open_runs += 1
        return parent, pipes

    def end(self, parent: WarmParent, *, is_broken: bool) -> None:
        """A run is over. `is_broken`: it gave no report, so nothing more is asked of this parent."""
        with self.lock:
            parent.open_runs -= 1
            if is_broken and self.parents.get(parent.modules) is parent:
                self._put_away(parent)
            elif self.parents.get(parent.modules) is not parent and parent.open_runs == 0:
                parent.close()

    def _put_away(self, parent: WarmParent) -> None:
        """Ask nothing more of it; it is closed when its last run is over."""
        del self.parents[parent.modules]
        if parent.open_runs == 0:
            parent.close()

    def forget(self) -> None:
        """In a forked child: the parent's warm parents are not ours."""
        for parent in self.parents.values():
            parent.control.close()
            parent.process.returncode = 0  # not a child of ours, so there is nothing to wait for
        self.__init__()  # type: ignore[misc]


_shared = _Shared()
os.register_at_fork(after_in_child=_shared.forget)


def begin(preload: Sequence[str], limits: Limits, door: Sequence[int], *, keep_uid: bool) -> tuple[WarmParent, Pipes]:
    """A launcher forked from a warm parent that has imported PRELOADED and `preload`; `door` leads into its cgroup.

    Raises SandboxError when there can be none.
    """
    return _shared.begin((*PRELOADED, *preload), limits, door, keep_uid=keep_uid)


def end(parent: WarmParent, *, is_broken: bool) -> None:
    _shared.end(parent, is_broken=is_broken)


def why_not() -> str:
    """Why runs here start cold, or ""."""
    return _shared.why_not if time.monotonic() < _shared.cold_until else ""


def give_up(why: str) -> None:
    """The kernel or the machine does not allow it: for some minutes, runs of this process start cold."""
    _shared.why_not, _shared.cold_until = why, time.monotonic() + COLD_S


@atexit.register
def stop() -> None:
    """End the warm parents of this process; the next run starts a new one."""
    with _shared.lock:
        old, _shared.parents, _shared.why_not = _shared.parents, {}, ""
        for parent in old.values():
            parent.close()


def current(preload: Sequence[str] = ()) -> WarmParent | None:
    """The warm parent that the next run with `preload` would ask first."""
    return _shared.parents.get((*PRELOADED, *preload))


def can_fork(command: Sequence[str]) -> bool:
    """Is the command one that the warm parent can become: `python [-B] [-u] FILE...`?"""
    words = [word for word in command[1:] if word not in ("-B", "-u")]
    return bool(words) and command[0] == "python" and not words[0].startswith("-")


def _receive(control: socket.socket) -> bytes:
    try:
        return control.recv(16)
    except OSError:
        return b""
