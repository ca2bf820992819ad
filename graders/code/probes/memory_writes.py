"""What a memory writes: the outer product and the surprise gate. Runs INSIDE the sandbox.

As in memory_facts: yes or no only where the graph leaves no other reading.
"""

from __future__ import annotations

import torch
from algebra import CUT_OFF, SAME, Algebra, base, is_outer
from memory_chain import CONTRACT, Step, core, numel
from memory_facts import Trace, attends_over_past, by_steps, mixes, mixes_before, param_operand
from oplog import Graph, Node
from verdicts import Verdict, no, unsure, yes

HARMLESS = SAME | CUT_OFF  # what bends no value into a gate: arithmetic, products, sums, norms, slices
HARMLESS |= {"add", "sub", "rsub", "mul", "div", "neg", "lerp", "addcmul", "bmm", "mm", "mv", "dot", "addmm", "baddbmm", "addr", "sum"}
HARMLESS |= {"mean", "select", "slice", "split", "unbind", "cat", "stack", "pow", "abs", "sqrt", "rsqrt", "linalg_vector_norm", "relu"}
HARMLESS |= {"native_layer_norm", "cumsum", "zeros", "ones", "zeros_like", "ones_like", "new_zeros", "new_ones", "embedding", "index"}
HARMLESS |= {"param", "tokens", "const", "arange", "empty", "full", "diag_embed", "triu", "tril", "norm", "clamp_min", "expand_as"}
WALK = (
    SAME
    | CUT_OFF
    | {
        "mul",
        "add",
        "sub",
        "rsub",
        "neg",
        "div",
        "lerp",
        "addcmul",
        "select",
        "slice",
        "split",
        "unbind",
        "alias",
        "index",
        "where",
    }
)


FELT = 1e-5  # the least change of a gate with the retrieved value that counts


# --- outer product ----------------------------------------------------------------------------------------


def outer_product(trace: Trace, long: Trace) -> Verdict:
    found = attends_over_past(trace, long)
    if found:
        return no("keys and values are kept in a list: no product of them is added to a state", found, category="kv_cache")
    if trace.chain and trace.chain.is_vector:
        return no("the state is one vector: no product of a column and a row is added to it", trace.chain.last)
    return by_steps(trace, _outer_of) or _outer_without_chain(trace)


def _outer_without_chain(trace: Trace) -> Verdict:
    graph = trace.graph
    if summed := _summed_products(trace):
        return yes("products of a column and a row, both projections of the input, are summed over the tokens", summed)
    products = [n for n in trace.memory_nodes if (pair := outer_operands(graph, n.i)) and all(map(graph.by_tokens, pair))]
    joined = [n for n in trace.memory_nodes if base(n.op) in ("bmm", "mm", "baddbmm", "addmm") and mixes(graph, n)]
    if products or joined or not trace.memory_nodes:
        return unsure("no chain of states was recognised that a product could be added to", *(products or joined)[:1])
    return no("no product of a column and a row is made in the memory", trace.outputs[-1])


def _summed_products(trace: Trace) -> Node | None:
    """An outer product of two projections that goes, element by element, into a running sum over the tokens."""
    graph = trace.graph
    for total in [n for n in trace.memory_nodes if n.op == "cumsum" and trace.reaches_logits(n) and len(n.shape) > 3]:
        outers, _ = walk_back(graph, total.ins[0])
        for o, (a, b) in sorted(outers.items()):
            both = all(graph.by_tokens(i) and projected(graph, i, total.memory) for i in (a, b))
            if both and Algebra(graph).poly(a) != Algebra(graph).poly(b) and total.shape[n_dim(total)] == trace.length:
                return graph.nodes[o]
    return None


def n_dim(total: Node) -> int:
    return total.args[1] if isinstance(total.args[1], int) else 1


def _outer_of(trace: Trace, step: Step) -> Verdict:
    graph = trace.graph
    outers, ends = walk_write(graph, step)
    wide = {o: pair for o, pair in sorted(outers.items()) if numel(graph.nodes[o]) >= numel(step.after)}
    if wide:
        return _judge_outer(trace, step, wide)
    if not outers and not [n for n in ends if numel(n) >= numel(step.after)]:
        return no("what is added to the state is made element by element: no product of a column and a row", step.after)
    predicted = [n for n in ends if numel(n) >= numel(step.after) and base(n.op) in ("mm", "addmm") and param_operand(graph, n)]
    if not outers and predicted and len([n for n in ends if numel(n) >= numel(step.after)]) == len(predicted):
        return no("what is added to the state comes whole out of a linear layer", predicted[0])
    return unsure("how the write is made could not be read", step.after)


def _judge_outer(trace: Trace, step: Step, wide: dict[int, tuple[int, int]]) -> Verdict:
    graph, algebra = trace.graph, step.algebra
    for o, (a, b) in wide.items():
        if not (graph.by_tokens(a) and graph.by_tokens(b)):
            continue
        if algebra.poly(a) == algebra.poly(b):
            return no("the state gets the product of one vector with itself", graph.nodes[o])
        if not _all_terms_have(step, o, a, b):
            continue
        if not (projected(graph, a, trace.chain.memory) and projected(graph, b, trace.chain.memory)):
            return unsure("a product of a column and a row, but not of two projections of the input", graph.nodes[o])
        if not all(trace.live(i) for i in (a, b)):
            return unsure("a column times a row is added to the state, but no gradient reaches one of them", graph.nodes[o])
        return yes("a column times a row, both projections of the input, is added to the state", graph.nodes[o], step.after)
    return unsure(
        "a product of a column and a row is made, but what else enters the state could not be read", graph.nodes[next(iter(wide))]
    )


def _all_terms_have(step: Step, o: int, a: int, b: int) -> bool:
    """Is every term of the write a multiple of this column and this row (or was the product made beforehand)?"""
    if o not in step.algebra.outers:
        return True
    algebra = Algebra(step.graph, cut={step.before.i, a, b})
    write = [t for t in algebra.poly(step.after.i) if step.before.i not in t]
    return bool(write) and all(a in t and b in t for t in write)


def walk_write(graph: Graph, step: Step) -> tuple[dict[int, tuple[int, int]], list[Node]]:
    """(outer products, other values) that the write is made of, seen through element-wise work and slices."""
    step.algebra.poly(step.after.i)
    return walk_back(graph, step.after.i, step.before.i)


def walk_back(graph: Graph, start: int, stop: int | None = None) -> tuple[dict[int, tuple[int, int]], list[Node]]:
    outers: dict[int, tuple[int, int]] = {}
    ends: list[Node] = []
    seen: set[int] = set()
    todo = [start]
    while todo:
        i = todo.pop()
        node = graph.nodes[i]
        if i in seen or i == stop:
            continue
        seen.add(i)
        if pair := outer_operands(graph, i):
            outers[i] = pair
            if base(node.op) in ("baddbmm", "addmm", "addr", "addcmul"):
                todo.append(node.args[0][0])
        elif base(node.op) in WALK and node.ins:
            todo += node.ins
        else:
            ends.append(node)
    return outers, ends


def outer_operands(graph: Graph, i: int) -> tuple[int, int] | None:
    """The column and the row whose product node i is, or None."""
    node = graph.nodes[i]
    op = base(node.op)
    refs = [a[0] for a in node.args if isinstance(a, tuple) and len(a) == 1]
    if op == "mul" and len(refs) == 2 and is_outer(graph.nodes[refs[0]].shape, graph.nodes[refs[1]].shape):
        return tuple(refs)
    if op == "addr" or (op == "addcmul" and is_outer(graph.nodes[refs[1]].shape, graph.nodes[refs[2]].shape)):
        return refs[1], refs[2]
    if op in ("bmm", "mm", "baddbmm", "addmm"):
        a, b = refs[-2:]
        left, right = graph.nodes[a].shape, graph.nodes[b].shape
        if left[-1] == 1 and left[-2] > 1 and right[-1] > 1:
            return a, b
    return None


def projected(graph: Graph, i: int, memory: int | None) -> bool:
    """Does a matrix of parameters make this vector out of the input, inside the memory (or, if it has none, anywhere)?"""
    seen: set[int] = set()
    todo = [i]
    while todo:
        j = todo.pop()
        if j in seen:
            continue
        seen.add(j)
        node = graph.nodes[j]
        if base(node.op) in ("mm", "addmm", "bmm", "mv", "addmv", "baddbmm") and param_operand(graph, node):
            return True
        if node.op in ("native_layer_norm", "embedding") and node.memory != memory:
            continue
        todo += node.ins
    return False


# --- surprise ---------------------------------------------------------------------------------------------


def surprise_gate(trace: Trace) -> Verdict:
    return by_steps(trace, _surprise_of) or _surprise_without_chain(trace)


def _surprise_without_chain(trace: Trace) -> Verdict:
    """No chain of states: sure only when each gate in the memory is made of its own token alone."""
    gates = [n for n in trace.memory_nodes if base(n.op) not in HARMLESS | {"_softmax", "_safe_softmax", "where", "masked_fill"}]
    if not trace.memory_nodes or any(mixes_before(trace.graph, n) for n in gates):
        return unsure("no chain of states was recognised that a gate could guard")
    if blind := [n for n in gates if n.op == "sigmoid" and trace.graph.by_tokens(n.i)]:
        return no("the gate sees the input alone: nothing retrieved from the memory reaches it", blind[0], category="generic_gate")
    return no("no gate in the memory knows what it retrieves", trace.outputs[-1], category="generic_gate")


def _surprise_of(trace: Trace, step: Step) -> Verdict:
    graph = trace.graph
    atoms = step.write_atoms()
    gates = [(a, core(graph, a)) for a in atoms]
    informed = [(a, g) for a, g in gates if g.op == "sigmoid" and graph.depends(g.i, step.before.i) and step.scales_write(a)]
    for atom, gate in informed:
        verdict = _judge_surprise(trace, step, gate)
        if not graph.nodes[atom].tensor.requires_grad:
            return unsure("the gate is cut off from the gradient", gate)
        if verdict.says == "yes":
            return verdict
    if informed:
        return _judge_surprise(trace, step, informed[0][1])
    return _uninformed(graph, step, gates)


def _judge_surprise(trace: Trace, step: Step, gate: Node) -> Verdict:
    graph = trace.graph
    between = graph.down(step.before.i) & graph.above(gate.i)
    reads = [n for n in graph.of(between) if base(n.op) in CONTRACT and numel(n) < numel(step.before)]
    first = [n for n in reads if not any(graph.depends(n.i, r.i) for r in reads if r.i != n.i)]
    if not first or not all(graph.by_tokens(_other(graph, n, step.before.i)) for n in first if _other(graph, n, step.before.i) is not None):
        return unsure("the gate depends on the state, but not through a value retrieved for the input", gate)
    pure = graph.mask(n.i for n in first if not _adds_input(graph, n, step.before.i)) | (1 << step.before.i)
    if not graph.reach(gate.i, pure) & graph.tokens:
        return no("the gate sees the retrieved value alone, not the input beside it", gate, category="generic_gate")
    learned = [n for n in graph.of(between) if param_operand(graph, n)]
    if not learned:
        return unsure("the gate compares input and retrieved value without learned parameters of its own", gate)
    if not gate.tensor.requires_grad or not trace.learns(learned):
        return unsure("the gate is cut off from the gradient", gate)
    if not any(sensitivity(gate, n) > FELT for n in first):
        return unsure("the gate hardly changes with the retrieved value, or is detached from it", gate)
    return yes("a sigmoid of the input and of what the memory retrieves for it scales the write", gate, first[0])


def sensitivity(node: Node, source: Node) -> float:
    """The largest change of a value of `node` by one of `source`; 0 where autograd sees no path."""
    try:
        found = torch.autograd.grad(node.tensor.sum(), source.tensor, retain_graph=True, allow_unused=True)[0]
    except RuntimeError:
        return 0.0
    return 0.0 if found is None else float(found.abs().max())


def _other(graph: Graph, node: Node, state: int) -> int | None:
    """The operand of a read that is not the state; None when it has one operand only (a sum of products)."""
    rest = [i for i in node.ins if not graph.depends(i, state)]
    return rest[-1] if rest else None


def _adds_input(graph: Graph, node: Node, state: int) -> bool:
    return (
        base(node.op) in ("baddbmm", "addmm", "addmv", "addbmm") and graph.by_tokens(node.ins[0]) and not graph.depends(node.ins[0], state)
    )


def _uninformed(graph: Graph, step: Step, gates: list[tuple[int, Node]]) -> Verdict:
    """No sigmoid that knows the state scales the write: sure only when nothing gate-like on the way does."""
    down = graph.down(step.before.i)
    roots = step.write_atoms() if step.explained else [step.after.i]
    bits = 0
    for i in roots:
        bits |= graph.above(i)
    knowing = [n for n in graph.of(bits & down) if base(n.op) not in HARMLESS and n.i != step.before.i]
    if knowing:
        return unsure("something that depends on the state bends the write, but not as a sigmoid that scales it", knowing[0])
    blind = [g for _, g in gates if g.op == "sigmoid" and graph.by_tokens(g.i)]
    if blind:
        return no("the write gate sees the input alone: nothing retrieved from the memory reaches it", blind[0], category="generic_gate")
    return no("no gate that knows what the memory retrieves scales the write", step.after, category="generic_gate")
