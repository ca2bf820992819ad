"""Running untrusted programs: one interface over bwrap, docker and (development only) a plain process.

Covered by bwrap: its own user, PID, network (no interface but its own loopback), IPC, UTS and mount namespaces;
system and interpreter read-only; home, project, data folder and environment absent; no capabilities, no new
privileges; a seccomp filter (seccomp.py); work folder and /tmp in size-bounded memory; limits on CPU, address space,
file size, threads, resident memory of all processes together, output and wall time; everything left over is killed
before results are read, and results are regular files only. Started by root, the command runs under a uid that nobody
else has, provided that the interpreter can be read by everyone; where it can't, it stays uid 0 of a user namespace,
without capabilities. A warm start (`warm=True`; zygote.py) has all of this too: it forks from a parent that itself
stands in such a sandbox and has torch imported, into namespaces of the run's own. Where it can't be had the run
starts cold, and `Result.why_cold` says why.

Not covered: kernel holes; without a cgroup, resident memory is sampled 20 times a second and a fast burst may
overshoot up to the address-space limit per process, and kernel memory (sockets, inodes) is not counted; CPU shares,
disk bandwidth and side channels. The interpreter's installation path, kernel version and host CPU can be seen from
inside. Kernels before 5.14 count `processes` per user, not per sandbox. Warm runs of one parent share its address
layout and hash seed. `process` isolates nothing: it refuses to start without ALLOW_UNSAFE_SANDBOX=1, and each of its
results says so. The docker backend has no test that runs it. A run with a GPU (`on_gpu=True`) can reach the driver and all
of the GPU's memory, and has no limit on its address space.
"""

from __future__ import annotations

from graders.sandbox.result import Limits, Result, SandboxError
from graders.sandbox.run import choose_backend, has_gpu, health, run

__all__ = ["Limits", "Result", "SandboxError", "choose_backend", "has_gpu", "health", "run"]
