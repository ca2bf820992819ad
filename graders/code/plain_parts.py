"""Parts of modules that are plain in themselves, though others of the same module could alter what is seen of a program.

torch.utils._pytree takes lists and dictionaries apart, and has a register that torch itself looks into; only the first is
plain. What is plain is told by whole names, through whatever names a program imports them by.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping

TREES = {
    "tree_flatten", "tree_unflatten", "tree_map", "tree_map_", "tree_map_only", "tree_map_with_path", "tree_leaves", "tree_structure",
    "tree_all", "tree_any", "tree_all_only", "tree_any_only", "tree_iter", "tree_flatten_with_path", "tree_leaves_with_path", "keystr",
    "PyTree", "TreeSpec", "LeafSpec", "treespec_pprint", "tree_is_leaf",
}  # fmt: skip
PLAIN_OF: dict[str, set[str]] = {
    "torch.utils._pytree": TREES,
    "torch.utils.pytree": TREES,
    "torch.profiler": {"record_function"},
    "torch.autograd.profiler": {"record_function"},
    "torch.distributed": {"is_available", "is_initialized", "get_rank", "get_world_size"},
    "torch.jit": {"script", "export", "ignore", "unused", "Final", "annotate", "is_scripting", "script_method", "script_if_tracing"},
    "torch.compiler": {"disable", "is_compiling", "allow_in_graph"},
    "torch._dynamo": {"disable", "is_compiling"},
    "torch.overrides": {"has_torch_function", "is_tensor_like"},
    "importlib.util": {"find_spec"},
    "importlib.metadata": {"version", "PackageNotFoundError"},
    "weakref": {"ref", "proxy", "WeakKeyDictionary", "WeakValueDictionary", "WeakSet", "WeakMethod", "ReferenceType"},
    "threading": {"local", "Lock", "RLock", "Event", "get_ident"},
    "contextvars": {"ContextVar", "Token", "copy_context"},
    "traceback": {"print_exc", "format_exc"},
    "io": {"StringIO", "BytesIO"},
    "queue": {"Queue", "SimpleQueue", "LifoQueue", "PriorityQueue", "Empty"},
    "array": {"array"},
    "secrets": {"token_hex", "randbelow", "choice"},
    "shutil": {"get_terminal_size"},
    "graphlib": {"TopologicalSorter", "CycleError"},
    "timeit": {"default_timer", "timeit"},
    "doctest": {"testmod"},
    "zlib": {"crc32", "adler32"},
    "base64": {"b64encode", "b64decode"},
    "difflib": {"SequenceMatcher", "get_close_matches"},
    "configparser": {"ConfigParser"},
    "tomllib": {"loads", "load"},
    "ast": {"literal_eval"},
}  # fmt: skip

# Where a probe follows threads, hears what they and an event loop reach for, and tells what a shell's process would be told
PLAIN_WHERE_HEARD: dict[str, set[str]] = {
    "threading": {"Thread", "Condition", "Semaphore", "BoundedSemaphore", "Barrier", "current_thread", "main_thread"},
    "concurrent.futures": {
        "ThreadPoolExecutor", "Future", "as_completed", "wait", "TimeoutError", "ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION",
    },
    "concurrent.futures.thread": {"ThreadPoolExecutor"},
    "asyncio": {
        "run", "gather", "sleep", "create_task", "ensure_future", "wait", "wait_for", "as_completed", "shield", "timeout", "to_thread",
        "get_event_loop", "get_running_loop", "new_event_loop", "set_event_loop", "Runner", "Task", "TaskGroup", "Future", "Queue",
        "PriorityQueue", "LifoQueue", "Lock", "Event", "Condition", "Semaphore", "BoundedSemaphore", "AbstractEventLoop", "iscoroutine",
        "iscoroutinefunction", "isfuture", "TimeoutError", "CancelledError", "QueueEmpty", "QueueFull", "FIRST_COMPLETED", "ALL_COMPLETED",
    },
    "resource": {
        "getrusage", "getpagesize", "RUSAGE_SELF", "RUSAGE_CHILDREN", "RUSAGE_THREAD", "RLIM_INFINITY", "RLIMIT_AS", "RLIMIT_CORE",
        "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_RSS", "RLIMIT_STACK",
    },
}  # fmt: skip
WHERE_HEARD = {module: PLAIN_OF.get(module, set()) | PLAIN_WHERE_HEARD.get(module, set()) for module in (*PLAIN_OF, *PLAIN_WHERE_HEARD)}
CALLED_WHERE_HEARD = {"resource.getrlimit", "resource.setrlimit"}  # a probe's own there: not to be looked at, only to be called
Parts = Mapping[str, set[str]]


def plain_uses(nodes: list[ast.AST], is_safe: Callable[[str], bool], *, heard: bool = False) -> Iterator[int]:
    """The ids of imports and attributes that reach plain parts only, beside modules that are safe.

    `heard`: a probe hears what is reached for, follows threads and answers for a shell.
    """
    parts = WHERE_HEARD if heard else PLAIN_OF
    names = _names_of_modules(nodes, parts)
    whole = _whole(nodes, names, heard=heard)
    loose = {n.id for n in _loose(nodes, names, whole)}
    for attribute in whole:
        part: ast.expr = attribute
        while isinstance(part, ast.Attribute):
            yield id(part)
            part = part.value
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            given = [(f"{node.module}.{a.name}", a) for a in node.names]
            if all(_is_plain(name, parts) or (name in parts and _bound(a) not in loose) for name, a in given):
                yield id(node)
        elif isinstance(node, ast.Import) and all(is_safe(a.name) or _imports_plainly(a, loose, parts) for a in node.names):
            yield id(node)


def other_use(imported: ast.Import | ast.ImportFrom, nodes: list[ast.AST]) -> tuple[int, str] | None:
    """(line, words) of the first use of these modules that is of no part that is plain where heard, if they have such parts."""
    names = _names_of_modules(nodes, WHERE_HEARD)
    start = f"{imported.module}." if isinstance(imported, ast.ImportFrom) else ""
    bound = {_bound(a) for a in imported.names if start + a.name in WHERE_HEARD}
    owners = {id(n.value): n for n in nodes if isinstance(n, ast.Attribute)}
    for node in _loose(nodes, names, _whole(nodes, names, heard=True)) if len(bound) == len(imported.names) else ():
        used: ast.expr = node
        while id(used) in owners:
            used = owners[id(used)]
        if node.id in bound:
            return node.lineno, ast.unparse(used) if used is not node else f"{node.id} as a value"
    return None


def _whole(nodes: list[ast.AST], names: dict[str, str], *, heard: bool) -> list[ast.Attribute]:
    """Attributes that are plain parts by their whole names."""
    parts = WHERE_HEARD if heard else PLAIN_OF
    calls = [n.func for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)] if heard else []
    called = [n for n in calls if _dotted(n, names) in CALLED_WHERE_HEARD]
    return called + [n for n in nodes if isinstance(n, ast.Attribute) and _is_plain(_dotted(n, names), parts)]


def _loose(nodes: list[ast.AST], names: dict[str, str], whole: list[ast.Attribute]) -> list[ast.Name]:
    """Where modules are used otherwise."""
    inner = {id(part) for n in whole for part in ast.walk(n.value)}
    return [n for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load) and id(n) not in inner and n.id in names]


def _imports_plainly(alias: ast.alias, loose: set[str], parts: Parts) -> bool:
    """Is it a module of which only plain parts are used? (`import torch.utils._pytree` gives the name torch, whose uses tell.)"""
    if alias.name not in parts:
        return False
    return _bound(alias) not in loose or (alias.asname is None and alias.name.startswith("torch."))


def _bound(alias: ast.alias) -> str:
    return alias.asname or alias.name.partition(".")[0]


def _names_of_modules(nodes: list[ast.AST], parts: Parts) -> dict[str, str]:
    """What the names that stand for modules stand for."""
    found: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update((_bound(a), a.name if a.asname else a.name.partition(".")[0]) for a in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.update((_bound(a), f"{node.module}.{a.name}") for a in node.names if f"{node.module}.{a.name}" in parts)
    return found


def _dotted(node: ast.expr, names: dict[str, str]) -> str:
    """The whole name of an attribute of a module that is read, or ""."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
        parts.append(node.attr)
        node = node.value
    root = names.get(node.id, "") if isinstance(node, ast.Name) else ""
    return ".".join([root, *reversed(parts)]) if root else ""


def _is_plain(name: str, parts: Parts) -> bool:
    module, _, part = name.rpartition(".")
    return part in parts.get(module, ())
