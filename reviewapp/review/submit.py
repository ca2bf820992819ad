"""From what a person has entered to a grade: what a submit of the review page does, and a grade of the HTTP API."""

from __future__ import annotations

from typing import Any

from reviewapp.grading import record_human_grade
from reviewapp.models import Draft, Grade, Skip
from reviewapp.queues.claims import settle
from reviewapp.review.answers import Answers, from_scores, is_answered, missing, same_verdict, to_grade_answers, words
from reviewapp.review.rendering.quotes import find_lines, letters, letters_of_quote
from reviewapp.review.sitting import Sitting

ACTIVE_S_A_SAVE = 15 * 60  # more than that between two saves was not spent here
EVIDENCE_CHARS = 2_000
EVIDENCE_A_CRITERION = 20


def begin(sitting: Sitting, mode: str, answers: Answers, *, note: str = "", supersedes: Grade | None = None) -> None:
    """Start a draft, or turn the one that is there into this. Its time goes on."""
    seen = sitting.grades[0] if sitting.grades else None
    fields: dict[str, Any] = {"mode": mode, "answers": answers, "note": note, "supersedes": supersedes, "seen_grade": seen}
    draft, _ = Draft.objects.update_or_create(output=sitting.output, reviewer=sitting.user, defaults=fields)
    sitting.draft = draft
    for name in ("rubric", "criteria", "judge"):
        sitting.__dict__.pop(name, None)


def attach(sitting: Sitting, key: str, quote: str) -> list[str]:
    """Put a piece of the output beside a criterion of the draft; what is wrong with it."""
    quote = quote.strip()[:EVIDENCE_CHARS]
    if key not in {c.key for c in sitting.criteria}:
        return [f"criterion is {key[:80]!r}, allowed: {', '.join(c.key for c in sitting.criteria)}"]
    if not quote:
        return ["Select text in the output first, or type the words that bear on this criterion."]
    content = sitting.output.body.content
    lines = find_lines(content, quote) if sitting.output.format == "python" else None
    if not lines and letters_of_quote(quote) not in letters_of_quote(content) and letters(quote) not in letters(content):
        return [f"“{quote[:80]}” is not in the output."]
    found = sitting.draft.answers.setdefault(key, {}).setdefault("evidence", [])
    if len(found) >= EVIDENCE_A_CRITERION:
        return [f"A criterion takes up to {EVIDENCE_A_CRITERION} quotes."]
    found.append({"kind": "quote", "text": quote, "line_start": lines[0] if lines else None, "line_end": lines[1] if lines else None})
    return []


def why_incomplete(sitting: Sitting) -> list[str]:
    """What is left before the draft can be submitted."""
    answers, mode = sitting.draft.answers, sitting.mode
    if mode == "override":
        return _why_no_override(sitting, answers)
    left = [c.title for c in missing(sitting.criteria, answers)]
    return [f"Not answered: {', '.join(left)}."] if left else []


def _why_no_override(sitting: Sitting, answers: Answers) -> list[str]:
    changed = overridden(sitting, answers)
    if not changed:
        return ["Nothing differs from the judge. Change a score, or use “Agree with all”."]
    titles = {c.key: c.title for c in sitting.criteria}
    silent = [titles[key] for key in changed if not answers[key].get("note", "").strip()]
    return [f"Say why for each score that you change. No reason: {', '.join(silent)}."] if silent else []


def overridden(sitting: Sitting, answers: Answers) -> list[str]:
    judge = from_scores(sitting.target.criterion_scores.all(), with_words=False)
    return [c.key for c in sitting.criteria if is_answered(answers.get(c.key)) and not same_verdict(answers[c.key], judge.get(c.key))]


def record(sitting: Sitting) -> Grade:
    """The draft as a grade; the draft is gone. Raises ValueError when the rubric has changed since it was begun."""
    draft, target = sitting.draft, sitting.target
    answers = draft.answers
    if target:
        changed = set(overridden(sitting, answers))
        judge = from_scores(target.criterion_scores.all(), with_words=False)
        kept = {c.key: words(answers.get(c.key)) | judge.get(c.key, {}) for c in sitting.criteria}
        answers = {key: answers[key] if key in changed else answer for key, answer in kept.items()}
    grade = record_human_grade(
        sitting.output,
        sitting.user,
        draft.mode,
        to_grade_answers({c.key: answers.get(c.key, {}) for c in sitting.criteria}),
        key=f"review:{sitting.user.pk}:{sitting.base}",
        rationale=draft.note,
        supersedes=target or sitting.standing,
        active_s=draft.active_ms / 1000,
        rubric=sitting.rubric,
        runs=target.runs if target else None,
    )
    settle(grade)
    draft.delete()
    Skip.objects.filter(output=sitting.output, reviewer=sitting.user).delete()
    return grade
