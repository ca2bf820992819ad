"""What a program holds against what: its plain numbers, and the tests on which it only refuses what it is given.

Read by the text search of FSDP scripts outside the sandbox, and INSIDE it where a program is led another way.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

PRODUCTS: dict[type, Callable[[Any, Any], int]] = {ast.Mult: operator.mul, ast.Pow: operator.pow, ast.LShift: operator.lshift}
LARGE = 1e6  # a number with a point counts from here: a time, a size
LARGEST = 1 << 64


def refusing_tests(tree: ast.Module, *, loops: bool = False, breaks: bool = False) -> set[ast.AST]:
    """All parts of the tests on which it refuses; with `loops` those of while too, with `breaks` those that end or cut a round."""
    tests: list[ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert) or (loops and isinstance(node, ast.While)):
            tests.append(node.test)
        elif isinstance(node, ast.If) and (_refuses(node.body[-1]) or (breaks and isinstance(node.body[-1], ast.Break | ast.Continue))):
            tests.append(node.test)
    return {part for test in tests for part in ast.walk(test)}


def _refuses(last: ast.stmt) -> bool:
    """Does a branch that ends so only refuse what it was given?"""
    call = last.value.func if isinstance(last, ast.Expr) and isinstance(last.value, ast.Call) else None
    return isinstance(last, ast.Raise) or (isinstance(call, ast.Attribute) and call.attr in ("error", "exit"))


def constants(tree: ast.Module) -> dict[str, int]:
    """Names that are given one whole number, and nothing else."""
    given: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    given.setdefault(target.id, []).append(node.value)
    known = {name: number(values[0], {}) for name, values in given.items() if len(values) == 1}
    return {name: value for name, value in known.items() if value is not None}


def number(node: ast.expr, numbers: Mapping[str, int], depth: int = 6) -> int | None:
    """The whole number that stands there; no product of more factors or larger ones than anybody writes."""
    if isinstance(node, ast.Constant):
        whole = type(node.value) is int or (type(node.value) is float and LARGE <= node.value < LARGEST)
        return int(node.value) if whole else None  # type: ignore[arg-type]
    if isinstance(node, ast.Name):
        return numbers.get(node.id)
    if isinstance(node, ast.BinOp) and type(node.op) in PRODUCTS and depth:
        left, right = number(node.left, numbers, depth - 1), number(node.right, numbers, depth - 1)
        fine = left is not None and right is not None and max(abs(left), abs(right)) < LARGEST
        return PRODUCTS[type(node.op)](left, right) if fine and (isinstance(node.op, ast.Mult) or 0 <= (right or 0) <= 64) else None
    return None
