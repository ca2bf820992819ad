"""Figures of labels that a queue drew, weighted by one over the probability of being drawn, for `bench_coverage_more`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from bench.bench_coverage_figures import LABELS, Figures, Study, made_of
from graders.calibration import by_chance
from graders.calibration.arrays import Floats, Ints
from graders.calibration.decision import majority
from graders.calibration.drawn import Population
from graders.calibration.resample import Resamples
from graders.calibration.result import Estimate
from graders.calibration.sampling import Sample
from graders.calibration.weighted import weighted_mean, weighted_rate

SCALE, SPAN, PASS = (1.0, 5.0), 4.0, 4.0


def figures_of_draw(study: Study, sample: Sample, prompt: Ints | None, only: Collection[str] = ()) -> dict[str, Estimate]:
    """Labels by a policy, of outputs that the judge scored all."""
    n, drawn = len(study.judge), np.sort(sample.indices)
    mean, judge = np.full(n, np.nan), study.judge
    mean[drawn] = study.human[drawn].mean(axis=1)
    verdict, passed = (judge >= PASS).astype(float), np.full(n, np.nan)
    passed[drawn] = majority((study.human[drawn] >= PASS).astype(float))
    nobody, same = np.full(n, np.nan), np.where(np.isnan(passed), np.nan, passed == verdict)
    chances = {"strata": sample.strata} if sample.policy == "stratified" else {}
    if sample.policy == "active":
        chances = {"weights": 1 / sample.probabilities}
    given = chances | ({} if prompt is None else {"clusters": prompt})
    figures: Figures = {
        "same verdict by chances": lambda: weighted_rate(nobody, same, **given),
        "mean by chances": lambda: weighted_mean(nobody, mean, SCALE, **given),
        "mean by chances and judge": lambda: weighted_mean(judge, mean, SCALE, **given),
        "rate by chances": lambda: weighted_rate(nobody, passed, **given),
        "rate by chances and judge": lambda: weighted_rate(verdict, passed, **given),
    }
    found = made_of(figures, only)
    if sample.policy == "random":
        return found
    draws = Resamples(np.arange(len(drawn)) if prompt is None else prompt[drawn], rng=np.random.default_rng(0))
    chances = {"weights": 1 / sample.probabilities[drawn]}
    if sample.policy == "stratified":
        chances["population"] = Population(sample.strata, np.arange(n) if prompt is None else prompt, drawn)
    return found | figures_by_chance(judge[drawn], study.human[drawn], chances, draws, only)


def figures_by_chance(
    judge: Floats, people: Floats, chances: dict[str, Any], draws: Resamples, only: Collection[str] = ()
) -> dict[str, Estimate]:
    apart, given = judge - people.mean(axis=1), chances | {"resamples": draws}
    figures: Figures = {
        "bias by chances": lambda: by_chance.mean_by_chance(apart, kind="points", **given),
        "error by chances": lambda: by_chance.mean_by_chance(np.abs(apart), kind="size", **given),
        "squared error by chances": lambda: by_chance.mean_by_chance(apart**2, kind="mean", most=SPAN**2, **given),
        "kappa by chances": lambda: by_chance.kappa_by_chance(judge, people, LABELS, **given),
        "AC2 by chances": lambda: by_chance.ac2_by_chance(judge, people, LABELS, **given),
        "alpha by chances": lambda: by_chance.alpha_by_chance(people, "ordinal", labels=LABELS, **given),
        "alpha of the judge by chances": lambda: by_chance.alpha_by_chance(people, "ordinal", labels=LABELS, judge=judge, **given),
        "Pearson by chances": lambda: by_chance.correlation_by_chance("pearson", judge, people, **given),
        "Spearman by chances": lambda: by_chance.correlation_by_chance("spearman", judge, people, **given),
    }
    return made_of(figures, only)
