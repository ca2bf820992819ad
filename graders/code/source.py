"""What a submission's text says for sure: its syntax, its classes, and uses that could alter a trace of it."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from graders.code.plain_parts import other_use, plain_uses
from graders.code.probes import names as odd
from graders.code.probes.names import odd_dunder, unsafe_attribute

SAFE_IMPORTS = {
    "__future__", "torch", "math", "typing", "typing_extensions", "dataclasses", "collections", "functools", "itertools", "enum", "abc",
    "contextlib", "copy", "warnings", "random", "time", "argparse", "numbers", "operator", "string", "textwrap", "logging", "numpy",
    "pathlib", "os", "sys", "json", "re", "atexit", "heapq", "bisect", "statistics", "pprint", "datetime", "fractions", "decimal",
    "hashlib", "csv", "glob", "tempfile", "unittest", "tqdm", "types", "inspect",
}  # fmt: skip
SAFE_OF = {
    "os": {"environ", "path", "getenv", "cpu_count", "getcwd", "makedirs", "listdir", "sep", "linesep", "getpid", "name", "_exit"},
    "sys": {"argv", "exit", "version_info", "stdout", "stderr", "maxsize", "version", "platform", "float_info"},
    "types": {"SimpleNamespace", "MethodType", "MappingProxyType"},
    "inspect": {"signature", "Parameter", "isclass", "isfunction"},
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
# By whatever name torch goes: what sees operations, and what keeps them from being seen
SEEING = ("_python_dispatch", "_disable_current_modes", "_get_current_dispatch_mode", "_pop_torch_dispatch_stack")
TORCH_NAMES = ("torch", "nn", "F", "np", "numpy", "math", "Tensor", "functional", "checkpoint")
# Modules that are found as attributes of others, such as logging.sys
MODULES = {
    "sys", "os", "gc", "inspect", "ctypes", "builtins", "importlib", "io", "subprocess", "threading", "pickle", "marshal", "types",
    "traceback", "linecache", "copyreg", "codecs", "shutil", "socket", "signal", "mmap",
}  # fmt: skip
PLAIN_JIT = (
    "script",
    "export",
    "ignore",
    "unused",
    "annotate",
    "is_scripting",
    "script_method",
    "script_if_tracing",
    "is_tracing",
    "Final",
)
PLAIN_TORCH = ("torch.utils.checkpoint", "torch.utils.data", "torch.nn.utils")  # with what is below them
PLAIN_PARTS = (*PLAIN_TORCH, "nn.utils", "torch._C.DisableTorchFunctionSubclass", "torch._C.DisableTorchFunction")
UNSAFE_ATTRIBUTES = odd.UNSAFE_ATTRIBUTES
# Where a probe hears what they are used for, or sees through what they do
HEARD = {"open", "setattr", "delattr", "vars", "dir", "__torch_function__", "__init_subclass__", "__class_getitem__"}
HEARD_TORCH = {"compile", "save", "__torch_function__", "__init_subclass__", "_assert"}
HEARD_IMPORTS = {"gc", "cmath", "uuid", "platform", "struct"}
HEARD_OF = {
    "gc": {"collect", "enable", "disable", "isenabled", "freeze"},
    "sys": {"setrecursionlimit", "getrecursionlimit", "getsizeof", "exc_info"},
    "os": {"urandom", "sched_getaffinity"},
}
TO_STAY = odd.GIVEN | {"__name__"}  # what a probe puts there to hear of it has to stay there
# What globals() may be asked and given there
ASKED_OF_GLOBALS = {"get", "keys", "values", "items", "update", "setdefault", "pop"}
TAKES_GLOBALS = {"list", "sorted", "set", "tuple", "dict", "len"}
WRITERS = {"open", "write_text", "write_bytes", "save", "savetxt", "tofile", "memmap", "dump", "copyfile", "mkstemp", "NamedTemporaryFile"}


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


def doubts(source: Source, *, heard: bool = False) -> list[Doubt]:
    """Each use that could alter the trace, in order of lines. An honest submission has none.

    `heard`: a probe hears what names are computed and what files are opened (seal.py, asked.py), so that these alone are none.
    """
    if source.tree is None:
        return []
    nodes = list(_reached(source.tree))
    plain = set(_plain(nodes)) | set(_own_names(source.tree)) | set(plain_uses(nodes, _safe_module, heard=heard))
    if heard:
        plain |= set(_plain_where_heard(nodes))
    else:
        called = {id(n.func) for n in nodes if isinstance(n, ast.Call)}
        loose = [n for n in nodes if isinstance(n, ast.Name) and n.id == "getattr" and id(n) not in called]
    modules = {a.asname or a.name.partition(".")[0]: a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
    attributes = [n for n in nodes if isinstance(n, ast.Attribute) and id(n) not in plain]
    found = [Doubt(n.lineno, why) for n in attributes if (why := _private_of(n, set(modules)))]
    for node in [n for n in nodes if id(n) not in plain]:
        if why := _doubt(node, heard):
            used = other_use(node, nodes) if heard and isinstance(node, ast.Import | ast.ImportFrom) else None
            found.append(Doubt(*(used or (getattr(node, "lineno", 0), why))))
    found += [] if heard else [Doubt(n.lineno, "getattr as a value") for n in loose]
    found += list(_loose_modules(nodes, {name for name, module in modules.items() if module in SAFE_OF}, plain))
    return sorted(found, key=lambda d: d.line)


def _reached(tree: ast.Module) -> Iterator[ast.AST]:
    """All nodes but those of `if __name__ == "__main__":`, as a probe imports the file under another name."""
    for statement in tree.body:
        if not (isinstance(statement, ast.If) and ast.unparse(statement.test) == "__name__ == '__main__'"):
            yield from ast.walk(statement)
        else:
            yield from (n for other in statement.orelse for n in ast.walk(other))


def _plain(nodes: list[ast.AST]) -> Iterator[int]:
    """The ids of nodes that are no doubt by what stands around them."""
    for node in nodes:
        if isinstance(node, ast.Call):
            if _numbers_an_attribute(node) or _is_plain_call(node):
                yield id(node.func)
        elif isinstance(node, ast.Attribute) and _is_plain_part(node):
            yield id(node.value)
            yield id(node)
        elif isinstance(node, ast.For | ast.comprehension) and _is_modules(node.iter):
            yield id(node.iter)
        elif isinstance(node, ast.Compare) and all(isinstance(op, ast.In | ast.NotIn) for op in node.ops):
            yield from (id(n) for n in node.comparators if _is_modules(n))


def _plain_where_heard(nodes: list[ast.AST]) -> Iterator[int]:
    """The ids of nodes that reach nothing while a probe hears what is reached for."""
    in_use = {id(n.value) for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.attr in HEARD_OF["gc"]}
    loose_gc = any(isinstance(n, ast.Name) and n.id == "gc" and id(n) not in in_use for n in nodes)
    words = {n.attr if isinstance(n, ast.Attribute) else n.id for n in nodes if isinstance(n, (ast.Attribute, ast.Name))}
    yield from _plain_globals(nodes)
    for node in nodes:
        if isinstance(node, ast.Import) and all(a.name in HEARD_IMPORTS for a in node.names):
            if not any(a.name == "gc" and (a.asname or loose_gc) for a in node.names):
                yield id(node)
        elif isinstance(node, ast.Attribute) and (_is_own_dict(node) or (ast.unparse(node) == "sys.path" and not words & WRITERS)):
            yield id(node)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.attr in HEARD_OF.get(node.value.id, ()):
            yield id(node)
            yield id(node.value)
        elif isinstance(node, ast.FunctionDef):  # the function's own variables
            yield from (id(n) for n in ast.walk(node) if isinstance(n, ast.Name) and n.id == "locals")
        elif isinstance(node, ast.Try) and not words & WRITERS:  # a package that may be installed: none that is not can be put there
            yield from (id(n) for n in node.body if isinstance(n, ast.Import | ast.ImportFrom) and not _is_installed(n))


def asks_for_its_names(source: Source) -> bool:
    """Does it use globals() to ask for names of its own and to give them? Any other use of it is a doubt."""
    return source.tree is not None and bool(list(_plain_globals(list(_reached(source.tree)))))


def _plain_globals(nodes: list[ast.AST]) -> Iterator[int]:
    """The ids of the names in globals()[...] and its like."""
    for call in [call for node in nodes for call in _looked_through(node)]:
        if isinstance(call.func, ast.Name) and call.func.id == "globals" and not call.args and not call.keywords:
            yield id(call.func)


def _looked_through(node: ast.AST) -> Iterator[ast.Call]:
    """Calls whose result is asked for names, given some or gone through, and is in nobody's hands otherwise."""
    found: list[ast.expr] = []
    if isinstance(node, ast.Subscript):
        found = [node.value]
    elif isinstance(node, ast.For | ast.comprehension):
        found = [node.iter]
    elif isinstance(node, ast.Compare) and all(isinstance(op, ast.In | ast.NotIn) for op in node.ops):
        found = node.comparators
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ASKED_OF_GLOBALS:
        found = [node.func.value]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in TAKES_GLOBALS:
        found = node.args
    yield from (n for n in found if isinstance(n, ast.Call))


def _is_installed(node: ast.Import | ast.ImportFrom) -> bool:
    names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
    roots = {name.partition(".")[0] for name in names}
    return not all(root and root not in sys.builtin_module_names and importlib.util.find_spec(root) is None for root in roots)


def _own_names(tree: ast.Module) -> Iterator[int]:
    """The ids of names of a function's own (arguments and variables) that happen to be called as a built-in is: `input`, `dir`."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        given = function.args
        own = {a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg) if a}
        body = function.body if isinstance(function.body, list) else [function.body]
        inside = [n for part in body for n in _same_scope(part)]
        own |= {n.id for n in inside if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        within = [n for part in body for n in ast.walk(part)]
        own -= {name for n in within if isinstance(n, ast.Global | ast.Nonlocal) for name in n.names}
        if own := own & UNSAFE_NAMES:  # a class's names are looked up elsewhere than a function's
            of_classes = {id(n) for c in within if isinstance(c, ast.ClassDef) for part in c.body for n in _same_scope(part)}
            yield from (id(n) for n in within if isinstance(n, ast.Name) and n.id in own and id(n) not in of_classes)


def _same_scope(node: ast.AST) -> Iterator[ast.AST]:
    """A statement's nodes without those in a scope of their own."""
    scopes = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    yield node
    if not isinstance(node, scopes):
        for child in ast.iter_child_nodes(node):
            yield from _same_scope(child)


def _is_modules(node: ast.AST) -> bool:
    """sys.modules where its names are looked at and not the modules."""
    return isinstance(node, ast.Attribute) and node.attr == "modules" and isinstance(node.value, ast.Name) and node.value.id == "sys"


def _is_plain_call(node: ast.Call) -> bool:
    """SimpleNamespace(a=1), functools.wraps(f): with names that are written out they reach nothing."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    written_out = all(k.arg and not unsafe_attribute(k.arg) for k in node.keywords)
    return (name in ("SimpleNamespace", "Namespace") and written_out) or (name == "wraps" and len(node.args) == 1 and not node.keywords)


def _loose_modules(nodes: list[ast.AST], names: set[str], plain: set[int]) -> Iterator[Doubt]:
    """os, sys and their like used other than as `os.something`: then what is used of them can't be seen."""
    owners = {id(n.value): n for n in nodes if isinstance(n, ast.Attribute)}
    for node in nodes:
        if isinstance(node, ast.Name) and node.id in names and isinstance(node.ctx, ast.Load):
            attribute = owners.get(id(node))
            if attribute is None:
                yield Doubt(node.lineno, f"{node.id} as a value")
            elif node.id not in SAFE_OF and id(attribute) not in plain:
                yield Doubt(node.lineno, f"{node.id}.{attribute.attr} under another name")


def _doubt(node: ast.AST, heard: bool = False) -> str:
    if isinstance(node, ast.Import):
        return next((f"import {a.name}" for a in node.names if not _safe_module(a.name)), "")
    if isinstance(node, ast.ImportFrom):
        return _doubt_from(node, HEARD_TORCH if heard else set())
    known = HEARD if heard else set()
    if isinstance(node, ast.Name | ast.ExceptHandler):
        return _doubt_name(node, known)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return f"the definition of {node.name}" if odd_dunder(node.name) and node.name not in known else ""
    if isinstance(node, ast.Attribute):
        return _doubt_attribute(node) if not (heard and node.attr in HEARD_TORCH) else ""
    if isinstance(node, ast.Call):
        return _doubt_call(node, heard)
    if isinstance(node, ast.MatchClass):
        return next((f"the pattern {name}" for name in node.kwd_attrs if unsafe_attribute(name)), "")
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return f"the text {node.value}" if node.value.startswith("__torch_") or odd_dunder(node.value) else ""
    return ""


def _doubt_name(node: ast.Name | ast.ExceptHandler, known: set[str]) -> str:
    if isinstance(node, ast.ExceptHandler):  # the name is deleted at its end
        return f"as {node.name}" if node.name in TO_STAY else ""
    if not isinstance(node.ctx, ast.Load) and node.id in TO_STAY:
        return f"{node.id} = ..." if isinstance(node.ctx, ast.Store) else f"del {node.id}"
    return node.id if (node.id in UNSAFE_NAMES or odd_dunder(node.id)) and node.id not in known else ""


def _is_own_dict(node: ast.Attribute) -> bool:
    """self.__dict__: what an object holds, by another way than setattr."""
    is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
    return is_own and node.attr == "__dict__" and isinstance(node.ctx, ast.Load)


def _is_plain_part(node: ast.Attribute) -> bool:
    """torch.utils.checkpoint, torch.jit.script and the like: plain parts of namespaces that hold others."""
    name = ast.unparse(node)
    return name in PLAIN_PARTS or name == "torch.ops.aten" or (name.startswith("torch.jit.") and node.attr in PLAIN_JIT)


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


def _doubt_call(node: ast.Call, heard: bool) -> str:
    """Attributes by computed names: getattr with more than a plain constant, and format strings that are not constants."""
    if isinstance(node.func, ast.Name) and node.func.id == "getattr" and len(node.args) > 1:
        if _numbers_an_attribute(node):
            return ""
        name = node.args[1].value if isinstance(node.args[1], ast.Constant) else None
        if not isinstance(name, str):
            return "" if heard else "getattr with a computed name"
        return f"getattr {name}" if unsafe_attribute(name) or name in UNSAFE_TORCH else ""
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    if name in ("setattr", "delattr") and node.args and ast.unparse(node.args[0]) in TORCH_NAMES:
        return f"{name} on torch"
    if isinstance(node.func, ast.Name) and ((node.func.id == "id" and not heard) or _makes_odd_class(node)):
        return f"{node.func.id}(...)"
    if isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        text = node.func.value.value if isinstance(node.func.value, ast.Constant) else None
        if not isinstance(text, str):
            return "format of a text that is not a constant"
        return "a format that reads attributes" if re.search(r"\{[^}]*\._", text) else ""
    return ""


def _makes_odd_class(node: ast.Call) -> bool:
    """type(name, bases, {...}) with names in it that are not written out, or that no honest class defines."""
    if not (isinstance(node.func, ast.Name) and node.func.id == "type" and len(node.args) > 1):
        return False
    holds = node.args[-1]
    keys = holds.keys if isinstance(holds, ast.Dict) else [None]
    return not all(isinstance(k, ast.Constant) and isinstance(k.value, str) and not unsafe_attribute(k.value) for k in keys)


def _doubt_from(node: ast.ImportFrom, known: set[str]) -> str:
    module = node.module or ""
    if node.level or not _safe_module(module):
        return f"from {module} import"
    root = module.partition(".")[0]
    allowed = SAFE_OF.get(root)
    names = [a.name for a in node.names if not (root == "torch" and a.name in known) and f"{module}.{a.name}" not in PLAIN_TORCH]
    in_torch = root == "torch" and not module.startswith(PLAIN_TORCH)
    if bad := [
        n
        for n in names
        if n not in (allowed or ()) and (unsafe_attribute(n) or n in MODULES or allowed is not None or (in_torch and n in UNSAFE_TORCH))
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
    if unsafe_attribute(name) or name in SEEING:
        return f"{owner}.{name}" if owner else name
    if isinstance(node.ctx, ast.Store) and owner in ("torch", "nn", "F", "Tensor"):
        return f"{owner}.{name} = ..."
    return ""


def _private_of(node: ast.Attribute, modules: set[str]) -> str:
    """A module's own name, such as random._os, or ""."""
    is_private = node.attr.startswith("_") and isinstance(node.value, ast.Name) and node.value.id in modules
    return ast.unparse(node) if is_private else ""


def _safe_module(name: str) -> bool:
    root, _, rest = name.partition(".")
    if root == "torch":
        parts = rest.split(".") if rest else []
        return name.startswith(PLAIN_TORCH) or not any(part in UNSAFE_TORCH or part.startswith("_") for part in parts)
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
