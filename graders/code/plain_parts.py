"""Parts of modules that are plain in themselves, though others of the same module could alter what is seen of a program.

torch.utils._pytree takes lists and dictionaries apart, and has a register that torch itself looks into; only the first is
plain. What is plain is told by whole names, through whatever names a program imports them by.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator

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


def plain_uses(nodes: list[ast.AST], is_safe: Callable[[str], bool]) -> Iterator[int]:
    """The ids of imports and attributes that reach plain parts only, beside modules that are safe."""
    names = _names_of_modules(nodes)
    whole = {id(n): n for n in nodes if isinstance(n, ast.Attribute) and _is_plain(_dotted(n, names))}
    inner = {id(part) for n in whole.values() for part in ast.walk(n.value)}
    loose = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load) and id(n) not in inner and n.id in names}
    for attribute in whole.values():
        part: ast.expr = attribute
        while isinstance(part, ast.Attribute):
            yield id(part)
            part = part.value
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            plain = [f"{node.module}.{a.name}" for a in node.names]
            if all(_is_plain(name) or (name in PLAIN_OF and _bound(a) not in loose) for name, a in zip(plain, node.names, strict=True)):
                yield id(node)
        elif isinstance(node, ast.Import) and all(is_safe(a.name) or _imports_plainly(a, loose) for a in node.names):
            yield id(node)


def _imports_plainly(alias: ast.alias, loose: set[str]) -> bool:
    """Is it a module of which only plain parts are used? (`import torch.utils._pytree` gives the name torch, whose uses tell.)"""
    if alias.name not in PLAIN_OF:
        return False
    return _bound(alias) not in loose or (alias.asname is None and alias.name.startswith("torch."))


def _bound(alias: ast.alias) -> str:
    return alias.asname or alias.name.partition(".")[0]


def _names_of_modules(nodes: list[ast.AST]) -> dict[str, str]:
    """What the names that stand for modules stand for."""
    found: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update((_bound(a), a.name if a.asname else a.name.partition(".")[0]) for a in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.update((_bound(a), f"{node.module}.{a.name}") for a in node.names if f"{node.module}.{a.name}" in PLAIN_OF)
    return found


def _dotted(node: ast.expr, names: dict[str, str]) -> str:
    """The whole name of an attribute of a module that is read, or ""."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
        parts.append(node.attr)
        node = node.value
    root = names.get(node.id, "") if isinstance(node, ast.Name) else ""
    return ".".join([root, *reversed(parts)]) if root else ""


def _is_plain(name: str) -> bool:
    module, _, part = name.rpartition(".")
    return part in PLAIN_OF.get(module, ())
