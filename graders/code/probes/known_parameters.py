"""The parameters that forward passes used, each by a number of its own. Runs INSIDE the sandbox."""

from __future__ import annotations

import weakref
from collections.abc import Iterable

import torch
from pretend_gpu import GPU, Storages, Tensor

LOOKED_AT = 20  # gradients, to see whether they are zero


class KnownParameters:
    def __init__(self, storages: Storages) -> None:
        self.storages = storages
        self._known: dict[int, tuple[weakref.ref[Tensor], int]] = {}  # by id, which another may have after it
        self._made = 0
        self._addresses: tuple[tuple[int, int], set[int]] = ((0, 0), set())

    def number(self, parameter: Tensor) -> tuple[int, bool]:
        """(its number, was it not known before)."""
        ref, number = self._known.get(id(parameter), (None, 0))
        if ref is not None and ref() is parameter:
            return number, False
        self._made += 1
        self._known[id(parameter)] = (weakref.ref(parameter), self._made)
        return self._made, True

    def numbers_of(self, ids: Iterable[int]) -> set[int]:
        return {self._known[one][1] for one in ids if one in self._known}

    def alive(self, among: Iterable[int] = ()) -> list[Tensor]:
        """Those that are still there; `among` these numbers, if any are given."""
        wanted = set(among)
        return [p for ref, number in self._known.values() if (not wanted or number in wanted) and (p := ref()) is not None]

    def is_one(self, tensor: Tensor) -> bool:
        return id(tensor) in self._known and self._known[id(tensor)][0]() is tensor

    def holds(self, tensor: Tensor, passes: int) -> bool:
        """Is it a parameter, or does it lie where one lies? `passes`: as many have begun."""
        return self.is_one(tensor) or (tensor.numel() > 1 and tensor.data_ptr() in self._places(passes))

    def _places(self, passes: int) -> set[int]:
        if self._addresses[0] != (self._made, passes):
            self._addresses = ((self._made, passes), {p.data_ptr() for p in self.alive()})
        return self._addresses[1]

    def bytes_on_gpu(self) -> int:
        """Of parameters and their gradients."""
        alive = self.alive()
        with torch._C.DisableTorchFunction():
            tensors = [t for p in alive for t in (p, p.grad) if t is not None]
        return sum(t.nbytes for t in tensors if self.storages.place(t) == GPU)

    def gradients(self, among: Iterable[int]) -> str:
        """Of these parameters: none, zero or kept."""
        alive = self.alive(among)
        with torch._C.DisableTorchFunction():
            grads = [p.grad for p in alive if p.grad is not None]
            if len(grads) * 2 < len(alive):
                return "none"
            return "kept" if any(bool(g.any()) for g in grads[:LOOKED_AT]) else "zero"
