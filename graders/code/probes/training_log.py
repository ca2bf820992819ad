"""What a training program did: its forward and backward passes, updates, copies and calls. Runs INSIDE the sandbox.

Facts only; probes/memory_techniques.py makes verdicts of them. A forward pass begins when images (4 dimensions, 3
channels) meet a convolution. It is a training pass once a backward pass reaches its parameters, else an evaluation. An update
is a write to parameters that a forward pass used, so that no optimizer need be known by its name. Work is counted in
multiplications, so that what is done on a decoy beside the model weighs nothing.
"""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
import training_calls as asks
from calls_as_meant import as_meant
from freed_tensors import LARGE_BYTES, Freeing
from gradient_paths import LEAST, GradientPaths
from known_parameters import KnownParameters
from pretend_gpu import GPU, PretendGpu, Tensor, storage_of
from torch.utils._pytree import tree_leaves
from training_passes import Forward, Step, led_to_updates, of_the_model, taken_back

PRODUCTS = {
    "linear", "matmul", "__matmul__", "__rmatmul__", "bmm", "mm", "addmm", "baddbmm", "einsum", "conv2d",
    "scaled_dot_product_attention", "multi_head_attention_forward",
}  # fmt: skip
DETACH = Tensor.detach  # ours, whatever a program puts in its place
LOW = (torch.float16, torch.bfloat16)
LEAST_WORDS = 1000  # of a vocabulary
LEAST_USED = 0.1  # of the passes


class TrainingLog:
    """Listens to a PretendGpu."""

    def __init__(self, gpu: PretendGpu, path: str) -> None:
        self.gpu, self.path = gpu, path
        self.forwards: list[Forward] = []
        self._rest: Forward | None = Forward(-1, 0, True)  # computed after a backward pass: the update's own, unless another follows
        self._chunk = 0  # rows of logits at a time, in torch's own head and loss
        self._undone: list[Forward] = []  # passes whose update was taken back, if what comes now is training too
        self._set_in = -1  # the pass whose update came by p.data = ...
        self.steps: list[Step] = []
        self.lines: dict[str, int] = {}  # where a thing was first seen
        self.calls: Counter[str] = Counter()
        self.scale = 1.0
        self.parameters = KnownParameters(gpu.storages)
        self.vocabulary = 0
        self.wide_bytes = 0  # of what forward passes made as wide as the vocabulary
        self.moved_shapes: Counter[tuple[str, int]] = Counter()  # (direction, forward number) -> parameter-shaped elements
        self.state_bytes: list[tuple[int, int]] = []  # passes begun by then; bytes on the GPU beside models and gradients
        self.optimizer_bytes: dict[int, int] = {}
        self.optimizer_names: dict[int, str] = {}
        self.freeing = Freeing(self)
        self.kept_graphs = self._unseen = 0
        self.options: set[str] = set()
        self.mended: list[tuple[str, int]] = []  # errors that end the program and were stepped over, and their lines
        self.guarded: list[tuple[range, frozenset[str]]] = []  # lines where the program catches errors, and their names; none: all
        self.in_backward = self.compiled_depth = 0
        self.packing_depth = 0
        self.unscaled = False  # gradients, since the last step
        self.gradients = GradientPaths()
        self._graphs: list[tuple[int, weakref.ref[Any]]] = []
        self._copies: list[tuple[torch.Size, tuple[bool, bool, int]]] = []
        self._computed = False  # is the call that is under way computed, and not handed out of what was kept?
        self._window = (0, 0)  # since the last backward pass: the fewest bytes, the most above the fewest before
        gpu.devices.calling, gpu.devices.watch, gpu.storages.watch = self.calling, self.called, self.dispatched
        gpu.devices.moved, gpu.packing, gpu.cache_emptied = self.moved, self.packing, self.freeing.cache_emptied
        gpu.unpacking, gpu.devices.failed = self.unpacking, self.failed

    # --- calls of the program ---

    def calling(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before a call: a pass begins with its first convolution, so that what this saves is the new pass's."""
        self._computed = False
        if getattr(func, "__name__", "") == "conv2d" and not self.in_backward:
            images = args[0] if args else kwargs["input"]
            if images.dim() == 4 and images.shape[1] == 3:
                self._begin_forward(images)

    def called(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        name = getattr(func, "__name__", "")
        args = asks.in_order(name, args, kwargs)
        self._use_in(args, kwargs, out)
        if not self.forwards:
            return
        if name in PRODUCTS and isinstance(tree_leaves(out)[0], Tensor):
            self._product(name, args, kwargs, tree_leaves(out)[0])
        elif (
            name in ("softmax", "_softmax")
            and isinstance(out, Tensor)
            and out.dim() >= 3
            and out.shape[-1] == out.shape[-2] > asks.FEWEST_TOKENS
        ):
            self.under_way.attention.append(("by hand", self.line()))
        elif name == "cross_entropy" and not self.in_backward:
            self._loss(args, kwargs, out)
        elif name == "__set__" and getattr(func, "__self__", None) is Tensor.data:
            self._set_data(args[0], args[1])
        elif name == "linear_cross_entropy":
            self._head_and_loss(args, kwargs, out)
        elif asks.is_in_place(name, kwargs):
            self._in_place(name, args)
        elif name in ("cat", "stack") and isinstance(out, Tensor) and out.dim() > 1 and out.shape[-1] == self.vocabulary:
            self.under_way.head_rows.append((out.numel() // out.shape[-1], self.line(), self.wide_bytes))
        elif name == "embedding" and args[0].dim() > 1:
            self.under_way.tokens = max(self.under_way.tokens, args[0].numel())

    @property
    def now(self) -> Forward:
        return self.forwards[-1]

    @property
    def under_way(self) -> Forward:
        """What is being computed is part of this."""
        return self._rest if self._rest is not None and not self.in_backward else self.now

    def line(self) -> int:
        """The line of the program that is being run, 0 when none is."""
        frame: Any = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename != self.path:
            frame = frame.f_back
        return frame.f_lineno if frame is not None else 0

    def is_caught(self, error: Exception) -> bool:
        """Does the program itself catch this, so that it ends nothing? Not where it ended the program when it was run before."""
        names = {cls.__name__ for cls in type(error).__mro__}
        frame: Any = sys._getframe(1)
        if self.has_ended():
            return False
        while frame is not None:
            if frame.f_code.co_filename == self.path:
                for lines, caught in self.guarded:
                    if frame.f_lineno in lines and (not caught or caught & names):
                        return True
            frame = frame.f_back
        return False

    def has_ended(self) -> bool:
        """Did the line that is being run end the program when it was run before?"""
        return self.line() in {line for _, line in self.mended if line}

    def saw(self, what: str) -> None:
        self.calls[what] += 1
        self.lines.setdefault(what, self.line())

    def _begin_forward(self, images: Tensor) -> None:
        if self.forwards and not (self.now.head_rows or self.now.losses or self.now.backwards or self.now.attention):
            self.now.samples += images.shape[0]  # the stem takes a part of the batch at a time
            self.now.pixels += images.numel()
            return
        self._count_kept_graphs()
        self._undone = self._taken_back()
        if self.steps:
            self.state_bytes.append((len(self.forwards), self.gpu.storages.bytes_now - self.parameters.bytes_on_gpu()))
        if self.forwards:
            self.now.factors = self.gradients.take_factors()
        early = self._rest  # tokens may be looked up before the images are
        first = tuple(DETACH(images).reshape(-1)[:8].bfloat16().tolist())
        self.forwards.append(Forward(len(self.forwards), images.shape[0], torch.is_grad_enabled(), pixels=images.numel(), images=first))
        if early is not None:
            self.now.parameters, self.now.tokens, self._rest = dict(early.parameters), early.tokens, None
        self.now.copies = [copy for shape, copy in self._copies if shape == images.shape[1:]]
        self._copies = []

    def _product(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> None:
        now, work = self.under_way, asks.work_of(args, out)
        if self.in_backward:
            now.recomputed += work * self._computed
            return
        now.work += work
        now.activation_bytes += out.nbytes
        now.work_by[f"low:{str(out.dtype).removeprefix('torch.')}"] += work if out.dtype in LOW else 0
        if torch.is_autocast_enabled() and out.dtype in LOW:
            now.work_by["autocast"] += work
        if self.compiled_depth:
            now.work_by["compiled"] += work
        if name == "conv2d":
            now.convolutions.append(asks.channels_last(args[0]) or asks.channels_last(args[1]))
        if name in ("scaled_dot_product_attention", "multi_head_attention_forward"):
            now.attention.append((asks.attention_kind(name, args, kwargs), self.line()))
            now.attended = max(now.attended, asks.keys_of(name, args))
        elif asks.are_scores(name, args, out):
            now.attention.append(("by hand", self.line()))
        for argument in args[1:3]:
            self._use(argument)
        if name == "linear" and out.shape[-1] < LEAST_WORDS:
            now.rows = max(now.rows, out.numel() // out.shape[-1])
        if out.dim() > 1 and out.shape[-1] >= LEAST_WORDS and self.vocabulary in (0, out.shape[-1]):
            held = self.wide_bytes - out.nbytes if self.vocabulary else 0
            self.vocabulary = out.shape[-1]
            now.head_rows.append((out.numel() // out.shape[-1], self.line(), held))

    def _use_in(self, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """The parameters among the arguments of a call that makes a graph."""
        first = out[0] if isinstance(out, tuple) and out else out
        if isinstance(first, Tensor) and first.grad_fn is not None and not self.in_backward:
            for argument in (*args, *kwargs.values()):
                if isinstance(argument, Tensor) and argument.is_leaf:
                    self._use(argument)

    def _use(self, weight: Any) -> None:
        """A parameter that a forward pass used, as it is or through a copy, a cast or a view."""
        if isinstance(weight, Tensor) and weight._base is not None and weight.is_leaf:
            weight = weight._base  # inside a function of torch.autograd a view of a parameter is a leaf
        for parameter in [weight] if not isinstance(weight, Tensor) or weight.is_leaf else asks.behind(weight):
            if isinstance(parameter, Tensor) and parameter.requires_grad:
                number, is_new = self.parameters.number(parameter)
                self.under_way.parameters[number] = (parameter.numel(), weight.dtype)
                if is_new:
                    self._made_by_update(parameter)

    def _head_and_loss(self, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> None:
        """torch's own head and loss in one, which makes logits of some rows at a time or of all."""
        hidden, weight, target = (*args, kwargs.get("linear_weight"), kwargs.get("target"))[:3]
        rows, self.vocabulary, now = hidden.numel() // hidden.shape[-1], weight.shape[0], self.under_way
        is_low = hidden.dtype in LOW or (torch.is_autocast_enabled() and not self._chunk)
        if not self.in_backward:
            work = float(rows * weight.numel())
            now.work += work
            now.activation_bytes += hidden.nbytes
            now.work_by[f"low:{str(hidden.dtype if hidden.dtype in LOW else torch.get_autocast_dtype('cuda'))[6:]}"] += work * is_low
            now.work_by["autocast"] += work * (is_low and torch.is_autocast_enabled())
            now.work_by["compiled"] += work * bool(self.compiled_depth)
            size = min(self._chunk or rows, rows)
            now.head_rows += [(min(size, rows - done), self.line(), self.wide_bytes) for done in range(0, rows, size)]
            self._loss((hidden, target), kwargs, out)
        self._chunk = 0

    def _loss(self, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> None:
        target = args[1] if len(args) > 1 else kwargs["target"]
        rows, reduction = target.numel(), kwargs.get("reduction", "mean")
        value = float(DETACH(out).float().sum())
        self.under_way.losses.append((rows, value if reduction == "mean" else value / max(rows, 1)))
        self._watch_graph(out)

    def _in_place(self, name: str, args: tuple[Any, ...]) -> None:
        target = args[0] if args else None
        if self.in_backward or not isinstance(target, Tensor) or target.dim() < 2 or target.numel() < 1024:
            return
        if target.requires_grad and not target.is_leaf and self.gpu.storages.place(target) == GPU:
            self.under_way.in_place.append((name, self.line()))

    # --- every operation ---

    def dispatched(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        if "linear_cross_entropy" in func.__name__:
            self._chunk = next((a for a, of in zip(args, func._schema.arguments, strict=False) if of.name == "batch_chunk_size"), 0)
        self._computed = self._computed or func.__name__.partition(".")[0] in asks.COMPUTES
        if self.in_backward and self.gpu.storages.calls and isinstance(out, Tensor) and torch.is_grad_enabled():
            if self.forwards and out.nbytes >= LARGE_BYTES and func._schema.returns[0].alias_info is None:
                self.now.remade_bytes += out.nbytes
        held, (least, rise) = self.gpu.storages.bytes_now, self._window
        if held < least or held - least > rise:
            self._window = (min(held, least), max(rise, held - least))
        if self.vocabulary and not self.in_backward and isinstance(out, Tensor) and out.dim() > 1 and out.shape[-1] == self.vocabulary:
            if func._schema.returns[0].alias_info is None:
                self._hold_wide(out)
        if self.forwards and (self._rest is not None or self.in_backward):
            self.gradients.follow(func, args, kwargs, out, self.now.number if self.in_backward else None)
        if func._schema.is_mutable and self.forwards and not torch.is_grad_enabled():
            targets = args[0] if isinstance(args[0], (list, tuple)) else [args[0]]
            written = sum(t.numel() for t in targets if isinstance(t, Tensor) and self.parameters.holds(t, len(self.forwards)))
            if written and self.now.is_training:
                self._update(written, [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)])

    def _hold_wide(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self.wide_bytes += storage.nbytes()
        weakref.finalize(storage, self._dropped_wide, storage.nbytes())

    def _dropped_wide(self, size: int) -> None:
        self.wide_bytes -= size

    def _set_data(self, parameter: Tensor, value: Tensor) -> None:
        """p.data = ..., made from a gradient of this pass: an update that writes nothing in place."""
        now = self.now
        if now.updated and self._set_in != now.number:
            return  # an optimizer has updated them: this brings them to another place
        if self.parameters.is_one(parameter) and now.is_training and now.number in self.gradients.behind([value]):
            self._set_in = now.number
            self._update(parameter.numel(), [value])

    def _made_by_update(self, parameter: Tensor) -> None:
        """A parameter that an update has made and not written to: p = p - lr * g."""
        made_from = self.gradients.behind([parameter])
        if not made_from:
            return
        pass_ = self.forwards[max(made_from)]
        if not pass_.updated:
            self.steps.append(Step(pass_.number, False, self._window[1]))
        pass_.updated += parameter.numel()
        pass_.fed.update(dict.fromkeys(made_from, parameter.numel()))

    def _taken_back(self) -> list[Forward]:
        """The passes of which nothing is left in the parameters."""
        with torch._C.DisableTorchFunction():
            newest = [(p.numel(), max(self.gradients.behind([p]), default=-1)) for p in self.parameters.alive() if p.numel() >= LEAST]
        return list(taken_back(self.forwards, newest))

    def _update(self, written: int, made_from: list[Tensor]) -> None:
        if not self.now.updated:
            self.steps.append(Step(self.now.number, bool(self.in_backward)))
        self.now.updated += written
        self.now.fed.update(dict.fromkeys(self.gradients.behind(made_from), written))
        self.steps[-1].transient_bytes = self._window[1]

    # --- backward passes ---

    def before_backward(self, roots: Iterable[Tensor]) -> None:
        tensors = [t for t in roots if isinstance(t, Tensor)]
        if not self.forwards:
            self._unseen += 1  # of a model that takes no images
            for tensor in tensors:
                self._watch_graph(tensor)
            self._count_kept_graphs()
            return
        now = self.now
        if self.in_backward:
            now.nested += 1
        elif self._rest is not None:
            now.take(self._rest)
        for one in self._undone:
            one.undone = True
        now.backwards += 1
        now.packed["kept"] += sum(size for ref, size in now.originals if ref() is not None)
        now.originals = []
        now.grads_before.append(self.parameters.gradients(now.parameters))
        now.roots.append(sum(float(DETACH(t).float()) for t in tensors if t.numel() == 1) / self.scale)  # others hand on gradients
        for tensor in tensors:
            self._watch_graph(tensor)
            now.reached |= self.parameters.numbers_of(asks.leaves_behind(tensor))

    def after_backward(self) -> None:
        held = self.gpu.storages.bytes_now
        self._window = (held, 0)
        if self.forwards and not self.in_backward:
            self._rest = Forward(self.now.number, 0, self.now.with_grad)

    def _watch_graph(self, tensor: Tensor) -> None:
        """Is the graph behind a loss alive two passes later? Its root node's own data says so."""
        if tensor.grad_fn is None or tensor.numel() != 1:
            return
        mark = _Mark()
        try:
            tensor.grad_fn.metadata["touchstone"] = mark
        except (AttributeError, RuntimeError):
            return
        self._graphs.append((len(self.forwards) + self._unseen, weakref.ref(mark)))

    def _count_kept_graphs(self) -> None:
        alive = {number for number, ref in self._graphs if ref() is not None and number < len(self.forwards) + self._unseen}
        self.kept_graphs = max(self.kept_graphs, len(alive))

    # --- copies, saved tensors ---

    def moved(self, source: Tensor, result: Tensor, non_blocking: bool, pinned: bool) -> None:
        to_gpu = self.gpu.storages.place(result) == GPU
        if self.packing_depth:
            return
        if to_gpu and result.dim() == 4 and result.shape[1] == 3 and not source.requires_grad:
            self._copies.append((result.shape[1:], (non_blocking, pinned, self.line())))
        if not self.forwards:
            return
        shapes = {tuple(p.shape) for p in self.parameters.alive()}
        is_flat = result.dim() == 1 and bool(self.gradients.behind([source]))  # a gradient, or weights that were made with it
        if (tuple(result.shape) in shapes and result.numel() > 1) or is_flat:
            self.moved_shapes["in" if to_gpu else "out", len(self.steps)] += result.numel()
            self.lines.setdefault("moved", self.line())

    def packing(self, hooks: Any, pack: Any, tensor: Tensor) -> Any:
        self.packing_depth += 1
        try:
            thing = pack(tensor)
        finally:
            self.packing_depth -= 1
        if self.forwards and not self.in_backward and not asks.is_torchs_own(hooks):
            became = self._became(tensor, thing)
            self.under_way.packed[became] += tensor.nbytes
            if became in ("offloaded", "smaller"):
                self.under_way.originals.append((weakref.ref(storage_of(tensor)), tensor.nbytes))
            self.lines.setdefault("packed", self.line())
        return thing

    def unpacking(self, unpack: Any, thing: Any) -> Tensor:
        self.packing_depth += 1
        try:
            return unpack(thing)
        finally:
            self.packing_depth -= 1

    def failed(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception) -> Any:
        """The same call with what it evidently wanted: the program goes on as it was meant."""
        name = getattr(func, "__name__", "")
        args = asks.in_order(name, args, kwargs)
        given = None if self.is_caught(error) else as_meant(name, args, str(error), self.gpu.storages.on_gpu)
        if given is None:
            return None
        self.mended.append((f"{type(error).__name__}: {error}", self.line()))
        self.calling(func, given, kwargs)
        return given, {word: value for word, value in kwargs.items() if word not in asks.ORDERED.get(name, ())}

    def _became(self, tensor: Tensor, thing: Any) -> str:
        if self.gpu.storages.place(tensor) != GPU or (tensor.is_leaf and tensor.requires_grad):
            return "other"
        parts = [t for t in tree_leaves(thing) if isinstance(t, Tensor)]
        left = sum(t.nbytes for t in parts if self.gpu.storages.place(t) == GPU)
        return "whole" if left >= tensor.nbytes else "offloaded" if not left else "smaller"

    # --- in all ---

    @property
    def training(self) -> list[Forward]:
        """The training passes of the model; those of a toy or a copy beside it are none, nor is one whose gradients are thrown away."""
        passes = [f for f in self.forwards if f.is_training and 2 * f.n_parameters >= self.n_parameters]
        used = [f for f in passes if f.number in led_to_updates(self.forwards) and not f.undone]
        if len(used) < LEAST_USED * len(passes):
            used = passes  # they went where they can't be followed
        found: list[Forward] = of_the_model(used, [f for f in self.forwards if not f.backwards])
        return found

    @property
    def training_steps(self) -> list[Step]:
        """The updates of the model; those of a toy are none."""
        trained = {f.number for f in self.training}
        return [step for step in self.steps if step.after in trained]

    @property
    def n_parameters(self) -> int:
        return max((f.n_parameters for f in self.forwards), default=0)

    def mended_by(self, *words: str) -> tuple[str, int] | None:
        """The first error that was stepped over and has one of these words, and its line."""
        return next(((error, line) for error, line in self.mended if any(word in error for word in words)), None)


class _Mark:
    """Lives as long as the graph node that holds it."""
