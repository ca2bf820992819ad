"""What the probe saw of an fsdp_training submission, as plain objects: launches, their ranks, events by kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

ONE_NODE, SEVERAL_NODES, DEFAULTS = "one node", "three nodes", "default options"
LARGER, ELSEWHERE = "larger runs", "another environment"  # launches in which the script is led another way, fsdp_beyond.py
TRAINED = ("fsdp1", "fsdp2", "partly")
FIELDS = {
    "name": str, "nodes": int, "per_node": int, "gpus": int, "short": bool, "mends": list, "hung": str, "wall_s": float, "options": dict,
    "total": int, "sharded": int, "apart": list,
    "no_weights": str, "data": list, "ranks": list,
}  # fmt: skip
RANK_FIELDS = {
    "rank": int, "local_rank": int, "node": int, "exit_code": int, "signal": int, "stuck": list, "events": list, "files": list,
    "stdout": str, "stderr": str, "checkpoint": (dict, type(None)),
}  # fmt: skip
MAX_RUNS, MAX_RANKS, MAX_EVENTS = 16, 8, 20_000


@dataclass(frozen=True)
class Event:
    """Something that happened in a rank: `at` is its place in the order of that rank's events."""

    kind: str
    line: int
    at: int
    facts: Mapping[str, Any]

    def text(self, name: str) -> str:
        value = self.facts.get(name)
        return value if isinstance(value, str) else ""

    def number(self, name: str, default: int = -1) -> int:
        value = self.facts.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else default

    def flag(self, name: str) -> bool:
        return self.facts.get(name) is True

    def items(self, name: str) -> list[Any]:
        value = self.facts.get(name)
        return value if isinstance(value, list) else []


@dataclass(frozen=True)
class Rank:
    """One rank of a launch after its end."""

    rank: int
    local_rank: int
    node: int
    exit_code: int
    signal: int
    stuck: tuple[int, ...]
    events: tuple[Event, ...]
    files: tuple[str, ...]
    checkpoint: Mapping[str, Any] | None
    stdout: str
    stderr: str

    def all(self, kind: str) -> list[Event]:
        return [e for e in self.events if e.kind == kind]

    def first(self, kind: str) -> Event | None:
        return next((e for e in self.events if e.kind == kind), None)

    def last(self, kind: str) -> Event | None:
        return next((e for e in reversed(self.events) if e.kind == kind), None)

    @property
    def end(self) -> Event | None:
        return self.last("end")

    @property
    def finished(self) -> bool:
        """Did it run to its end, by its own account and by its exit code?"""
        return self.exit_code == 0 and self.end is not None and self.end.text("how") == "end" and self.first("dumped") is not None


@dataclass(frozen=True)
class Run:
    """One launch of the submission; `mends` are the known errors that it was helped past; `short`: epochs were cut short."""

    name: str
    nodes: int
    gpus: int
    short: bool
    mends: frozenset[str]
    hung: str
    options: Mapping[str, Any]
    total: int
    sharded: int
    apart: tuple[str, ...]
    no_weights: str
    data: frozenset[int]
    twins: frozenset[int]  # rows that the data set has more than once
    ranks: tuple[Rank, ...]

    @property
    def world(self) -> int:
        return len(self.ranks)

    @property
    def over(self) -> bool:
        """Did every rank leave by itself with exit code 0? What it has not done by then it does not do."""
        return not self.hung and all(rank.exit_code == 0 and not rank.signal for rank in self.ranks)

    @property
    def well(self) -> bool:
        return not self.hung and all(rank.finished for rank in self.ranks)

    def all(self, kind: str) -> list[Event]:
        return [e for rank in self.ranks for e in rank.all(kind)]

    @property
    def alone(self) -> Event | None:
        """Where a process joins a group of its own, in which it is the only rank."""
        return next((e for e in self.all("init") if e.flag("alone")), None)

    @property
    def n_parameters(self) -> int:
        """The size of the whole model: as its shards add up, else as the starter's model has it."""
        return self.total or starter_parameters(self.options)


def starter_parameters(options: Mapping[str, Any]) -> int:
    """Parameters of the starter's TransformerLM under these options."""
    d, vocab, layers = (int(options[name]) for name in ("d-model", "vocab-size", "n-layers"))
    return 2 * vocab * d + 256 * d + layers * (12 * d * d + 13 * d) + 2 * d


def check_report(report: Mapping[str, Any]) -> str:
    """What is wrong with a report, or ""."""
    if set(report) != {"runs"} or not isinstance(report["runs"], list) or not 0 < len(report["runs"]) <= MAX_RUNS:
        return f"fields are {sorted(report)[:12]}"
    return next((wrong for run in report["runs"] if (wrong := _check_run(run))), "")


def _check_run(run: Any) -> str:
    if wrong := _check_fields(run, FIELDS, "run"):
        return wrong
    if not 0 < len(run["ranks"]) <= MAX_RANKS:
        return "a run without ranks"
    for rank in run["ranks"]:
        if wrong := _check_fields(rank, RANK_FIELDS, "rank"):
            return wrong
        if len(rank["events"]) > MAX_EVENTS or not all(isinstance(e, dict) for e in rank["events"]):
            return "odd events"
    return ""


def _check_fields(data: Any, fields: Mapping[str, Any], what: str) -> str:
    if not isinstance(data, dict) or set(data) != set(fields):
        return f"{what} has other fields"
    return next((f"{what}: {name} is {type(data[name]).__name__}" for name, kind in fields.items() if not isinstance(data[name], kind)), "")


def read_runs(report: Mapping[str, Any]) -> list[Run]:
    return [_run(data) for data in report["runs"]]


def _run(data: Mapping[str, Any]) -> Run:
    ranks = tuple(_rank(r) for r in data["ranks"])
    rows = Counter(n for n in data["data"] if isinstance(n, int))
    twins = frozenset(row for row, times in rows.items() if times > 1)
    plain = {name: data[name] for name in ("name", "nodes", "gpus", "short", "hung", "options", "total", "sharded", "no_weights")}
    apart = tuple(str(name) for name in data["apart"])
    return Run(**plain, apart=apart, mends=frozenset(str(m) for m in data["mends"]), data=frozenset(rows), twins=twins, ranks=ranks)


def _rank(data: Mapping[str, Any]) -> Rank:
    events = tuple(Event(str(e.get("kind")), _line(e.get("line")), i, e) for i, e in enumerate(data["events"]))
    plain = {name: data[name] for name in ("rank", "local_rank", "node", "exit_code", "signal", "checkpoint", "stdout", "stderr")}
    stuck = tuple(_line(n) for n in data["stuck"])
    return Rank(**plain, stuck=stuck, events=events, files=tuple(str(f) for f in data["files"]))


def _line(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1_000_000 else 0


def strict(runs: Iterable[Run], name: str) -> Run | None:
    """The launch as it is, nothing mended."""
    return next((r for r in runs if r.name == name and not r.mends), None)


def furthest(runs: Iterable[Run], name: str) -> Run | None:
    """The launch with everything mended that could be: what the rest of the program does is seen there."""
    found = [r for r in runs if r.name == name]
    return found[-1] if found else None
