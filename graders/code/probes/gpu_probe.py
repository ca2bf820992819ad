"""Runs a memory_optimization submission on the GPU that is there and reports what it needed. Runs INSIDE the sandbox.

stdin: a JSON order with the nonce; descriptor 3: one JSON report that repeats it. The peak is the allocator's
(torch.cuda.max_memory_allocated), whatever the program resets on the way. Probe and program share a process, so a program
can give itself another peak: no grade passes by this report.
"""

from __future__ import annotations

import os
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import seal
from error_lines import place_in

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # a pool of compilers breaks the limit on processes
import torch

ARGUMENTS = ("--steps", "6")
MIB = 1 << 20
RESETS = ("_cuda_resetPeakMemoryStats", "_accelerator_resetPeakStats")


class Peak:
    """The most bytes that were allocated and reserved on the GPUs, also before the program sets the count back."""

    def __init__(self) -> None:
        self.allocated = self.reserved = 0
        for name in RESETS:
            if hasattr(torch._C, name):
                setattr(torch._C, name, self._read_before(getattr(torch._C, name)))

    def read(self) -> None:
        gpus = range(torch.cuda.device_count())
        self.allocated = max(self.allocated, sum(torch.cuda.max_memory_allocated(i) for i in gpus))
        self.reserved = max(self.reserved, sum(torch.cuda.max_memory_reserved(i) for i in gpus))

    def _read_before(self, reset: Callable[..., Any]) -> Callable[..., Any]:
        def read_and_reset(*args: Any) -> Any:
            self.read()
            return reset(*args)

        return read_and_reset


def run(path: str) -> str:
    """The submission as `python train.py --steps 6`; the error that ended it, or an empty text."""
    with open(path, encoding="utf-8") as file:
        source = file.read()
    module = types.ModuleType("__main__")
    module.__file__ = path
    sys.modules["__main__"] = module
    sys.argv = [os.path.basename(path), *ARGUMENTS]
    try:
        exec(compile(source, path, "exec", dont_inherit=True), vars(module))  # noqa: S102 - the submission, in its sandbox
        torch.cuda.synchronize()  # what was still to be computed may fail
    except SystemExit as end:
        return f"the program ended with exit code {end.code}" if end.code not in (None, 0) else ""
    except BaseException as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {error}{place_in(path, error.__traceback__)}"[:2000]
    return ""


def main() -> None:
    order, report = seal.take_order()
    if not torch.cuda.is_available():
        report({"device": "", "error": "torch sees no GPU", "peak_mb": 0.0, "reserved_mb": 0.0})
    peak = Peak()
    error = run(os.path.abspath(order["path"]))
    sys.stdout.flush()
    peak.read()
    device = torch.cuda.get_device_name(0)
    report({"device": device, "error": error, "peak_mb": peak.allocated / MIB, "reserved_mb": peak.reserved / MIB})


if __name__ == "__main__":
    main()
