"""The weights that training really ended with: dumped shard by shard in the ranks, put together in the conductor.

No rank needs another for its dump, so a program that hangs or dies in a gather is still compared. Runs INSIDE the sandbox.
"""

from __future__ import annotations

import argparse
import collections
import io
import pathlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.tensor import DTensor

WRAPPERS = re.compile(r"(_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.")
EXACT, ROUNDED = {"rtol": 1e-4, "atol": 1e-7}, {"rtol": 1e-2, "atol": 1e-4}  # in the same type, and in a smaller one
PLAIN_CLASSES: list[Any] = [
    argparse.Namespace,
    pathlib.PosixPath,
    pathlib.PurePosixPath,
    collections.OrderedDict,
    collections.defaultdict,
    torch.torch_version.TorchVersion,
    set,
]


class Inert:
    """What an object of a class of the submission's own, say its options, is read as: nothing of it is run."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        return super().__new__(cls)


def dump(root: nn.Module) -> bytes:
    """This rank's shards of every parameter, by clean name."""
    flats: list[dict[str, Any]] = []
    plain: dict[str, Any] = {}
    taken: set[str] = set()
    for name, module in root.named_modules():
        handle = getattr(module, "_handle", None) if isinstance(module, FSDP) else None
        if handle is None:
            continue
        flat = handle.flat_param
        prefix = clean(f"{name}." if name else "")
        local = getattr(flat, "_local_shard", flat)
        flats.append(
            {
                "names": [prefix + clean(n) for n in flat._fqns],
                "shapes": [list(s) for s in flat._shapes],
                "numels": list(flat._numels_with_padding),
                "pads": list(flat._is_padding_mask),
                "local": local.detach().clone(),
                "index": handle.rank if handle.uses_sharded_strategy else 0,
            }
        )
        taken |= {prefix + clean(n) for n in flat._fqns}
    for name, param in root.named_parameters():
        if (name := clean(name)) not in taken and not name.endswith("_flat_param"):
            plain[name] = _of(param)
    buffers = [clean(n) for n, _ in root.named_buffers()]
    out = io.BytesIO()
    torch.save({"flats": flats, "plain": plain, "buffers": buffers}, out)
    return out.getvalue()


def clean(name: str) -> str:
    return WRAPPERS.sub("", name)


def _of(param: torch.Tensor) -> dict[str, Any]:
    if not isinstance(param, DTensor):
        return {"shape": list(param.shape), "local": param.detach().clone(), "dim": -1, "index": 0}
    dim, index = -1, 0
    where = param.device_mesh.get_coordinate() or [0]
    for i, placement in enumerate(param.placements):
        if placement.is_shard():
            dim, index = int(getattr(placement, "dim", 0)), where[i]
    return {"shape": list(param.shape), "local": param.to_local().detach().clone(), "dim": dim, "index": index}


@dataclass(frozen=True)
class Joined:
    """The whole parameters by name, how many elements lie in shards, and names whose copies on the ranks differ."""

    whole: Mapping[str, torch.Tensor] = field(default_factory=dict)
    buffers: Sequence[str] = ()
    sharded: int = 0
    apart: Sequence[str] = ()
    why: str = ""


def join(dumps: Sequence[Mapping[str, Any]]) -> Joined:
    """What the dumps of all ranks, in order, come to."""
    whole: dict[str, torch.Tensor] = {}
    apart: list[str] = []
    sharded = 0
    for i, flat in enumerate(dumps[0]["flats"]):
        shards = _shards([d["flats"][i] for d in dumps], flat["names"], apart)
        values, names, shapes = torch.cat([part.reshape(-1) for part in shards]), iter(flat["names"]), iter(flat["shapes"])
        at = 0
        for numel, pad in zip(flat["numels"], flat["pads"], strict=True):
            if not pad:
                whole[next(names)] = values[at : at + numel].reshape(next(shapes)).clone()
                sharded += numel if len(shards) > 1 else 0
            at += numel
    for name, first in dumps[0]["plain"].items():
        shards = _shards([d["plain"][name] for d in dumps], [name], apart)
        joined = torch.cat(shards, first["dim"]) if len(shards) > 1 else shards[0]
        whole[name] = joined.reshape(first["shape"])
        sharded += joined.numel() if len(shards) > 1 else 0
    return Joined(whole, [str(n) for n in dumps[0]["buffers"]], sharded, apart)


def _shards(held: Sequence[Mapping[str, Any]], names: Sequence[str], apart: list[str]) -> list[torch.Tensor]:
    """The shards in order. Where ranks hold the same one with other values, its names are told as `apart`."""
    first = {part["index"]: part["local"] for part in reversed(held)}
    if not all(torch.allclose(part["local"], first[part["index"]], rtol=1e-3, atol=1e-6, equal_nan=True) for part in held):
        apart += names
    return [first[index] for index in sorted(first)]


def read(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def compare(path: str, whole: Mapping[str, torch.Tensor], buffers: Sequence[str]) -> dict[str, Any]:
    """What a checkpoint file holds beside the weights that training ended with."""
    facts: dict[str, Any] = {"loads": False, "error": "", "missing": [], "extra": [], "shapes": [], "differ": [], "equal": 0}
    try:
        own = [(Inert, name) for name in torch.serialization.get_unsafe_globals_in_checkpoint(path) if name.startswith("__main__.")]
        with torch.serialization.safe_globals([*PLAIN_CLASSES, *own]):
            held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        return {**facts, "error": f"{type(error).__name__}: {error}"[:400]}
    outer = _outer(whole)
    state = _state_of(held, {*whole, *(name.removeprefix(outer) for name in whole)})
    if state is None:
        return {**facts, "loads": True, "error": "the file holds no state dict"}
    if outer and not any(str(k).startswith(outer) for k in state):
        whole = {name.removeprefix(outer): value for name, value in whole.items()}
        buffers = [name.removeprefix(outer) for name in buffers]
    keys = {str(k) for k in state}
    facts.update(loads=True, missing=sorted(set(whole) - keys)[:8], extra=sorted(keys - set(whole) - set(buffers))[:8])
    for name in set(whole) & keys:
        value = state[name]
        if not isinstance(value, torch.Tensor) or isinstance(value, DTensor) or list(value.shape) != list(whole[name].shape):
            facts["shapes"].append(name)
        elif not torch.allclose(
            value.float(), whole[name].float(), **(EXACT if value.dtype == whole[name].dtype else ROUNDED), equal_nan=True
        ):
            facts["differ"].append(name)
        else:
            facts["equal"] += 1
    facts["shapes"], facts["differ"] = sorted(facts["shapes"])[:8], sorted(facts["differ"])[:8]
    return facts


def _outer(whole: Mapping[str, torch.Tensor]) -> str:
    """What the names of all parameters begin with, where a module of the script's own holds the model: a file may leave it out."""
    heads = {name.partition(".")[0] for name in whole}
    return f"{heads.pop()}." if len(heads) == 1 and len(whole) > 1 else ""


def _state_of(held: Any, names: Collection[str], depth: int = 0) -> Mapping[str, Any] | None:
    """The dict of tensors in the file that fits best: the file itself or one that it holds."""
    if not isinstance(held, dict):
        return None
    own = [held] if any(isinstance(v, torch.Tensor) for v in held.values()) else []
    inner = [found for v in held.values() if depth < 2 and (found := _state_of(v, names, depth + 1)) is not None]
    return max([*own, *inner], key=lambda d: len({str(k) for k in d} & set(names)), default=None)
