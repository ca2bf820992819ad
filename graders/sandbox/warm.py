"""The warm parent of this process: started when first needed, shared by its threads, replaced when it dies or is old.

It ends when the process that grades does: its socket to us is then closed by the kernel. A forked child of ours forgets
it and starts its own. What runs inside it is zygote.py.
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

PRELOADED = (
    *("torch", "torch.utils.checkpoint", "torch.utils._python_dispatch"),
    *("torch.distributed.fsdp", "torch.distributed.checkpoint.state_dict", "torch._dynamo"),  # what FSDP's ranks would each import
)
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

    def __init__(self, *, keep_uid: bool) -> None:
        self.runs = self.open_runs = 0
        self.keep_uid = keep_uid
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, tempfile.TemporaryFile() as said:
            wrapped = backends.wrap_warm_parent(theirs.fileno(), PRELOADED, keep_uid=keep_uid)
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

    def begin(self, limits: Limits) -> Pipes:
        """Have it fork a launcher that waits for its order."""
        uid = backends.fresh_uid() if os.geteuid() == 0 and not self.keep_uid else 0
        head = json.dumps({"uid": uid, "disk_bytes": limits.disk_mb * backends.MIB}).encode()
        order, report, complaints = os.pipe(), os.pipe(), os.pipe()
        theirs, ours = (order[0], report[1], complaints[1]), (order[1], report[0], complaints[0])
        pipes = Pipes(*(os.fdopen(fd, "wb" if fd == order[1] else "rb", buffering=0) for fd in ours))
        try:
            socket.send_fds(self.control, [head], theirs)
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
    """The warm parent that this process uses now."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.parent: WarmParent | None = None
        self.why_not = ""
        self.cold_until = 0.0

    def begin(self, limits: Limits, *, keep_uid: bool) -> tuple[WarmParent, Pipes]:
        with self.lock:
            if self.parent and not self.parent.is_usable:
                self._put_away()
            if self.parent:
                with contextlib.suppress(SandboxError):
                    return self._begun(self.parent, limits)
                self._put_away()  # it died since the last run
            self.parent = WarmParent(keep_uid=keep_uid)
            return self._begun(self.parent, limits)

    @staticmethod
    def _begun(parent: WarmParent, limits: Limits) -> tuple[WarmParent, Pipes]:
        pipes = parent.begin(limits)
        parent.open_runs += 1
        return parent, pipes

    def end(self, parent: WarmParent, *, is_broken: bool) -> None:
        """A run is over. `is_broken`: it gave no report, so nothing more is asked of this parent."""
        with self.lock:
            parent.open_runs -= 1
            if is_broken and parent is self.parent:
                self._put_away()
            if parent is not self.parent and parent.open_runs == 0:
                parent.close()

    def _put_away(self) -> None:
        old, self.parent = self.parent, None
        if old and old.open_runs == 0:
            old.close()

    def forget(self) -> None:
        """In a forked child: the parent's warm parent is not ours."""
        if self.parent:
            self.parent.control.close()
            self.parent.process.returncode = 0  # not a child of ours, so there is nothing to wait for
        self.__init__()  # type: ignore[misc]


_shared = _Shared()
os.register_at_fork(after_in_child=_shared.forget)


def begin(limits: Limits, *, keep_uid: bool) -> tuple[WarmParent, Pipes]:
    """A launcher forked from the warm parent. Raises SandboxError when there can be none."""
    return _shared.begin(limits, keep_uid=keep_uid)


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
    """End the warm parent of this process; the next run starts a new one."""
    with _shared.lock:
        old, _shared.parent, _shared.why_not = _shared.parent, None, ""
        if old:
            old.close()


def can_fork(command: Sequence[str]) -> bool:
    """Is the command one that the warm parent can become: `python [-B] [-u] FILE...`?"""
    words = [word for word in command[1:] if word not in ("-B", "-u")]
    return bool(words) and command[0] == "python" and not words[0].startswith("-")


def _receive(control: socket.socket) -> bytes:
    try:
        return control.recv(16)
    except OSError:
        return b""
