"""What the calibration page shows of one judge, mode and criterion: figures, sentences, charts, the largest differences.

Kept in the cache until a new label, one place for each question, so that old answers make room for new ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
from django.core.cache import cache

from graders.calibration import alpha, errors, icc, noise
from graders.calibration.alt_test import alternative_annotator_test
from graders.calibration.arrays import Floats
from graders.calibration.resample import Resamples
from reviewapp.calibration.by_chance import overview_figures
from reviewapp.calibration.charts import charts
from reviewapp.calibration.figures import NOT_A_SCALE, Figure, Second, figure, in_points, missing, second_reviewers
from reviewapp.calibration.grades import Grades, read_grades
from reviewapp.calibration.items import Items, items_of, pooled_columns, scored_rows
from reviewapp.calibration.sentences import Scope, Sentence, sentences
from reviewapp.calibration.study import N_BOOT, groups_of, n_studied, place_of
from reviewapp.models import Grader, Task, Variant

DIFFER = 400  # largest differences that are kept; who works blind sees those on outputs that they have graded
KEPT_S = 24 * 3600
MOST_KEPT_BYTES = 16 * 2**20  # larger arrays are read again


@dataclass(frozen=True)
class Question:
    """Which judge, by which people's grades, on what: "" is all criteria together."""

    task: Task
    judge: Grader | None
    mode: str
    criterion: str
    epsilon: float


@dataclass(frozen=True)
class Differ:
    """An output on which judge and people differ."""

    output_id: int
    criterion: str
    judge: float
    human: float

    @property
    def difference(self) -> float:
        return self.judge - self.human


@dataclass(frozen=True)
class Report:
    figures: dict[str, Any]
    sentences: tuple[Sentence, ...]
    charts: dict[str, dict[str, Any]]
    overview: tuple[dict[str, Any], ...]
    differ: tuple[Differ, ...]
    n_outputs: int
    n_labelled: int
    n_studied: int
    people: tuple[str, ...]
    n_boot: int
    n_prompts: int
    scale: tuple[float, float]
    threshold: float | None
    is_categorical: bool
    sampling: str  # how the labelled outputs were chosen
    labelled_by_mode: dict[str, int]


def report_of(question: Question) -> Report:
    """From the cache, unless a label, an output or the rubric is new."""
    task, judge = question.task, question.judge
    asked = f"{judge and judge.pk}:{question.mode}:{question.criterion}:{question.epsilon:g}"
    return remembered(task, f"report:{asked}", lambda: _make_report(question, grades_of(task, judge, question.mode)))


def grades_of(task: Task, judge: Grader | None, mode: str) -> Grades:
    """The arrays that every criterion's report is made of."""
    return remembered(
        task,
        f"grades:{judge and judge.pk}:{mode}",
        lambda: read_grades(task, judge, mode),
        keep=lambda g: g.human.nbytes + g.judge.nbytes <= MOST_KEPT_BYTES,
    )


def remembered(task: Task, name: str, make: Callable[[], Any], keep: Callable[[Any], bool] = lambda _: True) -> Any:
    """What was made of the task as it now stands. Task.revision goes up with every label."""
    key = f"calibration:{task.pk}:{sha256(name.encode()).hexdigest()}"
    state = (task.revision, task.rubric_id)
    kept = cache.get(key)
    if kept is not None and kept[0] == state:
        return kept[1]
    made = make()
    if keep(made):
        cache.set(key, (state, made), KEPT_S)
    return made


def draws_of(grades: Grades, n_boot: int = N_BOOT) -> Resamples:
    """The resamples of the labelled outputs: the same ones for all figures of a page."""
    return Resamples(grades.clusters[grades.labelled[scored_rows(grades)]], rng=np.random.default_rng(0), n_boot=n_boot)


def scope_of(question: Question, grades: Grades, draws: Resamples | None = None) -> tuple[Items, list[int]]:
    """The items of the question's criteria, with their resamples."""
    columns = [i for i, c in enumerate(grades.criteria) if c.key == question.criterion] or pooled_columns(grades)
    rows = scored_rows(grades)
    draws = draws or draws_of(grades)
    return items_of(grades, question.task.rubric, columns, rows, draws), columns


def _make_report(question: Question, grades: Grades) -> Report:
    task, judge = question.task, question.judge
    rows = scored_rows(grades)
    draws = draws_of(grades)
    items, columns = scope_of(question, grades, draws)
    name = f"overview:{judge and judge.pk}:{question.mode}"
    overview, second = remembered(task, name, lambda: _overview(question, grades, draws, items))
    of_scope = second.get(columns[0] if question.criterion else None)
    figures = groups_of(grades, items, judge, columns, of_scope, epsilon=question.epsilon)
    figures["bias"] |= place_of(task, judge)
    scope = _scope(question, grades, items, figures, overview)
    return Report(
        figures=figures,
        sentences=tuple(sentences(scope)),
        charts=charts(items, grades, figures, overview, dict(Variant.objects.filter(task=task).values_list("id", "name"))),
        overview=overview,
        differ=_largest_differences(items, grades),
        n_outputs=len(grades.outputs),
        n_labelled=len(rows),
        n_studied=scope.n_studied,
        people=grades.people,
        n_boot=items.resamples.n_boot,
        n_prompts=scope.n_prompts,
        scale=items.scale,
        threshold=items.threshold,
        is_categorical=items.is_categorical,
        sampling=sampling_text(grades),
        labelled_by_mode=grades.labelled_by_mode,
    )


def all_labelled(n: int) -> str:
    return "The only output is labelled." if n == 1 else f"All {n:,} outputs are labelled."


def sampling_text(grades: Grades) -> str:
    """How the labelled outputs were chosen, as far as it is recorded."""
    if len(grades.labelled) == len(grades.outputs):
        return all_labelled(len(grades.outputs))
    return grades.design.text


def _overview(
    question: Question, grades: Grades, draws: Resamples, items: Items
) -> tuple[tuple[dict[str, Any], ...], dict[int | None, Second]]:
    """A row a criterion: how far people agree, how far the judge agrees with them, its bias and its ranking.

    And the ranking beside that of one more reviewer, for all criteria together and each, which takes longest of all.
    """
    pooled = scope_of(replace(question, criterion=""), grades, draws)[0] if question.criterion else items
    second, rows = second_reviewers(pooled, pooled_columns(grades)), scored_rows(grades)
    found = []
    for column, criterion in enumerate(grades.criteria):
        items = items_of(grades, question.task.rubric, [column], rows, draws)
        found.append({"key": criterion.key, "title": criterion.title, **_overview_figures(items, second.get(column), grades)})
    return tuple(found), second


def _overview_figures(items: Items, second: Second, grades: Grades) -> dict[str, Figure]:
    metric: alpha.Metric = "nominal" if items.is_categorical else "ordinal"
    found = {
        "human_alpha": figure(alpha.krippendorff_alpha(items.human, metric, items.resamples, items.labels)),
        "judge_alpha": figure(alpha.judge_alpha(items.judge, items.human, metric, items.resamples, items.labels)),
    }
    found |= overview_figures(items, grades)
    if items.is_categorical or second is None:
        return found | {name: missing(NOT_A_SCALE) for name in ("icc", "reviews_needed", "bias", "judge_rank", "human_rank", "gap")}
    single = icc.icc1(items.human, items.resamples, items.labels)
    return found | {
        "icc": figure(single),
        "reviews_needed": figure(noise.reviews_needed(single)),
        "bias": found.get("bias") or in_points(errors.bias(items.judge, items.mean, items.resamples), items.scale),
        "judge_rank": figure(second.judge),
        "human_rank": figure(second.people),
        "gap": figure(second.difference),
    }


def _scope(question: Question, grades: Grades, items: Items, figures: Figure, overview: tuple[dict[str, Any], ...]) -> Scope:
    rows, given = scored_rows(grades), ~np.isnan(items.human)
    chosen = next((c for c in grades.criteria if c.key == question.criterion), None)
    scope = Scope(
        judge=str(question.judge) if question.judge else "",
        name=chosen.title if chosen else "",
        figures=figures,
        overview=overview,
        scale=items.scale,
        is_binary=not items.is_categorical and len(items.labels) == 2,
        is_categorical=items.is_categorical,
        n_labelled=len(rows),
        n_studied=n_studied(grades, rows, question.judge),
        n_prompts=len(np.unique(grades.clusters[grades.labelled[rows]])),
        reviews=float(given.sum(axis=1)[given.any(axis=1)].mean()) if given.any() else 0.0,
    )
    test = figures["alt_test"]
    if test["passes"] is False and test["advantage_probability"] > 0.5 and not items.is_categorical:
        return replace(scope, constant=_constant_judge(items, question.epsilon))
    return scope


def _constant_judge(items: Items, epsilon: float) -> dict[str, float] | None:
    """The advantage probability of a judge that gives every output people's most frequent score."""
    given = items.human[~np.isnan(items.human)]
    values, counts = np.unique(given, return_counts=True)
    score = float(values[np.argmax(counts)])
    test = alternative_annotator_test(np.where(np.isnan(items.judge), np.nan, score), items.human, "neg_rmse", epsilon)
    advantage = test.advantage_probability.value
    return None if advantage is None else {"score": score, "advantage": advantage}


def _largest_differences(items: Items, grades: Grades) -> tuple[Differ, ...]:
    if items.is_categorical:
        return ()
    human = items.mean
    apart = np.abs(items.judge - human)
    known = np.flatnonzero(~np.isnan(apart) & (apart > 0))
    order = known[np.argsort(-apart[known], kind="stable")[:DIFFER]]
    return tuple(_differ(items, grades, human, i) for i in order.tolist())


def _differ(items: Items, grades: Grades, human: Floats, item: int) -> Differ:
    criterion = grades.criteria[items.criterion[item]].title
    return Differ(int(grades.outputs.id[items.output[item]]), criterion, float(items.judge[item]), float(human[item]))
