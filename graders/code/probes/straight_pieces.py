"""Pieces of a program's text (straight.py): what its names are bound to, and what an expression plainly is. Runs INSIDE the sandbox."""

from __future__ import annotations

import ast
from collections.abc import Iterator

ONCE = "__init__"


class Doubt(Exception):
    """A piece that is not known to be without a choice."""


def bindings(node: ast.AST) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Assign):
        for target in node.targets:
            yield from bound(target, node.value)
    elif isinstance(node, ast.AnnAssign) and node.value is not None:
        yield from bound(node.target, node.value)
    elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
        yield from bound(node.target, None)
    elif isinstance(node, (ast.For, ast.comprehension)):
        yield from _looped(node.target, node.iter)
    elif isinstance(node, ast.arg):
        yield node.arg, "given"


def bound(target: ast.expr, value: ast.expr | None) -> Iterator[tuple[str, str]]:
    if isinstance(target, ast.Name):
        empty = isinstance(value, ast.List) and not value.elts
        kind = "size" if is_length(value) else "parts" if is_unbind(value) else "list" if empty else "value"
        yield target.id, kind
    elif isinstance(target, ast.Tuple):
        paired = isinstance(value, ast.Tuple) and len(value.elts) == len(target.elts)
        for n, part in enumerate(target.elts):
            if paired and isinstance(value, ast.Tuple):
                yield from bound(part, value.elts[n])
            else:
                yield from ((name, "size" if is_shape(value) else "value") for name, _ in bound(part, None))


def pairs(target: ast.expr, value: ast.expr | None) -> list[tuple[ast.AST, ast.expr | None]]:
    """Each target with what it is given, where that can be told."""
    if isinstance(target, ast.Tuple):
        if isinstance(value, ast.Tuple) and len(value.elts) == len(target.elts):
            return [*zip(target.elts, value.elts, strict=True)]
        each = value.elt if isinstance(value, (ast.GeneratorExp, ast.ListComp)) else None
        return [(part, each) for part in target.elts]
    return [(target, value)]


def _looped(target: ast.expr, over: ast.expr) -> Iterator[tuple[str, str]]:
    """The names of a loop: counters, layers that were made for good, or values."""
    called = over.func.id if isinstance(over, ast.Call) and isinstance(over.func, ast.Name) else ""
    if called == "enumerate" and isinstance(over, ast.Call) and over.args and isinstance(target, ast.Tuple) and len(target.elts) == 2:
        yield from ((name, "counter") for name, _ in bound(target.elts[0], None))
        yield from _looped(target.elts[1], over.args[0])
        return
    own = is_own(over) or (called == "zip" and isinstance(over, ast.Call) and all(map(is_own, over.args)))
    yield from ((name, "counter" if called == "range" else "layer" if own else "value") for name, _ in bound(target, None))


def is_shape(node: ast.expr | None) -> bool:
    """x.shape, x.size() or x.shape[:2]"""
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
        bounds = (node.slice.lower, node.slice.upper, node.slice.step)
        return all(bound is None or number(bound) is not None for bound in bounds) and is_shape(node.value)
    if isinstance(node, ast.Call) and not node.args and not node.keywords:
        return isinstance(node.func, ast.Attribute) and node.func.attr == "size"
    return isinstance(node, ast.Attribute) and node.attr == "shape"


def is_length(node: ast.expr | None) -> bool:
    """x.shape[1] or x.size(1)"""
    if isinstance(node, ast.Subscript):
        return is_shape(node.value) and number(node.slice) is not None
    named = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "size"
    return named and isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords and number(node.args[0]) is not None


def is_unbind(node: ast.expr | None) -> bool:
    """x.unbind(1)"""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "unbind"):
        return False
    given = [*node.args, *(k.value for k in node.keywords)]
    return all(number(value) is not None for value in given)


def number(node: ast.expr | None) -> int | None:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        positive = number(node.operand)
        return None if positive is None else -positive
    return node.value if isinstance(node, ast.Constant) and type(node.value) is int else None


def parts(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.Tuple) else [node]


def is_own(node: ast.expr) -> bool:
    """self.blocks"""
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"


def is_dots(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is Ellipsis


def is_parent(node: ast.expr) -> bool:
    """super().__init__"""
    owner = node.value if isinstance(node, ast.Attribute) and node.attr == ONCE else None
    return isinstance(owner, ast.Call) and isinstance(owner.func, ast.Name) and owner.func.id == "super" and not owner.args
