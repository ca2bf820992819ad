"""Several answers of one judge made into one grade: the mean and how far the votes lie apart.

Models take no temperature any more, so that a judge's uncertainty shows only in its votes. Scored criteria: the mean of
the votes that have a score. Pass or fail: the majority, a tie is undecided. An answer that could not be used is no vote;
if none could, each criterion is unscored with the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean
from typing import Any

from graders.grade import CriterionScore, Evidence
from graders.judge.form import JudgeAnswer, Opinion
from graders.judge.quotes import Finder
from tasks.task import Criterion

NOT_JUDGED = "decided by another grader"


@dataclass(frozen=True)
class Vote:
    """One answer, or why it is none. `thinking` is the model's own summary of its thoughts."""

    answer: JudgeAnswer | None
    reason: str = ""
    text: str = ""
    thinking: str = ""


@dataclass(frozen=True)
class Spread:
    """How the votes on one criterion lie: the scores in order of asking (None: undecided), and their sample deviation."""

    scores: tuple[float | None, ...]
    sd: float | None

    def to_json(self) -> dict[str, Any]:
        return {"scores": list(self.scores), "sd": self.sd}


def combine(criteria: Sequence[Criterion], judged: Sequence[Criterion], votes: Sequence[Vote], content: str) -> list[CriterionScore]:
    """A score for each criterion of the rubric, in its order."""
    finder = Finder(content)
    keys = {c.key for c in judged}
    answers = [vote.answer for vote in votes if vote.answer]
    rows = []
    for c in criteria:
        if c.key not in keys:
            rows.append(CriterionScore(c.key, weight=c.weight, rationale=NOT_JUDGED, unscored_reason="not_judged"))
        elif not answers:
            failed = votes[0]
            rows.append(CriterionScore(c.key, weight=c.weight, rationale=failed.text, unscored_reason=failed.reason))
        else:
            rows.append(_score(c, [answer.opinions[c.key] for answer in answers], finder))
    return rows


def spreads(judged: Sequence[Criterion], votes: Sequence[Vote]) -> dict[str, Spread]:
    """By criterion. Empty when no answer could be used."""
    answers = [vote.answer for vote in votes if vote.answer]
    if not answers:
        return {}
    return {c.key: _spread([answer.opinions[c.key].score for answer in answers]) for c in judged}


def _score(criterion: Criterion, opinions: Sequence[Opinion], finder: Finder) -> CriterionScore:
    decided = [opinion for opinion in opinions if opinion.score is not None]
    if criterion.kind == "binary":
        passed = _majority([opinion.passed for opinion in decided])
        score = None if passed is None else criterion.scale[passed]
        nearest = next((opinion for opinion in decided if opinion.passed is passed), opinions[0])
    else:
        passed = None
        score = round(fmean(opinion.score or 0.0 for opinion in decided), 4) if decided else None
        nearest = min(decided, key=lambda opinion: abs((opinion.score or 0.0) - (score or 0.0))) if decided else opinions[0]
    return CriterionScore(
        key=criterion.key,
        passed=passed,
        score=score,
        weight=criterion.weight,
        rationale=nearest.rationale,
        evidence=tuple(_evidence(quote, finder) for quote in nearest.quotes),
        unscored_reason="" if score is not None else "undecided",
    )


def _majority(verdicts: Sequence[bool | None]) -> bool | None:
    counts = Counter(verdicts)
    return None if counts[True] == counts[False] else counts[True] > counts[False]


def _evidence(quote: str, finder: Finder) -> Evidence:
    place = finder.find(quote)
    if place is None:
        return Evidence(quote, "quote", is_found=False)
    return Evidence(quote, "quote", place.line_start, place.line_end)


def _spread(scores: Sequence[float | None]) -> Spread:
    values = [score for score in scores if score is not None]
    if len(values) < 2:
        return Spread(tuple(scores), None)
    mean = fmean(values)
    return Spread(tuple(scores), round(sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1)), 4))
