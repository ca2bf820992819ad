"""Large tensors that a training program deletes, and when it empties the cache. Runs INSIDE the sandbox."""

from __future__ import annotations

import weakref
from types import FunctionType
from typing import Any

from pretend_gpu import GPU, Tensor
from torch.utils._pytree import tree_leaves

LARGE_BYTES = 16384


class Freeing:
    """`log`: the TrainingLog that it is part of."""

    def __init__(self, log: Any) -> None:
        self.log = log
        self.freed: list[tuple[int, int, int]] = []  # forward number, bytes, line
        self.emptied: list[tuple[int, int]] = []  # forward number, line
        self._deleting: list[tuple[weakref.ref[Any], int, int]] = []

    def cache_emptied(self) -> None:
        self.emptied.append((len(self.log.forwards), self.log.line()))

    def deleting(self, line: int, things: list[Any]) -> None:
        """Called before a `del` statement with what it names."""
        named = tree_leaves([_value(thing) for thing in things])
        on_gpu = [t for t in named if isinstance(t, Tensor) and self.log.gpu.storages.place(t) == GPU]
        storages = [t.untyped_storage() for t in on_gpu if self._is_of_training(t)]
        self._deleting = [(weakref.ref(s), s.nbytes(), line) for s in storages]

    def _is_of_training(self, tensor: Tensor) -> bool:
        """A batch, an activation, logits or a gradient, and no tensor made to be deleted."""
        is_batch = tensor.dim() == 4 or not tensor.is_floating_point()
        return is_batch or tensor.grad_fn is not None or tensor.shape[-1:] == (self.log.vocabulary,) or self._is_gradient(tensor)

    def _is_gradient(self, tensor: Tensor) -> bool:
        return any(tensor.shape == p.shape for p in self.log.parameters.alive())

    def deleted(self) -> None:
        for ref, size, line in self._deleting:
            if ref() is None and size >= LARGE_BYTES:
                self.freed.append((len(self.log.forwards), size, line))


def _value(thing: Any) -> Any:
    """What a statement is about to give up: itself, or a question for it where it may not be there."""
    try:
        return thing() if isinstance(thing, FunctionType) and thing.__name__ == "<lambda>" else thing
    except (NameError, AttributeError, LookupError, TypeError):
        return None
