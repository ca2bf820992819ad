"""Limits on a sandboxed run and what it hands back; the same for every backend."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from graders.grade import GraderError


class SandboxError(GraderError):
    """No sandbox can be had, or it broke for a reason of ours; the message says what to install or set."""


@dataclass(frozen=True)
class Limits:
    """Bounds of one run. `cpu_s` None means twice the wall limit; `disk_mb` bounds the work folder and /tmp each."""

    wall_s: float = 60.0
    cpu_s: float | None = None
    memory_mb: int = 4096
    address_space_mb: int = 16384
    processes: int = 64
    disk_mb: int = 256
    file_mb: int = 64
    output_mb: int = 8
    tail_kb: int = 16
    channel_kb: int = 4096
    collect_mb: int = 16


@dataclass(frozen=True)
class Result:
    """What became of one run.

    `limit` names the limit that ended it: wall, memory, processes, output, or "". `exit_code` and `signal` are
    None when a limit ended it. `channel` is what the command wrote to descriptor 3. `files` holds the asked-for
    regular files that were there and small enough.
    """

    backend: str
    exit_code: int | None
    signal: int | None
    timed_out: bool
    limit: str
    wall_s: float
    cpu_s: float
    peak_memory_mb: float
    stdout: str
    stderr: str
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    channel: bytes = b""
    files: dict[str, bytes] = field(default_factory=dict)
    # Whether the run could reach the network: only the process backend can't shut it out.
    network: bool = False
    # Forked from a parent that had torch imported; else `why_cold` says why not, "" when it was not asked for.
    warm: bool = False
    why_cold: str = ""
    # Memory and processes were bounded by a cgroup of its own; else by rlimits and by looking 20 times a second.
    cgroup: bool = False

    def facts(self) -> dict[str, Any]:
        """What a grade keeps of the run: everything but the streams and files."""
        data = asdict(self)
        for name in ("stdout", "stderr", "channel", "files"):
            del data[name]
        return data
