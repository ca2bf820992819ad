"""From a grade to a reward in [0, 1], with all that it is made of. Without a verdict there is no reward: None with a reason, never 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from graders.grade import Grade
from reviewapp.calibration.calibrators import Fit, current_fit
from reviewapp.models import Calibrator, Grader, Task

RAW = "none"
SHORTEST_HASH = 8


@dataclass(frozen=True)
class Reward:
    value: float | None
    reason: str
    components: dict[str, Any]


class UnknownCalibratorError(ValueError):
    """The text names those that there are."""


def fit_for(task: Task, grader: Grader, wanted: str = "") -> Fit | None:
    """The calibrator of this judge's version: today's, none, or the one whose hash begins so. A code grader has none.

    Raises UnknownCalibratorError.
    """
    if grader.kind != Grader.Kind.LLM_JUDGE or wanted == RAW:
        return None
    if not wanted:
        return current_fit(task, grader.name, grader.version)
    known = Calibrator.objects.filter(task=task, judge_name=grader.name, judge_version=grader.version)
    found = known.filter(sha256__startswith=wanted).order_by("-pk").first() if len(wanted) >= SHORTEST_HASH else None
    if found is None:
        hashes = ", ".join(sha256[:12] for sha256 in known.order_by("-pk").values_list("sha256", flat=True)[:5]) or "no fitted one yet"
        raise UnknownCalibratorError(f'{hashes}, "{RAW}" for the judge\'s own score, or nothing for the newest fit')
    return Fit(found)


def reward_of(plain: Grade, task: Task, grader: Grader, fit: Fit | None) -> Reward:
    """The overall score on the rubric's scale brought to [0, 1]; of a judge, the score that people would give.

    A program that does not run, where the rubric asks that it does, is worth 0: that is a verdict.
    """
    rubric = task.rubric
    low, high = rubric.scale_low, rubric.scale_high
    score, passed, interval = plain.score, plain.passed, None
    source = "code" if grader.kind == Grader.Kind.CODE else "judge"
    if score is not None and fit and fit.calibrator:
        score, passed, _ = fit.predict(score)
        source = "calibrated_judge"
        interval = _interval(fit.calibrator, score, low, high)
    crashed = rubric.requires_run and plain.runs is False
    value = 0.0 if crashed else None if score is None else _share(score, low, high)
    return Reward(
        value,
        "" if value is not None else _why_unscored(plain),
        {
            "source": source,
            "raw_score": plain.score,
            "score": score,
            "scale": [low, high],
            "passed": passed,
            "interval": interval,
            "runs": plain.runs,
            "criteria": {c.key: _criterion(c) for c in plain.criteria},
            "failure_category": plain.failure_category,
            "error": plain.error,
            "grader": f"{grader.name}@{grader.version}",
            "grader_sha256": grader.sha256,
            "rubric_version": rubric.version,
            "calibrator": fit.calibrator.sha256 if fit and fit.calibrator else None,
            "why_uncalibrated": fit.why_missing if fit and not fit.calibrator else "",
        },
    )


def _interval(calibrator: Calibrator, score: float, low: float, high: float) -> dict[str, float] | None:
    half = calibrator.half_width
    if half is None:
        return None
    return {"low": _share(score - half, low, high), "high": _share(score + half, low, high), "level": calibrator.map["level"]}


def _share(score: float, low: float, high: float) -> float:
    return round(min(1.0, max(0.0, (score - low) / (high - low))), 6)


def _criterion(criterion: Any) -> dict[str, Any]:
    told = {"score": criterion.score, "passed": criterion.passed, "rationale": criterion.rationale[:500]}
    return told | ({"reason": criterion.unscored_reason or "undecided"} if criterion.score is None else {})


def _why_unscored(plain: Grade) -> str:
    reason = plain.unscored_reason or "undecided"
    open_ones = [c.key for c in plain.criteria if c.score is None and c.unscored_reason != "not_judged"]
    return f"the grader gave no overall score ({reason.replace('_', ' ')}): {', '.join(open_ones) or 'no numeric criterion'}"
