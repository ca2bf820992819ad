"""Where a TrainingLog listens to torch's own Python: autocast, scaler, checkpoint, compile, loader, optimizers. Runs INSIDE the sandbox.

torch.compile compiles nothing here: the sandbox may have no compiler, and what counts is whether the compiled thing is
the one that is called.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.utils.checkpoint as checkpointing
from pretend_gpu import HOST, PretendGpu, Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader
from training_log import TrainingLog

IN_PLACE = "modified by an inplace operation"  # what the backward pass needed


def listen(log: TrainingLog, gpu: PretendGpu) -> None:
    """Once, before the program is loaded."""
    _backward(log, gpu)
    _autocast(log)
    _scaler(log)
    _clipping(log)
    _checkpoint(log)
    _compile(log)
    _compile_less(log)
    _loader(gpu)
    _options(log)
    _constructors(log)
    _optimizers(log, gpu)


def _set(owner: Any, name: str, value: Any) -> None:
    setattr(owner, name, value)


def _backward(log: TrainingLog, gpu: PretendGpu) -> None:
    """At the engine's door, so that what runs inside (recomputation, hooks) asks for devices and is seen too."""
    original = vars(torch.autograd)["_engine_run_backward"]

    def run(roots: Any, *args: Any, **kwargs: Any) -> Any:
        log.before_backward(roots)
        calls, gpu.storages.calls = gpu.storages.calls, 0
        log.in_backward += 1
        try:
            with gpu.asking():
                return original(roots, *args, **kwargs)
        except RuntimeError as error:
            if IN_PLACE not in str(error) or not log.has_ended():
                raise
            log.mended.append((f"RuntimeError: {error}", log.line()))  # without gradients of this pass
            return ()
        finally:
            log.in_backward -= 1
            gpu.storages.calls = calls
            log.after_backward()

    _set(torch.autograd, "_engine_run_backward", run)


def _autocast(log: TrainingLog) -> None:
    cls: Any = torch.amp.autocast_mode.autocast
    enter = cls.__enter__

    @functools.wraps(enter)
    def entered(self: Any) -> Any:
        if self.is_for_gpu and self._enabled:
            log.saw("autocast")
        return enter(self)

    _set(cls, "__enter__", entered)
    theirs = torch.cuda.amp.autocast

    @functools.wraps(theirs)
    def cuda_autocast(*args: Any, **kwargs: Any) -> Any:
        """The wrong call ends the program; to see what else is in it, it goes on as it was meant."""
        try:
            return theirs(*args, **kwargs)
        except TypeError as error:
            if log.is_caught(error):
                raise
            log.mended.append((f"TypeError: {error}", log.line()))
            meant = {name: value for name, value in kwargs.items() if name in ("dtype", "enabled", "cache_enabled")}
            return torch.autocast("cuda", **meant)

    _set(torch.cuda.amp, "autocast", cuda_autocast)


def _scaler(log: TrainingLog) -> None:
    cls = torch.amp.GradScaler
    originals = {name: getattr(cls, name) for name in ("scale", "unscale_", "step", "update")}

    def told(name: str) -> Callable[..., Any]:
        @functools.wraps(originals[name])
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                out = originals[name](self, *args, **kwargs)
            except (RuntimeError, ValueError, AssertionError) as error:
                if name == "scale" or log.is_caught(error):
                    raise
                log.mended.append((f"{type(error).__name__}: {error}", log.line()))
                return args[0].step() if name == "step" else None
            if self.is_enabled():
                log.saw(f"scaler.{name}")
                if name == "unscale_":
                    log.unscaled = True
                if name == "scale":
                    log.scale = float(self.get_scale())
            return out

        return call

    for name in originals:
        _set(cls, name, told(name))


def _clipping(log: TrainingLog) -> None:
    for name in ("clip_grad_norm_", "clip_grad_value_"):
        original = getattr(torch.nn.utils, name)

        @functools.wraps(original)
        def clip(*args: Any, _original: Any = original, **kwargs: Any) -> Any:
            log.saw("clip" if log.unscaled else "clip scaled")
            return _original(*args, **kwargs)

        _set(torch.nn.utils, name, clip)
        _set(torch.nn.utils.clip_grad, name, clip)


def _checkpoint(log: TrainingLog) -> None:
    original = checkpointing.checkpoint

    @functools.wraps(original)
    def checkpoint(*args: Any, **kwargs: Any) -> Any:
        if log.forwards and torch.is_grad_enabled() and not log.in_backward:
            log.now.regions += 1
            log.lines.setdefault("checkpoint", log.line())
        return original(*args, **kwargs)

    _set(checkpointing, "checkpoint", checkpoint)


def _compiling_is_off() -> bool:
    config = getattr(sys.modules.get("torch._dynamo"), "config", None)
    stance = getattr(getattr(sys.modules.get("torch._dynamo.eval_frame"), "_stance", None), "stance", "")
    by_name = any(os.environ.get(name) == "1" for name in ("TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE"))
    return by_name or stance == "force_eager" or bool(getattr(config, "disable", False))


class Compiled:
    """Calls what it was given, and counts as compiled meanwhile, unless compiling is switched off."""

    def __init__(self, call: Callable[..., Any], log: TrainingLog) -> None:
        self._call, self._log = call, log
        functools.update_wrapper(self, call)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        is_on = not _compiling_is_off()
        self._log.compiled_depth += is_on
        if is_on:
            self._log.lines.setdefault("compile", self._log.line())
        try:
            return self._call(*args, **kwargs)
        finally:
            self._log.compiled_depth -= is_on

    def __get__(self, owner: Any, kind: Any = None) -> Any:
        return self if owner is None else functools.partial(self, owner)


class OptimizedModule(torch.nn.Module):
    """A module that was compiled: the original stands in `_orig_mod`, as torch has it."""

    def __init__(self, module: torch.nn.Module, log: TrainingLog) -> None:
        super().__init__()
        self._orig_mod = module
        self.__dict__["_run"] = Compiled(module.__call__, log)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.__dict__["_run"](*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        original = self._modules["_orig_mod"]
        return original if name == "_orig_mod" else getattr(original, name)


def _compile(log: TrainingLog) -> None:
    @functools.wraps(torch.compile)
    def compile_it(model: Any = None, **options: Any) -> Any:
        if model is None:
            return lambda thing: compile_it(thing, **options)
        if options.get("disable") or isinstance(model, type):
            return model
        return OptimizedModule(model, log) if isinstance(model, torch.nn.Module) else Compiled(model, log)

    def compile_in_place(module: torch.nn.Module, *args: Any, **options: Any) -> None:
        if not options.get("disable"):
            module._compiled_call_impl = Compiled(module._call_impl, log)

    _set(torch, "compile", compile_it)
    _set(torch.nn.Module, "compile", compile_in_place)


def _compile_less(log: TrainingLog) -> None:
    def left_out(thing: Any = None, recursive: bool = True, **options: Any) -> Any:
        """What a program tells the compiler to leave as it is."""
        if thing is None:
            return lambda function: left_out(function, recursive, **options)
        if isinstance(thing, torch.nn.Module):
            thing.forward = left_out(thing.forward, recursive)
        if isinstance(thing, (torch.nn.Module, type)) or not recursive:
            return thing

        @functools.wraps(thing)
        def call(*args: Any, **kwargs: Any) -> Any:
            depth, log.compiled_depth = log.compiled_depth, 0
            try:
                return thing(*args, **kwargs)
            finally:
                log.compiled_depth = depth

        return call

    _set(torch.compiler, "disable", left_out)


def _loader(gpu: PretendGpu) -> None:
    """Batches of a loader with pin_memory count as pinned; a CPU build can pin nothing."""
    original = DataLoader.__iter__

    def batches(self: Any, pin: bool) -> Iterator[Any]:
        for batch in original(self):
            for tensor in tree_leaves(batch):
                if pin and isinstance(tensor, Tensor):
                    gpu.devices.pinned[tensor.untyped_storage()] = True
            yield batch

    @functools.wraps(original)
    def start(self: Any) -> Iterator[Any]:
        return batches(self, bool(self.pin_memory))

    _set(DataLoader, "__iter__", start)


def _options(log: TrainingLog) -> None:
    """The options that a program's parser knows."""
    original = argparse.ArgumentParser.parse_known_args

    @functools.wraps(original)
    def parse(self: Any, *args: Any, **kwargs: Any) -> Any:
        log.options |= set(self._option_string_actions)
        return original(self, *args, **kwargs)

    _set(argparse.ArgumentParser, "parse_known_args", parse)


def _constructors(log: TrainingLog) -> None:
    """An optimizer whose options exclude each other ends the program; it goes on with the starter's."""
    for cls in (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adagrad):
        original = cls.__init__

        @functools.wraps(original)
        def init(self: Any, params: Any, *args: Any, _original: Any = original, **kwargs: Any) -> None:
            params = list(params)
            try:
                _original(self, params, *args, **kwargs)
            except (RuntimeError, ValueError, TypeError) as error:
                if log.is_caught(error):
                    raise
                log.mended.append((f"{type(error).__name__}: {error}", log.line()))
                self.__dict__.clear()
                _original(self, params, lr=kwargs.get("lr", 1e-3), foreach=True)

        _set(cls, "__init__", init)


def _optimizers(log: TrainingLog, gpu: PretendGpu) -> None:
    zero_grad = torch.optim.Optimizer.zero_grad

    @functools.wraps(zero_grad)
    def zeroing(self: Any, set_to_none: bool = True) -> None:
        log.saw("dropped gradients" if set_to_none else "zeroed gradients")
        zero_grad(self, set_to_none)

    _set(torch.optim.Optimizer, "zero_grad", zeroing)

    def before(optimizer: Any, args: Any, kwargs: Any) -> None:
        if any(group.get("foreach", False) is not False and not group.get("fused") for group in optimizer.param_groups):
            log.saw("foreach step")  # also where nothing is said: it is what a GPU takes by itself
        held = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if any(gpu.storages.place(p) == HOST for p in held) and log.forwards:
            log.saw("step on the host")

    def after(optimizer: Any, args: Any, kwargs: Any) -> None:
        log.unscaled = False
        tensors = [t for state in optimizer.state.values() for t in tree_leaves(state) if isinstance(t, Tensor) and t.numel() > 1]
        log.optimizer_bytes[id(optimizer)] = sum(t.nbytes for t in tensors)
        log.optimizer_names[id(optimizer)] = type(optimizer).__name__
        if any(gpu.storages.place(t) == HOST for t in tensors):
            log.saw("state on the host")

    register_optimizer_step_pre_hook(before)
    register_optimizer_step_post_hook(after)
