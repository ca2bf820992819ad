"""A program with its questions for a watcher answered beforehand, so that it has to ask nobody.

A program that looks into frames, into torch's own parts or at who calls it may do so to train otherwise where it is
watched. Where such a question has a plain answer, yes or no, and asking it changes nothing, the answer can be put in its
place. What the program does with either answer is what it does, whoever watches.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

PLAIN_CALLS = {
    "any", "all", "bool", "isinstance", "len", "str", "getattr", "hasattr", "callable", "sum", "set", "list", "tuple", "type", "int",
    "range",
}  # fmt: skip
PLAIN_METHODS = {
    "startswith", "endswith", "lower", "upper", "strip", "split", "rsplit", "partition", "keys", "values", "items", "get",
    "append", "extend", "add",
}  # fmt: skip
YES_OR_NO = {"any", "all", "bool", "isinstance", "hasattr", "callable", "startswith", "endswith", "exists", "isfile", "isdir"}
CHANGES = ("set", "register", "add", "install", "patch", "enable", "disable", "manual", "update", "del", "exec", "kill", "use", "load")
NO_QUESTIONS = {"main", "forward", "step", "evaluate", "__call__", "__init__"}
STATEMENTS = (
    ast.Assign, ast.AnnAssign, ast.AugAssign, ast.For, ast.While, ast.If, ast.Return, ast.Try, ast.Pass, ast.Break, ast.Continue,
    ast.Import, ast.Expr,
)  # fmt: skip


def unasked(text: str, lines: Iterable[int], *, answer: bool) -> str | None:
    """The program with `answer` in the place of what it asks on these lines; None where not all of it is a plain question."""
    tree, left = ast.parse(text), set(lines)
    modules = {a.asname or a.name.partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and _asks(n, modules)]
    found: list[ast.AST] = []
    for node in [*functions, *(v for v in _values(tree) if _is_yes_or_no(v) and _is_plain(v, modules))]:
        if left & _lines(node):
            found.append(node)
            left -= _lines(node)
    return None if left else ast.unparse(ast.fix_missing_locations(_Answered(found, answer).visit(tree)))


def _lines(node: ast.AST) -> set[int]:
    return set(range(getattr(node, "lineno", 0), (getattr(node, "end_lineno", 0) or 0) + 1))


def _values(tree: ast.Module) -> Iterator[ast.expr]:
    """What is held in a name, given back or decides what is done."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.Return)) and node.value is not None:
            yield node.value
        elif isinstance(node, (ast.If, ast.IfExp)):
            yield node.test


def _asks(function: ast.FunctionDef, modules: set[str]) -> bool:
    """Does it find out whether something is so, and nothing else?"""
    inside = [n for statement in function.body for n in ast.walk(statement)]
    if function.name in NO_QUESTIONS or function.decorator_list:
        return False
    if not all(isinstance(n, STATEMENTS) for n in inside if isinstance(n, ast.stmt)):
        return False
    if any(isinstance(n, (ast.Attribute, ast.Subscript)) and not isinstance(n.ctx, ast.Load) for n in inside):
        return False
    answers = [n.value for n in inside if isinstance(n, ast.Return)]
    held = {t.id: n.value for n in inside if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
    told = [held.get(a.id, a) if isinstance(a, ast.Name) else a for a in answers]
    return bool(told) and all(a is not None and _is_yes_or_no(a) for a in told) and all(_is_plain(s, modules) for s in function.body)


def _is_yes_or_no(value: ast.expr) -> bool:
    if isinstance(value, ast.BoolOp):
        return all(map(_is_yes_or_no, value.values))
    if isinstance(value, ast.Call):
        return getattr(value.func, "id", getattr(value.func, "attr", "")) in YES_OR_NO
    is_not = isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.Not)
    return is_not or isinstance(value, ast.Compare) or (isinstance(value, ast.Constant) and isinstance(value.value, bool))


def _is_plain(node: ast.AST, modules: set[str]) -> bool:
    """Does it change nothing but names of its own?"""
    return all(_is_plain_call(n, modules) for n in ast.walk(node) if isinstance(n, ast.Call)) and not any(
        isinstance(n, (ast.NamedExpr, ast.Lambda, ast.Yield, ast.YieldFrom, ast.Await)) for n in ast.walk(node)
    )


def _is_plain_call(call: ast.Call, modules: set[str]) -> bool:
    function = call.func
    if isinstance(function, ast.Name):
        return function.id in PLAIN_CALLS
    if isinstance(function, ast.Call):  # getattr(torch, "name")()
        return not call.args and not call.keywords
    if not isinstance(function, ast.Attribute):
        return False
    root: ast.expr = function
    while isinstance(root, ast.Attribute):
        root = root.value
    is_of_module = isinstance(root, ast.Name) and root.id in modules
    return not function.attr.lstrip("_").startswith(CHANGES) if is_of_module else function.attr in PLAIN_METHODS


class _Answered(ast.NodeTransformer):
    """`questions`: functions, whose body becomes the answer, and values that become it."""

    def __init__(self, questions: list[ast.AST], answer: bool) -> None:
        self.questions, self.answer = questions, answer

    def visit(self, node: ast.AST) -> ast.AST:
        if not any(node is question for question in self.questions):
            return self.generic_visit(node)
        if isinstance(node, ast.FunctionDef):
            node.body = [ast.Return(ast.Constant(self.answer))]
            return node
        return ast.Constant(self.answer)
