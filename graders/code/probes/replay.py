"""Runs parts of an op log again with some values replaced. Runs INSIDE the sandbox.

What a program does between two values is so a function that can be asked: is it linear in the state, does it vanish
with the gate, does it change with what was retrieved?
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from oplog import Call, Graph, Node, flattened, put_together

Values = Mapping[int, torch.Tensor]


class Replay:
    def __init__(self, graph: Graph) -> None:
        self.graph, self.nodes = graph, graph.nodes

    def one(self, target: int, given: Values, fixed: int = 0) -> torch.Tensor:
        return self.run([target], given, fixed)[0]

    def run(self, targets: Iterable[int], given: Values, fixed: int = 0) -> list[torch.Tensor]:
        """The targets' values when the given nodes have those values; the nodes in the bits `fixed` keep their own."""
        targets = list(targets)
        env: dict[int, torch.Tensor] = dict(given)
        called: dict[int, list[Any]] = {}
        blocked = fixed | self.graph.mask(given)
        first = min(given, default=0)
        for i in self._order(targets, blocked, first):
            node = self.nodes[i]
            if not any(j in env for j in node.ins):
                continue
            if node.call is None:
                env[i] = self._alias(node, env)
                continue
            if id(node.call) not in called:
                called[id(node.call)] = self._again(node.call, env)
            env[i] = called[id(node.call)][node.call.outs.index(i)]
        return [env[t] if t in env else self.nodes[t].value for t in targets]

    def _order(self, targets: list[int], blocked: int, first: int) -> list[int]:
        """What may have to be run again, in order: ancestors of the targets after `first`, not past blocked nodes."""
        seen = {t for t in targets if t > first and not blocked >> t & 1}
        todo = list(seen)
        while todo:
            for i in self.nodes[todo.pop()].ins:
                if i > first and i not in seen and not blocked >> i & 1:
                    seen.add(i)
                    todo.append(i)
        return sorted(seen)

    def _value(self, i: int, env: dict[int, torch.Tensor]) -> torch.Tensor:
        return env[i] if i in env else self.nodes[i].value

    def _again(self, call: Call, env: dict[int, torch.Tensor]) -> list[Any]:
        flat = [self._value(x[0], env) if isinstance(x, tuple) and len(x) == 1 else x for x in call.flat]
        for n in call.written:
            flat[n] = flat[n].clone()
        spec, names = call.spec
        values = put_together(flat, spec)
        first = len(values) - len(names)
        outputs: list[Any] = flattened((call.func(*values[:first], **dict(zip(names, values[first:], strict=True))),))[0]
        return outputs

    def _alias(self, node: Node, env: dict[int, torch.Tensor]) -> torch.Tensor:
        """A tensor after writes through other views of its storage."""
        old, *writers = node.ins
        size = node.tensor.untyped_storage().nbytes() // node.tensor.element_size()
        buffer = _put(torch.zeros(size, dtype=node.tensor.dtype), node.tensor, self._value(old, env))
        for w in writers:
            buffer = _put(buffer, self.nodes[w].tensor, self._value(w, env))
        return torch.as_strided(buffer, node.shape, node.tensor.stride(), node.tensor.storage_offset())


def _put(buffer: torch.Tensor, place: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    if 0 in place.stride():  # an expanded view: its elements lie on top of each other
        seen = tuple(slice(0, 1) if s == 0 else slice(None) for s in place.stride())
        place, value = place[seen], value[seen]
    return torch.as_strided_scatter(buffer, value.to(buffer.dtype), place.shape, place.stride(), place.storage_offset())


def rms(x: torch.Tensor) -> float:
    return float(doubled(x.detach()).abs().pow(2).mean().sqrt()) if x.numel() else 0.0


def doubled(x: torch.Tensor) -> torch.Tensor:
    """In double precision, complex numbers too."""
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


def is_measure(x: torch.Tensor) -> bool:
    """Has it values between which there are others?"""
    return x.is_floating_point() or x.is_complex()


def share_of(x: torch.Tensor, of: torch.Tensor) -> float:
    """The number by which the one comes nearest to the other."""
    return float((x * of.conj()).sum().real / of.abs().pow(2).sum().clamp_min(1e-20))


def noisy(x: torch.Tensor, seed: int = 0, least: float = 0.0) -> torch.Tensor:
    """x with noise as large as x itself (and at least `least`)."""
    generator = torch.Generator().manual_seed(seed)
    return x.detach() + (max(rms(x), least) * torch.randn(x.shape, generator=generator)).to(x.dtype)
