"""Questions about a single call or tensor of a training program. Runs INSIDE the sandbox."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.attention.bias import CausalBias
from torch.utils._pytree import tree_leaves

Tensor = torch.Tensor
MOST_VIEWS = 5
FEWEST_TOKENS = 8
COMPUTES = {
    "mm", "addmm", "bmm", "baddbmm", "convolution", "_scaled_dot_product_flash_attention_for_cpu", "linear", "dot", "mv",
    "_scaled_dot_product_attention_math", "_scaled_dot_product_fused_attention_overrideable", "_native_multi_head_attention",
}  # fmt: skip
# The tensors that a call may be given by name, in their order.
ORDERED = {
    "linear": ("input", "weight"), "conv2d": ("input", "weight"), "matmul": ("input", "other"), "bmm": ("input", "mat2"),
    "mm": ("input", "mat2"), "addmm": ("input", "mat1", "mat2"), "baddbmm": ("input", "batch1", "batch2"),
    "scaled_dot_product_attention": ("query", "key", "value"), "multi_head_attention_forward": ("query", "key", "value"),
    "cross_entropy": ("input", "target"), "embedding": ("input", "weight"),
}  # fmt: skip


def in_order(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The arguments of a call with the tensors that it was given by name at their places."""
    if not kwargs or name not in ORDERED:
        return args
    return (*args, *(kwargs[word] for word in ORDERED[name][len(args) :] if word in kwargs))


def behind(tensor: Tensor) -> list[Tensor]:
    """The parameter that a tensor is a copy, a cast or a view of; nothing if it was computed from more."""
    node = tensor.grad_fn
    for _ in range(MOST_VIEWS):
        inputs = [n for n, _ in node.next_functions if n is not None] if node is not None else []
        if len(inputs) != 1:
            return []
        node = inputs[0]
        if hasattr(node, "variable"):
            return [node.variable]
    return []


def leaves_behind(root: Tensor) -> set[int]:
    """The ids of the tensors that a backward pass from here gives gradients to."""
    found: set[int] = {id(root)} if root.is_leaf else set()
    seen: set[Any] = {root.grad_fn}
    open_nodes = [root.grad_fn]
    while open_nodes:
        node = open_nodes.pop()
        if node is None:
            continue
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        fresh = {n for n, _ in node.next_functions} - seen
        seen |= fresh
        open_nodes += fresh
    return found


def work_of(args: tuple[Any, ...], out: Tensor) -> float:
    """Multiplications of a product, from the sizes of its arguments."""
    first = args[0] if isinstance(args[0], Tensor) else next(t for t in tree_leaves(args) if isinstance(t, Tensor))
    second = next((t for t in args[1:] if isinstance(t, Tensor)), first)
    if first.dim() == 4 and second.dim() == 4 and first.shape[1] != second.shape[1] and out.dim() == 4:
        return float(out.numel() * second[0].numel())
    return float(out.numel() * first.shape[-1])


def channels_last(tensor: Any) -> bool:
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def is_square(out: Tensor) -> bool:
    return out.dim() >= 3 and out.shape[-1] == out.shape[-2] > FEWEST_TOKENS


def are_scores(name: str, args: tuple[Any, ...], out: Tensor) -> bool:
    """T x T scores of a batch, made from what was computed before and not from weights."""
    if not is_square(out) or name in ("linear", "conv2d"):
        return False
    factors = [t for t in tree_leaves(args) if isinstance(t, Tensor)][-2:]
    return all(t.dim() > 2 and t.requires_grad and not t.is_leaf for t in factors)


def keys_of(name: str, args: tuple[Any, ...]) -> int:
    """How many positions attention looks at."""
    key = args[1]
    return int(key.shape[-2] if name.startswith("scaled") else key.shape[0] if key.dim() == 3 else key.shape[-2])


def attention_kind(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    if name.startswith("multi") and kwargs.get("need_weights", True):
        return "by hand"  # the weights that it hands back are T x T
    mask = kwargs.get("attn_mask", args[3] if name.startswith("scaled") and len(args) > 3 else None)
    causal = kwargs.get("is_causal", args[5] if name.startswith("scaled") and len(args) > 5 else False)
    if causal:
        return "fused"
    if not isinstance(mask, Tensor):
        return "fused without mask"
    if isinstance(mask, CausalBias):
        return "fused"
    square = mask.reshape(-1, *mask.shape[-2:])[0]
    seen = square if square.dtype == torch.bool else square == 0
    if name.startswith("multi") and square.dtype == torch.bool:
        seen = ~seen
    return "fused" if bool((seen == torch.ones_like(seen).tril()).all()) else "fused without mask"


def is_in_place(name: str, kwargs: dict[str, Any]) -> bool:
    if kwargs.get("inplace") is True:
        return True
    if name in ("requires_grad_", "zero_", "copy_", "retain_grad", "share_memory_", "resize_", "fill_", "detach_"):
        return False
    return (name.endswith("_") and not name.startswith("_")) or name in ("__iadd__", "__imul__", "__isub__", "__itruediv__")


def is_torchs_own(hooks: object) -> bool:
    """Hooks on saved tensors that are no packing: checkpointing's, and those by which a failed program is helped on."""
    name = f"{type(hooks).__module__}.{type(hooks).__qualname__}"
    return name.startswith("torch.utils.checkpoint.") or name == "torch.autograd.graph._swap_with_cloned"
