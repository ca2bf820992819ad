"""A pass rate from many judge verdicts and few human ones: prediction-powered inference with power tuning.

The judge's own rate is off by the judge's mistakes. Where both judged, the humans show how far it is off; the judge's
verdicts on everything else make the interval shorter. The estimator is that of ppi_py, which the tests compare; it is
not imported here: it takes 2 s, knows no clusters, and its normal interval has no width when the labels are all alike.
Labels are taken as a random sample; for weights and strata see `weighted`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from graders.calibration.arrays import Floats, Ints, Scores, check_level, check_range, cluster_numbers, how_many, score_array
from graders.calibration.result import Estimate
from graders.calibration.student import student_quantile
from graders.calibration.wilson import wilson_bounds

ONE_PROMPT = "no interval: all human labels belong to one prompt"
MAX_WIDENING = 1.05  # an interval wider than that times the human one is not used


@dataclass(frozen=True)
class _Study:
    """Outputs with both verdicts (n), and the judge's on the rest (N); clusters numbered alike, None when not given."""

    human: Floats
    judge: Floats
    rest: Floats
    clusters: Ints | None
    rest_clusters: Ints | None


def corrected_rate(
    judge_all: Scores,
    judge_labelled: Scores,
    human_labelled: Scores,
    *,
    level: float = 0.95,
    clusters_all: Iterable[Hashable] | None = None,
    clusters_labelled: Iterable[Hashable] | None = None,
    labelled_in_all: bool = True,
) -> Estimate:
    """Return the pass rate that humans would give, from all judge verdicts and some human labels (PPI++).

    mean(Y) - lambda (mean(F) - mean(F')): Y human labels, F the judge on the same outputs, F' the judge on the rest.
    lambda, 0 to 1, is how far the judge is used: the covariance of Y and F over (1 + n/N) times the variance of F.
    At 0 this is the human rate alone.

    Parameters
    ----------
    judge_all : array (m,)
        Judge verdicts on all outputs: 1 pass, 0 fail, or a probability of a pass; NaN or None is unscored.
    judge_labelled, human_labelled : array (n,)
        The two verdicts on the outputs that have a human label, in one order. These outputs have to be a random sample
        of all outputs. A human label is 1, 0, or the share of raters who passed the output.
    level : float
        How often the interval should hold the true rate over many studies.
    clusters_all, clusters_labelled : iterable (m,) and (n,), optional
        The prompt of each output, both or neither. Outputs of one prompt are alike, which makes the interval wider.
    labelled_in_all : bool
        Whether judge_all holds the labelled outputs too. They are then taken out of it by value (and prompt);
        ValueError when they are not there.

    Returns
    -------
    Estimate
        The rate (0 to 1) at which outputs made in the same way would pass, not only these. n counts the labelled
        outputs, n_dropped those of them that lack either verdict. `method` says when the judge was not used and why: where it
        graded so few of the labelled outputs that all labels alone say more, these are used, and counted.
        Not defined without an output that has both verdicts. No interval when all labels belong to one prompt.

    Notes
    -----
    The interval is Wilson's, at the corrected rate, with n multiplied by what the judge saves: the variance of Y over
    the variance of the estimate. Both are computed with half an output added to each of the four combinations of
    verdicts, so that a judge seen to agree everywhere is not taken to be faultless. Where prompts have several outputs,
    n is divided by s + (d - 1) t, d the design effect, s and t the squares of Student's quantile over the normal one, within
    prompts and for the prompts: what prompts add is known from few; where outputs of a prompt are no more alike than others
    (d of 1 or less), they count as independent.
    Should the interval be over 5 % wider than with the human labels alone, these alone are used. In
    simulation (5 rates, 6 judges, 20 to 150 labels, 5 to 2000 other outputs) the interval of 95 % covers 92.6 to 100 %,
    on average 95.7 %; at 4 to 10 labels 87 to 100 %, like Wilson's own. With 4 or more labelled prompts of 5 outputs it
    covers 93 to 99 %; with five of 12 outputs 91 to 98 %.

    References
    ----------
    Angelopoulos, Duchi and Zrnic (2023), PPI++, arXiv 2311.01453, on power tuning. Korn and Graubard (1998),
    Survey Methodology 24:193-201, on the effective sample size.

    Examples
    --------
    The judge passes 3 of 4 labelled outputs and half of the other 8; humans pass 2 of the 4. The covariance is 1/8, the
    variance of all verdicts 35/132: lambda is .125 / (1.5 * 35/132), and the rate .5 - lambda (.75 - .5).

    >>> rate = corrected_rate([1] * 4 + [0] * 4, [1, 1, 1, 0], [1, 1, 0, 0], labelled_in_all=False)
    >>> round(rate.value, 4), rate.method
    (0.4214, 'judge and human labels (PPI++), judge weight 0.31')
    >>> corrected_rate([1, 1, 0], [1, 0], [1, 1]).method
    'human labels only (Wilson): every human label is the same'
    >>> corrected_rate([1, 1, 0], [], []).why_missing
    'not defined, because no output has both a judge verdict and a human label'
    """
    check_level(level)
    study, n_dropped = _check_study(
        judge_all,
        judge_labelled,
        human_labelled,
        clusters_all=clusters_all,
        clusters_labelled=clusters_labelled,
        labelled_in_all=labelled_in_all,
    )
    if not len(study.human):
        return Estimate.missing("not defined, because no output has both a judge verdict and a human label", n_dropped=n_dropped)
    corrected = _of_study(study, level, n_dropped)
    if (~np.isnan(score_array("human_labelled", human_labelled))).sum() == corrected.n:
        return corrected
    return unless_wider(corrected, human_rate(human_labelled, level=level, clusters=clusters_labelled))


def human_rate(human: Scores, *, level: float = 0.95, clusters: Iterable[Hashable] | None = None) -> Estimate:
    """Return the pass rate of what people labelled, without the judge, by the interval that `corrected_rate` has without one.

    Parameters
    ----------
    human : array (n,)
        1, 0, or the share of raters who passed the output; NaN or None is dropped.
    level : float
        How often the interval should hold the true rate over many studies.
    clusters : iterable (n,), optional
        The prompt of each output.

    Raises
    ------
    ValueError
        When a score lies outside 0 to 1, or there are not as many prompts as outputs.

    Examples
    --------
    >>> rate = human_rate([1, 1, 0, None])
    >>> round(rate.value, 3), rate.n, rate.n_dropped
    (0.667, 3, 1)
    """
    check_level(level)
    given = score_array("human", human)
    known = ~np.isnan(given)
    check_range("human", given[known], 0, 1)
    people, n_dropped = given[known], int((~known).sum())
    if not len(people):
        return Estimate.missing("not defined, because no output has a human label", n_dropped=n_dropped)
    groups = None if clusters is None else cluster_numbers("clusters", clusters, len(given))[known]
    nobody = None if groups is None else groups[:0]
    return _of_study(_Study(people, people, people[:0], groups, nobody), level, n_dropped)


def unless_wider(corrected: Estimate, alone: Estimate) -> Estimate:
    """Return the corrected figure, or that of all labels alone where the judge graded so few of them that it tells less."""
    if alone.low is None or alone.high is None:
        return corrected
    width = np.inf if corrected.low is None or corrected.high is None else corrected.high - corrected.low
    if width <= MAX_WIDENING * (alone.high - alone.low):
        return corrected
    return replace(alone, method="human labels only: the judge graded too few of the labelled outputs")


def _of_study(study: _Study, level: float, n_dropped: int) -> Estimate:
    """Return the rate by the outputs that have both verdicts."""
    n, of_people = len(study.human), float(study.human.mean())
    if n > 1 and study.clusters is not None and np.ptp(study.clusters) == 0:
        return Estimate(of_people, None, None, n, ONE_PROMPT, "human labels only", n_dropped)
    human_low, human_high = wilson_bounds(of_people, _effective_n(study, 0.0, level), level)
    weight, why_unused = _judge_weight(study)
    if not why_unused:
        rate = of_people - weight * float(study.judge.mean() - study.rest.mean())
        rate = min(max(rate, 0.0), 1.0)
        low, high = wilson_bounds(rate, _effective_n(study, weight, level), level)
        if high - low <= MAX_WIDENING * (human_high - human_low):
            method = f"judge and human labels (PPI++), judge weight {weight:.2f}"
            return Estimate(rate, low, high, n, method=method, n_dropped=n_dropped)
        why_unused = "the judge would make the interval wider"
    method = f"human labels only (Wilson): {why_unused}"
    return Estimate(of_people, human_low, human_high, n, method=method, n_dropped=n_dropped)


def _check_study(
    judge_all: Scores,
    judge_labelled: Scores,
    human_labelled: Scores,
    *,
    clusters_all: Iterable[Hashable] | None,
    clusters_labelled: Iterable[Hashable] | None,
    labelled_in_all: bool,
) -> tuple[_Study, int]:
    """Return the study without unscored outputs, and how many labelled ones were dropped; ValueError when unfit."""
    everything = score_array("judge_all", judge_all)
    judge, human = score_array("judge_labelled", judge_labelled), score_array("human_labelled", human_labelled)
    for name, scores in (("judge_all", everything), ("judge_labelled", judge), ("human_labelled", human)):
        check_range(name, scores, 0, 1)
    if len(judge) != len(human):
        raise ValueError(f"judge_labelled has {len(judge)} outputs, human_labelled {len(human)}; one row an output")
    if (clusters_all is None) != (clusters_labelled is None):
        raise ValueError("clusters_all and clusters_labelled: give both or neither")
    groups = np.zeros(len(everything) + len(judge), dtype=np.int64)
    if clusters_all is not None and clusters_labelled is not None:
        if isinstance(clusters_all, np.ndarray) and isinstance(clusters_labelled, np.ndarray):
            named: Iterable[Hashable] = np.concatenate([clusters_all, clusters_labelled])
        else:
            named = [*clusters_all, *clusters_labelled]
        groups = cluster_numbers("clusters_all and clusters_labelled", named, len(groups))
    all_groups, groups = groups[: len(everything)], groups[len(everything) :]
    scored, both = ~np.isnan(everything), ~np.isnan(judge) & ~np.isnan(human)
    rest, rest_groups = everything[scored], all_groups[scored]
    judge, human, groups = judge[both], human[both], groups[both]
    if labelled_in_all:
        rest, rest_groups = _take_out(rest, rest_groups, judge, groups)
    clustered = clusters_all is not None
    study = _Study(human, judge, rest, groups if clustered else None, rest_groups if clustered else None)
    return study, int((~both).sum())


def _take_out(scores: Floats, groups: Ints, labelled: Floats, labelled_groups: Ints) -> tuple[Floats, Ints]:
    """Return the scores, with their groups, that are left when the labelled are taken out; ValueError if not in it."""
    keys = np.concatenate([groups + 1j * scores, labelled_groups + 1j * labelled])
    unique, place = np.unique(keys, return_inverse=True)
    left = np.bincount(place[: len(scores)], minlength=len(unique))
    left -= np.bincount(place[len(scores) :], minlength=len(unique))
    if (left < 0).any():
        raise ValueError(
            f"judge_all lacks {-left[left < 0].sum()} of the {len(labelled)} labelled outputs; "
            "pass labelled_in_all=False when it holds the others only"
        )
    kept = np.repeat(unique, left)
    return kept.imag.astype(np.float64), kept.real.astype(np.int64)


def _judge_weight(study: _Study) -> tuple[float, str]:
    """Return lambda of PPI++, and why the judge can't be used when it can't."""
    n, n_rest = len(study.human), len(study.rest)
    if n_rest == 0:
        return 0.0, "every judged output has a human label"
    verdicts = np.concatenate([study.judge, study.rest])
    if np.ptp(verdicts) == 0:
        return 0.0, "the judge gives every output the same verdict"
    if np.ptp(study.human) == 0:
        return 0.0, "every human label is the same"
    covariance = float(np.mean((study.human - study.human.mean()) * (study.judge - study.judge.mean())))
    weight = covariance / ((1 + n / n_rest) * float(verdicts.var(ddof=1)))
    if weight <= 0:
        return 0.0, "the judge does not follow the human labels"
    return min(weight, 1.0), ""


def _effective_n(study: _Study, weight: float, level: float) -> float:
    """Return how many independent human labels would give the variance that the estimate has at this lambda."""
    gain = max(_smoothed_variance(study, 0.0) / _smoothed_variance(study, weight), 1.0) if weight else 1.0
    n_effective = len(study.human) * gain
    clusters = _clusters_used(study, weight)
    if how_many(clusters) == len(clusters):
        return n_effective
    effect = _design_effect(study, weight, clusters)
    n_prompts = how_many(clusters[: len(study.human)])
    tail = (1 + level) / 2
    normal, outputs, prompts = NormalDist().inv_cdf(tail), max(len(study.human) - n_prompts, 1), n_prompts - 1
    alone, added = (student_quantile(freedom, tail) / normal for freedom in (outputs, prompts))
    return n_effective / (alone**2 + (effect - 1) * added**2)


def _clusters_used(study: _Study, weight: float) -> Ints:
    """Return the prompt of each output the estimate rests on: the labelled first, then the rest if lambda is not 0."""
    if study.clusters is None or study.rest_clusters is None:
        return np.empty(0, dtype=np.int64)
    return np.concatenate([study.clusters, study.rest_clusters]) if weight else study.clusters


def _smoothed_variance(study: _Study, weight: float) -> float:
    """Return the variance of the estimate, outputs independent, half an output added to each pair of verdicts."""
    n, residual, added = len(study.human), study.human - weight * study.judge, np.array([0.0, 1.0, -weight, 1.0 - weight])
    mean = (residual.sum() + added.sum() / 2) / (n + 2)
    variance = float((((residual - mean) ** 2).sum() + ((added - mean) ** 2).sum() / 2) / (n + 2)) / n
    if weight:
        variance += weight**2 * float(np.concatenate([study.rest, [0.0, 1.0]]).var()) / len(study.rest)
    return variance


def _design_effect(study: _Study, weight: float, clusters: Ints) -> float:
    """Return the variance with outputs of a prompt taken together over that with all independent, at least 1.

    When nothing varies this can't be seen; a prompt then counts as one output.
    """
    n_clusters = how_many(clusters[: len(study.human)])
    residual = study.human - weight * study.judge
    parts = [(residual - residual.mean()) / len(residual)]
    if weight:
        parts.append(weight * (study.rest - study.rest.mean()) / len(study.rest))
    part = np.concatenate(parts)
    if np.ptp(residual) == 0:
        return len(residual) / n_clusters
    together = np.bincount(clusters, weights=part)
    return max(float((together**2).sum()) * n_clusters / (n_clusters - 1) / float((part**2).sum()), 1.0)
