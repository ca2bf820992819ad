"""Outputs and grades as JSON. What a blind reviewer may not see yet is null here, as it is hidden on the pages."""

from __future__ import annotations

from typing import Any

from reviewapp.models import CriterionScore, Grade, Output
from reviewapp.outputs.views import Row
from reviewapp.review.sitting import Sitting, is_retracted


def row_json(row: Row) -> dict[str, Any]:
    """One of the list: no long text."""
    output = row.output
    told = {
        "id": output.pk,
        "external_id": output.external_id,
        "version": output.version,
        "task": output.task.slug,
        "length": output.length,
        "is_sample": output.is_sample,
        "content_missing": output.content_missing,
        "created_at": output.created_at,
        "is_hidden": row.is_hidden,
    }
    return told | summary_json(output, is_hidden=row.is_hidden)


def summary_json(output: Output, *, is_hidden: bool) -> dict[str, Any]:
    """What was said of it, in short."""
    if is_hidden:
        names = ("variant", "model", "judge", "human", "label", "disagreement", "failure_category")
        return dict.fromkeys(names)
    return {
        "variant": output.variant.name,
        "model": output.model,
        "judge": {"score": output.judge_score, "passed": output.judge_passed},
        "human": {"score": output.human_score, "raters": output.human_count},
        "label": {
            "score": output.label_score,
            "passed": output.label_passed,
            "source": output.label_source,
            "state": output.label_state,
        },
        "disagreement": output.disagreement,
        "failure_category": output.failure_category,
    }


def output_json(sitting: Sitting) -> dict[str, Any]:
    """One output with its texts, and the grades that this person may see."""
    output, is_hidden = sitting.output, not sitting.sees_judge
    rubric = sitting.rubric
    grades = sitting.grades if sitting.sees_judge else sitting.mine
    return {
        "id": output.pk,
        "external_id": output.external_id,
        "version": output.version,
        "is_latest": output.is_latest,
        "task": output.task.slug,
        "format": output.format,
        "length": output.length,
        "is_sample": output.is_sample,
        "created_at": output.created_at,
        "prompt": output.prompt.text if output.prompt else output.variant.prompt,
        "content": output.body.content,
        "content_missing": output.content_missing,
        "reference": output.body.reference,
        "transcript": output.body.transcript,
        "metadata": None if is_hidden else output.metadata,
        "mode": sitting.mode,
        "own_grade": sitting.standing.pk if sitting.standing else None,
        "is_hidden": is_hidden,
        "rubric": rubric and {"version": rubric.version, "scale": [rubric.scale_low, rubric.scale_high], "criteria": _criteria(sitting)},
        **summary_json(output, is_hidden=is_hidden),
        "grades": [grade_json(grade) for grade in grades],
    }


def grade_json(grade: Grade) -> dict[str, Any]:
    return {
        "id": grade.pk,
        "grader": {"name": grade.grader.name, "version": grade.grader.version, "kind": grade.grader.kind},
        "mode": grade.mode,
        "rater": grade.rater_name,
        "overall": grade.overall,
        "passed": grade.passed,
        "runs": grade.runs,
        "unscored_reason": grade.unscored_reason,
        "rationale": grade.rationale,
        "failure_category": grade.failure_category,
        "supersedes": grade.supersedes_id,
        "is_retracted": is_retracted(grade),
        "rubric_version": grade.rubric.version,
        "duration_s": grade.duration_s,
        "created_at": grade.created_at,
        "criteria": {row.criterion.key: _score_json(row) for row in grade.criterion_scores.all()},
    }


def _score_json(row: CriterionScore) -> dict[str, Any]:
    return {
        "score": row.score,
        "value": row.value,
        "passed": row.passed,
        "unscored_reason": row.unscored_reason,
        "rationale": row.rationale,
        "evidence": row.evidence,
    }


def _criteria(sitting: Sitting) -> list[dict[str, Any]]:
    return [
        {"key": c.key, "title": c.title, "kind": c.kind, "weight": c.weight, "scale": [c.scale_low, c.scale_high], "values": c.values}
        for c in sitting.criteria
    ]
