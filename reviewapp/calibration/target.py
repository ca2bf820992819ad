"""Whether a task is as hard as it should be: where its pass rate lies beside the target band. One rule for every page."""

from __future__ import annotations

from dataclasses import dataclass

from reviewapp.calibration.figures import Figure
from reviewapp.models import Task

WAYS = {"corrected": "the corrected rate", "judge": "the judge alone", "people": "people alone"}


@dataclass(frozen=True)
class Target:
    """`word` is "in band", "too hard", "too easy" or "undecided", and `by` which of WAYS says so; "" where there is no rate."""

    word: str = ""
    by: str = ""

    @property
    def by_what(self) -> str:
        return WAYS.get(self.by, "")


def target_of(task: Task, corrected: Figure, alone: Figure, who: str) -> Target:
    """By the corrected rate where there is one, else by that of the judge or of people (`who`) alone."""
    by, rate = ("corrected", corrected) if corrected["value"] is not None else (who, alone)
    return Target() if rate["value"] is None else Target(_word(rate, task), by)


def _word(rate: Figure, task: Task) -> str:
    """A plain word only where the whole interval lies there."""
    low, high = rate["ci"] or (0.0, 1.0)
    if task.band_low <= low and high <= task.band_high:
        return "in band"
    if high < task.band_low:
        return "too hard"
    return "too easy" if low > task.band_high else "undecided"
