"""A task's grades as arrays: which output, which criterion, which person. Seven queries, whatever the size.

A grade comes with all its scores in one row, and rows go into numpy a few at a time: 10,000 labelled outputs with four
criteria and four graders are 160,000 scores, and what the driver makes for each is most of the time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from django.db import connection
from django.db.models import Case, F, FilteredRelation, Q, QuerySet, Value, When
from django.db.models.functions import Coalesce

from graders.calibration.arrays import Floats, Ints
from reviewapp.models import Criterion, Grade, Grader, Output, Task, Variant
from reviewapp.queues.design import Design, read_design
from reviewapp.queues.gold import gold_pairs

MODES = ("blind", "assisted", "any")
GRADE_MODES = {
    "blind": (Grade.Mode.BLIND,),
    # An override is made over the judge's grade, so whoever makes it has seen that.
    "assisted": (Grade.Mode.ASSISTED, Grade.Mode.OVERRIDE),
    "any": (Grade.Mode.BLIND, Grade.Mode.ASSISTED, Grade.Mode.OVERRIDE, Grade.Mode.ADJUDICATION),
}
FACT = (("grade", np.int64), ("output", np.int64), ("who", np.object_), ("passed", np.float64))
CATEGORICAL = "categorical"
FETCHED = 250  # rows at once: more make Python look for garbage, and the memory that they are made in is cold
JOINED = 24  # criteria in one query: SQLite joins at most 64 tables


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
    """The grades that count, a column a field; all (g,), in no order.

    `rater` is a place among `people`; for the judge it is their number.
    """

    people: tuple[str, ...]
    output: Ints
    rater: Ints
    passed: Floats
    scores: Floats  # (g, c)


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
    facts = _read_facts(task, judge, mode, criteria, outputs)
    n_people = len(facts.people)
    by_people = facts.rater < n_people
    labelled, row = np.unique(facts.output[by_people], return_inverse=True)
    # One table for all: a row for each labelled output and person, then one for each output's judge.
    n_human = len(labelled) * n_people
    home = n_human + facts.output
    home[by_people] = row * n_people + facts.rater[by_people]
    passed, scores = np.full(n_human + len(outputs), np.nan), np.full((n_human + len(outputs), len(criteria)), np.nan)
    passed[home], scores[home] = facts.passed, facts.scores
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
    given = latest.values_list("id", Coalesce("prompt_id", 0), Coalesce("variant_id", 0), "length", "model")
    rows = _table(given, [*((name, np.int64) for name in ("id", "prompt", "variant")), ("length", np.float64), ("model", np.object_)])
    models = rows["model"].tolist()
    names = tuple(sorted(set(models)))
    place = {name: i for i, name in enumerate(names)}
    model = np.fromiter(map(place.__getitem__, models), dtype=np.int64, count=len(models))
    return Outputs(*(rows[name].copy() for name in ("id", "prompt", "variant", "length")), model, names)


def _clusters(task: Task, outputs: Outputs) -> Ints:
    """Outputs of one prompt are a cluster where prompts are a sample of many (an import gives each output its own).

    Where the prompts are the task's own few variants they are fixed, so outputs vary independently.
    """
    sampled = list(Variant.objects.filter(task=task, prompt="").values_list("id", flat=True))
    is_sampled = np.isin(outputs.variant, sampled) & (outputs.prompt > 0)
    return np.where(is_sampled, outputs.prompt, -outputs.id)


def _wanted(task: Task, judge: Grader | None, mode: str) -> QuerySet[Grade]:
    """Grades that were not taken back, of the people in this mode and of the judge."""
    is_wanted = Q(mode__in=GRADE_MODES[mode])
    if judge is not None:
        files = list(Grader.objects.filter(name=judge.name, version=judge.version).values_list("id", flat=True))
        is_wanted |= Q(mode=Grade.Mode.AUTOMATIC, grader_id__in=files)
    return Grade.objects.filter(is_wanted, output__task=task, output__is_latest=True, retraction__isnull=True).order_by()


def _read_facts(task: Task, judge: Grader | None, mode: str, criteria: tuple[Criterion, ...], outputs: Outputs) -> Facts:
    """Of each person and output, and of the judge, the newest grade. What people gave as gold is left out."""
    rows, scores = _read_rows(_wanted(task, judge, mode), criteria, _versions_of(task, criteria))
    at = np.searchsorted(outputs.id, rows["output"])
    counted = np.flatnonzero(_is_counted(rows, outputs.id, at, gold_pairs(task)))
    order = counted[np.argsort(rows["grade"][counted])]
    names = rows["who"][order].tolist()
    people = tuple(sorted(set(names) - {""}))
    code = {name: i for i, name in enumerate((*people, ""))}
    rater = np.fromiter(map(code.__getitem__, names), dtype=np.int64, count=len(names))
    cells, newest = at[order] * len(code) + rater, np.full(len(outputs) * len(code), -1, dtype=np.int64)
    newest[cells] = order  # of several assignments the last one stays
    found = np.flatnonzero(newest >= 0)
    kept = newest[found]
    return Facts(people, found // len(code), found % len(code), rows["passed"][kept], scores[kept])


def _is_counted(rows: np.ndarray, outputs: Ints, at: Ints, gold: Collection[tuple[int, str]]) -> np.ndarray:
    """Not as gold, and of an output (at this place) that was there when outputs were read."""
    is_there = np.append(outputs, -1)[at] == rows["output"]
    if gold:
        is_there &= [pair not in gold for pair in zip(rows["output"].tolist(), rows["who"].tolist(), strict=True)]
    return is_there


def _versions_of(task: Task, criteria: tuple[Criterion, ...]) -> dict[str, list[int]]:
    """The ids of each criterion: one that another rubric version had too counts by its key."""
    found: dict[str, list[int]] = {criterion.key: [] for criterion in criteria}
    for pk, key in Criterion.objects.filter(rubric__task=task, key__in=list(found)).order_by("id").values_list("id", "key"):
        found[key].append(pk)
    return found


def _read_rows(grades: QuerySet[Grade], criteria: tuple[Criterion, ...], ids: dict[str, list[int]]) -> tuple[np.ndarray, Floats]:
    """The grades, as FACT, and their scores (g, c). "who" is empty for the judge."""
    who = Case(When(mode=Grade.Mode.AUTOMATIC, then=Value("")), default=F("rater_name"))
    rows, scores = _read_some(grades.annotate(who=who), criteria[:JOINED], ids)
    order, found = np.argsort(rows["grade"]), [scores]
    for start in range(JOINED, len(criteria), JOINED):
        more, scores = _read_some(grades.annotate(who=who), criteria[start : start + JOINED], ids)
        is_known = np.isin(more["grade"], rows["grade"])  # a grade may have come in between
        place = order[np.searchsorted(rows["grade"], more["grade"][is_known], sorter=order)]
        found.append(np.full((len(rows), scores.shape[1]), np.nan))
        found[-1][place] = scores[is_known]
    return rows, np.concatenate(found, axis=1)


def _read_some(grades: QuerySet[Grade], criteria: tuple[Criterion, ...], ids: dict[str, list[int]]) -> tuple[np.ndarray, Floats]:
    """The same for criteria that fit into one query."""
    fields, dtype = ["id", "output_id", "who", "passed"], list(FACT)
    for column, criterion in enumerate(criteria):
        name, is_categorical = f"score{column}", criterion.kind == CATEGORICAL
        of_criterion = Q(criterion_scores__criterion__in=ids[criterion.key])
        grades = grades.annotate(**{name: FilteredRelation("criterion_scores", condition=of_criterion)})
        fields.append(f"{name}__{'value' if is_categorical else 'score'}")
        dtype.append((name, np.object_ if is_categorical else np.float64))
    rows = _table(grades.values_list(*fields), dtype)
    scores = np.full((len(rows), len(criteria)), np.nan)
    for column, criterion in enumerate(criteria):
        given = rows[f"score{column}"]
        scores[:, column] = _codes(given, criterion.values) if criterion.kind == CATEGORICAL else given
    return rows, scores


def _codes(given: Sequence[str | None], values: Sequence[str]) -> Floats:
    code = {value: float(i) for i, value in enumerate(values)}
    return np.array([code.get(value, np.nan) for value in given], dtype=np.float64)


def _table(rows: QuerySet[Any], dtype: list[tuple[str, Any]]) -> np.ndarray:
    found = [np.fromiter(chunk, dtype=dtype, count=len(chunk)) for chunk in _chunks(rows)]
    return np.concatenate(found) if found else np.empty(0, dtype=dtype)


def _chunks(rows: QuerySet[Any]) -> Iterator[list[tuple[Any, ...]]]:
    """The rows as the database's driver gives them: Django's own way to the same tuples takes twice as long."""
    with connection.cursor() as cursor:
        cursor.execute(*rows.query.sql_with_params())
        yield from iter(lambda: cursor.fetchmany(FETCHED), [])


def raw(rows: QuerySet[Any]) -> Iterator[tuple[Any, ...]]:
    return chain.from_iterable(_chunks(rows))
