"""FSDP itself: what is wrapped and how, and how a checkpoint is gathered. Runs INSIDE the sandbox.

What only a GPU can do (offloading a gathered state to the CPU, a device_id) is told and left out of the call.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed.checkpoint
import torch.distributed.checkpoint.state_dict as state_dict_api
import torch.distributed.fsdp._init_utils as fsdp1_init
import torch.distributed.tensor
from fsdp_gpus import CPU, Gpus, is_cuda, put, site_of
from fsdp_record import Recorder, called_by_torch
from torch import nn
from torch.distributed import device_mesh, fsdp
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp import wrap as policies
from torch.distributed.fsdp._fully_shard._fsdp_state import _get_module_fsdp_state as fully_shard_state
from torch.distributed.tensor import DTensor

INNER = ("_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod", "module")


class Units:
    """The modules that were wrapped in this rank."""

    def __init__(self, rec: Recorder, gpus: Gpus, n_layers: int) -> None:
        self.rec, self.gpus, self.n_layers = rec, gpus, n_layers
        self.roots: list[nn.Module] = []
        self.on_cpu: list[nn.Module] = []
        self.asked: dict[str, Any] = {}
        self.wrapping = self.summoned = False
        self.where = "cuda:0"
        self.gathers = 0
        self.before_gather: Callable[[], None] = lambda: None

    def install(self) -> None:
        replace = self.rec.replace
        replace("__init__", self._wrap, FSDP)
        replace("_check_module_states_for_sync_module_states", lambda real: lambda states: None, fsdp1_init)
        replace("fully_shard", self._fully_shard, fsdp, fsdp._fully_shard)
        replace("init_device_mesh", self._mesh, device_mesh, torch.distributed)
        for name in ("transformer_auto_wrap_policy", "lambda_auto_wrap_policy", "size_based_auto_wrap_policy"):
            replace(name, lambda real, name=name: self._policy_called(real, name), policies)
        replace("set_state_dict_type", self._set_type, FSDP)
        replace("state_dict_type", self._type, FSDP)
        replace("summon_full_params", self._summon, FSDP)
        replace("state_dict", self._state_dict, nn.Module)
        for name in ("get_model_state_dict", "get_state_dict"):
            replace(name, lambda real, name=name: self._get_state(real, name), state_dict_api)
        replace("full_tensor", self._full_tensor, DTensor)
        for name in ("save", "async_save", "save_state_dict"):
            replace(name, lambda real, name=name: self._dcp(real, name), torch.distributed.checkpoint)

    # --- FSDP1 ---

    def _wrap(self, real: Any) -> Callable[..., None]:
        names = set(inspect.signature(real).parameters)

        def init(module: Any, *args: Any, **kwargs: Any) -> None:
            if self.wrapping:
                return real(module, *args, **kwargs)  # type: ignore[no-any-return]
            if (odd := set(kwargs) - names) and self.rec.mends_it(
                "arguments", f"FSDP got an unexpected keyword argument {sorted(odd)[0]!r}"
            ):
                kwargs = {k: v for k, v in kwargs.items() if k in names}
            given = inspect.signature(real).bind(module, *args, **kwargs).arguments
            self._tell_wrap(given)
            if self._left_on_cpu and given.get("sync_module_states"):
                self._refuse_sync()
            if "HYBRID" in str(given.get("sharding_strategy")) and "process_group" not in given:
                # Over the GPUs of a node, which torch counts: with one process on it there would be nothing to shard over.
                given["sharding_strategy"] = fsdp.ShardingStrategy.FULL_SHARD
                given.pop("device_mesh", None)
            given["device_id"] = CPU
            if given.get("auto_wrap_policy") is not None:
                given["auto_wrap_policy"] = self._policy(given["auto_wrap_policy"], given["module"])
            given.pop("cpu_offload", None)
            self.wrapping = True
            try:
                real(**given)
            finally:
                self.wrapping = False
            self.roots.append(module)
            if self._left_on_cpu:
                self.on_cpu.append(module)

        return init

    def _refuse_sync(self) -> None:
        error = "The module has CPU parameters or buffers when `sync_module_states=True`, which requires them to be on GPU."
        if not self.rec.mends_it("placement", error):
            raise ValueError(error)

    def _tell_wrap(self, given: dict[str, Any]) -> None:
        module, device_id = given["module"], given.get("device_id")
        index = -1 if device_id is None else self.gpus.use("device_id", device_id)
        first = next(iter(module.parameters()), None)
        site = site_of(first) if first is not None else None
        self._left_on_cpu = index < 0 and first is not None and site in (None, "cpu") and first.device.type != "meta" and not self.roots
        where = f"cuda:{index}" if index >= 0 else site or f"cuda:{self.gpus.current}"
        self.where = where if where != "cpu" else f"cuda:{self.gpus.current}"
        policy = given.get("auto_wrap_policy")
        inner = getattr(policy, "func", policy)
        self.rec.tell(
            "wrap",
            api="fsdp1",
            cls=type(module).__name__,
            where=where,
            device_id=index,
            strategy=str(given.get("sharding_strategy") or "FULL_SHARD").rpartition(".")[2],
            policy="" if policy is None else str(getattr(inner, "__name__", type(inner).__name__)),
            n_params=sum(p.numel() for p in module.parameters()),
        )

    def _policy(self, policy: Any, module: nn.Module) -> Any:
        """The policy, watched: what it raises is a fact, and a mended run goes on with the blocks."""
        if isinstance(policy, policies._Policy):
            return policy
        blocks = {type(b) for b in self.blocks(module)}
        right = policies.ModuleWrapPolicy(blocks)
        if not callable(policy):
            error = f"auto_wrap_policy is a {type(policy).__name__}, which can't be called"
            self.rec.tell("policy_error", error=error)
            return right if self.rec.mends_it("policy", error) else policy
        try:
            found = policy(module=module, recurse=False, nonwrapped_numel=1)
            wrong = "" if isinstance(found, bool) or not callable(found) else "it returned a function in place of a truth value"
        except Exception as error:
            wrong = f"{type(error).__name__}: {error}"
        if not wrong:
            return policy
        self.rec.tell("policy_error", error=wrong[:600])
        return right if self.rec.mends_it("policy", f"FSDP called the policy: {wrong}") else policy

    def _policy_called(self, real: Any, name: str) -> Callable[..., Any]:
        def policy(*args: Any, **kwargs: Any) -> Any:
            try:
                return real(*args, **kwargs)
            except TypeError as error:
                if called_by_torch() or not self.rec.mends_it("policy", f"{name}: TypeError: {error}"):
                    raise
                self.rec.tell("policy_error", error=f"{name} was called on the spot: TypeError: {error}"[:600])
                return lambda module, recurse, nonwrapped_numel: recurse or type(module).__name__ == "Block"

        return policy

    # --- FSDP2 ---

    def _fully_shard(self, real: Any) -> Callable[..., Any]:
        def fully_shard(module: Any, *args: Any, **kwargs: Any) -> Any:
            if called_by_torch():
                return real(module, *args, **kwargs)
            parts = module if isinstance(module, (list, tuple)) else [module]
            self._choose_device()
            if isinstance(kwargs.get("offload_policy"), fsdp.CPUOffloadPolicy):
                kwargs.pop("offload_policy")
            self.where = where = f"cuda:{self.gpus.current}"
            for part in parts:
                self.rec.tell("wrap", once=True, api="fsdp2", cls=type(part).__name__, where=where, device_id=-1, strategy="", policy="")
            result = real(module, *args, **kwargs)
            self.roots = [r for r in self.roots if not any(r is m for p in parts for m in p.modules())] + list(parts)
            for part in parts:
                for p in part.parameters():
                    put(p, where)
            return result

        return fully_shard

    def _choose_device(self) -> None:
        """A mesh takes LOCAL_RANK's device when none was set before."""
        if not self.gpus.ready:
            self.gpus.set_device(self.gpus.local_rank, "mesh")
        self.gpus.use("fully_shard")

    def _mesh(self, real: Any) -> Callable[..., Any]:
        def init_device_mesh(device_type: Any, *args: Any, **kwargs: Any) -> Any:
            if called_by_torch():
                return real(device_type, *args, **kwargs)
            if is_cuda(device_type):
                if not self.gpus.ready:
                    self.gpus.set_device(self.gpus.local_rank, "mesh")
                self.gpus.use("mesh")
                device_type = "cpu"
            return real(device_type, *args, **kwargs)

        return init_device_mesh

    # --- gathering ---

    @contextlib.contextmanager
    def _gather(self, api: str, **asked: Any) -> Iterator[None]:
        self.gathers += 1
        number = self.gathers
        self.rec.tell("gather", api=api, phase="start", number=number, **asked)
        self.needs_group()
        self.before_gather()
        yield
        self.rec.tell("gather", api=api, phase="end", number=number, **asked)

    def _keep(self, config: Any, kind: Any) -> Any:
        """Remember what was asked and hand on what the CPU can do."""
        self.asked = {
            "type": str(kind).rpartition(".")[2],
            "offload": bool(getattr(config, "offload_to_cpu", False)),
            "rank0_only": bool(getattr(config, "rank0_only", False)),
            "config": config is not None,
        }
        self.rec.tell("state_dict_type", once=True, **self.asked)
        return dataclasses.replace(config, offload_to_cpu=False) if self.asked["offload"] else config

    def _set_type(self, real: Any) -> Callable[..., Any]:
        def set_state_dict_type(module: Any, state_dict_type: Any, state_dict_config: Any = None, *args: Any, **kwargs: Any) -> Any:
            if not called_by_torch() or getattr(state_dict_config, "offload_to_cpu", False):
                if called_by_torch():
                    state_dict_config = dataclasses.replace(state_dict_config, offload_to_cpu=False)
                else:
                    state_dict_config = self._keep(state_dict_config, state_dict_type)
            return real(module, state_dict_type, state_dict_config, *args, **kwargs)

        return set_state_dict_type

    def _type(self, real: Any) -> Callable[..., Any]:
        def state_dict_type(module: Any, state_dict_type: Any, state_dict_config: Any = None, *args: Any, **kwargs: Any) -> Any:
            if called_by_torch():
                return real(module, state_dict_type, state_dict_config, *args, **kwargs)
            return self._typed(real, module, state_dict_type, state_dict_config, *args, **kwargs)

        return state_dict_type

    @contextlib.contextmanager
    def _typed(self, real: Any, module: Any, kind: Any, config: Any, *args: Any, **kwargs: Any) -> Iterator[None]:
        before = self.asked
        config = self._keep(config, kind)
        try:
            with real(module, kind, config, *args, **kwargs):
                yield
        finally:
            self.asked = before

    def _state_dict(self, real: Any) -> Callable[..., Any]:
        def state_dict(module: Any, *args: Any, **kwargs: Any) -> Any:
            if called_by_torch() or self.summoned or not self.is_sharded(module):
                return real(module, *args, **kwargs)
            asked = self.asked if isinstance(module, FSDP) else {"type": "SHARDED_STATE_DICT"}
            if isinstance(module, FSDP) and "gather" in self.rec.mends:
                return {}
            with self._gather("state_dict", **asked):
                return self._landed(real(module, *args, **kwargs), asked)

        return state_dict

    def _get_state(self, real: Any, name: str) -> Callable[..., Any]:
        def get_state(*args: Any, **kwargs: Any) -> Any:
            options = kwargs.get("options")
            asked: dict[str, Any] = {"type": "FULL_STATE_DICT" if getattr(options, "full_state_dict", False) else "SHARDED_STATE_DICT"}
            if called_by_torch():
                return real(*args, **kwargs)
            if "gather" in self.rec.mends:
                return {} if name == "get_model_state_dict" else ({}, {})
            asked |= {"offload": bool(getattr(options, "cpu_offload", False)), "rank0_only": True, "config": options is not None}
            with self._gather(name, **asked):
                return self._landed(real(*args, **kwargs), asked)

        return get_state

    def _landed(self, state: Any, asked: dict[str, Any]) -> Any:
        """A gathered state, its tensors where the options would have put them."""
        site = "cpu" if asked.get("offload") else f"cuda:{self.gpus.current}"
        for part in state if isinstance(state, tuple) else (state,):
            for value in part.values() if isinstance(part, dict) else ():
                put(value, site)
                if isinstance(value, torch.Tensor):
                    value.__dict__["_gathered"] = self.gathers
        return state

    def _full_tensor(self, real: Any) -> Callable[..., Any]:
        def full_tensor(tensor: Any, *args: Any, **kwargs: Any) -> Any:
            if called_by_torch():
                return real(tensor, *args, **kwargs)
            if "gather" in self.rec.mends:
                return torch.zeros(tensor.shape)
            self.rec.tell("gather", once=True, api="full_tensor", phase="start")
            self.before_gather()
            result = put(real(tensor, *args, **kwargs), f"cuda:{self.gpus.current}")
            self.rec.tell("gather", once=True, api="full_tensor", phase="end")
            return result

        return full_tensor

    def _summon(self, real: Any) -> Callable[..., Any]:
        def summon_full_params(module: Any, *args: Any, **kwargs: Any) -> Any:
            return real(module, *args, **kwargs) if called_by_torch() else self._summoned(real, module, *args, **kwargs)

        return summon_full_params

    @contextlib.contextmanager
    def _summoned(self, real: Any, module: Any, *args: Any, **kwargs: Any) -> Iterator[None]:
        offload, rank0 = bool(kwargs.pop("offload_to_cpu", False)), bool(kwargs.get("rank0_only", False))
        asked = {"type": "FULL_STATE_DICT", "offload": offload, "rank0_only": rank0, "config": True}
        with self._gather("summon", **asked), real(module, *args, **kwargs):
            self.summoned = True
            if offload:
                for p in module.parameters():
                    put(p, "cpu")
            try:
                yield
            finally:
                self.summoned = False

    def needs_group(self) -> None:
        """What is left of a destroyed group still works on the CPU, and not with NCCL."""
        if not torch.distributed.is_initialized():
            error = "the process group was destroyed before this collective"
            if not self.rec.mends_it("destroyed", error):
                raise RuntimeError(error)

    def _dcp(self, real: Any, name: str) -> Callable[..., Any]:
        def save(*args: Any, **kwargs: Any) -> Any:
            if not called_by_torch():
                self.rec.tell("dcp", once=True, name=name)
            return real(*args, **kwargs)

        return save

    # --- the wrapped tree ---

    @staticmethod
    def is_sharded(module: Any) -> bool:
        return any(is_unit(m) for m in module.modules())

    def blocks(self, root: nn.Module) -> list[nn.Module]:
        """The transformer blocks: n_layers modules of one class that one module holds, the ones with most inside."""
        found: list[list[nn.Module]] = []
        for module in root.modules():
            of_class: dict[type, list[nn.Module]] = {}
            for part in map(self._inner, module.children()):
                of_class.setdefault(type(part), []).append(part)
            found += [parts for parts in of_class.values() if len(parts) == self.n_layers]
        return max(found, key=_size, default=[])

    @staticmethod
    def _chain(module: nn.Module) -> list[nn.Module]:
        chain = [module]
        while True:
            inner = next((i for name in INNER if isinstance(i := chain[-1]._modules.get(name), nn.Module)), None)
            if inner is None:
                return chain
            chain.append(inner)

    def _inner(self, module: nn.Module) -> nn.Module:
        return self._chain(module)[-1]

    def tree(self, root: nn.Module) -> dict[str, Any]:
        """Which modules are units, seen from the blocks."""
        blocks = self.blocks(root)
        owners: dict[int, bool] = {}
        units: list[str] = []
        inside = 0
        below = {id(m) for b in blocks for m in b.modules()} - {id(b) for b in blocks}
        for module in root.modules():
            if is_unit(module):
                core = self._inner(module)
                owners[id(core)] = True
                units.append(type(core).__name__)
                inside += id(core) in below
        wrapped = sum(id(b) in owners for b in blocks)
        is_root = is_unit(root)
        name = type(blocks[0]).__name__ if blocks else ""
        return {"blocks": len(blocks), "wrapped": wrapped, "inside": inside, "root": is_root, "block": name, "units": units[:60]}


def _size(parts: list[nn.Module]) -> int:
    return sum(1 for part in parts for _ in part.modules())  # their parameters may be those of a unit around them


def is_unit(module: Any) -> bool:
    """Did FSDP take this module's parameters? Its class says nothing: a subclass may leave the work out."""
    if isinstance(module, FSDP):
        return "_handle" in vars(module)
    is_fsdp2 = isinstance(module, fsdp.FSDPModule)
    state = fully_shard_state(module) if is_fsdp2 else None
    # the one of torch 2.13, the other of those before
    groups = getattr(state, "_fsdp_param_groups", None) or getattr(state, "_fsdp_param_group", None)
    return state is not None and (bool(groups) or all(isinstance(p, DTensor) for p in module.parameters()))
