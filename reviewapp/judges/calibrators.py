"""What a judge's page shows of its calibrators: on each task the map by the labels of now, how it was tested, or what it lacks.

To look keeps nothing. An export, a reward or `manage.py calibrate --fit` keeps the map that it uses, under the same hash.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from reviewapp.calibration.calibrators import Fit, fit_to_see
from reviewapp.calibration.explain import Row, rows_of
from reviewapp.calibration.figures import half_width
from reviewapp.models import Calibrator, Grade, Grader, Task
from reviewapp.queues.forms import query_of_random_queue

WIDTH, HEIGHT = 120.0, 80.0  # of a drawn curve


@dataclass(frozen=True)
class OnTask:
    """`kept_at` None: nothing has used it yet. `queue` is the query of a new queue of the labels that are missing."""

    task: Task
    fit: Fit
    kept_at: datetime | None
    rows: list[Row]
    curve: dict[str, Any]
    queue: str


def calibrators_of(grader: Grader) -> list[OnTask]:
    """On each task with a rubric that it has graded."""
    kept = Calibrator.objects.filter(judge_name=grader.name, judge_version=grader.version)
    kept_at = {(task, sha256): at for task, sha256, at in kept.values_list("task_id", "sha256", "created_at")}
    graded = Grade.objects.filter(grader=grader, retraction__isnull=True).values("output__task_id")
    tasks = Task.objects.select_related("rubric").filter(pk__in=graded, rubric__isnull=False).order_by("slug")
    return [_on_task(task, grader, fit_to_see(task, grader.name, grader.version), kept_at) for task in tasks]


def _on_task(task: Task, grader: Grader, fit: Fit, kept_at: dict[tuple[int, str], datetime]) -> OnTask:
    made = fit.calibrator
    if made is None:
        queue = query_of_random_queue(task, grader, size=fit.labels_missing) if fit.labels_missing else ""
        return OnTask(task, fit, None, [], {}, queue)
    figures = made.report | {"half_width": half_width(made.half_width, made.map["n"])}
    return OnTask(task, fit, kept_at.get((task.pk, made.sha256)), rows_of("recalibration", figures), _curve(made.map), "")


def _curve(told: dict[str, Any]) -> dict[str, Any]:
    """The map as points of an SVG line; both axes are the rubric's scale."""
    knots = list(zip(told["judge"], told["human"], strict=True))
    low, high = told["scale"]
    points = [(WIDTH * (x - low) / (high - low), HEIGHT * (1 - (y - low) / (high - low))) for x, y in knots]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return {"points": line, "knots": knots, "width": WIDTH, "height": HEIGHT, "low": low, "high": high}
