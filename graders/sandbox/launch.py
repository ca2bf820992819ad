"""The first process inside every sandbox: starts the untrusted command, bounds it, reports what became of it.

It is handed to the interpreter as text (`python -I -S -c`), so it uses the standard library only and nothing of ours.
Protocol: stdin holds one length line and a JSON order; stdout gets one JSON report when all is over. stdin stays
open while the caller lives; its end means that nobody waits any more, and everything is killed.

The command can't reach this process: it is made undumpable (its /proc entries belong to root, ptrace is refused),
its descriptors are closed before exec, and where it is process 1 of a PID namespace it can't be signalled either.
A command that is forked and not executed (zygote.py) is forked before the order is read: its memory never held it.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import stat
import sys
import time
from collections.abc import Callable
from typing import Any

POLL_S = 0.05
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 36, 38
SECCOMP_MODE_FILTER = 2
CLONE_NEWUSER = 0x10000000
CHANNEL_FD = 3
LIBC = ctypes.CDLL(None, use_errno=True)


class Tail:
    """The last `keep` bytes of a stream and how many there were."""

    def __init__(self, keep: int) -> None:
        self.keep, self.total, self.data = keep, 0, b""

    def add(self, chunk: bytes) -> None:
        self.total += len(chunk)
        self.data = (self.data + chunk)[-self.keep :]


class Head(Tail):
    """The first `keep` bytes: for the result channel, where a cut message is worth nothing."""

    def add(self, chunk: bytes) -> None:
        self.total += len(chunk)
        self.data = (self.data + chunk)[: self.keep + 1]


class FilterProgram(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = [("count", ctypes.c_ushort), ("rows", ctypes.c_char_p)]


class Streams:
    """Both ends of the command's stdin (a file in memory), stdout, stderr and result channel."""

    def __init__(self) -> None:
        self.given = os.memfd_create("stdin")
        pipes = [os.pipe() for _ in range(3)]
        self.inner = (self.given, *(write for _, write in pipes))
        self.outer = [read for read, _ in pipes]

    def give(self, data: bytes) -> None:
        os.write(self.given, data)
        os.lseek(self.given, 0, os.SEEK_SET)

    def close_inner(self) -> None:
        for fd in self.inner:
            os.close(fd)


def prctl(option: int, value: int, more: Any = 0) -> int:
    return int(LIBC.prctl(option, ctypes.c_ulong(value), more or ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)))


def forbid_calls(program: bytes) -> None:
    """Install the seccomp filter for this process and its children, for good."""
    rows = FilterProgram(len(program) // 8, program)
    if prctl(PR_SET_NO_NEW_PRIVS, 1) or prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(rows)):
        raise OSError(ctypes.get_errno(), "the kernel takes no seccomp filter")


def read_order() -> dict[str, Any]:
    length = int(sys.stdin.buffer.readline())
    order: dict[str, Any] = json.loads(sys.stdin.buffer.read(length))
    return order


def give_up_root(uid: int) -> None:
    """Become an ordinary user of our own user namespace; what root-owned things the sandbox shows stay out of reach."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    prctl(PR_SET_DUMPABLE, 1)
    if LIBC.unshare(CLONE_NEWUSER) == 0:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{uid} {uid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def write_files(folder: str, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(base64.b64decode(text))


def enter(door: int | None) -> None:
    """Into the cgroup of this run, by its file of processes, if it has one."""
    if door is not None:
        os.write(door, b"0")


def take_streams(streams: tuple[int, ...]) -> None:
    """Make `streams` descriptors 0, 1, 2, CHANNEL_FD and so on of this process; close everything else."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in streams]
    for target, source in enumerate(high):
        os.dup2(source, target)
    os.closerange(len(high), 1 << 20)


def confine(rlimits: dict[str, int], calls: str) -> None:
    """Limits, signals as they come, and no call that a program has no business with."""
    for name, value in rlimits.items():
        number = getattr(resource, name)
        hard = resource.getrlimit(number)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (bound, bound))
    for number in range(1, signal.NSIG):
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    forbid_calls(base64.b64decode(calls))


def start(order: dict[str, Any], streams: Streams, door: int | None) -> int:
    """Fork and exec the command with its limits."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        enter(door)
        take_streams(streams.inner)
        os.chdir(order["folder"])
        confine(order["rlimits"], order["calls"])
        os.execvpe(order["command"][0], order["command"], order["env"])  # noqa: S606
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(2, f"sandbox: can't start {order['command'][0]}: {error}\n".encode())
    os._exit(127)


def descendants(root: int) -> list[tuple[int, int, int]]:
    """(pid, threads, resident pages) of every process below `root`."""
    rows = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = open(f"/proc/{name}/stat").read().rpartition(")")[2].split()
                rows[int(name)] = (int(fields[1]), int(fields[17]), int(fields[21]))
    found, seen = [], {root}
    grew = True
    while grew:
        grew = False
        for pid, (parent, threads, pages) in rows.items():
            if parent in seen and pid not in seen:
                seen.add(pid)
                found.append((pid, threads, pages))
                grew = True
    return found


def proportional(pid: int, resident: int) -> int:
    """Memory in bytes with what several processes share counted once among them; all of it when that can't be read."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
    except (FileNotFoundError, ProcessLookupError):
        return 0  # it has ended meanwhile
    except (OSError, ValueError, IndexError, StopIteration):
        return resident


def kill_all() -> None:
    """Kill everything below us; again until nothing is left, so that a fork in flight does not escape."""
    for _ in range(200):
        if os.getpid() == 1:
            with contextlib.suppress(OSError):
                os.kill(-1, signal.SIGKILL)
        else:
            for pid, _, _ in descendants(os.getpid()):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)


def collect(folder: str, names: list[str], cap: int) -> dict[str, str]:
    """Regular files by name, not through a link of any kind, none above `cap` bytes."""
    found = {}
    for name in names:
        with contextlib.suppress(OSError):
            if os.path.realpath(os.path.join(folder, name)) != os.path.join(os.path.realpath(folder), name):
                continue
            fd = os.open(os.path.join(folder, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                info = os.fstat(fd)
                if stat.S_ISREG(info.st_mode) and info.st_nlink == 1 and info.st_size <= cap:
                    found[name] = base64.b64encode(os.read(fd, cap)).decode()
            finally:
                os.close(fd)
    return found


class Watch:
    """Reads the streams and the clock until the command ends or breaks a limit."""

    def __init__(self, order: dict[str, Any], pid: int, pipes: dict[int, Tail]) -> None:
        self.order, self.pid, self.pipes = order, pid, pipes
        self.peak, self.sampled, self.began = 0, 0.0, time.monotonic()
        self.ended = os.pidfd_open(pid)
        self.poller = select.poll()
        for fd in pipes:
            os.set_blocking(fd, False)
            self.poller.register(fd, select.POLLIN)
        self.poller.register(0, select.POLLHUP)
        self.poller.register(self.ended, select.POLLIN)

    def wait(self) -> tuple[int | None, str]:
        """(wait status, "") or (None, the limit that was broken)."""
        while True:
            self._read()
            status = self._reap()
            if status is not None:
                return status, ""
            if limit := self._broken():
                return None, limit

    def _read(self) -> None:
        for fd, _ in self.poller.poll(POLL_S * 1000):
            if fd == 0:
                kill_all()
                os._exit(1)
            if fd != self.ended:
                chunk = os.read(fd, 1 << 16)
                self.pipes[fd].add(chunk)
                if not chunk:
                    self.poller.unregister(fd)

    def _reap(self) -> int | None:
        """The command's wait status once it has ended; orphans that came to us are reaped on the way."""
        while True:
            done, status = os.waitpid(-1, os.WNOHANG)
            if done == self.pid:
                return status
            if not done:
                return None

    def _broken(self) -> str:
        now = time.monotonic()
        if now - self.began > self.order["wall_s"]:
            return "wall"
        if sum(tail.total for tail in self.pipes.values()) > self.order["output_bytes"]:
            return "output"
        if now - self.sampled < POLL_S:
            return ""
        self.sampled = now
        rows = descendants(os.getpid())
        resident = {pid: pages * os.sysconf("SC_PAGESIZE") for pid, _, pages in rows}
        used = sum(resident.values())
        if used > self.order["memory_bytes"]:  # processes that share much are counted more exactly, which takes longer
            used = sum(proportional(pid, size) for pid, size in resident.items())
        self.peak = max(self.peak, used)
        if used > self.order["memory_bytes"]:
            return "memory"
        return "processes" if sum(threads for _, threads, _ in rows) > self.order["processes"] else ""


def drain(pipes: dict[int, Tail]) -> None:
    for fd, tail in pipes.items():
        with contextlib.suppress(OSError):
            while chunk := os.read(fd, 1 << 16):
                tail.add(chunk)
                if tail.total > tail.keep * 64:
                    break


def serve(streams: Streams, start_command: Callable[[dict[str, Any]], int]) -> None:
    """Read the order, run the command, report and exit."""
    prctl(PR_SET_DUMPABLE, 0)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    order = read_order()
    write_files(order["folder"], order["files"])
    streams.give(base64.b64decode(order["stdin"]))
    began = time.monotonic()
    pid = start_command(order)
    streams.close_inner()
    keep = order["tail_bytes"]
    tails = dict(zip(streams.outer, (Tail(keep), Tail(keep), Head(order["channel_bytes"])), strict=True))
    watch = Watch(order, pid, tails)
    status, broken = watch.wait()
    wall = time.monotonic() - began
    kill_all()
    drain(tails)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = {
        "exit_code": os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else None,
        "signal": os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else None,
        "limit": broken,
        "wall_s": wall,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_bytes": max(watch.peak, usage.ru_maxrss * 1024),
        "streams": [base64.b64encode(tail.data).decode() for tail in tails.values()],
        "totals": [tail.total for tail in tails.values()],
        "files": collect(order["folder"], order["collect"], order["collect_bytes"]),
    }
    sys.stdout.write(json.dumps(report))
    sys.stdout.flush()
    os._exit(0)


def main() -> None:
    head = json.loads(sys.stdin.buffer.readline())
    if head["uid"]:
        give_up_root(head["uid"])
    streams = Streams()
    serve(streams, lambda order: start(order, streams, head["door"]))


if __name__ == "__main__":
    main()
