"""The ways in which a model is used: training or evaluation, with gradients or without. Runs INSIDE the sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Mode:
    train: bool
    grad: bool

    @contextmanager
    def of(self, model: torch.nn.Module) -> Iterator[None]:
        """The model in this mode, for as long as it is entered."""
        was = model.training
        model.train(self.train)
        try:
            with torch.set_grad_enabled(self.grad):
                yield
        finally:
            model.train(was)


TRAINING = Mode(train=True, grad=True)
