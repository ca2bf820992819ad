"""Mistakes that stop a script, mended so that the rest can be judged as it is written. Runs INSIDE the sandbox.

What a statement that raises is evidently meant to do: a name that is nearly one that exists means that one, an argument
that a function does not know is left out, what is imported from the wrong place comes from the right one. Where nothing
better is known, the statement is let fail.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import re
from collections.abc import Collection, Iterable
from typing import Any

from fsdp_beyond import Beyond
from torch import nn

BEYOND = "beyond"  # no mistake: comparisons go the way that they would in larger runs
# Where a training script's names come from, in the order they are looked for.
HOMES = (
    "torch.distributed.fsdp", "torch.distributed.fsdp.wrap", "torch.distributed.checkpoint.state_dict", "torch.utils.data",
    "torch.distributed", "torch.distributed.algorithms._checkpoint.checkpoint_wrapper", "torch.distributed.device_mesh",
    "torch.distributed.tensor", "torch.distributed.elastic.multiprocessing.errors", "torch.nn.utils", "torch.amp", "torch.optim",
    "torch.optim.lr_scheduler", "torch.nn", "torch", "functools", "itertools", "contextlib", "dataclasses", "pathlib", "typing",
    "collections", "datetime", "math", "tqdm",
)  # fmt: skip
CALLED = {"nn": "torch.nn", "F": "torch.nn.functional", "dist": "torch.distributed", "np": "numpy", "mp": "torch.multiprocessing"}
ALONE = ("os", "sys", "math", "time", "functools", "itertools", "contextlib", "random", "json", "logging", "datetime", "argparse", "torch")
KEYWORD = re.compile(r"unexpected keyword argument '(\w+)'")


def wanted(error: BaseException, lines: Iterable[int], source: str) -> str:
    """The mend that would get past this error, as `mended` reads it, or ""."""
    if isinstance(error, ImportError):
        return "imports"
    if isinstance(error, NameError) and isinstance(error.name, str):
        return f"name {error.name}"
    if isinstance(error, AttributeError) and isinstance(error.name, str):
        if error.name == "module" and isinstance(error.obj, nn.Module):
            return "attribute module"
        meant = _nearest(error.name, [name for name in dir(error.obj) if not name.startswith("_")])
        return f"attribute {error.name} {meant}" if meant else ""
    found = KEYWORD.search(str(error)) if isinstance(error, TypeError) else None
    line = next(iter(lines), 0)
    return f"keyword {found[1]} {line}" if found and _is_given(found[1], line, source) else ""


def _nearest(name: str, others: Collection[str]) -> str:
    """The name that has all of its words, or all but some, or nearly its letters."""
    words = set(name.lower().split("_"))
    same = [other for other in others if len(kin := set(other.lower().split("_"))) and (kin >= words or kin <= words)]
    return min(same, key=lambda other: abs(len(other) - len(name)), default="") or next(
        iter(difflib.get_close_matches(name, others, 1)), ""
    )


def _is_given(keyword: str, line: int, source: str) -> bool:
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and _on(node, {line})]
    return any(k.arg == keyword for call in calls for k in call.keywords)


def _on(node: Any, lines: set[int]) -> bool:
    return bool(lines & set(range(node.lineno, (node.end_lineno or node.lineno) + 1)))


def mended(source: str, mends: Collection[str]) -> Any:
    """The program with these mends, to be compiled."""
    orders = [
        mend.split(" ")
        for mend in sorted(mends)
        if mend == "imports" or mend.startswith(("line ", "without ", "name ", "attribute ", "keyword "))
    ]
    if BEYOND in mends:
        tree = ast.parse(source)
        line = next((int(mend.split(" ")[1]) for mend in mends if mend.startswith("at ")), 0)
        return ast.fix_missing_locations(Beyond(tree, line).visit(tree))
    if not orders:
        return source
    tree = Mender(orders, ast.parse(source)).visit(ast.parse(source))
    return ast.fix_missing_locations(tree)


class Mender(ast.NodeTransformer):
    """Carries the orders out, each statement on its own."""

    def __init__(self, orders: Iterable[list[str]], tree: ast.Module) -> None:
        self.lines = {int(rest[0]) for kind, *rest in orders if kind == "line"}
        self.without = {int(rest[0]) for kind, *rest in orders if kind == "without"}
        self.dropped = {(rest[0], int(rest[1])) for kind, *rest in orders if kind == "keyword"}
        self.attributes = {rest[0]: (rest[1:] or [""])[0] for kind, *rest in orders if kind == "attribute"}
        self.imports = any(kind == "imports" for kind, *_ in orders)
        self.names: dict[str, str] = {}
        self.added: list[ast.stmt] = []
        for name in (rest[0] for kind, *rest in orders if kind == "name"):
            if home := _import_of(name):
                self.added.append(home)
            elif meant := _nearest(name, sorted(_bound(tree) - {name})):
                self.names[name] = meant

    def visit_Module(self, node: ast.Module) -> ast.AST:
        self.generic_visit(node)
        at = next((i for i, s in enumerate(node.body) if not (isinstance(s, ast.ImportFrom) and s.module == "__future__")), 0)
        node.body[at:at] = [ast.copy_location(s, node.body[at]) for s in self.added]
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> Any:
        if not self.imports or node.module == "__future__":
            return node
        found = [_import_of(a.name, a.asname, node.module or "") for a in node.names]
        return [ast.copy_location(s, node) for s in found if s] or ast.copy_location(ast.Pass(), node)

    def visit_Import(self, node: ast.Import) -> Any:
        kept = [a for a in node.names if not self.imports or _module(a.name)]
        return ast.copy_location(ast.Import(names=kept) if kept else ast.Pass(), node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if isinstance(node.ctx, ast.Load):
            node.id = self.names.get(node.id, node.id)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if node.attr not in self.attributes:
            return node
        node.attr, was = self.attributes[node.attr], node.attr
        return node if node.attr else (node.value if was == "module" else node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        node.keywords = [k for k in node.keywords if not any(k.arg == name and _on(node, {line}) for name, line in self.dropped)]
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if isinstance(node, ast.stmt) and self.without and _is_left_out(node, self.without):
            return ast.copy_location(ast.Return(value=None) if isinstance(node, ast.Return) else ast.Pass(), node)
        return self._let_fail(node) if isinstance(node, ast.stmt) and self.lines else node

    def _let_fail(self, node: ast.stmt) -> Any:
        """`try: ... except Exception: pass` around a simple statement; of a block whose head fails the body is left."""
        body = getattr(node, "body", None)
        if body:
            is_head = bool(self.lines & set(range(node.lineno, body[0].lineno)))
            if not is_head or not isinstance(node, (ast.With, ast.If)):
                return node
            return ast.copy_location(ast.If(test=ast.Constant(value=True), body=body, orelse=[]), node)
        if not _on(node, self.lines):
            return node
        after: list[ast.stmt] = [ast.Return(value=None)] if isinstance(node, ast.Return) else [ast.Pass()]
        handler = ast.ExceptHandler(type=ast.Name(id="Exception", ctx=ast.Load()), name=None, body=after)
        return ast.copy_location(ast.Try(body=[node], handlers=[handler], orelse=[], finalbody=[]), node)


def _is_left_out(node: ast.stmt, lines: set[int]) -> bool:
    """Is it a simple statement on one of the lines, or a loop or block that has one of them in its head?"""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Try, ast.If)):
        return False
    body = getattr(node, "body", None)
    return bool(lines & set(range(node.lineno, body[0].lineno))) if body else _on(node, lines)


def _bound(tree: ast.Module) -> set[str]:
    """Names that the program gives a value."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    names |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    names |= {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    return names | {(a.asname or a.name) for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom)) for a in node.names}


def _import_of(name: str, alias: str | None = None, module: str = "") -> ast.stmt | None:
    """The statement that brings this name in, from the module or from where it really is."""
    if not module and (name in ALONE or name in CALLED):
        return ast.Import(names=[ast.alias(name=CALLED.get(name, name), asname=alias or (name if name in CALLED else None))])
    home = next((home for home in (module, *HOMES) if home and (hasattr(_module(home), name) or _module(f"{home}.{name}"))), "")
    if not home and module and (near := difflib.get_close_matches(name, dir(_module(module)), 1, 0.75)):
        return ast.ImportFrom(module=module, names=[ast.alias(name=near[0], asname=alias or name)], level=0)
    return ast.ImportFrom(module=home, names=[ast.alias(name=name, asname=alias)], level=0) if home else None


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
