"""The text of a training program, changed before it is run. Runs INSIDE the sandbox.

What is deleted is seen, and what ended the program when it was run before is stepped over.
"""

from __future__ import annotations

import ast
import builtins
import importlib.util
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import absent
import torch

NOTHING = ast.arguments([], [], None, [], [], None, [])


class Stop(NamedTuple):
    """An error that ended the program when it was run before: its words, its line, and where in it (as Python tells of code)."""

    error: str
    line: int
    span: tuple[int, ...] = ()


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
        asked = [ast.parse(ast.unparse(t), mode="eval").body for t in targets]  # to be read, not to be written
        things = ast.List([ast.Lambda(NOTHING, value) for value in asked], ast.Load())
        before = ast.Expr(ast.Call(ast.Name("__deleting__", ast.Load()), [ast.Constant(node.lineno), things], []))
        after = ast.Expr(ast.Call(ast.Name("__deleted__", ast.Load()), [], []))
        return [ast.fix_missing_locations(ast.copy_location(n, node)) if n is not node else n for n in (before, node, after)]


class Mended(ast.NodeTransformer):
    """Lets the program go on past what ended it: what a call was given, or what held before, stands in for its result."""

    def __init__(self, stopped: list[Stop]) -> None:
        self.lines, self.spans, self.stopped = {stop.line for stop in stopped}, {stop.span for stop in stopped}, stopped

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """An argument that the function does not know is left out."""
        span = _span(node)
        unknown = self._told(node, r"unexpected keyword argument '(\w+)'")
        self.generic_visit(node)
        known = [keyword for keyword in node.keywords if keyword.arg is None or keyword.arg not in unknown]
        if len(known) < len(node.keywords):
            node.keywords = known
            return node
        return self._tried(node, node.args[:1], _owner(node.func)) if span in self.spans else node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """A name that is not there means the one that is nearly it; else what it would be called with stands in for the result."""
        span = _span(node)
        self.generic_visit(node)
        if node.attr in self._told(node, r"has no attribute '(\w+)'"):
            meant = self._told(node, r"Did you mean: '(\w+)'")
            node.attr = next(iter(meant), node.attr)
            if not meant and span in self.spans and isinstance(node.ctx, ast.Load):
                return _call("__given__", ast.Lambda(NOTHING, node), node.value)
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        is_missing = _span(node) in self.spans and isinstance(node.ctx, ast.Load)
        return _call("__given__", ast.Lambda(NOTHING, node), ast.Constant(None)) if is_missing else node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        span = _span(node)
        self.generic_visit(node)
        return self._tried(node, [node.left], None) if span in self.spans else node

    def _tried(self, node: ast.expr, given: list[ast.expr], owner: ast.expr | None) -> ast.expr:
        parts = [owner or ast.Constant(Ellipsis), *(g for g in given if not isinstance(g, ast.Starred))]
        return _call("__tried__", ast.Lambda(NOTHING, node), *(ast.Lambda(NOTHING, part) for part in parts))

    def _told(self, node: ast.expr, pattern: str) -> set[str]:
        """What the errors of these lines name."""
        lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        return {name for stop in self.stopped if stop.line in lines for name in re.findall(pattern, stop.error)}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> Any:
        """A part that the module has not is one that hands back what it is given."""
        words = [stop.error for stop in self.stopped if stop.line == node.lineno]
        if not words:
            return node
        gone = {name for error in words for name in re.findall(r"cannot import name '(\w+)'", error)}
        gone = gone or {a.name for a in node.names}
        rest = [a for a in node.names if a.name not in gone]
        made = [
            ast.Assign([ast.Name(a.asname or a.name, ast.Store())], _call("__lacking__", ast.Constant(a.name)))
            for a in node.names
            if a.name in gone
        ]
        return [*([ast.ImportFrom(node.module, rest, node.level)] if rest else []), *made]

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        return ast.copy_location(ast.Pass(), node) if self._is_stopped(node) else node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return ast.copy_location(ast.Pass(), node) if self._is_stopped(node) else node

    def _is_stopped(self, node: ast.stmt) -> bool:
        return not self.lines.isdisjoint(range(node.lineno, (node.end_lineno or node.lineno) + 1))

    def visit_With(self, node: ast.With) -> ast.AST:
        lines = [item.context_expr.lineno for item in node.items]
        self.generic_visit(node)
        for item, line in zip(node.items, lines, strict=True):
            if line in self.lines:
                item.context_expr = _call("__entered__", ast.Lambda(NOTHING, item.context_expr))
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if not isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr, ast.Return)):
            return node
        if not self._is_stopped(node) or isinstance(node, ast.Return):
            return node
        return ast.Try([node], [_on_error(_given_instead(node))], [], [])


def _call(name: str, *args: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), [*args], [])


def _span(node: ast.expr) -> tuple[int, ...]:
    return (node.lineno, node.end_lineno or 0, node.col_offset, node.end_col_offset or 0)


def _owner(function: ast.expr) -> ast.expr | None:
    return function.value if isinstance(function, ast.Attribute) else None


def tried(call: Callable[[], Any], *parts: Callable[[], Any]) -> Any:
    """The call's result; where it fails, a tensor or else a module of these: whose method it is, and what it was given first."""
    try:
        return call()
    except (Exception, SystemExit):
        found = [value for part in parts if (value := _value(part)) is not None]
    for kind in (torch.Tensor, torch.nn.Module, object):
        for value in found[1 if kind is object else 0 :]:
            if isinstance(value, kind):
                return value
    return None


def _value(part: Callable[[], Any]) -> Any:
    try:
        return part()
    except (Exception, SystemExit):
        return None


def lacking(name: str) -> Any:
    """In the place of a part that torch has not."""
    return absent.plain_adamw if absent.is_optimizer(name) else lambda *args, **kwargs: args[0] if args else None


def given(name: Callable[[], Any], owner: Any) -> Any:
    """What has the name; where nothing has, a function that hands back its owner or what it is given first."""
    try:
        return name()
    except (NameError, AttributeError):
        return lambda *args, **kwargs: _given_first(owner, args)


def _given_first(owner: Any, args: tuple[Any, ...]) -> Any:
    """A tensor whose method was asked for, or that it got; else the module, or whatever it got."""
    tensors = [part for part in (owner, *args) if isinstance(part, torch.Tensor)]
    others = [owner] if isinstance(owner, torch.nn.Module) else [*args]
    return next(iter([*tensors, *others]), None)


class Entered:
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


@contextmanager
def overwriting() -> Iterator[None]:
    """What the backward pass needs is kept for it when the program overwrites it."""
    graph: Any = torch.autograd.graph
    for name in ("_get_sid", "_get_tid"):
        real = getattr(graph, name)
        # a tensor of inference_mode counts no versions, and nothing is saved of it
        setattr(graph, name, lambda tensor, real=real: (0, 0, -1) if tensor.is_inference() else real(tensor))
    with graph.allow_mutation_on_saved_tensors():
        yield


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
