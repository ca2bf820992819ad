"""The GPUs of this machine that a run is given where it asks for one: `SANDBOX_GPUS` says which.

all (where nothing is said): each that the driver shows; `device=0,2`: these; none: no run gets one. A run that does not ask
sees none. Docker hands GPUs on by means of its own, and only where SANDBOX_GPUS is set.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from graders.sandbox.result import SandboxError

GPUS_VARIABLE = "SANDBOX_GPUS"
ALL, NONE = "all", "none"
DEV = Path("/dev")
SHARED = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset", "nvidia-caps")  # of the driver, for every GPU
LIBRARIES = "LD_LIBRARY_PATH"  # by which images that get their driver from outside find it


def device_files() -> tuple[str, ...]:
    """What a run needs of /dev to use the GPUs it may have; empty where there is none to have. Raises SandboxError."""
    chosen = _chosen()
    gpus = [path for path in sorted(DEV.glob("nvidia[0-9]*")) if chosen is None or path.name.removeprefix("nvidia") in chosen]
    shared = [DEV / name for name in SHARED if (DEV / name).exists()]
    return tuple(map(str, (*gpus, *shared))) if gpus else ()


def for_docker() -> str:
    """What `docker run --gpus` takes, or "" for none."""
    told = os.environ.get(GPUS_VARIABLE, NONE)
    return "" if told == NONE else told


def environment() -> dict[str, str]:
    """What the driver's libraries are found by, where that is told by the environment."""
    return {LIBRARIES: os.environ[LIBRARIES]} if os.environ.get(LIBRARIES) else {}


def _chosen() -> Sequence[str] | None:
    """The numbers of the GPUs that runs may have; None for all."""
    told = os.environ.get(GPUS_VARIABLE, ALL)
    if told in (ALL, NONE):
        return None if told == ALL else ()
    if not re.fullmatch(r"device=\d+(,\d+)*", told):
        raise SandboxError(f"{GPUS_VARIABLE} is {told!r}, allowed: all, none, device=0 or device=0,2")
    return told.removeprefix("device=").split(",")
