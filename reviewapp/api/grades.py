"""Add a grade in the name of the token's member, by the same code that a submit of the review page runs."""

from __future__ import annotations

from typing import Any, Literal

from django.db import transaction
from django.db.models import prefetch_related_objects
from django.http import HttpRequest
from ninja import Schema, Status
from pydantic import ConfigDict, Field

from reviewapp.api.app import api
from reviewapp.api.auth import Bearer
from reviewapp.api.errors import ApiError, Problem
from reviewapp.api.facts import grade_json
from reviewapp.api.outputs import sit_on
from reviewapp.models import Criterion, Grade
from reviewapp.review.answers import NOTE_CHARS, begin_override, from_scores, read_form
from reviewapp.review.sitting import SCORES, Sitting
from reviewapp.review.submit import ACTIVE_S_A_SAVE, EVIDENCE_A_CRITERION, attach, begin, record, why_incomplete

STRICT = ConfigDict(extra="forbid")
MOST_ANSWERS = 1000


class AnswerBody(Schema):
    """One of the first four: a score on the criterion's scale, pass or fail, a category, or that one is unsure."""

    model_config = STRICT
    score: float | None = None
    passed: bool | None = None
    value: str | None = Field(None, max_length=100)
    unsure: bool = False
    note: str = Field("", max_length=NOTE_CHARS)
    quotes: list[str] = Field([], max_length=EVIDENCE_A_CRITERION, description="Pieces of the output, word for word")


class GradeBody(Schema):
    """`supersedes`: the judge's grade that an override is of, or one's own earlier grade that this one changes."""

    model_config = STRICT
    mode: Literal["blind", "assisted", "override"]
    answers: dict[str, AnswerBody] = Field(..., max_length=MOST_ANSWERS)
    note: str = Field("", max_length=NOTE_CHARS)
    supersedes: int | None = None
    duration_s: float = Field(0.0, ge=0, le=ACTIVE_S_A_SAVE, allow_inf_nan=False)


@api.post("outputs/{int:pk}/grades", auth=Bearer("grade"), tags=["grades"], response={201: dict[str, Any]})
def add_grade(request: HttpRequest, pk: int, body: GradeBody) -> Status:
    """Grades are added and never changed: who changes their mind adds one that `supersedes` theirs, who corrects the judge an override.

    `blind` is for who has seen nothing of what others said of this output, here or on its pages; 409 says why it is not so.
    Blind and assisted grades answer every criterion. An override names what it changes, each with a note that says why.
    """
    with transaction.atomic():
        sitting = sit_on(request, pk, lock=True)
        if sitting.rubric is None:
            raise ApiError(422, f"The task {sitting.output.task.slug} has no rubric, so there is nothing to grade by.")
        supersedes = _superseded(sitting, body)
        _fill_draft(sitting, body, supersedes)
        if left := why_incomplete(sitting):
            raise ApiError(422, " ".join(left), [Problem("body.answers", sorted(body.answers), text) for text in left])
        try:
            grade = record(sitting)
        except ValueError as error:
            raise ApiError(422, str(error), [Problem("body.answers", None, str(error))]) from error
    prefetch_related_objects([grade], SCORES)
    return Status(201, grade_json(grade))


def _superseded(sitting: Sitting, body: GradeBody) -> Grade | None:
    """The grade that this one takes the place of. Raises ApiError where the mode would not be the truth."""
    own = sitting.standing
    if body.mode == "override":
        judge = next((grade for grade in sitting.judges if grade.pk == body.supersedes), None)
        if judge is None:
            shown = ", ".join(f"{g.pk} ({g.grader})" for g in sitting.judges)
            why = shown or ("none: the judge is hidden until you have graded" if not sitting.sees_judge else "none: no judge graded it")
            raise _conflict("body.supersedes", body.supersedes, f"the id of a judge's grade that you can see: {why}")
        return judge
    if own and body.supersedes != own.pk:
        raise _conflict("body.supersedes", body.supersedes, f"{own.pk}, your own grade of this output, to change it (mode assisted)")
    if not own and body.supersedes is not None:
        raise _conflict("body.supersedes", body.supersedes, "nothing: you have no grade of this output that stands")
    if body.mode == "blind" and sitting.mode != "blind":
        raise _conflict("body.mode", "blind", "assisted: you have graded this output or could see what was said of it")
    return own


def _fill_draft(sitting: Sitting, body: GradeBody, supersedes: Grade | None) -> None:
    """As the page's form does it, in one go. What was begun on the page and not submitted gives way."""
    before = {}
    if body.mode == "override" and supersedes:
        before = begin_override({}, from_scores(supersedes.criterion_scores.all(), with_words=False))
    begin(sitting, body.mode, before, note=body.note, supersedes=supersedes)
    draft = sitting.draft
    criteria = {c.key: c for c in sitting.criteria}
    form: dict[str, str] = {}
    for key, answer in body.answers.items():
        if key not in criteria:
            raise _wrong(f"body.answers.{key}", key, f"a criterion of the rubric: {', '.join(criteria)}")
        form |= {f"answer.{key}": _as_typed(criteria[key], answer), f"note.{key}": answer.note}
    draft.answers, errors = read_form(sitting.criteria, form, draft.answers)
    for key, answer in body.answers.items():
        errors += [error for quote in answer.quotes for error in attach(sitting, key, quote)]
    if errors:
        raise ApiError(422, " ".join(errors), [Problem("body.answers", None, error) for error in errors])
    draft.active_ms = int(1000 * body.duration_s)
    draft.save()


def _as_typed(criterion: Criterion, answer: AnswerBody) -> str:
    """The answer as the page's form sends it."""
    where = f"body.answers.{criterion.key}"
    given = [name for name in ("score", "passed", "value") if getattr(answer, name) is not None] + ["unsure"] * answer.unsure
    if len(given) != 1:
        raise _wrong(where, ", ".join(given) or None, "exactly one of score, passed, value, unsure")
    if answer.unsure:
        # The page has this button for pass-or-fail criteria; a number that one is unsure of is left out there.
        if criterion.kind != "binary":
            raise _wrong(
                f"{where}.unsure", True, f"a {'value' if criterion.kind == 'categorical' else 'score'}: only pass-or-fail criteria"
            )
        return "unsure"
    if criterion.kind == "categorical":
        return answer.value if answer.value is not None else _need(where, given[0], f"value, one of {', '.join(criterion.values)}")
    if criterion.kind == "binary":
        passed = answer.passed
        if passed is None and answer.score in (criterion.scale_low, criterion.scale_high):
            passed = answer.score == criterion.scale_high
        if passed is None:
            return _need(where, given[0], "passed, true or false")
        return "pass" if passed else "fail"
    return (
        repr(answer.score)
        if answer.score is not None
        else _need(where, given[0], f"score, {criterion.scale_low:g} to {criterion.scale_high:g}")
    )


def _need(where: str, given: str, wanted: str) -> str:
    raise _wrong(where, given, wanted)


def _wrong(where: str, seen: Any, allowed: str) -> ApiError:
    return ApiError(422, f"{where} is {seen!r}, allowed: {allowed}", [Problem(where, seen, allowed)])


def _conflict(where: str, seen: Any, allowed: str) -> ApiError:
    return ApiError(409, f"{where} is {seen!r}, allowed: {allowed}", [Problem(where, seen, allowed)])
