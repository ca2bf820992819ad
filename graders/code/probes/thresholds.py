"""A program that holds a count or a size against a large number, led the other way. Runs INSIDE the sandbox.

`if self.calls > 500` and `if T > LIMIT` are never true in a few short runs; what is done then is what the program does most
of its life. Each such comparison of plain numbers is answered as it would be beyond the number, in a program of its own.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from comparisons import refusing_tests

LARGE = 17  # smaller numbers are passed by the runs themselves
AT_MOST = 4
ANSWER = "answered_"
ORDERS = (ast.Gt, ast.GtE, ast.Lt, ast.LtE)


def led(value: Any, answer: bool) -> Any:
    """The other answer, where plain numbers were compared."""
    return answer if type(value) is bool else value


def led_otherwise(path: str) -> Iterator[ast.Module]:
    """The program with one comparison answered otherwise, some of them in turn."""
    with open(path, encoding="utf-8", errors="replace") as file:
        text = file.read()
    for place in _comparisons(ast.parse(text))[:AT_MOST]:
        yield ast.fix_missing_locations(_Leader(place).visit(ast.parse(text)))


def _comparisons(tree: ast.Module) -> list[tuple[int, int, bool]]:
    """(line, column, the other answer) of each."""
    large, left_out = set(_large_names(tree)), refusing_tests(tree, loops=True, breaks=True)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and node not in left_out and len(node.ops) == 1 and isinstance(node.ops[0], ORDERS):
            is_left, is_right = _is_large(node.left, large), _is_large(node.comparators[0], large)
            if is_left != is_right:
                found.append((node.lineno, node.col_offset, isinstance(node.ops[0], (ast.Gt, ast.GtE)) == is_right))
    return found


def _large_names(tree: ast.Module) -> Iterator[str]:
    """Names and attributes that are given a large number somewhere, by default too."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                yield from (str(getattr(t, "id", getattr(t, "attr", ""))) for t, v in _pairs(target, node.value) if _is_large(v, set()))
        elif isinstance(node, ast.arguments):
            positional = [*node.posonlyargs, *node.args]
            pairs = [*zip(positional[len(positional) - len(node.defaults) :], node.defaults, strict=True)]
            pairs += [(a, d) for a, d in zip(node.kwonlyargs, node.kw_defaults, strict=True) if d is not None]
            yield from (a.arg for a, d in pairs if _is_large(d, set()))


def _pairs(target: ast.expr, value: ast.expr) -> list[tuple[ast.expr, ast.expr]]:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        return list(zip(target.elts, value.elts, strict=True))
    return [(target, value)]


def _is_large(node: ast.expr, names: set[str]) -> bool:
    if isinstance(node, ast.BinOp):
        return _is_large(node.left, names) and not isinstance(node.op, (ast.Mod, ast.FloorDiv))
    if isinstance(node, (ast.Name, ast.Attribute)):
        return str(getattr(node, "id", getattr(node, "attr", ""))) in names
    return isinstance(node, ast.Constant) and type(node.value) is int and node.value >= LARGE


class _Leader(ast.NodeTransformer):
    def __init__(self, place: tuple[int, int, bool]) -> None:
        self.place = place

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        line, column, answer = self.place
        if (node.lineno, node.col_offset) != (line, column) or not isinstance(node.ops[0], ORDERS):
            return node
        return ast.copy_location(ast.Call(ast.Name(ANSWER, ast.Load()), [node, ast.Constant(answer)], []), node)
