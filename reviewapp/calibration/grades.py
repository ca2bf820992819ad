"""A task's grades as arrays: which output, which criterion, which person. Eight queries, whatever the size.

Rows go from the database into numpy one by one and are never held as objects: 10,000 labelled outputs with four criteria
and four graders are 160,000 scores.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from django.db import connection
from django.db.models import Case, F, Q, QuerySet, Value, When

from graders.calibration.arrays import Floats, Ints
from reviewapp.models import Criterion, CriterionScore, Grade, Grader, Output, Task, Variant
from reviewapp.queues.design import Design, read_design
from reviewapp.queues.gold import gold_pairs

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


@dataclass(frozen=True)
class Facts:
    """The grades that count, a column a field; all (g,). `grade` rises.

    `rater` is a place among `people`; for the judge it is their number.
    """

    people: tuple[str, ...]
    grade: Ints
    output: Ints
    rater: Ints
    passed: Floats


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
    facts = _read_facts(_wanted(Grade.objects.all(), "", task, judge, mode), outputs, gold_pairs(task))
    n_people = len(facts.people)
    by_people = facts.rater < n_people
    labelled, row = np.unique(facts.output[by_people], return_inverse=True)
    # One table for all: a row for each labelled output and person, then one for each output's judge.
    n_human = len(labelled) * n_people
    home = n_human + facts.output
    home[by_people] = row * n_people + facts.rater[by_people]
    passed, scores = np.full(n_human + len(outputs), np.nan), np.full((n_human + len(outputs), len(criteria)), np.nan)
    passed[home] = facts.passed
    for found in _read_scores(task, judge, mode, criteria):
        _fill(scores, facts.grade, home, found)
    n_raters = np.bincount(row, minlength=len(labelled)).tolist()
    design = read_design(task, outputs.id, outputs.id[labelled], n_raters, with_adjudications=mode == "any")
    kept = design.is_counted
    return Grades(
        outputs=outputs,
        clusters=_clusters(task, outputs),
        people=facts.people,
        criteria=criteria,
        labelled=labelled[kept],
        human=scores[:n_human].reshape(len(labelled), n_people, len(criteria))[kept],
        human_passed=passed[:n_human].reshape(len(labelled), n_people)[kept],
        judge=scores[n_human:],
        judge_passed=passed[n_human:],
        design=design.counted(),
    )


def _read_outputs(task: Task) -> Outputs:
    latest = Output.objects.filter(task=task, is_latest=True).order_by("id")
    rows = list(raw(latest.values_list("id", "prompt_id", "variant_id", "length", "model")))
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


def _read_facts(grades: QuerySet[Grade], outputs: Outputs, gold: Collection[tuple[int, str]] = ()) -> Facts:
    """Of each person and output, and of the judge, the newest grade that was not taken back.

    `gold`: who graded which output as gold; these are left out.
    """
    who = Case(When(mode=Grade.Mode.AUTOMATIC, then=Value("")), default=F("rater_name"))
    rows = list(raw(grades.filter(retraction__isnull=True).annotate(who=who).values_list("id", "output_id", "who", "passed")))
    rows = [row for row in rows if row[1:3] not in gold] if gold else rows
    ids, of, names, passed = zip(*rows, strict=True) if rows else ((),) * 4
    people = tuple(sorted(set(names) - {""}))
    code = {name: i for i, name in enumerate((*people, ""))}
    grade, rater = np.array(ids, dtype=np.int64), np.fromiter(map(code.__getitem__, names), dtype=np.int64)
    output = np.searchsorted(outputs.id, np.array(of, dtype=np.int64))
    order = np.argsort(grade)
    newest = np.full(len(outputs) * len(code), -1, dtype=np.int64)
    newest[output[order] * len(code) + rater[order]] = order  # of several assignments the last one stays
    kept = newest[newest >= 0]
    kept = kept[np.argsort(grade[kept])]
    return Facts(people, grade[kept], output[kept], rater[kept], np.array(passed, dtype=np.float64)[kept])


def _read_scores(task: Task, judge: Grader | None, mode: str, criteria: tuple[Criterion, ...]) -> Iterator[np.ndarray]:
    """Scores with the column of their criterion; a criterion that another rubric version had too counts by its key."""
    keys = [criterion.key for criterion in criteria]
    known = {c.pk: c for c in Criterion.objects.filter(rubric__task=task, key__in=keys)} if keys else {}
    of_task = _wanted(CriterionScore.objects.all(), "grade__", task, judge, mode)
    # Which criterion is looked at here: asked of SQLite, it would go through the index of criteria and hop between grades.
    numeric = {pk: keys.index(c.key) for pk, c in known.items() if criteria[keys.index(c.key)].kind != CATEGORICAL}
    if numeric:
        rows = of_task.filter(score__isnull=False).values_list("grade_id", "criterion_id", "score")
        found = [np.fromiter(chunk, dtype=SCORE, count=len(chunk)) for chunk in _chunks(rows)]
        yield _with_columns(np.concatenate(found) if found else np.empty(0, dtype=SCORE), numeric)
    for column, criterion in enumerate(criteria):
        if criterion.kind == CATEGORICAL:
            codes = {value: float(i) for i, value in enumerate(criterion.values)}
            rows = of_task.filter(criterion__in=[pk for pk, c in known.items() if c.key == criterion.key], value__in=list(codes))
            coded = ((grade, column, codes[value]) for grade, value in raw(rows.values_list("grade_id", "value")))
            yield np.fromiter(coded, dtype=SCORE)


def _with_columns(scores: np.ndarray, columns: dict[int, int]) -> np.ndarray:
    ids = np.array(sorted(columns), dtype=np.int64)
    at = np.minimum(np.searchsorted(ids, scores["criterion"]), len(ids) - 1)
    is_known = ids[at] == scores["criterion"]
    scores["criterion"] = np.array([columns[pk] for pk in ids.tolist()], dtype=np.int64)[at]
    return scores[is_known]


def _fill(table: Floats, grades: Ints, home: Ints, scores: np.ndarray) -> None:
    """Put each score into the row of its grade; those of grades that a newer one follows have none. `grades` rise."""
    if not len(grades) or not len(scores):
        return
    at = np.minimum(np.searchsorted(grades, scores["grade"]), len(grades) - 1)
    is_kept = grades[at] == scores["grade"]
    table[home[at[is_kept]], scores["criterion"][is_kept]] = scores["score"][is_kept]


def _chunks(rows: QuerySet[Any]) -> Iterator[list[tuple[Any, ...]]]:
    """The rows as the database's driver gives them: Django's own way to the same tuples takes twice as long."""
    with connection.cursor() as cursor:
        cursor.execute(*rows.query.sql_with_params())
        yield from iter(lambda: cursor.fetchmany(FETCHED), [])


def raw(rows: QuerySet[Any]) -> Iterator[tuple[Any, ...]]:
    return chain.from_iterable(_chunks(rows))
