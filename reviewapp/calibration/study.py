"""A study: one judge of one task against people, as the JSON that the command, the page and the API share."""

from __future__ import annotations

from typing import Any

import numpy as np

from graders.calibration.arrays import Floats, Ints
from graders.calibration.decision import majority
from graders.calibration.resample import Resamples
from reviewapp.calibration.by_chance import agreement_group, error_group, people_group
from reviewapp.calibration.drift import drift_of
from reviewapp.calibration.figures import (
    NO_THRESHOLD,
    NOT_A_SCALE,
    Second,
    add_second_reviewer,
    alt_test_group,
    bias_group,
    calibrator_group,
    figure,
    human_group,
    in_points,
    judge_group,
    missing,
    second_reviewers,
)
from reviewapp.calibration.grades import MODES, Grades, read_grades
from reviewapp.calibration.items import Items, items_of, on_scale, pooled_columns, scored_rows
from reviewapp.calibration.rates import mean_group, pass_rate_group
from reviewapp.calibration.text_probes import Looks, read_looks, text_group
from reviewapp.judges.pairs import position_of
from reviewapp.models import Grader, Task

DEFAULT_EPSILON = 0.2  # against experts; 0.15 skilled workers, 0.1 crowd workers
N_BOOT = 2000


class StudyError(ValueError):
    """What was asked for can't be studied, with what is allowed."""


def study(
    task: Task, judge: Grader | None, mode: str = "blind", epsilon: float = DEFAULT_EPSILON, *, n_boot: int = N_BOOT
) -> dict[str, Any]:
    """All figures, pooled over criteria and for each; `judge` None gives people's alone. The same data give the same figures."""
    if mode not in MODES:
        raise StudyError(f"mode is {mode!r}, allowed: {', '.join(MODES)}")
    if not 0 <= epsilon <= 1:
        raise StudyError(f"epsilon is {epsilon:g}, must lie in 0 to 1, such as 0.2")
    if task.rubric is None:
        raise StudyError(f"task {task.slug} has no rubric: its grades have no criteria")
    grades = read_grades(task, judge, mode)
    rows = scored_rows(grades)
    draws = Resamples(grades.clusters[grades.labelled[rows]], rng=np.random.default_rng(0), n_boot=n_boot)

    pooled = items_of(grades, task.rubric, pooled_columns(grades), rows, draws)
    second = second_reviewers(pooled, pooled_columns(grades))

    looks, place = read_looks(grades), place_of(task, judge)

    def scope(column: int) -> dict[str, Any]:
        items = items_of(grades, task.rubric, [column], rows, draws)
        return _with_text(groups_of(grades, items, judge, [column], second.get(column), epsilon=epsilon), items, looks, place)

    return {
        "task": task.slug,
        "judge": judge and f"{judge.name}@{judge.version}",
        "mode": mode,
        "n_outputs": n_studied(grades, rows, judge),
        "n_humans": len(grades.people),
        "drift": _drift(task, judge, pooled.scale),
        "labels": {"text": grades.design.text, "policies": dict(grades.design.counts)},
        "pooled": _with_text(
            groups_of(grades, pooled, judge, pooled_columns(grades), second.get(None), epsilon=epsilon), pooled, looks, place
        ),
        "criteria": {criterion.key: scope(column) for column, criterion in enumerate(grades.criteria)},
    }


def _drift(task: Task, judge: Grader | None, scale: tuple[float, float]) -> dict[str, Any]:
    """Of this version's overall scores, on outputs that it graded twice: later less earlier."""
    found = None if judge is None else drift_of(task, judge, scale)
    if found is None:
        return {"verdict": "unknown", "shift": missing("not defined, because no output was graded twice by this version")}
    return {"verdict": found.verdict, "shift": in_points(found.shift, scale)}


def _with_text(groups: dict[str, Any], items: Items, looks: Looks, place: dict[str, Any]) -> dict[str, Any]:
    """The groups, with the bias probes that read the texts, too slow for a page, and that of comparisons."""
    return groups | {"bias": groups["bias"] | text_group(items, looks) | place}


def n_studied(grades: Grades, rows: Ints, judge: Grader | None) -> int:
    """How many outputs have people's scores, and the judge's where there is one."""
    labelled = grades.labelled[rows]
    return len(labelled if judge is None else labelled[~np.isnan(grades.judge[labelled]).all(axis=1)])


def groups_of(grades: Grades, items: Items, judge: Grader | None, columns: list[int], second: Second, *, epsilon: float) -> dict[str, Any]:
    """All figures of one scope: these criteria together."""
    rng = np.random.default_rng(0)
    human, about_judge = human_group(items, grades), judge_group(items, rng)
    add_second_reviewer(human, about_judge, second)
    human |= people_group(items, grades)
    if judge is not None:
        about_judge |= agreement_group(items, grades)
        about_judge |= error_group(items, grades, columns)
    return {
        "human": human,
        "judge": about_judge,
        "alt_test": alt_test_group(items, grades.people, epsilon),
        "pass_rate": _pass_rate(grades, items, columns),
        "mean_score": _mean_score(grades, items, columns),
        "calibrator": calibrator_group(items, rng),
        "bias": bias_group(items, grades, judge.name if judge else ""),
    }


def place_of(task: Task, judge: Grader | None) -> dict[str, Any]:
    """Of a judge that compared outputs in pairs: how much the place moves it. One query."""
    found = figure(position_of(judge, task)) if judge else missing(NOT_A_SCALE)
    return {} if found["value"] is None else {"position": found}


def verdicts_of(grades: Grades, items: Items, columns: list[int]) -> tuple[Floats, Floats]:
    """The judge's verdicts (o,) and those of people's majority (l,).

    Of outputs: by their verdict when criteria are pooled, else by the criterion's threshold.
    """
    if len(columns) > 1 or len(grades.criteria) == 1:
        return grades.judge_passed, majority(grades.human_passed)
    column = columns[0]
    return items.passes(grades.judge[:, column]), majority(items.passes(grades.human[:, :, column]))


def _pass_rate(grades: Grades, items: Items, columns: list[int]) -> dict[str, Any]:
    """Where scores have no verdict, as nothing says which of them pass, it is that, and not that there were no scores."""
    judge, human = verdicts_of(grades, items, columns)
    found, is_scored = pass_rate_group(judge, human, grades), _is_any(grades.judge[:, columns]) or _is_any(grades.human[:, :, columns])
    if items.threshold is not None or not is_scored or _is_any(judge) or _is_any(human):
        return found
    none = missing(NOT_A_SCALE if items.is_categorical else NO_THRESHOLD)
    return {name: none for name in found} | {"pass_at_k": dict.fromkeys(found["pass_at_k"], none)}


def _is_any(scores: Floats) -> bool:
    return not np.isnan(scores).all()


def _mean_score(grades: Grades, items: Items, columns: list[int]) -> dict[str, Any]:
    if items.is_categorical:
        return {name: missing(NOT_A_SCALE) for name in ("raw", "human", "ppi")}
    judge, human = on_scale(grades, columns, items.scale)
    return mean_group(judge, human, items.scale, grades)
