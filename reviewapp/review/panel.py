"""The rubric panel: a row a criterion, as the templates draw it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from django.utils.safestring import SafeString, mark_safe

from reviewapp.models import Criterion, CriterionScore, Grade
from reviewapp.review.answers import Answers, from_scores, is_answered, overall_text, same_verdict, verdict_text
from reviewapp.review.evidence import Found, Pointer, draft_pointers, pointers_of
from reviewapp.review.sitting import Sitting

BUTTONS_AT_MOST = 11  # a longer scale gets a number field
CODE = re.compile(r"`([^`\n]+)`")
OPENING = re.compile(r"^(\w{1,8}:)")
DENSE_FROM = 9  # criteria; more rows than that are drawn on one line each


@dataclass(frozen=True)
class Option:
    value: str
    label: str
    key: str
    css: str = ""
    is_on: bool = False


@dataclass(frozen=True)
class Said:
    """What one grade says of one criterion. `at` is the place on the scale in percent, "" when it has none."""

    who: str
    css: str
    text: str
    at: str
    rationale: str
    pointers: Sequence[Pointer]
    is_sample: bool = False
    differs: bool = False

    @property
    def link(self) -> str:
        """Where a click on the rationale goes: the first piece of evidence that is in the output."""
        return next((pointer.anchor for pointer in self.pointers if pointer.anchor), "")


@dataclass(frozen=True)
class Row:
    number: int
    criterion: Criterion
    weight: str
    options: Sequence[Option]
    half_on: bool
    given: str
    note: str
    mine: Said | None
    judges: Sequence[Said]
    pointers: Sequence[Pointer]
    is_current: bool
    description: SafeString
    is_overridden: bool = False
    # Of an output to settle: what each rater says, in the order of `raters_of`; None where one said nothing.
    raters: Sequence[Said | None] = ()

    @property
    def is_numeric(self) -> bool:
        return self.criterion.kind == "numeric"

    @property
    def raters_differ(self) -> bool:
        return len({said.text for said in self.raters if said}) > 1

    @property
    def difference(self) -> str:
        """Mine less the first judge's, with its sign; in words for what has no numbers."""
        if not self.mine or not self.judges or not self.mine.text or not self.judges[0].text:
            return ""
        if not self.is_numeric:
            return "differs" if self.judges[0].differs else "same"
        try:
            value = float(self.mine.text) - float(self.judges[0].text)
        except ValueError:
            return ""
        return f"{value:+g}".replace("-", "−") if value else "0"


def rows_of(sitting: Sitting, answers: Answers, found: Found = None, *, base: str = "", current: str = "") -> list[Row]:
    """The rows of the panel. `found`: the marks with a place in the output; `base`: the URL before an anchor."""
    criteria = sitting.criteria
    target = from_scores(sitting.target.criterion_scores.all(), with_words=False) if sitting.target else {}
    current = current if current in {c.key for c in criteria} else _first_open(criteria, answers, target)
    weights = sum(c.weight for c in criteria if c.kind != "categorical")
    judges = [(grade, {row.criterion.key: row for row in grade.criterion_scores.all()}) for grade in _judges(sitting)]
    mine = {row.criterion.key: row for row in sitting.standing.criterion_scores.all()} if sitting.mode == "reveal" else {}
    raters = [(who, grade, {row.criterion.key: row for row in grade.criterion_scores.all()}) for who, grade in raters_of(sitting)]
    rows = []
    for number, criterion in enumerate(criteria, 1):
        answer = answers.get(criterion.key, {})
        own = mine.get(criterion.key)
        verdict = from_scores([own], with_words=False)[criterion.key] if own else answer
        has_verdict = is_answered(verdict)
        rows.append(
            Row(
                number=number,
                criterion=criterion,
                weight=_weight(sitting, criterion, weights),
                options=_options(criterion, answer),
                half_on=bool(answer.get("score", 0) % 1),
                given=_number(answer["score"]) if "score" in answer else "",
                note=answer.get("note", ""),
                mine=_said(own, sitting.standing, "You", found, base) if own else None,
                judges=[
                    _said(by_key[criterion.key], grade, grade.grader.name, found, base, beside=verdict if has_verdict else None)
                    for grade, by_key in judges
                    if criterion.key in by_key
                ],
                pointers=draft_pointers(criterion.key, answer.get("evidence", ()), found, base),
                is_current=criterion.key == current,
                description=described(criterion.description),
                is_overridden=bool(target) and not same_verdict(answer, target.get(criterion.key)),
                raters=[
                    _said(by_key[criterion.key], grade, who, found, base) if criterion.key in by_key else None
                    for who, grade, by_key in raters
                ],
            )
        )
    return rows


def _first_open(criteria: Sequence[Criterion], answers: Answers, target: Answers) -> str:
    """The first criterion that still needs something: an answer or, where a judge is overridden, a reason."""
    for criterion in criteria:
        answer = answers.get(criterion.key, {})
        is_silent = bool(target) and not same_verdict(answer, target.get(criterion.key)) and not answer.get("note")
        if not is_answered(answer) or is_silent:
            return criterion.key
    return criteria[0].key if criteria else ""


def score_text(criterion: Criterion, row: CriterionScore) -> str:
    """A criterion's score as people say it: 6.5, pass, model_a, or why there is none."""
    if row.value:
        return row.value
    if criterion.kind == "binary" and (row.passed is not None or row.score is not None):
        passed = row.passed if row.passed is not None else row.score > (criterion.scale_low + criterion.scale_high) / 2
        return verdict_text(passed)
    return _number(row.score) if row.score is not None else row.unscored_reason.replace("_", " ")


def described(text: str) -> SafeString:
    """A criterion's wording as HTML: a line each, `code`, and the word that a line opens with ("5:", "Fails:") set off."""
    lines = CODE.sub(r"<code>\1</code>", escape(text)).splitlines()
    return mark_safe("".join("<p>" + OPENING.sub(r"<b>\1</b>", line) + "</p>" for line in lines))  # noqa: S308 - escaped above


def headline(grade: Grade) -> dict[str, str]:
    """A grade in one line: overall (where passes are counted, how many of them), pass or fail, who."""
    count = passes(grade)
    return {
        "overall": overall_text(grade.overall) if count is None else f"{count[0]} of {count[1]}",
        "verdict": verdict_text(grade.passed),
        "who": grade.rater_name or str(grade.grader),
        "mode": grade.get_mode_display().lower(),
    }


def passes(grade: Grade) -> tuple[int, int] | None:
    """(criteria passed, criteria that count) under a rule that counts passes; None under any other."""
    if grade.rubric.pass_rule != "count":
        return None
    rows = [(row.score, row.criterion) for row in grade.criterion_scores.all() if row.criterion.kind != "categorical"]
    passed = sum(score is not None and score > (c.scale_low + c.scale_high) / 2 for score, c in rows)
    return passed, len(rows)


def place(criterion: Criterion, score: float | None) -> str:
    """Where a score stands on the scale's drawing, in percent: the middle of its button."""
    if score is None or criterion.kind != "numeric":
        return ""
    span = criterion.scale_high - criterion.scale_low
    return f"{(score - criterion.scale_low + 0.5) / (span + 1) * 100:.2f}%"


def raters_of(sitting: Sitting) -> list[tuple[str, Grade]]:
    """Whose grades are to be settled, each with what they are called: their name, or a letter that tells nothing."""
    if not sitting.settles_for:
        return []
    # Shuffled, so that a letter is another person on the next output; the same each time the page is drawn.
    order = sorted(sitting.people, key=lambda grade: hashlib.sha256(f"{sitting.output.pk}:{grade.rater_name}".encode()).digest())
    return [(grade.rater_name if sitting.names_raters else f"Rater {chr(ord('A') + i)}", grade) for i, grade in enumerate(order)]


def _judges(sitting: Sitting) -> list[Grade]:
    if not sitting.sees_judge:
        return []
    if not sitting.target:
        return sitting.judges
    others = [grade for grade in sitting.judges if grade.grader.name != sitting.target.grader.name]
    return [sitting.target, *others]


def _said(row: CriterionScore, grade: Grade, who: str, found: Found, base: str, *, beside: dict | None = None) -> Said:
    criterion = row.criterion
    verdict = from_scores([row], with_words=False)[criterion.key]
    return Said(
        who=who,
        css="human" if grade.is_human else "judge",
        text=score_text(criterion, row),
        at=place(criterion, row.score),
        rationale=row.rationale,
        pointers=pointers_of(row, found, base),
        is_sample=grade.grader.is_sample,
        differs=beside is not None and not same_verdict(beside, verdict),
    )


def _weight(sitting: Sitting, criterion: Criterion, total: float) -> str:
    """The criterion's part in the overall; a rule that counts passes has none."""
    if criterion.kind == "categorical" or sitting.rubric.pass_rule == "count":
        return ""
    return f"{criterion.weight / total:.0%}"


def _options(criterion: Criterion, answer: dict) -> list[Option]:
    if criterion.kind == "categorical":
        return [Option(v, v, str(i) if i < 10 else "", is_on=answer.get("value") == v) for i, v in enumerate(criterion.values, 1)]
    score = answer.get("score")
    if criterion.kind == "binary":
        middle = (criterion.scale_low + criterion.scale_high) / 2
        return [
            Option("pass", "Pass", "p", "pass", score is not None and score > middle),
            Option("fail", "Fail", "f", "fail", score is not None and score <= middle),
            Option("unsure", "Unsure", "u", "unsure", bool(answer.get("unsure"))),
        ]
    low, high = criterion.scale_low, criterion.scale_high
    if low < 0 or low % 1 or high % 1 or high - low >= BUTTONS_AT_MOST:
        return []
    return [
        Option(str(n), str(n), f"{n} t" if n == high else str(n), is_on=score is not None and int(score) == n)
        for n in range(int(low), int(high) + 1)
    ]


def _number(score: float) -> str:
    return f"{round(score, 3):g}"
