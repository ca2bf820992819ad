"""Judge: a name, a model, its settings and a prompt template, as one immutable version named by its content.

The rubric and the task's instructions (judge.md) are the task's: a grade points at the rubric version that it was made
with, which holds both, and `identity` names all three.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from llm.types import EFFORTS, Effort
from tasks.task import Criterion, Task, sha256_of

NAME = "judge"
DEFAULT_MODEL = "claude-opus-5-5"
MOST_VOTES = 25
TEMPLATE = (Path(__file__).parent / "template.md").read_text(encoding="utf-8")
PLACES = ("{{instructions}}", "{{task}}", "{{rubric}}", "{{form}}")
# What the code around the template does; raise it when a change there may change a verdict.
PROTOCOL = 1
# Criteria that another grader decides better: a program looks citations up.
LEFT_OUT = {"literature_review": ("citations",)}


@dataclass(frozen=True)
class Judge:
    """`votes`: how often it is asked the same thing. effort None and no thinking suit a server that knows neither."""

    name: str = NAME
    model: str = DEFAULT_MODEL
    effort: Effort | None = "high"
    thinking: bool = True
    votes: int = 3
    max_tokens: int = 16_000
    template: str = TEMPLATE

    def __post_init__(self) -> None:
        if not 1 <= self.votes <= MOST_VOTES:
            raise ValueError(f"votes is {self.votes}, allowed: 1 to {MOST_VOTES}")
        if self.effort is not None and self.effort not in EFFORTS:
            raise ValueError(f"effort is {self.effort!r}, allowed: {', '.join(EFFORTS)}, none")
        if missing := [place for place in PLACES if place not in self.template]:
            raise ValueError(f"the prompt template lacks {missing[0]}, it must hold: {', '.join(PLACES)}")

    @property
    def sha256(self) -> str:
        return sha256_of([PROTOCOL, asdict(self), LEFT_OUT])

    @property
    def version(self) -> str:
        return self.sha256[:10]

    def identity(self, task: Task) -> dict[str, str]:
        """Everything that a verdict depends on, by name or hash."""
        hashes = {"rubric_sha256": task.rubric.sha256, "instructions_sha256": sha256_of(task.judge_instructions)}
        return {"name": self.name, "version": self.version, "sha256": self.sha256, "model": self.model, **hashes}


def judged_criteria(task: Task) -> tuple[Criterion, ...]:
    """The criteria that a judge decides: scored and pass-or-fail ones that no other grader decides."""
    left_out = LEFT_OUT.get(task.slug, ())
    return tuple(c for c in task.rubric.criteria if c.kind != "categorical" and c.key not in left_out)


def read_judge(env: Mapping[str, str] | None = None) -> Judge:
    """The judge as the environment sets it. Raises ValueError naming the value and what is allowed."""
    env = os.environ if env is None else env
    told = {name: env.get(f"JUDGE_{name}", "").strip() for name in ("MODEL", "EFFORT", "THINKING", "VOTES", "MAX_TOKENS")}
    for name in ("VOTES", "MAX_TOKENS"):
        if told[name] and not (told[name].isdecimal() and int(told[name])):
            raise ValueError(f"JUDGE_{name} is {told[name]!r}, must be a whole number above 0")
    if told["THINKING"] not in ("", "0", "1"):
        raise ValueError(f"JUDGE_THINKING is {told['THINKING']!r}, allowed: 0, 1")
    plain = Judge()
    effort = told["EFFORT"].lower() or plain.effort
    return Judge(
        model=told["MODEL"] or plain.model,
        effort=None if effort == "none" else cast(Effort, effort),  # checked when it is made
        thinking=told["THINKING"] != "0",
        votes=int(told["VOTES"] or plain.votes),
        max_tokens=int(told["MAX_TOKENS"] or plain.max_tokens),
    )
