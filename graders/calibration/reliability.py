"""Is a judge's score to be taken at its word? The share that people pass, beside the chance that the judge states.

A score on a scale is no probability; where a judge states none, its place on the scale from 0 to 1 is read as one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from graders.calibration.arrays import Floats, Ints, Scores, check_range, score_array
from graders.calibration.jackknife import UNSEEN
from graders.calibration.rates import wilson
from graders.calibration.resample import Mask, Resamples, bootstrap, mean_statistic, with_interval
from graders.calibration.result import Estimate

N_BINS = 10
ADDED = 0.25  # of a pass and of a fail, in a bin
WHY_NONE = "not defined, because no output has both a judge score and a majority of people"


@dataclass(frozen=True)
class Bin:
    """Outputs to which the judge gave `low` to `high` (0 to 1), `stated` on average; people passed the share `passed`."""

    low: float
    high: float
    stated: float
    passed: Estimate


def brier(stated: Scores, passed: Scores, resamples: Resamples | None = None) -> Estimate:
    """Return the Brier score: the mean squared difference of stated chance and outcome.

    Parameters
    ----------
    stated : array (n,)
        The judge's chance of a pass, 0 to 1; NaN or None where unscored.
    passed : array (n,)
        What people decided, 1 or 0; NaN or None where they did not.
    resamples : Resamples of the n items, optional
        For the interval.

    Returns
    -------
    Estimate
        0 to 1, lower is better; 0.25 for always saying a half. sklearn.metrics.brier_score_loss.

    References
    ----------
    Brier (1950), Monthly Weather Review 78:1-3.

    Examples
    --------
    >>> round(brier([0.9, 0.2, 0.6], [1, 0, 0]).value, 4)
    0.1367
    """
    p, y, both = _both(stated, passed)
    if not len(p):
        return Estimate.missing(WHY_NONE, 0, len(both))
    columns = np.stack([np.ones(len(p)), (p - y) ** 2]).T
    unseen = np.array([(columns[:, 1].sum() + UNSEEN / 2) / (len(p) + UNSEEN / 2)])
    return bootstrap(columns, mean_statistic, resamples and resamples.of(both), int((~both).sum()), kind="mean", unseen=unseen)


def ece(stated: Scores, passed: Scores, resamples: Resamples | None = None, n_bins: int = N_BINS) -> Estimate:
    """Return the expected calibration error over bins of equal mass, corrected for its upward bias.

    The mean over bins, by outputs, of |mean stated chance - share passed|. In a bin of few outputs that gap is large by
    chance alone, so its square is lowered by the variance of the share, p (1 - p) / (n - 1), and no further than to 0.

    Parameters
    ----------
    stated, passed, resamples
        As in `brier`.
    n_bins : int
        How many bins. Equal scores are never split, so there may be fewer.

    Returns
    -------
    Estimate
        0 to 1. What it can't see: errors that cancel inside one bin. In resamples the variance is taken off twice, once
        for the outputs and once for drawing among them. With up to 200 prompts the interval has the spread of the error before
        the correction, as near 0 the corrected error hardly varies. Its lower end is about the corrected error, with a quarter
        of a pass and of a fail added in each bin, so that three passes of three are not taken as sure; its upper end halfway
        between both, since a square can't be lowered below 0: before the correction the error is too high, after it too low.

    References
    ----------
    Kumar, Liang and Ma (2019), Verified Uncertainty Calibration, arXiv 1909.10155, section 4, on the correction.

    Examples
    --------
    The judge says .8 to 20 outputs of which people pass 8: the gap .4, less the variance .24 / 19.

    >>> round(ece([0.8] * 20, [1] * 8 + [0] * 12).value, 4), round((0.4**2 - 0.24 / 19) ** 0.5, 4)
    (0.3839, 0.3839)
    """
    p, y, both = _both(stated, passed)
    n_dropped = int((~both).sum())
    if len(p) < 2:
        why = WHY_NONE if not len(p) else "not defined, because one output shows no share"
        return Estimate.missing(why, len(p), n_dropped)
    bins = _equal_mass(p, n_bins)
    n_used, weights = int(bins.max()) + 1, (None, p, y)
    whole = [np.bincount(bins, w, minlength=n_used)[None].astype(np.float64) for w in weights]
    value, uncorrected = (float(_debiased(*whole, times=times)[0]) for times in (1, 0))
    part = resamples and resamples.of(both)
    sums = None if part is None else [part.counts_of(bins, n_used, w) for w in weights]
    if part is None or sums is None or part.is_drawn or part.n_drawn_from < 2:
        return with_interval(value, None if sums is None else _debiased(*sums, times=2), part, len(p), n_dropped)
    found = with_interval(uncorrected, _debiased(*sums, times=0), part, len(p), n_dropped)
    if found.low is None or found.high is None:
        return replace(found, value=value)
    surely = min(float(_debiased(*whole, times=1, added=ADDED)[0]), value)
    low, high = surely - (uncorrected - found.low), found.high - (uncorrected - value) / 2
    return replace(found, value=value, low=max(low, 0.0), high=min(max(high, value), 1.0))


def reliability_bins(stated: Scores, passed: Scores, n_bins: int = N_BINS, level: float = 0.95) -> tuple[Bin, ...]:
    """Return bins of equal mass, each with the share that people passed and its Wilson interval; none without data.

    Arguments as in `ece`. Equal scores are never split.

    Examples
    --------
    >>> [(b.stated, b.passed.value, b.passed.n) for b in reliability_bins([0.2, 0.2, 0.9, 0.9], [0, 0, 1, 0], 2)]
    [(0.2, 0.0, 2), (0.9, 0.5, 2)]
    """
    p, y, _ = _both(stated, passed)
    if not len(p):
        return ()
    bins = _equal_mass(p, n_bins)
    rows = [bins == number for number in range(bins.max() + 1)]
    return tuple(Bin(float(p[r].min()), float(p[r].max()), float(p[r].mean()), wilson(int(y[r].sum()), int(r.sum()), level)) for r in rows)


def _both(stated: Scores, passed: Scores) -> tuple[Floats, Floats, Mask]:
    p, y = score_array("stated", stated), score_array("passed", passed)
    if len(p) != len(y):
        raise ValueError(f"stated has {len(p)} outputs, passed {len(y)}; one row an output in both")
    check_range("stated", p, 0, 1)
    if not np.isin(y[~np.isnan(y)], (0, 1)).all():
        raise ValueError("passed must be 1 (pass) or 0 (fail)")
    both = ~np.isnan(p) & ~np.isnan(y)
    return p[both], y[both], both


def _equal_mass(p: Floats, n_bins: int) -> Ints:
    """Return each output's bin from 0, none empty: by the middle of its rank among all, equal scores together."""
    _, code, frequency = np.unique(p, return_inverse=True, return_counts=True)
    middle = (np.cumsum(frequency) - frequency / 2) / len(p)
    bins = np.minimum((middle * n_bins).astype(np.int64), n_bins - 1)
    return np.asarray(np.unique(bins, return_inverse=True)[1][code])


def _debiased(count: Floats, stated: Floats, passed: Floats, *, times: int, added: float = 0.0) -> Floats:
    """Return the error (b,) from sums over each bin (b, bins); `added` passes and as many fails make a share less sure."""
    safe = np.maximum(count, 1)
    share, unsure = passed / safe, (passed + added) / (safe + 2 * added)
    noise = times * unsure * (1 - unsure) / np.maximum(count if added else count - 1, 1)
    gap = np.sqrt(np.maximum((stated / safe - share) ** 2 - noise, 0))
    total = count.sum(axis=1)
    return np.asarray(np.divide((gap * count).sum(axis=1), total, out=np.full(len(total), np.nan), where=total > 0))
