"""Class, recurrence and decay of a memory, from op logs of one model at two lengths. Runs INSIDE the sandbox.

Every rule says yes or no only where the graph leaves no other reading, and "undecided" with the reason elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from algebra import SAME, base
from memory_chain import Chain, Step, core, main_chains
from oplog import Graph, Node
from verdicts import Verdict, agree, no, unsure, yes

LAYERS = {"mm", "addmm", "bmm", "native_layer_norm", "_fused_rms_norm", "embedding", "add", "convolution"}
OPAQUE = ("gru", "lstm", "rnn", "scan", "while", "compiled", "map_impl", "cond")  # one operation that holds a loop
FAINT = 1e-6  # of the largest gradient: below it a part is there for show


class Trace:
    """One op log with its graph, its length and the state chains found in it."""

    def __init__(self, graph: Graph, length: int, logits: int, grads: dict[str, float]) -> None:
        self.graph, self.length, self.logits, self.grads = graph, length, logits, grads
        self.chains, self.others = main_chains(graph, length - 2)
        self.memory_nodes = [n for n in graph.nodes if n.memory is not None]
        used = {i for n in graph.nodes if n.memory is None for i in n.ins} | {logits}
        self.outputs = [n for n in self.memory_nodes if n.i in used and graph.by_tokens(n.i)] or self.memory_nodes[-1:]

    @property
    def chain(self) -> Chain | None:
        return self.chains[0] if self.chains else None

    def learns(self, nodes: Iterable[Node]) -> bool:
        """Does a trained parameter that these nodes use get a gradient worth the name?"""
        graph = self.graph
        names = {p.name for n in nodes for i in n.ins if not graph.by_tokens(i) for p in graph.trained_params(i)}
        return any(self.has_grad(name) for name in names)

    def live(self, i: int) -> bool:
        """The same for the value i: by the parameters that the memory made it with, or by any if it has none there."""
        inside = [n for n in self.graph.of(self.graph.above(i)) if n.memory is not None and n.memory == self.graph.nodes[i].memory]
        weighted = [n for n in inside if any(self.graph.nodes[j].op == "param" or param_operand(self.graph, n) for j in n.ins)]
        return self.learns(weighted) if weighted else any(self.has_grad(p.name) for p in self.graph.trained_params(i))

    def has_grad(self, name: str) -> bool:
        return self.grads.get(name, 0.0) > FAINT * max(self.grads.values(), default=0.0)

    def reaches_logits(self, node: Node) -> bool:
        return bool(self.graph.depends(self.logits, node.i))


# --- recurrence and the class -----------------------------------------------------------------------------


def memory_class(trace: Trace, called: bool) -> Verdict:
    if not called:
        return no("NeuralMemory is never called in the forward pass, or computes nothing in it")
    work = [n for n in trace.memory_nodes if trace.graph.by_tokens(n.i) and n.op not in SAME]
    if not work:
        return no("NeuralMemory is called, and does nothing with its input")
    if not any(trace.reaches_logits(n) for n in work):
        return no("what NeuralMemory computes does not reach the logits", work[-1])
    mixing = [n for n in work if mixes(trace.graph, n)]
    if not trace.chain and not mixing:
        return unsure("NeuralMemory is called, but nothing was seen in it that keeps one token for another", work[-1])
    if not trace.learns(trace.memory_nodes):
        return unsure("NeuralMemory is called, but none of its parameters gets a gradient worth the name", work[-1])
    return yes("NeuralMemory is an nn.Module, the forward pass calls it and its work reaches the logits", trace.outputs[-1])


def mixes(graph: Graph, node: Node) -> bool:
    """Does this operation bring values of the input together that a layer on each token by itself would not?"""
    op = base(node.op)
    if op.startswith("_scaled_dot_product") or op in ("cumsum", "cumprod", "flip", "roll", "cat", "stack"):
        return True
    return op in ("bmm", "mm", "baddbmm", "addmm") and sum(graph.by_tokens(i) for i in node.ins[-2:]) == 2


def attends_over_past(short: Trace, long: Trace) -> Node | None:
    """A softmax inside the memory, with no chain of states: over a row that grows token by token, or over T x T scores."""
    if short.chain or long.chain:
        return None
    for trace in (long,):
        soft = [n for n in trace.memory_nodes if n.op in ("_softmax", "_safe_softmax") and n.shape]
        rows = {n.shape[-1] for n in soft}
        if len(rows) >= trace.length - 2 and trace.length in rows:
            return soft[-1]
        square = [n for n in soft if n.shape[-2:] == (trace.length, trace.length)]
        fused = [n for n in trace.memory_nodes if n.op.startswith("_scaled_dot_product")]
        if square or fused:
            return (square or fused)[-1]
    return None


def recurrent_update(short: Trace, long: Trace, habits: dict[str, bool]) -> Verdict:
    verdict, chain = _recurrence(short, long), short.chain
    if verdict.says != "yes" or chain is None:
        return verdict
    if habits["remembers_calls"]:
        return no("the answer depends on earlier calls: the state is left over", chain.last, category="not_recurrent")
    if habits["sees_future"]:
        return unsure("the states before the last token change with the last token", chain.last)
    if not short.learns(n for n in short.memory_nodes if short.graph.depends(chain.last.i, n.i)):
        return unsure("a chain of states, but no parameter that writes to it gets a gradient worth the name", chain.last)
    return verdict


def _recurrence(short: Trace, long: Trace) -> Verdict:
    found = attends_over_past(short, long)
    if found:
        return no("past keys and values are kept and attended over: no state is updated", found, category="kv_cache")
    if not short.chain or not long.chain:
        work = (len(short.memory_nodes), len(long.memory_nodes))
        opaque = [n for n in long.memory_nodes if any(word in n.op for word in OPAQUE)]
        if opaque:
            return unsure(f"{opaque[0].op} hides whether a state is carried from token to token", opaque[0])
        if work[0] and work[0] == work[1]:
            text = "the memory does the same number of operations whatever the length: no step per token"
            return no(text, short.memory_nodes[-1], category="not_recurrent")
        return unsure("the work grows with the length, but no chain of states was recognised")
    a, b = len(short.chain.states), len(long.chain.states)
    if b - a != long.length - short.length:
        return unsure(f"{a} states for {short.length} tokens and {b} for {long.length}: not one step per token", short.chain.last)
    if not short.reaches_logits(short.chain.states[-2]):
        return unsure("a chain of states, but none of them reaches the logits", short.chain.last)
    return yes(f"{a} states for {short.length} tokens, {b} for {long.length}: each made from the one before", short.chain.last)


# --- decay ------------------------------------------------------------------------------------------------


def learnable_decay(trace: Trace) -> Verdict:
    return by_steps(trace, _decay_of) or _without_chain(trace)


def _decay_of(trace: Trace, step: Step) -> Verdict:
    graph = trace.graph
    if not step.carry:
        return unsure("how the old state enters the new one could not be read", step.after)
    factor = step.carry_factor()
    atoms = sorted({a if a >= 0 else -a - 1 for t in factor for a in t})
    nodes = [graph.nodes[a] for a in atoms]
    learned = [n for n in nodes if not graph.by_tokens(n.i) and graph.trained_params(n.i)]
    live = [n for n in learned if n.tensor.requires_grad and _has_grad(trace, n)]
    if live:
        names = ", ".join(p.name for p in graph.trained_params(live[0].i))
        return yes(f"the parameter {names} scales the carried state and gets a gradient", live[0], step.after)
    if dead := [n for n in learned if not n.tensor.requires_grad]:
        verdict = no("a parameter scales the state, but is detached from it: no gradient", dead[0], category="fixed_decay")
        return _only_fixed(graph, step, nodes, verdict)
    if learned:
        return unsure("a parameter scales the carried state, but got no gradient in the trial step", learned[0])
    gates = [n for n in nodes if graph.by_tokens(n.i)]
    if gates:
        return _forget_gate(trace, step, gates)
    if nodes:
        verdict = no("what scales the carried state is not learned", nodes[0], step.after, category="fixed_decay")
        return _only_fixed(graph, step, nodes, verdict)
    if not step.explained:
        return unsure("how the old state enters the new one could not be read", step.after)
    c = factor.get((), 1.0)
    text = "the carried state is not scaled at all" if abs(c - 1) < 1e-6 else f"the carried state is scaled by the constant {c:.4g}"
    return no(text, step.after, category="fixed_decay")


def _only_fixed(graph: Graph, step: Step, nodes: list[Node], verdict: Verdict) -> Verdict:
    if step.explained and not any(graph.by_tokens(n.i) for n in nodes):
        return verdict
    return unsure("the carried state is scaled by several things, none of them surely learned", step.after)


def _forget_gate(trace: Trace, step: Step, gates: list[Node]) -> Verdict:
    graph = trace.graph
    own = [n for n in gates if n.i not in step.write_atoms() and not graph.depends(n.i, step.before.i)]
    for n in own:
        bounded = n.value is not None and bool((n.value > 0).all()) and bool((n.value < 1).all())
        if bounded and core(graph, n.i).op == "sigmoid" and n.tensor.requires_grad and trace.live(n.i):
            return yes("a learned forget gate scales the carried state", core(graph, n.i), step.after)
    return unsure("the carried state is scaled by values that depend on the input, shared with the write", gates[0])


def _has_grad(trace: Trace, node: Node) -> bool:
    return any(trace.has_grad(p.name) for p in trace.graph.trained_params(node.i))


def _without_chain(trace: Trace) -> Verdict:
    """No state is carried: sure only when no parameter meets the memory's values but as a layer's weights."""
    if not trace.memory_nodes:
        return unsure("no memory was seen at work")
    for node in trace.memory_nodes:
        alone = [i for i in node.ins if not trace.graph.by_tokens(i) and trace.graph.params & trace.graph.above(i)]
        if alone and base(node.op) not in LAYERS and node.op not in SAME and len(alone) < len(node.ins):
            return unsure("no chain of states was recognised that a decay could scale", node)
    if any(n.op in ("sigmoid", "exp", "tanh") and mixes_before(trace.graph, n) for n in trace.memory_nodes):
        return unsure("no chain of states was recognised that a decay could scale")
    text = "no state is carried from step to step, and no parameter scales anything in the memory"
    return no(text, trace.outputs[-1], category="fixed_decay")


def mixes_before(graph: Graph, node: Node) -> bool:
    """Did values of several tokens meet inside the memory on the way to this one?"""
    return any(n.memory == node.memory and mixes(graph, n) for n in graph.of(graph.above(node.i)))


def by_steps(trace: Trace, rule: Callable[[Trace, Step], Verdict]) -> Verdict | None:
    """What a rule says of the main chain's steps; None without a chain. A no needs every other state's no as well."""
    if trace.chain is None:
        return None
    verdict = agree([rule(trace, step) for step in steps_of(trace, trace.chain)])
    if verdict.says == "no":
        for chain in trace.others:
            if agree([rule(trace, step) for step in steps_of(trace, chain)]).says != "no":
                return unsure("the memory carries several states, and they do not all say the same", trace.chain.last, chain.last)
    return verdict


def steps_of(trace: Trace, chain: Chain) -> list[Step]:
    """Two steps whose old state is itself a result of a step: the second and the last."""
    if not chain.steps:
        s = chain.states
        chain.steps = [Step(trace.graph, s[1], s[2]), Step(trace.graph, s[-2], s[-1])]
    return list(chain.steps)


def param_operand(graph: Graph, node: Node) -> bool:
    return any(not graph.by_tokens(i) and graph.trained_params(i) for i in node.ins)
