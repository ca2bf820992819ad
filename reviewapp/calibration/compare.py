"""Two judge versions held to the same people: differences with intervals, a verdict, outputs that got better or worse, drift."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

import numpy as np
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from graders.calibration.comparison import Comparison, Drift, compare_categories, compare_judges
from reviewapp import access
from reviewapp.calibration.behind import graded_only
from reviewapp.calibration.drift import drift_of
from reviewapp.calibration.explain import compared_rows
from reviewapp.calibration.figures import figure
from reviewapp.calibration.question import Asked, ask
from reviewapp.calibration.report import grades_of, remembered, scope_of
from reviewapp.calibration.rubric import needs_rubric
from reviewapp.calibration.words import with_interval
from reviewapp.models import Grader, Output, Task
from reviewapp.words import number

NAMES = ("a", "b", "mode", "criterion")
SHOWN = 10
KEPT_MOVES = 400  # who works blind sees those on outputs that they have graded


@dataclass(frozen=True)
class Move:
    """An output, and by how many points b is nearer to people than a; on all criteria together, the mean of them."""

    output_id: int
    a: float
    b: float
    human: float
    gain: float


@dataclass(frozen=True)
class Compared:
    comparison: Comparison
    better: tuple[Move, ...]
    worse: tuple[Move, ...]
    drifts: tuple[tuple[Grader, Drift | None], ...]
    scale: tuple[float, float]
    is_categorical: bool
    n_criteria: int  # that are taken together
    n_outputs: int
    is_weighted: bool  # whether queues drew some of them with unequal chances


@require_GET
@access.role_required("viewer")
@needs_rubric
def calibration_compare(request: HttpRequest, task: Task) -> HttpResponse:
    params = request.GET.copy()
    unknown = [name for name in params if name not in NAMES]
    for name in (*unknown, "a", "b"):
        params.pop(name, None)
    asked = ask(task, params)
    a, b, problems = _pick(asked, request.GET.get("a", ""), request.GET.get("b", ""))
    problems = [
        *asked.problems,
        *problems,
        *(f"{name} is no part of this page's address. There are: {', '.join(NAMES)}." for name in unknown),
    ]
    context: dict[str, Any] = {
        "task": task,
        "a": a,
        "b": b,
        "problems": problems,
        "mode": asked.question.mode,
        "scopes": _scopes(asked, a, b),
    }
    context["versions"] = [f"{g.name}@{g.version}" for g in asked.versions]
    context["criterion"] = asked.question.criterion
    if a and b and a != b:
        compared = _compared(asked, a, b)
        rows = compared_rows(compared.comparison.differences, n_criteria=compared.n_criteria)
        context |= {"compared": compared, "rows": rows, "drifts": [_drifted(judge, found) for judge, found in compared.drifts]}
        context |= {"better": _shown(request, compared.better), "worse": _shown(request, compared.worse)}
    return render(request, "calibration/compare.html", context, status=422 if problems else 200)


def _pick(asked: Asked, name_a: str, name_b: str) -> tuple[Grader | None, Grader | None, list[str]]:
    """The two judges; without names, the newest version of the task's judge and the one before it, else the newest other."""
    named = {f"{g.name}@{g.version}": g for g in asked.versions}
    problems = [
        f"{which} is {wanted[:60]!r}, allowed: {', '.join(list(named)[:12]) or 'none, nothing was graded yet'}."
        for which, wanted in (("a", name_a), ("b", name_b))
        if wanted and wanted not in named
    ]
    b = named.get(name_b) or asked.question.judge
    others = [g for g in asked.versions if b and g.pk != b.pk]
    same = [g for g in others if b and g.name == b.name]
    a = named.get(name_a) or (same[-1] if same else others[-1] if others else None)
    return a, b, problems


def _compared(asked: Asked, a: Grader, b: Grader) -> Compared:
    name = f"compare:{a.pk}:{b.pk}:{asked.question.mode}:{asked.question.criterion}"
    return remembered(asked.question.task, name, lambda: _compare(asked, a, b))


def _compare(asked: Asked, a: Grader, b: Grader) -> Compared:
    question = asked.question
    sides = []
    for judge in (a, b):
        of_judge = replace(question, judge=judge)
        grades = grades_of(question.task, judge, question.mode)
        sides.append(scope_of(of_judge, grades)[0])
    one, two = sides
    ids = grades.outputs.id[one.output]
    if one.is_categorical:
        comparison = compare_categories(one.judge, two.judge, one.human, resamples=one.resamples)
    else:
        comparison = compare_judges(one.judge, two.judge, one.human, one.labels, resamples=one.resamples, groups=one.criterion)
    moves = _moves(ids, one.judge, two.judge, one.human, comparison.gain)
    return Compared(
        comparison=comparison,
        better=tuple(sorted((m for m in moves if m.gain > 0), key=lambda m: -m.gain)[:KEPT_MOVES]),
        worse=tuple(sorted((m for m in moves if m.gain < 0), key=lambda m: m.gain)[:KEPT_MOVES]),
        drifts=tuple((judge, drift_of(question.task, judge, one.scale)) for judge in (a, b)),
        scale=one.scale,
        is_categorical=one.is_categorical,
        n_criteria=len(np.unique(one.criterion)),
        n_outputs=len(np.unique(ids[~np.isnan(comparison.gain)])),
        is_weighted=grades.design.weights is not None,
    )


def _moves(ids: np.ndarray, a: np.ndarray, b: np.ndarray, human: np.ndarray, gain: np.ndarray) -> list[Move]:
    """An entry an output: the means over its criteria that all three scored."""
    used = ~np.isnan(gain)
    if not used.any():
        return []
    people = np.nanmean(human[used], axis=1)
    outputs, place = np.unique(ids[used], return_inverse=True)
    count = np.bincount(place)
    means = [np.bincount(place, weights=values) / count for values in (a[used], b[used], people, gain[used])]
    return [Move(int(pk), *(float(m[i]) for m in means)) for i, pk in enumerate(outputs)]


def _drifted(judge: Grader, found: Drift | None) -> dict[str, Any]:
    """Whether it drifted, and by how much where there is an interval."""
    if found is None or found.shift.low is None:
        return {"judge": judge, "found": found, "size": ""}
    size = f"shift {with_interval(figure(found.shift))}, a score changes by {number(found.repeat.value)} on average, n {found.shift.n:,}"
    return {"judge": judge, "found": found, "size": size}


def _shown(request: HttpRequest, moves: tuple[Move, ...]) -> list[dict[str, Any]]:
    allowed = set(graded_only([move.output_id for move in moves], request.user))
    shown = [move for move in moves if move.output_id in allowed][:SHOWN]
    names = dict(Output.objects.filter(pk__in=[move.output_id for move in shown]).values_list("id", "external_id"))
    return [{"move": move, "name": names[move.output_id]} for move in shown]


def _scopes(asked: Asked, a: Grader | None, b: Grader | None) -> list[tuple[str, str, str]]:
    base = {"a": a and f"{a.name}@{a.version}", "b": b and f"{b.name}@{b.version}", "mode": asked.question.mode}
    keys = [("", "All criteria"), *((c.key, c.title) for c in asked.question.task.rubric.criteria.all())]
    return [(key, title, urlencode({name: value for name, value in {**base, "criterion": key}.items() if value})) for key, title in keys]
