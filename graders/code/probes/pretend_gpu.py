"""A GPU that is not there: CUDA calls land on the CPU, and every tensor knows where it would live. Runs INSIDE the sandbox.

Two modes of torch do it. The function mode reads the devices a program names: it maps "cuda" to the CPU, says "cuda"
when asked for a tensor's device, and refuses what mixes the two, as a GPU does. The dispatch mode sees every operation
below it, those of the backward pass included: it knows which storages are on the pretended GPU (`bytes_now`, `peak`).
The arithmetic is the CPU's. Not covered: streams (they do nothing), CUDA graphs, custom kernels, NCCL.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from across import Across, follows_gradients
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

GPU, HOST = "gpu", "host"
CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
GIB = 1 << 30
BLOCK, SEGMENT = 512, 2 << 20  # in which a GPU's memory is given out, and taken
CARD = "NVIDIA H100 80GB HBM3"
Tensor = torch.Tensor
TO_ANOTHER = {Tensor.to, Tensor.cuda, Tensor.cpu, Tensor.pin_memory}
# What a GPU refuses when one of its arguments is elsewhere; 0-dimensional numbers may be on either side.
NEEDS_ONE_DEVICE = {
    "linear", "matmul", "__matmul__", "bmm", "mm", "conv2d", "embedding", "cross_entropy", "add", "__add__", "mul", "__mul__",
    "sub", "__sub__", "layer_norm", "cat", "scaled_dot_product_attention", "where", "masked_fill", "add_", "__iadd__", "baddbmm",
}  # fmt: skip


TAKES_BOTH = {"copy_", "_foreach_copy_", "index_put_", "_index_put_impl_", "set_", "resize_"}
ONE_DEVICE = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
SLOW_IN_HALF = {
    torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.baddbmm, torch.ops.aten.convolution,
    torch.ops.aten.convolution_backward,
}  # fmt: skip


def _in_float(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Half precision takes a CPU ten times as long: multiply in float and round, as a GPU's tensor cores do."""
    if not any(isinstance(t, Tensor) and t.dtype == torch.float16 for t in args):
        return func(*args, **kwargs)
    wide = [t.float() if isinstance(t, Tensor) and t.dtype == torch.float16 else t for t in args]
    return tree_map(lambda t: t.half() if isinstance(t, Tensor) else t, func(*wide, **kwargs))


def storage_of(tensor: Tensor) -> Any:
    """Of a tensor, or of the one that a transform of torch.func has wrapped."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor.untyped_storage()


class Here(threading.local):
    """What a thread is doing."""

    calls = 0
    target: str | None = None


class Storages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Where each storage lives; the bytes on the pretended GPU now and at their most."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._place: Any = WeakIdKeyDictionary()
        self.bytes_now = self.peak = 0
        self._here = Here()
        self.watch: Callable[[Any, tuple[Any, ...], dict[str, Any], Any], None] = lambda *call: None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunction():  # else the function mode would take our own calls for the program's
            if func._schema.is_mutable and func.overloadpacket.__name__ not in TAKES_BOTH:
                self._refuse_a_mix(args)
            out = _in_float(func, args, kwargs) if func.overloadpacket in SLOW_IN_HALF else func(*args, **kwargs)
            inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
            where = self.target or (GPU if any(self.place(t) == GPU for t in inputs) else HOST)
            if inputs or self.calls or self.target:  # else autograd makes room for a copy, which will say where it is
                for tensor in tree_leaves(out):
                    if isinstance(tensor, Tensor):
                        self.put(tensor, where, only_new=True)
            self.watch(func, args, kwargs, out)
        return out

    @property
    def calls(self) -> int:
        """Of the program's, that are under way."""
        return self._here.calls

    @calls.setter
    def calls(self, number: int) -> None:
        self._here.calls = number

    @property
    def target(self) -> str | None:
        """Where new storages go, whatever their inputs."""
        return self._here.target

    def place(self, tensor: Tensor) -> str:
        return str(self._place.get(storage_of(tensor), HOST))

    def put(self, tensor: Tensor, where: str, *, only_new: bool = False) -> None:
        storage = storage_of(tensor)
        was = self._place.get(storage)
        if was == where or (only_new and was):
            return
        self._place[storage] = where
        if where == GPU:
            size = -(-storage.nbytes() // BLOCK) * BLOCK
            self.bytes_now += size
            self.peak = max(self.peak, self.bytes_now)
            weakref.finalize(storage, self._freed, size)

    def _refuse_a_mix(self, args: tuple[Any, ...]) -> None:
        """What is done in place to a tensor, with one of its shape on the other side: an optimizer's step with its state elsewhere."""
        lists = [a if isinstance(a, (list, tuple)) else [a] for a in args]
        for row in zip(*(tensors for tensors in lists if tensors and isinstance(tensors[0], Tensor)), strict=False):
            alike = [t for t in row if t.dim() and t.shape == row[0].shape]
            if len(alike) > 1 and {GPU, HOST} <= {self._place.get(storage_of(t)) for t in alike}:
                raise RuntimeError(ONE_DEVICE)

    def _freed(self, size: int) -> None:
        self.bytes_now -= size

    def on_gpu(self, tensor: Tensor) -> Tensor:
        """The tensor, or a copy of it on the GPU."""
        if self.place(tensor) == GPU:
            return tensor
        with self.placing(GPU):
            out = tensor.clone()
        self.put(out, GPU)
        return out

    @contextlib.contextmanager
    def placing(self, where: str | None) -> Iterator[None]:
        here = self._here
        before, here.target = here.target, where or here.target
        try:
            yield
        finally:
            here.target = before


class Devices(TorchFunctionMode):
    """What the program says of devices, and what it is told."""

    def __init__(self, storages: Storages) -> None:
        super().__init__()
        self.storages = storages
        self.pinned: Any = WeakIdKeyDictionary()
        self.watch: Callable[[Any, tuple[Any, ...], dict[str, Any], Any], None] = lambda *call: None
        self.calling: Callable[[Any, tuple[Any, ...], dict[str, Any]], None] = lambda *call: None  # before a call
        # A call that raised: other arguments to try, or None.
        self.failed: Callable[[Any, tuple[Any, ...], dict[str, Any], Exception], Any] = lambda *call: None
        # A copy from one side to the other: source, result, non_blocking, was the source pinned.
        self.moved: Callable[[Tensor, Tensor, bool, bool], None] = lambda *move: None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calling(func, args, kwargs or {})
        self.storages.calls += 1
        try:
            out = self._call(func, args, dict(kwargs or {}))
        finally:
            self.storages.calls -= 1
        self.watch(func, args, kwargs or {}, out)
        return out

    def _call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if (answer := self._asked(func, args)) is not None:
            return answer[0]
        if getattr(func, "__name__", "") == "_parse_to":
            return func(*args, **kwargs)
        if func in TO_ANOTHER:
            return self._move(func, args, kwargs)
        if getattr(func, "__name__", "") == "copy_":
            return self._copy(func, args, kwargs)
        try:
            if getattr(func, "__name__", "") in NEEDS_ONE_DEVICE:
                self._refuse_a_mix(args, kwargs)
            return self._elsewhere(func, args, kwargs)
        except RuntimeError as error:
            mended = self.failed(func, args, kwargs, error)
            if mended is None:
                raise
            return self._elsewhere(func, *mended)

    def _asked(self, func: Any, args: tuple[Any, ...]) -> tuple[Any] | None:
        """The answer to a question about a tensor's place; None if it is not one."""
        name = getattr(func, "__name__", "")
        owner = getattr(func, "__self__", None)
        if name == "__get__" and owner in (Tensor.device, Tensor.is_cuda, Tensor.is_cpu):
            on_gpu = self.storages.place(args[0]) == GPU
            return (CUDA if on_gpu else CPU,) if owner is Tensor.device else (on_gpu == (owner is Tensor.is_cuda),)
        if func is Tensor.get_device:
            return (0 if self.storages.place(args[0]) == GPU else -1,)
        if func is Tensor.record_stream:
            return (None,)
        on_gpu = isinstance(args[0], Tensor) and self.storages.place(args[0]) == GPU if args else False
        if on_gpu and name in ("numpy", "__array__"):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first.")
        if on_gpu and name == "__repr__":
            with torch._C.DisableTorchFunction():
                return (f"{func(*args)[:-1]}, device='cuda:0')",)
        if on_gpu and func is Tensor.type and len(args) == 1:
            return (f"torch.cuda.{str(func(*args)).removeprefix('torch.')}",)
        if func is Tensor.is_pinned:
            return (args[0].untyped_storage() in self.pinned,)
        return None

    def _move(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        source, *rest = args
        here = self.storages.place(source)
        if func is Tensor.pin_memory:
            with self.storages.placing(HOST):
                out = source.clone()
            self.pinned[out.untyped_storage()] = True
            return out
        wanted, dtype, options = self._read_to(func, rest, kwargs)
        non_blocking, was_pinned = bool(options.get("non_blocking")), source.untyped_storage() in self.pinned
        if wanted in (None, here):
            return source.to(dtype or source.dtype, **options)
        options |= {"dtype": dtype or source.dtype, "copy": True}
        follows = follows_gradients(source)
        out = Across.apply(source, self._copied, (here, wanted), options) if follows else self._copied(source, wanted, options)
        self.moved(source, out, non_blocking, was_pinned)
        return out

    def _copied(self, source: Tensor, wanted: str, options: dict[str, Any]) -> Tensor:
        with self.storages.placing(wanted):
            out = source.to(**options)
        self.storages.put(out, wanted)
        return out

    def _read_to(self, func: Any, rest: list[Any], kwargs: dict[str, Any]) -> tuple[str | None, torch.dtype | None, dict[str, Any]]:
        """(place or None for where it is, dtype or None, the other options) of a `to`, `cuda` or `cpu`."""
        if func in (Tensor.cuda, Tensor.cpu):
            non_blocking = kwargs.get("non_blocking", len(rest) > 1 and rest[1])
            return (GPU if func is Tensor.cuda else HOST), None, {"non_blocking": bool(non_blocking)}
        copy = bool(kwargs.pop("copy", False))
        like = rest.pop(0) if rest and isinstance(rest[0], Tensor) else kwargs.pop("other", None)
        device, dtype, non_blocking, layout = torch._C._nn._parse_to(*rest, **kwargs)
        options: dict[str, Any] = {"non_blocking": non_blocking, "copy": copy}
        if layout is not None:
            options["memory_format"] = layout
        if like is not None:
            return self.storages.place(like), like.dtype, options
        return (None if device is None else GPU if _is_cuda(device) else HOST), dtype, options

    def _copy(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        target, source = args[0], args[1] if len(args) > 1 else kwargs.get("src")
        out = func(*args, **kwargs)
        if isinstance(source, Tensor) and self.storages.place(source) != self.storages.place(target):
            non_blocking = bool(kwargs.get("non_blocking", args[2] if len(args) > 2 else False))
            self.moved(source, target, non_blocking, source.untyped_storage() in self.pinned)
        return out

    def _refuse_a_mix(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        places = {self.storages.place(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.dim() and t.numel()}
        if len(places) > 1:
            raise RuntimeError(ONE_DEVICE)

    def _elsewhere(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call that may name a device for what it makes."""
        target = None
        if args and isinstance(args[0], Tensor) and getattr(func, "__name__", "").startswith(("new_", "__deepcopy__")):
            target = self.storages.place(args[0])
        below = isinstance(func, torch._ops.OpOverload)  # called by a dispatch mode, to which all is on the CPU
        if kwargs.get("device") is not None and not isinstance(kwargs["device"], type) and not (below and not _is_cuda(kwargs["device"])):
            target = GPU if _is_cuda(kwargs["device"]) else HOST
            kwargs["device"] = CPU
        pin = bool(kwargs.pop("pin_memory", False)) if "pin_memory" in kwargs else False
        with self.storages.placing(target):
            out = func(*args, **kwargs)
        if isinstance(out, Tensor):
            if target:
                self.storages.put(out, target)
            if pin:
                self.pinned[out.untyped_storage()] = True
        return out


def _is_cuda(device: Any) -> bool:
    return isinstance(device, int) or torch.device(device).type == "cuda"


def function_modes() -> list[Any]:
    return list(_get_current_function_mode_stack())  # type: ignore[no-untyped-call]


def _put(owner: Any, name: str, function: Callable[..., Any]) -> None:
    """A function in the place of another, wherever that can be called."""
    with contextlib.suppress(AttributeError):
        function = functools.wraps(getattr(owner, name))(function)
    for home in (owner, torch.cuda.memory) if hasattr(torch.cuda.memory, name) else (owner,):
        setattr(home, name, function)


class Stream:
    """Streams and events: they order what a GPU does by itself, and here nothing does."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: 0.0 if name == "elapsed_time" else True if name == "query" else None

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *args: object) -> None:
        pass


class PretendGpu:
    """`with PretendGpu() as gpu:` the program inside sees one GPU."""

    def __init__(self) -> None:
        self.storages = Storages()
        self.devices = Devices(self.storages)
        self.cache_emptied: Callable[[], None] = lambda: None
        self.packing: Callable[[Any, Callable[[Tensor], Any], Tensor], Any] = lambda hooks, pack, tensor: pack(tensor)
        self.unpacking: Callable[[Callable[[Any], Tensor], Any], Tensor] = lambda unpack, thing: unpack(thing)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> PretendGpu:
        self._say_cuda_is_there()
        _map_autocast()
        self._ask_inside_hooks()
        self._follow_threads()
        self._stack.enter_context(self.storages)
        self._stack.enter_context(self.devices)
        return self

    def __exit__(self, *args: object) -> None:
        self._stack.close()

    def _emptied(self) -> None:
        self.cache_emptied()  # whoever listens by now

    def are_on(self) -> bool:
        """Are both modes still the innermost ones?"""
        return self.devices in function_modes() and self.storages in _get_current_dispatch_mode_stack()

    def asking(self) -> contextlib.AbstractContextManager[Any]:
        """The function mode on, also in the middle of an operation, where torch takes it off."""
        return contextlib.nullcontext() if self.devices in function_modes() else self.devices

    def _say_cuda_is_there(self) -> None:
        storages = self.storages
        properties = types.SimpleNamespace(name=CARD, total_memory=80 * GIB, major=9, minor=0, multi_processor_count=132)
        answers: dict[str, Any] = {
            "is_available": True, "device_count": 1, "current_device": 0, "get_device_name": CARD, "is_initialized": True,
            "get_device_capability": (9, 0), "get_device_properties": properties, "is_bf16_supported": True, "init": None,
            "set_device": None, "synchronize": None, "manual_seed": None, "manual_seed_all": None, "reset_max_memory_allocated": None,
            "mem_get_info": (70 * GIB, 80 * GIB), "memory_summary": "", "ipc_collect": None, "memory_stats": {}, "get_rng_state": None,
            "reset_peak_memory_stats": None, "set_per_process_memory_fraction": None, "reset_accumulated_memory_stats": None,
        }  # fmt: skip
        for name, answer in answers.items():
            _put(torch.cuda, name, lambda *args, _answer=answer, **kwargs: _answer)
        for name in ("memory_reserved", "max_memory_reserved"):
            _put(torch.cuda, name, lambda *args, **kwargs: -(-storages.peak // SEGMENT) * SEGMENT)
        _put(torch.cuda, "memory_allocated", lambda *args, **kwargs: storages.bytes_now)
        _put(torch.cuda, "max_memory_allocated", lambda *args, **kwargs: storages.peak)
        for name in ("Stream", "Event", "stream", "device", "current_stream", "default_stream"):
            setattr(torch.cuda, name, Stream)
        _put(torch.cuda, "empty_cache", self._emptied)
        torch.cuda.amp.common.amp_definitely_not_available = lambda: False
        torch.version.cuda = "12.8"
        torch.nn.attention.sdpa_kernel = _any_kernel

    def _follow_threads(self) -> None:
        """torch's modes are a thread's own: those that the program starts get them too."""
        plain = vars(threading.Thread)["_bootstrap_inner"]

        def inside(thread: threading.Thread) -> None:
            with self.storages, self.devices:
                plain(thread)

        setattr(threading.Thread, "_bootstrap_inner", inside)  # noqa: B010 - a method, to mypy

    def _ask_inside_hooks(self) -> None:
        """Hooks on saved tensors are called in the middle of an operation, where the function mode is off."""
        original = torch.autograd.graph.saved_tensors_hooks.__init__

        def init(hooks: Any, pack: Callable[[Tensor], Any], unpack: Callable[[Any], Tensor]) -> None:
            def packed(tensor: Tensor) -> Any:
                with self.asking():
                    return self.packing(hooks, pack, tensor)

            def unpacked(thing: Any) -> Tensor:
                with self.asking():
                    return self.unpacking(unpack, thing)

            original(hooks, packed, unpacked)

        setattr(torch.autograd.graph.saved_tensors_hooks, "__init__", init)  # noqa: B010 - a method, to mypy


@contextlib.contextmanager
def _any_kernel(*backends: Any, **options: Any) -> Iterator[None]:
    """The choice of an attention kernel: the CPU has not all of them, and they compute the same."""
    yield


def _map_autocast() -> None:
    """Autocast for "cuda" acts on the CPU's operations; autocast for "cpu" acts on nothing, as on a GPU's tensors."""
    cls: Any = torch.amp.autocast_mode.autocast
    original, enter, leave = cls.__init__, cls.__enter__, cls.__exit__
    is_enabled, dtype_of = torch.is_autocast_enabled, torch.get_autocast_dtype

    def init(self: Any, device_type: str, dtype: Any = None, enabled: bool = True, cache_enabled: Any = None) -> None:
        if not isinstance(device_type, str):
            raise ValueError(f"Expected `device_type` of type `str`, got: `{type(device_type)}`")
        self.is_for_gpu = device_type == "cuda"
        original(self, "cpu", dtype or (torch.float16 if self.is_for_gpu else None), enabled, cache_enabled)

    def enter_if(self: Any) -> Any:
        return enter(self) if self.is_for_gpu else self

    def leave_if(self: Any, *error: Any) -> Any:
        return leave(self, *error) if self.is_for_gpu else False

    cls.__init__, cls.__enter__, cls.__exit__ = init, enter_if, leave_if
    answers: dict[str, Callable[..., Any]] = {
        "is_autocast_enabled": lambda device_type="cuda": device_type == "cuda" and is_enabled("cpu"),
        "get_autocast_dtype": lambda device_type="cuda": dtype_of("cpu"),
        "get_autocast_gpu_dtype": lambda: dtype_of("cpu"),
    }
    for name, answer in answers.items():
        setattr(torch, name, answer)
