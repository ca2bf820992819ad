"""Helpers of the neural memory tests: a program in parts, and what the grader says of it.

The programs here are ours, so they need no sandbox: one process imports torch once and forks for each of them.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from graders.code.channel import PROBES, Answer
from graders.code.neural_memory import NeuralMemoryGrader, check_report
from graders.code.source import read_source
from graders.grade import CriterionScore, Grade
from graders.sandbox import Result
from tasks.task import Task, load_tasks

WARM = Path(__file__).with_name("warm.py")
PROGRAM = """\
import math
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d=32):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        self.net = nn.Linear(d, 1)
        self.both = nn.Linear(2 * d, 1)
        self.forget = nn.Linear(d, 1)
        self.decay = nn.Parameter(torch.tensor(2.0))
        self.out = nn.Linear(d, d)
        {init}

    def forward(self, x):
        B, T, D = x.shape
        q, k, v = self.q(x), F.normalize(self.k(x), dim=-1), self.v(x)
        M = torch.zeros(B, D, D)
        reads = []
        {before}
        for t in range(T):
            r = torch.einsum("bij,bj->bi", M, k[:, t])
            s = {gate}
            f = {decay}
            w = {write}
            {update}
            reads.append({read})
        return self.out(torch.stack(reads, 1))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=64, d=32, n_heads=4, max_len=64):
        super().__init__()
        self.emb, self.pos = nn.Embedding(vocab_size, d), nn.Embedding(max_len, d)
        self.ln, self.attn = nn.LayerNorm(d), nn.MultiheadAttention(d, n_heads, batch_first=True)
        self.mem = NeuralMemory(d)
        self.g, self.g2, self.gc = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(2 * d, d)
        self.alpha = nn.Parameter(torch.zeros(d))
        self.cat, self.two = nn.Linear(2 * d, d), nn.Linear(d, 2)
        self.head = nn.Linear(d, vocab_size)

    def forward(self, tokens):
        T = tokens.shape[1]
        x = self.emb(tokens) + self.pos(torch.arange(T))
        h = self.ln(x)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool), 1)
        a = self.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
        m = {memory}
        g = {blend_gate}
        {fuse}
        return self.head(x)
"""
PARTS = {
    "init": "pass",
    "before": "pass",
    "gate": "torch.sigmoid(self.both(torch.cat([v[:, t], r], -1)))",
    "decay": "torch.sigmoid(self.decay)",
    "write": "torch.einsum('bi,bj->bij', v[:, t], k[:, t])",
    "update": "M = f * M + s.unsqueeze(-1) * w",
    "read": "torch.einsum('bij,bj->bi', M, q[:, t])",
    "memory": "self.mem(h)",
    "blend_gate": "torch.sigmoid(self.g(h))",
    "fuse": "x = x + g * a + (1 - g) * m",
}


def program(**parts: str) -> str:
    """A right program with some parts replaced; more than one line in a part is fine."""
    assert set(parts) <= set(PARTS), set(parts) - set(PARTS)
    text = PROGRAM
    for name, code in {**PARTS, **parts}.items():
        before = text.split("{" + name + "}")[0].rpartition("\n")[2]
        text = text.replace("{" + name + "}", code.replace("\n", "\n" + before))
    return text


@lru_cache(maxsize=1)
def task() -> Task:
    return next(t for t in load_tasks() if t.slug == "neural_memory")


@lru_cache(maxsize=1)
def _warm() -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, str(WARM), str(PROBES)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    atexit.register(process.kill)
    return process


@cache
def report(source: str) -> dict[str, Any]:
    """What the probe says of a program of ours, without a sandbox."""
    process = _warm()
    assert process.stdin and process.stdout
    process.stdin.write(json.dumps(source) + "\n")
    process.stdin.flush()
    found: dict[str, Any] = json.loads(process.stdout.readline())
    assert check_report(found) == ""
    return found


@cache
def grade(source: str) -> Grade:
    return grade_by(source, report(source))


def grade_by(source: str, found: dict[str, Any]) -> Grade:
    """The grade of a program with this text of which the probe said this."""
    result = Result("none", 0, None, False, "", 0.0, 0.0, 0.0, "", "")
    return NeuralMemoryGrader()._grade_of(task(), read_source(source), Answer(result, found))


def score(source: str, criterion: str) -> CriterionScore:
    found = grade(source)
    assert found.runs, found.error
    return next(c for c in found.criteria if c.key == criterion)


def check_passes(source: str, criterion: str) -> None:
    row = score(source, criterion)
    assert row.passed is True, f"{criterion}: {row.passed} because {row.rationale}"


def check_fails(source: str, criterion: str, *, because: str) -> None:
    row = score(source, criterion)
    assert row.passed is False, f"{criterion}: {row.passed} because {row.rationale}"
    assert because in row.rationale


def check_never_passes(source: str, criterion: str) -> None:
    """For what may stay undecided: all that matters is that it is no pass."""
    row = score(source, criterion)
    assert row.passed is not True, row.rationale
