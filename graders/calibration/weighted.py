"""A pass rate or a mean score when the labelled outputs were not drawn evenly: weights, strata, and the judge (PPI++).

An output that had half the chance to be drawn stands for twice as many. Its weight is one over the probability with
which it was drawn (Horvitz-Thompson); weights are divided by their sum (Hajek), so that a common factor does not matter.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from graders.calibration.arrays import (
    Floats,
    Ints,
    Scores,
    check_level,
    check_range,
    check_scale,
    cluster_numbers,
    how_many,
    mean_human,
    score_array,
    stratum_numbers,
)
from graders.calibration.inference import MAX_WIDENING, ONE_PROMPT, unless_wider
from graders.calibration.jackknife import NEGLIGIBLE, growth_of, spread_of
from graders.calibration.result import Estimate
from graders.calibration.student import student_quantile
from graders.calibration.wilson import wilson_bounds

WHY_NONE = "not defined, because no output has a human label that was drawn with a known probability"
NO_JUDGE = "no judge graded these outputs"
# Outputs of all kinds that are added before a spread is computed: of verdicts drawn evenly, of those from a queue that looks where
# people and judge may differ, which leaves less unseen, and of scores.
PSEUDO_VERDICTS, PSEUDO_DRAWN, PSEUDO_SCORES = 2.0, 1.2, 1.0
STRATUM_SHARE = 0.2  # of them, to each stratum
HALF_THE_SCALE = 0.5


@dataclass(frozen=True)
class _Study:
    """N outputs; `labelled` (n,) are the places of those with a label. Scores on 0 to 1; weights sum to 1."""

    human: Floats  # (n,)
    judge: Floats  # (N,)
    labelled: Ints
    weights: Floats  # (n,)
    strata: Ints | None  # (N,)
    clusters: Ints | None  # (N,)
    is_rate: bool

    @property
    def kind(self) -> Literal["stratified", "even", "weighted"]:
        if self.strata is not None:
            return "stratified"
        return "even" if np.ptp(self.weights) < 1e-12 else "weighted"

    @property
    def pseudo(self) -> float:
        if not self.is_rate:
            return PSEUDO_SCORES
        return PSEUDO_VERDICTS if self.kind == "even" else PSEUDO_DRAWN


@dataclass(frozen=True)
class _Fit:
    """An estimate with its standard error squared, what each output adds to it (N,), and the spread of one output's human score."""

    value: float
    variance: float
    added: Floats
    spread: float
    is_clustered: bool  # outputs of a prompt are seen to be alike


def weighted_rate(
    judge: Scores,
    human: Scores,
    weights: Scores | None = None,
    *,
    strata: Iterable[Hashable] | None = None,
    clusters: Iterable[Hashable] | None = None,
    level: float = 0.95,
) -> Estimate:
    """Return the pass rate that humans would give, from labels that were drawn with unequal probabilities.

    sum of w (Y - lambda F) over the labelled + lambda mean(F) over all: Y human verdicts, F the judge's, w the weights.
    lambda is what makes the variance least (PPI++), at least 0. At 0 this is the weighted human rate alone.

    Parameters
    ----------
    judge : array (N,)
        Verdicts on every output of the population: 1, 0, or a probability; NaN or None is unscored.
    human : array (N,) or (N, raters)
        Human verdicts, 1 or 0 (the mean of a row counts); NaN or None where nobody labelled the output.
    weights : array (N,), optional
        One over the probability with which each labelled output was drawn, up to a common factor. A label without a
        weight is left out and counted in n_dropped. None: all alike. One that the judge did not score is left out too, unless
        all labels alone say more.
    strata : iterable (N,), optional
        The stratum of each output, when a fixed number was drawn in each. Weights then follow from the strata, and are
        not given. A stratum with fewer than two labels is taken together with a neighbour.
    clusters : iterable (N,), optional
        The prompt of each output.
    level : float
        How often the interval should hold the true rate over many studies.

    Returns
    -------
    Estimate
        0 to 1, about outputs made in the same way. n counts the labels used. Not defined without one. No interval when
        all belong to one prompt.

    Notes
    -----
    The variance is the sum of squares, by prompt, of what each output adds to the estimate (its influence): that of
    independent draws, close to it and never much too small for draws of a fixed number. Half an output is added to each
    of the four combinations of verdicts; where labels were drawn unevenly three tenths, a fifth of that in each stratum.
    The interval is Wilson's at the effective sample size, widened by Student's quantile for the number of prompts where
    outputs of a prompt are more alike than others. When it would be over 5 % wider than without the judge, the judge is
    not used.

    References
    ----------
    Zrnic and Candes (2024), Active statistical inference, arXiv 2403.03208, equation 3. Fisch et al. (2024), Stratified
    prediction-powered inference, arXiv 2406.04291. Hajek (1971), in Foundations of Statistical Inference. Korn and
    Graubard (1998), Survey Methodology 24:193-201.

    Examples
    --------
    Two outputs that were drawn at 1 in 2 pass, one that was drawn at 1 in 4 does not: (2 + 2) / (2 + 2 + 4).

    >>> weighted_rate([None] * 3, [1, 1, 0], [2, 2, 4]).value
    0.5
    >>> weighted_rate([1, 0], [None, None]).why_missing
    'not defined, because no output has a human label that was drawn with a known probability'
    """
    check_level(level)
    for name, scores in (("judge", judge), ("human", human)):
        check_range(name, score_array(name, scores, ndim=(1, 2)), 0, 1)
    return _estimate(judge, human, weights, strata=strata, clusters=clusters, level=level, scale=None)


def weighted_mean(
    judge: Scores,
    human: Scores,
    scale: tuple[float, float],
    weights: Scores | None = None,
    *,
    strata: Iterable[Hashable] | None = None,
    clusters: Iterable[Hashable] | None = None,
    level: float = 0.95,
) -> Estimate:
    """Return the mean score that humans would give, on `scale`. Arguments and method as in `weighted_rate`.

    The effective sample size of the interval is that of a pass rate with the same mean and variance on 0 to 1, so that
    near an end of the scale the interval is lopsided as it should be, and stays on the scale. Student's quantile is that of
    the effective number of labels, or of prompts, and has fewer degrees of freedom where a few labels, or strata, make most of
    the variance (Satterthwaite 1946, Biometrics Bulletin 2:110-114; Cochran 1977, Sampling Techniques, 5.4).

    Examples
    --------
    The judge gives 1 point too much on the three labelled outputs, and 4 on average: people would give 3.

    >>> round(weighted_mean([3, 4, 5, 3, 5, 4], [2, 3, 4, None, None, None], (1, 5)).value, 3)
    3.0
    """
    check_level(level)
    check_scale(scale)
    low, high = scale
    for name, scores in (("judge", judge), ("human", human)):
        check_range(name, score_array(name, scores, ndim=(1, 2)), low, high)
    return _estimate(judge, human, weights, strata=strata, clusters=clusters, level=level, scale=scale)


def _estimate(
    judge: Scores,
    human: Scores,
    weights: Scores | None,
    *,
    strata: Iterable[Hashable] | None,
    clusters: Iterable[Hashable] | None,
    level: float,
    scale: tuple[float, float] | None,
) -> Estimate:
    low, high = scale or (0.0, 1.0)
    study, n_dropped, why_unused = _check_study(judge, human, weights, strata, clusters, scale=scale)
    n = len(study.human)
    if n == 0:
        return Estimate.missing(WHY_NONE, n_dropped=n_dropped)
    alone = _fit(study, 0.0)
    if n > 1 and study.clusters is not None and np.ptp(study.clusters[study.labelled]) == 0:
        return Estimate(low + alone.value * (high - low), None, None, n, ONE_PROMPT, "human labels only", n_dropped)
    chosen, ends = alone, _interval(study, alone, level)
    weight, why_unused = (0.0, why_unused) if why_unused else _judge_weight(study)
    if not why_unused:
        helped = _fit(study, weight)
        helped_ends = _interval(study, helped, level)
        if helped_ends[1] - helped_ends[0] <= MAX_WIDENING * (ends[1] - ends[0]):
            chosen, ends = helped, helped_ends
        else:
            why_unused = "the judge would make the interval wider"
    used = f"judge and {study.kind} human labels (PPI++), judge weight {weight:.2f}"
    method = f"{study.kind} human labels only: {why_unused}" if why_unused else used
    value, bottom, top = (low + number * (high - low) for number in (chosen.value, *ends))
    found = Estimate(value, min(bottom, value), max(top, value), n, method=method, n_dropped=n_dropped)
    scores = score_array("judge", judge)
    if not n_dropped or np.isnan(scores).all():
        return found
    nobody = np.full(len(scores), np.nan)
    return unless_wider(found, _estimate(nobody, human, weights, strata=strata, clusters=clusters, level=level, scale=scale))


def _check_study(
    judge: Scores,
    human: Scores,
    weights: Scores | None,
    strata: Iterable[Hashable] | None,
    clusters: Iterable[Hashable] | None,
    *,
    scale: tuple[float, float] | None,
) -> tuple[_Study, int, str]:
    """Return the study on 0 to 1, how many labels were left out, and why the judge can't be used if that is so."""
    scores, people = score_array("judge", judge), mean_human(human)
    given = np.ones(len(scores)) if weights is None else score_array("weights", weights)
    if not len(scores) == len(people) == len(given):
        raise ValueError(f"judge has {len(scores)} outputs, human {len(people)}, weights {len(given)}: one row an output in each")
    if weights is not None and strata is not None:
        raise ValueError("weights and strata: give one of them, weights follow from strata")
    if (given <= 0).any():
        raise ValueError(f"weights has {given[given <= 0][0]:g}, must be above 0: one over the probability of being drawn")
    low, high = scale or (0.0, 1.0)
    scores, people = (scores - low) / (high - low), (people - low) / (high - low)
    has_label = ~np.isnan(people)
    why_unused = NO_JUDGE if np.isnan(scores).all() else ""
    population = ~np.isnan(scores) if not why_unused else np.ones(len(scores), dtype=bool)
    used = has_label & population & ~np.isnan(given)
    places = np.flatnonzero(used[population])
    layers = None if strata is None else merged_strata(stratum_numbers("strata", strata, len(scores))[population], places)
    groups = None if clusters is None else cluster_numbers("clusters", clusters, len(scores))[population]
    raw = given[used] if layers is None else _stratum_weights(layers, places)
    total = raw.sum() if len(raw) else 1.0
    study = _Study(people[used], np.nan_to_num(scores[population]), places, raw / total, layers, groups, scale is None)
    return study, int(has_label.sum() - used.sum()), why_unused


def merged_strata(strata: Ints, labelled: Ints) -> Ints:
    """Return strata from 0 with two labels each at least (one stratum when there are fewer than four labels)."""
    labels = np.bincount(strata[labelled], minlength=int(strata.max(initial=0)) + 1)
    number, numbers, seen = 0, [], 0
    for count in labels.tolist():
        number += seen >= 2
        seen = count if seen >= 2 else seen + count
        numbers.append(number)
    merged = np.array(numbers, dtype=np.int64)[strata]
    return np.minimum(merged, max(number - (seen < 2), 0))


def _stratum_weights(strata: Ints, labelled: Ints) -> Floats:
    size, labels = np.bincount(strata), np.bincount(strata[labelled], minlength=int(strata.max(initial=0)) + 1)
    return np.asarray((size / np.maximum(labels, 1))[strata[labelled]] / len(strata))


def _judge_weight(study: _Study) -> tuple[float, str]:
    """Return lambda, and why the judge can't be used when it can't."""
    n, n_all = len(study.human), len(study.judge)
    if n >= n_all:
        return 0.0, "every judged output has a human label"
    if np.ptp(study.judge) == 0:
        return 0.0, "the judge gives every output the same verdict"
    if np.ptp(study.human) == 0:
        return 0.0, "every human label is the same"
    people, machine = _influence(study, study.human, None), _influence(study, study.judge[study.labelled], study.judge)
    square = float((machine**2).sum())
    weight = -float((people * machine).sum()) / square if square > 0 else 0.0
    if weight <= 0:
        return 0.0, "the judge does not follow the human labels"
    return min(weight, n_all / (n_all - n)), ""


def _fit(study: _Study, weight: float) -> _Fit:
    """Return the estimate at this lambda with its variance."""
    labelled, w = study.judge[study.labelled], study.weights
    residual = study.human - weight * labelled
    value = float((w * residual).sum()) + weight * float(study.judge.mean())
    added = _influence(study, residual, weight * study.judge if weight else None, residual_only=True)
    variance = float((added**2).sum()) + float((_extra_spread(study, residual, weight) * w**2).sum())
    whole = study.human - float((w * study.human).sum())
    spread = float((w * (whole**2 + _extra_spread(study, study.human, 0.0))).sum())
    effect = _design_effect(study, added, weight)
    return _Fit(min(max(value, 0.0), 1.0), variance * effect, added, spread, effect > 1)


def _influence(study: _Study, labelled: Floats, everything: Floats | None, *, residual_only: bool = False) -> Floats:
    """Return what each output adds to the weighted mean of the labelled, or less it to the mean of everything: (N,).

    With `residual_only`, `labelled` is human less judge already, and the mean of everything is added to it.
    """
    n_all, w = len(study.judge), study.weights
    centre = np.full(n_all, float((w * labelled).sum()))
    loss = np.full(len(labelled), _loss_of_one(w))
    added = np.zeros(n_all)
    if study.strata is not None:
        layer = study.strata[study.labelled]
        count = np.bincount(layer, minlength=int(study.strata.max()) + 1)
        means = np.bincount(layer, weights=labelled, minlength=len(count)) / np.maximum(count, 1)
        added += (means[study.strata] - centre) / n_all
        centre, loss = means[study.strata], (count / np.maximum(count - 1, 1))[layer]
    added[study.labelled] += w * np.sqrt(loss) * (labelled - centre[study.labelled])
    if everything is None:
        return added
    about: Floats = (everything - everything.mean()) / n_all
    return np.asarray(added + about if residual_only else about - added)


def _loss_of_one(weights: Floats) -> float:
    """n / (n - 1) for the effective number of labels."""
    n = 1 / float((weights**2).sum())
    return n / max(n - 1, 0.5)


def _extra_spread(study: _Study, residual: Floats, weight: float) -> Floats:
    """What the variance of each residual grows by when outputs of every kind are added, so that none is taken as sure.

    Kinds are the four combinations of verdicts. Scores that differ are seldom off by the whole scale: half of it is added, or
    what people differ by where that is more, as if the judge told nothing of that output. To each stratum a share is added: with
    two labels it can look sure by chance.
    """
    kinds = np.array([0.0, 1.0, -weight, 1.0 - weight])
    w, layer, pseudo = study.weights, np.zeros(len(residual), dtype=np.int64), study.pseudo
    if study.strata is not None:
        layer, pseudo = study.strata[study.labelled], study.pseudo * STRATUM_SHARE
    count, total = np.bincount(layer), np.bincount(layer, weights=w)
    middle = np.bincount(layer, weights=w * residual) / np.maximum(total, 1e-12)
    raw = np.bincount(layer, weights=w * (residual - middle[layer]) ** 2) / np.maximum(total, 1e-12)
    largest, people = ((kinds - middle[:, None]) ** 2).mean(axis=1), study.human - float((w * study.human).sum())
    typical = 0.0 if study.is_rate else float((w * people**2).sum())
    added = (np.maximum(HALF_THE_SCALE**2 * largest, typical) if typical > NEGLIGIBLE else largest) - raw
    grown: Floats = np.maximum(pseudo / (count + pseudo) * added, 0.0)
    return np.asarray(grown[layer], dtype=np.float64)


def _design_effect(study: _Study, added: Floats, weight: float) -> float:
    """Return the variance with outputs of a prompt taken together over that with all independent, at least 1."""
    if study.clusters is None:
        return 1.0
    used = study.clusters[study.labelled]
    n_prompts = how_many(used)
    if n_prompts == len(used) == len(study.judge):
        return 1.0
    alone = float((added**2).sum())
    if alone == 0:
        return len(used) / n_prompts
    together = np.bincount(study.clusters, weights=added)
    return max(float((together**2).sum()) * n_prompts / max(n_prompts - 1, 1) / alone, 1.0)


def _interval(study: _Study, fit: _Fit, level: float) -> tuple[float, float]:
    """Return Wilson's interval at the effective sample size, widened for few prompts, and of a mean for few labels."""
    tail, n = (1 + level) / 2, 1 / float((study.weights**2).sum())
    is_alone = study.clusters is None or how_many(study.clusters) == len(study.clusters)
    freedom = np.inf if study.is_rate and is_alone else n - 1
    if not study.is_rate:
        freedom = min(freedom, _degrees(study, fit))
    if fit.is_clustered and study.clusters is not None:
        freedom = min(freedom, how_many(study.clusters[study.labelled]) - 1)
    student = student_quantile(max(freedom, 1.0), tail) if np.isfinite(freedom) else NormalDist().inv_cdf(tail)
    # A mean at an end of the scale has no spread of its own: that of made-up scores added to it counts.
    middle = (n * fit.value + study.pseudo / 2) / (n + study.pseudo)
    spread = fit.spread if study.is_rate else middle * (1 - middle)
    n_effective = spread / max(fit.variance, 1e-12) * (NormalDist().inv_cdf(tail) / student) ** 2
    return wilson_bounds(fit.value, n_effective, level)


def _degrees(study: _Study, fit: _Fit) -> float:
    """Return the degrees of freedom of a mean's variance: few where a few labels make most of it, or a few strata (Satterthwaite).

    Near an end of the scale a few labels always do. Without strata, whose means vary too, only what the mean itself does not
    tell of that counts (`jackknife.growth_of`), as Wilson's interval allows for the rest.
    """
    added = fit.added[study.labelled]
    freedom, growth = np.inf, growth_of(fit.value)
    if study.strata is not None:
        growth = 0.0
        layer = study.strata[study.labelled]
        parts, count = np.bincount(layer, added**2), np.bincount(layer)
        of_each = float((parts**2 / np.maximum(count - 1, 1)).sum())
        freedom = float(parts.sum()) ** 2 / of_each if of_each > 0 else freedom
    if fit.is_clustered and study.clusters is not None:
        numbers = np.unique(study.clusters[study.labelled], return_inverse=True)[1]
        added = np.bincount(numbers, added).astype(np.float64)
    if len(added) < 2:
        return 1.0
    without = -added * len(added) / (len(added) - 1)  # less what the whole is
    return min(freedom, spread_of(without, 4.0, growth).degrees)
