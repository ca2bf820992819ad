"""Keeps the recorder out of a submission's sight: nothing that it can ask for tells that its operations are recorded.

torch itself goes on seeing the truth: calls from anywhere else are answered otherwise. Runs INSIDE the sandbox.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.utils._python_dispatch as dispatch

ANSWERS: tuple[tuple[Any, str, Callable[[], Any]], ...] = (
    (torch, "get_num_threads", lambda: os.cpu_count() or 4),
    (torch._C, "_len_torch_dispatch_stack", lambda: 0),
    (dispatch, "_len_torch_dispatch_stack", lambda: 0),
    (dispatch, "_get_current_dispatch_mode", lambda: None),
    (dispatch, "_get_current_dispatch_mode_stack", list),
    (dispatch, "is_in_torch_dispatch_mode", lambda *_: False),
    (dispatch, "is_in_any_mode_without_ignore_compile_internals", lambda: False),
)


INSIDE = (os.path.dirname(torch.__file__) + os.sep, os.path.dirname(os.path.abspath(__file__)) + os.sep)


def keep_unseen() -> None:
    for owner, name, answer in ANSWERS:
        if hasattr(owner, name):
            setattr(owner, name, _answering(getattr(owner, name), answer))
    torch.compile = _as_it_is
    torch.nn.functional.glu = _glu  # one operation that hides a sigmoid
    torch.backends.mha.set_fastpath_enabled(False)  # one operation that hides attention; torch takes it where nothing is trained


def _answering(real: Callable[..., Any], answer: Callable[..., Any]) -> Callable[..., Any]:
    _getframe = sys._getframe

    def asked(*args: Any) -> Any:
        return real(*args) if _getframe(1).f_code.co_filename.startswith(INSIDE) else answer(*args)

    return asked


def _glu(input: torch.Tensor, dim: int = -1) -> torch.Tensor:
    value, gate = input.chunk(2, dim)
    return value * torch.sigmoid(gate)


def _as_it_is(model: Any = None, **_: Any) -> Any:
    """torch.compile where nothing is compiled: the operations are the same."""
    return model if model is not None else _as_it_is
