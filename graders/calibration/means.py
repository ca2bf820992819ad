"""The mean score that people gave, over reviews, in each of some groups of outputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from graders.calibration.arrays import Floats, Ints, Scores, check_range, check_scale, score_array
from graders.calibration.resample import Resamples, ratio, with_interval
from graders.calibration.result import Estimate

NOBODY = "not defined, because no output has a human score"


def mean_score(human: Scores, resamples: Resamples, scale: tuple[float, float]) -> Estimate:
    """Return the mean over reviews, not over outputs: an output with two reviews counts twice.

    Parameters
    ----------
    human : array (n, raters)
        People's scores, NaN or None where a rater gave none.
    resamples : Resamples of the n outputs
    scale : (float, float)
        The ends of the scale: near one of them scores can hardly lie further out, and the interval is lopsided (that of a mean
        of numbers from 0 to 1, `jackknife.ends_of`).

    Returns
    -------
    Estimate
        In points; n counts reviews. Not defined without one.

    Examples
    --------
    >>> draws = Resamples(range(3), rng=np.random.default_rng(0))
    >>> mean_score([[3, 5], [4, None], [None, None]], draws, (1, 5)).value
    4.0
    """
    table = score_array("human", human, ndim=(2,))
    if len(resamples.clusters) != len(table):
        raise ValueError(f"resamples are of {len(resamples.clusters)} items, human has {len(table)}")
    return mean_scores(table, np.zeros(len(table), dtype=np.int64), 1, resamples, scale)[0]


def mean_scores(human: Floats, groups: Ints, n_groups: int, resamples: Resamples, scale: tuple[float, float]) -> list[Estimate]:
    """Return `mean_score` in each group of outputs: `groups` (n,) from 0."""
    check_scale(scale)
    check_range("human", human, *scale)
    low, span = scale[0], scale[1] - scale[0]
    given, human = ~np.isnan(human), (human - low) / span
    counts, totals = given.sum(axis=1).astype(float), np.where(given, human, 0.0).sum(axis=1)
    n, total = (np.bincount(groups, weights=w, minlength=n_groups) for w in (counts, totals))
    drawn = ratio(resamples.counts_of(groups, n_groups, totals), resamples.counts_of(groups, n_groups, counts))
    found = [Estimate.missing(NOBODY)] * n_groups
    for group in np.flatnonzero(n).tolist():
        mine = groups == group
        made = with_interval(float(total[group] / n[group]), drawn[:, group], resamples.of(mine), int(mine.sum()), kind="mean")
        value, bottom, top = (None if end is None else low + span * end for end in (made.value, made.low, made.high))
        found[group] = replace(made, value=value, low=bottom, high=top, n=int(n[group]))
    return found
