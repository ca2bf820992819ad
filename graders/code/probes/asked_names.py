"""Names that lead to what a probe sees, and a watch on those that a program computes. Runs INSIDE the sandbox, and beside it.

What a program asks for by a plain name stands in its text, where the grader looks for it. What it computes is known when
it asks: the functions here stand in its namespace in place of the built-in ones. Frames, code and the heap are not here,
as Python tells of them itself (seal.py).
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FrameType, ModuleType
from typing import Any

REACHING = frozenset({
    "_C", "_python_dispatch", "overrides", "library", "__torch_dispatch__", "__torch_function__", "ctypes", "ctypeslib", "stride_tricks",
    "attrgetter", "methodcaller", "__globals__", "__closure__", "cell_contents", "__subclasses__", "__builtins__", "__getattribute__",
    "__loader__", "__spec__", "builtins", "meta_path", "register_at_fork", "dup", "dup2", "writev", "pwrite",
})  # fmt: skip
GETTERS = frozenset({"attrgetter", "methodcaller"})
# Python tells of these (seal.py), but not where it is our own function that reads them.
AUDITED = frozenset({
    "__code__", "__defaults__", "__kwdefaults__", "tb_frame", "gi_code", "gi_frame", "cr_code", "cr_frame", "ag_code", "ag_frame",
})  # fmt: skip


class Texts:
    """exec, eval and compile for a program: what it runs from text is searched as its own text is, and followed as that is.

    `prepared` changes what is compiled as the program itself was changed; `names` are put where the text is run.
    """

    def __init__(self, told: Callable[[str], None], prepared: Callable[[Any], Any], names: dict[str, Any]) -> None:
        self._told, self._prepared, self._names = told, prepared, names
        self._made: list[CodeType] = []

    def compile(self, source: Any, filename: Any = "<string>", mode: str = "exec", *args: Any, **options: Any) -> Any:
        if not isinstance(source, (str, bytes, ast.AST)):
            self._told("compile of what is no text")
        made = source
        if isinstance(source, (str, bytes)):
            made = ast.parse(source, "<string>", mode)
        for _, name in reaching_words(made):
            self._told(f"{name}, in a text that it runs")
        if args or options:
            return compile(source, "<string>", mode, *args, **options)
        code = compile(self._prepared(made), "<string>", mode)
        self._made.append(code)
        return code

    def run(self, source: Any, where: dict[str, Any], local: Any, mode: str) -> Any:
        if isinstance(source, CodeType):
            if not any(source is code for code in self._made):
                self._told("exec of code that it did not get from text")
        else:
            source = self.compile(source.lstrip(" \t") if isinstance(source, str) and mode == "eval" else source, mode=mode)
        for name, value in self._names.items():
            where.setdefault(name, value)
        return (eval if mode == "eval" else exec)(source, where, local)


def watched(asked: list[str], prepared: Callable[[Any], Any], names: dict[str, Any]) -> dict[str, Any]:
    """`names` and getattr, setattr, vars, exec, eval and compile by name; `asked` gets what no honest program asks for."""
    real_get, real_set, real_vars, _getframe, reaching, told = getattr, setattr, vars, sys._getframe, REACHING | AUDITED, _teller(asked)

    def get(owner: object, name: str, *default: Any) -> Any:
        if type(name) is not str or name in reaching:
            told(f"getattr {name!r}")
        return real_get(owner, name, *default)

    def put(owner: object, name: str, value: Any) -> None:
        if type(name) is not str or name in reaching:
            told(f"setattr {name!r}")
        real_set(owner, name, value)

    def names_of(*owner: Any) -> Any:
        if owner and isinstance(owner[0], ModuleType):
            told(f"vars of {owner[0].__name__}")
        return real_vars(*owner) if owner else _getframe(1).f_locals

    def execute(source: Any, where: Any = None, local: Any = None, /, **options: Any) -> None:
        texts.run(source, _getframe(1).f_globals if where is None else where, _local(_getframe(1), where, local), "exec")

    def evaluate(source: Any, where: Any = None, local: Any = None, /) -> Any:
        return texts.run(source, _getframe(1).f_globals if where is None else where, _local(_getframe(1), where, local), "eval")

    ours = {"getattr": get, "setattr": put, "vars": names_of, "exec": execute, "eval": evaluate, **names}
    texts = Texts(told, prepared, ours)
    ours["compile"] = texts.compile
    return ours


def _teller(asked: list[str]) -> Callable[[str], None]:
    _getframe = sys._getframe

    def told(what: str) -> None:
        frame: FrameType | None = _getframe(2)
        while frame is not None and frame.f_back is not None and frame.f_code.co_filename == __file__:
            frame = frame.f_back
        asked.append(f"{what} (line {frame.f_lineno if frame else 0})"[:200])

    return told


def _local(frame: FrameType, where: Any, local: Any) -> Any:
    """What exec and eval take for their local names."""
    return local if local is not None else frame.f_locals if where is None else where


def reaching_words(tree: ast.Module | None) -> Iterator[tuple[int, str]]:
    """Lines with a name by which a program can reach what sees it. What it computes is asked for under watch."""
    nodes = list(ast.walk(tree)) if tree else []
    modules = {(a.asname or a.name).partition(".")[0] for n in nodes if isinstance(n, (ast.Import, ast.ImportFrom)) for a in n.names}
    plain = {getter for getter in GETTERS if _takes_plain_names(nodes, getter)}
    for node in nodes:
        found = REACHING.intersection(_words(node)) - plain
        owner = node.value.id if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) else ""
        if owner in modules and isinstance(node, ast.Attribute) and (node.attr == "__dict__" or (owner, node.attr) == ("sys", "modules")):
            found = frozenset({f"{owner}.{node.attr}"})
        if found:
            yield getattr(node, "lineno", 0), min(found)


def _takes_plain_names(nodes: list[ast.AST], getter: str) -> bool:
    """Is it only ever called, with names that stand in the text and lead nowhere?"""
    used = [n for n in nodes if getattr(n, "id", getattr(n, "attr", "")) == getter and isinstance(n, (ast.Name, ast.Attribute))]
    calls = [n for n in nodes if isinstance(n, ast.Call) and n.func in used]
    names = [a.value if isinstance(a, ast.Constant) else None for call in calls for a in call.args]
    known = all(isinstance(n, str) and not (REACHING | AUDITED).intersection(n.split(".")) and "__dict__" not in n for n in names)
    others = any(isinstance(n, ast.alias) and n.name == getter and n.asname for n in nodes)
    return known and len(calls) == len(used) and not others


def _words(node: ast.AST) -> tuple[str, ...]:
    if isinstance(node, ast.Attribute):
        return (node.attr,)
    if isinstance(node, ast.Name):
        return (node.id,)
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return (node.name,)
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        return tuple(part for name in (module, *(a.name for a in node.names)) for part in name.split("."))
    if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in ("import_module", "__import__"):
        name = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
        return tuple(name.split(".")) if isinstance(name, str) else ("builtins",)
    return ()
