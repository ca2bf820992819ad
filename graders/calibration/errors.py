"""How far off the judge is, in points of the task's scale: mean absolute error, bias, limits of agreement."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graders.calibration.arrays import Floats, Ints, Scores, scored_by_both
from graders.calibration.jackknife import Kind, ends_of_limit
from graders.calibration.rank import WHY_NONE
from graders.calibration.resample import HINGES, Resamples, all_agree, bootstrap, mean_statistic, ratio, with_interval
from graders.calibration.result import Estimate, outputs_have

NORMAL_QUANTILE = 1.96  # as Bland and Altman write it


@dataclass(frozen=True)
class Limits:
    """Between `low` and `high` lie about 95 in 100 differences of judge less human, were they normally distributed."""

    low: Estimate
    high: Estimate


def mae(judge: Scores, human: Scores, resamples: Resamples | None = None) -> Estimate:
    """Return the mean absolute difference of judge and mean human score, in points.

    Parameters
    ----------
    judge : array (n,)
        Judge scores, NaN or None where unscored.
    human : array (n,) or (n, raters)
        Human scores on the same scale; the mean of each row is taken.
    resamples : Resamples of the n items, optional
        For the interval.

    Returns
    -------
    Estimate
        0 or more. n counts outputs with both scores. Not defined without one.

    Examples
    --------
    >>> mae([1, 5, 3], [[2, 2], [4, 5], [None, None]])
    Estimate(value=0.75, low=None, high=None, n=2, why_missing='no interval was asked for', method='', n_dropped=1)
    """
    x, y, both = scored_by_both(judge, human)
    if not len(x):
        return Estimate.missing(WHY_NONE, 0, len(both))
    return _mean(np.abs(x - y), resamples and resamples.of(both), int((~both).sum()), "size")


def bias(judge: Scores, human: Scores, resamples: Resamples | None = None) -> Estimate:
    """Return the mean of judge less mean human score, in points: above 0 the judge is generous, below 0 harsh.

    Arguments and degenerate cases as in `mae`.

    Examples
    --------
    >>> bias([1, 5, 3], [[2, 2], [4, 5], [None, None]]).value
    -0.25
    """
    x, y, both = scored_by_both(judge, human)
    if not len(x):
        return Estimate.missing(WHY_NONE, 0, len(both))
    return _mean(x - y, resamples and resamples.of(both), int((~both).sum()))


def bias_by(
    judge: Scores, human: Scores, groups: Ints, n_groups: int, resamples: Resamples | None = None, *, fewest: int = 1
) -> tuple[Estimate, ...]:
    """Return the bias in each group of outputs (a model's, a reviewer's), from one pass over the resamples.

    Parameters
    ----------
    judge, human, resamples
        As in `mae`.
    groups : array of int (n,)
        Each output's group, 0 to n_groups - 1; below 0 it is in none.
    fewest : int
        Groups with fewer outputs have no bias here.

    Examples
    --------
    >>> [found.value for found in bias_by([3, 4, 5], [2, 2, 5], np.array([0, 0, 1]), 2)]
    [1.5, 0.0]
    """
    x, y, both = scored_by_both(judge, human)
    mine = groups[both]
    inside = mine >= 0
    difference, cells = (x - y)[inside], mine[inside]
    counts = np.bincount(cells, minlength=n_groups)
    means = np.bincount(cells, weights=difference, minlength=n_groups) / np.maximum(counts, 1)
    part = resamples and resamples.of(both).of(inside)
    drawn = None if part is None else ratio(part.counts_of(cells, n_groups, difference), part.counts_of(cells, n_groups))
    found = []
    for group, (n, mean) in enumerate(zip(counts.tolist(), means.tolist(), strict=True)):
        if n < max(fewest, 1):
            found.append(Estimate.missing(f"not shown, because {outputs_have(n)} both scores" if n else WHY_NONE, n))
        else:
            of_group = part and part.of(cells == group)
            found.append(with_interval(mean, None if drawn is None else drawn[:, group], of_group, n))
    return tuple(found)


def limits_of_agreement(judge: Scores, human: Scores, resamples: Resamples | None = None) -> Limits:
    """Return the limits of agreement: bias less and plus 1.96 standard deviations (ddof 1) of the differences.

    Arguments as in `mae`. Not defined for fewer than two outputs with both scores.

    References
    ----------
    Bland and Altman (1986), The Lancet 327:307-310.

    Examples
    --------
    Differences -1, 0, 1: bias 0, standard deviation 1.

    >>> limits = limits_of_agreement([1, 2, 3], [2, 2, 2])
    >>> limits.low.value, limits.high.value
    (-1.96, 1.96)
    """
    x, y, both = scored_by_both(judge, human)
    n, n_dropped = len(x), int((~both).sum())
    if n < 2:
        why = WHY_NONE if not n else "not defined, because one output has no spread"
        return Limits(Estimate.missing(why, n, n_dropped), Estimate.missing(why, n, n_dropped))
    difference, part = x - y, resamples and resamples.of(both)
    middle = float(difference.mean())
    centred = difference - middle
    columns = np.stack([np.ones(n), centred, centred**2]).T
    whole, drawn = columns.sum(axis=0)[None], None if part is None else part.sums(columns)
    ends = []
    for sign in (-1, 1):
        value = middle + float(_limit(whole, sign)[0])
        if part is not None and drawn is not None and not part.is_drawn and part.n_drawn_from > 1:
            ends.append(_without_each(value, sign, middle, np.concatenate([whole, drawn]), part, n_dropped=n_dropped))
        else:
            ends.append(with_interval(value, None if drawn is None else middle + _limit(drawn, sign), part, n, n_dropped))
    return Limits(*ends)


def _without_each(value: float, sign: int, middle: float, sums: Floats, resamples: Resamples, *, n_dropped: int) -> Estimate:
    """The interval of a limit, from sums of the whole, and without each prompt."""
    n, total, squares = sums[np.append(True, np.bincount(resamples.clusters, minlength=len(sums) - 1) > 0)].T
    with np.errstate(divide="ignore", invalid="ignore"):
        deviation = np.sqrt(np.maximum(squares - total**2 / n, 0) / (n - 1))
    ends = ends_of_limit(middle + total / n, deviation, sign * NORMAL_QUANTILE, resamples.level)
    count = len(resamples.clusters)
    if ends is None:
        why = all_agree(count) if value == middle else HINGES
        return Estimate(value, None, None, count, why_missing=why, n_dropped=n_dropped)
    method = f"{len(n) - 1} {resamples.unit}, each left out once"
    return Estimate(value, min(ends[0], value), max(ends[1], value), count, method=method, n_dropped=n_dropped)


def _mean(scores: Floats, resamples: Resamples | None, n_dropped: int, kind: Kind = "points") -> Estimate:
    columns = np.stack([np.ones(len(scores)), scores]).T
    return bootstrap(columns, mean_statistic, resamples, n_dropped, kind=kind)


def _limit(sums: Floats, sign: int) -> Floats:
    n, total, squares = sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.maximum(squares - total**2 / n, 0) / (n - 1)
        return np.asarray(total / n + sign * NORMAL_QUANTILE * np.sqrt(variance))
