"""A tensor's copy on the other side of a pretended GPU, whose gradient goes the way back. Runs INSIDE the sandbox.

Between real devices autograd does that. Here both sides are the CPU's, so the gradient of a copy to the GPU would stay on
the GPU, and a parameter that the program keeps on the host would meet a gradient that is elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Copy = Callable[[torch.Tensor, str, dict[str, Any]], torch.Tensor]  # to which side, and the options of `Tensor.to`


class Across(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, source: torch.Tensor, copy: Copy, sides: tuple[str, str], options: dict[str, Any]) -> torch.Tensor:
        here, there = sides
        ctx.copy, ctx.here, ctx.dtype = copy, here, source.dtype
        return copy(source, there, options)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        with torch._C.DisableTorchFunction():
            back = ctx.copy(gradients[0], ctx.here, {"dtype": ctx.dtype, "copy": True})
        return back, None, None, None


def follows_gradients(source: torch.Tensor) -> bool:
    """Whether a gradient comes back through a copy of it; inside torch.func its transforms see to that."""
    return source.requires_grad and torch.is_grad_enabled() and not torch._C._functorch.is_functorch_wrapped_tensor(source)
