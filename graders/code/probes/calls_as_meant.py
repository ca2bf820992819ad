"""The arguments that a call evidently wanted where what it got ended the program. Runs INSIDE the sandbox."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pretend_gpu import ONE_DEVICE

Tensor = torch.Tensor
INDEXED = {"embedding": 0, "cross_entropy": 1, "nll_loss": 1}  # the place of what must be whole numbers
SUMS = {"add", "__add__", "__radd__", "__iadd__", "add_", "sub", "__sub__", "mul", "__mul__"}
PRODUCTS = {"linear", "matmul", "__matmul__"}


def as_meant(name: str, args: tuple[Any, ...], error: str, on_gpu: Callable[[Tensor], Tensor]) -> tuple[Any, ...] | None:
    """Where a layout, a device, a dtype or a shape was what was wrong."""
    if name == "view" and "view size is not compatible" in error:
        return (args[0].contiguous(), *args[1:])
    if error == ONE_DEVICE:
        return tuple(on_gpu(a) if isinstance(a, Tensor) and a.dim() else a for a in args)
    place = INDEXED.get(name, len(args))
    if place < len(args) and args[place].is_floating_point():
        most = args[1].shape[0] if name == "embedding" else args[0].shape[1 if args[0].dim() > 1 else 0]  # low precision rounds up
        return tuple(a.long().clamp(max=most - 1) if i == place else a for i, a in enumerate(args))
    tensors = [a for a in args if isinstance(a, Tensor) and a.is_floating_point()]
    if "type" in error and len(tensors) > 1 and tensors[0].dtype != tensors[1].dtype:
        wanted = tensors[1].dtype
        return tuple(a.to(wanted) if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)
    return _in_shape(name, args, error)


def _in_shape(name: str, args: tuple[Any, ...], error: str) -> tuple[Any, ...] | None:
    """As many channels, columns or rows as the other argument has."""
    if len(args) < 2 or not (isinstance(args[0], Tensor) and isinstance(args[1], Tensor)):
        return None
    first, second, *rest = args
    if name == "conv2d" and "channels" in error:
        wanted = second.shape[1]
        there = [at for at, size in enumerate(first.shape) if at and size == wanted]
        return (first.movedim(there[-1], 1).contiguous() if there else _cut(first, 1, wanted), second, *rest)
    if name in PRODUCTS and "cannot be multiplied" in error and second.dim() == 2:
        wanted = second.shape[1 if name == "linear" else 0]
        is_turned = first.dim() > 2 and first.shape[-2] == wanted
        return (first.transpose(-2, -1) if is_turned else _cut(first, -1, wanted), second, *rest)
    if name == "cross_entropy" and first.dim() == second.dim() + 1 and first.shape[:-1] == second.shape and first.dim() > 2:
        return (first.flatten(0, -2), second.flatten(), *rest)
    if name == "cross_entropy" and first.dim() == 2 and second.dim() == 1:
        rows = min(len(first), len(second))
        return (first[:rows], second[:rows], *rest)
    if name in SUMS and "must match the size" in error and first.dim() == second.dim():
        for at, size in enumerate(first.shape):
            second = second if second.shape[at] in (1, size) else _cut(second, at, size)
        return (first, second, *rest)
    return None


def _cut(tensor: Tensor, at: int, size: int) -> Tensor:
    """`size` of that dimension: what there is, again and again if it is too little."""
    times = -(-size // tensor.shape[at])
    return torch.cat([tensor] * times, dim=at).narrow(at, 0, size) if times > 1 else tensor.narrow(at, 0, size)
