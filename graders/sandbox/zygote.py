"""The warm parent: a process that has imported torch and forks each run into namespaces of its own. Runs INSIDE bwrap.

It is handed to the interpreter as text, with the text of launch.py, the number of a descriptor and the modules to
import as arguments. The descriptor is a socket to the process that grades: each message is one run, a JSON object
{"uid", "disk_bytes"} with descriptors for order in, report out and complaints out, and the door of its cgroup if it has
one. When the socket ends, so does this process, and as process 1 of its PID namespace it takes every run with it. It
never reads an order and runs no code but ours, so that what a run inherits from it holds nothing of another run.

A run is three forks. The first gives up root and makes user, PID, mount, network, IPC, UTS and cgroup namespaces. The
second is process 1 in them: it mounts a new /proc and empty /workspace, /tmp and /dev/shm, drops every capability and
becomes the launcher (launch.py). The third, made before the launcher reads the order, waits for word and becomes the
command: a Python file run as `python FILE` would run it.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import gc
import io
import json
import os
import select
import signal
import socket
import struct
import sys
import threading
import traceback
import types
from typing import Any

NEW_USER = 0x10000000
# mount, cgroup, UTS, IPC, PID, network
NEW_OTHERS = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000
NO_SUID, NO_DEV, NO_EXEC, READ_ONLY, BIND, RECURSIVE, PRIVATE = 2, 4, 8, 1, 0x1000, 0x4000, 1 << 18
SCRATCH = ("/workspace", "/tmp", "/dev/shm")  # noqa: S108
PR_CAPBSET_DROP, PR_SET_SECUREBITS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 24, 28, 47, 4
CAPABILITY_VERSION_3 = 0x20080522
DOOR = 3  # where the fourth descriptor of a run comes to stand: its cgroup's file of processes
GET_FLAGS, SET_FLAGS, UP = 0x8913, 0x8914, 0x1
MAX_INODES = 1 << 16
INTERPRETER_OPTIONS = ("-B", "-u")

launch: Any = types.ModuleType("launch")
libc = ctypes.CDLL(None, use_errno=True)


class CannotStart(Exception):
    """A namespace, a mount or a capability was refused: the message says which."""


def must(done: int, what: str) -> None:
    if done != 0:
        raise CannotStart(f"{what}: {os.strerror(ctypes.get_errno())}")


def mount(kind: str, place: str, flags: int, options: str = "") -> None:
    must(libc.mount(kind.encode(), place.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()), f"mount {kind} on {place}")


# --- the first fork: namespaces ---


def enter_namespaces(uid: int) -> None:
    """A user namespace of our own, as an ordinary user, and in it one of each other kind."""
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        launch.prctl(launch.PR_SET_DUMPABLE, 1)
    user, group = os.geteuid(), os.getegid()
    must(libc.unshare(NEW_USER), "a user namespace")
    try:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    except OSError as error:
        raise CannotStart(f"a user of its own in a user namespace: {error.strerror}") from None
    must(libc.unshare(NEW_OTHERS), "namespaces")


# --- the second fork: process 1 of the run ---


def furnish(disk_bytes: int) -> None:
    """What the run sees that no other run does: processes, work folder, scratch, loopback."""
    must(libc.mount(b"none", b"/", None, ctypes.c_ulong(RECURSIVE | PRIVATE), None), "private mounts")
    mount("proc", "/proc", NO_SUID | NO_DEV | NO_EXEC)
    interpreter = open_mounts_below(SCRATCH)
    for place in SCRATCH:
        mount("tmpfs", place, NO_SUID | NO_DEV, f"size={disk_bytes},nr_inodes={MAX_INODES},mode=1777")
    for place, below in interpreter.items():
        show_again(place, below)
    if os.path.isdir("/dev/pts"):
        mount("tmpfs", "/dev/pts", NO_SUID | NO_DEV | NO_EXEC | READ_ONLY, "size=4096,mode=0755")
    os.chdir("/workspace")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(any_socket, GET_FLAGS, request))[1]
        fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sH14x", b"lo", flags | UP))


def open_mounts_below(places: tuple[str, ...]) -> dict[str, int]:
    """What bwrap mounted below these: the interpreter, where its folder is in /tmp. Mount point -> a descriptor of it."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        points = [line.split()[4].encode().decode("unicode_escape") for line in file]  # a space is written \040
    found = [point for point in points if point.startswith(tuple(f"{place}/" for place in places))]
    return {point: os.open(point, os.O_PATH | os.O_CLOEXEC) for point in found}


def show_again(place: str, below: int) -> None:
    """What an empty folder was just mounted over. A copy of a mount keeps its flags: it stays read-only."""
    os.makedirs(os.path.dirname(place), exist_ok=True)
    if os.path.isdir(f"/proc/self/fd/{below}"):
        os.makedirs(place, exist_ok=True)
    else:
        os.close(os.open(place, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    source = f"/proc/self/fd/{below}".encode()
    must(libc.mount(source, place.encode(), None, ctypes.c_ulong(BIND | RECURSIVE), None), f"mount {place} again")
    os.close(below)


def drop_capabilities(kept: tuple[int, ...] = ()) -> None:
    """All capabilities but `kept`, for good: out of every set, the bounding set first."""
    number = 0
    while number < 64 and (number in kept or launch.prctl(PR_CAPBSET_DROP, number) == 0):
        number += 1
    launch.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    masks = [sum(1 << (bit - 32 * half) for bit in kept if bit // 32 == half) for half in (0, 1)]
    header = struct.pack("Ii", CAPABILITY_VERSION_3, 0)
    data = struct.pack("6I", masks[0], masks[0], 0, masks[1], masks[1], 0)
    must(libc.capset(header, data), "giving up capabilities")
    launch.prctl(launch.PR_SET_NO_NEW_PRIVS, 1)


def be_process_one(head: dict[str, Any], door: int | None) -> None:
    """Furnish the sandbox, fork the command, then serve as the launcher does."""
    furnish(head["disk_bytes"])
    drop_capabilities()
    streams = launch.Streams()
    word = os.pipe()
    pid = os.fork()
    if pid == 0:
        launch.enter(door)
        become_command(word[0], streams.inner)
    os.close(word[0])

    def start(order: dict[str, Any]) -> int:
        told = {name: order[name] for name in ("command", "env", "folder", "rlimits", "calls")}
        with os.fdopen(word[1], "wb") as pipe:
            pipe.write(json.dumps(told).encode())
        return pid

    launch.serve(streams, start)


# --- the third fork: the command ---


def become_command(word: int, inner: tuple[int, ...]) -> None:
    code = 127
    try:
        os.setsid()
        launch.take_streams((*inner, word))
        launch.prctl(launch.PR_SET_DUMPABLE, 1)
        with os.fdopen(launch.CHANNEL_FD + 1, "rb") as pipe:
            told = json.loads(pipe.read())
        os.chdir(told["folder"])
        os.environ.clear()
        os.environ.update(told["env"])
        launch.confine(told["rlimits"], told["calls"])
        code = run_file(told["command"])
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(2, f"sandbox: can't start: {error!r}\n".encode())
    os._exit(code)


def run_file(command: list[str]) -> int:
    """Run `python FILE ARGUMENT...` in this process as the interpreter would; its exit code."""
    words = [word for i, word in enumerate(command) if i and word not in INTERPRETER_OPTIONS]
    path = os.path.abspath(words[0])
    sys.argv = words
    sys.path.insert(0, os.path.dirname(path))
    sys.stdin, sys.stdout, sys.stderr = open(0, encoding="utf-8"), _writer(1), _writer(2)
    vars(sys).update(__stdin__=sys.stdin, __stdout__=sys.stdout, __stderr__=sys.stderr)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    module = types.ModuleType("__main__")
    module.__dict__.update(__file__=path, __builtins__=__builtins__)
    sys.modules["__main__"] = module
    sys.modules.pop("launch", None)
    gc.enable()
    code = 0
    try:
        with open(path, "rb") as file:
            text = file.read()
        exec(compile(text, path, "exec"), module.__dict__)  # noqa: S102 - that is what it is for
    except SystemExit as error:
        code = _exit_code(error)
    except BaseException as error:
        _show(error)
        code = 1
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    return code


def _writer(fd: int) -> Any:
    """As the interpreter opens stdout and stderr where they are pipes."""
    errors = "strict" if fd == 1 else "backslashreplace"
    return io.TextIOWrapper(open(fd, "wb"), encoding="utf-8", errors=errors, line_buffering=fd == 2)


def _exit_code(error: SystemExit) -> int:
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF
    print(error.code, file=sys.stderr)
    return 1


def _show(error: BaseException) -> None:
    """The traceback without our own frames."""
    trace = error.__traceback__
    with contextlib.suppress(BaseException):
        traceback.print_exception(type(error), error, trace.tb_next if trace else None)
        sys.stderr.flush()


# --- the warm parent ---


def begin_run(head: dict[str, Any], fds: list[int]) -> None:
    """The first fork: make the namespaces, fork process 1 into them and wait for it."""
    try:
        for target, fd in enumerate(fds):
            os.dup2(fd, target)
        os.closerange(len(fds), 1 << 20)
        enter_namespaces(head["uid"])
        pid = os.fork()
        if pid == 0:
            be_process_one(head, door=DOOR if len(fds) > DOOR else None)
        os.waitpid(pid, 0)
    except BaseException as error:
        os.write(2, f"warm start: {error}\n".encode())
    os._exit(0)


def reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def main() -> None:
    exec(compile(sys.argv[1], "launch.py", "exec"), launch.__dict__)  # noqa: S102 - our own text
    if not os.path.isdir("/proc/self"):  # started by root: bwrap's own /proc is one that can't be mounted anew inside
        mount("proc", "/proc", NO_SUID | NO_DEV | NO_EXEC)
        drop_capabilities(kept=(6, 7))  # setgid, setuid: each run becomes a user that nobody else is
    for name in sys.argv[3:]:
        __import__(name)
    if len(os.listdir("/proc/self/task")) != 1:
        raise CannotStart("importing left threads behind, which a fork would lose")
    control = socket.socket(fileno=int(sys.argv[2]))
    control.send(b"ready")
    sys.argv = [""]
    atexit._clear()  # what the imports left there is about this process
    gc.collect()
    gc.freeze()
    gc.disable()
    poller = select.poll()
    poller.register(control, select.POLLIN)
    while True:
        if not poller.poll(1000):
            reap()
            continue
        message, fds, _, _ = socket.recv_fds(control, 4096, 4)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            begin_run(json.loads(message), fds)
        for fd in fds:
            os.close(fd)
        reap()


if __name__ == "__main__":
    main()
