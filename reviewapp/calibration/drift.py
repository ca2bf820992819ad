"""Does one version of a judge still score its anchors, outputs that it graded more than once, as it did?"""

from __future__ import annotations

import numpy as np

from graders.calibration.comparison import Drift, drift
from graders.calibration.resample import Resamples
from reviewapp.models import Grade, Grader, Task

STEADY_SHARE = 0.02  # of the scale: a shift that would not matter


def drift_of(task: Task, judge: Grader, scale: tuple[float, float]) -> Drift | None:
    """From outputs that this version graded more than once: its newest overall score less its first. None without any."""
    grades = Grade.objects.filter(output__task=task, output__is_latest=True, mode=Grade.Mode.AUTOMATIC, retraction__isnull=True)
    mine = grades.filter(grader__name=judge.name, grader__version=judge.version, overall__isnull=False).order_by("id")
    first: dict[int, float] = {}
    last: dict[int, tuple[float, int]] = {}
    for output_id, prompt_id, overall in mine.values_list("output_id", "output__prompt_id", "overall").iterator(5000):
        if output_id in first:
            last[output_id] = (overall, prompt_id or -output_id)
        first.setdefault(output_id, overall)
    if not last:
        return None
    draws = Resamples(list(last), rng=np.random.default_rng(0))
    return drift([first[pk] for pk in last], [score for score, _ in last.values()], draws, tolerance=STEADY_SHARE * (scale[1] - scale[0]))
