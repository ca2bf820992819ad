"""Grade, CriterionScore, Evidence: what a grader hands back, and its JSON form.

An unscored criterion says why (`unscored_reason`) and has no score: never NaN, never 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tasks.task import Rubric, is_pass, weighted_overall

EvidenceKind = Literal["static", "trace", "run", "quote"]


@dataclass(frozen=True)
class Evidence:
    """Where in the output, and what was seen. Lines count from 1; None when it is not about lines."""

    text: str
    kind: EvidenceKind = "static"
    line_start: int | None = None
    line_end: int | None = None


@dataclass(frozen=True)
class CriterionScore:
    """One criterion's verdict. `score` is on the criterion's scale; `passed` is None while undecided."""

    key: str
    passed: bool | None = None
    score: float | None = None
    weight: float = 1.0
    rationale: str = ""
    evidence: tuple[Evidence, ...] = ()
    unscored_reason: str = ""


@dataclass(frozen=True)
class Grade:
    """All criterion scores of one output by one grader.

    `runs` is None for graders that run nothing. `error` is the submission's own error (it crashed);
    a failure of ours is raised as GraderError and makes no grade.
    """

    task: str
    criteria: tuple[CriterionScore, ...]
    passed: bool | None
    score: float | None
    runs: bool | None = None
    failure_category: str = ""
    error: str | None = None
    duration_s: float = 0.0
    peak_memory_mb: float | None = None
    grader: dict[str, str] = field(default_factory=dict)
    sandbox: dict[str, Any] = field(default_factory=dict)
    stdout: str = ""
    stderr: str = ""

    def to_json(self, file: str | None = None) -> dict[str, Any]:
        """The object that `python -m graders grade --json` prints, one a line."""
        data = asdict(self)
        criteria = [_criterion_json(c) for c in self.criteria]
        head: dict[str, Any] = {"task": self.task}
        if file is not None:
            head["file"] = file
        order = ("failure_category", "error", "duration_s", "peak_memory_mb", "grader", "sandbox", "stdout", "stderr")
        return {
            **head,
            "runs": self.runs,
            "passed": self.passed,
            "score": self.score,
            "criteria": criteria,
            **{name: data[name] for name in order},
        }


class GraderError(RuntimeError):
    """A grader could not do its work for a reason of ours (no sandbox, no key): no grade is made.

    SandboxError (graders.sandbox) and JudgeError (graders.judge) are its kinds.
    """


def grade_of(task: str, rubric: Rubric, criteria: Iterable[CriterionScore], *, runs: bool | None, **rest: Any) -> Grade:
    """A Grade whose overall score and pass follow from its criteria by the rubric."""
    rows = tuple(criteria)
    scores = {c.key: c.score for c in rows}
    overall = weighted_overall(rubric, scores)
    return Grade(task=task, criteria=rows, score=overall, passed=is_pass(rubric, scores, overall, runs), runs=runs, **rest)


def _criterion_json(criterion: CriterionScore) -> dict[str, Any]:
    data = asdict(criterion)
    data["evidence"] = [{"line_start": e.line_start, "line_end": e.line_end, "kind": e.kind, "text": e.text} for e in criterion.evidence]
    if not criterion.unscored_reason:
        del data["unscored_reason"]
    return data
