"""rearrange, repeat and reduce as the package einops has them, for programs that use it where it is not installed. INSIDE the sandbox."""

from __future__ import annotations

import math
import re
from typing import Any

import torch


def rearrange(tensor: Any, pattern: str, **sizes: int) -> torch.Tensor:
    return _along(tensor, pattern, sizes, "")


def repeat(tensor: Any, pattern: str, **sizes: int) -> torch.Tensor:
    return _along(tensor, pattern, sizes, "")


def reduce(tensor: Any, pattern: str, reduction: str, **sizes: int) -> torch.Tensor:
    return _along(tensor, pattern, sizes, reduction)


def einsum(*given: Any) -> torch.Tensor:
    """einops puts the pattern last, and has words for letters."""
    *tensors, pattern = given
    words = dict.fromkeys(re.findall(r"\w+", pattern))
    letters = {word: chr(ord("a") + n) for n, word in enumerate(words)}
    return torch.einsum(re.sub(r"\w+", lambda found: letters[found[0]], pattern).replace(" ", ""), *tensors)


class Rearrange(torch.nn.Module):
    def __init__(self, pattern: str, **sizes: int) -> None:
        super().__init__()
        self.pattern, self.sizes = pattern, sizes

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        return rearrange(tensor, self.pattern, **self.sizes)


def _along(tensor: Any, pattern: str, sizes: dict[str, int], reduction: str) -> torch.Tensor:
    if isinstance(tensor, (list, tuple)):
        tensor = torch.stack(list(tensor))
    left, right = (_groups(side) for side in pattern.split("->"))
    if ["..."] in left:
        extra = [f"_{n}" for n in range(tensor.dim() - len(left) + 1)]
        left, right = ([g for group in side for g in ([[e] for e in extra] if group == ["..."] else [group])] for side in (left, right))
    known = dict(sizes)
    for group, size in zip(left, tensor.shape, strict=True):
        missing = [name for name in group if name not in known and name != "1"]
        for name in missing:
            known[name] = size // math.prod(known[n] for n in group if n in known)
    flat = [name for group in left for name in group if name != "1"]
    tensor = tensor.reshape([known[name] for name in flat])
    wanted = [name for group in right for name in group if name != "1"]
    if gone := [n for n, name in enumerate(flat) if name not in wanted]:
        tensor = getattr(tensor, {"max": "amax", "min": "amin"}.get(reduction, reduction))(dim=gone)
        flat = [name for name in flat if name in wanted]
    new = [name for name in wanted if name not in flat]
    tensor = tensor.reshape(*tensor.shape, *[1] * len(new)).expand(*tensor.shape, *(known[name] for name in new))
    order = [(flat + new).index(name) for name in wanted]
    found: torch.Tensor = tensor.permute(order).reshape([math.prod(known[name] for name in group if name != "1") for group in right])
    return found


def _groups(side: str) -> list[list[str]]:
    return [found.strip("() ").split() for found in re.findall(r"\([^)]*\)|\.\.\.|\w+", side)]
