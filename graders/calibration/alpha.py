"""Krippendorff's alpha: how far raters agree beyond chance, with any number of raters and missing scores.

Point values are those of the krippendorff package, which the tests compare; it has no intervals.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from graders.calibration.arrays import Floats, Ints, Scores, score_array
from graders.calibration.resample import MAX_CELLS, Mask, Resamples, bootstrap, ratio, with_interval
from graders.calibration.result import Estimate

Metric = Literal["ordinal", "interval", "nominal"]
METRICS: tuple[Metric, ...] = ("ordinal", "interval", "nominal")


def krippendorff_alpha(ratings: Scores, metric: Metric, resamples: Resamples | None = None) -> Estimate:
    """Return Krippendorff's alpha of the raters: 1 - observed disagreement / disagreement expected by chance.

    Parameters
    ----------
    ratings : array (n, raters)
        Scores on any one scale, or numbers of categories; NaN or None where a rater gave none. Who gave a score does
        not matter, only which output has it.
    metric : "ordinal", "interval" or "nominal"
        What two different scores are worth: the squared number of ratings between them, their squared difference, or 1.
    resamples : Resamples of the n items, optional
        For the interval. Without them there is none, and the estimate says so.

    Returns
    -------
    Estimate
        1 is full agreement, 0 what chance gives, below 0 is worse. n counts items with two scores or more, n_dropped
        the others. Not defined when no item has two scores, or all scores are the same.

    Notes
    -----
    Ordinal alpha is interval alpha of midranks. In each resample ranks are made anew from the resample; with so many
    different scores that the tables don't fit (20 million cells), the ranks of the whole are kept.

    References
    ----------
    Krippendorff (2019), Content Analysis, 4th ed., chapter 12; the example is that of Krippendorff (2011), Computing
    Krippendorff's Alpha-Reliability, section C and E: four observers, twelve units, missing data.

    Examples
    --------
    >>> a = [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None]
    >>> b = [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3]
    >>> c = [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None]
    >>> d = [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None]
    >>> table = np.array([a, b, c, d], dtype=float).T
    >>> [round(krippendorff_alpha(table, metric).value, 3) for metric in ("nominal", "ordinal", "interval")]
    [0.743, 0.815, 0.849]
    >>> krippendorff_alpha([[3, 3], [3, None]], "ordinal").why_missing
    'not defined, because no two scores differ: all 2 are 3'
    """
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r}, allowed: {', '.join(METRICS)}")
    table = score_array("ratings", ratings, ndim=(2,))
    if resamples is not None and len(resamples.clusters) != len(table):
        raise ValueError(f"resamples are of {len(resamples.clusters)} items, ratings has {len(table)}")
    given = ~np.isnan(table)
    pairable = given.sum(axis=1) >= 2
    n, n_dropped = int(pairable.sum()), int((~pairable).sum())
    if not n:
        return Estimate.missing("not defined, because no output has scores of two people", 0, n_dropped)
    values, codes = _coded(table[pairable], given[pairable])
    if len(values) == 1:
        total = int(given[pairable].sum())
        return Estimate.missing(f"not defined, because no two scores differ: all {total} are {values[0]:g}", n, n_dropped)
    part = None if resamples is None else resamples.of(pairable)
    return _alpha(values, codes, metric, part, n_dropped)


def judge_alpha(judge: Scores, human: Scores, metric: Metric, resamples: Resamples | None = None) -> Estimate:
    """Return Krippendorff's alpha of the judge against single people: the figure to set beside that of people.

    Each pair of the judge's score and one person's score on the same output is a unit of two raters. So the judge is
    asked to agree with one person as well as another person would, which alpha among people says.

    Parameters
    ----------
    judge : array (n,)
        The judge's scores, NaN or None where unscored.
    human : array (n, raters)
        People's scores on the same scale.
    metric, resamples
        As in `krippendorff_alpha`.

    Returns
    -------
    Estimate
        n counts outputs with the judge's and at least one person's score.

    Examples
    --------
    Units (1, 1), (1, 2), (2, 2): of six scores three are 1 and three 2. One unit of three differs: 2 of 6 scores, by
    chance 2 * 3 * 3 of 6 * 5. Alpha is 1 - (2/6) / (18/30).

    >>> round(judge_alpha([1, 2], [[1, 2], [2, None]], "nominal").value, 4)
    0.4444
    """
    scores, people = score_array("judge", judge), score_array("human", human, ndim=(2,))
    if len(scores) != len(people):
        raise ValueError(f"judge has {len(scores)} outputs, human {len(people)}; one row an output in both")
    item, rater = np.nonzero(~np.isnan(people) & ~np.isnan(scores)[:, None])
    n = len(np.unique(item))
    if not n:
        return Estimate.missing("not defined, because no output has both a judge score and a human one", 0, len(scores))
    units = np.stack([scores[item], people[item, rater]], axis=1)
    found = krippendorff_alpha(units, metric, None if resamples is None else resamples.of(item))
    return Estimate(found.value, found.low, found.high, n, found.why_missing, found.method, len(scores) - n)


def _coded(table: Floats, given: Mask) -> tuple[Floats, Ints]:
    """Return the values that occur, rising, and each score's place among them, -1 where there is none."""
    scores = table[given]
    low, span = scores.min(), np.ptp(scores)
    codes = np.full(table.shape, -1, dtype=np.int64)
    if span <= 10_000 and (scores == np.floor(scores)).all():  # whole numbers need no sort
        places = (scores - low).astype(np.int64)
        present = np.bincount(places) > 0
        codes[given] = (np.cumsum(present) - 1)[places]
        return np.flatnonzero(present) + low, codes
    values, codes[given] = np.unique(scores, return_inverse=True)
    return values, codes


def _alpha(values: Floats, codes: Ints, metric: Metric, resamples: Resamples | None, n_dropped: int) -> Estimate:
    if metric == "nominal":
        return bootstrap(_nominal_columns(codes, len(values)), _nominal_statistic, resamples, n_dropped)
    if metric == "interval":
        return bootstrap(_moment_columns(codes, values - values.mean()), _moment_statistic, resamples, n_dropped)
    frequency = np.bincount(codes[codes >= 0], minlength=len(values)).astype(np.float64)
    ranks = np.cumsum(frequency) - frequency / 2 - frequency.sum() / 2
    columns = _moment_columns(codes, ranks)
    n_cells = len(values) ** 2
    if resamples is None or len(codes) * n_cells > MAX_CELLS or not resamples.fits(n_cells):
        return bootstrap(columns, _moment_statistic, resamples, n_dropped)
    value = float(_moment_statistic(columns.sum(axis=0)[None])[0])
    if codes.shape[1] == 2:  # every unit has both scores, so it is one cell of a table and its mirror image
        tables = resamples.counts_of(codes[:, 0] * len(values) + codes[:, 1], n_cells).reshape(-1, len(values), len(values))
        resampled = _ordinal_statistic((tables + tables.transpose(0, 2, 1)).reshape(-1, n_cells))
    else:
        resampled = _ordinal_statistic(resamples.sums(_coincidences(codes, len(values))))
    return with_interval(value, resampled, resamples, len(codes), n_dropped)


def _value_counts(codes: Ints, n_values: int) -> Floats:
    """Return how often each unit has each value: (n, n_values)."""
    unit, _ = np.nonzero(codes >= 0)
    cells = unit * n_values + codes[codes >= 0]
    return np.bincount(cells, minlength=len(codes) * n_values).reshape(len(codes), n_values).astype(np.float64)


def _moment_columns(codes: Ints, places: Floats) -> Floats:
    """Return for each unit: number of scores, their sum, sum of squares, and squared differences of its pairs."""
    at = np.append(places, 0.0)[codes]
    count = (codes >= 0).sum(axis=1).astype(np.float64)
    total, squares = at.sum(axis=1), np.einsum("ij,ij->i", at, at)
    return np.stack([count, total, squares, 2 * (count * squares - total**2) / (count - 1)], axis=1)


def _moment_statistic(sums: Floats) -> Floats:
    count, total, squares, within = sums.T
    expected = 2 * (count * squares - total**2)
    return np.asarray(1 - ratio(within * (count - 1), np.maximum(expected, 0)))


def _nominal_columns(codes: Ints, n_values: int) -> Floats:
    counts = _value_counts(codes, n_values)
    agreeing = (counts * (counts - 1)).sum(axis=1) / (counts.sum(axis=1) - 1)
    return np.concatenate([counts, agreeing[:, None]], axis=1)


def _nominal_statistic(sums: Floats) -> Floats:
    frequency, agreeing = sums[:, :-1], sums[:, -1]
    count = frequency.sum(axis=1)
    expected = count**2 - (frequency**2).sum(axis=1)  # pairs that differ by chance
    return np.asarray(1 - ratio((count - agreeing) * (count - 1), expected))


def _coincidences(codes: Ints, n_values: int) -> Floats:
    """Return each unit's share of the coincidence matrix: (n, n_values * n_values)."""
    counts = _value_counts(codes, n_values)
    tables = counts[:, :, None] * counts[:, None, :]
    tables[:, np.arange(n_values), np.arange(n_values)] -= counts
    return np.asarray((tables / (counts.sum(axis=1) - 1)[:, None, None]).reshape(len(codes), -1))


def _ordinal_statistic(sums: Floats) -> Floats:
    n_values = round(sums.shape[1] ** 0.5)
    tables = sums.reshape(-1, n_values, n_values)
    frequency = tables.sum(axis=2)
    count = frequency.sum(axis=1)
    ranks = np.cumsum(frequency, axis=1) - frequency / 2 - count[:, None] / 2
    squares, total = (frequency * ranks**2).sum(axis=1), (frequency * ranks).sum(axis=1)
    within = 2 * (squares - np.einsum("bi,bij,bj->b", ranks, tables, ranks, optimize=True))
    return _moment_statistic(np.stack([count, total, squares, within], axis=1))
