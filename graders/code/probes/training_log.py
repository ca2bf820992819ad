"""What a training program did: its forward and backward passes, updates, copies and calls. Runs INSIDE the sandbox.

Facts only; probes/memory_techniques.py makes verdicts of them. A forward pass begins when images (4 dimensions, 3
channels) meet a convolution. It is a training pass once a backward pass has followed it, else an evaluation. An update
is a write to parameters that a forward pass used, so that no optimizer need be known by its name. Work is counted in
multiplications, so that what is done on a decoy beside the model weighs nothing.
"""

from __future__ import annotations

import sys
import weakref
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from pretend_gpu import GPU, PretendGpu, Tensor
from torch.utils._pytree import tree_leaves

PRODUCTS = {
    "linear", "matmul", "__matmul__", "__rmatmul__", "bmm", "mm", "addmm", "baddbmm", "einsum", "conv2d",
    "scaled_dot_product_attention", "multi_head_attention_forward",
}  # fmt: skip
LOW = (torch.float16, torch.bfloat16)
LARGE_BYTES = 16384
MOST_VIEWS = 5


@dataclass
class Forward:
    """One pass of images through the model, and what followed until the next one."""

    number: int
    samples: int
    with_grad: bool
    work: float = 0
    work_by: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))  # low:<dtype>, autocast, compiled, of the work
    recomputed: float = 0
    regions: int = 0
    attention: list[tuple[str, int]] = field(default_factory=list)  # fused, fused without mask, by hand; line
    in_place: list[tuple[str, int]] = field(default_factory=list)
    convolutions: list[bool] = field(default_factory=list)  # in channels-last layout?
    parameters: dict[int, tuple[int, torch.dtype]] = field(default_factory=dict)
    head_rows: list[tuple[int, int, int]] = field(default_factory=list)  # rows of logits made at once; line; bytes held then
    losses: list[tuple[int, float]] = field(default_factory=list)  # rows, mean loss
    packed: Counter[str] = field(default_factory=Counter)  # bytes by what became of them
    copies: list[tuple[bool, bool, int]] = field(default_factory=list)  # of its images: non_blocking, pinned, line
    tokens: int = 0
    backwards: int = 0
    roots: list[float] = field(default_factory=list)
    grads_before: list[str] = field(default_factory=list)  # none, zero or kept, at each backward pass
    updated: int = 0  # parameters written after it and before the next

    @property
    def is_training(self) -> bool:
        return self.backwards > 0

    @property
    def n_parameters(self) -> int:
        return sum(n for n, _ in self.parameters.values())


@dataclass
class Step:
    """The update after one or more backward passes."""

    after: int  # number of the forward pass
    in_backward: bool
    transient_bytes: int = 0  # the most that was held during it, less what was held before


class TrainingLog:
    """Listens to a PretendGpu."""

    def __init__(self, gpu: PretendGpu, path: str) -> None:
        self.gpu, self.path = gpu, path
        self.forwards: list[Forward] = []
        self.steps: list[Step] = []
        self.lines: dict[str, int] = {}  # where a thing was first seen
        self.calls: Counter[str] = Counter()
        self.scale = 1.0
        self.parameters: dict[int, weakref.ref[Tensor]] = {}
        self.vocabulary = 0
        self.moved_shapes: Counter[tuple[str, int]] = Counter()  # (direction, forward number) -> parameter-shaped elements
        self.state_bytes: list[tuple[int, int]] = []  # passes begun by then; bytes on the GPU beside models and gradients
        self.optimizer_bytes: dict[int, int] = {}
        self.optimizer_names: dict[int, str] = {}
        self.freed: list[tuple[int, int, int]] = []  # forward number, bytes, line
        self.emptied: list[tuple[int, int]] = []  # forward number, line
        self.kept_graphs = 0
        self.options: set[str] = set()
        self.mended: list[tuple[str, int]] = []  # errors that end the program and were stepped over, and their lines
        self.in_backward = self.compiled_depth = 0
        self.packing_depth = 0
        self.unscaled = False  # gradients, since the last step
        self._deleting: list[tuple[weakref.ref[Any], int, int]] = []
        self._known: tuple[tuple[int, int], set[int]] = ((0, 0), set())
        self._graphs: list[tuple[int, weakref.ref[Any]]] = []
        self._copies: list[tuple[bool, bool, int]] = []
        self._window = (0, 0)  # bytes at the end of the last backward pass, the most since
        gpu.devices.watch, gpu.storages.watch = self.called, self.dispatched
        gpu.devices.moved, gpu.packing, gpu.cache_emptied = self.moved, self.packing, self.cache_emptied
        gpu.unpacking, gpu.devices.failed = self.unpacking, self.failed

    # --- calls of the program ---

    def called(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        name = getattr(func, "__name__", "")
        if name == "conv2d" and not self.in_backward and args[0].dim() == 4 and args[0].shape[1] == 3:
            self._begin_forward(args[0])
        if not self.forwards:
            return
        if name in PRODUCTS and isinstance(tree_leaves(out)[0], Tensor):
            self._product(name, args, kwargs, tree_leaves(out)[0])
        elif name in ("softmax", "_softmax") and isinstance(out, Tensor) and out.dim() >= 3 and out.shape[-1] == out.shape[-2] > 8:
            self.now.attention.append(("by hand", self.line()))
        elif name == "cross_entropy" and not self.in_backward:
            self._loss(args, kwargs, out)
        elif _is_in_place(name, kwargs):
            self._in_place(name, args)
        elif name in ("cat", "stack") and isinstance(out, Tensor) and out.dim() > 1 and out.shape[-1] == self.vocabulary:
            self.now.head_rows.append((out.numel() // out.shape[-1], self.line(), self.gpu.storages.bytes_now))
        elif name == "embedding" and len(args) > 1:
            self._use(args[1])
            if args[0].dim() > 1:
                self.now.tokens = max(self.now.tokens, args[0].numel())

    @property
    def now(self) -> Forward:
        return self.forwards[-1]

    def line(self) -> int:
        """The line of the program that is being run, 0 when none is."""
        frame: Any = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename != self.path:
            frame = frame.f_back
        return frame.f_lineno if frame is not None else 0

    def saw(self, what: str) -> None:
        self.calls[what] += 1
        self.lines.setdefault(what, self.line())

    def _begin_forward(self, images: Tensor) -> None:
        self._count_kept_graphs()
        if self.steps:
            self.state_bytes.append((len(self.forwards), self.gpu.storages.bytes_now - self._bytes_of_model()))
        self.forwards.append(Forward(len(self.forwards), images.shape[0], torch.is_grad_enabled()))
        self.now.copies, self._copies = self._copies, []

    def _alive(self) -> list[Tensor]:
        """The parameters that a forward pass used and that are still there."""
        return [p for ref in self.parameters.values() if (p := ref()) is not None]

    def _bytes_of_model(self) -> int:
        """Parameters and their gradients on the GPU."""
        alive = self._alive()
        with torch._C.DisableTorchFunction():
            tensors = [t for p in alive for t in (p, p.grad) if t is not None]
        return sum(t.nbytes for t in tensors if self.gpu.storages.place(t) == GPU)

    def _product(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> None:
        now, work = self.now, _work_of(args, out)
        if self.in_backward:
            now.recomputed += work
            return
        now.work += work
        now.work_by[f"low:{str(out.dtype).removeprefix('torch.')}"] += work if out.dtype in LOW else 0
        if torch.is_autocast_enabled() and out.dtype in LOW:
            now.work_by["autocast"] += work
        if self.compiled_depth:
            now.work_by["compiled"] += work
        if name == "conv2d":
            now.convolutions.append(_channels_last(args[0]) or _channels_last(args[1]))
        if name in ("scaled_dot_product_attention", "multi_head_attention_forward"):
            now.attention.append((_attention_kind(name, args, kwargs), self.line()))
        for argument in args[1:3]:
            self._use(argument)
        if out.dim() > 1 and out.shape[-1] >= 1000 and (not self.vocabulary or out.shape[-1] == self.vocabulary):
            self.vocabulary = out.shape[-1]
            now.head_rows.append((out.numel() // out.shape[-1], self.line(), self.gpu.storages.bytes_now))

    def _use(self, weight: Any) -> None:
        """A parameter that a forward pass used, as it is or through a copy, a cast or a view."""
        for parameter in [weight] if not isinstance(weight, Tensor) or weight.is_leaf else _behind(weight):
            if isinstance(parameter, Tensor) and parameter.requires_grad:
                self.now.parameters[id(parameter)] = (parameter.numel(), weight.dtype)
                self.parameters.setdefault(id(parameter), weakref.ref(parameter))

    def _loss(self, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> None:
        target = args[1] if len(args) > 1 else kwargs["target"]
        rows, reduction = target.numel(), kwargs.get("reduction", "mean")
        value = float(out.detach().float().sum())
        self.now.losses.append((rows, value if reduction == "mean" else value / max(rows, 1)))
        self._watch_graph(out)

    def _in_place(self, name: str, args: tuple[Any, ...]) -> None:
        target = args[0] if args else None
        if self.in_backward or not isinstance(target, Tensor) or target.dim() < 2 or target.numel() < 1024:
            return
        if target.requires_grad and not target.is_leaf and self.gpu.storages.place(target) == GPU:
            self.now.in_place.append((name, self.line()))

    # --- every operation ---

    def dispatched(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        most = self.gpu.storages.bytes_now
        if most > self._window[1]:
            self._window = (self._window[0], most)
        if func._schema.is_mutable and self.forwards and not torch.is_grad_enabled():
            targets = args[0] if isinstance(args[0], (list, tuple)) else [args[0]]
            written = sum(t.numel() for t in targets if isinstance(t, Tensor) and self._is_parameter(t))
            if written and self.now.is_training:
                self._update(written)

    def _is_parameter(self, tensor: Tensor) -> bool:
        known = self.parameters.get(id(tensor))
        if known is not None and known() is tensor:
            return True
        return tensor.data_ptr() in self._addresses() if tensor.numel() > 1 else False

    def _addresses(self) -> set[int]:
        if self._known[0] != (len(self.parameters), len(self.forwards)):
            self._known = ((len(self.parameters), len(self.forwards)), {p.data_ptr() for p in self._alive()})
        return self._known[1]

    def _update(self, written: int) -> None:
        if not self.now.updated:
            self.steps.append(Step(self.now.number, bool(self.in_backward)))
        self.now.updated += written
        self.steps[-1].transient_bytes = self._window[1] - self._window[0]

    # --- backward passes ---

    def before_backward(self, roots: Iterable[Tensor]) -> None:
        if not self.forwards:
            return
        tensors = [t for t in roots if isinstance(t, Tensor)]
        now = self.now
        now.backwards += 1
        now.grads_before.append(self._grads())
        now.roots.append(sum(float(t.detach().float().sum()) for t in tensors) / self.scale if tensors else 0.0)
        for tensor in tensors:
            self._watch_graph(tensor)

    def after_backward(self) -> None:
        held = self.gpu.storages.bytes_now
        self._window = (held, held)

    def _grads(self) -> str:
        alive = self._alive()
        with torch._C.DisableTorchFunction():
            grads = [p.grad for p in alive if p.grad is not None]
            if len(grads) * 2 < len(alive):
                return "none"
            return "kept" if any(bool(g.any()) for g in grads[:20]) else "zero"

    def _watch_graph(self, tensor: Tensor) -> None:
        """Is the graph behind a loss alive two passes later? Its root node's own data says so."""
        if tensor.grad_fn is None or tensor.numel() != 1:
            return
        mark = _Mark()
        try:
            tensor.grad_fn.metadata["touchstone"] = mark
        except (AttributeError, RuntimeError):
            return
        self._graphs.append((len(self.forwards), weakref.ref(mark)))

    def _count_kept_graphs(self) -> None:
        alive = {number for number, ref in self._graphs if ref() is not None and number < len(self.forwards)}
        self.kept_graphs = max(self.kept_graphs, len(alive))

    # --- copies, saved tensors, the cache ---

    def moved(self, source: Tensor, result: Tensor, non_blocking: bool, pinned: bool) -> None:
        to_gpu = self.gpu.storages.place(result) == GPU
        if self.packing_depth:
            return
        if to_gpu and result.dim() == 4 and result.shape[1] == 3 and not source.requires_grad:
            self._copies.append((non_blocking, pinned, self.line()))
        if not self.forwards:
            return
        shapes = {tuple(p.shape) for p in self._alive()}
        if tuple(result.shape) in shapes and result.numel() > 1:
            self.moved_shapes["in" if to_gpu else "out", len(self.steps)] += result.numel()
            self.lines.setdefault("moved", self.line())

    def packing(self, hooks: Any, pack: Any, tensor: Tensor) -> Any:
        self.packing_depth += 1
        try:
            thing = pack(tensor)
        finally:
            self.packing_depth -= 1
        if self.forwards and not self.in_backward and not type(hooks).__module__.startswith("torch.utils.checkpoint"):
            self.now.packed[self._became(tensor, thing)] += tensor.nbytes
            self.lines.setdefault("packed", self.line())
        return thing

    def unpacking(self, unpack: Any, thing: Any) -> Tensor:
        self.packing_depth += 1
        try:
            return unpack(thing)
        finally:
            self.packing_depth -= 1

    def failed(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception) -> Any:
        """The same call with its input in its weight's dtype, where that was what was wrong: the program goes on as it was meant."""
        tensors = [a for a in args if isinstance(a, Tensor) and a.is_floating_point()]
        if "type" not in str(error) or len(tensors) < 2 or tensors[0].dtype == tensors[1].dtype:
            return None
        self.mended.append((f"{type(error).__name__}: {error}", self.line()))
        wanted = tensors[1].dtype
        return tuple(a.to(wanted) if isinstance(a, Tensor) and a.is_floating_point() else a for a in args), kwargs

    def _became(self, tensor: Tensor, thing: Any) -> str:
        if self.gpu.storages.place(tensor) != GPU or (tensor.is_leaf and tensor.requires_grad):
            return "other"
        parts = [t for t in tree_leaves(thing) if isinstance(t, Tensor)]
        left = sum(t.nbytes for t in parts if self.gpu.storages.place(t) == GPU)
        return "whole" if left >= tensor.nbytes else "offloaded" if not left else "smaller"

    def cache_emptied(self) -> None:
        self.emptied.append((len(self.forwards), self.line()))

    def deleting(self, line: int, things: list[Any]) -> None:
        """Called before a `del` statement with what it names."""
        storages = [t.untyped_storage() for t in things if isinstance(t, Tensor) and self.gpu.storages.place(t) == GPU]
        self._deleting = [(weakref.ref(s), s.nbytes(), line) for s in storages]

    def deleted(self) -> None:
        for ref, size, line in self._deleting:
            if ref() is None and size >= LARGE_BYTES:
                self.freed.append((len(self.forwards), size, line))

    # --- in all ---

    @property
    def training(self) -> list[Forward]:
        """The training passes of the model; those of a toy beside it are none."""
        return [f for f in self.forwards if f.is_training and 2 * f.n_parameters >= self.n_parameters]

    @property
    def n_parameters(self) -> int:
        return max((f.n_parameters for f in self.forwards), default=0)

    def mended_by(self, *words: str) -> tuple[str, int] | None:
        """The first error that was stepped over and has one of these words, and its line."""
        return next(((error, line) for error, line in self.mended if any(word in error for word in words)), None)


def _behind(tensor: Tensor) -> list[Tensor]:
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


class _Mark:
    """Lives as long as the graph node that holds it."""


def _work_of(args: tuple[Any, ...], out: Tensor) -> float:
    """Multiplications of a product, from the sizes of its arguments."""
    first = args[0] if isinstance(args[0], Tensor) else next(t for t in tree_leaves(args) if isinstance(t, Tensor))
    second = next((t for t in args[1:] if isinstance(t, Tensor)), first)
    if first.dim() == 4 and second.dim() == 4 and first.shape[1] != second.shape[1] and out.dim() == 4:
        return float(out.numel() * second[0].numel())
    return float(out.numel() * first.shape[-1])


def _channels_last(tensor: Any) -> bool:
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def _attention_kind(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    mask = kwargs.get("attn_mask", args[3] if name.startswith("scaled") and len(args) > 3 else None)
    causal = kwargs.get("is_causal", args[5] if name.startswith("scaled") and len(args) > 5 else False)
    if causal:
        return "fused"
    if not isinstance(mask, Tensor):
        return "fused without mask"
    square = mask.reshape(-1, *mask.shape[-2:])[0]
    seen = square if square.dtype == torch.bool else square == 0
    if name.startswith("multi") and square.dtype == torch.bool:
        seen = ~seen
    return "fused" if bool((seen == torch.ones_like(seen).tril()).all()) else "fused without mask"


def _is_in_place(name: str, kwargs: dict[str, Any]) -> bool:
    if kwargs.get("inplace") is True:
        return True
    if name in ("requires_grad_", "zero_", "copy_", "retain_grad", "share_memory_", "resize_", "fill_", "detach_"):
        return False
    return (name.endswith("_") and not name.startswith("_")) or name in ("__iadd__", "__imul__", "__isub__", "__itruediv__")
