"""A node's GPUs as one rank sees them, played on the CPU. Runs INSIDE the sandbox.

The submission is shown `torch.cuda` as on a node with GPUs; torch's own code, which asks the same functions, is shown
the CPU. Which device a tensor would be on is kept as its `_site`: "cuda:N", "cpu", or nothing where it is not known.
What a GPU would refuse (a device that is not there, a batch left on the CPU) is refused here too.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.utils._device
from fsdp_record import DISTRIBUTED, TORCH, Recorder, called_by_torch
from torch.overrides import TorchFunctionMode

MEMORY = 80 << 30
CPU = torch.device("cpu")
# What profilers call in the driver's library and in NVTX.
TOOLS = (
    "rangePushA", "rangePop", "rangeStartA", "rangeEnd", "markA", "deviceRangeStart", "deviceRangeEnd",
    "cudaProfilerStart", "cudaProfilerStop", "cudaDeviceSynchronize", "cudaMemGetInfo",
)  # fmt: skip
HIGHER = (torch.nn.functional.cross_entropy, torch.nn.functional.nll_loss)


class Gpus:
    """The devices of this node and the one that is current."""

    def __init__(self, rec: Recorder, count: int, local_rank: int, name: str) -> None:
        self.rec, self.count, self.local_rank, self.name = rec, count, local_rank, name
        self.capability = (9, 0) if "H100" in name else (8, 0)
        self.current, self.ready, self.chosen = 0, False, False
        self.bytes = 64 << 20

    def index_of(self, device: Any) -> int:
        """The index that a device argument means. Raises as CUDA does when the node lacks it."""
        if isinstance(device, str):
            device = torch.device(device)
        if isinstance(device, torch.device):
            device = device.index
        index = self.current if device is None or int(device) < 0 else int(device)
        if device is not None and 0 <= index < len(visible := self.visible()):
            index = visible[index]
        if index >= self.count:
            error = f"CUDA error: invalid device ordinal (asked for device {index} on a node with {self.count})"
            if not self.rec.mends_it("device", error):
                self.rec.tell("device", once=True, what="invalid", index=index)
                raise RuntimeError(error)
            self.rec.tell("device", once=True, what="invalid", index=index)
            return self.local_rank
        return index

    @staticmethod
    def visible() -> list[int]:
        """The devices that CUDA_VISIBLE_DEVICES leaves, where the submission has set it."""
        told = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        return [int(part) for part in told.split(",")] if told.replace(",", "").isdigit() else []

    def set_device(self, device: Any, what: str = "set_device") -> None:
        index = self.index_of(device)
        self.current, self.ready, self.chosen = index, True, True
        self.rec.tell("device", once=True, what=what, index=index)

    def use(self, what: str, device: Any = None) -> int:
        """Something is put on a device."""
        index = self.index_of(device)
        self.ready = True
        self.rec.tell("device", once=True, what=what, index=index, chosen=self.chosen)
        return index


class Stream:
    """A CUDA stream: nothing is ahead of anything here."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.cuda_stream, self.priority = 0, 0

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def query(self) -> bool:
        return True

    def record_event(self, event: Any = None) -> Any:
        return event or Event()

    def synchronize(self, *args: Any) -> None:
        return None

    wait_stream = wait_event = synchronize


class Event:
    """A CUDA event: the time of its record."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.at = time.monotonic()

    def record(self, *args: Any) -> None:
        self.at = time.monotonic()

    def elapsed_time(self, other: Event) -> float:
        return 1000 * (other.at - self.at)

    def query(self) -> bool:
        return True

    def synchronize(self, *args: Any) -> None:
        return None

    wait = synchronize


class Generator(torch.Generator):
    """A generator of numbers on any device."""

    def __new__(cls, device: Any = "cpu") -> Any:
        return super().__new__(cls, CPU)  # type: ignore[call-arg]


class DeviceGuard:
    """`with torch.cuda.device(n)`."""

    def __init__(self, gpus: Gpus, device: Any) -> None:
        self.gpus, self.index, self.before = gpus, gpus.index_of(device), gpus.current

    def __enter__(self) -> None:
        self.before, self.gpus.current = self.gpus.current, self.index
        self.gpus.use("device context", self.index)

    def __exit__(self, *error: object) -> None:
        self.gpus.current = self.before


def properties(gpus: Gpus, device: Any) -> SimpleNamespace:
    gpus.index_of(device)
    major, minor = gpus.capability
    return SimpleNamespace(name=gpus.name, total_memory=MEMORY, major=major, minor=minor, multi_processor_count=108)


def install(rec: Recorder, gpus: Gpus) -> Mode:
    """Show the submission a node with GPUs; returns the mode, which stays on."""
    said: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "is_initialized": lambda: gpus.ready,
        "device_count": lambda: len(gpus.visible()) or gpus.count,
        "current_device": lambda: gpus.current,
        "set_device": gpus.set_device,
        "init": lambda: None,
        "get_device_name": lambda device=None: properties(gpus, device).name,
        "get_device_properties": lambda device=None: properties(gpus, device),
        "get_device_capability": lambda device=None: gpus.capability,
        "is_bf16_supported": lambda *a, **k: True,
        "device": lambda device: DeviceGuard(gpus, device),
        "mem_get_info": lambda device=None: (MEMORY, MEMORY),
        "memory_summary": lambda *a, **k: "",
        "memory_stats": lambda *a, **k: {},
        "current_stream": lambda *a: Stream(),
        "default_stream": lambda *a: Stream(),
        "stream": lambda s: s or Stream(),
        "Stream": Stream,
        "Event": Event,
        "get_rng_state": lambda *a: torch.get_rng_state(),
        "set_rng_state": lambda state, *a: torch.set_rng_state(state),
        "get_arch_list": lambda: ["sm_80", "sm_90"],
    }
    for name in ("synchronize", "empty_cache", "ipc_collect", "manual_seed", "manual_seed_all", "seed", "seed_all"):
        said[name] = lambda *a, **k: None
    for name in (
        "reset_peak_memory_stats",
        "reset_max_memory_allocated",
        "reset_accumulated_memory_stats",
        "set_per_process_memory_fraction",
    ):
        said[name] = lambda *a, **k: None
    for name in ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved"):
        said[name] = lambda *a, **k: gpus.bytes
    for name, answer in said.items():
        rec.replace(name, lambda real, answer=answer: _for_the_submission(real, answer), torch.cuda)
    ours: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "device_count": lambda: gpus.count,
        "current_accelerator": lambda *a, **k: torch.device("cuda"),
        "set_device_index": gpus.set_device,
        "set_device_idx": gpus.set_device,
        "current_device_index": lambda: gpus.current,
        "current_device_idx": lambda: gpus.current,
        "synchronize": lambda *a: None,
    }
    for name, answer in ours.items():
        rec.replace(name, lambda real, answer=answer: _for_the_submission(real, answer), torch.accelerator)
    _install_libraries(rec)
    rec.replace("to", _to_a_number, torch.nn.Module)
    _keep_sites_of_parameters()
    mode: Any = Mode(rec, gpus)
    mode.__enter__()
    return mode  # type: ignore[no-any-return]


def _install_libraries(rec: Recorder) -> None:
    """What a build for CUDA brings along."""
    tools: Any = SimpleNamespace(**dict.fromkeys(TOOLS, lambda *a, **k: 0))
    vars(torch.cuda.nvtx)["_nvtx"] = tools
    rec.replace("cudart", lambda real: lambda: tools, torch.cuda)
    for name in ("start", "stop"):
        rec.replace(name, lambda real: lambda: None, torch.cuda.profiler)
    rec.replace("version", lambda real: _for_the_submission(real, lambda: 91002), torch.backends.cudnn)
    rec.replace("is_available", lambda real: _for_the_submission(real, lambda: True), torch.backends.cudnn)
    rec.replace("is_built", lambda real: _for_the_submission(real, lambda: True), torch.backends.cuda)
    setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)  # noqa: B010 (its own takes CUDA's streams only)
    vars(torch)["Generator"] = Generator
    vars(torch.cuda.nccl)["version"] = lambda: (2, 27, 5)
    vars(torch.version)["cuda"] = "12.8"
    torch.__version__ = type(torch.__version__)(str(torch.__version__).replace("+cpu", "+cu128"))


def _for_the_submission(real: Any, answer: Callable[..., Any]) -> Callable[..., Any]:
    def told(*args: Any, **kwargs: Any) -> Any:
        return real(*args, **kwargs) if called_by_torch() else answer(*args, **kwargs)

    return told


def _to_a_number(real: Any) -> Callable[..., Any]:
    """`module.to(1)`: a number is a GPU where there is one, which here it is not."""

    def to(module: Any, *args: Any, **kwargs: Any) -> Any:
        args = tuple(torch.device("cuda", a) if isinstance(a, int) and not isinstance(a, bool) else a for a in args)
        if isinstance(number := kwargs.get("device"), int):
            kwargs["device"] = torch.device("cuda", number)
        return real(module, *args, **kwargs)

    return to


def _keep_sites_of_parameters() -> None:
    make = torch.nn.Parameter.__new__

    def __new__(cls: Any, data: Any = None, requires_grad: bool = True) -> Any:
        made = make(cls, data, requires_grad)
        put(made, site_of(data) if isinstance(data, torch.Tensor) else None)
        return made

    setattr(torch.nn.Parameter, "__new__", __new__)  # noqa: B010 (types know it as fixed)


# --- where tensors are ------------------------------------------------------------------------------------


def site_of(tensor: Any) -> str | None:
    found = getattr(tensor, "__dict__", {}).get("_site")
    return found if isinstance(found, str) else None


def put(result: Any, site: str | None) -> Any:
    if isinstance(result, torch.Tensor):
        result.__dict__["_site"] = site
    elif isinstance(result, (tuple, list)):
        for part in result:
            if isinstance(part, torch.Tensor):
                part.__dict__["_site"] = site
    return result


def is_cuda(device: Any) -> bool:
    if isinstance(device, str):
        return device.startswith("cuda")
    return isinstance(device, torch.device) and device.type == "cuda"


class Mode(TorchFunctionMode):
    """Sends what is meant for a GPU to the CPU and keeps where each tensor would be."""

    def __init__(self, rec: Recorder, gpus: Gpus) -> None:
        super().__init__()
        self.rec, self.gpus = rec, gpus
        self.makers = torch.utils._device._device_constructors()
        self.on_backward: Callable[[Any], None] = lambda loss: None
        self.on_embedding: Callable[[Any], None] = lambda tokens: None
        tensor: Any = torch.Tensor
        self.special: dict[Any, Callable[..., Any]] = {
            tensor.device.__get__: self._device,
            tensor.is_cuda.__get__: self._is_cuda,
            tensor.get_device: self._get_device,
            tensor.to: self._to,
            tensor.cuda: self._cuda,
            tensor.cpu: self._to_cpu,
            tensor.pin_memory: lambda func, args, kwargs: args[0],
            tensor.is_pinned: lambda func, args, kwargs: False,
            tensor.numpy: self._numpy,
            tensor.type: self._type,
            tensor.__repr__: self._repr,
            tensor.data.__set__: self._set_data,
            tensor.backward: self._backward,
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        handler = self.special.get(func)
        if handler is not None:
            return handler(func, args, kwargs)
        if func in self.makers:
            return self._make(func, args, kwargs)
        site = self._site_of_all(args, kwargs)
        if kwargs.get("device") is not None and self._wants_cuda(kwargs["device"]):
            site = f"cuda:{self.gpus.use('tensor', kwargs['device'])}"
            kwargs = {**kwargs, "device": CPU}
        if func in HIGHER:
            self._same_device(args, kwargs)
        if func is torch.nn.functional.embedding:
            self.on_embedding(args[0] if args else kwargs.get("input"))
        result = func(*args, **kwargs)
        if args and result is args[0]:
            return result
        return put(result, site)

    def _wants_cuda(self, device: Any) -> bool:
        return is_cuda(device) or (isinstance(device, int) and not isinstance(device, bool))

    def _site_of_all(self, args: Any, kwargs: Any) -> str | None:
        """A GPU if any argument is on one; the CPU if all are known to be; else unknown."""
        found: str | None = None
        unknown = False
        for arg in (*args, *kwargs.values()):
            for part in arg if isinstance(arg, (tuple, list)) else (arg,):
                if isinstance(part, torch.Tensor):
                    site = site_of(part)
                    if site is not None and site != "cpu":
                        return site
                    unknown |= site is None
                    found = found or site
        return None if unknown else found

    def _make(self, func: Any, args: Any, kwargs: Any) -> Any:
        device = kwargs.get("device")
        if device is None and is_cuda(default := torch.utils._device.CURRENT_DEVICE):
            device = default
        if device is not None and self._wants_cuda(device):
            return self._placed(func(*args, **{**kwargs, "device": CPU}), f"cuda:{self.gpus.use('tensor', device)}")
        inside = sys._getframe(2).f_code.co_filename.startswith(DISTRIBUTED)
        known = "cpu" if device is None or not inside else None
        return put(func(*args, **kwargs), None if inside else known)

    def _device(self, func: Any, args: Any, kwargs: Any) -> Any:
        real = func(*args)
        if real.type != "cpu" or sys._getframe(2).f_code.co_filename.startswith(TORCH):
            return real
        site = site_of(args[0])
        return real if site == "cpu" else torch.device(site or f"cuda:{self.gpus.current}")

    def _is_cuda(self, func: Any, args: Any, kwargs: Any) -> bool:
        if sys._getframe(2).f_code.co_filename.startswith(TORCH):
            return bool(func(*args))
        return site_of(args[0]) != "cpu"

    def _get_device(self, func: Any, args: Any, kwargs: Any) -> int:
        device = self._device(torch.Tensor.device.__get__, args, kwargs)
        return -1 if device.type == "cpu" else int(device.index or 0)

    def _to(self, func: Any, args: Any, kwargs: Any) -> Any:
        tensor, rest = args[0], list(args[1:])
        wanted = kwargs.get("device", next((a for a in rest if isinstance(a, (str, torch.device, int)) and not isinstance(a, bool)), None))
        other = next((a for a in (*rest, kwargs.get("other")) if isinstance(a, torch.Tensor)), None)
        if wanted is None:
            site = site_of(other) if other is not None else site_of(tensor)
            result = func(*args, **kwargs)
            return result if result is tensor else put(result, site)
        if not self._wants_cuda(wanted):
            return self._land(func(*args, **kwargs), tensor, wanted)
        index = self.gpus.use("tensor", wanted)
        rest = [CPU if a is wanted else a for a in rest]
        kwargs = {**kwargs, "device": CPU} if "device" in kwargs else kwargs
        return self._moved(func(tensor, *rest, **kwargs), tensor, f"cuda:{index}")

    def _cuda(self, func: Any, args: Any, kwargs: Any) -> Any:
        wanted = kwargs.get("device", args[1] if len(args) > 1 else None)
        return self._moved(args[0], args[0], f"cuda:{self.gpus.use('tensor', wanted)}")

    def _to_cpu(self, func: Any, args: Any, kwargs: Any) -> Any:
        return self._land(func(*args, **kwargs), args[0], CPU)

    def _land(self, result: Any, tensor: Any, wanted: Any) -> Any:
        """To a device that is no GPU: what torch.distributed calls the CPU here is the GPU."""
        inside = sys._getframe(3).f_code.co_filename.startswith(DISTRIBUTED)
        if inside:
            return result if result is tensor else put(result, site_of(tensor))
        return self._moved(result, tensor, "cpu")

    def _moved(self, result: Any, tensor: Any, site: str) -> Any:
        if result is tensor and site_of(tensor) == site:
            return result
        if result is tensor:
            result = tensor.clone()
        return self._placed(result, site)

    def _placed(self, result: Any, site: str) -> Any:
        """A tensor that is new on a device, which holds so much more: nothing here is taken away again."""
        if site != "cpu" and isinstance(result, torch.Tensor):
            self.gpus.bytes += result.numel() * result.element_size()
        return put(result, site)

    def _type(self, func: Any, args: Any, kwargs: Any) -> Any:
        """`tensor.type()`: the name of a class, that of a GPU's tensors where it is one; given such a name, a move."""
        wanted = args[1] if len(args) > 1 else kwargs.get("dtype")
        if wanted is None:
            told = str(func(*args))
            return told if self._site_of_all(args, {}) in (None, "cpu") else told.replace("torch.", "torch.cuda.", 1)
        is_moved = isinstance(wanted, str) and wanted.startswith("torch.cuda.")
        result = func(args[0], wanted.replace("cuda.", "") if is_moved else wanted)
        return self._moved(result, args[0], f"cuda:{self.gpus.use('tensor')}") if is_moved else put(result, site_of(args[0]))

    def _repr(self, func: Any, args: Any, kwargs: Any) -> str:
        told, site = str(func(*args, **kwargs)), site_of(args[0])
        return told if site in (None, "cpu") or not told.endswith(")") else f"{told[:-1]}, device='{site}')"

    def _numpy(self, func: Any, args: Any, kwargs: Any) -> Any:
        site = site_of(args[0])
        if site and site != "cpu" and not sys._getframe(2).f_code.co_filename.startswith(TORCH):
            raise TypeError(f"can't convert {site} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first.")
        return func(*args, **kwargs)

    def _set_data(self, func: Any, args: Any, kwargs: Any) -> Any:
        result = func(*args, **kwargs)
        if site_of(args[1]) is not None:
            put(args[0], site_of(args[1]))
        return result

    def _backward(self, func: Any, args: Any, kwargs: Any) -> Any:
        self.on_backward(args[0])
        return func(*args, **kwargs)

    def _same_device(self, args: Any, kwargs: Any) -> None:
        tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)][:2]
        sites = [site_of(t) for t in tensors]
        if "cpu" in sites and any(s is not None and s != "cpu" for s in sites):
            error = f"Expected all tensors to be on the same device, but found at least two devices, {sites[0]} and {sites[-1]}!"
            if not self.rec.mends_it("placement", error):
                raise RuntimeError(error)
