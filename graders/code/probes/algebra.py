"""Values as polynomials: sums of products of atoms, so that every way of writing an update or a blend looks the same.

`m + g * (a - m)`, `torch.lerp(m, a, g)` and `g * a + (1 - g) * m` all become {m: 1, a g: 1, g m: -1}.
Atoms are values that no addition or multiplication made, named by value number: the same operation on the same
values is the same atom. Broadcasting, views and copies are seen through. Runs INSIDE the sandbox.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from oplog import Graph, Node

Terms = dict[tuple[int, ...], float]
SAME = {
    "view",
    "_unsafe_view",
    "reshape",
    "unsqueeze",
    "squeeze",
    "expand",
    "clone",
    "permute",
    "transpose",
    "t",
    "contiguous",
    "alias_copy",
    "_to_copy",
    "lift_fresh",
    "unsafe_view",
    "flatten",
    "mT",
    "movedim",
    "copy_",
    "expand_as",
    "view_as",
    "_reshape_alias",
    "as_strided_",
    "squeeze_",
    "unsqueeze_",
    "lift",
    "t_",
    "transpose_",
}
ADDS = {"add", "sub", "rsub", "lerp", "addcmul", "baddbmm", "addbmm", "addmm", "addr"}
RANDOM = {"bernoulli", "rand", "randn", "normal", "uniform", "dropout", "native_dropout", "empty", "new_empty", "empty_like"}
CUT_OFF = {"detach", "detach_"}  # the same value without gradient: an atom of its own, but for a state that is carried on
MAX_TERMS = 200


def base(op: str) -> str:
    """The operation without the underscore of its in-place form."""
    return op[:-1] if op.endswith("_") and not op.startswith("_") else op


class Algebra:
    def __init__(self, graph: Graph, cut: Iterable[int] = ()) -> None:
        self.graph, self.nodes, self.cut = graph, graph.nodes, set(cut)
        self.memo: dict[int, Terms] = {}
        self.number: dict[int, int] = {}
        self.numbers: dict[Any, int] = {}
        self.outers: dict[int, tuple[int, int]] = {}
        self._complements: dict[tuple[int, int], bool] = {}

    # --- value numbers ---

    def root(self, i: int) -> int:
        """The value behind views and copies."""
        while True:
            node = self.nodes[i]
            if node.i in self.cut or node.op not in SAME:
                held = node.op in CUT_OFF and node.i not in self.cut and self.root(node.ins[0]) in self.cut
                return self.root(node.ins[0]) if held else i
            i = node.args[1][0] if node.op == "copy_" and _is_ref(node.args[1]) else node.ins[0]

    def atom(self, i: int) -> int:
        """The first node with the same value as i."""
        i = self.root(i)
        if i in self.number:
            return self.number[i]
        node = self.nodes[i]
        found = i
        if node.ins and i not in self.cut and base(node.op) not in RANDOM and node.op != "alias" and not node.op.endswith("_"):
            # shapes of views are seen through, so operands count with the shape that the operation saw
            key = (node.op, node.name, repr([(self.atom(a[0]), self.nodes[a[0]].shape) if _is_ref(a) else a for a in node.args]))
            found = self.numbers.setdefault(key, i)
        self.number[i] = found
        return found

    # --- polynomials ---

    def poly(self, i: int) -> Terms:
        """{sorted tuple of atoms: coefficient}; an inverted atom a stands as -a - 1."""
        i = self.root(i)
        if i not in self.memo:
            self.memo[i] = self._atom_poly(i)  # a guard against cycles; replaced below
            try:
                terms = None if i in self.cut else self._expand(self.nodes[i])
            except TooBig:
                terms = None
            if terms is not None and len(terms) <= MAX_TERMS:
                self.memo[i] = terms
        return self.memo[i]

    def _atom_poly(self, i: int) -> Terms:
        return {(self.atom(i),): 1.0}

    def _expand(self, node: Node) -> Terms | None:
        rule = getattr(self, "_do_" + base(node.op), None)
        if node.op == "const" or not node.ins:
            return self._constant(node)
        return rule(node) if rule else None

    def _constant(self, node: Node) -> Terms | None:
        if node.op in ("param", "tokens") or node.value is None or node.value.numel() == 0 or not node.value.is_floating_point():
            return None
        first = node.value.reshape(-1)[0]
        if bool((node.value == first).all()):
            return {} if float(first) == 0.0 else {(): float(first)}
        return None

    def operand(self, x: Any) -> Terms:
        if _is_ref(x):
            return self.poly(x[0])
        return {(): float(x)} if isinstance(x, (int, float)) and x != 0 else {}

    def _do_add(self, node: Node) -> Terms:
        return plus(self.operand(node.args[0]), self.operand(node.args[1]), _alpha(node))

    def _do_sub(self, node: Node) -> Terms:
        return plus(self.operand(node.args[0]), self.operand(node.args[1]), -_alpha(node))

    def _do_rsub(self, node: Node) -> Terms:
        return plus(self.operand(node.args[1]), self.operand(node.args[0]), -1.0)

    def _do_neg(self, node: Node) -> Terms:
        return scale(self.operand(node.args[0]), -1.0)

    def _do_mul(self, node: Node) -> Terms:
        a, b = node.args[0], node.args[1]
        if _is_ref(a) and _is_ref(b) and is_outer(self.nodes[a[0]].shape, self.nodes[b[0]].shape):
            self.outers[node.i] = (a[0], b[0])
        return times(self.operand(a), self.operand(b))

    def _do_div(self, node: Node) -> Terms | None:
        if not _is_ref(node.args[1]):
            return scale(self.operand(node.args[0]), 1.0 / float(node.args[1])) if node.args[1] else None
        if len(node.args) > 2 or node.kwargs:
            return None
        return times(self.operand(node.args[0]), {(-self.atom(node.args[1][0]) - 1,): 1.0})

    def _do_lerp(self, node: Node) -> Terms:
        start, end, weight = (self.operand(a) for a in node.args[:3])
        return plus(start, times(weight, plus(end, start, -1.0)))

    def _do_addcmul(self, node: Node) -> Terms:
        start, one, two = (self.operand(a) for a in node.args[:3])
        a, b = node.args[1][0], node.args[2][0]
        if is_outer(self.nodes[a].shape, self.nodes[b].shape):
            self.outers[node.i] = (a, b)
        return plus(start, times(one, two), float(node.kwargs.get("value", 1)))

    def _do_bmm(self, node: Node) -> Terms | None:
        return self._product(node, node.args[0], node.args[1])

    _do_mm = _do_bmm

    def _product(self, node: Node, a: tuple[int], b: tuple[int]) -> Terms | None:
        """A matrix product over an inner dimension of one is an outer product."""
        left, right = self.nodes[a[0]].shape, self.nodes[b[0]].shape
        if left[-1] != 1 or left[-2] == 1 or right[-1] == 1:
            return None
        self.outers[node.i] = (a[0], b[0])
        return times(self.operand(a), self.operand(b))

    def _do_baddbmm(self, node: Node) -> Terms | None:
        product = self._product(node, node.args[1], node.args[2])
        if product is None:
            return None
        beta, alpha = float(node.kwargs.get("beta", 1)), float(node.kwargs.get("alpha", 1))
        return plus(scale(self.operand(node.args[0]), beta), product, alpha)

    _do_addmm = _do_baddbmm

    def _do_addr(self, node: Node) -> Terms:
        self.outers[node.i] = (node.args[1][0], node.args[2][0])
        beta, alpha = float(node.kwargs.get("beta", 1)), float(node.kwargs.get("alpha", 1))
        product = times(self.operand(node.args[1]), self.operand(node.args[2]))
        return plus(scale(self.operand(node.args[0]), beta), product, alpha)

    # --- complementary gates ---

    def tidy(self, terms: Terms) -> Terms:
        """The same polynomial with h written as 1 - g wherever two bounded atoms g and h add up to one."""
        atoms = sorted({a for term in terms for a in term if a >= 0})
        swaps: dict[int, Terms] = {}
        for n, g in enumerate(atoms):
            for h in atoms[n + 1 :]:
                if h not in swaps and g not in swaps and self.complements(g, h):
                    swaps[h] = {(): 1.0, (g,): -1.0}
        for h, instead in swaps.items():
            result: Terms = {}
            for term, c in terms.items():
                rest = list(term)
                factor: Terms = {(): c}
                while h in rest:
                    rest.remove(h)
                    factor = times(factor, instead)
                result = plus(result, times({tuple(sorted(rest)): 1.0}, factor))
            terms = result
        return terms

    def complements(self, g: int, h: int) -> bool:
        if (g, h) not in self._complements:
            self._complements[g, h] = self._add_to_one(self.nodes[g], self.nodes[h])
        return self._complements[g, h]

    @staticmethod
    def _add_to_one(g: Node, h: Node) -> bool:
        if g.value is None or h.value is None or g.shape != h.shape or not g.value.is_floating_point() or g.value.numel() == 0:
            return False
        inside = bool((g.value > 0).all()) and bool((g.value < 1).all())
        return inside and bool(((g.value + h.value - 1).abs() < 1e-5).all()) and float(g.value.std()) > 1e-7


def _is_ref(x: object) -> bool:
    return isinstance(x, tuple) and len(x) == 1


def _alpha(node: Node) -> float:
    return float(node.kwargs.get("alpha", node.args[2] if len(node.args) > 2 and isinstance(node.args[2], (int, float)) else 1))


def is_outer(a: Sequence[int], b: Sequence[int]) -> bool:
    """Do these shapes broadcast into a matrix that neither is: a column times a row?"""
    width = max(len(a), len(b))
    a, b = (1,) * (width - len(a)) + tuple(a), (1,) * (width - len(b)) + tuple(b)
    return any(x > y == 1 for x, y in zip(a, b, strict=True)) and any(y > x == 1 for x, y in zip(a, b, strict=True))


def plus(a: Terms, b: Terms, factor: float = 1.0) -> Terms:
    total = dict(a)
    for term, c in b.items():
        value = total.get(term, 0.0) + factor * c
        if abs(value) < 1e-9:
            total.pop(term, None)
        else:
            total[term] = value
    return total


def scale(a: Terms, factor: float) -> Terms:
    return {term: c * factor for term, c in a.items()} if factor else {}


def times(a: Terms, b: Terms) -> Terms:
    total: Terms = {}
    if len(a) * len(b) > MAX_TERMS * 4:
        raise TooBig
    for s, c in a.items():
        for t, d in b.items():
            term = _cancel(s + t)
            total[term] = total.get(term, 0.0) + c * d
    return {term: c for term, c in total.items() if abs(c) > 1e-9}


def _cancel(term: tuple[int, ...]) -> tuple[int, ...]:
    rest = list(term)
    for a in term:
        if a >= 0 and a in rest and -a - 1 in rest:
            rest.remove(a)
            rest.remove(-a - 1)
    return tuple(sorted(rest))


class TooBig(Exception):
    """A product with too many terms to be worth reading."""
