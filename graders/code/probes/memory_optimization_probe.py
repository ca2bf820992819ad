"""Runs a memory_optimization submission on a pretended GPU and reports facts about it. Runs INSIDE the sandbox, beside untrusted code.

stdin: a JSON order with the nonce; descriptor 3: one JSON report that repeats it. What the submission prints goes to
stdout and is read there, outside the sandbox, for the lines of its contract only.
"""

from __future__ import annotations

import ast
import builtins
import difflib
import math
import os
import re
import shutil
import sys
import types
import warnings
from contextlib import nullcontext
from typing import Any

import torch

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import missing_names
import seal
import surroundings
from absent import stand_in
from asked_names import watched
from error_lines import steps_in
from guard import Guard
from memory_techniques import findings
from pretend_gpu import PretendGpu
from program_text import Deletions, Entered, Mended, Stop, absent_packages, given, guarded, lacking, overwriting, tried
from training_hooks import IN_PLACE, listen
from training_log import TrainingLog

OURS = (
    "absent", "asked_names", "surroundings", "plain_host", "across", "pretend_gpu", "training_calls", "training_passes", "gradient_paths",
    "freed_tensors", "known_parameters", "training_log", "training_hooks", "memory_techniques", "program_text",
    "calls_as_meant", "guard", "missing_names", "error_lines", "seal",
    "memory_optimization_probe",
)  # fmt: skip
ARGUMENTS = ("--steps", "6")
OPTIONS = {"--steps", "--batch-size", "--d-model", "--n-layers", "--lr"}
MIB = 1 << 20
NOT_OURS = {
    "builtins": ("print", "input", "breakpoint", "help", "exit", "quit"), "torch.Tensor": ("detach", "abs", "max"),
    "torch": ("manual_seed", "randint", "Generator", "isfinite", "no_grad", "enable_grad"), "torch.autograd": ("backward", "grad"),
}  # fmt: skip


def run(path: str, log: TrainingLog, asked: list[str], stopped: list[Stop]) -> None:
    """The submission as `python train.py --steps 6`; `asked` gets what it reaches for by names that it computes.

    `stopped`: the errors that ended it when it was run before, which it is helped past.
    """
    log.mended += [(stop.error, stop.line) for stop in stopped]
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read(), path)
    log.guarded += guarded(tree)
    tree = Deletions().visit(tree)
    if stopped:
        tree = ast.fix_missing_locations(Mended(stopped).visit(tree))
    for package in absent_packages(tree):
        log.mended.append((f"ModuleNotFoundError: No module named {package[0]!r}", package[1]))
        stand_in(package[0])
    program = compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)  # not our __future__
    seal.PLAIN["inspect.py"] = {"object.__getattr__"}  # inspect.signature, by which programs ask for an optimizer's options
    seal.PLAIN["ast.py"] = {"compile"}  # literals, and texts that are only parsed
    seal.watch(*OURS)
    module = types.ModuleType("__main__")
    ours = {
        "__deleting__": log.freeing.deleting,
        "__deleted__": log.freeing.deleted,
        "__entered__": Entered,
        "__tried__": tried,
        "__given__": given,
        "__lacking__": lacking,
    }
    vars(builtins).update(ours)  # where they are no names of the program's
    vars(module).update(__file__=path, **watched(asked, lambda text: ast.fix_missing_locations(Deletions().visit(text)), {}))
    for name in {name for error, *_ in stopped for name in re.findall(r"NameError: name '(\w+)' is not defined", error)}:
        if missing_names.is_known(name):
            vars(module)[name] = missing_names.imported(name)
    seal.OWN.append(vars(module))
    sys.modules["__main__"] = module
    sys.argv = [os.path.basename(path), *ARGUMENTS]
    leave_no_trace()
    overwritten = any(IN_PLACE in error for error, *_ in stopped)  # then what the backward pass needs is kept for it
    try:
        with overwriting() if overwritten else nullcontext():
            exec(program, vars(module))  # noqa: S102 - the submission, in its sandbox
    except SystemExit as end:
        if end.code not in (None, 0):
            raise RuntimeError(f"the program ended with exit code {end.code}") from end


def leave_no_trace() -> None:
    """What is loaded is needed in no folder any more, where the program would see it."""
    here = os.path.dirname(os.path.abspath(__file__))
    if os.path.basename(here) == "run" and os.path.dirname(here) == os.getcwd():
        shutil.rmtree(here, ignore_errors=True)


def examine(path: str, stopped: list[Stop]) -> dict[str, Any]:
    """The report: runs, error, the line where it stopped, verdicts, tampered, trace_error, and figures of the training."""
    report: dict[str, Any] = {
        "runs": False, "error": None, "option_gone": "", "stopped": 0, "span": [], "verdicts": {}, "tampered": [], "asked": [],
        "trace_error": None, "figures": {},
    }  # fmt: skip
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    gpu = PretendGpu()
    with gpu:
        log = TrainingLog(gpu, path)
        listen(log, gpu)
        surroundings.like_a_gpu_machine(gpu, [os.path.basename(path), *ARGUMENTS])
        guard, asked = Guard(), list[str]()
        try:
            run(path, log, asked, stopped)
            report["runs"] = not log.mended
        except BaseException as error:
            report["error"], (report["stopped"], report["span"]) = describe(error, path), where(error, path)
        if gone := sorted(OPTIONS - log.options) if log.options else []:
            report["runs"], report["option_gone"] = False, gone[0]
            log.mended.append((f"the starter's option {gone[0]} is gone: a call with it ends with a usage error", 0))
        if log.mended:
            told, line = log.mended[0]
            first = f"{told} (line {line})" if line else told
            # what ended it is needed by the next run, which helps it past that
            report["error"] = f"{first}, and then {report['error']}"[:2000] if report["stopped"] else first
        modes = gpu.are_on()
    report["asked"] = asked[:8]
    replaced = [name for name in guard.changed()[0] if not harmless(name)]
    report["tampered"] = [*(f"{name}, which it replaced" for name in replaced), *([] if modes else ["torch's modes"])]
    if log.training:
        report["figures"] = figures(log, gpu)
    if report["runs"] or log.training:
        try:
            report["verdicts"] = findings(log)
        except BaseException as error:
            report["trace_error"] = describe(error, path)
    return report


def harmless(replaced: str) -> bool:
    """A function that nothing here is made of: whoever replaces it is seen doing what it does then."""
    space, _, name = replaced.rpartition(".")
    return space == "nn.Module" or name in NOT_OURS.get(space, ())


def figures(log: TrainingLog, gpu: PretendGpu) -> dict[str, float]:
    found = {
        "peak_mb": gpu.storages.peak / MIB,
        "n_parameters": log.n_parameters,
        "samples": sum(f.samples for f in log.training),
        "passes": len(log.training),
        "pixels": sum(f.pixels for f in log.training),
        "tokens": sum(f.tokens for f in log.training),
        "last_loss": log.training[-1].losses[-1][1] if log.training[-1].losses else -1.0,
    }
    return {name: value if math.isfinite(value) else -1.0 for name, value in found.items()}


def where(error: BaseException, path: str) -> tuple[int, list[int]]:
    """(line of the program that an error passed last, and the span of what failed there); 0 and nothing where there is none."""
    if isinstance(error.__cause__, SystemExit):
        error = error.__cause__.__context__ or error.__cause__  # what the program caught before it left
    steps = steps_in(path, error.__traceback__)
    if not steps:
        return 0, []
    last = steps[0]
    span = list(last.tb_frame.f_code.co_positions())[last.tb_lasti // 2] if last.tb_lasti >= 0 else ()
    runs = not (isinstance(error, SyntaxError) and error.filename == path)
    return last.tb_lineno if runs else 0, [n or 0 for n in span]


def describe(error: BaseException, path: str) -> str:
    """The error and the last line of the submission that it passed."""
    place = f" (line {line})" if (line := where(error, path)[0]) else ""
    there = dir(error.obj) if isinstance(error, AttributeError) and isinstance(error.obj, types.ModuleType) else []
    nearly = difflib.get_close_matches(error.name or "", there, 1) if isinstance(error, AttributeError) else []
    meant = f". Did you mean: {nearly[0]!r}?" if nearly else ""
    return f"{type(error).__name__}: {error}{meant}{place}"[:2000]


def main() -> None:
    order, report = seal.take_order()
    torch.set_num_threads(1)
    facts = examine(os.path.abspath(order["path"]), [Stop(error, line, tuple(span)) for error, line, span in order.get("stopped", [])])
    sys.stdout.flush()
    report(facts)


if __name__ == "__main__":
    main()
