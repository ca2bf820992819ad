"""torch as a program with a mistake evidently means it: what does not fit is made to fit. Runs INSIDE the sandbox.

Only for programs that do not run as they are, so that the rest of them can be judged. Each function is called as it is
first; only what it refuses is called otherwise.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

MATRIX = {"matmul", "bmm", "mm", "mv", "dot", "inner"}
ELEMENTWISE = {
    "mul", "add", "sub", "div", "rsub", "lerp", "addcmul", "where", "true_divide", "multiply", "subtract", "maximum", "minimum", "pow",
}  # fmt: skip
TO_CPU = {"cuda", "to", "device"}


class Lenient(TorchFunctionMode):
    """While it is entered, functions of torch take what they would refuse. `notes`: what was done so far."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: dict[str, None] = {}
        self.resizes = True  # until the program has run once

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        try:
            return func(*args, **kwargs)
        except (RuntimeError, TypeError, IndexError, ValueError, AssertionError) as error:
            for note, other in self._others(_name(func), func, list(args), kwargs, str(error)):
                try:
                    result = other()
                except Exception:  # noqa: S112 (another way may do)
                    continue
                self.notes[note] = None
                return result
            raise

    def _others(self, name: str, func: Any, args: list[Any], kwargs: dict[str, Any], why: str) -> Iterator[tuple[str, Any]]:
        """(what it is, the call) in the order of their likelihood."""
        if "CUDA" in why or "NVIDIA" in why or "cuda" in why:
            on_cpu = [("cpu" if _is_gpu(a) else a) for a in args]
            rest = {k: ("cpu" if k == "device" else v) for k, v in kwargs.items()}
            yield "the CPU in place of a GPU", (lambda: args[0]) if name == "cuda" else (lambda: func(*on_cpu, **rest))
        if "leaf Variable" in why and hasattr(torch.Tensor, name):
            yield "a new value in place of a parameter's", lambda: getattr(torch.Tensor, name)(*args, **kwargs)
        if name == "view":
            yield "view taken as reshape", lambda: args[0].reshape(*args[1:])
        if "dtype" in why or "scalar type" in why or "Float" in why or "Long" in why:
            same = [_as_float(a) for a in args]
            yield "values of one kind", lambda: func(*same, **{k: _as_float(v) for k, v in kwargs.items()})
        if name in ("multi_head_attention_forward", "scaled_dot_product_attention") and ("mask" in why or "is_causal" in why):
            yield "a causal mask of the right size", lambda: func(*args, **_masked(name, args, kwargs))
        yield from _fitting(name, func, args, kwargs)
        if name == "layer_norm":
            yield "a layer of the size that it is given", lambda: _normed(func, args, kwargs)
        if self.resizes:
            yield from _resized(name, func, args, kwargs)


def _fitting(name: str, func: Any, args: list[Any], kwargs: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The same with dimensions where they fit."""
    if name in ("t", "numpy_T"):
        yield "the last two dimensions exchanged", lambda: args[0].mT
    if name in ("outer", "ger"):
        yield "an outer product for each sequence", lambda: args[0].unsqueeze(-1) * args[1].unsqueeze(-2)
    if name == "dot":
        yield "a product for each sequence", lambda: (args[0] * args[1]).sum(-1)
    if name in MATRIX:
        yield from _products(*args[:2])
    if name == "einsum" and isinstance(args[0], str) and "." not in args[0]:
        yield from (("dimensions put where they fit", lambda fit=fit: func(args[0], *fit)) for fit in _lettered(args[0], args[1:]))
    if name in ELEMENTWISE:
        yield from (("dimensions put where they fit", lambda fit=fit: func(*fit, **kwargs)) for fit in _fitted(args))
    if name in ("cat", "concat", "concatenate", "stack") and args and isinstance(args[0], (list, tuple)):
        yield "dimensions put where they fit", lambda: func(_alike(args[0]), *args[1:], **kwargs)


def _masked(name: str, args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    if name == "scaled_dot_product_attention":
        return {k: v for k, v in kwargs.items() if k not in ("attn_mask", "is_causal")} | {"is_causal": True}
    size = (args[0].shape[0], args[1].shape[0])  # time comes first there
    return {**kwargs, "attn_mask": torch.ones(size, dtype=torch.bool).triu(1), "is_causal": False, "key_padding_mask": None}


def _name(func: Any) -> str:
    name = str(getattr(func, "__name__", ""))
    if name == "__get__":
        name = str(getattr(getattr(func, "__self__", None), "__name__", ""))
    return name.strip("_").removeprefix("i" if name.startswith("__i") else "").removeprefix("r" if name.startswith("__r") else "")


def _is_gpu(value: Any) -> bool:
    return str(value).startswith("cuda") if isinstance(value, (str, torch.device)) else False


def _as_float(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and not value.is_complex():
        return value.float()
    return [_as_float(v) for v in value] if isinstance(value, (list, tuple)) else value


def _products(a: torch.Tensor, b: torch.Tensor) -> Iterator[tuple[str, Any]]:
    """Products of matrices and vectors, for each sequence."""
    note = "a product for each sequence"
    yield note, lambda: a @ b
    if b.dim() == a.dim() - 1:
        yield note, lambda: (a @ b.unsqueeze(-1)).squeeze(-1)
    if a.dim() == b.dim() - 1:
        yield note, lambda: (a.unsqueeze(-2) @ b).squeeze(-2)
    yield "a factor transposed", lambda: a @ b.mT
    yield "a factor transposed", lambda: a.mT @ b


def _lettered(equation: str, operands: list[Any]) -> Iterator[list[torch.Tensor]]:
    """Operands of einsum with as many dimensions as they have letters, or one of them with its matrices transposed."""
    letters = [word.strip() for word in equation.partition("->")[0].split(",")]
    if len(letters) != len(operands):
        return
    ways = [list(_with_dimensions(value, len(word))) for value, word in zip(operands, letters, strict=True)]
    yield from (list(chosen) for chosen in itertools.islice(itertools.product(*ways), 40))
    yield from ([o.mT if n == at else o for n, o in enumerate(operands)] for at, word in enumerate(letters) if len(word) > 2)


def _with_dimensions(value: torch.Tensor, wanted: int) -> Iterator[torch.Tensor]:
    while value.dim() > wanted and 1 in value.shape:
        value = value.squeeze(max(n for n, size in enumerate(value.shape) if size == 1))
    yield from _widened(value, wanted) if value.dim() < wanted else [value]


def _fitted(args: list[Any]) -> Iterator[list[Any]]:
    """The arguments with dimensions of size one put in, the last place first, until their shapes go together."""
    tensors = [n for n, a in enumerate(args) if isinstance(a, torch.Tensor)]
    width = max((args[n].dim() for n in tensors), default=0)
    ways = [list(_widened(args[n], width)) for n in tensors]
    for chosen in itertools.islice(itertools.product(*ways), 40):
        try:
            torch.broadcast_shapes(*(c.shape for c in chosen))  # type: ignore[no-untyped-call]
        except RuntimeError:
            continue
        fit = list(args)
        for n, value in zip(tensors, chosen, strict=True):
            fit[n] = value
        yield fit


def _widened(value: torch.Tensor, width: int) -> Iterator[torch.Tensor]:
    """A tensor with `width` dimensions: its own from the front, then in other places."""
    for kept in itertools.combinations(range(width), value.dim()):
        shape, sizes = [1] * width, list(value.shape)
        for place, size in zip(kept, sizes, strict=True):
            shape[place] = size
        yield value.reshape(shape)


def _alike(values: Any) -> list[torch.Tensor]:
    """Tensors with as many dimensions as the one with fewest, or most."""
    least = min(v.dim() for v in values)
    squeezed = [v.squeeze() if v.dim() > least else v for v in values]
    if len({v.dim() for v in squeezed}) == 1:
        return squeezed
    width = max(v.dim() for v in values)
    return [v.reshape(*v.shape, *[1] * (width - v.dim())) for v in values]


def _resized(name: str, func: Any, args: list[Any], kwargs: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """A layer made for another number of features becomes one for those that it is given."""
    with torch.no_grad():
        if name == "linear" and isinstance(args[1], torch.nn.Parameter) and args[0].shape[-1] != args[1].shape[-1]:
            yield "a layer of the size that it is given", lambda: _with_weight(func, args, 1, (args[1].shape[0], args[0].shape[-1]))
        if name == "embedding" and isinstance(args[1], torch.nn.Parameter) and int(args[0].max()) >= len(args[1]):
            yield "a longer table", lambda: _with_weight(func, args, 1, (int(args[0].max()) + 64, *args[1].shape[1:]), **kwargs)


def _normed(func: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """The module keeps the size that it was made with, so this is done at each call."""
    size = args[0].shape[-1:]
    for parameter in [v for v in (*args[2:4], *kwargs.values()) if isinstance(v, torch.nn.Parameter) and v.shape != size]:
        parameter.data = parameter.data.reshape(-1)[:1].expand(size).clone()
    return func(args[0], size, *args[2:], **kwargs)


def _with_weight(func: Any, args: list[Any], at: int, shape: tuple[int, ...], **kwargs: Any) -> Any:
    args[at].data = torch.randn(shape, dtype=args[at].dtype) / shape[-1] ** 0.5
    return func(*args, **kwargs)


def called(model: Any, tokens: torch.Tensor) -> Any:
    """What a forward pass gives that may ask for more than tokens."""
    try:
        return model(tokens)
    except TypeError as error:
        if "required positional argument" not in str(error):
            raise
    try:
        return model(tokens, None)
    except (TypeError, AttributeError):
        return model(tokens, tokens)


def logits_in(out: Any, batch: int, length: int) -> Any:
    """The logits in what a forward pass gives: the first tensor for each token, or for each sequence."""
    if isinstance(out, torch.Tensor):
        if out.dim() == 3 and out.shape[0] != batch and out.shape[:2] == (length, batch):
            return out.transpose(0, 1)
        return out.unsqueeze(1).expand(-1, length, -1) if out.dim() == 2 and out.shape[0] == batch else out
    held = list(out.values()) if isinstance(out, dict) else list(out) if isinstance(out, (list, tuple)) else list(vars(out).values())
    tensors = [t for t in held if isinstance(t, torch.Tensor) and t.is_floating_point()]
    whole = [t for t in tensors if t.dim() == 3 and tuple(t.shape[:2]) == (batch, length)]
    return whole[0] if whole else logits_in(tensors[0], batch, length) if tensors else out
