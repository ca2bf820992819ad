"""The memory's state in an op log: which values are one state after another, and what each step does to it.

A chain is one place in the source whose result, step after step, is made from its own last result. Runs INSIDE the
sandbox; decides nothing about criteria.
"""

from __future__ import annotations

from typing import Any

import torch
from oplog import Graph, Node
from ops import ADDS, CONTRACT, PARTS, PRODUCTS, SOFT, STRUCTURAL, is_a, param_operand
from replay import Replay, Values

NOT_CARRY = SOFT | {"new_zeros", "zeros_like"}
PLAIN = STRUCTURAL | {"mul", "div", "neg", "alias"}  # element by element: the state itself, scaled or moved
LOOK_BACK = 24  # places that run once for each head or sequence come back after so many


class Chain:
    """States of one memory during one pass over the tokens, oldest first."""

    def __init__(self, graph: Graph, states: list[Node], memory: int | None) -> None:
        self.graph, self.states, self.memory = graph, states, memory
        self.last = states[-1]
        self.where = (memory, self.last.place, self.last.op)
        self._reads: list[Node] | None = None
        self.held: dict[int, int] = {}  # node -> the state that it holds whole, scaled or moved

    @property
    def is_vector(self) -> bool:
        """One vector for each sequence (the traces have a number of sequences that is no other size)."""
        sizes = [size for size in self.last.shape if size > 1]
        return len(sizes) == 1 or (len(sizes) == 2 and sizes[0] == self.graph.batch)

    def reads(self) -> list[Node]:
        """Products of a state with something made of the input: what the memory gives back."""
        if self._reads is None:
            self._reads = self._find_reads()
        return self._reads

    def _find_reads(self) -> list[Node]:
        graph, size = self.graph, self.last.numel
        held, reads = self.held, []
        held.update({s.i: s.i for s in self.states})
        beside: dict[int, Node] = {}  # state times input, element by element: a sum along the input makes a read of it
        for node in graph.nodes[self.states[0].i + 1 :]:
            mine = [i for i in node.ins if i in held]
            if node.i in held or not mine:
                continue
            others = [graph.nodes[i] for i in node.ins if i not in held and graph.by_tokens(i)]
            smaller = node.numel < graph.nodes[mine[0]].numel
            products = [beside[i] for i in mine if i in beside]
            if others and smaller and is_a(node, PRODUCTS):
                reads.append(node)
            elif products and smaller and is_a(node, PRODUCTS) and not param_operand(graph, node):  # with ones: a sum
                reads.append(node)
            elif products and smaller and is_a(node, {"sum", "mean"}):
                if any(_sums_along(node, graph.nodes[mine[0]], factor) for factor in products):
                    reads.append(node)
            elif _holds(node, size):
                held[node.i] = held[mine[0]]
                if products or (others and is_a(node, {"mul"})):
                    beside[node.i] = products[0] if products else others[0]
        return reads


def _holds(node: Node, size: int) -> bool:
    """Is this still the state: moved, scaled, added to, bent element by element, or a part of it?"""
    if is_a(node, PARTS | {"alias"}) or (node.numel >= size and is_a(node, PLAIN | ADDS)):
        return True
    return node.numel == size and not is_a(node, PRODUCTS | NOT_CARRY)


def _sums_along(total: Node, product: Node, factor: Node) -> bool:
    """Does the factor vary along what is summed? (A gate for the whole state does not.)"""
    dims = total.args[1] if len(total.args) > 1 and isinstance(total.args[1], int) else None
    flat = [dims] if dims is not None else [x for x in total.args[1:] if isinstance(x, int) and not isinstance(x, bool)]
    rank = len(product.shape)
    shape = (1,) * (rank - len(factor.shape)) + factor.shape
    return len(shape) != rank or not flat or any(shape[d] > 1 for d in flat if -rank <= d < rank)


def find_chains(graph: Graph, shortest: int, *, loose: bool = False) -> list[Chain]:
    """All chains of at least `shortest` states, in the order of their ends; sums where there are any."""
    chains = _chains_at(graph, shortest, lambda node: is_a(node, ADDS), loose=loose)
    if loose:
        return [c for c in chains if c.memory is not None and c.reads() and not c.is_vector]
    if not any(c.reads() and not c.is_vector for c in chains):
        chains += _chains_at(graph, shortest, lambda node: not is_a(node, STRUCTURAL | ADDS | SOFT))
    return sorted(chains, key=lambda chain: chain.last.i)


def _chains_at(graph: Graph, shortest: int, wanted: Any, *, loose: bool = False) -> list[Chain]:
    places: dict[Any, list[Node]] = {}
    for node in graph.nodes:
        if node.place and wanted(node) and graph.by_tokens(node.i):
            places.setdefault((node.memory, node.place, node.op), []).append(node)
    found: list[Chain] = []
    for (memory, *_), nodes in places.items():
        if len(nodes) >= shortest:
            found += [Chain(graph, run, memory) for run in _runs(graph, nodes, loose) if len(run) >= shortest]
    return found


def _runs(graph: Graph, nodes: list[Node], loose: bool) -> list[list[Node]]:
    """The results of one place, each linked to the latest earlier one that it carries on."""
    runs: list[list[Node]] = []
    ends: dict[int, list[Node]] = {}
    for n, node in enumerate(nodes):
        before = next((p for p in reversed(nodes[max(0, n - LOOK_BACK) : n]) if carries(graph, p, node, loose=loose)), None)
        if before is not None and before.i in ends:
            run = ends.pop(before.i)
        else:
            run = []
            runs.append(run)
        run.append(node)
        ends[node.i] = run
    return runs


def carries(graph: Graph, old: Node, new: Node, *, loose: bool = False) -> bool:
    """Does `old` reach `new` through values of its own size, or larger ones that hold it whole (or, loosely, a part of it)?"""
    size, todo = old.numel, [new.i]
    seen: set[int] = set()
    if not graph.depends(new.i, old.i) or new.numel != size:
        return False
    while todo:
        for i in graph.nodes[todo.pop()].ins:
            if i == old.i:
                return True
            node = graph.nodes[i]
            fits = node.numel == size or ((node.numel > size or loose) and is_a(node, STRUCTURAL))
            if i > old.i and i not in seen and fits and not is_a(node, NOT_CARRY) and graph.depends(i, old.i):
                seen.add(i)
                todo.append(i)
    return False


def main_chains(graph: Graph, shortest: int) -> tuple[list[Chain], list[Chain]]:
    """(one chain for each memory and pass, those of the NeuralMemory if it has any; every chain).

    Of the chains of one memory that run side by side the one counts that is read, has most dimensions and is added to last.
    """
    every = find_chains(graph, shortest)
    if not any(c.memory is not None for c in every):  # one that is no step a token, or of which a part is carried on
        every = [*every, *(find_chains(graph, shortest, loose=True) or find_chains(graph, 2, loose=True))]
    inside = [c for c in every if c.memory is not None] or every
    main: list[Chain] = []
    for chain in inside:
        rival = next((m for m in main if m.memory == chain.memory and side_by_side(m, chain)), None)
        if rival is None:
            main.append(chain)
        elif _comes_first(graph, chain, rival):
            main[main.index(rival)] = chain
    return sorted(main, key=lambda c: c.last.i), every


def side_by_side(a: Chain, b: Chain) -> bool:
    return bool(a.states[0].i < b.last.i and b.states[0].i < a.last.i)


def _comes_first(graph: Graph, one: Chain, other: Chain) -> bool:
    """Is `one` rather the memory's state? Of two that are read alike it is the one that the other is made from."""
    a, b = _rank(one), _rank(other)
    if a[:3] == b[:3] and _is_read_itself(graph, one, other) and _is_read_itself(graph, other, one):
        feeds, fed = _feeds(graph, one, other), _feeds(graph, other, one)
        if feeds != fed:
            return feeds
    return a > b


def _is_read_itself(graph: Graph, one: Chain, other: Chain) -> bool:
    """Is a state of one read, and not just by way of the other's states?"""
    mine, theirs = graph.mask(s.i for s in one.states), graph.mask(s.i for s in other.states)
    return any(graph.reach(r.i, theirs) & mine for r in one.reads())


def _feeds(graph: Graph, one: Chain, other: Chain) -> bool:
    """Does a state of one go into a later state of the other as it is?"""
    later = next((s for s in other.states if s.i > one.states[1].i), None)
    return later is not None and carries(graph, one.states[1], later)


def ranked(chains: list[Chain]) -> list[Chain]:
    """Those that are rather a memory's state first."""
    return sorted(chains, key=_rank, reverse=True)


def _rank(chain: Chain) -> tuple[bool, bool, int, int]:
    wide = len([s for s in chain.last.shape if s > 1])
    return bool(chain.reads()), not chain.is_vector, wide, chain.last.i


def _alike(value: torch.Tensor, batch: int) -> bool:
    """The same for every sequence?"""
    if value.dim() < 3 or value.shape[0] != batch:
        return False
    return bool((value - value[:1]).abs().max() <= 1e-5 * value.abs().max())


class Step:
    """What happens between two states, as a function that can be asked (see Replay).

    The values that are read from the state (smaller than it) stay as they were: what they do to the new state is part
    of what is written, not of what is carried.
    """

    def __init__(self, graph: Graph, chain: Chain, number: int, every: list[Chain]) -> None:
        self.graph, self.chain, self.replay = graph, chain, Replay(graph)
        self.before, self.after = chain.states[number - 1], chain.states[number]
        self.window = graph.down(self.before.i) & graph.above(self.after.i)
        size = self.before.numel
        self.small = [n for n in graph.of(self.window) if n.numel < size and is_a(n, CONTRACT)]
        self.fixed = graph.mask(n.i for n in self.small)
        self.beside = [b for c in every if (b := self._companion(c)) is not None]
        self.makers: list[Node] | None = None  # what makes the write, once it was looked for

    def _companion(self, other: Chain) -> Node | None:
        """The state of another chain as large as this one (a momentum) that this step goes on from.

        Another phase of this same chain does no harm: it is reached through `before` only.
        """
        if other is self.chain or other.last.numel < self.before.numel:
            return None
        used = [n for n, s in enumerate(other.states) if s.i < self.after.i and self.graph.depends(self.after.i, s.i)]
        return other.states[used[-1] - 1] if used and used[-1] > 0 else None

    def written(self, maker: Node | None, given: Values | None = None) -> torch.Tensor:
        """What is written, without what is added whatever the input is (as a decay towards a learned start is)."""
        found = self.without_state(given)
        if maker is None:
            return found
        rest = self.without_state({**(given or {}), maker.i: torch.zeros_like(maker.value)})
        cut = self.graph.mask([maker.i, self.before.i, *(n.i for n in self.beside)]) | self.fixed
        if not torch.isfinite(rest).all():  # what is written is divided by its own size
            return found
        if self.graph.reach(self.after.i, cut) & self.graph.tokens and not _alike(rest, self.graph.batch):
            return found
        return found - rest

    def added(self, given: Values) -> torch.Tensor:
        """What is written where nothing is read of the old state either, as it is empty."""
        zeros = {n.i: torch.zeros_like(n.value) for n in (self.before, *self.beside)}
        value: torch.Tensor = self.replay.one(self.after.i, {**zeros, **given})
        return value

    def without_state(self, given: Values | None = None) -> torch.Tensor:
        """What is written: the new state when the old one, and those beside it, are zero."""
        zeros = {n.i: torch.zeros_like(n.value) for n in (self.before, *self.beside)}
        below = 0
        for i in given or ():
            below |= self.graph.down(i)
        value: torch.Tensor = self.replay.one(self.after.i, {**zeros, **(given or {})}, self.fixed & ~below)
        return value

    def carried(self, state: torch.Tensor, given: Values | None = None) -> torch.Tensor:
        """What is left of a state after the step, writes apart."""
        zero = torch.zeros_like(self.before.value)
        with_state: torch.Tensor = self.replay.one(self.after.i, {self.before.i: state, **(given or {})}, self.fixed)
        without: torch.Tensor = self.replay.one(self.after.i, {self.before.i: zero, **(given or {})}, self.fixed)
        return with_state - without

    def boundary(self) -> list[Node]:
        """What enters the step beside the old state: from outside, or made of what was read from the state."""
        direct = {self.before.i}
        for node in self.graph.of(self.window & ~self.fixed):
            if direct.intersection(node.ins):
                direct.add(node.i)
        found = {i for n in direct if n != self.before.i for i in self.graph.nodes[n].ins if i not in direct}
        return [self.graph.nodes[i] for i in sorted(found)]

    def reads(self) -> list[Node]:
        """The values retrieved from the old state for the input."""
        return [n for n in self.chain.reads() if self.graph.depends(n.i, self.before.i)]
