"""Gates by what they compute: a sigmoid however it is written, what it is learned by, what it feels. INSIDE the sandbox."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from oplog import Graph, Node
from ops import CONTRACT, PARTS, PRODUCTS, SOFT, STRUCTURAL, base, is_a, param_operand
from replay import Replay, doubled, noisy, rms

BENDING = {"exp", "exp2", "tanh", "softplus", "log_sigmoid_forward", "logaddexp", "log1p", "expm1"}
FLAT = 1e-4  # a change of a gate that is next to none
DEPTH = 8  # operations that a sigmoid written by hand may take


def in_unit(node: Node) -> bool:
    """All values strictly between 0 and 1?"""
    value = node.value
    if not value.is_floating_point() or value.numel() == 0:
        return False
    return bool((value > 0).all()) and bool((value < 1).all())


def is_sigmoid(graph: Graph, node: Node) -> bool:
    """A sigmoid of something, by its operation or by its values: 1 / (1 + exp(-z)), (tanh(z) + 1) / 2, one of two softmax weights."""
    if base(node.op) in ("sigmoid", "hardsigmoid", "special_expit"):
        return True
    if node.op in SOFT:
        return soft_pair(node) is not None
    if is_a(node, STRUCTURAL | CONTRACT) or not in_unit(node):
        return False
    value = node.value.double().reshape(-1)
    logit = torch.log(value) - torch.log1p(-value)
    for z in _above(graph, node):
        before = z.value.double().reshape(-1)
        near = before.abs() > 1e-3
        if before.numel() != logit.numel() or not bool(near.any()):
            continue
        ratio = logit[near] / before[near]
        scale = float(ratio.median())
        if 0.1 < abs(scale) < 10 and bool((torch.sigmoid(scale * before) - value).abs().max() < _grain(node)):
            return True
    return False


def _grain(node: Node) -> float:
    return 1e-5 if node.value.dtype in (torch.float32, torch.float64) else 2e-2


def _above(graph: Graph, node: Node) -> list[Node]:
    """What the value is made of element by element, some operations back; views of inputs are no formula."""
    found: list[Node] = []
    todo, depth = list(node.ins), 0
    while todo and depth < DEPTH:
        nearer = [graph.nodes[i] for i in todo if graph.nodes[i].value.is_floating_point()]
        found += [n for n in nearer if n.ins and n.numel == node.numel]
        todo = [i for n in nearer if n.numel == node.numel and not is_a(n, CONTRACT) for i in n.ins]
        depth += 1
    return found if _bends(found, node) and not any(n.op in ("sigmoid", *SOFT) for n in found) else []


def _bends(above: list[Node], node: Node) -> bool:
    """Is there an exponential or the like on the way? Without one a value in (0, 1) is no sigmoid, whatever its size."""
    return any(base(n.op) in BENDING for n in (*above, node))


def between(value: torch.Tensor, seed: int) -> torch.Tensor:
    """Other numbers between 0 and 1 in the shape of a gate."""
    return (0.2 + 0.6 * torch.rand(value.shape, generator=torch.Generator().manual_seed(seed))).to(value.dtype)


def soft_pair(node: Node) -> int | None:
    """The dimension of a softmax over two values, or None."""
    if node.op not in SOFT or len(node.args) < 2 or not isinstance(node.args[1], int):
        return None
    dim = node.args[1] % len(node.shape)
    return dim if node.shape[dim] == 2 else None


def own_params(graph: Graph, gate: Node, target: int, tied: int = 0) -> list[Node]:
    """Trained parameters that enter what only the gate (or what is tied to it, as bits) takes to the target."""
    if not graph.by_tokens(gate.i):
        return list(graph.trained_params(gate.i))
    elsewhere = graph.reach(target, 1 << gate.i | tied)
    region = [n for n in graph.of(graph.above(gate.i)) if graph.by_tokens(n.i) and not elsewhere >> n.i & 1]
    parts = [whole for n in region if is_a(n, PARTS) and (whole := _projection(graph, n)) is not None]
    found = {p.i: p for n in (*region, *parts) for i in n.ins if not graph.by_tokens(i) for p in graph.trained_params(i)}
    return list(found.values())


def _projection(graph: Graph, part: Node) -> Node | None:
    """The product with weights of which this is a part, if all that is made of it are parts beside each other."""
    node = graph.nodes[part.ins[0]]
    users = [n for n in graph.nodes[node.i + 1 :] if node.i in n.ins]
    if not all(is_a(n, PARTS) for n in users) or sum(n.numel for n in users) > node.numel:
        return None
    while node.ins and is_a(node, STRUCTURAL | {"add"}):
        node = graph.nodes[next((i for i in node.ins if graph.by_tokens(i)), node.ins[0])]
    return node if is_a(node, PRODUCTS) and param_operand(graph, node) else None


def moves(graph: Graph, node: Node, params: list[Node]) -> bool:
    """Does the value change when these parameters do? (A gate divided by itself does not, whatever its gradients are.)"""
    given = {p.i: noisy(p.value, p.i, least=0.1) for p in params if p.value.is_floating_point()}
    moved = Replay(graph).one(node.i, given) - node.value if given else torch.zeros(1)
    return not bool(torch.isfinite(moved).all()) or rms(moved) > 1e-5 * rms(node.value)


def felt(graph: Graph, gate: Node, sources: list[Node], beside: Iterable[Node] = ()) -> float:
    """How much the gate's values move when its sources get noise of their own size, beside how much a sigmoid can there.

    Where they don't at all they may for other values `beside` the sources: units that are off for one token (relu) are on for
    others. Two of some other values must show it.
    """
    if not sources:
        return 0.0
    found = _felt(graph, gate, sources, {})
    others = [n for n in beside if n.value.is_floating_point()]
    if found < FLAT and others:
        found = sorted(_felt(graph, gate, sources, {n.i: noisy(n.value, n.i + seed, least=0.1) for n in others}) for seed in range(1, 5))[2]
    return found


def _felt(graph: Graph, gate: Node, sources: list[Node], given: dict[int, torch.Tensor]) -> float:
    value = doubled(Replay(graph).one(gate.i, given) if given else gate.value)
    moved = doubled(Replay(graph).one(gate.i, {**given, **{n.i: noisy(n.value, n.i, least=0.1) for n in sources}}))
    return float((moved - value).abs().mean() / ((value * (1 - value)).abs().mean() + 1e-9))
