"""Evidence as the page shows it: the marks in the output, and what points at them from the rubric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reviewapp.models import CriterionScore, Grade
from reviewapp.review.answers import Answers
from reviewapp.review.citations import is_settled
from reviewapp.review.rendering.quotes import Mark
from reviewapp.review.sitting import Sitting

MARKS_SHOWN = 200
# The marks that have a place in the output as it is drawn; None where it is not drawn.
Found = frozenset[str] | None


@dataclass(frozen=True)
class Pointer:
    """A link from the rubric into the output. `anchor` is empty when the text was not found there."""

    anchor: str
    text: str
    where: str


def marks_of(sitting: Sitting) -> list[Mark]:
    """Every piece of evidence that this person may see. A judge's stay out until the judge is visible."""
    numbers = {criterion.key: number for number, criterion in enumerate(sitting.criteria, 1)}
    marks = [mark for grade in (sitting.judges if sitting.sees_judge else ()) for mark in _grade_marks(grade, "judge", numbers)]
    if sitting.settles_for:
        marks += [mark for grade in sitting.people for mark in _grade_marks(grade, "human", numbers, "a rater")]
    if sitting.is_form:
        marks += _draft_marks(sitting)
    elif sitting.standing:
        marks += _grade_marks(sitting.standing, "human", numbers)
    return marks[:MARKS_SHOWN]


def pointers_of(row: CriterionScore, found: Found, base: str) -> list[Pointer]:
    return [_pointer(item, mark_id(row, i), found, base) for i, item in enumerate(row.evidence) if not is_settled(item)]


def draft_pointers(key: str, evidence: Sequence[Mapping[str, Any]], found: Found, base: str) -> list[Pointer]:
    return [_pointer(item, f"m-{key}-{i}", found, base) for i, item in enumerate(evidence)]


def mark_id(row: CriterionScore, number: int) -> str:
    return f"e-{row.pk}-{number}"


def lines_text(item: Mapping[str, Any]) -> str:
    start, end = item.get("line_start"), item.get("line_end")
    if start is None:
        return ""
    return f"L{start}" if end in (None, start) else f"L{start}–{end}"


def _grade_marks(grade: Grade, who: str, numbers: Mapping[str, int], person: str = "you") -> list[Mark]:
    name = person if who == "human" else grade.grader.name
    return [
        Mark(
            mark_id(row, i),
            who,
            str(item.get("text", "")),
            f"{row.criterion.title} · {name}",
            item.get("line_start"),
            item.get("line_end"),
            numbers.get(row.criterion.key),
        )
        for row in grade.criterion_scores.all()
        for i, item in enumerate(row.evidence)
        if not is_settled(item)
    ]


def _draft_marks(sitting: Sitting) -> list[Mark]:
    answers: Answers = sitting.draft.answers if sitting.draft else {}
    return [
        Mark(f"m-{c.key}-{i}", "human", item.get("text", ""), f"{c.title} · you", item.get("line_start"), item.get("line_end"), number)
        for number, c in enumerate(sitting.criteria, 1)
        for i, item in enumerate(answers.get(c.key, {}).get("evidence", ()))
    ]


def _pointer(item: Mapping[str, Any], anchor: str, found: Found, base: str) -> Pointer:
    is_there = item.get("found", True) and (found is None or anchor in found)
    return Pointer(f"{base}#{anchor}" if is_there else "", str(item.get("text", "")), lines_text(item))
