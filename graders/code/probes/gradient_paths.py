"""Which backward passes lead to an update of the parameters, through .grad or sums of the program's own. Runs INSIDE the sandbox.

Each storage as large as a gradient carries the numbers of the forward passes whose backward pass it was made from.
What writes over a storage takes them off, what is added to it adds its own.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import torch
from pretend_gpu import storage_of
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

Tensor = torch.Tensor
LEAST = 1000  # elements: norms, factors and biases are left out, half of a model is not in them
CLEARS = {"zero_", "fill_", "_foreach_zero_"}
SCALES = {"mul", "mul_", "div", "div_", "_foreach_mul_", "_foreach_div_", "_foreach_mul", "_foreach_div"}
COPIES = {"_to_copy", "clone", "copy_", "_foreach_copy_"}
OVERWRITES = {"copy_", "_foreach_copy_"}
NOTHING: frozenset[int] = frozenset()


class GradientPaths:
    def __init__(self) -> None:
        self._of: Any = WeakIdKeyDictionary()  # storage -> numbers of forward passes
        self._factors: Counter[float] = Counter()  # number -> elements multiplied by it

    def take_factors(self) -> Counter[float]:
        """What gradients were multiplied by since this was last asked."""
        taken, self._factors = self._factors, Counter()
        return taken

    def follow(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any, backward_of: int | None) -> None:
        """One operation. `backward_of`: the forward pass whose backward pass this is part of."""
        name = func.__name__.partition(".")[0]
        backward_of = None if name in COPIES else backward_of  # a layer that is brought in for its backward pass is no gradient
        if name in SCALES:
            self._scaled(name, args)
        if func._schema.is_mutable:
            targets = _tensors([a for a, written in zip(args, _written(func), strict=False) if written])
            if not targets:
                return
            if name in CLEARS:
                found = NOTHING
            else:
                found = self.behind(_tensors(args[1:])) if name in OVERWRITES else self.behind(_tensors((args, kwargs)))
                found |= {backward_of} if backward_of is not None else NOTHING
            for tensor in targets:
                self._mark(tensor, found)
            return
        if func._schema.returns and func._schema.returns[0].alias_info is not None:
            return  # a view: the same storage
        if made := _tensors(out):
            found = self.behind(_tensors((args, kwargs))) | ({backward_of} if backward_of is not None else NOTHING)
            for tensor in made:
                self._mark(tensor, found)

    def _scaled(self, name: str, args: tuple[Any, ...]) -> None:
        number = args[1] if len(args) > 1 else None
        if isinstance(number, (int, float)) and number:
            factor = round(1 / number if "div" in name else number, 3)
            self._factors[factor] += sum(t.numel() for t in _tensors(args[0]) if storage_of(t) in self._of)

    def behind(self, tensors: list[Tensor]) -> frozenset[int]:
        """The forward passes whose backward pass these were made from."""
        found = NOTHING
        if len(self._of):
            for tensor in tensors:
                found |= self._of.get(storage_of(tensor), NOTHING)
        return found

    def _mark(self, tensor: Tensor, numbers: frozenset[int]) -> None:
        if numbers:
            self._of[storage_of(tensor)] = numbers
        elif len(self._of):
            self._of.pop(storage_of(tensor), None)


def _tensors(things: Any) -> list[Tensor]:
    return [t for t in tree_leaves(things) if isinstance(t, Tensor) and t.numel() >= LEAST]


@cache
def _written(func: Any) -> tuple[bool, ...]:
    return tuple(a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments)
