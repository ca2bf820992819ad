"""What a reviewer has typed: from the form into a draft, and from a draft into a grade's answers.

A form field is `answer.<criterion>` (a number, pass | fail | unsure, or one of the values), `half.<criterion>`
(half a point more) or `note.<criterion>`. Criteria that a post does not name stay as they were.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reviewapp.grading import Answer
from reviewapp.models import Criterion, CriterionScore
from tasks.task import Rubric, count_passed, is_pass, weighted_overall

Answers = dict[str, dict[str, Any]]
NOTE_CHARS = 10_000


def read_form(criteria: Iterable[Criterion], form: Mapping[str, str], before: Answers) -> tuple[Answers, list[str]]:
    """(the answers with the form's put in, what is wrong with the form)."""
    answers = {key: dict(answer) for key, answer in before.items()}
    errors = []
    for criterion in criteria:
        answer = answers.setdefault(criterion.key, {})
        if f"note.{criterion.key}" in form:
            answer["note"] = form[f"note.{criterion.key}"][:NOTE_CHARS]
        given = form.get(f"answer.{criterion.key}", "").strip()
        if given:
            try:
                verdict = _read_answer(criterion, given, is_half=bool(form.get(f"half.{criterion.key}")))
            except ValueError as error:
                errors.append(f"{criterion.title}: {error}")
                continue
            for name in ("score", "value", "unsure"):
                answer.pop(name, None)
            answer.update(verdict)
    return {key: answer for key, answer in answers.items() if any(answer.values()) or "score" in answer}, errors


def _read_answer(criterion: Criterion, given: str, *, is_half: bool) -> dict[str, Any]:
    if criterion.kind == "categorical":
        if given not in criterion.values:
            raise ValueError(f"{given[:80]!r} is not a value, allowed: {', '.join(criterion.values)}")
        return {"value": given}
    if criterion.kind == "binary":
        if given not in ("pass", "fail", "unsure"):
            raise ValueError(f"{given[:80]!r} is not a verdict, allowed: pass, fail, unsure")
        return {"unsure": True} if given == "unsure" else {"score": criterion.scale_high if given == "pass" else criterion.scale_low}
    try:
        score = float(given)
    except ValueError:
        raise ValueError(f"{given[:80]!r} is not a number") from None
    if not math.isfinite(score) or not criterion.scale_low <= score <= criterion.scale_high:
        raise ValueError(f"{given[:80]} is out of scale, allowed: {criterion.scale_low:g} to {criterion.scale_high:g}")
    return {"score": min(criterion.scale_high, score + 0.5 * is_half)}


def is_answered(answer: Mapping[str, Any] | None) -> bool:
    return bool(answer) and ("score" in answer or bool(answer.get("value")) or bool(answer.get("unsure")))


def missing(criteria: Iterable[Criterion], answers: Answers) -> list[Criterion]:
    return [c for c in criteria if not is_answered(answers.get(c.key))]


def to_grade_answers(answers: Answers) -> dict[str, Answer]:
    return {
        key: Answer(answer.get("score"), answer.get("value", ""), answer.get("note", ""), answer.get("evidence", ()))
        for key, answer in answers.items()
    }


def from_scores(rows: Iterable[CriterionScore], *, with_words: bool) -> Answers:
    """A draft out of a grade's scores; `with_words` also takes over its notes and evidence."""
    answers: Answers = {}
    for row in rows:
        answer: dict[str, Any] = {}
        if row.score is not None:
            answer["score"] = row.score
        elif row.value:
            answer["value"] = row.value
        elif row.unscored_reason == "unsure":
            answer["unsure"] = True
        if with_words:
            answer |= {"note": row.rationale, "evidence": row.evidence}
        answers[row.criterion.key] = answer
    return answers


def words(answer: Mapping[str, Any] | None) -> dict[str, Any]:
    """What was said beside the verdict: the note and the evidence."""
    return {name: value for name, value in (answer or {}).items() if name in ("note", "evidence") and value}


def begin_override(own: Answers, judged: Answers) -> Answers:
    """The judge's verdicts, with the reviewer's words; the reviewer's own verdicts are kept in `own` for when they leave.

    Scores of the judge that they had changed in an override that they left (`over`) are changed again.
    """
    return {
        key: words(own.get(key)) | own.get(key, {}).get("over", judged.get(key, {})) | ({"own": _verdict(own[key])} if key in own else {})
        for key in {**own, **judged}
    }


def leave_override(answers: Answers, judged: Answers) -> Answers:
    """The reviewer's own verdicts again, with their words; what they had changed of the judge's is kept in `over`."""
    left = {}
    for key, answer in answers.items():
        over = {} if same_verdict(answer, judged.get(key)) else {"over": _verdict(answer)}
        left[key] = words(answer) | answer.get("own", {}) | over
    return {key: answer for key, answer in left.items() if answer}


def _verdict(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {name: answer[name] for name in ("score", "value", "unsure") if name in answer}


def same_verdict(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    one, other = one or {}, other or {}
    return all(one.get(name) == other.get(name) for name in ("score", "value")) and is_answered(one) == is_answered(other)


@dataclass(frozen=True)
class Tally:
    """Where the answers stand: the overall so far, pass or fail if it is decided, and what is left."""

    text: str
    unit: str
    verdict: str
    left: int
    rule: str

    @property
    def is_complete(self) -> bool:
        return not self.left


def tally(rubric: Rubric, criteria: Sequence[Criterion], answers: Answers, runs: bool | None = None) -> Tally:
    scores = {key: answer.get("score") for key, answer in answers.items()}
    overall = weighted_overall(rubric, scores)
    passed = is_pass(rubric, scores, overall, runs)
    left = len(missing(criteria, answers))
    if rubric.pass_rule == "overall" and left:
        passed = None  # a mean of some criteria says nothing of the whole
    text, unit = overall_text(overall), ""
    if rubric.pass_rule == "count":
        text, unit = str(count_passed(rubric, scores)[0]), f"of {sum(c.kind != 'categorical' for c in criteria)} pass"
    return Tally(text, unit, verdict_text(passed), left, rule_text(rubric))


def rule_text(rubric: Rubric) -> str:
    """What a pass is, in words."""
    countable = sum(c.kind != "categorical" for c in rubric.criteria)
    if rubric.pass_rule == "count":
        rule = f"all {countable} must pass" if rubric.needed == countable else f"{rubric.needed} of {countable} must pass"
        return f"{rule}, and run" if rubric.requires_run else rule
    criteria = "1 criterion" if len(rubric.criteria) == 1 else f"{len(rubric.criteria)} criteria"
    return criteria if rubric.pass_threshold is None else f"{criteria}, pass at {rubric.pass_threshold:g} or more"


def overall_text(overall: float | None) -> str:
    return "–" if overall is None else f"{overall:.2f}"


def verdict_text(passed: bool | None) -> str:
    return "" if passed is None else "pass" if passed else "fail"
