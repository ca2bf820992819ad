"""Krippendorff's alpha: how far raters agree beyond chance, with any number of raters and missing scores.

Point values are those of the krippendorff package, which the tests compare; it has no intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from graders.calibration.arrays import Floats, Ints, Scores, score_array
from graders.calibration.jackknife import UNSEEN, UNSEEN_OF_TWO, UNSEEN_SPREAD
from graders.calibration.rank import WHY_NONE
from graders.calibration.resample import (
    MAX_CELLS,
    ONE_OUTPUT,
    TOO_ALIKE,
    Mask,
    Resamples,
    are_too_alike,
    bootstrap,
    ratio,
    scatter,
    with_interval,
)
from graders.calibration.result import Estimate

Metric = Literal["ordinal", "interval", "nominal"]
MAX_KINDS = 2**62  # numbers that an int64 holds
METRICS: tuple[Metric, ...] = ("ordinal", "interval", "nominal")


def krippendorff_alpha(ratings: Scores, metric: Metric, resamples: Resamples | None = None, labels: Sequence[float] = ()) -> Estimate:
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
    labels : sequence of float
        The scores that can be given, those seen by default: few prompts may not show the rare ones (`jackknife.ends_of`).

    Returns
    -------
    Estimate
        1 is full agreement, 0 what chance gives, below 0 is worse. n counts items with two scores or more, n_dropped
        the others. Not defined when no item has two scores, or one alone (alpha is then 0 whatever they are), or all scores are
        the same.

    Notes
    -----
    Ordinal alpha is interval alpha of midranks. In each resample ranks are made anew from the resample; with so many
    different scores and raters that tables of values don't fit (20 million cells), the ranks of the whole are kept.

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
    return krippendorff_alphas(ratings, (metric,), resamples, labels)[metric]


def krippendorff_alphas(
    ratings: Scores, metrics: Sequence[Metric], resamples: Resamples | None = None, labels: Sequence[float] = ()
) -> dict[Metric, Estimate]:
    """Return alpha by several metrics at once, in little more time than by one: see `krippendorff_alpha`."""
    for metric in metrics:
        if metric not in METRICS:
            raise ValueError(f"metric is {metric!r}, allowed: {', '.join(METRICS)}")
    table = score_array("ratings", ratings, ndim=(2,))
    if resamples is not None and len(resamples.clusters) != len(table):
        raise ValueError(f"resamples are of {len(resamples.clusters)} items, ratings has {len(table)}")
    given = ~np.isnan(table)
    pairable = given.sum(axis=1) >= 2
    n, n_dropped = int(pairable.sum()), int((~pairable).sum())
    if not n:
        return dict.fromkeys(metrics, Estimate.missing("not defined, because no output has scores of two people", 0, n_dropped))
    if n_dropped:
        table, given, resamples = table[pairable], given[pairable], resamples and resamples.of(pairable)
    values, codes = coded_scores(table, given)
    if len(values) == 1:
        why = f"not defined, because no two scores differ: all {int(given.sum())} are {values[0]:g}"
        return dict.fromkeys(metrics, Estimate.missing(why, n, n_dropped))
    if n == 1:
        return dict.fromkeys(metrics, Estimate.missing(ONE_OUTPUT, n, n_dropped))
    if resamples is not None and (units := units_of(codes, len(values), resamples)) is not None:
        return _of_tables(values, units, metrics, resamples, n_dropped, labels=labels)
    return {metric: _alpha(values, codes, metric, resamples, n_dropped) for metric in metrics}


def judge_alpha(judge: Scores, human: Scores, metric: Metric, resamples: Resamples | None = None, labels: Sequence[float] = ()) -> Estimate:
    """Return Krippendorff's alpha of the judge against single people: the figure to set beside that of people.

    Each pair of the judge's score and one person's score on the same output is a unit of two raters. So the judge is
    asked to agree with one person as well as another person would, which alpha among people says.

    Parameters
    ----------
    judge : array (n,)
        The judge's scores, NaN or None where unscored.
    human : array (n, raters)
        People's scores on the same scale.
    metric, resamples, labels
        As in `krippendorff_alpha`.

    Returns
    -------
    Estimate
        n counts outputs with the judge's and at least one person's score; not defined of one alone. No interval where the judge,
        or people, gave another score than their most frequent on fewer than three prompts: habit can't be told from agreement there.

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
    shared = ~np.isnan(people) & ~np.isnan(scores)[:, None]
    used: Mask = np.asarray(shared.any(axis=1))
    n, n_dropped = int(used.sum()), int((~used).sum())
    if not n:
        return Estimate.missing(WHY_NONE, 0, n_dropped)
    if n_dropped:
        scores, people, shared, resamples = scores[used], people[used], shared[used], resamples and resamples.of(used)
    values, codes = coded_scores(np.column_stack([scores, people]), np.column_stack([np.ones(n, dtype=bool), shared]))
    if n == 1 and len(values) > 1:
        return Estimate.missing(ONE_OUTPUT, n, n_dropped)
    if resamples is not None and len(values) > 1 and (units := units_of(codes[:, 1:], len(values), resamples, codes[:, 0])) is not None:
        found = _of_tables(values, units, (metric,), resamples, n_dropped, labels=labels, unseen=UNSEEN_OF_TWO)[metric]
    else:
        item, rater = np.nonzero(shared)
        pairs = np.stack([scores[item], people[item, rater]], axis=1)
        found = replace(krippendorff_alpha(pairs, metric, resamples and resamples.of(item), labels), n=n, n_dropped=n_dropped)
    too_alike = resamples is not None and is_habit(codes[:, 0], codes[:, 1:], resamples)
    return found.without_interval(TOO_ALIKE) if too_alike else found


def is_habit(judge: Ints, people: Ints, resamples: Resamples) -> bool:
    """Whether too few prompts show how judge and people (codes (n,) and (n, raters)) agree beyond what each gives most.

    Of a judge that gave every output the same, nothing is known of when it would not have: with half an output allowed for that,
    the interval of alpha held the truth as seldom as 27 times in 100.
    """
    given = people >= 0
    of_judge = judge != np.bincount(judge).argmax()
    of_people = ((people != np.bincount(people[given]).argmax()) & given).any(axis=1)
    return are_too_alike(resamples, of_judge, of_people)


@dataclass(frozen=True)
class _Units:
    """Units by their kind: those with the same scores, whoever gave them, are of one.

    `columns` (kinds, v + pairs): what a unit of the kind adds to how often each of the v values occurs, and to each pair
    of different values, in the order of numpy.triu_indices(v, 1).
    """

    kind: Ints
    columns: Floats


def units_of(codes: Ints, n_values: int, resamples: Resamples, judge: Ints | None = None) -> _Units | None:
    """Return the units with these scores (n, raters), or of the judge's with each of them; None where tables don't fit."""
    low, high = np.triu_indices(n_values, 1)
    one_of, kind = _kinds(codes, n_values, judge)
    if len(one_of) * (n_values + len(low)) > MAX_CELLS or not resamples.fits(n_values + len(low)):
        return None
    counts = _value_counts(codes[one_of], n_values)
    given = counts.sum(axis=1, keepdims=True)
    if judge is None:
        return _Units(kind, np.concatenate([counts, counts[:, low] * counts[:, high] / (given - 1)], axis=1))
    own = np.eye(n_values)[judge[one_of]]
    return _Units(kind, np.concatenate([counts + given * own, own[:, low] * counts[:, high] + own[:, high] * counts[:, low]], axis=1))


def _kinds(codes: Ints, n_values: int, judge: Ints | None) -> tuple[Ints, Ints]:
    """Return a unit of each kind, and each unit's kind (n,)."""
    base, everyone = codes.shape[1] + 1, np.arange(len(codes))
    size = base**n_values * (1 if judge is None else n_values)
    if size >= MAX_KINDS:
        return everyone, everyone
    number = np.append(base ** np.arange(n_values), 0)[codes].sum(axis=1)
    if judge is not None:
        number += base**n_values * judge
    if size > max(8 * len(codes), 10_000):
        _, one_of, kind = np.unique(number, return_index=True, return_inverse=True)
        return one_of, kind
    last = np.full(size, -1)  # no sort is needed
    last[number] = everyone
    return last[last >= 0], (np.cumsum(last >= 0) - 1)[number]


def _of_tables(
    values: Floats,
    units: _Units,
    metrics: Sequence[Metric],
    resamples: Resamples,
    n_dropped: int,
    *,
    labels: Sequence[float],
    unseen: float = UNSEEN,
) -> dict[Metric, Estimate]:
    """Return alpha from tables of which value stands beside which, of the whole and of each resample."""
    whole = (np.bincount(units.kind) @ units.columns)[:, None]
    drawn = np.ascontiguousarray(resamples.sums_by_kind(units.kind, units.columns).T)
    found = {}
    for metric in metrics:
        value = float(alpha_of_tables(whole, values, metric)[0])
        n, resampled = len(units.kind), alpha_of_tables(drawn, values, metric)
        alike = None if resamples.is_drawn else had_all_been_alike(whole[:, 0], values, metric, labels, n_units=n, unseen=unseen)
        found[metric] = with_interval(value, resampled, resamples, n, n_dropped, kind="correlation", unseen=alike)
    return found


def alpha_of_tables(sums: Floats, values: Floats, metric: Metric) -> Floats:
    """Return alpha (b,) from sums (v + pairs, b)."""
    low, high = np.triu_indices(len(values), 1)
    frequency, apart = sums[: len(values)], sums[len(values) :]
    places = np.cumsum(frequency, axis=0) - frequency / 2 if metric == "ordinal" else values[:, None]
    squared = 1.0 if metric == "nominal" else (places[low] - places[high]) ** 2
    expected = (frequency[low] * frequency[high] * squared).sum(axis=0)
    return np.asarray(1 - ratio((apart * squared).sum(axis=0) * (frequency.sum(axis=0) - 1), expected))


def had_all_been_alike(
    sums: Floats, values: Floats, metric: Metric, labels: Sequence[float], *, n_units: float, unseen: float = UNSEEN
) -> Floats:
    """Return alpha had there been a part of an output more, to which everyone gives one of the labels: (labels,)."""
    every = np.union1d(values, np.asarray(labels, dtype=np.float64))
    place, size = np.searchsorted(every, values), len(every)
    frequency, apart = np.zeros(size), np.zeros((size, size))
    frequency[place] = sums[: len(values)]
    low, high = np.triu_indices(len(values), 1)
    apart[place[low], place[high]] = sums[len(values) :]
    more = (UNSEEN_SPREAD if metric == "interval" else unseen) * frequency.sum() / n_units * np.eye(size)
    pairs = np.repeat(apart[np.triu_indices(size, 1)][:, None], size, axis=1)
    return alpha_of_tables(np.concatenate([frequency[:, None] + more, pairs]), every, metric)


def coded_scores(table: Floats, given: Mask) -> tuple[Floats, Ints]:
    """Return the values that occur, rising, and each score's place among them, -1 where there is none."""
    low, high = np.fmin.reduce(table, axis=None), np.fmax.reduce(table, axis=None)
    if high - low <= 10_000 and (np.trunc(table) == table)[given].all():  # whole numbers need no sort
        last = int(high - low) + 1
        places = np.where(given, table - low, last).astype(np.int64)
        present = np.bincount(places.ravel(order="K"), minlength=last + 1)[:last] > 0
        return np.flatnonzero(present) + low, np.append(np.cumsum(present) - 1, -1)[places]
    codes = np.full(table.shape, -1, dtype=np.int64)
    values, codes[given] = np.unique(table[given], return_inverse=True)
    return values, codes


def _alpha(values: Floats, codes: Ints, metric: Metric, resamples: Resamples | None, n_dropped: int) -> Estimate:
    if metric == "nominal":
        return bootstrap(_nominal_columns(codes, len(values)), _nominal_statistic, resamples, n_dropped, kind="correlation")
    if metric == "interval":
        return bootstrap(_moment_columns(codes, values - values.mean()), _moment_statistic, resamples, n_dropped, kind="correlation")
    frequency = np.bincount(codes[codes >= 0], minlength=len(values)).astype(np.float64)
    ranks = np.cumsum(frequency) - frequency / 2 - frequency.sum() / 2
    return bootstrap(_moment_columns(codes, ranks), _moment_statistic, resamples, n_dropped, kind="correlation")


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
    return np.asarray(1 - ratio(within * (count - 1), 2 * scatter(count, total, squares)))


def _nominal_columns(codes: Ints, n_values: int) -> Floats:
    counts = _value_counts(codes, n_values)
    agreeing = (counts * (counts - 1)).sum(axis=1) / (counts.sum(axis=1) - 1)
    return np.concatenate([counts, agreeing[:, None]], axis=1)


def _nominal_statistic(sums: Floats) -> Floats:
    frequency, agreeing = sums[:, :-1], sums[:, -1]
    count = frequency.sum(axis=1)
    expected = count**2 - (frequency**2).sum(axis=1)  # pairs that differ by chance
    return np.asarray(1 - ratio((count - agreeing) * (count - 1), expected))
