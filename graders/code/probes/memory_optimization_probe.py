"""Runs a memory_optimization submission on a pretended GPU and reports facts about it. Runs INSIDE the sandbox, beside untrusted code.

stdin: a JSON order with the nonce; descriptor 3: one JSON report that repeats it. What the submission prints goes to
stdout and is read there, outside the sandbox, for the lines of its contract only.
"""

from __future__ import annotations

import ast
import importlib.util
import math
import os
import sys
import traceback
import types
import warnings
from contextlib import nullcontext
from typing import Any

import torch

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import seal
import surroundings
from absent import stand_in
from asked_names import watched
from guard import Guard
from memory_techniques import findings
from pretend_gpu import PretendGpu
from training_hooks import listen
from training_log import TrainingLog

OURS = (
    "absent", "asked_names", "surroundings", "pretend_gpu", "training_calls", "training_passes", "gradient_paths", "training_log",
    "training_hooks", "memory_techniques", "guard", "seal", "memory_optimization_probe",
)  # fmt: skip
ARGUMENTS = ("--steps", "6")
OPTIONS = {"--steps", "--batch-size", "--d-model", "--n-layers", "--lr"}
MIB = 1 << 20


class Deletions(ast.NodeTransformer):
    """Puts a call before and after each `del` and each `name = None`, so that what it frees is seen."""

    def visit_Delete(self, node: ast.Delete) -> list[ast.stmt]:
        return self._around(node, node.targets)

    def visit_Assign(self, node: ast.Assign) -> list[ast.stmt] | ast.Assign:
        self.generic_visit(node)
        values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
        if not all(isinstance(value, ast.Constant) and value.value is None for value in values):
            return node
        targets = [t for target in node.targets for t in (target.elts if isinstance(target, ast.Tuple) else [target])]
        return self._around(node, targets) if all(isinstance(t, ast.Name) for t in targets) else node

    def _around(self, node: ast.stmt, targets: list[ast.expr]) -> list[ast.stmt]:
        nothing = ast.arguments([], [], None, [], [], None, [])
        asked = [ast.parse(ast.unparse(t), mode="eval").body for t in targets]  # to be read, not to be written
        things = ast.List([ast.Lambda(nothing, value) for value in asked], ast.Load())
        before = ast.Expr(ast.Call(ast.Name("__deleting__", ast.Load()), [ast.Constant(node.lineno), things], []))
        after = ast.Expr(ast.Call(ast.Name("__deleted__", ast.Load()), [], []))
        return [ast.fix_missing_locations(ast.copy_location(n, node)) if n is not node else n for n in (before, node, after)]


class Mended(ast.NodeTransformer):
    """Lets the program go on past the calls that ended it: what they were given, or what held before, stands in for their result."""

    def __init__(self, lines: set[int]) -> None:
        self.lines = lines

    def visit_With(self, node: ast.With) -> ast.AST:
        self.generic_visit(node)
        kept = [item for item in node.items if item.context_expr.lineno not in self.lines]
        nothing = ast.withitem(ast.Call(ast.Name("__nothing__", ast.Load()), [], []))
        return node if len(kept) == len(node.items) else ast.With(kept or [nothing], node.body)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if not isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr, ast.Return)):
            return node
        if not self.lines & set(range(node.lineno, (node.end_lineno or node.lineno) + 1)):
            return node
        if isinstance(node, ast.Return):
            value = node.value
            given = value.args[0] if isinstance(value, ast.Call) and value.args else None
            return ast.Try([node], [_on_error(ast.Return(given))], [], []) if given else node
        return ast.Try([node], [_on_error(ast.Pass())], [], [])


def _on_error(statement: ast.stmt) -> ast.ExceptHandler:
    return ast.ExceptHandler(ast.Name("Exception", ast.Load()), None, [statement])


def absent_packages(tree: ast.Module) -> list[tuple[str, int]]:
    """(package, line) of each import outside try and functions that can't be found here."""
    imports = [n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))]
    named = [(a.name, n.lineno) for n in imports if isinstance(n, ast.Import) for a in n.names]
    named += [(n.module or "", n.lineno) for n in imports if isinstance(n, ast.ImportFrom)]
    roots = {name.partition(".")[0]: line for name, line in reversed(named)}
    return [(root, line) for root, line in roots.items() if root and importlib.util.find_spec(root) is None]


def run(path: str, log: TrainingLog, asked: list[str], stopped: list[tuple[str, int]]) -> None:
    """The submission as `python train.py --steps 6`; `asked` gets what it reaches for by names that it computes.

    `stopped`: the errors that ended it when it was run before, which it is helped past.
    """
    log.mended += stopped
    with open(path, encoding="utf-8") as file:
        tree = Deletions().visit(ast.parse(file.read(), path))
    if stopped:
        tree = ast.fix_missing_locations(Mended({line for _, line in stopped}).visit(tree))
    for package in absent_packages(tree):
        log.mended.append((f"ModuleNotFoundError: No module named {package[0]!r}", package[1]))
        stand_in(package[0])
    program = compile(ast.fix_missing_locations(tree), path, "exec")
    seal.PLAIN["inspect.py"] = {"object.__getattr__"}  # inspect.signature, by which programs ask for an optimizer's options
    seal.PLAIN["ast.py"] = {"compile"}  # literals, and texts that are only parsed
    surroundings.tell.append(seal.watch(*OURS))
    module = types.ModuleType("__main__")
    ours = {"__deleting__": log.deleting, "__deleted__": log.deleted, "__nothing__": nullcontext}
    vars(module).update(__file__=path, **watched(asked, lambda text: ast.fix_missing_locations(Deletions().visit(text)), ours))
    seal.OWN.append(vars(module))
    sys.modules["__main__"] = module
    sys.argv = [path, *ARGUMENTS]
    try:
        exec(program, vars(module))  # noqa: S102 - the submission, in its sandbox
    except SystemExit as end:
        if end.code not in (None, 0):
            raise RuntimeError(f"the program ended with exit code {end.code}") from end


def examine(path: str, stopped: list[tuple[str, int]]) -> dict[str, Any]:
    """The report: runs, error, the line where it stopped, verdicts, tampered, trace_error, and figures of the training."""
    report: dict[str, Any] = {
        "runs": False, "error": None, "stopped": 0, "verdicts": {}, "tampered": [], "trace_error": None, "figures": {},
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
            report["error"], report["stopped"] = describe(error, path), line_of(error, path)
        if gone := sorted(OPTIONS - log.options) if log.options else []:
            log.mended.append((f"the starter's option {gone[0]} is gone: a call with it ends with a usage error", 0))
            report["runs"] = False
        if log.mended:
            told, line = log.mended[0]
            report["error"] = f"{told} (line {line})" if line else told
        modes = gpu.are_on()
    report["tampered"] = [*asked[:8], *(f"{name}, which it replaced" for name in guard.changed()[0]), *([] if modes else ["torch's modes"])]
    if log.training:
        report["figures"] = figures(log, gpu)
    if report["runs"] or log.training:
        try:
            report["verdicts"] = findings(log)
        except BaseException as error:
            report["trace_error"] = describe(error, path)
    return report


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


def line_of(error: BaseException, path: str) -> int:
    rows = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    return rows[-1] or 0 if rows else 0


def describe(error: BaseException, path: str) -> str:
    """The error and the last line of the submission that it passed."""
    where = f" (line {line})" if (line := line_of(error, path)) else ""
    return f"{type(error).__name__}: {error}{where}"[:2000]


def main() -> None:
    order, report = seal.take_order()
    torch.set_num_threads(1)
    facts = examine(os.path.abspath(order["path"]), [(error, line) for error, line in order.get("stopped", [])])
    sys.stdout.flush()
    report(facts)


if __name__ == "__main__":
    main()
