"""Limits by cgroup v2, where this process may make cgroups with the memory and pids controllers; else there are none.

Runs get theirs below SANDBOX_CGROUP, or below the cgroup that this process stands in. It counts what sampling can't:
kernel memory, files in memory, and a burst between two looks. The command joins by a descriptor that is opened here, so
that it needs no sight of /sys and no right of its own; the launcher stays outside and lives to report.

The descriptor is locked as long as anybody has it open: a cgroup without a lock is one of a grader that was killed, and
the next process that makes cgroups removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from graders.sandbox.result import Limits

CGROUP_VARIABLE = "SANDBOX_CGROUP"
NEEDED = frozenset({"memory", "pids"})
OURS = "sandbox-"
MIB = 1 << 20
REMOVE_S = 2.0


@dataclass(frozen=True)
class Cgroup:
    """One run's cgroup; whoever writes 0 to `door` is in it."""

    folder: Path
    door: int

    def was_out_of_memory(self) -> bool:
        return self._number("memory.events", "oom_kill ") > 0

    def peak_bytes(self) -> int:
        return self._number("memory.peak", "")

    def _number(self, name: str, before: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            lines = (self.folder / name).read_text().splitlines()
            return next((int(line.removeprefix(before)) for line in lines if line.startswith(before)), 0)
        return 0


@contextlib.contextmanager
def cgroup_of(limits: Limits) -> Iterator[Cgroup | None]:
    """A cgroup for one run, gone afterwards with all that is in it; None where there can be none."""
    made = _make(limits)
    try:
        yield made
    finally:
        if made:
            os.close(made.door)
            _remove(made.folder)


@lru_cache(maxsize=1)
def home() -> Path | None:
    """The cgroup below which runs get theirs."""
    named = os.environ.get(CGROUP_VARIABLE)
    folder = Path(named) if named else _own()
    if folder is None or not os.access(folder, os.W_OK):
        return None
    try:
        enabled = (folder / "cgroup.subtree_control").read_text().split()
    except OSError:
        return None
    return folder if set(enabled) >= NEEDED else None


def _own() -> Path | None:
    """Where the cgroup of this process lies in the v2 hierarchy."""
    with contextlib.suppress(OSError, StopIteration, IndexError):
        mounts = (line.split(" - ") for line in Path("/proc/self/mountinfo").read_text().splitlines())
        place = next(fields.split()[4] for fields, rest in mounts if rest.startswith("cgroup2 "))
        name = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
        return Path(place + name)
    return None


def _make(limits: Limits) -> Cgroup | None:
    parent = home()
    if parent is None:
        return None
    remove_left_over(parent)
    # Twice: another process that begins may have removed the first before its door was locked.
    return _made_in(parent, limits) or _made_in(parent, limits)


def _made_in(parent: Path, limits: Limits) -> Cgroup | None:
    folder = parent / f"{OURS}{secrets.token_hex(8)}"
    try:
        folder.mkdir()
        for name, value in _bounds(limits).items():
            if (folder / name).exists():
                (folder / name).write_text(str(value))
        return Cgroup(folder, _locked_door(folder))
    except OSError:
        _remove(folder)
        return None


def _locked_door(folder: Path) -> int:
    """Raises OSError where another has it open, or has just removed the cgroup."""
    door = os.open(folder / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(door, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.stat(folder)
    except OSError:
        os.close(door)
        raise
    return door


@lru_cache(maxsize=1)
def remove_left_over(parent: Path) -> None:
    """Remove the cgroups of graders that were killed: those without a lock on their door. Once a process."""
    for folder in parent.glob(f"{OURS}*"):
        with contextlib.suppress(OSError):
            door = _locked_door(folder)
            _remove(folder)
            os.close(door)


def _bounds(limits: Limits) -> Mapping[str, int]:
    """Files of the work folder are memory too."""
    return {
        "memory.max": (limits.memory_mb + limits.disk_mb) * MIB,
        "memory.swap.max": 0,
        "memory.oom.group": 1,
        "pids.max": limits.processes,
    }


def _remove(folder: Path) -> None:
    """Kill what is left and remove it; its processes take a moment to go."""
    with contextlib.suppress(OSError):
        (folder / "cgroup.kill").write_text("1")
    end = time.monotonic() + REMOVE_S
    while time.monotonic() < end:
        try:
            folder.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.01)
