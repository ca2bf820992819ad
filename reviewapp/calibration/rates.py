"""Pass rates of a study: the judge's, people's, and the judge's corrected by people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graders.calibration.arrays import Floats, Ints, cluster_numbers, mean_human
from graders.calibration.decision import majority
from graders.calibration.inference import corrected_rate, human_rate
from graders.calibration.passes import pass_at_k
from graders.calibration.rates import wilson
from graders.calibration.resample import Resamples
from graders.calibration.result import Estimate
from graders.calibration.weighted import weighted_mean, weighted_rate
from reviewapp.calibration.figures import Figure, figure
from reviewapp.calibration.grades import Grades, Outputs
from reviewapp.calibration.items import Items

KS = (1, 5, 10)


def pass_rate_group(judge: Floats, human: Floats, grades: Grades) -> dict[str, Any]:
    """`judge` (o,) and `human` (l,): verdicts on every output of the task, and the majority's on those with a person's grade.

    1, 0 or NaN. raw: the judge's rate over all that it graded. wilson: people's, over what they labelled. human: the same, outputs of a
    prompt taken together. ppi: the judge's corrected by people. pass_at_k: by the judge, or by people where there is none.
    """
    by_people = np.full(len(judge), np.nan)
    by_people[grades.labelled] = human
    judged = ~np.isnan(judge)
    return {
        "raw": figure(_wilson(judge[judged])),
        **(_weighted(judge, by_people, grades) if grades.design.weights is not None else _even(judge, by_people, grades)),
        "pass_at_k": _pass_at_k(judge if judged.any() else by_people, grades.outputs),
    }


def mean_group(judge: Floats, human: Floats, scale: tuple[float, float], grades: Grades) -> dict[str, Any]:
    """The mean score that people would give: `judge` (o, c) and `human` (l, p, c) on `scale`, the criteria as many outputs.

    raw: the judge's over all that it graded. human: people's alone. ppi: the judge's corrected by people.
    """
    o, c = judge.shape
    by_people = np.full((o, c), np.nan)
    by_people[grades.labelled] = np.stack([mean_human(human[:, :, k]) for k in range(c)], axis=-1)
    scores, people = judge.T.ravel(), by_people.T.ravel()
    drawn = _drawn(grades, times=c) | {"clusters": np.tile(grades.clusters, c)}
    given = scores[~np.isnan(scores)]
    why = "no interval: it is the mean of all that it graded" if len(given) else "not defined, because the judge graded nothing"
    raw = Estimate(float(given.mean()), None, None, len(given), why) if len(given) else Estimate.missing(why)
    return {
        "raw": figure(raw),
        "human": figure(weighted_mean(np.full(o * c, np.nan), people, scale, **drawn)),
        "ppi": figure(weighted_mean(scores, people, scale, **drawn)),
    }


def same_verdict(judge: Floats, human: Floats, items: Items, grades: Grades) -> Estimate:
    """How often judge and people's majority decide alike over all outputs, by how the labels were drawn.

    Arguments as in `mean_group`, on the scale of `items`.
    """
    o, c = judge.shape
    majorities = np.full((o, c), np.nan)
    majorities[grades.labelled] = np.stack([majority(items.passes(human[:, :, k])) for k in range(c)], axis=-1)
    judged = items.passes(judge)
    same = np.where(np.isnan(judged) | np.isnan(majorities), np.nan, judged == majorities).T.ravel()
    drawn = _drawn(grades, times=c) | {"clusters": np.tile(grades.clusters, c)}
    return weighted_rate(np.full(o * c, np.nan), same, **drawn)


def _even(judge: Floats, by_people: Floats, grades: Grades) -> dict[str, Any]:
    """Labels that are a random sample."""
    clusters, labelled, judged = grades.clusters, ~np.isnan(by_people), ~np.isnan(judge)
    rest = judged & ~labelled
    corrected = corrected_rate(
        judge[rest],
        judge[labelled],
        by_people[labelled],
        clusters_all=clusters[rest],
        clusters_labelled=clusters[labelled],
        labelled_in_all=False,
    )
    return {
        "wilson": figure(_wilson(by_people[labelled])),
        "human": figure(human_rate(by_people[labelled], clusters=clusters[labelled])),
        "ppi": figure(corrected),
    }


def _weighted(judge: Floats, by_people: Floats, grades: Grades) -> dict[str, Any]:
    """Labels that were drawn with known, unequal probabilities."""
    drawn, nobody, clusters = _drawn(grades), np.full(len(judge), np.nan), grades.clusters
    return {
        "wilson": figure(weighted_rate(nobody, by_people, **drawn)),
        "human": figure(weighted_rate(nobody, by_people, **drawn, clusters=clusters)),
        "ppi": figure(weighted_rate(judge, by_people, **drawn, clusters=clusters)),
    }


def _drawn(grades: Grades, times: int = 1) -> dict[str, Any]:
    """How the labels were drawn: weights or strata of all outputs, so many times over."""
    design = grades.design
    if design.strata is not None:
        return {"strata": np.tile(design.strata, times)}
    if design.weights is None:
        return {}
    weights = np.full(len(grades.outputs), np.nan)
    weights[grades.labelled] = design.weights
    return {"weights": np.tile(weights, times)}


def _wilson(verdicts: Floats) -> Estimate:
    return wilson(int(verdicts.sum()), len(verdicts))


def _pass_at_k(verdicts: Floats, outputs: Outputs) -> dict[str, Any]:
    return pass_at_ks(verdicts, np.where(outputs.prompt > 0, outputs.prompt, -outputs.id), KS)


def pass_at_ks(verdicts: Floats, prompts: Ints, ks: Sequence[int]) -> dict[str, Figure]:
    """pass@k of outputs (o,) with these verdicts, NaN where there is none, and prompts. The intervals are about other such prompts."""
    is_decided = ~np.isnan(verdicts)
    prompts = prompts[is_decided]
    number = cluster_numbers("prompts", prompts, len(prompts))
    n, passes = np.bincount(number), np.bincount(number, weights=verdicts[is_decided]).astype(np.int64)
    draws = Resamples(np.arange(len(n)), rng=np.random.default_rng(0), n_boot=1)  # each prompt is left out once, none is drawn
    return {str(k): figure(pass_at_k(n, passes, k, draws)) for k in ks}
