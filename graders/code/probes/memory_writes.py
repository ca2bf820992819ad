"""What a memory writes: the outer product and the surprise gate. Runs INSIDE the sandbox."""

from __future__ import annotations

import torch
from gates import between, felt, is_sigmoid, moves, own_params
from memory_chain import Chain, Step, carries
from memory_facts import Trace, attends_over_past, by_steps, mixes, mixes_before
from oplog import Graph, Node
from ops import ADDS, PRODUCTS, SOFT, SUMS, base, core, is_a, param_operand
from replay import Replay, doubled, rms
from verdicts import Verdict, no, unsure, yes

FELT = 1e-4  # the least change of a gate that counts, see `felt`
FAINT = 1e-6  # a change of a gate that is more than rounding
RANK_ONE = 2e-3  # second singular value over the first


# --- outer product ----------------------------------------------------------------------------------------


def outer_product(trace: Trace, long: Trace) -> Verdict:
    found = attends_over_past(trace, long)
    if found:
        return no("keys and values are kept in a list: no product of them is added to a state", found, category="kv_cache")
    return by_steps(trace, _outer_of) or _outer_without_chain(trace)


def _outer_of(trace: Trace, step: Step) -> Verdict:
    maker = _maker(trace.graph, step)
    written = step.written(maker)
    if not torch.isfinite(written).all():
        return unsure("what is added to the state could not be told apart from what is carried", step.after)
    if rms(written) < 1e-7:
        writing = _writing_step(trace, step)
        return _outer_of(trace, writing) if writing else no("next to nothing is added to the state", step.after)
    pair = _columns_and_rows(written, trace.graph.batch)
    if pair is None and step.chain.is_vector:
        return no("the state is one vector: no product of a column and a row is added to it", step.after)
    if pair is None:
        return no("what is added to the state is no product of a column and a row: its rank is more than one", maker or step.after)
    left, right = pair
    if left.shape == right.shape and bool(((left * right.conj()).sum(-1).abs() > 0.9999).all()):
        return no("the state gets the product of one vector with itself", maker or step.after)
    if _all_alike(left) or _all_alike(right):
        return no("the state gets one vector, spread over its columns: no product of a column and a row", maker or step.after)
    factors = _factors(trace.graph, maker) if maker else []
    if factors and not any(projected(trace.graph, i, trace.chain.memory if trace.chain else None) for i in factors):
        return no("a column times a row is added to the state, but neither is a projection of the input", maker or step.after)
    return yes("a column times a row, both made of the input, is added to the state: its rank is one", maker or step.after, step.after)


def _writing_step(trace: Trace, still: Step) -> Step | None:
    """The first step of the same chain at which something is written: a hard gate may be shut at some tokens."""
    chain = still.chain
    steps = (Step(trace.graph, chain, n, trace.every) for n in range(1, len(chain.states)))
    return next((step for step in steps if rms(step.without_state()) >= 1e-7), None)


def _columns_and_rows(written: torch.Tensor, batch: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The columns and rows whose products these matrices are; None when they are more than that."""
    sizes = [s for s in written.shape if s > 1]
    value = doubled(written.detach()).reshape(sizes)
    low = written.dtype in (torch.bfloat16, torch.float16)
    if len(sizes) < 2 or (len(sizes) == 2 and sizes[0] == batch):  # a matrix laid out as a vector, of whatever sides
        width = sizes[-1] if sizes else 1
        shapes: list[tuple[int, ...]] = [(-1, side, width // side) for side in range(2, width // 2 + 1) if width % side == 0]
    else:
        shapes = [tuple(sizes)]
    return next((pair for shape in shapes if (pair := _pair_of(value.reshape(shape), batch, low))), None)


def _pair_of(value: torch.Tensor, batch: int, low: bool) -> tuple[torch.Tensor, torch.Tensor] | None:
    dims = range(value.dim())
    pairs = [(i, j) for j in reversed(dims) for i in reversed(range(j))]
    for i, j in pairs:
        if value.dim() > 2 and value.shape[0] == batch and i == 0:
            continue
        rest = [d for d in dims if d not in (i, j)]
        matrices = value.permute(*rest, i, j).reshape(-1, value.shape[i], value.shape[j])
        norms = matrices.flatten(1).norm(dim=1)
        matrices = matrices[norms > 1e-4 * norms.max()][:48]
        u, s, v = torch.linalg.svd(matrices, full_matrices=False)
        if bool((s[:, 1] <= (2e-2 if low else RANK_ONE) * s[:, 0]).all()):
            return u[:, :, 0], v[:, 0, :]
    return None


def _all_alike(vectors: torch.Tensor) -> bool:
    """Is it the same direction in every sequence?"""
    return len(vectors) > 1 and bool(((vectors @ vectors[0].conj()).abs() > 0.99999).all())


def _maker(graph: Graph, step: Step) -> Node | None:
    """The nearest product of a column and a row above the new state."""
    if step.makers is None:
        step.makers = [node] if (node := _find_maker(graph, step)) else []
    return step.makers[0] if step.makers else None


def _find_maker(graph: Graph, step: Step) -> Node | None:
    start = min([step.before.i, *(b.i for b in step.beside)])
    near = [n for n in graph.of(graph.above(step.after.i)) if outer_operands(graph, n.i) and n.numel >= step.after.numel]
    late = [n for n in near if n.i > start] or near
    late = [n for n in late if all(graph.by_tokens(i) for i in outer_operands(graph, n.i) or ())] or late
    return late[-1] if late else None


def _factors(graph: Graph, node: Node) -> list[int]:
    return list(outer_operands(graph, node.i) or ())


def outer_operands(graph: Graph, i: int) -> tuple[int, int] | None:
    """The column and the row whose product node i is, or None."""
    node = graph.nodes[i]
    op = base(node.op)
    refs = [a[0] for a in node.args if isinstance(a, tuple) and len(a) == 1]
    if op == "mul" and len(refs) == 2 and is_outer(graph.nodes[refs[0]].shape, graph.nodes[refs[1]].shape):
        return refs[0], refs[1]
    if op == "addr" or (op == "addcmul" and is_outer(graph.nodes[refs[1]].shape, graph.nodes[refs[2]].shape)):
        return refs[1], refs[2]
    if op in ("bmm", "mm", "baddbmm", "addmm"):
        a, b = refs[-2:]
        left, right = graph.nodes[a].shape, graph.nodes[b].shape
        if left[-1] == 1 and left[-2] > 1 and right[-1] > 1:
            return a, b
    return None


def is_outer(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Do these shapes broadcast into a matrix that neither is: a column times a row?"""
    width = max(len(a), len(b))
    a, b = (1,) * (width - len(a)) + tuple(a), (1,) * (width - len(b)) + tuple(b)
    return any(x > y == 1 for x, y in zip(a, b, strict=True)) and any(y > x == 1 for x, y in zip(a, b, strict=True))


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
        if is_a(node, PRODUCTS | {"convolution"}) and param_operand(graph, node):
            return True
        if node.op in ("native_layer_norm", "embedding") and node.memory != memory:
            continue
        todo += node.ins
    return False


def _outer_without_chain(trace: Trace) -> Verdict:
    """No state is carried on; a product of a column and a row may still be added to one."""
    graph = trace.graph
    if summed := _summed_products(trace) or _added_product(trace):
        return yes("a product of a column and a row, both projections of the input, is added to a state", summed)
    products = [n for n in trace.memory_nodes if (pair := outer_operands(graph, n.i)) and all(map(graph.by_tokens, pair))]
    joined = [n for n in trace.memory_nodes if is_a(n, {"bmm", "mm", "baddbmm", "addmm"}) and mixes(graph, n)]
    shown = (products or joined or trace.outputs)[-1:]
    if products or joined or not trace.memory_nodes:
        return no("no state was found that a product of a column and a row is added to, step by step", *shown)
    return no("no product of a column and a row is made in the memory", *shown)


def _lone_step(trace: Trace) -> Step | None:
    """An update of a state that is never carried on: the same first state each time."""
    graph = trace.graph
    if product := _added_product(trace):
        total = next(n for n in graph.of(graph.down(product.i)) if is_a(n, ADDS) and n.numel == product.numel)
        before = [n for n in graph.of(graph.above(total.i)) if not graph.by_tokens(n.i) and carries(graph, n, total)]
        if before:
            return Step(graph, Chain(graph, [before[0], total], total.memory), 1, [])
    return None


def _added_product(trace: Trace) -> Node | None:
    """An outer product of two projections that goes, element by element, into a sum as large as itself."""
    graph = trace.graph
    for node in trace.memory_nodes:
        pair = outer_operands(graph, node.i)
        if pair is None or not all(graph.by_tokens(i) and projected(graph, i, node.memory) for i in pair) or not trace.reaches_logits(node):
            continue
        for total in graph.of(graph.down(node.i)):
            if is_a(total, ADDS) and total.numel == node.numel and carries(graph, node, total):
                return node
    return None


def _summed_products(trace: Trace) -> Node | None:
    """An outer product of two projections that goes, element by element, into a running sum over the tokens."""
    graph = trace.graph
    for total in [n for n in trace.memory_nodes if n.op == "cumsum" and trace.reaches_logits(n) and len(n.shape) > 3]:
        for node in graph.of(graph.above(total.i)):
            pair = outer_operands(graph, node.i)
            if pair is None or node.numel != total.numel or graph.reach(total.i, 1 << node.i) & graph.tokens == 0:
                continue
            if all(graph.by_tokens(i) and projected(graph, i, total.memory) for i in pair):
                return node
    return None


# --- surprise ---------------------------------------------------------------------------------------------


def surprise_gate(trace: Trace) -> Verdict:
    return by_steps(trace, _surprise_of) or _surprise_without_chain(trace)


def _surprise_of(trace: Trace, step: Step) -> Verdict:
    gates = write_gates(trace, step)
    verdicts = [_judge_surprise(trace, step, gate) for gate in gates]
    if good := next((v for v in verdicts if v.says == "yes"), None):
        return good
    if verdicts:
        return verdicts[-1]
    return _no_gate(trace, step)


def write_gates(trace: Trace, step: Step) -> list[Node]:
    """The sigmoids that know a state and scale what is written."""
    graph = trace.graph
    start = min([step.before.i, *(b.i for b in step.beside)])
    knowing = 0
    for state in step.chain.states:
        if state.i < step.after.i:
            knowing |= graph.down(state.i)
    near = [n for n in graph.of(graph.above(step.after.i) & knowing) if n.i > start and is_sigmoid(graph, n)]
    return [n for n in near if scales_write(step, n)]


def scales_write(step: Step, gate: Node) -> bool:
    """Is the whole write a multiple of the gate, or of a number plus or minus the gate?"""
    maker = _maker(step.graph, step)
    if maker is not None and step.graph.depends(gate.i, maker.i):
        maker = None
    ends = torch.zeros_like(gate.value), torch.ones_like(gate.value)
    if _is_multiple(*(step.written(maker, {gate.i: end}) for end in ends)):
        return True
    # what is erased first, a read of the old state times its key, is no part of what is written
    return _is_multiple(*(step.added({gate.i: end}) for end in ends))


def _is_multiple(nothing: torch.Tensor, full: torch.Tensor) -> bool:
    """Is what is written with the gate at either end a multiple of one and the same?

    Of another number in each matrix, and of another one above zero in each row or column, where a forget gate's complement
    stands beside the gate, as `lerp` puts it there.
    """
    nothing, full = doubled(nothing), doubled(full)
    if not (torch.isfinite(nothing).all() and torch.isfinite(full).all()):
        return False
    by_gate = full - nothing
    size = rms(by_gate)
    if size < 1e-9 or size < 1e-3 * max(rms(nothing), rms(full)):
        return False
    by_matrix, *by_lines = [(-2, -1), (-1,), (-2,)] if by_gate.dim() > 2 else [tuple(range(by_gate.dim()))]

    def fits(shares: torch.Tensor) -> bool:
        return bool(rms(nothing - shares * by_gate) < 1e-3 * size and float(shares.abs().max()) < 20)

    if fits(_shares(nothing, by_gate, by_matrix)):
        return True
    return any(float((shares := _shares(nothing, by_gate, dims)).min()) >= 0 and fits(shares) for dims in by_lines)


def _shares(x: torch.Tensor, of: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    """The numbers by which the one comes nearest to the other along these dimensions; 0 where there is next to none of the other."""
    norms = of.abs().pow(2).sum(dims, keepdim=True)
    shares = (x * of.conj()).sum(dims, keepdim=True).real / norms.clamp_min(1e-20)
    return shares * (norms > 1e-6 * norms.max())


def _write_follows(step: Step, gate: Node) -> bool:
    """Does the write change with the gate's values? (A gate divided by its own value does not.)"""
    one, other = (step.without_state({gate.i: between(gate.value, seed)}) for seed in (1, 2))
    return not rms(one - other) <= 1e-3 * rms(one)


def _judge_surprise(trace: Trace, step: Step, gate: Node) -> Verdict:
    graph = trace.graph
    known = [s for s in step.chain.states if graph.depends(gate.i, s.i)]
    reads = [n for n in step.chain.reads() if graph.depends(gate.i, n.i) and graph.depends(n.i, known[-1].i)]
    reads = reads or _reads_by_element(graph, gate, known[-1])
    first = [n for n in reads if not any(graph.depends(n.i, r.i) for r in reads if r.i != n.i)]
    if not first:
        return no("the gate depends on the state, but not through a value retrieved for the input", gate, category="generic_gate")
    if felt(graph, gate, first, _inputs_of(graph, gate, known[-1], first)) < FELT:
        return no("the gate hardly changes with the retrieved value", gate, first[0], category="generic_gate")
    if not _retrieves(graph, step, gate, known[-1]):
        return no("what is retrieved is nothing, whatever the memory holds", gate, first[0], category="generic_gate")
    if not _sees_input(graph, gate, first, known[-1]):
        return no("the gate sees the retrieved value alone, not the input beside it", gate, category="generic_gate")
    own = own_params(graph, gate, step.after.i)
    between = graph.down(known[-1].i) & graph.above(gate.i)
    learned = [n for n in graph.of(between) if param_operand(graph, n)]
    if not own and not learned:
        return no("the gate compares input and retrieved value without learned parameters of its own", gate)
    if not graph.trains(gate.i) or not (any(trace.has_grad(p.name) for p in own) or trace.learns(learned)):
        return no("the gate is cut off from the gradient: it can't learn", gate)
    if not moves(graph, gate, graph.trained_params(gate.i)):
        return no("the gate does not change with its parameters", gate)
    if not _write_follows(step, gate):
        return no("the write is the same whatever the gate is between 0 and 1", gate)
    return yes("a sigmoid of the input and of what the memory retrieves for it scales the write", gate, first[0])


def _retrieves(graph: Graph, step: Step, gate: Node, state: Node) -> bool:
    """Would the gate be another with an empty memory, at this step or (where keys seldom meet) at any other?"""
    if _changes_when_empty(graph, gate, state):
        return True
    for other in (n for n in graph.nodes[: step.chain.last.i] if (n.place, n.op, n.memory) == (gate.place, gate.op, gate.memory)):
        held = [s for s in step.chain.states if graph.depends(other.i, s.i)]
        if held and _changes_when_empty(graph, other, held[-1]):
            return True
    return False


def _changes_when_empty(graph: Graph, gate: Node, state: Node) -> bool:
    moved = doubled(Replay(graph).one(gate.i, {state.i: torch.zeros_like(state.value)})) - doubled(gate.value)
    return not bool(torch.isfinite(moved).all()) or float(moved.abs().max()) > FAINT


def _reads_by_element(graph: Graph, gate: Node, state: Node) -> list[Node]:
    """A state that is no matrix is read element by element, by its own numbers or by those of its Fourier transform."""
    way = list(graph.of(graph.down(state.i) & graph.above(gate.i)))
    products = [n for n in way if is_a(n, {"mul"}) and any(graph.by_tokens(i) and not graph.depends(i, state.i) for i in n.ins)]
    waves = [n for n in products if n.value.is_complex()]
    back = [
        n
        for n in way
        if not n.value.is_complex() and any(graph.nodes[i].value.is_complex() and graph.depends(i, w.i) for w in waves for i in n.ins)
    ]
    return [n for n in products if n not in waves] + back


def _sees_input(graph: Graph, gate: Node, reads: list[Node], state: Node) -> bool:
    """Does the gate change with the input while what is retrieved stays the same?"""
    blocked = graph.mask(n.i for n in reads if not _adds_input(graph, n, state.i)) | 1 << state.i
    reach = graph.reach(gate.i, blocked)
    if not reach & graph.tokens:
        return False
    return bool(felt(graph, gate, _inputs_of(graph, gate, state, reads, reach), reads) > FELT)


def _inputs_of(graph: Graph, gate: Node, state: Node, reads: list[Node], reach: int = -1) -> list[Node]:
    """What enters beside a state and what is read of it on the way to the gate (or to the nodes in the bits `reach`)."""
    way = graph.down(state.i) & graph.above(gate.i)
    inputs = {i for n in graph.of(way & (reach | 1 << gate.i)) for i in n.ins if graph.by_tokens(i) and not way >> i & 1}
    return [graph.nodes[i] for i in sorted(inputs - {state.i, *(n.i for n in reads)})]


def _adds_input(graph: Graph, node: Node, state: int) -> bool:
    return (
        base(node.op) in ("baddbmm", "addmm", "addmv", "addbmm") and graph.by_tokens(node.ins[0]) and not graph.depends(node.ins[0], state)
    )


def _no_gate(trace: Trace, step: Step) -> Verdict:
    """No sigmoid that knows the state scales the write: what is there instead."""
    graph = trace.graph
    start = min([step.before.i, *(b.i for b in step.beside)])
    mine = [n for n in graph.of(graph.above(step.after.i)) if n.memory == step.after.memory and graph.by_tokens(n.i)]
    blind = [n for n in mine if is_sigmoid(graph, n)]
    first = step.chain.states[0].i  # before it: gates of all tokens at once
    scaling = [n for n in blind if (n.i > start or (n.i < first and n.numel <= 1 << 16)) and scales_write(step, n)]
    if scaling:
        return no("the write gate sees the input alone: nothing retrieved from the memory reaches it", scaling[-1], category="generic_gate")
    return no("no gate that knows what the memory retrieves scales the write", step.after, category="generic_gate")


def _surprise_without_chain(trace: Trace) -> Verdict:
    """No chain of states: keys and values may be kept instead, and a gate may still guard what is kept."""
    graph = trace.graph
    if (step := _lone_step(trace)) and (verdict := _surprise_of(trace, step)).says == "yes":
        return verdict
    gates = [n for n in trace.memory_nodes if n.op not in SOFT and graph.by_tokens(n.i) and is_sigmoid(graph, n)]
    retrieved = [n for n in trace.memory_nodes if _may_retrieve(graph, n) and mixes_before(graph, n)]
    for gate in gates[len(gates) // 2 :]:
        inside = graph.reach(gate.i, graph.mask(n.i for n in graph.nodes if n.memory != gate.memory))
        before = [n for n in retrieved if inside >> n.i & 1]
        after = [n for n in retrieved if graph.depends(n.i, gate.i) and n not in before]
        if before and after and felt(graph, gate, before) > FELT and _moves(graph, gate, after):
            params = own_params(graph, gate, after[-1].i)
            if graph.trains(gate.i) and any(trace.has_grad(p.name) for p in params):
                return yes("a sigmoid of the input and of what the memory retrieves for it scales what is kept", gate, before[-1])
    shown = gates[:1] or trace.outputs[-1:]
    if gates:
        return no("the gate sees the input alone: nothing retrieved from the memory reaches it", *shown, category="generic_gate")
    return no("no gate in the memory knows what it retrieves", *shown, category="generic_gate")


def _may_retrieve(graph: Graph, node: Node) -> bool:
    """Are two values of the input multiplied and summed? (A layer on what was compared retrieves nothing.)"""
    if is_a(node, PRODUCTS):
        return sum(graph.by_tokens(i) for i in node.ins) > 1 and not param_operand(graph, node)
    if not is_a(node, SUMS) or node.op == "cumsum" or not node.ins:
        return False
    product = core(graph, node.ins[0])
    return is_a(product, {"mul"}) and len({i for i in product.ins if graph.by_tokens(i)}) > 1


def _moves(graph: Graph, gate: Node, targets: list[Node]) -> bool:
    """Does what is retrieved later change with the gate?"""
    moved = Replay(graph).run([n.i for n in targets], {gate.i: 1 - gate.value})
    return any(rms(m - n.value) > 1e-4 * rms(n.value) for m, n in zip(moved, targets, strict=True))
