"""A memory_optimization submission on a real GPU, where this machine has one: does it run there, and what is its peak?

The eighteen techniques are decided on the pretended GPU, the same on every machine. The real one stands beside it as
evidence, and as a second opinion: where the two differ in whether a program runs, or its process leaves the real one
empty, the grade gives neither pass nor fail.
Not told by the real one: a lack of memory, which others on the same GPU may have caused, and a run over its time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from graders.code.channel import ask_probe
from graders.code.scores import wrong_fields
from graders.sandbox import Limits

PROBE, MODULES = "gpu_probe.py", ("error_lines.py", "seal.py")
# CUDA maps gigabytes of libraries, and starts threads of its own. The first run of a compiled program compiles.
MEMORY_MB, PROCESSES, LONGEST_S = 12288, 256, 180.0
KEPT_S = 1800  # how long the starter's run stands, good or bad
# What others on the GPU, the driver or the compilers of this machine may have to answer for.
NOT_OF_THE_PROGRAM = ("out of memory", "OutOfMemoryError", "CUDA-capable device", "CUDA driver", "InductorError", "BackendCompilerFailed")


@dataclass(frozen=True)
class GpuRun:
    """What became of it on `device`. `error` is empty where it ran to its end; peaks in MiB, the allocator's."""

    device: str
    error: str
    peak_mb: float
    reserved_mb: float
    starter_peak_mb: float
    wall_s: float
    stdout: str
    ended: bool  # by itself, in time, with its report

    @property
    def says(self) -> bool | None:
        """Does the program run on a GPU? None where this run does not tell."""
        if not self.device or not self.ended or any(words in self.error for words in NOT_OF_THE_PROGRAM):
            return None
        return not self.error

    def facts(self) -> dict[str, Any]:
        """What a grade keeps of it."""
        told = asdict(self) | {"runs": self.says}
        for name in ("stdout", "ended"):
            del told[name]
        return {name: round(value, 1) if isinstance(value, float) else value for name, value in told.items()}


def run(source: str, starter: str, backend: str) -> GpuRun:
    """Run it where runs get a GPU (`sandbox.has_gpu`). Raises SandboxError when no sandbox can be used."""
    starters = _starter_on_gpu(starter, backend, int(time.monotonic() // KEPT_S))
    if not starters.says:
        why = f"the task's starter does not run on the GPU here: {starters.error or 'it did not end'}"
        return GpuRun("", why, 0.0, 0.0, 0.0, 0.0, "", ended=False)
    return _run(source, starters.peak_mb, backend)


@lru_cache(maxsize=4)
def _starter_on_gpu(starter: str, backend: str, period: int) -> GpuRun:
    """The starter's own run, once in a while: a GPU that is full or broken may be well later. `period` keys the cache."""
    return _run(starter, 0.0, backend)


def _run(source: str, starter_peak_mb: float, backend: str) -> GpuRun:
    limits = Limits(wall_s=LONGEST_S, memory_mb=MEMORY_MB, processes=PROCESSES)
    answer = ask_probe(PROBE, MODULES, source, check=check_report, limits=limits, backend=backend, name="train.py", on_gpu=True)
    result, facts = answer.result, answer.facts
    if facts is None:
        ended = f"{result.limit} limit" if result.limit else f"signal {result.signal}" if result.signal else "no report"
        error = f"its run on the GPU ended with {answer.odd or ended}"
        return GpuRun("", error, 0.0, 0.0, starter_peak_mb, result.wall_s, result.stdout, ended=False)
    rest = {name: facts[name] for name in ("device", "error", "peak_mb", "reserved_mb")}
    return GpuRun(**rest, starter_peak_mb=starter_peak_mb, wall_s=result.wall_s, stdout=result.stdout, ended=True)


def check_report(report: Mapping[str, Any]) -> str:
    """What is wrong with a report, or ""."""
    if wrong := wrong_fields(report, {"device": str, "error": str, "peak_mb": float, "reserved_mb": float}):
        return wrong
    if len(report["device"]) > 200 or len(report["error"]) > 2100:
        return "device or error too long"
    peaks = (report["peak_mb"], report["reserved_mb"])
    return "" if all(math.isfinite(peak) and peak >= 0 for peak in peaks) else "odd peaks"
