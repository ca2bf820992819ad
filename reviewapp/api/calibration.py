"""How far a task's judges can be trusted: what `manage.py calibrate --json` prints."""

from __future__ import annotations

from typing import Any

from django.http import Http404, HttpRequest

from reviewapp.api.app import api
from reviewapp.api.auth import Bearer
from reviewapp.api.errors import ApiError, Problem, refused
from reviewapp.calibration.grades import MODES, judge_versions, judges_of
from reviewapp.calibration.labels import study_with_labels
from reviewapp.calibration.report import remembered
from reviewapp.calibration.study import DEFAULT_EPSILON, StudyError
from reviewapp.models import Grader, Task


@api.get("calibration/{task}", auth=Bearer("read"), tags=["calibration"])
def calibration(request: HttpRequest, task: str, judge: str = "", mode: str = "blind", epsilon: float = DEFAULT_EPSILON) -> dict[str, Any]:
    """Agreement, error, calibration, corrected pass rate and the alternative annotator test of each judge (or of NAME, NAME@VERSION).

    Each figure is `{"value", "ci", "n", "why_missing", "method"}`; the first call after new grades computes, which takes seconds.
    """
    row = find_task(task)
    if mode not in MODES:
        raise refused("query.mode", mode, ", ".join(MODES))
    if not 0 <= epsilon <= 1:
        raise refused("query.epsilon", epsilon, "a number from 0 to 1, such as 0.2")
    judges: list[Grader | None] = [_judge(row, judge)] if judge else [*judges_of(row)] or [None]
    return {"task": row.slug, "judges": [_study(row, one, mode, epsilon) for one in judges]}


def find_task(slug: str) -> Task:
    task = Task.objects.select_related("rubric").prefetch_related("rubric__criteria").filter(slug=slug).first()
    if task is None:
        known = ", ".join(Task.objects.values_list("slug", flat=True)) or "none yet"
        raise Http404(f"There is no task {slug[:80]!r}. There are: {known}")
    return task


def _judge(task: Task, wanted: str) -> Grader:
    versions = judge_versions(task)
    names = {f"{g.name}@{g.version}": g for g in versions} | {g.name: g for g in versions}
    if wanted not in names:
        raise refused("query.judge", wanted, ", ".join(f"{g.name}@{g.version}" for g in versions) or "none, nothing was graded yet")
    return names[wanted]


def _study(task: Task, judge: Grader | None, mode: str, epsilon: float) -> dict[str, Any]:
    key = f"study:{judge.pk if judge else 0}:{mode}:{epsilon!r}"
    try:
        return remembered(task, key, lambda: study_with_labels(task, judge, mode, epsilon))
    except StudyError as error:
        raise ApiError(422, f"{error}.", [Problem("path.task", task.slug, "a task that has a rubric")]) from error
