"""The process group: NCCL on GPUs is played by gloo on the CPU. Runs INSIDE the sandbox.

Told: how the group was made and ended, which collectives the submission itself calls, and what NCCL would refuse.
"""

from __future__ import annotations

import datetime
import os
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from fsdp_gpus import Gpus, site_of
from fsdp_record import Recorder, called_by_torch
from torch._C._distributed_c10d import HashStore
from torch.distributed import device_mesh
from torch.distributed import distributed_c10d as c10d

GIVEN = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE")
TIMEOUT = datetime.timedelta(seconds=60)
COLLECTIVES = (
    "all_reduce", "reduce", "broadcast", "all_gather", "all_gather_into_tensor", "reduce_scatter", "reduce_scatter_tensor", "gather",
    "scatter", "all_to_all", "all_to_all_single", "barrier", "broadcast_object_list", "all_gather_object", "gather_object",
    "scatter_object_list", "send", "recv", "isend", "irecv", "new_group",
)  # fmt: skip


class Group:
    """What became of the default process group in this rank."""

    def __init__(self, rec: Recorder, gpus: Gpus, env: Mapping[str, str]) -> None:
        self.rec, self.gpus, self.env = rec, gpus, dict(env)
        self.backend = "nccl"
        self.of_hosts: list[Any] = []  # groups beside the default one that are asked for with gloo

    def install(self) -> None:
        replace = self.rec.replace
        replace("init_process_group", self._init, dist, c10d, device_mesh)
        replace("destroy_process_group", self._destroy, dist, c10d)
        replace("get_backend", self._get_backend, dist, c10d)
        replace("get_backend_config", lambda real: lambda *a: real(*a) if called_by_torch() else f"cuda:{self.backend}", dist, c10d)
        replace("is_nccl_available", lambda real: lambda: real() if called_by_torch() else True, dist, c10d)
        for name in COLLECTIVES:
            replace(name, lambda real, name=name: self._collective(real, name), dist, c10d)
        replace("monitored_barrier", self._monitored, dist, c10d)
        replace("spawn", self._spawn, torch.multiprocessing)
        replace("__init__", self._ddp, torch.nn.parallel.DistributedDataParallel)
        if "init" in self.rec.mends:
            with self.rec.silence():
                c10d.init_process_group("gloo", timeout=TIMEOUT)

    def _init(self, real: Any) -> Callable[..., Any]:
        def init(
            backend: Any = None, init_method: Any = None, timeout: Any = None, world_size: int = -1, rank: int = -1, **rest: Any
        ) -> Any:
            implicit = called_by_torch()
            fixed = self._fixed(init_method, world_size, rank)
            self.backend = str(backend or "nccl").lower()
            self.rec.tell(
                "init",
                backend=self.backend,
                fixed=fixed,
                implicit=implicit,
                alone=self._is_one(world_size),
                store=rest.get("store") is not None,
            )
            if rest.get("device_id") is not None:
                self.gpus.use("init", rest["device_id"])
            if dist.is_initialized() and "init" in self.rec.mends:
                return None
            if self._is_one(world_size):
                return real("gloo", timeout=TIMEOUT, store=HashStore(), rank=0, world_size=1)
            if fixed:
                self._refuse(fixed)
            return real("gloo", timeout=TIMEOUT)

        return init

    @staticmethod
    def _is_one(world_size: int) -> bool:
        """A group of one: it meets nobody, so it comes about in every process."""
        return (int(world_size) if world_size != -1 else int(os.environ.get("WORLD_SIZE", "0"))) == 1

    def _fixed(self, init_method: Any, world_size: int, rank: int) -> list[str]:
        """What does not come from the launcher."""
        fixed = [name for name in GIVEN if os.environ.get(name) != self.env[name]]
        if world_size != -1 and int(world_size) != int(self.env["WORLD_SIZE"]):
            fixed.append("world_size")
        if rank != -1 and int(rank) != int(self.env["RANK"]):
            fixed.append("rank")
        if init_method not in (None, "", "env://"):
            url = urllib.parse.urlparse(str(init_method))
            if (url.hostname, str(url.port)) != (self.env["MASTER_ADDR"], self.env["MASTER_PORT"]) and url.hostname:
                fixed.append("init_method")
            elif not url.hostname:
                fixed.append("init_method")
        return fixed

    def _refuse(self, fixed: list[str]) -> None:
        """An address of this node reaches nobody from the next one; wrong numbers reach nobody at all.

        Nor does another port: the store is torchrun's own, and no rank opens one there.
        """
        only_address = all(name in ("MASTER_ADDR", "init_method") for name in fixed)
        if not only_address or self.env["GROUP_RANK"] != "0":
            error = f"the ranks can't meet: {', '.join(fixed)} is not what torchrun gives"
            if not self.rec.mends_it("address", error):
                raise RuntimeError(error)
        os.environ.update({name: self.env[name] for name in GIVEN})

    def _destroy(self, real: Any) -> Callable[..., Any]:
        def destroy(group: Any = None) -> Any:
            if not called_by_torch():
                self.rec.tell("destroy", live=dist.is_initialized(), whole=group is None or group is dist.group.WORLD)
            return None if "destroyed" in self.rec.mends else real(group)

        return destroy

    def _get_backend(self, real: Any) -> Callable[..., Any]:
        def get_backend(group: Any = None) -> Any:
            found = real(group)
            return found if called_by_torch() or self._is_of_hosts((group,), {}) else self.backend

        return get_backend

    def _collective(self, real: Any, name: str) -> Callable[..., Any]:
        def collective(*args: Any, **kwargs: Any) -> Any:
            if called_by_torch():
                return real(*args, **kwargs)
            self.rec.tell("collective", once=True, name=name)
            if name == "barrier":
                kwargs.pop("device_ids", None)
            if name == "new_group":
                return self._new_group(real, args, kwargs)
            if not name.endswith(("object", "object_list")):
                self._on_a_gpu(name, args, kwargs)
            return self._averaged(real, name, args, kwargs)

        return collective

    def _new_group(self, real: Any, args: Any, kwargs: Any) -> Any:
        backend = args[2] if len(args) > 2 else kwargs.get("backend")
        made = real(*args[:1], **{**kwargs, "timeout": TIMEOUT, "backend": "gloo"})
        if "gloo" in str(backend).lower():
            self.of_hosts.append(made)
        return made

    def _is_of_hosts(self, args: Any, kwargs: Any) -> bool:
        return any(group is one for group in self.of_hosts for one in (*args, *kwargs.values()))

    def _monitored(self, real: Any) -> Callable[..., Any]:
        def monitored_barrier(*args: Any, **kwargs: Any) -> Any:
            error = "monitored_barrier is only implemented for GLOO backend"
            is_right = self.backend == "gloo" or called_by_torch() or self._is_of_hosts(args, kwargs)
            if not is_right and not self.rec.mends_it("placement", error):
                raise ValueError(error)
            return real(*args, **kwargs)

        return monitored_barrier

    def _on_a_gpu(self, name: str, args: Any, kwargs: Any) -> None:
        tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)][:1]
        if tensors and site_of(tensors[0]) == "cpu" and self.backend == "nccl" and not self._is_of_hosts(args, kwargs):
            error = f"No backend type associated with device type cpu (in {name})"
            if not self.rec.mends_it("placement", error):
                raise RuntimeError(error)

    def _averaged(self, real: Any, name: str, args: Any, kwargs: Any) -> Any:
        """gloo can't average: sum, then divide."""
        average = dist.ReduceOp.AVG
        if name not in ("all_reduce", "reduce") or average not in (*[a for a in args if isinstance(a, type(average))], kwargs.get("op")):
            return real(*args, **kwargs)
        args = tuple(dist.ReduceOp.SUM if isinstance(a, type(average)) else a for a in args)
        kwargs = {**kwargs, "op": dist.ReduceOp.SUM} if "op" in kwargs else kwargs
        result = real(*args, **kwargs)
        tensor = next(a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor))
        if result is not None and hasattr(result, "wait"):
            result.wait()
        tensor.div_(dist.get_world_size(kwargs.get("group")))
        return result

    def _spawn(self, real: Any) -> Callable[..., Any]:
        def spawn(fn: Callable[..., Any], args: Any = (), nprocs: int = 1, **rest: Any) -> Any:
            if not self.rec.mends_it("spawn", "mp.spawn starts a second set of processes in every process that torchrun started"):
                raise RuntimeError("mp.spawn under torchrun: the ranks of the new processes are taken")
            return fn(int(self.env["RANK"]), *args)

        return spawn

    def _ddp(self, real: Any) -> Callable[..., Any]:
        def init(module: Any, *args: Any, **kwargs: Any) -> None:
            self.rec.tell("ddp", once=True)
            kwargs.pop("device_ids", None)
            kwargs.pop("output_device", None)
            real(module, *args[:1], **kwargs)

        return init
