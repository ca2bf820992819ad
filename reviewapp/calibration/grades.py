"""A task's grades as arrays: which output, which criterion, which person. Six queries, whatever the size."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from django.db.models import Max, QuerySet

from graders.calibration.arrays import Floats
from reviewapp.home.queries import prompt_clusters
from reviewapp.models import Criterion, CriterionScore, Grade, Grader, Output, Task

MODES = ("blind", "assisted", "any")
GRADE_MODES = {
    "blind": (Grade.Mode.BLIND,),
    # An override is made over the judge's grade, so whoever makes it has seen that.
    "assisted": (Grade.Mode.ASSISTED, Grade.Mode.OVERRIDE),
    "any": (Grade.Mode.BLIND, Grade.Mode.ASSISTED, Grade.Mode.OVERRIDE, Grade.Mode.ADJUDICATION),
}


@dataclass(frozen=True)
class Grades:
    """Newest grades of the latest version of each output. NaN where there is none; verdicts are 1 and 0.

    Shapes: o outputs, p people, c criteria. A categorical value is its place among the criterion's values.
    """

    outputs: tuple[dict[str, Any], ...]  # (o,): id, prompt_id, model, length
    clusters: tuple[int, ...]  # (o,)
    people: tuple[str, ...]  # (p,)
    criteria: tuple[Criterion, ...]  # (c,)
    human: Floats  # (o, p, c)
    human_passed: Floats  # (o, p)
    judge: Floats  # (o, c)
    judge_passed: Floats  # (o,)


def judges_of(task: Task) -> list[Grader]:
    """The newest version of each grader that graded the task's outputs, by name."""
    graded = Grade.objects.filter(output__task=task, output__is_latest=True, mode=Grade.Mode.AUTOMATIC, retraction__isnull=True)
    graders = Grader.objects.filter(pk__in=graded.values("grader")).order_by("pk")
    return sorted({g.name: g for g in graders}.values(), key=lambda g: g.name)


def read_grades(task: Task, judge: Grader | None, mode: str) -> Grades:
    """Everything that a study of one judge needs. Files with one name and version are one judge."""
    outputs = tuple(Output.objects.filter(task=task, is_latest=True).order_by("id").values("id", "prompt_id", "model", "length"))
    criteria = tuple(task.rubric.criteria.all()) if task.rubric else ()
    place = {output["id"]: i for i, output in enumerate(outputs)}
    sampled = prompt_clusters(task)
    current = Grade.objects.filter(output__task=task, output__is_latest=True, retraction__isnull=True)
    by_people = _newest(current.filter(mode__in=GRADE_MODES[mode]), "output_id", "rater_name")
    people, human, human_passed = _people_arrays(by_people, place, criteria)
    judged, judge_passed = np.full((len(outputs), len(criteria)), np.nan), np.full(len(outputs), np.nan)
    if judge is not None:
        by_judge = current.filter(mode=Grade.Mode.AUTOMATIC, grader__name=judge.name, grader__version=judge.version)
        newest = _newest(by_judge, "output_id")
        for output_id, passed in newest.values_list("output_id", "passed"):
            judge_passed[place[output_id]] = _number(passed)
        for output_id, _, column, score in _scores(newest, criteria):
            judged[place[output_id], column] = score
    return Grades(
        outputs=outputs,
        clusters=tuple(sampled.get(o["id"], -o["id"]) for o in outputs),
        people=people,
        criteria=criteria,
        human=human,
        human_passed=human_passed,
        judge=judged,
        judge_passed=judge_passed,
    )


def _newest(grades: QuerySet[Grade], *by: str) -> QuerySet[Grade]:
    newest = grades.order_by().values(*by).annotate(newest=Max("id")).values("newest")
    return Grade.objects.filter(pk__in=newest).order_by()


def _people_arrays(
    grades: QuerySet[Grade], place: dict[int, int], criteria: tuple[Criterion, ...]
) -> tuple[tuple[str, ...], Floats, Floats]:
    verdicts = list(grades.values_list("output_id", "rater_name", "passed"))
    people = tuple(sorted({name for _, name, _ in verdicts}))
    column_of = {name: i for i, name in enumerate(people)}
    human, passed = np.full((len(place), len(people), len(criteria)), np.nan), np.full((len(place), len(people)), np.nan)
    for output_id, name, verdict in verdicts:
        passed[place[output_id], column_of[name]] = _number(verdict)
    for output_id, name, column, score in _scores(grades, criteria):
        human[place[output_id], column_of[name], column] = score
    return people, human, passed


def _scores(grades: QuerySet[Grade], criteria: tuple[Criterion, ...]) -> Iterable[tuple[int, str, int, float]]:
    """(output id, rater, column of the criterion, score); a criterion that another rubric version had too counts by its key."""
    columns = {criterion.key: i for i, criterion in enumerate(criteria)}
    codes = {c.key: {value: float(i) for i, value in enumerate(c.values)} for c in criteria}
    rows = CriterionScore.objects.filter(grade__in=grades, criterion__key__in=columns).order_by()
    fields = ("grade__output_id", "grade__rater_name", "criterion__key", "score", "value")
    for output_id, rater, key, score, value in rows.values_list(*fields).iterator(5000):
        number = codes[key].get(value) if codes[key] else score
        if number is not None:
            yield output_id, rater, columns[key], number


def _number(verdict: bool | None) -> float:
    return np.nan if verdict is None else float(verdict)
