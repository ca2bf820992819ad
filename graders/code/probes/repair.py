"""Trivial mistakes that keep a submission from running, mended so that the rest can be looked at. Runs INSIDE the sandbox."""

from __future__ import annotations

import importlib
import typing
from typing import Any

import torch

MODULES = ("math", "random", "copy", "itertools", "functools", "os", "json", "re", "time", "warnings", "collections", "contextlib", "torch")
FROM = {
    "nn": "torch.nn", "F": "torch.nn.functional", "np": "numpy", "Tensor": "torch:Tensor", "Parameter": "torch.nn:Parameter",
    "init": "torch.nn.init", "checkpoint": "torch.utils.checkpoint:checkpoint", "partial": "functools:partial",
    "deepcopy": "copy:deepcopy", "dataclass": "dataclasses:dataclass", "field": "dataclasses:field", "deque": "collections:deque",
    "namedtuple": "collections:namedtuple", "reduce": "functools:reduce", "einsum": "torch:einsum", "ABC": "abc:ABC",
}  # fmt: skip
VIEW = torch.Tensor.view


def is_view_of_parts(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and str(error).startswith("view size is not compatible")


def view_or_reshape(tensor: torch.Tensor, *shape: Any) -> torch.Tensor:
    """What `view` is evidently meant to do where its tensor does not lie in one piece."""
    try:
        return VIEW(tensor, *shape)
    except RuntimeError:
        return tensor.reshape(*shape)


def missing_import(error: BaseException) -> str:
    """The name of a well-known module or part of one that the program uses and did not import, or ""."""
    name = error.name if isinstance(error, NameError) and isinstance(error.name, str) else ""
    return name if is_known(name) else ""


def is_known(name: str) -> bool:
    return name in MODULES or name in FROM or name in typing.__all__


def imported(name: str) -> Any:
    if name in typing.__all__ and name not in MODULES:
        return getattr(typing, name)
    module, _, part = FROM.get(name, name).partition(":")
    found = importlib.import_module(module)
    return getattr(found, part) if part else found
