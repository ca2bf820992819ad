"""A task's grades as arrays: which output, which criterion, which person. Seven queries, whatever the size.

Rows go from the database into numpy one by one and are never held as objects: 10,000 labelled outputs with four criteria
and four graders are 160,000 scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
from django.db import connection
from django.db.models import Q, QuerySet

from graders.calibration.arrays import Floats, Ints
from reviewapp.models import Criterion, CriterionScore, Grade, Grader, Output, Task, Variant
from reviewapp.queues.design import Design, read_design

MODES = ("blind", "assisted", "any")
GRADE_MODES = {
    "blind": (Grade.Mode.BLIND,),
    # An override is made over the judge's grade, so whoever makes it has seen that.
    "assisted": (Grade.Mode.ASSISTED, Grade.Mode.OVERRIDE),
    "any": (Grade.Mode.BLIND, Grade.Mode.ASSISTED, Grade.Mode.OVERRIDE, Grade.Mode.ADJUDICATION),
}
SCORE = np.dtype([("grade", np.int64), ("criterion", np.int64), ("score", np.float64)])
CATEGORICAL = "categorical"
FETCHED = 10_000  # rows at once


@dataclass(frozen=True)
class Outputs:
    """The latest version of each output of a task, a column a field; all (o,)."""

    id: Ints
    prompt: Ints  # 0 where there is none
    variant: Ints
    length: Floats
    model: Ints  # its place among the models
    models: tuple[str, ...]  # by name; "" is none

    def __len__(self) -> int:
        return len(self.id)


@dataclass(frozen=True)
class Grades:
    """Newest grades of the latest version of each output. NaN where there is none; verdicts are 1 and 0.

    Shapes: o outputs, l of them with a person's grade, p people, c criteria. A categorical value is its place among the
    criterion's values.
    """

    outputs: Outputs
    clusters: Ints  # (o,)
    people: tuple[str, ...]  # (p,)
    criteria: tuple[Criterion, ...]  # (c,)
    labelled: Ints  # (l,): places among the outputs, rising
    human: Floats  # (l, p, c)
    human_passed: Floats  # (l, p)
    judge: Floats  # (o, c)
    judge_passed: Floats  # (o,)
    # How the labelled outputs were chosen. Those that may be in no estimate are not among them.
    design: Design


def judges_of(task: Task) -> list[Grader]:
    """The newest version of each grader that graded the task's outputs, by name."""
    return sorted({g.name: g for g in judge_versions(task)}.values(), key=lambda g: g.name)


def judge_versions(task: Task) -> list[Grader]:
    """Every grader that graded the task's outputs, oldest first."""
    graded = Grade.objects.filter(output__task=task, output__is_latest=True, mode=Grade.Mode.AUTOMATIC, retraction__isnull=True)
    return list(Grader.objects.filter(pk__in=graded.values("grader")).order_by("pk"))


def read_grades(task: Task, judge: Grader | None, mode: str) -> Grades:
    """Everything that a study of one judge needs. Files with one name and version are one judge."""
    outputs = _read_outputs(task)
    criteria = tuple(task.rubric.criteria.all()) if task.rubric else ()
    place = {pk: i for i, pk in enumerate(outputs.id.tolist())}
    people, by_people, by_judge = _newest(_wanted(Grade.objects.all(), "", task, judge, mode))
    labelled = np.array(sorted({place[output] for output, _ in by_people}), dtype=np.int64)
    row = {int(output): i for i, output in enumerate(outputs.id[labelled])}
    column = {name: i for i, name in enumerate(people)}
    human = np.full((len(labelled), len(people), len(criteria)), np.nan)
    human_passed = np.full(human.shape[:2], np.nan)
    judged, judge_passed = np.full((len(outputs), len(criteria)), np.nan), np.full(len(outputs), np.nan)
    # Where each grade's scores belong, as a place in the flat array of all people's grades, or of the judge's.
    homes: dict[int, int] = {}
    for (output, name), (pk, passed) in by_people.items():
        homes[pk] = row[output] * len(people) + column[name]
        human_passed[row[output], column[name]] = _number(passed)
    for output, (pk, passed) in by_judge.items():
        homes[pk] = human_passed.size + place[output]
        judge_passed[place[output]] = _number(passed)
    flat = np.concatenate([human.reshape(-1, len(criteria)), judged]) if criteria else np.empty((0, 0))
    for scores in _read_scores(task, judge, mode, criteria):
        _fill(flat, homes, scores)
    if criteria:
        human, judged = flat[: human_passed.size].reshape(human.shape), flat[human_passed.size :]
    clusters = _clusters(task, outputs)
    raters = np.bincount([row[output] for output, _ in by_people], minlength=len(labelled)).tolist()
    design = read_design(task, outputs.id, outputs.id[labelled], raters)
    kept = design.is_counted
    labelled, human, human_passed = labelled[kept], human[kept], human_passed[kept]
    return Grades(outputs, clusters, people, criteria, labelled, human, human_passed, judged, judge_passed, design.counted())


def _read_outputs(task: Task) -> Outputs:
    latest = Output.objects.filter(task=task, is_latest=True).order_by("id")
    rows = list(_raw(latest.values_list("id", "prompt_id", "variant_id", "length", "model")))
    ids, prompts, variants, lengths, models = zip(*rows, strict=True) if rows else ((),) * 5
    numbers = [np.array([value or 0 for value in column], dtype=np.int64) for column in (ids, prompts, variants)]
    names = tuple(sorted(set(models)))
    place = {name: i for i, name in enumerate(names)}
    return Outputs(*numbers, np.array(lengths, dtype=np.float64), np.array([place[m] for m in models], dtype=np.int64), names)


def _clusters(task: Task, outputs: Outputs) -> Ints:
    """Outputs of one prompt are a cluster where prompts are a sample of many (an import gives each output its own).

    Where the prompts are the task's own few variants they are fixed, so outputs vary independently.
    """
    sampled = list(Variant.objects.filter(task=task, prompt="").values_list("id", flat=True))
    is_sampled = np.isin(outputs.variant, sampled) & (outputs.prompt > 0)
    return np.where(is_sampled, outputs.prompt, -outputs.id)


def _wanted(rows: QuerySet[Any], grade: str, task: Task, judge: Grader | None, mode: str) -> QuerySet[Any]:
    """Grades, or what belongs to a `grade`, of the people in this mode and of the judge."""
    is_wanted = Q(**{f"{grade}mode__in": GRADE_MODES[mode]})
    if judge is not None:
        files = list(Grader.objects.filter(name=judge.name, version=judge.version).values_list("id", flat=True))
        is_wanted |= Q(**{f"{grade}mode": Grade.Mode.AUTOMATIC, f"{grade}grader_id__in": files})
    return rows.filter(is_wanted, **{f"{grade}output__task": task, f"{grade}output__is_latest": True}).order_by()


Newest = dict[Any, tuple[int, bool | None]]


def _newest(grades: QuerySet[Grade]) -> tuple[tuple[str, ...], Newest, Newest]:
    """People's names, (output, name) -> (grade, passed) of each person's newest grade, output -> that of the judge's."""
    by_people: Newest = {}
    by_judge: Newest = {}
    fields = ("id", "output_id", "mode", "rater_name", "passed")
    for pk, output, mode, name, passed in sorted(_raw(grades.filter(retraction__isnull=True).values_list(*fields)), key=itemgetter(0)):
        if mode == Grade.Mode.AUTOMATIC:
            by_judge[output] = (pk, passed)
        else:
            by_people[output, name] = (pk, passed)
    return tuple(sorted({name for _, name in by_people})), by_people, by_judge


def _read_scores(task: Task, judge: Grader | None, mode: str, criteria: tuple[Criterion, ...]) -> Iterator[np.ndarray]:
    """Scores with the column of their criterion; a criterion that another rubric version had too counts by its key."""
    keys = [criterion.key for criterion in criteria]
    known = {c.pk: c for c in Criterion.objects.filter(rubric__task=task, key__in=keys)} if keys else {}
    of_task = _wanted(CriterionScore.objects.all(), "grade__", task, judge, mode)
    # Which criterion is looked at here: asked of SQLite, it would go through the index of criteria and hop between grades.
    numeric = {pk: keys.index(c.key) for pk, c in known.items() if criteria[keys.index(c.key)].kind != CATEGORICAL}
    if numeric:
        rows = of_task.filter(score__isnull=False).values_list("grade_id", "criterion_id", "score")
        yield _with_columns(np.fromiter(_raw(rows), dtype=SCORE), numeric)
    for column, criterion in enumerate(criteria):
        if criterion.kind == CATEGORICAL:
            codes = {value: float(i) for i, value in enumerate(criterion.values)}
            rows = of_task.filter(criterion__in=[pk for pk, c in known.items() if c.key == criterion.key], value__in=list(codes))
            found = ((grade, column, codes[value]) for grade, value in _raw(rows.values_list("grade_id", "value")))
            yield np.fromiter(found, dtype=SCORE)


def _with_columns(scores: np.ndarray, columns: dict[int, int]) -> np.ndarray:
    ids = np.array(sorted(columns), dtype=np.int64)
    at = np.minimum(np.searchsorted(ids, scores["criterion"]), len(ids) - 1)
    is_known = ids[at] == scores["criterion"]
    scores["criterion"] = np.array([columns[pk] for pk in ids.tolist()], dtype=np.int64)[at]
    return scores[is_known]


def _fill(flat: Floats, homes: dict[int, int], scores: np.ndarray) -> None:
    """Put each score where its grade belongs; those of grades that a newer one follows belong nowhere."""
    if not homes or not len(scores):
        return
    grades = np.fromiter(homes, dtype=np.int64, count=len(homes))
    home = np.fromiter(homes.values(), dtype=np.int64, count=len(homes))
    order = np.argsort(grades)
    grades, home = grades[order], home[order]
    at = np.minimum(np.searchsorted(grades, scores["grade"]), len(grades) - 1)
    is_kept = grades[at] == scores["grade"]
    flat[home[at[is_kept]], scores["criterion"][is_kept]] = scores["score"][is_kept]


def _raw(rows: QuerySet[Any]) -> Iterator[tuple[Any, ...]]:
    """The rows as the database's driver gives them: Django's own way to the same tuples takes twice as long."""
    with connection.cursor() as cursor:
        cursor.execute(*rows.query.sql_with_params())
        yield from chain.from_iterable(iter(lambda: cursor.fetchmany(FETCHED), []))


def _number(verdict: bool | None) -> float:
    return np.nan if verdict is None else float(verdict)
