"""Does the record tell how a program's logits come about? Runs INSIDE the sandbox.

What goes through numpy, Python's own numbers or another thread is recorded nowhere, and could take back what the recorded
operations do. Where a program has such ways, a few parameters are moved a little, in the record and in the program itself:
both must give the same logits.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from memory_facts import Trace
from modes import Mode
from replay import Replay, rms
from trial import Trial, bases

WAYS = re.compile(r"numpy|tolist|item\(|float\((?![\"'])|asarray|dlpack|frombuffer|thread|concurrent|storage|memoryview")
LITTLE = 1e-3  # of a parameter's size: discrete choices stay what they are
LEAST = 3e-6  # of the logits: less than that is rounding
LIKE, NEXT_TO_NONE, ANOTHER = 0.3, 0.05, 0.01


def past_the_record(trial: Trial, trace: Trace, mode: Mode) -> set[str]:
    """Where values go past it: in the "memory", in the "blend" outside, in both or nowhere."""
    with mode.of(trial.model):
        return _past(trial, trace)


def _past(trial: Trial, trace: Trace) -> set[str]:
    loose = _loose(trace)
    if not loose and not _has_words(trial):
        return set()
    inside = _of_memory(trial)
    mine, others = _follows(trial, trace, inside), _follows(trial, trace, {n.name for n in trace.graph.nodes if n.op == "param"} - inside)
    if mine == others == "as recorded":
        return set()
    taken = {n.memory is not None for n in trace.graph.nodes if loose.intersection(n.ins)} or {True, False}
    return {place for place, is_there in (("memory", True in taken or mine == "not at all"), ("blend", False in taken)) if is_there}


def _loose(trace: Trace) -> set[int]:
    """Larger values that no recorded operation gave."""
    floats = [n for n in trace.graph.nodes if n.op == "const" and not n.name and n.value.is_floating_point()]
    return {n.i for n in floats if n.numel >= trace.graph.batch * trace.length}


def _has_words(trial: Trial) -> bool:
    with open(trial.path, encoding="utf-8", errors="replace") as file:
        return bool(WAYS.search(file.read()))


def _follows(trial: Trial, trace: Trace, names: Collection[str]) -> str:
    """Do the logits follow these parameters "as recorded", otherwise, or "not at all" where they should?"""
    graph = trace.graph
    batch, length = graph.batch, trace.length
    nodes = [n for n in graph.nodes if n.op == "param" and n.name in names and n.tensor.is_floating_point()]
    moves = {n.i: _little(n.tensor.detach(), n.i) for n in nodes}
    recorded = graph.nodes[trace.logits].value
    with torch.no_grad():
        before, again = (trial.run(batch, length).detach() for _ in range(2))
        if rms(before - again) > LEAST * rms(before) or rms(before - recorded) > ANOTHER * rms(recorded):  # no two runs are alike
            return "as recorded"
        said = Replay(graph).one(trace.logits, {i: graph.nodes[i].value + move for i, move in moves.items()}) - recorded
        with moved({n.tensor: moves[n.i] for n in nodes}):
            done = trial.run(batch, length).detach() - before
    size = max(rms(said), rms(done))
    if size < LEAST * rms(recorded) or rms(said - done) < LIKE * size:
        return "as recorded"
    return "not at all" if rms(done) < NEXT_TO_NONE * size else "otherwise"


@contextmanager
def moved(by: dict[torch.Tensor, torch.Tensor]) -> Iterator[None]:
    """The program with its parameters a little elsewhere, for as long as it is entered."""
    was = {p: p.detach().clone() for p in by}
    for p, move in by.items():
        p.add_(move)
    try:
        yield
    finally:
        for p, value in was.items():
            p.copy_(value)


def _little(value: torch.Tensor, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    move = LITTLE * max(rms(value), 0.01) * torch.randn(value.shape, generator=generator)
    little: torch.Tensor = move.to(value.dtype)
    return little


def _of_memory(trial: Trial) -> set[str]:
    """The names of the memories' own parameters."""
    inside = [name for name, module in trial.model.named_modules() if trial.memory_class in bases(type(module))]
    return {name for name, _ in trial.model.named_parameters() if any(name.startswith(f"{at}.") for at in inside)}
