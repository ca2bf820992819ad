"""Names that a program uses and did not import, and what they evidently mean. Runs INSIDE the sandbox."""

from __future__ import annotations

import importlib
import typing
from collections.abc import Collection, Mapping
from typing import Any

# What any program means by them; those of a model alone are `repair`'s, and the longer tables those of a training program.
ANY_MODULES = (
    "math", "random", "copy", "itertools", "functools", "os", "json", "re", "time", "warnings", "collections", "contextlib", "torch",
)  # fmt: skip
ANY = {
    "nn": "torch.nn", "F": "torch.nn.functional", "np": "numpy", "Tensor": "torch:Tensor", "Parameter": "torch.nn:Parameter",
    "init": "torch.nn.init", "checkpoint": "torch.utils.checkpoint:checkpoint", "partial": "functools:partial",
    "deepcopy": "copy:deepcopy", "dataclass": "dataclasses:dataclass", "field": "dataclasses:field", "deque": "collections:deque",
    "namedtuple": "collections:namedtuple", "defaultdict": "collections:defaultdict", "reduce": "functools:reduce",
    "lru_cache": "functools:lru_cache", "nullcontext": "contextlib:nullcontext", "SimpleNamespace": "types:SimpleNamespace",
    "einsum": "torch:einsum", "ABC": "abc:ABC", "Enum": "enum:Enum", "Path": "pathlib:Path", "asdict": "dataclasses:asdict",
}  # fmt: skip
MODULES = (
    *ANY_MODULES, "sys", "gc", "argparse", "logging", "dataclasses", "inspect", "types", "weakref", "threading", "queue", "shutil", "enum",
    "abc",
)  # fmt: skip
FROM = {
    **ANY, "checkpoint_sequential": "torch.utils.checkpoint:checkpoint_sequential", "autocast": "torch.amp:autocast",
    "GradScaler": "torch.amp:GradScaler", "DataLoader": "torch.utils.data:DataLoader", "Dataset": "torch.utils.data:Dataset",
    "save_on_cpu": "torch.autograd.graph:save_on_cpu", "saved_tensors_hooks": "torch.autograd.graph:saved_tensors_hooks",
    "wraps": "functools:wraps", "islice": "itertools:islice", "cycle": "itertools:cycle", "chain": "itertools:chain",
    "contextmanager": "contextlib:contextmanager", "ExitStack": "contextlib:ExitStack", "suppress": "contextlib:suppress",
    "sdpa_kernel": "torch.nn.attention:sdpa_kernel", "SDPBackend": "torch.nn.attention:SDPBackend", "optim": "torch.optim",
    "functional_call": "torch.func:functional_call", "CausalBias": "torch.nn.attention.bias:CausalBias",
}  # fmt: skip


def is_known(name: str, modules: Collection[str] = MODULES, homes: Mapping[str, str] = FROM) -> bool:
    return name in modules or name in homes or name in typing.__all__


def imported(name: str, modules: Collection[str] = MODULES, homes: Mapping[str, str] = FROM) -> Any:
    if name in typing.__all__ and name not in modules:
        return getattr(typing, name)
    module, _, part = homes.get(name, name).partition(":")
    found = importlib.import_module(module)
    return getattr(found, part) if part else found
