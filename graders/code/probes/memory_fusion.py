"""How memory and attention are joined: one gate and its complement, a residual sum, a concatenation. INSIDE the sandbox."""

from __future__ import annotations

from algebra import ADDS, Algebra, Terms, TooBig, base
from memory_chain import core
from memory_facts import Trace
from oplog import Node
from verdicts import Verdict, no, unsure, yes

SOFT = ("_softmax", "_safe_softmax")


class Fusion:
    def __init__(self, trace: Trace) -> None:
        self.trace, self.graph = trace, trace.graph
        self.algebra = Algebra(self.graph)
        self.reads = {n.i: k for k, chain in enumerate(trace.chains) for n in chain.reads()}
        if not self.reads:
            self.reads = {n.i: n.memory for n in trace.outputs}
        self.inside = {n.memory for n in trace.memory_nodes}
        self.attention = {n.i for n in self.graph.nodes if self._is_attention(n)}
        self._sources: dict[int, tuple[int, bool]] = {}

    def _is_attention(self, node: Node) -> bool:
        if node.op.startswith("_scaled_dot_product"):
            return True
        if base(node.op) not in ("bmm", "mm") or node.memory in self.inside:
            return False
        T = self.trace.length
        soft = core(self.graph, node.ins[0])
        return soft.op in SOFT and soft.shape[-2:] == (T, T)

    def sources(self, i: int) -> tuple[int, bool]:
        """(latest chain read or -1, is there attention) among the nearest sources of a value."""
        if i not in self._sources:
            latest, attention, todo = -1, False, [i]
            seen: set[int] = set()
            while todo:
                j = todo.pop()
                if j in seen:
                    continue
                seen.add(j)
                if j in self.reads:
                    latest = max(latest, self.reads[j])
                elif j in self.attention:
                    attention = True
                else:
                    todo += self.graph.nodes[j].ins
            self._sources[i] = (latest, attention)
        return self._sources[i]

    def verdict(self) -> Verdict:
        if not self.reads:
            return unsure("no memory was seen at work that could be blended with attention")
        blends = [b for b in map(self.blend_at, self._sums()) if b]
        if good := [b for b in blends if b.says == "yes"]:
            return self._alone(good)
        if blends:
            return blends[0]
        return self.other_fusion()

    def _sums(self) -> list[Node]:
        T = self.trace
        return [n for n in self.graph.nodes if adds(n) and T.reaches_logits(n) and self.sources(n.i)[0] >= 0 and not self._is_state(n)]

    def _is_state(self, node: Node) -> bool:
        return any(node is s for c in self.trace.chains for s in c.states)

    def terms(self, node: Node) -> Terms:
        try:
            return self.algebra.tidy(self.algebra.poly(node.i))
        except TooBig:
            return {(node.i,): 1.0}

    def blend_at(self, node: Node) -> Verdict | None:
        terms = self.terms(node)
        for g in sorted({a for t in terms for a in t if a >= 0}):
            if self.is_gate(g) and (found := self._complement(terms, g)):
                return self._judge(node, g, found)
        return None

    def is_gate(self, atom: int) -> bool:
        value = self.graph.nodes[atom].value
        if value is None or not value.is_floating_point() or value.numel() == 0:
            return False
        return bool((value > 0).all()) and bool((value < 1).all()) and core(self.graph, atom).op in ("sigmoid", *SOFT)

    def _complement(self, terms: Terms, g: int) -> tuple[Terms, Terms] | None:
        """(memory terms, others) when g multiplies a - m and the rest holds m or a whole; else None."""
        having: Terms = {}
        for t, c in terms.items():
            if t.count(g) == 1:
                rest = list(t)
                rest.remove(g)
                having[tuple(rest)] = c
        tags = {t: max((self.sources(a if a >= 0 else -a - 1)[0] for a in t), default=-1) for t in having}
        latest = max(tags.values(), default=-1)
        memory = {t: c for t, c in having.items() if tags[t] == latest >= 0}
        others = {t: c for t, c in having.items() if t not in memory}
        if not memory or not others:
            return None
        for side in (memory, others):
            if all(abs(terms.get(t, 0.0) + c) < 1e-6 for t, c in side.items()):
                return memory, others
        return None

    def _judge(self, node: Node, g: int, found: tuple[Terms, Terms]) -> Verdict:
        gate, (_, others) = core(self.graph, g), found
        if gate.op != "sigmoid":
            return unsure("memory is blended by weights that add up to one, but they are no sigmoid gate", gate, node)
        if not self.graph.by_tokens(g):
            return unsure("memory is blended with its complement by a gate that does not see the input", gate, node)
        if not self.graph.nodes[g].tensor.requires_grad or not self.graph.trained_params(g):
            return unsure("memory is blended with its complement by a gate that is not trained", gate, node)
        if not any(self.sources(a if a >= 0 else -a - 1)[1] for t in others for a in t):
            if not self.attention:
                return unsure("memory is blended with something, but no softmax attention was recognised", node)
            return no("memory is blended with something that attention has no part in", node)
        if not self.swings(gate):
            return unsure("one gate blends attention and memory, but it stands still near 0 or 1", node, gate)
        return yes("one gate blends attention and memory as g and 1 - g", node, gate)

    def _alone(self, good: list[Verdict]) -> Verdict:
        """The first blend, if memory enters the stream by such blends only."""
        ends = {b.nodes[0].i for b in good}
        for n in self.meetings():
            if n.i not in ends and not any(self.graph.depends(end, n.i) for end in ends) and not self._only_for_gate(n):
                return unsure("one gate blends attention and memory, but memory enters the stream another way too", good[0].nodes[0], n)
        return good[0]

    # --- what it is instead ---

    @staticmethod
    def swings(gate: Node) -> bool:
        return 1e-3 < float(gate.value.mean()) < 1 - 1e-3 and float(gate.value.std()) > 1e-6

    def other_fusion(self) -> Verdict:
        return self._name_fusion(self.meetings())

    def meetings(self) -> list[Node]:
        """Follow the first memory's output forward to the nodes where it meets another stream."""
        graph = self.graph
        meets: list[Node] = []
        first = [i for i, k in self.reads.items() if k == 0]
        pure = set(first)
        states = {s.i for c in self.trace.chains for s in c.states}
        for node in graph.nodes[min(first) :]:
            inside = [i for i in node.ins if i in pure]
            if not inside or node.i in states or node.i in self.reads or not self.trace.reaches_logits(node):
                continue
            outside = [i for i in node.ins if i not in pure and graph.by_tokens(i)]
            inner = node.memory in self.inside and base(node.op) in ("mul", "div", "alias", "stack", "copy")
            if not outside or inner or base(node.op) == "mul":
                pure.add(node.i)
            elif self._feeds_state(node):
                continue
            else:
                meets.append(node)
        return meets

    def _feeds_state(self, node: Node) -> bool:
        """Work inside the memory that leads to the next state and not to the output (error, gate, write)."""
        chain = self.trace.chain
        if chain is None:
            return False
        return bool(node.memory == chain.memory and self.graph.depends(chain.last.i, node.i))

    def _name_fusion(self, meets: list[Node]) -> Verdict:
        sums = [n for n in meets if adds(n)]
        cats = [n for n in meets if n.op == "cat"]
        rest = [n for n in meets if n not in sums and n not in cats]
        if half := self._complement_in_use():
            return unsure("a gate and its complement are in use, but not as one blend that could be read", half)
        if any(self.terms(n) == {(n.i,): 1.0} for n in sums) or rest or not meets:
            odd = (rest or sums or [None])[0]
            return unsure("how memory and attention are joined could not be read", odd)
        fused = [n for n in cats if not self._only_for_gate(n)]
        if fused and not sums:
            return no("memory and attention are concatenated, not blended by a gate", fused[0], category="concat_fusion")
        if sums:
            return no("memory is added to the stream, not blended by a gate and its complement", sums[0], category="residual_fusion")
        return unsure("how memory and attention are joined could not be read", cats[0])

    def _complement_in_use(self) -> Node | None:
        """A product with 1 - g, g a sigmoid gate, that reaches the logits; the memory's own inside does not count."""
        for node in self.graph.nodes:
            if base(node.op) != "mul" or node.memory in self.inside or not self.trace.reaches_logits(node):
                continue
            for i in node.ins:
                terms = self.algebra.poly(i)
                if len(terms) == 2 and () in terms and any(len(t) == 1 and t[0] >= 0 and self.is_gate(t[0]) for t in terms):
                    return node
        return None

    def _only_for_gate(self, node: Node) -> bool:
        users = [n for n in self.graph.nodes[node.i + 1 :] if self.graph.depends(n.i, node.i) and n.op == "sigmoid"]
        return bool(users) and not self.graph.reach(self.trace.logits, self.graph.mask(n.i for n in users)) >> node.i & 1


def adds(node: Node) -> bool:
    op: str = base(node.op)
    return op in ADDS
