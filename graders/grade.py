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
    """Where in the output, and what was seen. Lines count from 1; None when it is not about lines.

    `is_found` is False for a quote that the output does not hold. `about` is what a grader knows of it beside its words:
    the citations grader tells there which paper is meant, and what was found of it.
    """

    text: str
    kind: EvidenceKind = "static"
    line_start: int | None = None
    line_end: int | None = None
    is_found: bool = True
    about: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        told = {"line_start": self.line_start, "line_end": self.line_end, "kind": self.kind, "text": self.text}
        return told | ({} if self.is_found else {"found": False}) | ({"about": self.about} if self.about else {})


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
    a failure of ours is raised as GraderError and makes no grade. `judge` holds what an LLM judge knows beside its
    scores (votes and their spread, tries to steer it, usage); its `cost_usd` is None when it is not known.
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
    rationale: str = ""
    cost_usd: float | None = None
    judge: dict[str, Any] = field(default_factory=dict)
    course: dict[str, list[float]] = field(default_factory=dict)  # series over the steps of a run, by name

    @property
    def unscored_reason(self) -> str:
        """Why there is no overall score: what its criteria have in common, or "undecided"."""
        if self.score is not None:
            return ""
        reasons = {c.unscored_reason for c in self.criteria if c.unscored_reason not in ("", "not_judged")}
        return reasons.pop() if len(reasons) == 1 else "undecided"

    def to_json(self, file: str | None = None) -> dict[str, Any]:
        """The object that `python -m graders grade --json` prints, one a line."""
        data = asdict(self)
        criteria = [_criterion_json(c) for c in self.criteria]
        head: dict[str, Any] = {"task": self.task}
        if file is not None:
            head["file"] = file
        order = ["failure_category", "error", "duration_s", "peak_memory_mb", "grader", "sandbox", "stdout", "stderr"]
        if self.judge:
            order += ["rationale", "cost_usd", "judge"]
        if self.course:
            order.append("course")
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
    data["evidence"] = [evidence.to_json() for evidence in criterion.evidence]
    if not criterion.unscored_reason:
        del data["unscored_reason"]
    return data
