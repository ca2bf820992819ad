"""Where a queue drew outputs with unequal chances: agreement, ranking and errors as they would be over all outputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from graders.calibration import by_chance
from graders.calibration.alpha import METRICS, Metric
from graders.calibration.arrays import Floats
from graders.calibration.drawn import Population
from graders.calibration.result import Estimate
from reviewapp.calibration.figures import NOT_A_SCALE, Figure, figure, in_points, missing
from reviewapp.calibration.grades import Grades
from reviewapp.calibration.items import Items, on_scale
from reviewapp.calibration.rates import same_verdict

ON_A_SCALE = ("weighted_kappa_weighted", "gwet_ac2_weighted", "pearson_weighted", "spearman_weighted", "spearman_within_weighted")
ERRORS = ("bias_weighted", "mae_weighted", "rmse_weighted", "agreement_weighted")


def drawn_of(items: Items, grades: Grades) -> dict[str, Any] | None:
    """The weight of each item (n,), one over its chance, and, where there are strata, those of all outputs; None: all chances alike."""
    design = grades.design
    if design.weights is None:
        return None
    by_output = np.full(len(grades.outputs), np.nan)
    if design.strata is None:
        by_output[grades.labelled] = design.weights
        return {"weights": by_output[items.output]}
    size, drawn = np.bincount(design.strata), np.bincount(design.strata[grades.labelled], minlength=int(design.strata.max()) + 1)
    by_output[grades.labelled] = (size / np.maximum(drawn, 1))[design.strata[grades.labelled]]
    return {"weights": by_output[items.output], "population": Population(design.strata, grades.clusters, items.output)}


def agreement_group(items: Items, grades: Grades) -> Figure:
    """The judge's agreement and ranking over all outputs; nothing where chances were alike."""
    drawn = drawn_of(items, grades)
    if drawn is None:
        return {}
    judge, human, labels = items.judge, items.human, items.labels
    given = drawn | {"resamples": items.resamples}
    found = {"alpha_weighted": figure(_alpha(items, drawn, judge))}
    if items.is_categorical:
        return found | {name: missing(NOT_A_SCALE) for name in ON_A_SCALE}
    made = (
        by_chance.kappa_by_chance(judge, human, labels, **given),
        by_chance.ac2_by_chance(judge, human, labels, **given),
        by_chance.correlation_by_chance("pearson", judge, items.mean, **given),
        by_chance.correlation_by_chance("spearman", judge, items.mean, **given),
        by_chance.correlation_by_chance("spearman", judge, items.mean, **given, groups=items.criterion),
    )
    return found | dict(zip(ON_A_SCALE, map(figure, made), strict=True))


def error_group(items: Items, grades: Grades, columns: list[int]) -> Figure:
    """The judge's errors as they would be over all outputs; nothing where chances were alike."""
    drawn = drawn_of(items, grades)
    if drawn is None:
        return {}
    if items.is_categorical:
        return {name: missing(NOT_A_SCALE) for name in ERRORS}
    apart, span, given = items.judge - items.mean, items.scale[1] - items.scale[0], drawn | {"resamples": items.resamples}
    made = (
        by_chance.mean_by_chance(apart, kind="points", **given).within(-span, span),
        by_chance.mean_by_chance(np.abs(apart), kind="size", **given).within(0, span),
        _root(by_chance.mean_by_chance(apart**2, kind="mean", most=span**2, **given)),
        same_verdict(*on_scale(grades, columns, items.scale), items, grades),
    )
    return dict(zip(ERRORS, map(figure, made), strict=True))


def people_group(items: Items, grades: Grades) -> Figure:
    """How far people agree over all outputs; nothing where chances were alike."""
    drawn = drawn_of(items, grades)
    if drawn is None:
        return {}
    none = {f"alpha_{metric}_weighted": missing(NOT_A_SCALE) for metric in METRICS} if items.is_categorical else {}
    metrics: tuple[Metric, ...] = ("nominal",) if items.is_categorical else METRICS
    return none | {f"alpha_{metric}_weighted": figure(_alpha(items, drawn, metric=metric)) for metric in metrics}


def overview_figures(items: Items, grades: Grades) -> dict[str, Figure]:
    """The row of a criterion, over all outputs: how far people agree, how far the judge agrees with them, and its bias."""
    drawn = drawn_of(items, grades)
    if drawn is None:
        return {}
    found = {"human_alpha": figure(_alpha(items, drawn)), "judge_alpha": figure(_alpha(items, drawn, items.judge))}
    if items.is_categorical:
        return found
    made = by_chance.mean_by_chance(items.judge - items.mean, kind="points", resamples=items.resamples, **drawn)
    return found | {"bias": in_points(made, items.scale)}


def _alpha(items: Items, drawn: dict[str, Any], judge: Floats | None = None, metric: Metric | None = None) -> Estimate:
    """Among people; with the judge, that of it with single people. By default of the kind that the scores are."""
    metric = metric or ("nominal" if items.is_categorical else "ordinal")
    return by_chance.alpha_by_chance(items.human, metric, labels=items.labels, resamples=items.resamples, judge=judge, **drawn)


def _root(found: Estimate) -> Estimate:
    low, value, high = (None if end is None else max(end, 0.0) ** 0.5 for end in (found.low, found.value, found.high))
    return replace(found, low=low, value=value, high=high)
