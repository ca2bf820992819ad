"""The memory's state in an op log: which values are one state after another, and what each step does to it.

A chain is one place in the source whose addition, step after step, carries its own last result on. Runs INSIDE the
sandbox; decides nothing about criteria.
"""

from __future__ import annotations

from typing import Any

from algebra import ADDS, CUT_OFF, SAME, Algebra, Terms, TooBig, base
from oplog import Graph, Node

NOT_CARRY = {"cat", "stack", "_softmax", "_safe_softmax", "new_zeros", "zeros_like"}
CONTRACT = {"bmm", "mm", "mv", "dot", "sum", "mean", "addmm", "baddbmm", "addmv", "einsum", "addbmm"}
REDUCE = {"mean", "sum", "select", "slice", "split", "unbind", "index", "clamp", "amax", "max", "squeeze", "clamp_min", "clamp_max"}


def numel(node: Node) -> int:
    total = 1
    for size in node.shape:
        total *= size
    return total


class Chain:
    """States of one memory during one call, oldest first."""

    def __init__(self, graph: Graph, states: list[Node], memory: int | None) -> None:
        self.graph, self.states, self.memory = graph, states, memory
        self.last = states[-1]
        self.steps: list[Step] = []

    @property
    def is_vector(self) -> bool:
        """One vector for each sequence (the traces have three)."""
        sizes = [size for size in self.last.shape if size > 1]
        return len(sizes) == 1 or (len(sizes) == 2 and sizes[0] == 3)

    def reads(self) -> list[Node]:
        """Nodes that contract a state with something else: what the memory gives back."""
        found: list[Node] = []
        for state in self.states:
            found += [n for n in self._carried(state) if self._is_read(n, state)]
        return found

    def _carried(self, state: Node) -> list[Node]:
        """Consumers of the state behind views and element-wise work of the same size, within one step."""
        graph, size = self.graph, numel(state)
        held, found = {state.i}, []
        after = [s.i for s in self.states if s.i > state.i]
        end = after[0] if after else len(graph.nodes)
        for node in graph.nodes[state.i + 1 :]:
            if not held.intersection(node.ins) or node.i == end:
                continue
            found.append(node)
            if numel(node) == size and (node.op in SAME | CUT_OFF or base(node.op) in {"mul", "div", "alias"}) and node.i < end:
                held.add(node.i)
        return found

    def _is_read(self, node: Node, state: Node) -> bool:
        smaller = numel(node) < numel(state)
        return smaller and base(node.op) in CONTRACT and self.graph.by_tokens(node.i)


class Step:
    """What happens between two states: `carry` (terms with the old state) and `write` (the others)."""

    def __init__(self, graph: Graph, before: Node, after: Node) -> None:
        self.graph, self.before, self.after = graph, before, after
        self.algebra = Algebra(graph, cut={before.i})
        try:
            terms = self.algebra.tidy(self.algebra.poly(after.i))
        except TooBig:
            terms = {(after.i,): 1.0}
        self.carry = {t: c for t, c in terms.items() if before.i in t}
        self.write = {t: c for t, c in terms.items() if before.i not in t}

    @property
    def explained(self) -> bool:
        """True when all that the old state does to the new one is carried terms and small values read from it."""
        atoms = [self.graph.nodes[_plain(a)] for t in self.write for a in t]
        big = [n for n in atoms if self.graph.depends(n.i, self.before.i) and numel(n) >= numel(self.before)]
        return bool(self.carry) and bool(self.write) and not big

    def carry_factor(self) -> Terms:
        """The polynomial that multiplies the old state."""
        factor = {}
        for term, c in self.carry.items():
            rest = list(term)
            rest.remove(self.before.i)
            factor[tuple(rest)] = c
        return factor

    def between(self) -> int:
        """Nodes that depend on the old state and lead to the new one, as bits."""
        bits: int = self.graph.down(self.before.i) & self.graph.above(self.after.i)
        return bits

    def write_atoms(self) -> list[int]:
        return sorted({_plain(a) for t in self.write for a in t})

    def scales_write(self, atom: int) -> bool:
        """Is the whole write a multiple of (x + y * atom)?"""
        having: Terms = {}
        for t, c in self.write.items():
            if t.count(atom) == 1:
                rest = list(t)
                rest.remove(atom)
                having[tuple(rest)] = c
            elif atom in t or -atom - 1 in t:
                return False
        lacking = {t: c for t, c in self.write.items() if atom not in t}
        if not having:
            return False
        if not lacking:
            return True
        if set(having) != set(lacking):
            return False
        ratios = [lacking[t] / having[t] for t in having]
        return bool(max(ratios) - min(ratios) < 1e-6)


def _plain(atom: int) -> int:
    return int(atom if atom >= 0 else -atom - 1)


def core(graph: Graph, i: int) -> Node:
    """The value behind reductions, slices and views: for a gate, the sigmoid that made it."""
    node = graph.nodes[i]
    while node.ins and (node.op in SAME | CUT_OFF or base(node.op) in REDUCE) and len(set(node.ins)) == 1:
        node = graph.nodes[node.ins[0]]
    return node


def find_chains(graph: Graph, shortest: int) -> list[Chain]:
    """All chains of at least `shortest` states, in the order of their ends."""
    places: dict[Any, list[Node]] = {}
    for node in graph.nodes:
        if node.place and base(node.op) in ADDS and graph.by_tokens(node.i) and node.memory is not None:
            places.setdefault((node.memory, node.place), []).append(node)
    chains: list[Chain] = []
    for (memory, _), nodes in places.items():
        run = [nodes[0]]
        for node in nodes[1:]:
            if not carries(graph, run[-1], node):
                _keep(chains, graph, run, memory, shortest)
                run = []
            run.append(node)
        _keep(chains, graph, run, memory, shortest)
    return sorted(chains, key=lambda chain: chain.last.i)


def _keep(chains: list[Chain], graph: Graph, run: list[Node], memory: int | None, shortest: int) -> None:
    if len(run) >= shortest:
        chains.append(Chain(graph, run, memory))


def carries(graph: Graph, old: Node, new: Node) -> bool:
    """Does `old` reach `new` through values of its own size only?"""
    size, todo = numel(old), [new.i]
    seen: set[int] = set()
    if not graph.depends(new.i, old.i) or numel(new) != size:
        return False
    while todo:
        for i in graph.nodes[todo.pop()].ins:
            if i == old.i:
                return True
            node = graph.nodes[i]
            if i > old.i and i not in seen and numel(node) == size and node.op not in NOT_CARRY:
                seen.add(i)
                todo.append(i)
    return False


def main_chains(graph: Graph, shortest: int) -> tuple[list[Chain], list[Chain]]:
    """(for each memory the chain that is read, of most dimensions, added to last in a step; the first memory's others)."""
    best: dict[int | None, tuple[tuple[bool, int, int], Chain]] = {}
    every = find_chains(graph, shortest)
    for chain in every:
        rank = (bool(chain.reads()), len([s for s in chain.last.shape if s > 1]), chain.last.i)
        if chain.memory not in best or rank > best[chain.memory][0]:
            best[chain.memory] = (rank, chain)
    main = [chain for _, chain in sorted(best.values(), key=lambda item: item[1].last.i)]
    return main, [c for c in every if main and c.memory == main[0].memory and c is not main[0] and c.reads()]
