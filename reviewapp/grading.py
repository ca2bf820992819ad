"""Write a grade: the one door through which a person's or a grader's verdict enters the database.

An import has a bulk door of its own (interchange/), with the same rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import transaction

from graders.grade import Grade as PlainGrade
from reviewapp.catalog.sync import save_grader
from reviewapp.models import Criterion, CriterionScore, Grade, Grader, Output, Retraction, Rubric, User
from reviewapp.rewards import labels
from tasks.task import is_pass, weighted_overall

HUMAN_GRADER = "human"


@dataclass(frozen=True)
class Answer:
    """One criterion as a person answered it. `score` on its scale, `value` if categorical, neither if unsure."""

    score: float | None = None
    value: str = ""
    note: str = ""
    evidence: Sequence[Mapping[str, Any]] = field(default_factory=tuple)


def human_grader() -> Grader:
    return save_grader(HUMAN_GRADER, "1", Grader.Kind.HUMAN)


@transaction.atomic
def record_human_grade(
    output: Output,
    rater: User,
    mode: str,
    answers: Mapping[str, Answer],
    *,
    key: str,
    rationale: str = "",
    supersedes: Grade | None = None,
    active_s: float | None = None,
    rubric: Rubric | None = None,
    runs: bool | None = None,
) -> Grade:
    """Add a person's grade; with the same `key` again it returns the one that is there.

    `answers`: criterion key -> Answer. Raises ValueError naming the criterion whose score is out of its scale.
    `runs`: what the grader that is overridden saw, None when nobody ran the output.
    """
    if found := output.grades.filter(key=key).first():
        return found
    rubric = rubric or output.task.rubric
    plain = rubric.spec
    criteria = {c.key: c for c in rubric.criteria.all()}
    rows = [_answer_row(criteria, name, answer) for name, answer in answers.items()]
    scores = {row.criterion.key: row.score for row in rows}
    overall = weighted_overall(plain, scores)
    grade = Grade.objects.create(
        output=output,
        grader=human_grader(),
        rubric=rubric,
        mode=mode,
        rater=rater,
        rater_name=rater.username,
        overall=overall,
        passed=is_pass(plain, scores, overall, runs),
        runs=runs,
        unscored_reason="" if overall is not None else _why_unscored(rows),
        rationale=rationale,
        supersedes=supersedes,
        duration_s=active_s,
        key=key,
    )
    _save_scores(grade, rows)
    labels.refresh([output.pk])
    return grade


@transaction.atomic
def record_grader_grade(output: Output, grader: Grader, plain: PlainGrade, *, attempt: int, rubric: Rubric | None = None) -> Grade:
    """Add a grader's grade of its nth attempt; a second delivery returns the first one's grade."""
    key = f"grader:{grader.pk}:{attempt}"
    if found := output.grades.filter(key=key).first():
        return found
    rubric = rubric or output.task.rubric
    criteria = {c.key: c for c in rubric.criteria.all()}
    log = {"error": plain.error, "stdout": plain.stdout, "stderr": plain.stderr, "sandbox": plain.sandbox}
    if plain.judge:
        log["judge"] = plain.judge
    if plain.course:
        log["course"] = plain.course
    grade = Grade.objects.create(
        output=output,
        grader=grader,
        rubric=rubric,
        mode=Grade.Mode.AUTOMATIC,
        overall=plain.score,
        passed=plain.passed,
        runs=plain.runs,
        unscored_reason=plain.unscored_reason,
        rationale=plain.rationale,
        cost_usd=plain.cost_usd,
        failure_category=plain.failure_category,
        run_log={**log, "peak_memory_mb": plain.peak_memory_mb},
        duration_s=plain.duration_s,
        key=key,
    )
    rows = [
        CriterionScore(
            criterion=criteria[c.key],
            score=c.score,
            passed=c.passed,
            unscored_reason="" if c.score is not None else c.unscored_reason or "undecided",
            rationale=c.rationale,
            evidence=[e.to_json() for e in c.evidence],
        )
        for c in plain.criteria
    ]
    _save_scores(grade, rows)
    labels.refresh([output.pk])
    return grade


@transaction.atomic
def retract(grade: Grade, by: User, reason: str) -> Retraction:
    """Take a grade back: it stays in the history and counts no more."""
    retraction, _ = Retraction.objects.get_or_create(grade=grade, defaults={"by": by, "reason": reason})
    labels.refresh([grade.output_id])
    return retraction


def _answer_row(criteria: Mapping[str, Criterion], key: str, answer: Answer) -> CriterionScore:
    if key not in criteria:
        raise ValueError(f"criterion {key!r} is not in the rubric, allowed: {', '.join(criteria)}")
    criterion = criteria[key]
    if answer.score is not None and not criterion.scale_low <= answer.score <= criterion.scale_high:
        raise ValueError(f"{key}: score {answer.score} is out of scale, allowed: {criterion.scale_low:g} to {criterion.scale_high:g}")
    if answer.value and answer.value not in criterion.values:
        raise ValueError(f"{key}: value {answer.value!r} is unknown, allowed: {', '.join(criterion.values)}")
    is_binary = criterion.kind == "binary" and answer.score is not None
    return CriterionScore(
        criterion=criterion,
        score=answer.score,
        value=answer.value,
        passed=answer.score > (criterion.scale_low + criterion.scale_high) / 2 if is_binary else None,
        unscored_reason="" if answer.score is not None or answer.value else "unsure",
        rationale=answer.note,
        evidence=list(answer.evidence),
    )


def _why_unscored(rows: Sequence[CriterionScore]) -> str:
    """A grade without an overall score says why: nothing given, only categories, or the person was unsure."""
    if not rows:
        return "not_given"
    return "not_numeric" if all(row.value for row in rows) else "unsure"


def _save_scores(grade: Grade, rows: Sequence[CriterionScore]) -> None:
    for row in rows:
        row.grade = grade
    CriterionScore.objects.bulk_create(sorted(rows, key=lambda row: row.criterion.position))
