"""Intraclass correlations: what share of the variance of scores is about the outputs, and not about who scored them.

Point values are those of pingouin.intraclass_corr, which the tests compare; it needs balanced data and long tables.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graders.calibration.arrays import Floats, Scores, score_array
from graders.calibration.jackknife import UNSEEN_SPREAD
from graders.calibration.resample import Mask, Resamples, bootstrap, ratio, scatter
from graders.calibration.result import Estimate, outputs_have


def icc1(ratings: Scores, resamples: Resamples | None = None, labels: Sequence[float] = ()) -> Estimate:
    """Return ICC(1): how reliable the score of one reviewer, anyone, is (one-way random effects).

    (MSB - MSW) / (MSB + (k - 1) MSW), with k the mean number of scores an output, corrected for uneven numbers.

    Parameters
    ----------
    ratings : array (n, raters)
        Scores, NaN or None where a rater gave none. Who gave a score does not matter.
    resamples : Resamples of the n items, optional
        For the interval.
    labels : sequence of float
        The scores that can be given, those seen by default: few prompts may not show the rare ones (`jackknife.ends_of`).

    Returns
    -------
    Estimate
        1 when the scores of one output are all alike, 0 when they differ as much as those of different outputs, and
        below 0 when more. n counts outputs with two scores or more. Not defined with fewer than two of them, or when
        no score differs.

    References
    ----------
    Shrout and Fleiss (1979), Psychological Bulletin 86:420-428, whose table 2 is the example. Donner (1986),
    International Statistical Review 54:67-82, on uneven numbers.

    Examples
    --------
    >>> table = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    >>> round(icc1(table).value, 2)
    0.17
    """
    table = score_array("ratings", ratings, ndim=(2,))
    given = ~np.isnan(table)
    return _estimate(table, given, given.sum(axis=1) >= 2, "scores of two people", resamples, labels=labels, two_way=False)


def icc2k(ratings: Scores, resamples: Resamples | None = None, labels: Sequence[float] = ()) -> Estimate:
    """Return ICC(2,k): how reliable the mean over all k reviewers is, their severity counting as error.

    (MSR - MSE) / (MSR + (MSC - MSE) / n): two-way random effects, absolute agreement, mean of k raters.

    Parameters
    ----------
    ratings : array (n, raters)
        Scores, one column a rater; NaN or None where there is none. Only outputs that every rater scored are used.
    resamples : Resamples of the n items, optional
        For the interval.

    Returns
    -------
    Estimate
        n counts the outputs that all raters scored. Not defined with fewer than two of them, with one rater, or when
        no score differs.

    References
    ----------
    Shrout and Fleiss (1979), as above.

    Examples
    --------
    >>> table = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    >>> round(icc2k(table).value, 2)
    0.62
    >>> icc2k([[1, None], [None, 2]]).why_missing
    'not defined, because 0 outputs have the scores of all 2 people, and it takes 2'
    """
    table = score_array("ratings", ratings, ndim=(2,))
    table = table[:, ~np.isnan(table).all(axis=0)]
    if table.shape[1] < 2:
        return Estimate.missing("not defined, because fewer than two people gave scores", 0, len(table))
    given = ~np.isnan(table)
    used = np.asarray(given.all(axis=1))
    return _estimate(table, given, used, f"the scores of all {table.shape[1]} people", resamples, labels=labels, two_way=True)


def _estimate(
    table: Floats, given: Mask, used: Mask, what: str, resamples: Resamples | None, *, labels: Sequence[float], two_way: bool
) -> Estimate:
    n, n_dropped = int(used.sum()), int((~used).sum())
    if n < 2:
        return Estimate.missing(f"not defined, because {outputs_have(n)} {what}, and it takes 2", n, n_dropped)
    scores, mask = table.T[:, used].T, given.T[:, used].T  # columns in one piece
    seen = scores[mask]
    if np.ptp(seen) == 0:
        return Estimate.missing(f"not defined, because no two scores differ: all {seen.size} are {seen[0]:g}", n, n_dropped)
    centred = np.where(mask, scores - seen.mean(), 0.0)
    count, total = mask.sum(axis=1).astype(np.float64), centred.sum(axis=1)
    base = [np.ones(n), count, count**2, total, (centred**2).sum(axis=1), total**2 / count]
    if two_way:
        base.extend(centred.T)
    columns, statistic = np.stack(base).T, _two_way if two_way else _one_way
    if not np.isfinite(statistic(columns.sum(axis=0)[None])[0]):
        return Estimate.missing("not defined, because all differences are by chance alone, as far as can be seen", n, n_dropped)
    unseen = None
    if resamples is not None and not resamples.is_drawn:
        alike = _all_alike(labels if len(labels) else np.unique(seen), float(count.mean()), float(seen.mean()), columns.shape[1])
        unseen = statistic(columns.sum(axis=0) + UNSEEN_SPREAD * alike)
    return bootstrap(columns, statistic, resamples and resamples.of(used), n_dropped, kind="correlation", unseen=unseen)


def _all_alike(labels: Sequence[float] | Floats, n_scores: float, middle: float, n_columns: int) -> Floats:
    """Return the columns (labels, k) of an output to which everyone gives one of the labels."""
    score = np.asarray(labels, dtype=np.float64) - middle
    of_output = [np.ones_like(score), np.full_like(score, n_scores), np.full_like(score, n_scores**2), n_scores * score]
    of_output += [n_scores * score**2] * 2
    return np.stack(of_output + [score] * (n_columns - len(of_output)), axis=1)


def _one_way(sums: Floats) -> Floats:
    items, count, count_squares, total, squares, by_item = sums.T
    count = np.maximum(count, 1e-9)  # a resample without items has neither variance
    size = ratio(count - count_squares / count, items - 1)
    between = ratio(by_item - total**2 / count, items - 1)
    within = ratio(np.maximum(squares - by_item, 0), count - items)
    return _where_scores_differ(sums, ratio(between - within, between + (size - 1) * within))


def _two_way(sums: Floats) -> Floats:
    items, count, _, total, squares, by_item = sums[:, :6].T
    raters = sums.shape[1] - 6
    mean = ratio(total**2, count)
    rows = ratio(by_item - mean, items - 1)
    columns_sum = ratio((sums[:, 6:] ** 2).sum(axis=1), items) - mean
    error = ratio(np.maximum(squares - by_item - columns_sum, 0), (items - 1) * (raters - 1))
    return _where_scores_differ(sums, ratio(rows - error, rows + ratio(columns_sum / (raters - 1) - error, items)))


def _where_scores_differ(sums: Floats, found: Floats) -> Floats:
    _, count, _, total, squares, *_ = sums.T
    return np.where(scatter(count, total, squares) > 0, found, np.nan)
