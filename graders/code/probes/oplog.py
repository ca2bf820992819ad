"""The op log: every tensor operation of one forward pass as a graph of values. Runs INSIDE the sandbox.

A node is one value: a leaf (tokens, parameter, buffer, constant) or one output of an operation. Writing in place makes
a new value of the same tensor; reading a tensor whose storage was written through another view makes an `alias` node
that depends on both, so that data flow through preallocated buffers is seen (more than there is, never less).
"""

from __future__ import annotations

import itertools
import os
import sys
from _thread import get_ident
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from threading import RLock
from types import CodeType, FrameType
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch.utils._python_dispatch import TorchDispatchMode

SHAPE_ONLY = {
    "zeros_like",
    "ones_like",
    "empty_like",
    "full_like",
    "rand_like",
    "randn_like",
    "new_zeros",
    "new_ones",
    "new_empty",
    "new_full",
    "new_empty_strided",
}


OTHERS = (  # whose code is not the submission's
    os.path.dirname(os.path.abspath(__file__)) + os.sep,
    os.path.dirname(os.path.abspath(os.__file__)) + os.sep,
    *(path + os.sep for path in sys.path if path.endswith("-packages")),
    os.path.dirname(torch.__file__) + os.sep,
    "<frozen ",
)
APPLY = vars(torch.autograd.Function)["apply"].__func__.__code__


class Call:
    """One operation as it was called, so that it can be called again: tensor arguments stand as (node,)."""

    __slots__ = ("flat", "func", "outs", "spec", "written")

    def __init__(self, func: Any, flat: list[Any], spec: Any, written: set[int]) -> None:
        self.func, self.flat, self.spec = func, flat, spec
        self.written = written  # positions in `flat` that the operation writes to
        self.outs: list[int | None] = []  # for each flat output its node


class Node:
    """One value. `ins` are the nodes it was made from, `args` the same with the plain arguments between."""

    __slots__ = ("args", "call", "fused", "i", "ins", "lines", "memory", "name", "numel", "old", "op", "place", "shape", "tensor")

    def __init__(
        self, i: int, op: str, *, tensor: torch.Tensor, name: str = "", ins: tuple[int, ...] = (), args: Sequence[Any] = ()
    ) -> None:
        self.i, self.op, self.ins, self.args, self.name, self.tensor = i, op, ins, args, name, tensor
        self.call: Call | None = None
        self.shape = tuple(tensor.shape)
        self.numel = tensor.numel()
        self.old: torch.Tensor | None = None  # the value, kept when the tensor was written over later
        self.lines: tuple[int, ...] = ()
        self.place: tuple[tuple[int, int], ...] = ()
        self.memory: int | None = None
        self.fused: int | None = None  # the autograd Function in whose forward pass it was made

    @property
    def value(self) -> torch.Tensor:
        return self.tensor.detach() if self.old is None else self.old


class OpLog(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Record what runs while it is entered. `is_memory(object)` tells whose methods count as the memory's."""

    def __init__(self, path: str, is_memory: Callable[[object], bool], limit: int = 60_000) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.path, self.is_memory, self.limit = path, is_memory, limit
        self.nodes: list[Node] = []
        self.current: dict[int, tuple[int, int]] = {}  # id of a tensor -> its node, and how many nodes there were then
        self.writers: dict[int, list[int]] = {}
        self.sharing: dict[int, list[int]] = {}  # storage -> the nodes whose values lie in it
        self.lying: dict[tuple[object, ...], int] = {}  # where a tensor lies -> the last node that was made there
        self.keep: list[torch.Tensor] = []  # alive, so that no id is used twice
        self.memories: dict[int, int] = {}
        self.overflow = False
        self.ends: FrameType | None = sys._getframe(1)
        self.main, self.lock = get_ident(), RLock()  # threads of the program come here too (threads.py)
        self.functions: dict[FrameType, int] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False spares the import of torch._dynamo, which costs more than the whole trace."""
        return False

    def leaf(self, tensor: torch.Tensor, op: str, name: str) -> Node:
        node = self._add(Node(len(self.nodes), op, tensor=tensor, name=name))
        self.current[id(tensor)] = (node.i, len(self.nodes))
        self.keep.append(tensor)
        return node

    def _add(self, node: Node) -> Node:
        self.nodes.append(node)
        self.sharing.setdefault(_storage(node.tensor), []).append(node.i)
        self.lying[_lies_at(node.tensor)] = node.i
        return node

    def _keep_old(self, tensor: torch.Tensor) -> None:
        """Before a write: keep what the nodes of this storage hold."""
        for i in self.sharing.pop(_storage(tensor), ()):
            self.nodes[i].old = self.nodes[i].tensor.detach().clone()

    def _meet(self, tensor: torch.Tensor) -> None:
        """A tensor that no operation gave: another one under the hood (`.data`, `as_subclass`), or a constant."""
        at = self.lying.get(_lies_at(tensor)) if tensor.numel() else None
        if at is None:
            self.leaf(tensor, "const", "")
            return
        known = self.nodes[at]
        node = self._add(Node(len(self.nodes), "alias", ins=(at,), args=((at,),), tensor=tensor))
        node.lines, node.place, node.memory, node.fused = known.lines, known.place, known.memory, known.fused
        self.current[id(tensor)] = (node.i, at + 1)
        self.keep.append(tensor)

    def read(self, tensor: torch.Tensor) -> Node:
        """The node that holds this tensor's value now."""
        if id(tensor) not in self.current:
            self._meet(tensor)
        index, seen = self.current[id(tensor)]
        later = [w for w in self.writers.get(_storage(tensor), ()) if w >= seen and w != index]
        if later:
            node = self._add(Node(len(self.nodes), "alias", ins=(index, *later), args=((index,), *((w,) for w in later)), tensor=tensor))
            node.lines, node.place, node.memory = self.nodes[later[-1]].lines, self.nodes[later[-1]].place, self.nodes[later[-1]].memory
            self.current[id(tensor)] = (node.i, len(self.nodes))
            return node
        return self.nodes[index]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if len(self.nodes) > self.limit:
            self.overflow = True
            return func(*args, **kwargs)
        with self.lock, torch._C.DisableTorchFunctionSubclass():
            return self._recorded(func, args, kwargs)

    def _recorded(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = func.__name__.split(".")[0]
        flat, spec = flattened((*args, *kwargs.values()))
        # "(i,)" marks a tensor argument: a plain int stays a plain int
        marked = [(self.read(x).i,) if isinstance(x, torch.Tensor) else x for x in flat]
        written = {id(args[n]) for n in _writes(func) if n < len(args)}
        for x in flat if written else ():
            if id(x) in written:
                self._keep_old(x)
        result = func(*args, **kwargs)
        call = Call(func, marked, (spec, tuple(kwargs)), {n for n, x in enumerate(flat) if id(x) in written})
        ins = () if name in SHAPE_ONLY else tuple(m[0] for m in marked if isinstance(m, tuple) and len(m) == 1)
        where = self._where()
        outputs = flattened((result,))[0]
        for number, out in enumerate(outputs):
            if not isinstance(out, torch.Tensor):
                call.outs.append(None)
                continue
            node = self._add(Node(len(self.nodes), name, ins=ins, args=marked, tensor=out, name=str(number) if len(outputs) > 1 else ""))
            node.call, (node.lines, node.place, node.memory, node.fused) = call, where
            call.outs.append(node.i)
            self.current[id(out)] = (node.i, len(self.nodes))
            self.keep.append(out)
            if id(out) in written:
                self.writers.setdefault(_storage(out), []).append(node.i)
        return result

    def _where(self) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...], int | None, int | None]:
        """(lines of the submission, innermost first; exact place; the memory and the Function at work) from the stack."""
        frame: FrameType | None = sys._getframe(3)
        ends = self.ends  # below it lies the probe's own stack
        lines: list[int] = []
        place: list[tuple[int, int]] = []
        memory = fused = None
        while frame is not None and frame is not ends:
            if frame.f_code is APPLY:
                fused = self.functions.setdefault(frame, len(self.functions))
            name = frame.f_code.co_filename
            ours = not name.startswith(OTHERS)  # its file, or what it made with exec under any name
            if ours:
                if name == self.path and frame.f_lineno:  # code made by hand may have no lines
                    lines.append(frame.f_lineno)
                place.append((frame.f_code.co_firstlineno, _instruction(frame.f_code, frame.f_lasti)))
            memory = self._memory_at(frame) if memory is None else memory
            frame = frame.f_back
        if memory is None and get_ident() != self.main:  # a thread works for whoever waits for it
            memory = self._memory_above(sys._current_frames()[self.main])
        return tuple(lines), tuple(dict.fromkeys(place)), memory, fused  # a function that calls itself is in one place however deep

    def _memory_at(self, frame: FrameType) -> int | None:
        """The number of the memory whose method this is."""
        if frame.f_code.co_name != "_call_impl" and frame.f_code.co_filename.startswith(OTHERS):
            return None
        owner = frame.f_locals.get("self")
        return self.memories.setdefault(id(owner), len(self.memories)) if owner is not None and self.is_memory(owner) else None

    def _memory_above(self, frame: FrameType | None) -> int | None:
        while frame is not None and frame is not self.ends:
            if (memory := self._memory_at(frame)) is not None:
                return memory
            frame = frame.f_back
        return None


@cache
def _firsts(code: CodeType) -> list[int]:
    """For each instruction the first one that stands for the same words of the source."""
    seen: dict[object, int] = {}
    places = itertools.islice(itertools.chain(code.co_positions(), itertools.repeat((None,))), len(code.co_code) // 2)
    return [seen.setdefault(words, n) if None not in words else n for n, words in enumerate(places)]


def _instruction(code: CodeType, at: int) -> int:
    """The instruction as a place: Python makes a call from one of two instructions, as it sees fit when it has run often."""
    return _firsts(code)[at // 2]


NO_MAKER: tuple[ReferenceType[torch.Tensor] | None, object] = (None, None)


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Which operations run while it is entered, each with the operations that made its arguments."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.main, self._here, self._elsewhere = get_ident(), list[object](), list[object]()
        self.makers: dict[int, tuple[ReferenceType[torch.Tensor], object]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made: dict[object, None] = {}
        for given in args:  # no calls of our own in here: it runs for each operation
            for x in given if isinstance(given, (list, tuple)) else (given,):
                if isinstance(x, torch.Tensor):
                    known, maker = self.makers.get(id(x), NO_MAKER)
                    made[maker if known is not None and known() is x else None] = None
        (self._here if get_ident() == self.main else self._elsewhere).append((func, *made))
        result = func(*args, **kwargs) if kwargs else func(*args)
        for out in result if isinstance(result, (list, tuple)) else (result,):
            if isinstance(out, torch.Tensor):
                self.makers[id(out)] = ref(out), func
        return result

    def names(self) -> list[object]:
        """In the order in which they ran; those of threads, which have none, after the others."""
        return [*self._here, *sorted(self._elsewhere, key=str)]


def flattened(values: Sequence[Any]) -> tuple[list[Any], list[int]]:
    """(all values with lists taken apart, for each its length or -1 for none): all that operations are called with."""
    flat: list[Any] = []
    spec: list[int] = []
    for value in values:
        if isinstance(value, (list, tuple)):
            flat.extend(value)
            spec.append(len(value))
        else:
            flat.append(value)
            spec.append(-1)
    return flat, spec


def put_together(flat: Sequence[Any], spec: Sequence[int]) -> list[Any]:
    """What `flattened` took apart."""
    values: list[Any] = []
    at = 0
    for length in spec:
        values.append(flat[at] if length < 0 else list(flat[at : at + length]))
        at += 1 if length < 0 else length
    return values


@cache
def _writes(func: Any) -> tuple[int, ...]:
    """The positions of the arguments that an operation writes to."""
    return tuple(n for n, slot in enumerate(func._schema.arguments) if slot.alias_info and slot.alias_info.is_write)


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _lies_at(tensor: torch.Tensor) -> tuple[object, ...]:
    return _storage(tensor), tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


class Graph:
    """Questions about the finished log: ancestors, what a value depends on, where it stands."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        self.up: list[int] = []
        for node in nodes:
            bits = 0
            for i in node.ins:
                bits |= self.up[i] | (1 << i)
            self.up.append(bits)
        self.tokens = self.mask(n.i for n in nodes if n.op == "tokens")
        self.params = self.mask(n.i for n in nodes if n.op == "param")
        self.batch = next((n.shape[0] for n in nodes if n.op == "tokens"), 0)
        self.down_cache: dict[int, int] = {}
        self.learns = True  # was it recorded where gradients are?
        self.fused = {n.fused for n in nodes if n.fused is not None and n.tensor.requires_grad}

    @staticmethod
    def mask(indices: Iterable[int]) -> int:
        bits = 0
        for i in indices:
            bits |= 1 << i
        return bits

    def above(self, i: int) -> int:
        """Ancestors and itself, as bits."""
        return self.up[i] | (1 << i)

    def depends(self, i: int, on: int) -> bool:
        return bool(self.above(i) & (1 << on))

    def down(self, i: int) -> int:
        """Descendants, as bits."""
        if i not in self.down_cache:
            self.down_cache[i] = self.mask(n.i for n in self.nodes[i + 1 :] if self.up[n.i] >> i & 1)
        return self.down_cache[i]

    def of(self, bits: int) -> Iterator[Node]:
        while bits:
            low = bits & -bits
            yield self.nodes[low.bit_length() - 1]
            bits ^= low

    def by_tokens(self, i: int) -> bool:
        return bool(self.above(i) & self.tokens)

    def trains(self, i: int) -> bool:
        """Can a gradient pass through this value?"""
        node = self.nodes[i]
        return bool(node.tensor.requires_grad) or node.fused in self.fused or not self.learns

    def trained_params(self, i: int) -> list[Node]:
        return [n for n in self.of(self.above(i) & self.params) if n.tensor.requires_grad]

    def reach(self, start: int, blocked: int) -> int:
        """Ancestors of `start` reached without passing through the nodes in the bits `blocked`, as bits."""
        seen, todo = 0, [start]
        while todo:
            for i in self.nodes[todo.pop()].ins:
                if not seen >> i & 1 and not blocked >> i & 1:
                    seen |= 1 << i
                    todo.append(i)
        return seen
