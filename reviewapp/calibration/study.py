"""A study: one judge of one task against people, as the JSON that the command, the page and the API share."""

from __future__ import annotations

from typing import Any

import numpy as np

from graders.calibration.arrays import Ints
from graders.calibration.decision import majority
from graders.calibration.resample import Resamples
from reviewapp.calibration.figures import alt_test_group, bias_group, calibrator_group, human_group, judge_group
from reviewapp.calibration.grades import MODES, Grades, read_grades
from reviewapp.calibration.items import Items, items_of, pooled_columns, scored_rows
from reviewapp.calibration.rates import pass_rate_group
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
    labelled = grades.labelled[rows]
    draws = Resamples(grades.clusters[labelled], rng=np.random.default_rng(0), n_boot=n_boot)
    counted = labelled if judge is None else labelled[~np.isnan(grades.judge[labelled]).all(axis=1)]
    return {
        "task": task.slug,
        "judge": judge and f"{judge.name}@{judge.version}",
        "mode": mode,
        "n_outputs": len(counted),
        "n_humans": len(grades.people),
        "pooled": _groups(grades, task, judge, pooled_columns(grades), rows, draws=draws, epsilon=epsilon),
        "criteria": {
            criterion.key: _groups(grades, task, judge, [column], rows, draws=draws, epsilon=epsilon)
            for column, criterion in enumerate(grades.criteria)
        },
    }


def _groups(
    grades: Grades, task: Task, judge: Grader | None, columns: list[int], rows: Ints, *, draws: Resamples, epsilon: float
) -> dict[str, Any]:
    items, rng = items_of(grades, task.rubric, columns, rows, draws), np.random.default_rng(0)
    return {
        "human": human_group(items, grades),
        "judge": judge_group(items, rng),
        "alt_test": alt_test_group(items, grades.people, epsilon),
        "pass_rate": _pass_rate(grades, items, columns),
        "calibrator": calibrator_group(items, rng),
        "bias": bias_group(items, grades, judge.name if judge else ""),
    }


def _pass_rate(grades: Grades, items: Items, columns: list[int]) -> dict[str, Any]:
    """Of outputs: by their verdict when criteria are pooled, else by the criterion's threshold."""
    if len(columns) > 1 or len(grades.criteria) == 1:
        return pass_rate_group(grades.judge_passed, majority(grades.human_passed), grades)
    column = columns[0]
    return pass_rate_group(items.passes(grades.judge[:, column]), majority(items.passes(grades.human[:, :, column])), grades)
