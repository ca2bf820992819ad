"""What a node is beside its GPUs: its name, its scheduler, its driver's files. Runs INSIDE the sandbox.

The launches run on unlike machines, so that a program that is right on one kind of machine only is seen on another: one
node that is run by hand from a terminal, and nodes that Slurm manages, whose output goes to files. The driver's tool and
files are on both.
"""

from __future__ import annotations

import io
import os
import platform
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any

from fsdp_record import Recorder, called_by_torch

DRIVER = ("/dev/nvidia", "/proc/driver/nvidia")
TOOL = """\
#!/bin/sh
echo "{name}"
"""


def environment(managed: bool, node: int, nodes: int, gpus: int) -> dict[str, str]:
    """The variables that the machine gives, as under `srun torchrun` where it is managed."""
    given: dict[str, Any] = {"USER": "trainer", "LOGNAME": "trainer", "NVIDIA_VISIBLE_DEVICES": "all"}
    if not managed:
        given |= {"TERM": "xterm-256color", "COLUMNS": 120, "LINES": 40}
    else:
        given |= {
            "HOSTNAME": host(node),
            "KUBERNETES_SERVICE_HOST": "10.0.0.1",
            "SLURM_JOB_ID": 4711,
            "SLURM_JOBID": 4711,
            "SLURM_JOB_NAME": "train",
            "SLURM_NTASKS": nodes,
            "SLURM_NPROCS": nodes,
            "SLURM_NNODES": nodes,
            "SLURM_JOB_NUM_NODES": nodes,
            "SLURM_NTASKS_PER_NODE": 1,
            "SLURM_PROCID": node,
            "SLURM_NODEID": node,
            "SLURM_LOCALID": 0,
            "SLURM_GPUS_ON_NODE": gpus,
            "SLURM_NODELIST": f"gpu-node-[1-{nodes}]",
            "SLURM_JOB_NODELIST": f"gpu-node-[1-{nodes}]",
            "SLURMD_NODENAME": host(node),
        }
    return {name: str(value) for name, value in given.items()}


def host(node: int) -> str:
    return f"gpu-node-{node + 1}"


def put_tool(folder: str, name: str) -> None:
    """nvidia-smi, for a look-up on the PATH."""
    os.makedirs(folder, exist_ok=True)
    path = f"{folder}/nvidia-smi"
    with open(path, "w", encoding="utf-8") as file:
        file.write(TOOL.format(name=name))
    os.chmod(path, 0o700)


def install(rec: Recorder, env: Mapping[str, str]) -> None:
    """Show the submission this node."""

    def answer(name: str, owner: Any, told: Callable[..., Any]) -> None:
        rec.replace(name, lambda real: lambda *a, **k: real(*a, **k) if called_by_torch() else told(real, *a, **k), owner)

    for name in ("stat", "lstat", "access"):
        answer(name, os, lambda real, path, *a, **k: real(os.devnull if _is_driver(path) else path, *a, **k))
    if "SLURM_JOB_ID" not in env:
        answer("isatty", os, lambda real, fd: fd in (0, 1, 2) or real(fd))
    else:
        name = env["HOSTNAME"]
        answer("gethostname", socket, lambda real: name)
        answer("getfqdn", socket, lambda real, *a: name)
        answer("gethostbyname", socket, lambda real, asked: env["MASTER_ADDR"] if asked == name else real(asked))
        answer("node", platform, lambda real: name)
        answer("uname", os, lambda real: os.uname_result((real()[0], name, *real()[2:])))
        answer("cpu_count", os, lambda real: 96)


class Terminal(io.TextIOWrapper):
    """A stream of a program that was started by hand."""

    def isatty(self) -> bool:
        return True


def streams(env: Mapping[str, str]) -> None:
    """The standard streams: a terminal's, or files."""
    kind = io.TextIOWrapper if "SLURM_JOB_ID" in env else Terminal
    for fd, name, mode in ((0, "stdin", "rb"), (1, "stdout", "wb"), (2, "stderr", "wb")):
        plain: Any = open(fd, mode, closefd=False)
        setattr(sys, name, kind(plain, encoding="utf-8", errors="replace", line_buffering=True))


def _is_driver(path: Any) -> bool:
    return isinstance(path, (str, os.PathLike)) and str(path).startswith(DRIVER)
