"""Names that lead to what a probe sees, and a watch on those that a program computes. Runs INSIDE the sandbox, and beside it.

What a program asks for by a plain name stands in its text, where the grader looks for it. What it computes is known when
it asks: the functions here stand in its namespace in place of the built-in ones. Frames, code and the heap are not here,
as Python tells of them itself (seal.py).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

REACHING = frozenset({
    "_C", "_python_dispatch", "overrides", "library", "__torch_dispatch__", "__torch_function__", "ctypes", "ctypeslib", "stride_tricks",
    "attrgetter", "methodcaller", "__globals__", "__closure__", "cell_contents", "__subclasses__", "__builtins__", "__getattribute__",
    "__loader__", "__spec__", "builtins", "meta_path", "register_at_fork", "dup", "dup2", "writev", "pwrite",
})  # fmt: skip
# Python tells of these (seal.py), but not where it is our own function that reads them.
AUDITED = frozenset({
    "__code__", "__defaults__", "__kwdefaults__", "tb_frame", "gi_code", "gi_frame", "cr_code", "cr_frame", "ag_code", "ag_frame",
})  # fmt: skip


def watched(asked: list[str]) -> dict[str, Callable[..., Any]]:
    """getattr, setattr and vars by name; `asked` gets what no honest program asks for."""
    real_get, real_set, real_vars, line, reaching = getattr, setattr, vars, sys._getframe, REACHING | AUDITED

    def told(what: str) -> None:
        asked.append(f"{what} (line {line(2).f_lineno})"[:200])

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
        return real_vars(*owner) if owner else line(1).f_locals

    return {"getattr": get, "setattr": put, "vars": names_of}
