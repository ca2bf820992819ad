"""Notices when a submission replaced functions that the probe relies on. Runs INSIDE the sandbox."""

from __future__ import annotations

import builtins
import json
import os
import sys
from collections.abc import Callable

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
    "sys": lambda: {k: v for k, v in vars(sys).items() if callable(v)},
}
OURS = (
    "oplog", "algebra", "verdicts", "memory_chain", "memory_facts", "memory_writes", "memory_fusion", "guard", "__main__",
)  # fmt: skip
TORCH_FOLDER = os.path.dirname(torch.__file__)


class Guard:
    def __init__(self) -> None:
        self.ours = {name: sys.modules.get(name) for name in OURS}
        self.before = self._look()

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

    def changed(self) -> list[str]:
        """Names that were replaced or removed since; new names are no harm."""
        now = self._look()
        names = [
            f"{space}.{key}"
            for space, keys in self.before.items()
            for key, value in keys.items()
            if now.get(space, {}).get(key) is not value and not _by_torch(key, now.get(space, {}).get(key))
        ]
        if sys.gettrace() is not None:
            names.append("sys.settrace")
        return names[:20]


def _by_torch(key: str, value: object) -> bool:
    """torch wraps some functions of its own when torch._dynamo is imported: same name, code in torch's folder."""
    code = getattr(value, "__code__", None)
    return code is not None and code.co_filename.startswith(TORCH_FOLDER) and getattr(value, "__name__", "") in (key, "_fn", "inner")
