"""Every grade of an output, and what its graders found: the History and Evidence tabs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import prefetch_related_objects
from django.utils.safestring import SafeString, mark_safe

from reviewapp.models import CriterionScore, Grade
from reviewapp.review.citations import Cited, cited_rows
from reviewapp.review.course import Bar, Course, bars_of, course_of
from reviewapp.review.evidence import Pointer, pointers_of
from reviewapp.review.panel import headline, score_text
from reviewapp.review.rendering.guards import visible
from reviewapp.review.sitting import HISTORY_ROWS, SCORES, Sitting, is_retracted

LOG_CHARS = 20_000


@dataclass(frozen=True)
class ScoreLine:
    title: str
    text: str
    rationale: str
    pointers: Sequence[Pointer]
    cited: Sequence[Cited] = ()


@dataclass(frozen=True)
class Event:
    """One grade in the history."""

    grade: Grade
    line: dict[str, str]
    scores: Sequence[ScoreLine]
    is_retracted: bool
    supersedes: str


@dataclass(frozen=True)
class Report:
    """What a grader found, and what the sandbox saw when it ran the output."""

    grade: Grade
    line: dict[str, str]
    scores: Sequence[ScoreLine]
    log: Sequence[tuple[str, SafeString]]
    facts: Sequence[tuple[str, str]]
    is_unsandboxed: bool
    # Of a judge: what in the output tries to steer it, and its own summary of its thoughts.
    attempts: Sequence[Mapping[str, Any]] = ()
    thinking: str = ""
    # Of code that ran: its time and memory, and what it did step by step.
    bars: Sequence[Bar] = ()
    course: Course | None = None


def history(sitting: Sitting) -> dict[str, Any]:
    """The newest grades first; nothing is left out but what is older than the limit, and that is said."""
    grades = sitting.grades
    prefetch_related_objects([grade for grade in grades if "criterion_scores" not in _prefetched(grade)], SCORES)
    by_id = {grade.pk: grade for grade in grades}
    events = [
        Event(
            grade=grade,
            line=headline(grade),
            scores=_score_lines(grade),
            is_retracted=is_retracted(grade),
            supersedes=_superseded(grade, by_id),
        )
        for grade in grades
    ]
    return {"events": events, "is_cut": len(grades) == HISTORY_ROWS}


def grader_reports(sitting: Sitting) -> list[Report]:
    logs = dict(Grade.objects.filter(pk__in=[g.pk for g in sitting.judges]).values_list("pk", "run_log"))
    return [_report(grade, logs.get(grade.pk) or {}) for grade in sitting.judges]


def _report(grade: Grade, log: dict[str, Any]) -> Report:
    sandbox, judge = log.get("sandbox") or {}, log.get("judge") or {}
    bars = bars_of(log, grade.duration_s)
    facts = [
        ("Ran", {True: "yes", False: "no, it failed"}.get(grade.runs, "")),
        ("Failure", grade.failure_category.replace("_", " ")),
        ("Time", f"{grade.duration_s:.1f} s" if grade.duration_s is not None and not bars else ""),
        ("Cost", f"${grade.cost_usd:.4f}" if grade.cost_usd else ""),
        ("Sandbox", str(sandbox.get("backend", ""))),
        ("On the GPU", _gpu_text(sandbox.get("gpu_run") or {})),
        ("Model", str(judge.get("model", ""))),
        ("Votes", _votes_text(judge)),
    ]
    return Report(
        grade=grade,
        line=headline(grade),
        scores=_score_lines(grade),
        log=[(name, _log_text(log[key])) for key, name in (("error", "Error"), ("stdout", "stdout"), ("stderr", "stderr")) if log.get(key)],
        facts=[(name, value) for name, value in facts if value],
        is_unsandboxed=sandbox.get("backend") == "process",
        attempts=judge.get("attempts") or (),
        thinking=str(judge.get("thinking") or ""),
        bars=bars,
        course=course_of(log),
    )


def _gpu_text(run: Mapping[str, Any]) -> str:
    """What became of a program on the real GPU, where the grader had one."""
    if run.get("runs"):
        return f"{run['device']}: it ran to its end in {run['wall_s']:.0f} s"
    return f"{run['device']}{run['device'] and ': '}{run['error']}" if run else ""


def _votes_text(judge: Mapping[str, Any]) -> str:
    """How many votes there are, how many were of no use and why, and how far they lie apart at most."""
    if not judge.get("votes"):
        return ""
    failed = [vote.get("reason", "") for vote in judge.get("failed_votes") or ()]
    spreads = [spread["sd"] for spread in (judge.get("spread") or {}).values() if spread.get("sd") is not None]
    parts = [str(judge["votes"])]
    parts += [f"{len(failed)} of no use ({', '.join(sorted(set(failed)))})"] if failed else []
    parts += [f"standard deviation up to {max(spreads):.2g}"] if spreads else []
    return ", ".join(parts)


def _log_text(value: Any) -> SafeString:
    text = str(value)
    shown = visible(text[-LOG_CHARS:])
    if len(text) > LOG_CHARS:
        shown = f'<span class="folded">… {len(text) - LOG_CHARS:,} earlier characters</span>\n{shown}'
    return mark_safe(shown)  # noqa: S308 - `visible` has escaped it


def _score_lines(grade: Grade) -> list[ScoreLine]:
    return [_score_line(row) for row in grade.criterion_scores.all()]


def _score_line(row: CriterionScore) -> ScoreLine:
    base = "?tab=output"
    cited = cited_rows(row, base)
    pointers = () if cited else pointers_of(row, None, base)
    return ScoreLine(row.criterion.title, score_text(row.criterion, row), row.rationale, pointers, cited)


def _superseded(grade: Grade, by_id: dict[int, Grade]) -> str:
    if not grade.supersedes_id:
        return ""
    other = by_id.get(grade.supersedes_id)
    return f"grade {grade.supersedes_id}" + (f" by {other.rater_name or other.grader}" if other else "")


def _prefetched(grade: Grade) -> dict[str, Any]:
    return getattr(grade, "_prefetched_objects_cache", {})
