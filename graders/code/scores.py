"""What a code grader says of one criterion, and how a run ended that left no report; the same for each task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graders.code.channel import FORGED, Answer
from graders.grade import CriterionScore, Evidence
from tasks.task import Criterion


def decided(criterion: Criterion, passed: bool, why: str, evidence: tuple[Evidence, ...] = ()) -> CriterionScore:
    """The top or the bottom of the criterion's scale."""
    low, high = criterion.scale
    return CriterionScore(criterion.key, passed, high if passed else low, criterion.weight, why, evidence)


def unscored(criterion: Criterion, why: str, reason: str, evidence: tuple[Evidence, ...] = ()) -> CriterionScore:
    """No score: `reason` is the word for it, `why` the sentence."""
    return CriterionScore(criterion.key, None, None, criterion.weight, why, evidence, reason)


def scored(criterion: Criterion, passed: bool | None, why: str, evidence: tuple[Evidence, ...], doubt: str) -> CriterionScore:
    """What was found; no pass stands where there is a doubt about what was seen."""
    if passed and doubt:
        return unscored(criterion, doubt, "undecided", evidence)
    if passed is None:
        return unscored(criterion, why, "undecided", evidence)
    return decided(criterion, passed, why, evidence)


def without_report(answer: Answer) -> tuple[bool | None, str, str]:
    """(False if the program is to blame and None if we are, why, failure category) where a probe left no report."""
    result = answer.result
    if answer.odd.startswith(FORGED):
        return False, f"the program wrote to the result channel itself: {answer.odd}", "forged_report"
    if answer.odd:
        return None, answer.odd, ""
    if result.timed_out:
        return False, f"did not finish within {result.wall_s:.0f} s", "timeout"
    if result.limit:
        return False, f"broke the sandbox's limit on {result.limit}", "crash"
    how = f"signal {result.signal}" if result.signal else f"exit code {result.exit_code}"
    return False, f"the program ended the process before it could be checked ({how})", "crash"


def wrong_fields(report: Mapping[str, Any], fields: Mapping[str, Any]) -> str:
    """What is wrong with a report's fields, or "": these and no others, each of its type."""
    if set(report) != set(fields):
        return f"fields are {sorted(report)[:12]}"
    odd = next((name for name, kind in fields.items() if not isinstance(report[name], kind)), None)
    return f"{odd} is {type(report[odd]).__name__}" if odd else ""


def wrong_lines(lines: Any) -> str:
    """What is wrong with a report's line numbers, or ""."""
    fine = isinstance(lines, list) and len(lines) <= 8 and all(type(n) is int and 0 < n < 1_000_000 for n in lines)
    return "" if fine else "odd lines"
