"""Where a queue drew outputs with unequal chances: agreement and ranking as they would be over all outputs."""

from __future__ import annotations

import numpy as np

from graders.calibration import by_chance
from graders.calibration.alpha import Metric
from graders.calibration.arrays import Floats
from reviewapp.calibration.figures import NOT_A_SCALE, Figure, figure, missing
from reviewapp.calibration.grades import Grades
from reviewapp.calibration.items import Items, on_scale
from reviewapp.calibration.rates import error_group

ON_A_SCALE = ("weighted_kappa_weighted", "gwet_ac2_weighted", "pearson_weighted", "spearman_weighted", "spearman_within_weighted")


def weights_of(items: Items, grades: Grades) -> Floats | None:
    """One over the chance of each item (n,); None where all chances were alike."""
    if grades.design.weights is None:
        return None
    by_output = np.full(len(grades.outputs), np.nan)
    by_output[grades.labelled] = grades.design.weights
    return by_output[items.output]


def agreement_group(items: Items, grades: Grades) -> Figure:
    """The judge's agreement and ranking over all outputs; nothing where chances were alike."""
    weights = weights_of(items, grades)
    if weights is None:
        return {}
    judge, human, labels, draws = items.judge, items.human, items.labels, items.resamples
    metric: Metric = "nominal" if items.is_categorical else "ordinal"
    found = {"alpha_weighted": figure(by_chance.alpha_by_chance(human, metric, weights, draws, labels, judge=judge))}
    if items.is_categorical:
        return found | {name: missing(NOT_A_SCALE) for name in ON_A_SCALE}
    made = (
        by_chance.kappa_by_chance(judge, human, labels, weights, draws),
        by_chance.ac2_by_chance(judge, human, labels, weights, draws),
        by_chance.correlation_by_chance("pearson", judge, items.mean, weights, draws),
        by_chance.correlation_by_chance("spearman", judge, items.mean, weights, draws),
        by_chance.correlation_by_chance("spearman", judge, items.mean, weights, draws, groups=items.criterion),
    )
    return found | dict(zip(ON_A_SCALE, map(figure, made), strict=True))


def people_group(items: Items, grades: Grades) -> Figure:
    """How far people agree over all outputs; nothing where chances were alike."""
    weights = weights_of(items, grades)
    if weights is None:
        return {}
    names: tuple[Metric, ...] = ("ordinal", "interval", "nominal")
    none = missing(NOT_A_SCALE)
    return {
        f"alpha_{name}_weighted": none
        if items.is_categorical and name != "nominal"
        else figure(by_chance.alpha_by_chance(items.human, name, weights, items.resamples, items.labels))
        for name in names
    }


def overview_figures(items: Items, grades: Grades, column: int) -> dict[str, Figure]:
    """The row of a criterion, over all outputs: how far people agree, how far the judge agrees with them, and its bias."""
    weights = weights_of(items, grades)
    if weights is None:
        return {}
    metric: Metric = "nominal" if items.is_categorical else "ordinal"
    people = by_chance.alpha_by_chance(items.human, metric, weights, items.resamples, items.labels)
    judge = by_chance.alpha_by_chance(items.human, metric, weights, items.resamples, items.labels, judge=items.judge)
    found = {"human_alpha": figure(people), "judge_alpha": figure(judge)}
    if items.is_categorical:
        return found
    return found | {"bias": error_group(*on_scale(grades, [column], items.scale), items, grades)["bias_weighted"]}
