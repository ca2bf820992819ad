"""What a submission's text says for sure: its syntax, its classes, and uses that could alter a trace of it."""

from __future__ import annotations

import ast
import re
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
    "__spec__", "locals", "dir", "memoryview", "input",
}  # fmt: skip
UNSAFE_TORCH = {
    "_C", "_python_dispatch", "_pytree", "overrides", "library", "_dynamo", "_ops", "hub", "load", "save", "jit", "compile", "fx", "utils",
    "__torch_dispatch__", "__torch_function__", "storage", "_storage", "package", "monkeypatch", "multiprocessing", "distributed",
    "ops", "classes", "untyped_storage", "frombuffer", "from_file", "from_dlpack", "profiler", "futures", "cpp_extension", "sys", "os",
    "ctypes", "inspect", "importlib", "builtins", "functools", "warnings",
}  # fmt: skip
# Of the names above, those whose use no audit event tells of: a computed name must not begin as one of them.
UNHEARD = ("modules", "as_strided", "stride_tricks", "ctypes", "attrgetter", "methodcaller", "data_ptr", "frombuffer", "dup")
TORCH_NAMES = ("torch", "nn", "F", "np", "numpy", "math", "Tensor", "functional", "checkpoint")
# Modules that are found as attributes of others, such as logging.sys
MODULES = {
    "sys", "os", "gc", "inspect", "ctypes", "builtins", "importlib", "io", "subprocess", "threading", "pickle", "marshal", "types",
    "traceback", "linecache", "copyreg", "codecs", "shutil", "socket", "signal", "mmap",
}  # fmt: skip
PLAIN_JIT = ("script", "export", "ignore", "unused", "annotate", "is_scripting", "script_method", "Final")
PLAIN_DUNDERS = {
    "__init__", "__name__", "__class__", "__repr__", "__len__", "__call__", "__doc__", "__file__", "__main__", "__version__", "__getitem__",
    "__post_init__", "__iter__", "__next__", "__enter__", "__exit__", "__all__", "__eq__", "__hash__", "__str__", "__contains__",
    "__setitem__", "__delitem__", "__bool__", "__add__", "__sub__", "__mul__", "__lt__", "__le__", "__gt__", "__ge__", "__author__",
    "__future__", "__constants__", "__slots__",
}  # fmt: skip
# On whatever they stand: ways to frames and code, other names for getattr, and arrays over memory that is not theirs.
UNSAFE_ATTRIBUTES = {
    "f_back", "f_locals", "f_globals", "f_builtins", "f_code", "gi_frame", "gi_code", "tb_frame", "tb_next", "cr_frame", "ag_frame",
    "_getframe", "settrace", "setprofile", "attrgetter", "methodcaller", "format_map", "vformat", "Formatter", "get_type_hints",
    "ForwardRef", "make_dataclass", "as_strided", "stride_tricks", "ctypes", "ctypeslib", "frombuffer", "data_ptr", "currentframe",
    "walk_stack", "get_objects", "get_referrers", "get_referents", "register_at_fork", "dup", "dup2", "writev", "pwrite",
    "update_wrapper", "wraps", "Namespace", "SimpleNamespace", "set_defaults", "new_class",
}  # fmt: skip


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
    nodes = list(ast.walk(source.tree))
    calls = [n for n in nodes if isinstance(n, ast.Call)]
    numbering = {id(n.func) for n in calls if _numbers_an_attribute(n)}
    called = {id(n.func) for n in calls}
    numbering |= {id(n.value) for n in nodes if isinstance(n, ast.Attribute) and _is_plain_part(n)}
    modules = {a.asname or a.name.partition(".")[0] for n in nodes if isinstance(n, ast.Import) for a in n.names}
    found = [Doubt(n.lineno, why) for n in nodes if isinstance(n, ast.Attribute) and (why := _private_of(n, modules))]
    found += [Doubt(getattr(n, "lineno", 0), why) for n in nodes if id(n) not in numbering and (why := _doubt(n))]
    found += [Doubt(n.lineno, "getattr as a value") for n in nodes if isinstance(n, ast.Name) and n.id == "getattr" and id(n) not in called]
    return sorted(found, key=lambda d: d.line)


def _doubt(node: ast.AST) -> str:
    if isinstance(node, ast.Import):
        return next((f"import {a.name}" for a in node.names if not _safe_module(a.name)), "")
    if isinstance(node, ast.ImportFrom):
        return _doubt_from(node)
    if isinstance(node, ast.Name):
        return node.id if node.id in UNSAFE_NAMES or _odd_dunder(node.id) else ""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return f"the definition of {node.name}" if _odd_dunder(node.name) else ""
    if isinstance(node, ast.Attribute):
        return _doubt_attribute(node)
    if isinstance(node, ast.Call):
        return _doubt_call(node)
    if isinstance(node, ast.MatchClass):
        return next((f"the pattern {name}" for name in node.kwd_attrs if _unsafe_attribute(name)), "")
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return f"the text {node.value}" if node.value.startswith("__torch_") or _odd_dunder(node.value) else ""
    return ""


def _is_plain_part(node: ast.Attribute) -> bool:
    """torch.utils.checkpoint, torch.jit.script and the like: plain parts of namespaces that hold others."""
    owner = node.value
    if not (isinstance(owner, ast.Attribute) and isinstance(owner.value, ast.Name) and owner.value.id == "torch"):
        return False
    return (owner.attr == "utils" and node.attr == "checkpoint") or (owner.attr == "jit" and node.attr in PLAIN_JIT)


def _numbers_an_attribute(node: ast.Call) -> bool:
    """setattr(self, f"head{i}", ...) and its like: a name of the module's own, which begins as no dangerous one does."""
    if not (isinstance(node.func, ast.Name) and node.func.id in ("getattr", "setattr") and len(node.args) > 1):
        return False
    start = _fixed_start(node.args[1])
    is_own = isinstance(node.args[0], ast.Name) and node.args[0].id == "self"
    return is_own and start[:1].isalpha() and not any(name.startswith(start) or start.startswith(name) for name in UNHEARD)


def _fixed_start(node: ast.expr) -> str:
    """What a computed text surely begins with."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.split(r"[%{]", node.value)[0]
    if isinstance(node, ast.JoinedStr):
        return _fixed_start(node.values[0]) if node.values else ""
    return _fixed_start(node.left) if isinstance(node, ast.BinOp) else ""


def _doubt_call(node: ast.Call) -> str:
    """Attributes by computed names: getattr with more than a plain constant, and format strings that are not constants."""
    if isinstance(node.func, ast.Name) and node.func.id == "getattr" and len(node.args) > 1:
        if _numbers_an_attribute(node):
            return ""
        name = node.args[1].value if isinstance(node.args[1], ast.Constant) else None
        if not isinstance(name, str):
            return "getattr with a computed name"
        return f"getattr {name}" if _unsafe_attribute(name) or name in UNSAFE_TORCH else ""
    if isinstance(node.func, ast.Name) and (node.func.id == "id" or (node.func.id == "type" and len(node.args) > 1)):
        return f"{node.func.id}(...)"
    if isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        text = node.func.value.value if isinstance(node.func.value, ast.Constant) else None
        if not isinstance(text, str):
            return "format of a text that is not a constant"
        return "a format that reads attributes" if re.search(r"\{[^}]*\._", text) else ""
    return ""


def _doubt_from(node: ast.ImportFrom) -> str:
    module = node.module or ""
    if node.level or not _safe_module(module):
        return f"from {module} import"
    root = module.partition(".")[0]
    allowed = SAFE_OF.get(root)
    names = [a.name for a in node.names]
    in_torch = root == "torch" and module != "torch.utils.checkpoint"
    if bad := [
        n
        for n in names
        if _unsafe_attribute(n) or n in MODULES or (allowed is not None and n not in allowed) or (in_torch and n in UNSAFE_TORCH)
    ]:
        return f"from {module} import {bad[0]}"
    return ""


def _doubt_attribute(node: ast.Attribute) -> str:
    name = node.attr
    owner = node.value.id if isinstance(node.value, ast.Name) else ""
    if owner in SAFE_OF and name not in SAFE_OF[owner]:
        return f"{owner}.{name}"
    if (owner == "sys" and name == "modules") or (name in MODULES and owner != "self"):
        return f"{owner}.{name}"
    if owner in TORCH_NAMES and (name in UNSAFE_TORCH or name.startswith("_")):
        return f"{owner}.{name}"
    if _unsafe_attribute(name):
        return f"{owner}.{name}" if owner else name
    if isinstance(node.ctx, ast.Store) and owner in ("torch", "nn", "F", "Tensor"):
        return f"{owner}.{name} = ..."
    return ""


def _unsafe_attribute(name: str) -> bool:
    return name in UNSAFE_ATTRIBUTES or _odd_dunder(name)


def _private_of(node: ast.Attribute, modules: set[str]) -> str:
    """A module's own name, such as random._os, or ""."""
    is_private = node.attr.startswith("_") and isinstance(node.value, ast.Name) and node.value.id in modules
    return ast.unparse(node) if is_private else ""


def _odd_dunder(name: str) -> bool:
    return bool(re.fullmatch(r"__\w+__", name)) and name not in PLAIN_DUNDERS


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
