"""How memory and attention are joined: one gate and its complement, a residual sum, a concatenation. INSIDE the sandbox.

A blend is found by what it does: with the gate at one end memory is gone, at the other it is there, and what the gate
takes from is made by attention.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from gates import between, in_unit, is_sigmoid, moves, own_params, soft_pair
from memory_chain import Chain
from memory_facts import FELT, Trace, gives_earlier_tokens, mixes
from oplog import Node
from ops import ADDS, BLEND, PRODUCTS, SOFT, STRUCTURAL, base, core, is_a, param_operand
from replay import Replay, doubled, noisy, rms
from verdicts import Verdict, no, yes

REACH = 40  # operations after a gate in which its blend is looked for
TRIED = 60  # gates and sums that are tried at most
STUCK = 1e-6
ALIVE = 1e-5  # relative change of a blend that attention makes
TRIED_OTHERS = 12


class Fusion:
    def __init__(self, trace: Trace) -> None:
        self.trace, self.graph, self.replay = trace, trace.graph, Replay(trace.graph)
        self.inside = {n.memory for n in trace.memory_nodes}
        soft = [n for n in self.graph.nodes if n.op in SOFT and n.shape[-1] == trace.length]
        self.soft_places = {n.place for n in soft}  # one that goes token by token has shorter rows before
        self.attention = self._attention()
        self.source: dict[int, int] = {}  # node that memory gives -> which memory and pass
        self.ends: dict[int, list[int]] = {}  # which memory and pass -> the last states of it
        for passed in trace.passes():
            self._take(passed)
        taken_off = bool(self.source) and not any(trace.counts(c.last) for c in trace.chains)
        if not self.source or (taken_off and gives_earlier_tokens(trace, unclear=False)):  # what is left gives something all the same
            self.source = {n.i: int(n.memory or 0) for n in trace.outputs}
        self.leaves = self.graph.mask([*self.source, *self.attention])
        self._still: dict[tuple[object, ...], torch.Tensor] = {}
        self._ties: dict[tuple[int, int], bool] = {}
        self._others: dict[int, torch.Tensor] | None = None
        self._at_ends: dict[int, tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]] = {}
        made = (n for n in self.graph.nodes if n.ins and not is_a(n, STRUCTURAL))
        self.units: dict[tuple[int, ...], list[Node]] = {}  # by their shapes, what could be a gate
        for node in made:
            if in_unit(node):
                self.units.setdefault(node.shape, []).append(node)
        self.users: dict[int, list[int]] = {}
        for node in self.graph.nodes:
            for i in set(node.ins):
                self.users.setdefault(i, []).append(node.i)

    def _take(self, passed: list[Chain]) -> None:
        """What the chains of a pass give: each time that the memory is come to with what it gave before counts for itself."""
        turns = self._turns(passed)
        for turn in sorted({turns[n.i] for chain in passed for n in chain.reads()}):
            number = len(self.ends)
            by_then = ([s.i for s in chain.states if turns[s.i] <= turn] for chain in passed)
            self.ends[number] = [states[-1] for states in by_then if states]
            self.source.update({n.i: number for chain in passed for n in chain.reads() if turns[n.i] == turn})

    def _turns(self, passed: list[Chain]) -> list[int]:
        """For each node how often what the memory gave has come back into it by then, through what lies outside."""
        nodes, memory = self.graph.nodes, passed[0].memory
        turns = [0] * len(nodes)
        given = self.graph.mask(n.i for chain in passed for n in chain.reads()) if memory is not None else 0
        for node in nodes if given else ():
            for i in node.ins:
                back = node.memory == memory and nodes[i].memory is None and self.graph.above(i) & given != 0
                turns[node.i] = max(turns[node.i], turns[i] + back)
        return turns

    def _attention(self) -> set[int]:
        """What attention gives: outside the memory if there is any there; else whatever brings tokens together outside."""
        used = [n for n in self.graph.nodes if self.trace.reaches_logits(n)]
        found = [n for n in used if self._is_attention(n)]
        outside = [n for n in found if n.memory is None]
        return {n.i for n in outside or found or (n for n in used if n.memory is None and self._joins_tokens(n))}

    def _joins_tokens(self, node: Node) -> bool:
        """Is this a sum over the tokens of values by weights, however the weights are made?"""
        if is_a(node, {"bmm"}):
            return bool(mixes(self.graph, node))
        if not is_a(node, {"sum"}) or not node.ins:
            return False
        whole = self.graph.nodes[node.ins[0]]
        factors = {core(self.graph, i).i for i in whole.ins if self.graph.by_tokens(i)} if is_a(whole, {"mul"}) else ()
        dims = [x for x in node.args[1:] if isinstance(x, int) and not isinstance(x, bool)]
        sizes = {whole.shape[d] for d in dims if -len(whole.shape) <= d < len(whole.shape)}
        return len(factors) > 1 and bool(self.trace.length in sizes or self._grows(node, sizes))

    def _grows(self, node: Node, sizes: set[int]) -> bool:
        """Token by token: is what is summed here as long as what came before?"""
        alike = [self.graph.nodes[n.ins[0]] for n in self.graph.nodes if (n.place, n.op) == (node.place, node.op)]
        lengths = [len({n.shape[d] for n in alike if len(n.shape) > d}) for d in range(4)]
        return bool(max(lengths) >= self.trace.length - 1 and 1 not in sizes)

    def _is_attention(self, node: Node) -> bool:
        if node.op.startswith("_scaled_dot_product"):
            return self._looks_back(node)
        if not is_a(node, {"bmm", "mm", "mv", "sum"}) or not node.ins:
            return False
        soft = core(self.graph, node.ins[0])
        if is_a(node, {"sum"}):
            soft = core(self.graph, self.graph.nodes[node.ins[0]].ins[0]) if is_a(soft, {"mul"}) else soft
        return soft.op in SOFT and soft.place in self.soft_places and mixes_tokens(self, node) and self._looks_back(node)

    def _looks_back(self, node: Node) -> bool:
        """Is what is given for a token another when an earlier one has other values? (Not where each looks at itself alone.)"""
        length, dim = self.trace.length, -2
        values = [self.graph.nodes[i] for i in node.ins[1:3] if self.graph.by_tokens(i)]
        timed = [n for n in values if len(n.shape) > 2 and n.shape[dim] == length and n.value.is_floating_point()]
        if not timed or node.shape.count(length) != 1 or (rank := node.shape.index(length)) == 0:
            return True
        given = {n.i: n.value.clone() for n in timed}
        for value in given.values():
            value.select(dim, 0).add_(max(rms(value), 0.1))
        moved = (self.replay.one(node.i, given) - node.value).narrow(rank, 1, length - 1)
        return not rms(moved) <= 1e-6 * rms(node.value)

    # --- the blend ---

    def verdict(self) -> Verdict:
        if not self.source:
            return no("no memory was seen at work that could be blended with attention")
        if not self.trace.chains and not self._keeps():
            return no("what is joined with attention is no memory: it keeps nothing", *self.trace.outputs[-1:])
        found: list[Verdict] = []
        for gate in self.gates():
            for node in self.sums_after(gate):
                if verdict := self.blend_at(gate, node):
                    found.append(verdict)
                    break
        bad = [v for v in found if v.says != "yes"]
        where = {tuple(n.place[:1] for n in v.nodes) for v in bad}
        good = [v for v in found if v.says == "yes" and tuple(n.place[:1] for n in v.nodes) not in where]
        if good:
            return self._alone(good)
        return bad[0] if bad else self.other_fusion()

    def _keeps(self) -> bool:
        """Do values of several tokens meet in a memory without a chain of states?"""
        joined = [n for n in self.trace.memory_nodes if mixes(self.graph, n)]
        return any(base(n.op) not in ("cat", "stack") for n in joined) or (bool(joined) and gives_earlier_tokens(self.trace, unclear=True))

    def gates(self) -> list[Node]:
        """Values in (0, 1) made of trained parameters that reach the logits: of each place some."""
        places: dict[object, list[Node]] = {}
        for node in self.graph.nodes:
            shaped = is_a(node, STRUCTURAL | PRODUCTS) or node.op.startswith("_scaled_dot")
            if shaped or not node.ins or not self.trace.reaches_logits(node) or not self.graph.trained_params(node.i):
                continue
            if node.op in SOFT and soft_pair(node) is None:
                continue
            if in_unit(node):
                places.setdefault(node.place[:1] or node.op, []).append(node)
        return [n for nodes in places.values() for n in self._some_of(nodes)][:TRIED]

    def _some_of(self, nodes: list[Node]) -> Iterable[Node]:
        """The first and the last few; of a place that is come to token by token later ones, as there is nothing to attend to at first."""
        middle = len(nodes) // 2 if len(nodes) >= self.trace.length else 0
        return dict.fromkeys([*nodes[middle : middle + 2], nodes[-1]])

    def sums_after(self, gate: Node) -> list[Node]:
        """The nearest sums after a gate, element by element, in which memory and something else meet."""
        found, todo, seen = [], [gate.i], {gate.i}
        while todo and len(seen) < REACH:
            for i in self.users.get(todo.pop(0), ()):
                node = self.graph.nodes[i]
                if i in seen or not is_a(node, BLEND | {"rsub"}) or (is_a(node, PRODUCTS) and param_operand(self.graph, node)):
                    continue
                seen.add(i)
                todo.append(i)
                if is_a(node, ADDS | {"sum", "bmm", "mm"}) and self._meets(gate, node) and not self._is_state(node):
                    found.append(node)
        return sorted(found, key=lambda n: n.i)

    def _meets(self, gate: Node, node: Node) -> bool:
        above = self.graph.reach(node.i, 1 << gate.i | self.leaves)
        direct = self._direct(node.i, 1 << gate.i)
        return any(i in self.source for i in direct) and bool(above)

    def _direct(self, i: int, blocked: int) -> set[int]:
        """The memory's and attention's results that this value is made of, the nearest ones."""
        found: set[int] = set()
        seen: set[int] = set()
        todo = [i]
        while todo:
            for j in self.graph.nodes[todo.pop()].ins:
                if j in seen or blocked >> j & 1:
                    continue
                seen.add(j)
                if self.leaves >> j & 1:
                    found.add(j)
                else:
                    todo.append(j)
        return found

    def _is_state(self, node: Node) -> bool:
        """Does the sum lead to a later state of the memory that it is made of?"""
        mine = {self.source[i] for i in self._direct(node.i, 0) if i in self.source}
        return any(self.graph.depends(end, node.i) for k in mine for end in self.ends.get(k, ()))

    def blend_at(self, gate: Node, node: Node) -> Verdict | None:
        graph = self.graph
        direct = self._direct(node.i, 1 << gate.i)
        latest = max(i for i in direct if i in self.source)
        memory = [i for i in direct if self.source.get(i) == self.source[latest]]
        if not self._trades(gate, node, memory, self._outside(gate, node, memory)):
            return None
        own = own_params(graph, gate, node.i, graph.mask(self._ends(gate)[0]))
        live = [p for p in own if self.trace.has_grad(p.name)]
        if not graph.trains(gate.i) or not live or not moves(graph, gate, live):
            return no("memory is blended with its complement by a gate that is not trained", node, gate)
        attention = [i for i in direct if i in self.attention]
        if not self._trades(gate, node, memory, attention) or not self._is_alive(gate, node, memory, attention):
            return no("memory is blended with something that attention has no part in", node, gate)
        if not self.swings(gate):
            return no("one gate blends attention and memory, but it stands still near 0 or 1", node, gate)
        if not self._follows(gate, node):
            return no("what is blended is the same whatever the gate is between 0 and 1", node, gate)
        if total := self._given_back(gate, node, [attention, memory]):
            return no("what the gate takes from attention or memory is added again past the blend", total, gate, category="residual_fusion")
        if self.trace.effect([node]) < FELT:
            return no("one gate blends attention and memory, but the blend has next to no effect on the logits", node, gate)
        return yes("one gate blends attention and memory as g and 1 - g", node, gate)

    def _ends(self, gate: Node) -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
        """The gate at either end."""
        if gate.i not in self._at_ends:
            self._at_ends[gate.i] = self._set(gate, torch.zeros_like(gate.value)), self._set(gate, torch.ones_like(gate.value))
        return self._at_ends[gate.i]

    def _set(self, gate: Node, to: torch.Tensor) -> dict[int, torch.Tensor]:
        """The gate at other values, and whatever else is one minus the gate at theirs."""
        value = gate.value
        dim = soft_pair(gate)
        if dim is not None:
            return {gate.i: torch.cat([to.narrow(dim, 0, 1), 1 - to.narrow(dim, 0, 1)], dim)}
        given = {gate.i: to}
        for node in self.units.get(gate.shape, ()):
            if self.graph.depends(node.i, gate.i) or self.graph.depends(gate.i, node.i):
                continue
            opposite = bool(((node.value + value - 1).abs() < 1e-5).all())
            if (opposite or bool(((node.value - value).abs() < 1e-6).all())) and self._tied(gate, node, opposite):
                given[node.i] = 1 - to if opposite else to
        return given

    def _tied(self, gate: Node, node: Node, opposite: bool) -> bool:
        """Do the two go together whatever the parameters are? (Two gates that start as complements do not.)"""
        if (gate.i, node.i) not in self._ties:
            params = {p.i: p for n in (gate, node) for p in self.graph.trained_params(n.i)}
            g, h = self.replay.run([gate.i, node.i], {i: noisy(p.value, i, least=0.02) for i, p in params.items()})
            self._ties[gate.i, node.i] = rms(g + h - 1 if opposite else g - h) < 1e-4
        return self._ties[gate.i, node.i]

    def _trades(self, gate: Node, node: Node, memory: list[int], others: list[int]) -> bool:
        """With the gate at one end memory is gone from the sum; are the others there more than at the end where it is?"""
        low, high = self._ends(gate)
        mine = [self._influence(node, ends, memory) for ends in (low, high)]
        size = rms(node.value)
        if max(mine) < 1e-5 * size or min(mine) > 1e-3 * max(mine) + 1e-6 * size or not others:
            return False
        gone, there = (low, high) if mine[0] < mine[1] else (high, low)
        for i in others[-TRIED_OTHERS:]:
            if self._influence(node, gone, [i]) > 1.05 * self._influence(node, there, [i]) + 1e-6 * size:
                return True
        return False

    def _influence(self, node: Node, ends: dict[int, torch.Tensor], leaves: list[int]) -> float:
        """How much the sum moves, the gate at one end, when these values get noise."""
        key = (node.i, *((i, float(value.reshape(-1)[0])) for i, value in ends.items()))
        if key not in self._still:
            self._still[key] = self._run(node, ends)
        moved = self._run(node, {**ends, **self._noise(leaves)}) - self._still[key]
        return rms(moved) if bool(torch.isfinite(moved).all()) else float("nan")

    def _follows(self, gate: Node, node: Node) -> bool:
        """Does the blend change with the gate's values? (One divided by its own value does nothing.)"""
        one, other = (self._run(node, self._set(gate, between(gate.value, seed))) for seed in (1, 2))
        return not rms(one - other) <= 1e-3 * rms(one)

    def _given_back(self, gate: Node, node: Node, leaves: list[list[int]]) -> Node | None:
        """A later sum, linear in the blend, to which the gate also goes past the blend, so that one of the leaves is there whole."""
        for total, region in self._linear_after(node):
            past = any(i == gate.i or self.graph.reach(i, region) >> gate.i & 1 for i in total.ins if not region >> i & 1)
            before = next(self.graph.nodes[i] for i in total.ins if region >> i & 1)
            for mine in leaves if past else ():
                if self._traded(gate, total, mine) < 0.3 * self._traded(gate, before, mine):
                    return total
        return None

    def _linear_after(self, node: Node) -> Iterator[tuple[Node, int]]:
        """The sums after a blend that are linear in it, each with the nodes on the way, as bits."""
        region, todo = 1 << node.i, [node.i]
        while todo:
            for i in self.users.get(todo.pop(0), ()):
                later = self.graph.nodes[i]
                linear = is_a(later, ADDS | STRUCTURAL | {"mul", "neg", "div"}) or (
                    is_a(later, PRODUCTS) and param_operand(self.graph, later)
                )
                if region >> i & 1 or not linear or region.bit_count() > REACH:
                    continue
                region |= 1 << i
                todo.append(i)
                if is_a(later, ADDS):
                    yield later, region

    def _traded(self, gate: Node, node: Node, leaves: list[int]) -> float:
        """How differently the sum follows these values with the gate at either end."""
        keep = self.leaves & ~self.graph.mask(leaves)
        noise, follows = self._noise(leaves), []
        for ends in self._ends(gate):
            still, moved = (self.replay.one(node.i, {**ends, **more}, keep & ~self.graph.mask(ends)) for more in ({}, noise))
            follows.append(doubled(moved - still))
        return float(rms(follows[0] - follows[1]))

    def _is_alive(self, gate: Node, node: Node, memory: list[int], attention: list[int]) -> bool:
        """With memory gone, is the sum another when attention gives what it gives for other tokens? (One over zeros gives the same.)"""
        gone = min(self._ends(gate), key=lambda ends: self._influence(node, ends, memory))
        still = self._run(node, gone)
        moved = self._run(node, {**gone, **{i: value for i, value in self._for_other_tokens().items() if i in attention}}) - still
        return not rms(moved) <= ALIVE * rms(still)

    def _for_other_tokens(self) -> dict[int, torch.Tensor]:
        """What attention gives when each sequence is the one before it in the batch."""
        if self._others is None:
            tokens = next(n for n in self.graph.nodes if n.op == "tokens")
            try:
                found = self.replay.run(sorted(self.attention), {tokens.i: tokens.value.roll(1, 0)})
            except (RuntimeError, IndexError):  # what is done hangs on the tokens
                found = list(self._noise(sorted(self.attention)).values())
            self._others = dict(zip(sorted(self.attention), found, strict=True))
        return self._others

    def _outside(self, gate: Node, node: Node, memory: list[int]) -> list[int]:
        """Values of the input beside memory that enter the sum."""
        blocked = 1 << gate.i | self.graph.mask(memory)
        region = {node.i}
        todo, ends = [node.i], set()
        while todo:
            for j in self.graph.nodes[todo.pop()].ins:
                if blocked >> j & 1 or j in region or not self.graph.by_tokens(j):
                    continue
                inner = self.graph.nodes[j]
                if self.graph.above(j) & blocked or (is_a(inner, BLEND) and not self.leaves >> j & 1 and len(region) < 30):
                    region.add(j)
                    todo.append(j)
                else:
                    ends.add(j)
        floating = sorted(i for i in ends if self.graph.nodes[i].value.is_floating_point())
        own = {self.graph.nodes[i].memory for i in memory}  # a normaliser of the memory's is no other stream
        return [i for i in floating if self.graph.nodes[i].memory not in own] or floating

    def _noise(self, leaves: list[int]) -> dict[int, torch.Tensor]:
        return {i: noisy(self.graph.nodes[i].value, i, least=0.1) for i in leaves}

    def _run(self, node: Node, given: dict[int, torch.Tensor]) -> torch.Tensor:
        """The sum with some values replaced; results of memory and attention stay what they are."""
        value: torch.Tensor = self.replay.one(node.i, given, self.leaves & ~self.graph.mask(given))
        precise: torch.Tensor = doubled(value)
        return precise

    @staticmethod
    def swings(gate: Node) -> bool:
        middle = float(gate.value.double().mean())
        return STUCK < middle < 1 - STUCK

    def _alone(self, good: list[Verdict]) -> Verdict:
        """The first blend, if memory enters the stream by such blends only."""
        ends = self._same_place({b.nodes[0].place for b in good}, {b.nodes[0].i for b in good})
        memory = [self.graph.nodes[i] for i in self.source if not self._for_state(i)]
        whole, past = self.trace.effect(memory), self.trace.effect(memory, self.graph.mask(ends))
        if past > 0.3 * whole:
            text = "one gate blends attention and memory, but memory is added to the stream past it"
            return no(text, good[0].nodes[0], category="residual_fusion")
        return good[0]

    def _same_place(self, places: set[object], ends: set[int]) -> set[int]:
        return ends | {n.i for n in self.graph.nodes if n.place in places and is_a(n, ADDS | {"sum", "bmm"})}

    def _for_state(self, i: int) -> bool:
        return any(self.graph.depends(end, i) for end in self.ends.get(self.source[i], ()))

    # --- what it is instead ---

    def other_fusion(self) -> Verdict:
        meets = self.meetings()
        sums = [n for n in meets if is_a(n, ADDS)]
        cats = [n for n in meets if n.op in ("cat", "stack") and not self._only_for_gate(n)]
        if cats and (not sums or cats[0].i < sums[0].i):
            return no("memory and attention are concatenated, not blended by a gate", cats[0], category="concat_fusion")
        if sums:
            return no("memory is added to the stream, not blended by a gate and its complement", sums[0], category="residual_fusion")
        if not meets:
            return no("memory and attention do not meet in a sum that a gate and its complement make", *self.trace.outputs[-1:])
        return no("memory and attention are joined in another way than by one gate and its complement", meets[0])

    def meetings(self) -> list[Node]:
        """Follow the first memory's output forward to the nodes where it meets another stream."""
        graph = self.graph
        meets: list[Node] = []
        first = [i for i, k in self.source.items() if k == min(self.source.values())]
        pure = set(first)
        states = {s.i for c in self.trace.chains for s in c.states}
        for node in graph.nodes[min(first) :]:
            inside = [i for i in node.ins if i in pure]
            if not inside or node.i in states or node.i in self.source or not self.trace.reaches_logits(node):
                continue
            outside = [i for i in node.ins if i not in pure and graph.by_tokens(i)]
            inner = node.memory in self.inside and base(node.op) in ("mul", "div", "alias", "stack", "copy")
            if not outside or inner or base(node.op) in ("mul", "div"):
                pure.add(node.i)
            elif not self._feeds_state(node):
                meets.append(node)
        return meets

    def _feeds_state(self, node: Node) -> bool:
        """Work inside the memory that leads to the next state and not to the output (error, gate, write)."""
        chain = self.trace.chain
        return chain is not None and node.memory == chain.memory and self.graph.depends(chain.last.i, node.i)

    def _only_for_gate(self, node: Node) -> bool:
        gates = [n.i for n in self.graph.nodes[node.i + 1 :] if self.graph.depends(n.i, node.i) and is_sigmoid(self.graph, n)]
        return bool(gates) and not self.graph.reach(self.trace.logits, self.graph.mask(gates)) >> node.i & 1


def mixes_tokens(fusion: Fusion, node: Node) -> bool:
    graph = fusion.graph
    return bool(sum(graph.by_tokens(i) for i in node.ins) == 2 or is_a(node, {"sum"}))
