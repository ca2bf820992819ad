"""A task's grades as they lie in the database: a row each, with its scores.

What the driver makes for each row is most of the time that a study takes to read, so a row comes with all scores of the
grade, and rows that this process has read are not read again: the database lets nobody change or delete a grade. Which
of them count does change (a retraction, a new version of an output), and other processes add some, in whatever order. So
the ids of those that count now are always asked for, and the rows that are not here yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain
from typing import Any

import numpy as np
from django.core.cache import cache
from django.db import connection
from django.db.models import Case, F, FilteredRelation, Q, QuerySet, Value, When

from graders.calibration.arrays import Floats, Ints
from reviewapp.models import Criterion, Grade, Grader, Task

CATEGORICAL = "categorical"
FETCHED = 250  # rows at once: more make Python look for garbage, and the memory that they are made in is cold
JOINED = 24  # criteria in one query: SQLite joins at most 64 tables
MOST_NEW = 500  # more that are not here yet, and all are read
KEPT_S = 24 * 3600
MOST_KEPT_BYTES = 16 * 2**20  # of a task, judge and mode; more rows than that are read each time
FACT = (("grade", np.int64), ("output", np.int64), ("who", np.object_), ("mode", np.int64), ("passed", np.float64))
AUTOMATIC = -1


@dataclass(frozen=True)
class Rows:
    """Grades, a column a field; all (g,), in no order. Grades of a judge are of "", so `who` is a place among the names."""

    names: tuple[str, ...]
    grade: Ints
    output: Ints
    who: Ints
    mode: Ints  # its place among the modes that were asked for, AUTOMATIC of a judge's
    passed: Floats  # 1, 0, or NaN
    scores: Floats  # (g, c); of a categorical criterion the value's place among its values

    def __len__(self) -> int:
        return len(self.grade)

    @property
    def nbytes(self) -> int:
        return self.scores.nbytes + 6 * self.grade.nbytes

    def only(self, chosen: np.ndarray) -> Rows:
        return Rows(self.names, *(column[chosen] for column in (self.grade, self.output, self.who, self.mode, self.passed, self.scores)))

    def and_also(self, more: Rows) -> Rows:
        names = tuple(dict.fromkeys(self.names + more.names))
        place = np.array([names.index(name) for name in more.names], dtype=np.int64)
        pairs = ((getattr(self, name), getattr(more, name)) for name in ("grade", "output", "mode", "passed", "scores"))
        grade, output, mode, passed, scores = (np.concatenate(pair) for pair in pairs)
        return Rows(names, grade, output, np.concatenate([self.who, place[more.who]]), mode, passed, scores)


def read_rows(task: Task, judge: Grader | None, modes: Sequence[str], criteria: tuple[Criterion, ...]) -> Rows:
    """Those of people in these modes and of the judge (files with one name and version are one), less what was taken back."""
    wanted, ids = _wanted(task, judge, modes), _versions_of(task, criteria)
    asked = f"{judge and (judge.name, judge.version)}:{list(modes)}:{[(c.key, c.kind, c.values, ids[c.key]) for c in criteria]}"
    key = f"calibration:rows:{task.pk}:{sha256(asked.encode()).hexdigest()}"
    kept = cache.get(key)
    rows = _read(wanted, modes, criteria, ids) if kept is None else _up_to_date(kept, wanted, modes, criteria, ids)
    if rows is not kept and rows.nbytes <= MOST_KEPT_BYTES:
        cache.set(key, rows, KEPT_S)
    return rows


def _up_to_date(
    kept: Rows, wanted: QuerySet[Grade], modes: Sequence[str], criteria: tuple[Criterion, ...], ids: dict[str, list[int]]
) -> Rows:
    now = table_of(wanted.values_list("id"), [("grade", np.int64)])["grade"]
    new = now[~np.isin(now, kept.grade)]
    if len(new) > MOST_NEW:
        return _read(wanted, modes, criteria, ids)
    still = np.isin(kept.grade, now)
    rows = kept if still.all() else kept.only(still)
    return rows.and_also(_read(wanted.filter(pk__in=new.tolist()), modes, criteria, ids)) if len(new) else rows


def _wanted(task: Task, judge: Grader | None, modes: Sequence[str]) -> QuerySet[Grade]:
    is_wanted = Q(mode__in=modes)
    if judge is not None:
        files = list(Grader.objects.filter(name=judge.name, version=judge.version).values_list("id", flat=True))
        is_wanted |= Q(mode=Grade.Mode.AUTOMATIC, grader_id__in=files)
    return Grade.objects.filter(is_wanted, output__task=task, output__is_latest=True, retraction__isnull=True).order_by()


def _versions_of(task: Task, criteria: tuple[Criterion, ...]) -> dict[str, list[int]]:
    """The ids of each criterion: one that another rubric version had too counts by its key."""
    found: dict[str, list[int]] = {criterion.key: [] for criterion in criteria}
    for pk, key in Criterion.objects.filter(rubric__task=task, key__in=list(found)).order_by("id").values_list("id", "key"):
        found[key].append(pk)
    return found


def _read(grades: QuerySet[Grade], modes: Sequence[str], criteria: tuple[Criterion, ...], ids: dict[str, list[int]]) -> Rows:
    who = Case(When(mode=Grade.Mode.AUTOMATIC, then=Value("")), default=F("rater_name"))
    places = [When(mode=mode, then=Value(place)) for place, mode in enumerate(modes)]
    grades = grades.annotate(who=who, place=Case(*places, default=Value(AUTOMATIC)))
    rows = _read_some(grades, criteria[:JOINED], ids)
    order = np.argsort(rows.grade)
    for start in range(JOINED, len(criteria), JOINED):
        more = _read_some(grades, criteria[start : start + JOINED], ids)
        more = more.only(np.isin(more.grade, rows.grade))  # a grade may have come in between
        scores = np.full((len(rows), more.scores.shape[1]), np.nan)
        scores[order[np.searchsorted(rows.grade, more.grade, sorter=order)]] = more.scores
        rows = replace(rows, scores=np.concatenate([rows.scores, scores], axis=1))
    return rows


def _read_some(grades: QuerySet[Grade], criteria: tuple[Criterion, ...], ids: dict[str, list[int]]) -> Rows:
    """Of criteria that fit into one query."""
    fields, dtype = ["id", "output_id", "who", "place", "passed"], list(FACT)
    for column, criterion in enumerate(criteria):
        name, is_categorical = f"score{column}", criterion.kind == CATEGORICAL
        of_criterion = Q(criterion_scores__criterion__in=ids[criterion.key])
        grades = grades.annotate(**{name: FilteredRelation("criterion_scores", condition=of_criterion)})
        fields.append(f"{name}__{'value' if is_categorical else 'score'}")
        dtype.append((name, np.object_ if is_categorical else np.float64))
    rows = table_of(grades.values_list(*fields), dtype)
    scores = np.full((len(rows), len(criteria)), np.nan)
    for column, criterion in enumerate(criteria):
        given = rows[f"score{column}"]
        scores[:, column] = _codes(given, criterion.values) if criterion.kind == CATEGORICAL else given
    names, who = numbered(rows["who"])
    return Rows(names, rows["grade"].copy(), rows["output"].copy(), who, rows["mode"].copy(), rows["passed"].copy(), scores)


def _codes(given: Sequence[str | None], values: Sequence[str]) -> Floats:
    code = {value: float(i) for i, value in enumerate(values)}
    return np.array([code.get(value, np.nan) for value in given], dtype=np.float64)


def numbered(texts: np.ndarray) -> tuple[tuple[str, ...], Ints]:
    """The different texts, sorted, and each one's place among them."""
    every = texts.tolist()
    names = tuple(sorted(set(every)))
    place = {name: i for i, name in enumerate(names)}
    return names, np.fromiter(map(place.__getitem__, every), dtype=np.int64, count=len(every))


def table_of(rows: QuerySet[Any], dtype: list[tuple[str, Any]]) -> np.ndarray:
    found = [np.fromiter(chunk, dtype=dtype, count=len(chunk)) for chunk in _chunks(rows)]
    return np.concatenate(found) if found else np.empty(0, dtype=dtype)


def _chunks(rows: QuerySet[Any]) -> Iterator[list[tuple[Any, ...]]]:
    """The rows as the database's driver gives them: Django's own way to the same tuples takes twice as long."""
    with connection.cursor() as cursor:
        cursor.execute(*rows.query.sql_with_params())
        yield from iter(lambda: cursor.fetchmany(FETCHED), [])


def raw(rows: QuerySet[Any]) -> Iterator[tuple[Any, ...]]:
    return chain.from_iterable(_chunks(rows))
