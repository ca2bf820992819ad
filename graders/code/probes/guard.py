"""Notices when a submission replaced functions that the probe relies on. Runs INSIDE the sandbox."""

from __future__ import annotations

import builtins
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.utils._python_dispatch

WATCHED: dict[str, Callable[[], dict[str, object]]] = {
    "torch": lambda: dict(vars(torch)),
    "torch.nn": lambda: dict(vars(torch.nn)),
    "torch.nn.functional": lambda: dict(vars(torch.nn.functional)),
    "torch.Tensor": lambda: dict(vars(torch.Tensor)),
    "torch.autograd": lambda: dict(vars(torch.autograd)),
    "nn.Module": lambda: dict(vars(torch.nn.Module)),
    "TorchDispatchMode": lambda: dict(vars(torch.utils._python_dispatch.TorchDispatchMode)),
    "python_dispatch": lambda: dict(vars(torch.utils._python_dispatch)),
    "builtins": lambda: dict(vars(builtins)),
    "json": lambda: dict(vars(json)),
    "os": lambda: dict(vars(os)),
    "os.path": lambda: dict(vars(os.path)),
    "sys": lambda: {k: v for k, v in vars(sys).items() if callable(v)},
}
OURS = (
    "oplog", "ops", "replay", "gates", "verdicts", "memory_chain", "memory_facts", "memory_writes", "memory_fusion", "memory_course",
    "trial", "another_day", "hidden_flow", "threads", "plain_host", "thresholds", "guard", "asked", "names", "modes", "repair", "lenient",
    "missing_names", "error_lines", "comparisons", "__main__",
)  # fmt: skip
OWNERS: dict[str, object] = {
    "torch": torch, "torch.nn": torch.nn, "torch.nn.functional": torch.nn.functional, "nn.Module": torch.nn.Module,
    "torch.Tensor": torch.Tensor,
}  # fmt: skip
# What a function of these namespaces does is recorded operation by operation, whoever wrote it.
RECORDED: dict[str, set[str]] = {
    **{space: {k for k, v in vars(OWNERS[space]).items() if callable(v)} for space in OWNERS if space != "nn.Module"},
    "nn.Module": {"__call__", "_call_impl", "_wrapped_call_impl", "__init__", "__getattr__"},
}
STOOD_ON = {
    "torch.Tensor": {
        "detach",
        "clone",
        "numel",
        "untyped_storage",
        "shape",
        "requires_grad",
        "abs",
        "max",
        "dim",
        "reshape",
        "__getitem__",
    },
    "torch": {"Tensor", "manual_seed", "randint", "Generator", "isfinite", "no_grad", "enable_grad", "autograd", "is_grad_enabled"},
}
JUDGING = {"memory_facts", "memory_writes", "memory_fusion", "gates", "verdicts"}  # at work only while they are as they were
TORCH_FOLDER = os.path.dirname(torch.__file__)


class Guard:
    def __init__(self) -> None:
        self.ours = {name: sys.modules.get(name) for name in OURS}
        # tuples, as a program that goes through the heap writes into dictionaries with names that it knows
        self.before = tuple((space, tuple(keys.items())) for space, keys in self._look().items())

    def _look(self) -> dict[str, dict[str, object]]:
        seen: dict[str, dict[str, object]] = {}
        for name, namespace in WATCHED.items():
            seen[name] = {k: v for k, v in namespace().items() if callable(v) or isinstance(v, property)}
        for name, module in self.ours.items():
            for key, value in vars(module).items() if module else ():
                if isinstance(value, type):
                    seen[f"{name}.{key}"] = {k: v for k, v in vars(value).items() if callable(v)}
            seen[name] = {k: v for k, v in (vars(module).items() if module else ()) if callable(v)}
        return seen

    def changed(self) -> tuple[list[str], list[str]]:
        """(names replaced that the probe stands on, names replaced whose work is recorded all the same); new names are no harm."""
        harm: list[str] = []
        plain: list[str] = []
        for space, key, _ in self._differences():
            harmless = space in JUDGING or key in RECORDED.get(space, set()) - STOOD_ON.get(space, set())
            (plain if harmless else harm).append(f"{space}.{key}")
        if sys.gettrace() is not None:
            harm.append("sys.settrace")
        return harm[:20], plain[:20]

    def _differences(self) -> list[tuple[str, str, object]]:
        """(namespace, name, what stands there now)."""
        now = self._look()
        return [
            (space, key, now.get(space, {}).get(key))
            for space, keys in self.before
            for key, value in keys
            if now.get(space, {}).get(key) is not value and not _by_torch(key, now.get(space, {}).get(key))
        ]

    @contextmanager
    def originals(self) -> Iterator[None]:
        """Torch and the probe as they were before the submission, for as long as the probe thinks about what it recorded.

        Tensors of a class of the submission's own, which answer for themselves, are then tensors like any other.
        """
        owners = OWNERS | {name: module for name, module in self.ours.items() if module}
        replaced = [(owners[space], space, key, theirs) for space, key, theirs in self._differences() if space in owners]
        before = {(space, key): value for space, keys in self.before for key, value in keys}
        for owner, space, key, _ in replaced:
            setattr(owner, key, before[space, key])
        try:
            with torch._C.DisableTorchFunctionSubclass():
                yield
        finally:
            for owner, _, key, theirs in replaced:
                setattr(owner, key, theirs)


def _by_torch(key: str, value: object) -> bool:
    """torch wraps some functions of its own when torch._dynamo is imported: same name, code in torch's folder."""
    code = getattr(value, "__code__", None)
    return code is not None and code.co_filename.startswith(TORCH_FOLDER) and getattr(value, "__name__", "") in (key, "_fn", "inner")
