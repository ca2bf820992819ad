"""Names of attributes that no honest submission asks for: ways to frames, code, the heap and raw memory.

Read by the text search outside the sandbox (source.py), and inside it where a program computes a name (asked.py).
"""

from __future__ import annotations

import re

# The functions that stand in a submission's namespace in place of the built-in ones, to hear of it (asked.py)
GIVEN = frozenset({"getattr", "setattr", "delattr", "vars", "globals"})
PLAIN_DUNDERS = {
    "__init__", "__name__", "__class__", "__repr__", "__len__", "__call__", "__doc__", "__file__", "__main__", "__version__", "__getitem__",
    "__post_init__", "__iter__", "__next__", "__enter__", "__exit__", "__all__", "__eq__", "__hash__", "__str__", "__contains__",
    "__setitem__", "__delitem__", "__bool__", "__add__", "__sub__", "__mul__", "__lt__", "__le__", "__gt__", "__ge__", "__author__",
    "__future__", "__constants__", "__slots__", "__getattr__", "__setattr__", "__new__", "__ne__", "__neg__", "__truediv__", "__matmul__",
    "__pow__", "__radd__", "__rmul__", "__rsub__", "__invert__", "__missing__", "__index__", "__int__", "__float__", "__iadd__",
    "__qualname__", "__and__", "__or__", "__set_name__", "__get__", "__extra_repr__", "__dataclass_fields__", "__rshift__", "__lshift__",
    "__rrshift__", "__rlshift__", "__rmatmul__", "__rtruediv__", "__rpow__", "__floordiv__", "__rfloordiv__", "__mod__", "__abs__",
    "__pos__", "__xor__", "__rand__", "__ror__", "__isub__", "__imul__", "__itruediv__", "__imatmul__", "__ior__", "__iand__",
    "__reversed__",
    "__round__", "__floor__", "__ceil__", "__trunc__", "__complex__", "__copy__", "__deepcopy__", "__getstate__", "__setstate__", "__del__",
    "__delattr__", "__set__", "__delete__", "__module__", "__debug__", "__package__", "__aiter__", "__anext__",
    "__await__", "__aenter__", "__aexit__", "__match_args__", "__fspath__", "__bytes__", "__format__", "__length_hint__", "__license__",
    "__date__", "__email__", "__status__", "__docformat__", "__copyright__", "__maintainer__", "__credits__",
}  # fmt: skip
# On whatever they stand: ways to frames and code, other names for getattr, and arrays over memory that is not theirs.
UNSAFE_ATTRIBUTES = {
    "f_back", "f_locals", "f_globals", "f_builtins", "f_code", "gi_frame", "gi_code", "tb_frame", "tb_next", "cr_frame", "ag_frame",
    "cr_code", "ag_code",
    "_getframe", "settrace", "setprofile", "attrgetter", "methodcaller", "format_map", "vformat", "Formatter", "get_type_hints",
    "ForwardRef", "make_dataclass", "as_strided", "stride_tricks", "ctypes", "ctypeslib", "frombuffer", "data_ptr", "currentframe",
    "walk_stack", "get_objects", "get_referrers", "get_referents", "register_at_fork", "dup", "dup2", "writev", "pwrite",
    "update_wrapper", "wraps", "Namespace", "SimpleNamespace", "set_defaults", "new_class",
}  # fmt: skip
# Beside them, where the name is computed: nothing of these is asked for by a computed name.
UNSAFE_COMPUTED = {
    "_C", "_python_dispatch", "_get_current_dispatch_mode", "_get_current_dispatch_mode_stack", "modules", "gc", "inspect", "ctypes",
    "builtins", "importlib", "exec", "eval", "compile", "globals", "vars", "getattr", "setattr", "subprocess", "socket",
}  # fmt: skip


def odd_dunder(name: str) -> bool:
    return bool(re.fullmatch(r"__\w+__", name)) and name not in PLAIN_DUNDERS


def unsafe_attribute(name: str) -> bool:
    return name in UNSAFE_ATTRIBUTES or odd_dunder(name)


def unsafe_computed(name: str) -> bool:
    return unsafe_attribute(name) or name in UNSAFE_COMPUTED
