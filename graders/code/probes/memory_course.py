"""What happens in a memory over time, in numbers: the size of its state, how far its gates stand open. INSIDE the sandbox."""

from __future__ import annotations

import math
from collections.abc import Mapping

from gates import in_unit
from memory_facts import Trace
from oplog import Node
from replay import doubled
from verdicts import Verdict

AT_MOST = 64


def course(trace: Trace, found: Mapping[str, Verdict]) -> dict[str, list[float]]:
    """Series over the tokens of the first memory; a series that can't be had is left out."""
    told: dict[str, list[float]] = {}
    if trace.chain:
        told["state_norm"] = [_norm(s, trace.graph.batch) for s in trace.chain.states[:AT_MOST]]
    for name, key, number in (("write_gate", "surprise_gate", 0), ("blend_gate", "memory_attention_gating", 1)):
        nodes = found[key].nodes
        if len(nodes) > number and in_unit(nodes[number]) and (series := _series(trace, nodes[number])):
            told[name] = series
    return {name: series for name, series in told.items() if series and all(map(math.isfinite, series))}


def _norm(state: Node, batch: int) -> float:
    value = doubled(state.value)
    rows = value.reshape(batch, -1) if value.dim() > 2 and value.shape[0] == batch else value.reshape(1, -1)
    return round(float(rows.norm(dim=1).mean()), 5)


def _series(trace: Trace, gate: Node) -> list[float]:
    """Mean values of a gate, one a token: of the nodes of its place, or along the time of the only one."""
    alike = [n for n in trace.graph.nodes if n.place == gate.place and n.op == gate.op]
    first = [n for n in alike if n.memory == alike[0].memory]
    if first and trace.length in first[0].shape[:2]:
        value, time = first[0].value.float(), first[0].shape.index(trace.length)
        return [round(float(x.mean()), 5) for x in value.unbind(time)[:AT_MOST]]
    return [_mean(n) for n in first[: min(trace.length, AT_MOST)]] if len(first) > 1 else []


def _mean(node: Node) -> float:
    return round(float(node.value.float().mean()), 5)
