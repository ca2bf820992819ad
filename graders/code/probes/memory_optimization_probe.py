"""Runs a memory_optimization submission on a pretended GPU and reports facts about it. Runs INSIDE the sandbox, beside untrusted code.

stdin: a JSON order with the nonce; descriptor 3: one JSON report that repeats it. What the submission prints goes to
stdout and is read there, outside the sandbox, for the lines of its contract only.
"""

from __future__ import annotations

import ast
import builtins
import difflib
import importlib.util
import math
import os
import re
import sys
import traceback
import types
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import missing_names
import seal
import surroundings
from absent import stand_in
from asked_names import watched
from guard import Guard
from memory_techniques import findings
from pretend_gpu import PretendGpu
from training_hooks import IN_PLACE, listen
from training_log import TrainingLog

OURS = (
    "absent", "asked_names", "surroundings", "pretend_gpu", "training_calls", "training_passes", "gradient_paths", "known_parameters",
    "training_log", "training_hooks", "memory_techniques", "guard", "missing_names", "seal", "memory_optimization_probe",
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

    def __init__(self, stopped: list[tuple[str, int]]) -> None:
        self.lines, self.stopped = {line for _, line in stopped}, stopped

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """An argument that the function does not know is left out."""
        self.generic_visit(node)
        unknown = self._told(node, r"unexpected keyword argument '(\w+)'")
        node.keywords = [keyword for keyword in node.keywords if keyword.arg is None or keyword.arg not in unknown]
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """A name that is not there means the one that is nearly it."""
        self.generic_visit(node)
        if node.attr in self._told(node, r"has no attribute '(\w+)'"):
            node.attr = next(iter(self._told(node, r"Did you mean: '(\w+)'")), node.attr)
        return node

    def _told(self, node: ast.expr, pattern: str) -> set[str]:
        """What the errors of these lines name."""
        lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        return {name for error, line in self.stopped if line in lines for name in re.findall(pattern, error)}

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        return ast.copy_location(ast.Pass(), node) if self._is_stopped(node) else node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return ast.copy_location(ast.Pass(), node) if self._is_stopped(node) else node

    def _is_stopped(self, node: ast.stmt) -> bool:
        return not self.lines.isdisjoint(range(node.lineno, (node.end_lineno or node.lineno) + 1))

    def visit_With(self, node: ast.With) -> ast.AST:
        self.generic_visit(node)
        for item in node.items:
            if item.context_expr.lineno in self.lines:
                nothing = ast.arguments([], [], None, [], [], None, [])
                item.context_expr = ast.Call(ast.Name("__tried__", ast.Load()), [ast.Lambda(nothing, item.context_expr)], [])
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if not isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr, ast.Return)):
            return node
        if not self._is_stopped(node):
            return node
        if isinstance(node, ast.Return):
            value = node.value
            given = value.args[0] if isinstance(value, ast.Call) and value.args else None
            return ast.Try([node], [_on_error(ast.Return(given))], [], []) if given else node
        return ast.Try([node], [_on_error(_given_instead(node))], [], [])


class Tried:
    """A context that can't be had is none; the program goes on without it."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make, self.held = make, nullcontext()

    def __enter__(self) -> Any:
        try:
            held = self.make()
            value = held.__enter__()
        except Exception:
            return None
        self.held = held
        return value

    def __exit__(self, *error: Any) -> Any:
        return self.held.__exit__(*error)


def _given_instead(node: ast.stmt) -> ast.stmt:
    """For a name that has no value yet: what the call was given."""
    target = node.targets[0] if isinstance(node, ast.Assign) else None
    if not isinstance(target, ast.Name) or not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call) or not node.value.args:
        return ast.Pass()
    asked = ast.Expr(ast.Name(target.id, ast.Load()))
    missing = ast.ExceptHandler(ast.Name("NameError", ast.Load()), None, [ast.Assign([target], node.value.args[0])])
    return ast.Try([asked], [missing], [], [])


def guarded(tree: ast.Module) -> list[tuple[range, frozenset[str]]]:
    """Lines inside try or suppress, and the names of the errors that are caught there; no names: any. What is raised again is not."""
    found: list[tuple[range, frozenset[str]]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Try):
            caught = [h.type for h in node.handlers if not any(isinstance(n, ast.Raise) for n in ast.walk(h))]
        elif isinstance(node, ast.With):
            calls = [i.context_expr for i in node.items if isinstance(i.context_expr, ast.Call)]
            caught = [a for c in calls if getattr(c.func, "attr", getattr(c.func, "id", "")) == "suppress" for a in c.args]
        else:
            continue
        lines = range(node.body[0].lineno, (node.body[-1].end_lineno or 0) + 1)
        found += [(lines, _error_names(kind)) for kind in caught]
    return found


def _error_names(kind: ast.expr | None) -> frozenset[str]:
    parts = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    names = {getattr(part, "attr", getattr(part, "id", "")) for part in parts if part is not None}
    return frozenset(names) if all(hasattr(builtins, name) for name in names) else frozenset()


def _on_error(statement: ast.stmt) -> ast.ExceptHandler:
    kinds = ast.Tuple([ast.Name(name, ast.Load()) for name in ("Exception", "SystemExit")], ast.Load())
    return ast.ExceptHandler(kinds, None, [statement])


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
    surroundings.tell.append(seal.watch(*OURS))
    module = types.ModuleType("__main__")
    ours = {"__deleting__": log.deleting, "__deleted__": log.deleted, "__tried__": Tried}
    vars(module).update(__file__=path, **watched(asked, lambda text: ast.fix_missing_locations(Deletions().visit(text)), ours))
    for name in {name for error, _ in stopped for name in re.findall(r"NameError: name '(\w+)' is not defined", error)}:
        if missing_names.is_known(name):
            vars(module)[name] = missing_names.imported(name)
    seal.OWN.append(vars(module))
    sys.modules["__main__"] = module
    sys.argv = [path, *ARGUMENTS]
    overwritten = any(IN_PLACE in error for error, _ in stopped)  # then what the backward pass needs is kept for it
    try:
        with torch.autograd.graph.allow_mutation_on_saved_tensors() if overwritten else nullcontext():
            exec(program, vars(module))  # noqa: S102 - the submission, in its sandbox
    except SystemExit as end:
        if end.code not in (None, 0):
            raise RuntimeError(f"the program ended with exit code {end.code}") from end


def examine(path: str, stopped: list[tuple[str, int]]) -> dict[str, Any]:
    """The report: runs, error, the line where it stopped, verdicts, tampered, trace_error, and figures of the training."""
    report: dict[str, Any] = {
        "runs": False, "error": None, "stopped": 0, "verdicts": {}, "tampered": [], "asked": [], "trace_error": None, "figures": {},
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
    """A built-in function that nothing here and little in torch is made of."""
    space, _, name = replaced.partition(".")
    return space == "builtins" and name in ("print", "input", "breakpoint", "help", "exit", "quit", "display")


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
    if isinstance(error.__cause__, SystemExit):
        error = error.__cause__.__context__ or error.__cause__  # what the program caught before it left
    rows = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    return rows[-1] or 0 if rows else 0


def describe(error: BaseException, path: str) -> str:
    """The error and the last line of the submission that it passed."""
    where = f" (line {line})" if (line := line_of(error, path)) else ""
    there = dir(error.obj) if isinstance(error, AttributeError) and isinstance(error.obj, types.ModuleType) else []
    nearly = difflib.get_close_matches(error.name or "", there, 1) if isinstance(error, AttributeError) else []
    meant = f". Did you mean: {nearly[0]!r}?" if nearly else ""
    return f"{type(error).__name__}: {error}{meant}{where}"[:2000]


def main() -> None:
    order, report = seal.take_order()
    torch.set_num_threads(1)
    facts = examine(os.path.abspath(order["path"]), [(error, line) for error, line in order.get("stopped", [])])
    sys.stdout.flush()
    report(facts)


if __name__ == "__main__":
    main()
