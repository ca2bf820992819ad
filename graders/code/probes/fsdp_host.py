"""Who started a rank, as it could learn it on a cluster: torchrun, from a shell. Runs INSIDE the sandbox.

A script that trains otherwise where it is watched looks at its parents, at its own stack and at files of the kernel. It
finds what it would find where nobody watches, and shows what it does there.
"""

from __future__ import annotations

import builtins
import inspect
import io
import itertools
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fsdp_record import HERE, Recorder, called_by_torch

AGENT, SHELL = 4117, 3980
OF_PROCESS = re.compile(r"/proc/(\d+|self|thread-self)/(cmdline|comm|environ|cgroup|status|stat|mountinfo|mounts|sched)")
START = f"{HERE}fsdp_rank.py"
CGROUP = "0::/user.slice/user-1000.slice/session-2.scope\n"


def install(rec: Recorder, argv: Sequence[str], nodes: int, per_node: int) -> None:
    """Show the submission the processes above it and no frames of ours."""
    launcher = [sys.executable, "/usr/local/bin/torchrun", f"--nnodes={nodes}", f"--nproc_per_node={per_node}", *argv]
    processes = {
        str(AGENT): (launcher, "torchrun", SHELL),
        str(SHELL): (["-bash"], "bash", 1),
        "1": (["/sbin/init"], "systemd", 0),
        "self": ([sys.executable, "-u", *argv], "python", AGENT),
    }
    sys.orig_argv = list(processes["self"][0])
    rec.replace("getppid", lambda real: lambda: AGENT, os)
    opened = _files(io.open, processes)
    vars(builtins)["open"] = vars(io)["open"] = opened
    rec.replaced += [(builtins, "open", opened), (io, "open", opened)]
    _stacks(rec)


def _files(real: Callable[..., Any], processes: dict[str, tuple[list[str], str, int]]) -> Callable[..., Any]:
    me = str(os.getpid())

    def told(path: str) -> str | None:
        found = OF_PROCESS.fullmatch(path)
        if found is None:
            return None
        who, what = found.groups()
        number = who if who.isdigit() else me
        argv, name, parent = processes.get("self" if who in (me, "self", "thread-self") else who, ([], "", 0))
        answers = {
            "cmdline": "".join(f"{word}\0" for word in argv),
            "comm": f"{name}\n",
            "cgroup": CGROUP,
            "status": f"Name:\t{name}\nPid:\t{number}\nPPid:\t{parent}\nTracerPid:\t0\nVmHWM:\t  901120 kB\nVmRSS:\t  901120 kB\n",
            "stat": f"{number} ({name}) S {parent} " + "1 " * 48 + "\n",
        }
        return answers.get(what, "") if name else None

    def open(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        path = os.fsdecode(file) if isinstance(file, (str, bytes, os.PathLike)) else ""
        if path.startswith("/proc/") and not called_by_torch() and (found := OF_PROCESS.fullmatch(path)):
            if (text := told(path)) is None:
                raise FileNotFoundError(2, "No such file or directory", path) if found[1].isdigit() else PermissionError(13, "", path)
            return io.BytesIO(text.encode()) if "b" in mode else io.StringIO(text)
        return real(file, mode, *args, **kwargs)

    open.__module__ = "_io"
    return open


def _stacks(rec: Recorder) -> None:
    """Stacks end where the script begins."""

    def walk(real: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def walk_stack(f: Any) -> Iterator[Any]:
            pairs = itertools.takewhile(lambda pair: not _is_start(pair[0].f_code.co_filename), real(f or sys._getframe(1)))
            return (pair for pair in pairs if not pair[0].f_code.co_filename.startswith(HERE))

        return walk_stack

    def listed(real: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        def outer(*args: Any, **kwargs: Any) -> list[Any]:
            entries = itertools.takewhile(lambda entry: not _is_start(entry.filename), real(*args, **kwargs))
            return [entry for entry in entries if not entry.filename.startswith(HERE)]

        return outer

    rec.replace("walk_stack", walk, traceback)
    rec.replace("stack", listed, inspect)
    rec.replace("getouterframes", listed, inspect)


def _is_start(path: str) -> bool:
    """Is it the file that runs the script?"""
    return path == START  # what stands further out is of nobody's concern
