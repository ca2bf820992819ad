"""What a group of figures is about: items (an output, or an output x criterion) with scores on one scale."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from graders.calibration.arrays import Floats, Ints, mean_human
from graders.calibration.decision import majority
from graders.calibration.resample import Resamples
from reviewapp.calibration.grades import Grades
from reviewapp.calibration.rows import CATEGORICAL
from reviewapp.models import Criterion, Rubric


@dataclass(frozen=True)
class Items:
    """n labelled items. `threshold` is the lowest score that passes, None where nothing says so."""

    judge: Floats  # (n,)
    human: Floats  # (n, p)
    output: Ints  # (n,): its place in Grades.outputs
    criterion: Ints  # (n,): its place in Grades.criteria
    is_categorical: bool
    scale: tuple[float, float]
    labels: tuple[float, ...]
    threshold: float | None
    resamples: Resamples
    values: tuple[str, ...] = ()

    @cached_property
    def mean(self) -> Floats:
        """The mean of people's scores (n,)."""
        return mean_human(self.human)

    @property
    def clusters(self) -> Ints:
        return self.resamples.clusters

    def passes(self, scores: Floats) -> Floats:
        """1 or 0 by the threshold, NaN where there is no score or no threshold."""
        if self.threshold is None or self.is_categorical:
            return np.full(scores.shape, np.nan)
        return np.where(np.isnan(scores), np.nan, (scores >= self.threshold - 1e-9).astype(float))

    @cached_property
    def judge_passes(self) -> Floats:
        return self.passes(self.judge)

    @cached_property
    def human_passes(self) -> Floats:
        return majority(self.passes(self.human))


def scored_rows(grades: Grades) -> Ints:
    """Which rows of Grades.human have a score: a grade may have none at all."""
    return np.flatnonzero(~np.isnan(grades.human).all(axis=(1, 2))) if grades.human.size else np.empty(0, dtype=np.int64)


def pooled_columns(grades: Grades) -> list[int]:
    """Criteria on a scale; where there is none of them, those categorical ones that have the values of the first."""
    numeric = [i for i, c in enumerate(grades.criteria) if c.kind != CATEGORICAL]
    return numeric or [i for i, c in enumerate(grades.criteria) if c.values == grades.criteria[0].values]


def items_of(grades: Grades, rubric: Rubric, columns: list[int], rows: Ints, resamples: Resamples) -> Items:
    """The labelled outputs (rows of Grades.human; `resamples` are of them) on these criteria.

    Where their scales differ, all are put on the rubric's. Categorical criteria are pooled with no others.
    """
    chosen = [grades.criteria[c] for c in columns]
    first, scales = chosen[0], {(c.scale_low, c.scale_high) for c in chosen}
    is_categorical = first.kind == CATEGORICAL
    scale = scales.pop() if len(scales) == 1 else (rubric.scale_low, rubric.scale_high)
    outputs = grades.labelled[rows]
    judge = [_onto(grades.judge[outputs, c], grades.criteria[c], scale) for c in columns]
    # A column a person: numpy adds up whole columns in a seventh of the time of many short rows.
    human = [_onto(grades.human[rows, :, c].T, grades.criteria[c], scale) for c in columns]
    tiled = np.tile(np.arange(len(rows)), len(columns))
    return Items(
        judge=np.concatenate(judge),
        human=np.concatenate(human, axis=1).T,
        output=outputs[tiled],
        criterion=np.repeat(np.array(columns), len(rows)),
        is_categorical=is_categorical,
        scale=scale,
        labels=_labels(chosen, scale),
        threshold=_threshold(chosen, rubric, scale),
        resamples=resamples.of(tiled),
        values=tuple(first.values) if is_categorical else (),
    )


def on_scale(grades: Grades, columns: list[int], scale: tuple[float, float]) -> tuple[Floats, Floats]:
    """The judge's scores (o, c) and people's (l, p, c) on these criteria, on one scale."""
    judge = np.stack([_onto(grades.judge[:, c], grades.criteria[c], scale) for c in columns], axis=-1)
    return judge, np.stack([_onto(grades.human[:, :, c], grades.criteria[c], scale) for c in columns], axis=-1)


def _onto(scores: Floats, criterion: Criterion, scale: tuple[float, float]) -> Floats:
    low, high = criterion.scale_low, criterion.scale_high
    if criterion.kind == CATEGORICAL or (low, high) == scale:
        return scores
    return scale[0] + (scores - low) * (scale[1] - scale[0]) / (high - low)


def _labels(chosen: list[Criterion], scale: tuple[float, float]) -> tuple[float, ...]:
    """The two ends for pass-or-fail criteria, else every whole number of the scale."""
    if all(c.kind == "binary" for c in chosen):
        return scale
    whole = tuple(float(label) for label in range(int(np.ceil(scale[0])), int(np.floor(scale[1])) + 1))
    return whole if len(whole) > 1 and (whole[0], whole[-1]) == scale else scale


def _threshold(chosen: list[Criterion], rubric: Rubric, scale: tuple[float, float]) -> float | None:
    if all(c.kind == "binary" for c in chosen):
        return float(np.nextafter(sum(scale) / 2, np.inf))
    if rubric.pass_threshold is None:  # a rubric that counts criteria has none
        return None
    share = (rubric.pass_threshold - rubric.scale_low) / (rubric.scale_high - rubric.scale_low)
    return scale[0] + share * (scale[1] - scale[0])
