"""Running untrusted programs: one interface over bwrap, docker and (development only) a plain process.

Covered by bwrap: its own user, PID, network (no interface but its own loopback), IPC, UTS and mount namespaces;
system and interpreter read-only; home, project, data folder and environment absent; no capabilities, no new
privileges; work folder and /tmp in size-bounded memory; limits on CPU, address space, file size, threads, resident
memory of all processes together, output and wall time; everything left over is killed before results are read, and
results are regular files only. Started by root, the command runs under a uid that nobody else has, provided that the
interpreter can be read by everyone; where it can't, it stays uid 0 of a user namespace, without capabilities.

Not covered: kernel holes (there is no seccomp filter yet); limits do not use cgroups, so resident memory is sampled
20 times a second and a fast burst may overshoot up to the address-space limit per process; CPU shares, disk bandwidth
and side channels. The interpreter's installation path, kernel version and host CPU can be seen from inside. Kernels
before 5.14 count `processes` per user, not per sandbox. `process` isolates nothing: it refuses to start without
ALLOW_UNSAFE_SANDBOX=1, and each of its results says so. The docker backend has no test that runs it.
"""

from __future__ import annotations

from graders.sandbox.result import Limits, Result, SandboxError
from graders.sandbox.run import choose_backend, health, run

__all__ = ["Limits", "Result", "SandboxError", "choose_backend", "health", "run"]
