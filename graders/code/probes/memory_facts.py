"""Class, recurrence and decay of a memory, from op logs of one model at two lengths. Runs INSIDE the sandbox.

Every rule asks the program itself (see replay.py): parts of it are run again with values changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import torch
from gates import in_unit, is_sigmoid, moves
from memory_chain import Chain, Step, main_chains, ranked, side_by_side
from oplog import Graph, Node
from ops import PRODUCTS, SAME, SOFT, base, core, is_a, param_operand
from replay import Replay, is_measure, noisy, rms, share_of
from verdicts import Verdict, agree, no, unsure, yes

OPAQUE = ("gru", "lstm", "rnn", "scan", "while", "compiled", "map_impl", "cond")  # one operation that holds a loop
FAINT = 1e-6  # of the largest gradient: below it a part is there for show
FELT = 1e-5  # relative change of the logits: below it a part is there for show


class Trace:
    """One op log with its graph, its length and the state chains found in it."""

    def __init__(self, graph: Graph, length: int, logits: int, grads: dict[str, float] | None) -> None:
        self.graph, self.length, self.logits, self.grads = graph, length, logits, grads
        chains, self.every = main_chains(graph, length - 2)
        self.chains = [c for c in chains if graph.depends(logits, c.states[-2].i)] or chains
        self.memory_nodes = [n for n in graph.nodes if n.memory is not None]
        used = {i for n in graph.nodes if n.memory is None for i in n.ins} | {logits}
        self.outputs = [n for n in self.memory_nodes if n.i in used and graph.by_tokens(n.i)] or self.memory_nodes[-1:]
        self.grows = True  # does the memory's work grow with the length? (known when two lengths are compared)
        self._passes: list[list[Chain]] | None = None
        self._steps: dict[int, list[Step]] = {}
        self._counting: dict[int, bool] = {}

    @property
    def chain(self) -> Chain | None:
        return self.chains[0] if self.chains else None

    def passes(self) -> list[list[Chain]]:
        """The chains of each memory and pass: one, or as many as there are heads or sequences that go one by one."""
        if self._passes is None:
            self._passes = []
            main = {c.where for c in self.chains}
            for chain in sorted((c for c in self.every if c.where in main), key=lambda c: c.last.i):
                same = next((p for p in self._passes if p[0].where == chain.where and not self._follows(chain, p)), None)
                if same is None:
                    self._passes.append([chain])
                else:
                    same.append(chain)
        return self._passes

    def _follows(self, chain: Chain, earlier: list[Chain]) -> bool:
        return any(self.graph.depends(chain.last.i, c.states[0].i) for c in earlier)

    def steps(self, chain: Chain) -> list[Step]:
        """Steps whose old state is itself a result of a step: the second, the third and the last; all where a step is many tokens."""
        if chain.last.i not in self._steps:
            last = len(chain.states) - 1
            numbers = {min(2, last), min(3, last), last} if not self.is_sparse(chain) else set(range(1, last + 1))
            self._steps[chain.last.i] = [Step(self.graph, chain, n, self.every) for n in sorted(numbers)]
        return self._steps[chain.last.i]

    def keep_growing(self, other: Trace) -> None:
        """Drop chains outside the memory that are as long in a trace of another length: a stream through layers is no state."""
        here, there = (Counter((n.memory, n.place, n.op) for n in trace.graph.nodes) for trace in (self, other))
        self.chains = [c for c in self.chains if c.memory is not None or here[c.where] != there[c.where]]

    def keep_counting(self) -> bool:
        """In place of a chain that the logits do not change with, one of the same memory and pass that they do change with."""
        before = list(self.chains)
        for n, chain in enumerate(self.chains):
            if not self.counts(chain.last):
                rivals = [c for c in self.every if c.memory == chain.memory and side_by_side(c, chain) and c is not chain]
                self.chains[n] = next((c for c in ranked(rivals) if self._moves_logits(c)), chain)
        self.chains = list(dict.fromkeys(self.chains))
        return self.chains != before

    def is_sparse(self, chain: Chain | None) -> bool:
        """Fewer states than tokens?"""
        return chain is not None and len(chain.states) < self.length - 2

    def learns(self, nodes: Iterable[Node]) -> bool:
        """Does a trained parameter that these nodes use get a gradient worth the name?"""
        graph = self.graph
        names = {p.name for n in nodes for i in n.ins if not graph.by_tokens(i) for p in graph.trained_params(i)}
        return any(self.has_grad(name) for name in names)

    def counts(self, state: Node) -> bool:
        """Do the logits change with the states up to this one?"""
        chain = next((c for c in self.chains if state in c.states), None)
        return self._moves_logits(chain) if chain else self._counts(state)

    def _moves_logits(self, chain: Chain) -> bool:
        return self._counts(chain.states[len(chain.states) // 2])

    def _counts(self, state: Node) -> bool:
        if state.i not in self._counting:
            self._counting[state.i] = self.reaches_logits(state) and self.effect([state]) > FELT
        return self._counting[state.i]

    def has_grad(self, name: str) -> bool:
        if self.grads is None:  # there was no backward pass
            return True
        return self.grads.get(name, 0.0) > FAINT * max(self.grads.values(), default=0.0)

    def places(self) -> set[object]:
        """Where in the source operations ran."""
        return {n.place[:1] for n in self.graph.nodes if n.place}

    def reaches_logits(self, node: Node) -> bool:
        return bool(self.graph.depends(self.logits, node.i))

    def effect(self, nodes: Iterable[Node], fixed: int = 0) -> float:
        """The relative change of the logits when these values get noise of their own size."""
        given = {n.i: noisy(n.value, n.i) for n in nodes if is_measure(n.value)}
        logits = self.graph.nodes[self.logits].value
        moved = Replay(self.graph).one(self.logits, given, fixed) - logits if given else torch.zeros(1)
        return rms(moved) / (rms(logits) + 1e-12) if bool(torch.isfinite(moved).all()) else 1.0


# --- recurrence and the class -----------------------------------------------------------------------------


def memory_class(trace: Trace, called: bool) -> Verdict:
    graph = trace.graph
    if not called:
        return no("NeuralMemory is never called in the forward pass, or computes nothing in it")
    work = [n for n in trace.memory_nodes if graph.by_tokens(n.i) and not is_a(n, SAME)]
    if not work:
        return no("NeuralMemory is called, and does nothing with its input")
    if not any(trace.reaches_logits(n) for n in work):
        return no("what NeuralMemory computes does not reach the logits", work[-1])
    if trace.effect(trace.outputs) < FELT:
        return no("what NeuralMemory computes has next to no effect on the logits", *trace.outputs[-1:])
    mixing = [n for n in work if mixes(graph, n)]
    inside = [c for c in trace.chains if c.memory is not None]
    if not inside and not mixing:
        return no("NeuralMemory is called, but it is a layer on each token by itself: it keeps nothing", work[-1])
    if not any(trace.counts(c.last) for c in inside) and not gives_earlier_tokens(trace, unclear=not inside):
        return no("what NeuralMemory gives for a token does not change with earlier ones: it keeps nothing", *trace.outputs[-1:])
    return yes("NeuralMemory is an nn.Module, the forward pass calls it and its work reaches the logits", *trace.outputs[-1:])


def mixes(graph: Graph, node: Node) -> bool:
    """Does this operation bring values of the input together that a layer on each token by itself would not?"""
    op = base(node.op)
    if op in ("cat", "stack"):
        return bool(sum(graph.by_tokens(i) for i in node.ins) > 1)
    if op.startswith("_scaled_dot_product") or op in ("cumsum", "cumprod", "flip", "roll"):
        return True
    return op in ("bmm", "mm", "baddbmm", "addmm") and sum(graph.by_tokens(i) for i in node.ins[-2:]) == 2


def mixes_before(graph: Graph, node: Node) -> bool:
    """Did values of several tokens meet inside the memory on the way to this one? (Two values side by side do not meet.)"""
    return any(n.memory == node.memory and mixes(graph, n) and base(n.op) not in ("cat", "stack") for n in graph.of(graph.above(node.i)))


def attends_over_past(short: Trace, long: Trace) -> Node | None:
    """A softmax inside the memory, with no chain of states: over a row that grows token by token, or over T x T scores."""
    if _has_matrix(short) or _has_matrix(long):
        return None
    return _attention_in(long) if _attention_in(short) and _attention_in(long) else None


def _attention_in(trace: Trace) -> Node | None:
    soft = [n for n in trace.memory_nodes if n.op in SOFT and n.shape]
    rows = {n.shape[-1] for n in soft}
    if len(rows) >= trace.length - 2 and trace.length in rows:
        return soft[-1]
    square = [n for n in soft if n.shape[-2:] == (trace.length, trace.length)]
    fused = [n for n in trace.memory_nodes if n.op.startswith("_scaled_dot_product")]
    return (square or fused)[-1] if square or fused else None


def _has_matrix(trace: Trace) -> bool:
    return any(c.memory is not None and c.reads() for c in trace.chains)


def recurrent_update(short: Trace, long: Trace, *, remembers: bool) -> Verdict:
    verdict, chain = _recurrence(short, long), short.chain
    if verdict.says != "yes" or chain is None:
        return verdict
    if remembers:
        return no("the answer depends on earlier calls: the state is left over", chain.last, category="not_recurrent")
    last = short.chains[-1], long.chains[-1] if long.chains else None
    if any(sees_future(short, c) and (d is None or sees_future(long, d)) for c, d in dict.fromkeys([(chain, long.chain), last])):
        return no("what the memory holds or gives changes with later tokens: it sees the future", chain.last, category="not_recurrent")
    if mixes_sequences(short, chain):
        return no("one sequence of a batch changes what the memory gives for another", chain.last, category="not_recurrent")
    late = long.steps(long.chain)[-1:] if long.chain else []
    other = [step for c in _first_of_each(short.chains)[1:] for step in short.steps(c)[-1:]]
    for step in (*short.steps(chain), *other, *late):
        kept = rms(step.carried(step.before.value)) / (rms(step.before.value) + 1e-12)
        if kept < 1e-3:
            return no("next to nothing of a state is carried into the next one", step.after, category="not_recurrent")
    if any(rms(step.without_state()) < 1e-7 for step in late):
        return no("from some token on nothing is written any more", late[0].after, category="not_recurrent")
    return verdict


def _is_rnn(node: Node) -> bool:
    return any(word in node.op for word in ("lstm", "gru", "rnn"))


def sees_future(trace: Trace, chain: Chain) -> bool:
    """Does a state in the middle, or what the memory gives for an earlier token, change with the last token that it is given?"""
    middle = chain.states[len(chain.states) // 2]
    given = [n for n in trace.outputs if n.memory == chain.memory and n.shape.count(trace.length) == 1 and n.value.is_floating_point()]

    def last_token(node: Node) -> tuple[int, int] | None:
        return (node.shape.index(trace.length), -1) if trace.length in node.shape[:2] else None

    moved, *others = _with_other_input(trace, chain.memory, [middle, *given], last_token)
    if rms(moved - middle.value) > 1e-4 * rms(middle.value):
        return True
    return any(_differs_before_last(other, n, trace.length) for other, n in zip(others, given, strict=True))


def _differs_before_last(moved: torch.Tensor, node: Node, length: int) -> bool:
    time = node.shape.index(length)
    earlier = (moved - node.value).narrow(time, 0, length - 1)
    return bool(rms(earlier) > 1e-4 * rms(node.value))


def gives_earlier_tokens(trace: Trace, *, unclear: bool) -> bool:
    """Does what a memory gives for later tokens change with the first one that it is given?"""
    for memory in dict.fromkeys(n.memory for n in trace.memory_nodes):
        given = [n for n in trace.outputs if n.memory == memory and n.value.is_floating_point() and trace.reaches_logits(n)]
        timed = [n for n in given if n.shape.count(trace.length) == 1]
        whole = all(trace.length in n.shape for n in _inputs(trace, memory) if n.value.is_floating_point())
        if not timed or not whole:  # called token by token, or of a size that shows no time
            return unclear
        moved = _with_other_input(trace, memory, timed, lambda n: (n.shape.index(trace.length), 0) if trace.length in n.shape else None)
        for value, node in zip(moved, timed, strict=True):
            later = (value - node.value).narrow(node.shape.index(trace.length), 1, trace.length - 1)
            if not rms(later) <= 1e-6 * rms(node.value):
                return True
    return False


def mixes_sequences(trace: Trace, chain: Chain) -> bool:
    """Does what the memory gives for the last sequence change with the first one?"""
    batch = trace.graph.batch
    if batch < 2:
        return False
    given = [n for n in trace.outputs if n.memory == chain.memory and n.shape[:1] == (batch,) and n.value.is_floating_point()]
    moved = _with_other_input(trace, chain.memory, given, lambda node: (0, 0) if node.shape[:1] == (batch,) else None)
    return any(rms(m[-1] - n.value[-1]) > 1e-4 * rms(n.value[-1]) for m, n in zip(moved, given, strict=True))


def _inputs(trace: Trace, memory: int | None) -> list[Node]:
    """What a memory is given that is made of the tokens."""
    graph = trace.graph
    found = {i for n in graph.nodes if n.memory == memory for i in n.ins if graph.nodes[i].memory is None and graph.by_tokens(i)}
    return [graph.nodes[i] for i in sorted(found)]


def _with_other_input(
    trace: Trace, memory: int | None, targets: list[Node], where: Callable[[Node], tuple[int, int] | None]
) -> list[torch.Tensor]:
    """The targets' values when the memory is given another input at one place of one dimension."""
    graph = trace.graph
    if memory is None:
        return [n.value for n in targets]
    given = {}
    for node in _inputs(trace, memory):
        if is_measure(node.value) and (place := where(node)) is not None:
            given[node.i] = node.value.clone()
            given[node.i].select(*place).add_(max(rms(node.value), 0.1))
    values: list[torch.Tensor] = Replay(graph).run([n.i for n in targets], given) if given else [n.value for n in targets]
    return values


def _recurrence(one: Trace, other: Trace) -> Verdict:
    short, long = sorted((one, other), key=lambda trace: trace.length)
    found = attends_over_past(short, long)
    if found:
        return no("past keys and values are kept and attended over: no state is updated", found, category="kv_cache")
    if not short.chain or not long.chain:
        opaque = [n for n in long.memory_nodes if any(word in n.op for word in OPAQUE)]
        if opaque and _is_rnn(opaque[0]):
            return yes(f"{opaque[0].op} carries a state from token to token", opaque[0])
        if opaque:
            return unsure(f"{opaque[0].op} hides whether a state is carried from token to token", opaque[0])
        if not long.memory_nodes:
            return no("no chain of states was found: nothing is carried from token to token", category="not_recurrent")
        if not long.grows:
            text = "the memory does the same number of operations whatever the length: no step per token"
            return no(text, short.memory_nodes[-1], category="not_recurrent")
        text = "the work grows with the length, but no state is made from the one before"
        return no(text, long.memory_nodes[-1], category="not_recurrent")
    a, b = len(short.chain.states), len(long.chain.states)
    if (b - a) % (long.length - short.length) or b <= a:  # layers that hand one state on make more than one step a token
        return no(
            f"{a} states for {short.length} tokens and {b} for {long.length}: not one step per token",
            short.chain.last,
            category="not_recurrent",
        )
    if not short.counts(short.chain.last):
        return no("a chain of states, but they do not reach the logits", short.chain.last, category="not_recurrent")
    return yes(f"{a} states for {short.length} tokens, {b} for {long.length}: each made from the one before", short.chain.last)


# --- decay ------------------------------------------------------------------------------------------------


def learnable_decay(trace: Trace) -> Verdict:
    found = by_steps(trace, _decay_of)
    if found is not None:
        return found
    rnn = [n for n in trace.memory_nodes if _is_rnn(n)]
    if rnn and trace.learns(rnn):
        return yes(f"a learned forget gate of {rnn[0].op} scales the carried state", rnn[0])
    return no("no state is carried from step to step that a parameter could fade", *trace.outputs[-1:], category="fixed_decay")


def _decay_of(trace: Trace, step: Step) -> Verdict:
    graph = trace.graph
    scaling = carriers(step)
    learned = [n for n in scaling if not graph.by_tokens(n.i) and graph.trained_params(n.i)]
    live = [
        (n, p) for n in learned if graph.trains(n.i) for p in graph.trained_params(n.i) if trace.has_grad(p.name) and bends(graph, n, p)
    ]
    if live:
        return yes(f"the parameter {live[0][1].name} scales the carried state and gets a gradient", live[0][0], step.after)
    gates = [n for n in scaling if graph.by_tokens(n.i) and is_forget_gate(trace, n)]
    if gates:
        return yes("a learned forget gate scales the carried state", core(graph, gates[0].i), step.after)
    if [n for n in learned if not graph.trains(n.i)]:
        return no("a parameter scales the state, but is detached from it: no gradient", learned[0], category="fixed_decay")
    if learned:
        return no("a parameter scales the carried state, but gets no gradient worth the name", learned[0], category="fixed_decay")
    if scaling:
        return no("what scales the carried state is not learned", scaling[0], step.after, category="fixed_decay")
    state = step.before.value
    kept = step.carried(state)
    share = share_of(kept, state)
    if rms(kept - share * state) > 1e-3 * rms(state):
        return no("the carried state is changed, but by nothing that is learned and scales it", step.after, category="fixed_decay")
    same = abs(share - 1) < 1e-4
    text = "the carried state is not scaled at all" if same else f"the carried state is scaled by the constant {share:.4g}"
    return no(text, step.after, category="fixed_decay")


def carriers(step: Step) -> list[Node]:
    """The values from outside that change how much of the old state is carried on (reads of it stay as they were)."""
    outside = [n for n in step.boundary() if is_measure(n.value)]
    state = step.before.value
    leaves = {n.i: n.value.clone().requires_grad_() for n in outside}
    with torch.enable_grad():
        kept = step.carried(state, leaves)
        weights = torch.randn(kept.shape, generator=torch.Generator().manual_seed(5)).to(kept.dtype)
        if not kept.requires_grad:
            return []
        grads = torch.autograd.grad((kept * weights).sum().real, list(leaves.values()), allow_unused=True)
    floor = 1e-6 * (rms(kept) * kept.numel() ** 0.5 + 1e-12)
    return [n for n, g in zip(outside, grads, strict=True) if g is not None and float(g.norm()) > floor]


def bends(graph: Graph, node: Node, param: Node) -> bool:
    """Does the value change with the parameter enough to matter, and a gradient go the same way?"""
    if not moves(graph, node, [param]):
        return False
    if not graph.learns or node.fused is not None:
        return True
    try:
        found = torch.autograd.grad(node.tensor.sum().abs(), param.tensor, retain_graph=True, allow_unused=True)[0]
    except RuntimeError:
        return False
    return found is not None and float(found.abs().max()) > 1e-6


def is_forget_gate(trace: Trace, node: Node) -> bool:
    """A value in (0, 1), made of the input by trained weights that get a gradient."""
    graph = trace.graph
    if not (in_unit(node) or _is_share(graph, node)) or not graph.trains(node.i) or not moves(graph, node, graph.trained_params(node.i)):
        return False
    if not any(base(n.op) in BOUNDING or is_sigmoid(graph, n) for n in _formula(graph, node)):
        return False
    weighted = [n for n in graph.of(graph.above(node.i)) if n.memory == node.memory and param_operand(graph, n)]
    return trace.learns(weighted) if weighted else any(trace.has_grad(p.name) for p in graph.trained_params(node.i))


def _is_share(graph: Graph, node: Node) -> bool:
    """Above 0 and at most 1, at this step or at others less than 1: a gate beside a running maximum is 1 where it is the largest."""
    value = node.value
    if base(core(graph, node.i).op) not in ("exp", "exp2", "sigmoid") or not bool(((value > 0) & (value <= 1)).all()):
        return False
    return any(bool((n.value < 1 - 1e-3).any()) for n in graph.nodes if (n.place, n.op, n.memory) == (node.place, node.op, node.memory))


BOUNDING = {"sigmoid", "exp", "tanh", "softplus", "hardsigmoid", "_softmax", "clamp", "log_sigmoid_forward"}


def _formula(graph: Graph, node: Node) -> list[Node]:
    """The value and what makes it, back to the first products with weights."""
    found, todo = [node], [node]
    while todo and len(found) < 40:
        for i in todo.pop().ins:
            n = graph.nodes[i]
            if n.ins and not is_a(n, PRODUCTS) and graph.by_tokens(i) and n not in found:
                found.append(n)
                todo.append(n)
    return found


def by_steps(trace: Trace, rule: Callable[[Trace, Step], Verdict]) -> Verdict | None:
    """What a rule says of the main chain's steps; None without a chain. Other memories of the model must say no less."""
    if trace.chain is None:
        return None
    found = []
    for chain in _first_of_each(trace.chains):
        said = agree([rule(trace, step) for step in trace.steps(chain)])
        if said.says == "yes" and not trace.counts(chain.last):
            said = no(f"{said.text}, but the state does not reach the logits", *said.nodes)
        found.append(said)
    return next((v for v in found if v.says != "yes"), found[0])


def _first_of_each(chains: list[Chain]) -> list[Chain]:
    """Chains at different places of the source: of layers that share their code the first two and the last are asked."""
    alike: dict[object, list[Chain]] = {}
    for chain in chains:
        alike.setdefault(chain.last.place[:1], []).append(chain)
    return [c for found in alike.values() for c in dict.fromkeys([*found[:2], found[-1]])]
