"""What a script does at sizes and in environments that no launch has, seen in a launch of its own. Runs INSIDE the sandbox.

A comparison with a number that is beyond the other side, a whole number, goes the other way there: as it would with more
ranks, more epochs or larger options. Variables that the script asks its environment for, and that no launcher gives, are
set. What is only refused is left as it is.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterable
from typing import Any

from comparisons import LARGE, constants, number, refusing_tests

NAME = "_held_against"
PLAIN: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
ORDERS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}
LEAST = 2  # what is held against 0 or 1 asks for the first one, or whether there are any
SYSTEMS = {"HOME", "USER", "LOGNAME", "PATH", "TERM", "LANG", "SHELL", "TMPDIR", "CUDA_VISIBLE_DEVICES"}
UNGROWING = re.compile(r"\.(ndim|dim\(\))$|shape\)$|size\(\)\)$|version|argv")
GIVEN_BY_LAUNCHERS = (
    "RANK",
    "WORLD_SIZE",
    "MASTER_",
    "TORCHELASTIC_",
    "SLURM",
    "OMPI_",
    "PMI_",
    "MPI_",
    "NCCL_",
    "CUDA_",
    "TORCH_",
    "OMP_",
)


def has_limits(tree: ast.Module) -> bool:
    """Is anything held against a number that could be beyond what is run?"""
    return any(limit is not None for _, limit in _comparisons(tree))


def asked_variables(tree: ast.Module) -> list[str]:
    """Names of environment variables that the script asks for and that neither a launcher nor a system gives."""
    asked: list[ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _is_environment(node.func) and node.args:
            asked.append(node.args[0])
        elif isinstance(node, ast.Subscript) and _is_environment(node.value) and isinstance(node.ctx, ast.Load):
            asked.append(node.slice)
        elif isinstance(node, ast.Compare) and any(map(_is_environment, node.comparators)):
            asked.append(node.left)
    names = {node.value for node in asked if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return sorted(n for n in names if n not in SYSTEMS and not any(part in n for part in GIVEN_BY_LAUNCHERS))


def _is_environment(node: ast.expr) -> bool:
    """os.environ, os.environ.get, os.getenv and the like."""
    text = ast.unparse(node) if isinstance(node, (ast.Name, ast.Attribute)) else ""
    return text.endswith(("environ", "environ.get", "getenv", "environ.setdefault")) and not text.endswith("setdefault")


def _comparisons(tree: ast.Module) -> Iterable[tuple[ast.Compare, int | None]]:
    """Each comparison of two sides with the number that stands on one of them, those aside that lead to a refusal."""
    numbers = constants(tree)
    refusing = refusing_tests(tree, loops=True)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Compare) or node in refusing:
            continue
        if len(node.ops) > 1 or isinstance(node.ops[0], (ast.In, ast.NotIn)):
            yield node, _largest(node, numbers)
        elif type(node.ops[0]) in ORDERS:
            sides = [number(side, numbers) for side in (node.left, node.comparators[0])]
            known = [n for n in sides if n is not None]
            grows = not any(UNGROWING.search(ast.unparse(side)) for side in (node.left, node.comparators[0]))
            yield node, known[0] if grows and len(known) == 1 and known[0] >= LEAST else None


def _largest(node: ast.Compare, numbers: dict[str, int]) -> int | None:
    """Of a chain, or of a set of numbers: the largest, where the one side beside them is plain enough to be asked twice."""
    sides = [node.left, *node.comparators]
    parts = [part for side in sides for part in (side.elts if isinstance(side, (ast.Tuple, ast.List, ast.Set)) else [side])]
    if isinstance(last := sides[-1], ast.Call) and ast.unparse(last.func) == "range":
        parts = [*sides[:-1], *last.args]
    known = [n for part in parts if (n := number(part, numbers)) is not None]
    others = [part for part in parts if number(part, numbers) is None]
    plain = len(others) == 1 and isinstance(others[0], (ast.Name, ast.Attribute)) and not UNGROWING.search(ast.unparse(others[0]))
    return max(known) if plain and known and max(known) >= LEAST else None


class Beyond(ast.NodeTransformer):
    """Hands the two sides of each such comparison, or of those on one line, to `NAME`."""

    def __init__(self, tree: ast.Module, line: int = 0) -> None:
        found = [(n, limit) for n, limit in _comparisons(tree) if limit is not None and line in (0, n.lineno)]
        self.at = {(n.lineno, n.col_offset, n.end_lineno, n.end_col_offset): limit for n, limit in found}

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        place = (node.lineno, node.col_offset, node.end_lineno, node.end_col_offset)
        self.generic_visit(node)
        if place not in self.at:
            return node
        if len(node.ops) > 1 or type(node.ops[0]) not in ORDERS:
            asked = next(n for n in (node.left, *node.comparators) if isinstance(n, (ast.Name, ast.Attribute)))
            given: list[ast.expr] = [node, asked, ast.Constant(value=""), ast.Constant(value=self.at[place])]
            return ast.copy_location(ast.Call(func=ast.Name(id=NAME, ctx=ast.Load()), args=given, keywords=[]), node)
        given = [node.left, node.comparators[0], ast.Constant(value=ORDERS[type(node.ops[0])]), ast.Constant(value=self.at[place])]
        return ast.copy_location(ast.Call(func=ast.Name(id=NAME, ctx=ast.Load()), args=given, keywords=[]), node)


def turning(tell: Callable[[], None]) -> Callable[..., Any]:
    """The function of that name: a comparison as it is, and the other way where a whole number is below the limit."""

    def held_against(one: Any, other: Any, order: str, limit: int) -> Any:
        found = PLAIN[order](one, other) if order else one  # a chain or a set is decided before
        value = other if not order or one == limit else one
        is_whole = type(value) is int or (type(value) is float and limit >= LARGE)
        if not is_whole or value >= limit:
            return found
        tell()
        return not found

    return held_against
