"""What a rule says of one criterion: yes, no or undecided, why, and where it is seen. Runs INSIDE the sandbox."""

from __future__ import annotations

from collections.abc import Iterable

from oplog import Node

STUCK = 1e-3


class Verdict:
    """yes, no or undecided, why, and the nodes that show it."""

    def __init__(self, says: str, text: str, nodes: Iterable[Node | None] = (), category: str = "") -> None:
        self.says, self.text, self.category = says, text, category
        self.nodes = [n for n in nodes if n is not None]
        self.lines = sorted({n.lines[0] for n in self.nodes if n.lines})[:3]


def yes(text: str, *nodes: Node) -> Verdict:
    return Verdict("yes", text, nodes)


def no(text: str, *nodes: Node, category: str = "") -> Verdict:
    return Verdict("no", text, nodes, category)


def unsure(text: str, *nodes: Node | None) -> Verdict:
    return Verdict("undecided", text, nodes)


def agree(verdicts: list[Verdict]) -> Verdict:
    """The verdict of all steps: one that says no decides."""
    for says in ("no", "undecided"):
        if found := next((v for v in verdicts if v.says == says), None):
            return found
    return verdicts[-1]


def is_stuck(verdict: Verdict) -> bool:
    """A no about a gate that stands at one of its ends: for smaller inputs it may not."""
    values = [n.value.double() for n in verdict.nodes if n.value.is_floating_point() and n.numel]
    gates = [v for v in values if bool(((v >= 0) & (v <= 1)).all())]
    return verdict.says == "no" and any(float((v * (1 - v)).mean()) < STUCK for v in gates)
