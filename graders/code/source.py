"""What a submission's text says for sure: its syntax, its classes, and uses that could alter a trace of it."""

from __future__ import annotations

import ast
from dataclasses import dataclass

SAFE_IMPORTS = {
    "__future__", "torch", "math", "typing", "typing_extensions", "dataclasses", "collections", "functools", "itertools", "enum", "abc",
    "contextlib", "copy", "warnings", "random", "time", "argparse", "numbers", "operator", "string", "textwrap", "logging", "numpy",
    "pathlib", "os", "sys", "json", "re",
}  # fmt: skip
SAFE_OF = {
    "os": {"environ", "path", "getenv", "cpu_count"},
    "sys": {"argv", "exit", "version_info", "stdout", "stderr", "maxsize"},
}
UNSAFE_NAMES = {
    "exec", "eval", "compile", "__import__", "open", "globals", "vars", "setattr", "delattr", "breakpoint", "__builtins__", "__loader__",
}  # fmt: skip
UNSAFE_TORCH = {
    "_C", "_python_dispatch", "_pytree", "overrides", "library", "_dynamo", "_ops", "hub", "load", "save", "jit", "compile", "fx", "utils",
    "__torch_dispatch__", "__torch_function__", "storage", "_storage", "package", "monkeypatch", "multiprocessing", "distributed",
}  # fmt: skip
PLAIN_DUNDERS = {
    "__init__", "__name__", "__class__", "__repr__", "__len__", "__call__", "__doc__", "__file__", "__main__", "__version__", "__getitem__",
    "__post_init__", "__iter__", "__next__", "__enter__", "__exit__", "__all__", "__eq__", "__hash__", "__str__", "__contains__",
}  # fmt: skip
UNSAFE_ATTRIBUTES = {
    "f_back",
    "f_locals",
    "f_globals",
    "gi_frame",
    "tb_frame",
    "cr_frame",
    "modules",
    "_getframe",
    "settrace",
    "setprofile",
}


@dataclass(frozen=True)
class Doubt:
    """A use with which a program could alter what is seen of it: the line and the words."""

    line: int
    text: str


@dataclass(frozen=True)
class Source:
    """The parsed text; `tree` is None with `error` when it does not parse."""

    text: str
    tree: ast.Module | None
    error: str = ""

    def class_line(self, name: str) -> int | None:
        """Where the class of that name is defined at the top level or below; None when nowhere."""
        nodes = ast.walk(self.tree) if self.tree else ()
        return next((n.lineno for n in nodes if isinstance(n, ast.ClassDef) and n.name == name), None)

    def mentions(self, name: str) -> bool:
        """Does the program (not its comments) use the name in any way that could define it?"""
        return self.tree is None or any(name in _words(node) for node in ast.walk(self.tree))

    def line(self, number: int) -> str:
        rows = self.text.splitlines()
        return rows[number - 1].strip()[:200] if 0 < number <= len(rows) else ""


def read_source(text: str) -> Source:
    """Parse without running; never raises."""
    try:
        return Source(text, ast.parse(text))
    except SyntaxError as error:
        return Source(text, None, f"SyntaxError: {error.msg} (line {error.lineno})")
    except (ValueError, RecursionError, MemoryError) as error:
        return Source(text, None, f"{type(error).__name__}: {error}")


def doubts(source: Source) -> list[Doubt]:
    """Each use that could alter the trace, in order of lines. An honest submission has none."""
    if source.tree is None:
        return []
    found = [Doubt(getattr(n, "lineno", 0), why) for n in ast.walk(source.tree) if (why := _doubt(n))]
    return sorted(found, key=lambda d: d.line)


def _doubt(node: ast.AST) -> str:
    if isinstance(node, ast.Import):
        return next((f"import {a.name}" for a in node.names if not _safe_module(a.name)), "")
    if isinstance(node, ast.ImportFrom):
        return _doubt_from(node)
    if isinstance(node, ast.Name) and node.id in UNSAFE_NAMES:
        return node.id
    if isinstance(node, ast.Attribute):
        return _doubt_attribute(node)
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("__torch_"):
        return node.value
    return ""


def _doubt_from(node: ast.ImportFrom) -> str:
    module = node.module or ""
    if node.level or not _safe_module(module):
        return f"from {module} import"
    root = module.partition(".")[0]
    allowed = SAFE_OF.get(root)
    names = [a.name for a in node.names]
    in_torch = root == "torch" and module != "torch.utils.checkpoint"
    if bad := [n for n in names if (allowed is not None and n not in allowed) or (in_torch and n in UNSAFE_TORCH)]:
        return f"from {module} import {bad[0]}"
    return ""


def _doubt_attribute(node: ast.Attribute) -> str:
    name = node.attr
    owner = node.value.id if isinstance(node.value, ast.Name) else ""
    if owner in SAFE_OF and name not in SAFE_OF[owner]:
        return f"{owner}.{name}"
    if name in UNSAFE_ATTRIBUTES or (owner == "torch" and name in UNSAFE_TORCH):
        return f"{owner}.{name}"
    if name.startswith("__") and name.endswith("__") and name not in PLAIN_DUNDERS:
        return name
    if isinstance(node.ctx, ast.Store) and owner in ("torch", "nn", "F", "Tensor"):
        return f"{owner}.{name} = ..."
    return ""


def _safe_module(name: str) -> bool:
    root, _, rest = name.partition(".")
    if root == "torch":
        parts = rest.split(".") if rest else []
        return rest == "utils.checkpoint" or not any(part in UNSAFE_TORCH or part.startswith("_") for part in parts)
    return root in SAFE_IMPORTS


def _words(node: ast.AST) -> tuple[str, ...]:
    if isinstance(node, ast.ClassDef):
        return (node.name,)
    if isinstance(node, ast.Name):
        return (node.id,)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return (node.value,)
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return tuple(part for a in node.names for part in (a.name, a.asname or "", "NeuralMemory" if a.name == "*" else ""))
    return ()
