"""Data, forward passes, losses, optimizer steps and files of one rank. Runs INSIDE the sandbox.

What a rank reads is told by content at the lowest seam there is: the rows of tokens that reach the model. A loader, a
sampler or a loop written by hand leave the same trace.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import inspect
import itertools
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.utils.data
from fsdp_gpus import Mode, put, site_of
from fsdp_record import Recorder, called_by_torch
from fsdp_units import Units, is_unit
from torch import nn
from torch._dynamo.eval_frame import OptimizedModule
from torch.distributed import fsdp
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp._flat_param import FlatParameter
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.data import DataLoader, distributed

MAX_ROWS, LONGEST_SLEEP_S, LEAST_CHANGE, LOOKED_AT = 256, 0.2, 1e-7, 64


class Training:
    """Watches one training run in this rank."""

    def __init__(self, rec: Recorder, units: Units, mode: Mode, batches: int = 0) -> None:
        self.rec, self.units, self.mode, self.batches = rec, units, mode, batches
        self.depth, self.inside_fsdp, self.checked = 0, 0, False
        self.root: nn.Module | None = None
        self.before: list[torch.Tensor] = []
        self.rowless = self.met = False
        self.changed = False
        self.steps = 0
        self.first: list[tuple[torch.Tensor, torch.Tensor]] = []  # the sharded parameters as they were before training
        self.blocks: set[int] = set()  # of the sharded model
        self.stepped: set[int] = set()
        self.learning: set[int] = set()  # the sharded parameters that had a gradient which is not zero

    def install(self) -> None:
        replace = self.rec.replace
        replace("__init__", self._loader, DataLoader)
        if self.batches:
            replace("__iter__", lambda real: lambda loader: itertools.islice(real(loader), self.batches), DataLoader)
            replace("__len__", lambda real: lambda loader: min(real(loader), self.batches), DataLoader)
        replace("__init__", self._sampler, distributed.DistributedSampler)
        replace("set_epoch", self._set_epoch, distributed.DistributedSampler)
        replace("forward", self._fsdp_forward, FSDP)
        inner = FSDP.module.fget  # type: ignore[attr-defined]
        setattr(FSDP, "module", property(lambda model: self._module(inner, model)))  # noqa: B010 (types know it as fixed)
        if "inner" in self.rec.mends:
            replace("__call__", self._call, nn.Module)
        replace("register_fsdp_forward_method", self._register, fsdp, fsdp._fully_shard)
        replace("save", self._save, torch)
        replace("parse_args", self._parse_args, argparse.ArgumentParser)
        replace("error", self._refuse_options, argparse.ArgumentParser)
        replace("sleep", lambda real: lambda seconds: real(min(float(seconds), LONGEST_SLEEP_S)), time)
        replace("compile", self._compile, torch)
        replace("compile", lambda real: lambda module, *a, **k: self.rec.tell("compile", once=True), nn.Module)
        replace("backward", self._autograd_backward, torch.autograd)
        self.mode.on_backward = self.tell_loss
        self.mode.on_embedding = self._embedded
        torch.nn.modules.module.register_module_forward_pre_hook(self._before_forward)
        torch.nn.modules.module.register_module_forward_hook(self._after_forward, always_call=True)
        register_optimizer_step_pre_hook(self._before_step)
        register_optimizer_step_post_hook(self._after_step)

    # --- data ---

    def _loader(self, real: Any) -> Callable[..., None]:
        def init(loader: Any, dataset: Any, *args: Any, **kwargs: Any) -> None:
            if called_by_torch():
                return real(loader, dataset, *args, **kwargs)  # type: ignore[no-any-return]
            sampler = kwargs.get("sampler", args[2] if len(args) > 2 else None)
            shuffle = kwargs.get("shuffle", args[1] if len(args) > 1 else None)
            if sampler is not None and shuffle:
                error = "ValueError: sampler option is mutually exclusive with shuffle"
                if self.rec.mends_it("shuffle", error):
                    args = (*args[:1], None, *args[2:]) if len(args) > 1 else args
                    kwargs.pop("shuffle", None)
            workers = kwargs.get("num_workers", 0)
            for name in (
                "num_workers",
                "prefetch_factor",
                "persistent_workers",
                "pin_memory",
                "multiprocessing_context",
                "pin_memory_device",
            ):
                kwargs.pop(name, None)
            kind = type(sampler).__name__ if sampler is not None else ""
            self.rec.tell("loader", once=True, sampler=kind, shuffle=bool(shuffle), workers=int(workers))
            real(loader, dataset, *args, **kwargs)

        return init

    def _sampler(self, real: Any) -> Callable[..., None]:
        names = tuple(inspect.signature(real).parameters)[1:]  # the dataset and what follows it

        def init(sampler: Any, *args: Any, **kwargs: Any) -> None:
            try:
                real(sampler, *args, **kwargs)
            except (TypeError, ValueError) as error:
                if called_by_torch() or not self.rec.mends_it("sampler", f"{type(error).__name__}: {error}"):
                    raise
                sampler.num_replicas = 0
            if "sampler" in self.rec.mends and sampler.num_replicas != dist.get_world_size():
                # As it is meant, on each rank: what one rank is refused splits the data of the others wrongly.
                given = {**dict(zip(names, args, strict=False)), **kwargs, "num_replicas": None, "rank": None}
                real(sampler, **{name: value for name, value in given.items() if name in names})
            self.rec.tell("sampler", replicas=int(sampler.num_replicas), rank=int(sampler.rank), shuffle=bool(sampler.shuffle))

        return init

    def _set_epoch(self, real: Any) -> Callable[..., None]:
        def set_epoch(sampler: Any, epoch: int) -> None:
            self.rec.tell("set_epoch", epoch=int(epoch))
            real(sampler, epoch)

        return set_epoch

    def _parse_args(self, real: Any) -> Callable[..., Any]:
        def parse_args(parser: Any, args: Any = None, namespace: Any = None) -> Any:
            if "options" not in self.rec.mends:
                return real(parser, args, namespace)
            for action in parser._actions:
                action.required = False
            given = list(sys.argv[1:] if args is None else args)
            unknown = {word for word in parser.parse_known_args(given)[1] if word.startswith("--")}
            meant = {word: difflib.get_close_matches(word, parser._option_string_actions, 1) or [word] for word in unknown}
            return parser.parse_known_args([meant.get(word, [word])[0] for word in given], namespace)[0]

        return parse_args

    def _refuse_options(self, real: Any) -> Callable[..., Any]:
        def error(parser: Any, message: str) -> Any:
            self.rec.mends_it("options", message)
            return real(parser, message)

        return error

    # --- forward ---

    def _fsdp_forward(self, real: Any) -> Callable[..., Any]:
        def forward(module: Any, *args: Any, **kwargs: Any) -> Any:
            outer = self.inside_fsdp == 0
            if outer and module in self.units.on_cpu and not self._moved_later(module):
                error = "An FSDP-managed module unexpectedly has parameters on cpu. Make sure to move the module to cuda before training."
                if not self.rec.mends_it("placement", error):
                    raise RuntimeError(error)
            if outer:
                self.units.needs_group()
            if outer and self.depth == 0:
                self._tell_forward(module, args)
            self.inside_fsdp += 1
            try:
                return real(module, *args, **kwargs)
            finally:
                self.inside_fsdp -= 1

        return forward

    def _register(self, real: Any) -> Callable[..., None]:
        """A method that FSDP is told of is a forward pass like any other."""

        def register(module: Any, method_name: str) -> None:
            real(module, method_name)
            inner = getattr(module, method_name, None)
            if callable(inner) and is_unit(module):
                setattr(module, method_name, functools.partial(self._pass_through, module, inner))

        return register

    def _pass_through(self, module: Any, inner: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return inner(*(self._before_forward(module, args) or args), **kwargs)
        finally:
            self._after_forward(module, args, None)

    def _call(self, real: Any) -> Callable[..., Any]:
        """Where training through the inside of FSDP is mended, a call of that module is one of the sharded model."""

        def call(module: Any, *args: Any, **kwargs: Any) -> Any:
            outer = None if self.depth or self.inside_fsdp else self._around(module)
            return real(module if outer is None else outer, *args, **kwargs)

        return call

    def _around(self, module: nn.Module) -> nn.Module | None:
        roots = (root for root in self.units.roots if isinstance(root, FSDP) and root is not module)
        return next((root for root in roots if module is root._modules.get("_fsdp_wrapped_module")), None)

    def _module(self, inner: Callable[[Any], Any], model: Any) -> Any:
        """`model.module`: where training through it is mended, the sharded model itself."""
        return model if "inner" in self.rec.mends and not called_by_torch() else inner(model)

    @staticmethod
    def _moved_later(module: nn.Module) -> bool:
        return any((site_of(p) or "").startswith("cuda") for p in module.parameters())

    def _before_forward(self, module: nn.Module, args: Any) -> Any:
        self.depth += 1
        if id(module) in self.blocks:
            self.met = True
        if self.depth > 1 or self.inside_fsdp:
            return None
        if next(module.parameters(), None) is None:
            return None
        self._tell_forward(module, args)
        if self.units.is_sharded(module):
            return tuple(self._moved(a) if isinstance(a, torch.Tensor) else a for a in args)
        return None

    def _moved(self, tensor: torch.Tensor) -> torch.Tensor:
        """FSDP moves what it is given to the device of its parameters."""
        site = site_of(tensor)
        return tensor if site is not None and site != "cpu" else put(tensor.view_as(tensor), self.units.where)

    def _after_forward(self, module: nn.Module, args: Any, result: Any) -> None:
        self.depth = max(0, self.depth - 1)
        if not (self.depth or self.met or result is None) and self.blocks and torch.is_grad_enabled() and _unit_in(module) is self.root:
            self.rec.tell("bypassed", once=True)
        self.met = self.met and bool(self.depth)

    def _tell_forward(self, module: nn.Module, args: Any) -> None:
        if torch._C._current_graph_task_id() != -1:
            return  # recomputed in a backward pass
        module = _unit_in(module)
        kind = "plain" if not is_unit(module) else "fsdp1" if isinstance(module, FSDP) else "fsdp2"
        if kind == "plain" and any(module is part for root in self.units.roots for part in root.modules()):
            kind = "inner"
            self.rec.mends_it("inner", "a forward pass goes to the module inside FSDP and not through FSDP")
        elif kind == "plain" and self.units.is_sharded(module):
            kind = "partly"
        inner = self.units._inner(module)
        if kind not in ("plain", "inner") and module is not self.root:
            self.root = module
            tree = self.units.tree(module)
            self.rec.tell("tree", **tree)
            self.blocks = {id(block) for block in self.units.blocks(module)} if tree["wrapped"] else set()
        tokens = next((a for a in _tensors(args) if _is_tokens(a)), None)
        self.rowless = tokens is None
        rows = [] if tokens is None else _rows(tokens)
        site = None if tokens is None else site_of(tokens)
        facts = {"grad": torch.is_grad_enabled(), "training": inner.training, "site": site or ""}
        self.rec.tell("forward", model=kind, cls=type(inner).__name__, rows=rows, path=self.rec.lines(), **facts)

    def _embedded(self, tokens: Any) -> None:
        """Tokens that came to the model by another way than its arguments: by keyword, in an object of the script's own."""
        if self.rowless and self.depth and _is_tokens(tokens):
            self.rowless = False
            self.rec.tell("rows", rows=_rows(tokens))

    def tell_tree(self) -> None:
        """At the end: what was wrapped, where no forward pass came so far."""
        if self.root is None and self.units.roots:
            self.rec.tell("tree", **self.units.tree(self.units.roots[-1]))

    # --- learning ---

    def tell_loss(self, loss: Any) -> None:
        value = float(loss.detach()) if isinstance(loss, torch.Tensor) and loss.numel() == 1 else math.nan
        self.rec.tell("loss", value=value if math.isfinite(value) else None)

    def _autograd_backward(self, real: Any) -> Callable[..., Any]:
        def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            if not called_by_torch():
                self.tell_loss(tensors[0] if isinstance(tensors, (list, tuple)) else tensors)
            return real(tensors, *args, **kwargs)

        return backward

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        ours = {id(p) for group in optimizer.param_groups for p in group["params"]}
        root = self.model
        there = {id(p) for p in root.parameters()} if root is not None else set()
        held = [p for group in optimizer.param_groups for p in group["params"]]
        sharded = sum(isinstance(p, (DTensor, FlatParameter)) for p in held)
        empty = sum(p.grad is None for p in held)
        # Gradients of parameters beside the sharded model's, while it has none itself, are of another model.
        beside = sum(p.grad is not None and id(p) not in there for p in held)
        of_root = list(root.parameters()) if root is not None else []
        if root is None or any(p.grad is not None for p in of_root):
            beside = 0
        self.stepped |= ours  # an optimizer may have a part of the model only, or one parameter, and others the rest
        self.learning |= {id(p) for p in of_root if id(p) not in self.learning and _learns(p)}
        facts = {
            "elements": sum(_local(p).numel() for p in of_root),
            "learning": sum(_local(p).numel() for p in of_root if id(p) in self.learning),
            "of_model": len(self.stepped & there),
        }
        self.rec.tell("step", params=len(ours), model=len(there), beside=beside, sharded=sharded, no_grad=empty, **facts)

        self.steps += 1
        if self.steps == 1:
            self.first = [(p, _local(p.detach()).clone()) for p in of_root]
        if self.steps <= LOOKED_AT:
            self.before = [p.detach().clone() for p in held]

    @property
    def model(self) -> nn.Module | None:
        """The sharded model that is trained; else the one that was wrapped last."""
        return self.root if self.root is not None else next(reversed(self.units.roots), None)

    def tell_restored(self, root: nn.Module) -> None:
        """Where the weights are those from before training, though steps have changed them since."""
        held = {id(p) for p in root.parameters()}
        known = [(p, before) for p, before in self.first if id(p) in held and before.numel()]
        if known and self.changed and all(_change(p, before) <= LEAST_CHANGE for p, before in known):
            self.rec.tell("restored", once=True)

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Does the step change anything?"""
        if self.steps <= LOOKED_AT:
            held = [p for group in optimizer.param_groups for p in group["params"]]
            moved = any(_change(p, before) > LEAST_CHANGE for p, before in zip(held, self.before, strict=False))
            self.changed |= moved
            self.rec.tell("stepped", moved=moved)

    # --- files ---

    def _save(self, real: Any) -> Callable[..., None]:
        def save(obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
            if not called_by_torch():
                tensors = list(_tensors(obj))[:4000]
                state = max(_dicts(obj), key=len, default=tensors)
                sites = [site_of(t) for t in state]
                self.rec.tell(
                    "save",
                    path=str(f if isinstance(f, str) else getattr(f, "name", f))[:200],
                    tensors=len(tensors),
                    on_gpu=sum(s is not None and s != "cpu" for s in sites),
                    gathers=sorted({n for t in state if isinstance(n := t.__dict__.get("_gathered"), int)}),
                )
            real(obj, f, *args, **kwargs)

        return save

    def _compile(self, real: Any) -> Callable[..., Any]:
        def compile(model: Any = None, *args: Any, **kwargs: Any) -> Any:
            if called_by_torch():
                return real(model, *args, **kwargs)
            if model is None:
                return lambda fn: fn
            self.rec.tell("compile", once=True)
            return OptimizedModule(model, Uncompiled()) if isinstance(model, nn.Module) else model  # type: ignore[arg-type]

        return compile


class Uncompiled:
    """In the place of the compiler: what it makes of a function is the function."""

    def __call__(self, function: Any) -> Any:
        return function


def _is_tokens(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() == 2 and not value.is_floating_point() and value.dtype != torch.bool


def _rows(tokens: torch.Tensor) -> list[int]:
    return [hash(tuple(row)) & 0x7FFFFFFF for row in tokens.tolist()[:MAX_ROWS]]


def _unit_in(module: nn.Module) -> nn.Module:
    """The unit that holds all of a module's parameters: a loss or a compiler around it has no part in sharding."""
    inner = module
    while not is_unit(inner):
        held = {id(p) for p in inner.parameters()}
        child = next((part for part in inner.children() if held and held <= {id(p) for p in part.parameters()}), None)
        if child is None:
            return module
        inner = child
    return inner


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _learns(parameter: torch.Tensor) -> bool:
    return parameter.grad is not None and bool(torch.count_nonzero(_local(parameter.grad.detach())))


def _change(now: torch.Tensor, before: torch.Tensor) -> float:
    now, before = _local(now.detach()), _local(before)
    return float((now - before).abs().max()) if now.shape == before.shape and now.numel() else 0.0


def _dicts(obj: Any, depth: int = 0) -> Any:
    """The tensors of each dict, by itself: the largest is the model's, beside an optimizer's."""
    if depth < 4 and isinstance(obj, dict):
        yield [value for value in obj.values() if isinstance(value, torch.Tensor)]
        for value in obj.values():
            yield from _dicts(value, depth + 1)


def _tensors(obj: Any, depth: int = 0) -> Any:
    if isinstance(obj, torch.Tensor):
        yield obj
    elif depth < 6 and isinstance(obj, dict):
        for value in obj.values():
            yield from _tensors(value, depth + 1)
    elif depth < 6 and isinstance(obj, (list, tuple)):
        for value in obj:
            yield from _tensors(value, depth + 1)
