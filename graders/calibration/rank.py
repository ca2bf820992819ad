"""Does the judge put outputs in the order that people put them in? Pearson, Spearman and Kendall's tau-b.

Over several criteria at once a correlation can come from the criteria alone (Simpson's paradox): everyone scores
fluency high and coherence low. `within` is the mean of the correlations inside each criterion, and the headline.
Point values are those of scipy.stats, which the tests compare; it has no clustered intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from graders.calibration.arrays import Floats, Ints, Scores, cluster_numbers, score_array, scored_by_both
from graders.calibration.jackknife import UNSEEN, Kind
from graders.calibration.resample import Mask, Resamples, ratio, scatter, with_interval
from graders.calibration.result import Estimate

MAX_RANKED_CELLS = 2_500  # tables with more cells keep the ranks (Spearman) or the order (Kendall) of the whole
MAX_SPAN = 10_000  # of whole numbers that are counted in place of sorted
FEWEST_SHARED = 10  # outputs on which two people and the judge can be compared
WHY_NONE = "not defined, because no output has both a judge score and a human one"
WHY_NONE_WITHIN = "not defined, because it is defined in no criterion"

Resampled = tuple[float, Floats | None]
Correlation = Callable[[Floats, Floats, Resamples | None], Resampled]


def pearson(judge: Scores, human: Scores, resamples: Resamples | None = None) -> Estimate:
    """Return Pearson's correlation of judge and mean human scores.

    Parameters
    ----------
    judge : array (n,)
        Judge scores, NaN or None where unscored.
    human : array (n,) or (n, raters)
        Human scores on any scale; the mean of each row is taken.
    resamples : Resamples of the n items, optional
        For the interval.

    Returns
    -------
    Estimate
        -1 to 1. n counts outputs with both scores. Not defined for fewer than two of them, or when either side gives
        every output the same score. scipy.stats.pearsonr.

    Examples
    --------
    >>> round(pearson([1, 2, 3, 4], [1, 3, 2, 4]).value, 4)
    0.8
    >>> pearson([3, 3], [1, 2]).why_missing
    'not defined, because the judge gives all 2 outputs the score 3'
    """
    return _estimate(judge, human, _pearson, resamples)


def spearman(judge: Scores, human: Scores, resamples: Resamples | None = None) -> Estimate:
    """Return Spearman's rank correlation of judge and mean human scores, ties at their mean rank.

    Arguments and degenerate cases as in `pearson`. Each resample is ranked anew; where the two sides make more than
    2,500 different pairs of scores, the ranks of the whole are kept. scipy.stats.spearmanr.

    Examples
    --------
    >>> round(spearman([1, 1, 2, 5], [1, 3, 2, 4]).value, 4)
    0.6325
    """
    return _estimate(judge, human, _spearman, resamples)


def kendall_b(judge: Scores, human: Scores, resamples: Resamples | None = None) -> Estimate:
    """Return Kendall's tau-b: pairs in the same order less pairs in opposite order, corrected for ties on each side.

    Arguments and degenerate cases as in `pearson`. Where the two sides could make more than 2,500 different pairs of
    scores, resamples are taken to first order: each output keeps its balance of pairs. scipy.stats.kendalltau.

    Examples
    --------
    >>> round(kendall_b([1, 1, 2, 5], [1, 3, 2, 4]).value, 4)
    0.5477
    """
    return _estimate(judge, human, _kendall, resamples)


def within(
    correlation: Callable[[Scores, Scores, Resamples | None], Estimate],
    judge: Scores,
    human: Scores,
    groups: Iterable[Hashable],
    resamples: Resamples | None = None,
) -> Estimate:
    """Return the mean of a correlation over groups (criteria), each weighted by its outputs.

    Parameters
    ----------
    correlation : pearson, spearman or kendall_b
    judge, human, resamples
        As in `pearson`.
    groups : iterable (n,)
        The criterion of each item. Those in which the correlation is not defined are left out, their outputs counted
        in n_dropped.

    Examples
    --------
    Inside each criterion judge and human run against each other; both score the second one higher.

    >>> judge, human = [1, 2, 3, 7, 8, 9], [3, 2, 1, 9, 8, 7]
    >>> round(pearson(judge, human).value, 2), round(within(pearson, judge, human, "aaabbb").value, 2)
    (0.86, -1.0)
    """
    names: dict[object, str] = {pearson: "pearson", spearman: "spearman", kendall_b: "kendall_b"}
    x, y, both = scored_by_both(judge, human)
    part = resamples and resamples.of(both)
    found, used = resampled_within(names[correlation], [x], y, cluster_numbers("groups", groups, len(both))[both], part)
    n = int(used.sum())
    if not found:
        return Estimate.missing(WHY_NONE_WITHIN, 0, len(both))
    value, resampled, alike = found[0]
    return with_interval(value, resampled, part and part.of(used), n, len(both) - n, kind="correlation", unseen=alike)


def resampled_within(
    name: str, judges: Sequence[Floats], human: Floats, groups: Ints, resamples: Resamples | None
) -> tuple[list[tuple[float, Floats | None, Floats]], Mask]:
    """Return of each judge a correlation `within` groups, that of each resample and `unseen` of `jackknife.ends_of`; and the items used.

    `name` is "pearson", "spearman" or "kendall_b"; no score is missing. Groups in which it is not defined for one of the judges are
    used for none, so that all are held to the same. Without a group left there is nothing to return.
    """
    compute: Correlation = {"pearson": _pearson, "spearman": _spearman, "kendall_b": _kendall}[name]
    each = [groups == number for number in np.unique(groups)]
    each = [rows for rows in each if not any(why_no_correlation(x[rows], human[rows]) for x in judges)]
    if not each:
        return [], np.zeros(len(human), dtype=bool)
    shares, found = np.array([rows.mean() for rows in each]), []
    shares /= shares.sum()
    for x in judges:
        parts = [compute(x[rows], human[rows], resamples and resamples.of(rows)) for rows in each]
        value = float(sum(share * v for share, (v, _) in zip(shares, parts, strict=True)))
        resampled = None if resamples is None else np.average([drawn for _, drawn in parts], axis=0, weights=shares)
        alike = [_had_both_been_alike(compute, x[rows], human[rows], resamples) for rows in each]
        # The output more is in one of the groups, each in turn.
        moved = [
            np.full(2, np.nan) if u is None else value + share * (u - v) for share, u, (v, _) in zip(shares, alike, parts, strict=True)
        ]
        found.append((value, resampled, np.concatenate(moved)))
    return found, np.any(each, axis=0)


def _had_both_been_alike(compute: Correlation, x: Floats, y: Floats, resamples: Resamples | None) -> Floats | None:
    """Return the correlation with half an output more that both put lowest, and that both put highest (`jackknife.ends_of`)."""
    if resamples is None or resamples.is_drawn:
        return None
    if compute is _pearson:
        sides = _scaled(x), _scaled(y)
        columns = _moments(*sides)
        ends = _moments(*(np.array([side.min(), side.max()]) for side in sides))
        return correlation_of_sums(columns.sum(axis=0) + UNSEEN * ends)
    return _alike_of_codes(*score_codes(x), *score_codes(y), spearman_of_tables if compute is _spearman else _table_tau)


def _alike_of_codes(x_code: Ints, n_x: int, y_code: Ints, n_y: int, of_tables: Callable[[Floats], Floats]) -> Floats | None:
    """The same of a correlation of tables; None where scores are so many that one more hardly moves it."""
    if n_x * n_y > MAX_RANKED_CELLS:
        return None
    tables = np.repeat(np.bincount(x_code * n_y + y_code, minlength=n_x * n_y).reshape(n_x, n_y, 1).astype(np.float64), 2, axis=2)
    tables[[0, -1], [0, -1], [0, 1]] += UNSEEN
    return of_tables(tables)


def _averaged(unseen: Sequence[Floats | None], weights: Sequence[float]) -> Floats | None:
    there = [u for u in unseen if u is not None]
    return np.asarray(np.average(there, axis=0, weights=weights)) if there else None


@dataclass(frozen=True)
class SecondReviewer:
    """How well one more reviewer ranks outputs, as the others would rank them: the judge, people, and judge less people.

    `by_group` has the same for each group; one in which it is not defined is not there.
    """

    judge: Estimate
    people: Estimate
    difference: Estimate
    by_group: dict[int, SecondReviewer] = field(default_factory=dict)


@dataclass(frozen=True)
class _Turns:
    """Correlations (turns, 2) of judge and person, their resampled values (turns, 2, n_boot), and outputs of each turn."""

    values: list[list[float]]
    drawn: list[list[Floats | None]]
    unseen: list[list[Floats | None]]
    weights: list[float]


def second_reviewer(judge: Scores, human: Scores, groups: Ints | Sequence[int], resamples: Resamples | None = None) -> SecondReviewer:
    """Return Spearman's correlation of the judge, and of one person, with the mean of the other people.

    The fair comparison: both are held to the same scores, on the same outputs. (Against the mean of everyone, a person
    would be held to their own score among others.) Each review in turn is taken out, the first that each output has, then
    the second and so on; who gave it does not matter. Inside each group, then averaged by the number of outputs.

    Parameters
    ----------
    judge : array (n,)
        Judge scores, NaN or None where unscored.
    human : array (n, raters)
        People's scores, NaN or None where a rater gave none.
    groups : array of int (n,)
        The criterion of each item.
    resamples : Resamples of the n items, optional
        For the intervals; that of the difference is paired.

    Returns
    -------
    SecondReviewer
        n counts outputs with the judge's and two people's scores. Not defined when no turn has ten of them on which
        each side's scores differ.

    Examples
    --------
    >>> human = [[i % 5, (i + 1) % 5] for i in range(20)]
    >>> found = second_reviewer([i % 5 for i in range(20)], human, [0] * 20)
    >>> found.judge.value, found.people.value, found.difference.value
    (0.5, 0.0, 0.5)
    """
    scores, people = score_array("judge", judge), score_array("human", human, ndim=(2,))
    if len(scores) != len(people):
        raise ValueError(f"judge has {len(scores)} outputs, human {len(people)}; one row an output in both")
    numbers = np.asarray(groups, dtype=np.int64)
    used = ((~np.isnan(people)).sum(axis=1) >= 2) & ~np.isnan(scores)
    turns: dict[int, _Turns] = {}
    for group in np.unique(numbers[used]).tolist():
        rows = np.flatnonzero(used & (numbers == group))
        found = _turns(scores[rows], people[rows], resamples and resamples.of(rows))
        if found.values:
            turns[group] = found
    n, n_dropped = int(used.sum()), int((~used).sum())
    if not turns:
        why = "not defined, because no output has scores of the judge and of two people"
        if n:
            why = f"not defined, because fewer than {FEWEST_SHARED} outputs have different scores of two people"
        none = Estimate.missing(why, n, n_dropped)
        return SecondReviewer(none, none, none)
    together = _second(list(turns.values()), resamples and resamples.of(used), n, n_dropped)
    by_group = {}
    for group, found in turns.items():
        rows = np.flatnonzero(used & (numbers == group))
        by_group[group] = _second([found], resamples and resamples.of(rows), len(rows), 0)
    return SecondReviewer(together.judge, together.people, together.difference, by_group)


def _turns(scores: Floats, people: Floats, resamples: Resamples | None) -> _Turns:
    """Each review of these outputs in turn taken out: the first that each output has, then the second and so on."""
    given = ~np.isnan(people)
    turn, total = np.cumsum(given, axis=1), np.where(given, people, 0.0).sum(axis=1)
    found = _Turns([], [], [], [])
    for place in range(int(turn[:, -1].max())):
        rows = np.flatnonzero(turn[:, -1] > place)
        own = people[rows, np.argmax((turn[rows] == place + 1) & given[rows], axis=1)]
        rest = (total[rows] - own) / (turn[rows, -1] - 1)
        if len(rows) < FEWEST_SHARED or min(np.ptp(own), np.ptp(rest), np.ptp(scores[rows])) == 0:
            continue
        part, others, sides = resamples and resamples.of(rows), score_codes(rest), [score_codes(side) for side in (scores[rows], own)]
        pair = [_spearman_of_codes(*side, *others, part) for side in sides]
        found.values.append([value for value, _ in pair])
        found.drawn.append([drawn for _, drawn in pair])
        is_asked = part is not None and not part.is_drawn
        found.unseen.append([_alike_of_codes(*side, *others, spearman_of_tables) if is_asked else None for side in sides])
        found.weights.append(float(len(rows)))
    return found


def _second(turns: list[_Turns], resamples: Resamples | None, n: int, n_dropped: int) -> SecondReviewer:
    """The mean over turns, each weighted by its outputs."""
    weights = [weight for t in turns for weight in t.weights]
    mine, theirs = (float(v) for v in np.average([pair for t in turns for pair in t.values], axis=0, weights=weights))
    drawn: list[Floats | None] = [None, None, None]
    if resamples is not None:
        judge, people = np.average(np.array([pair for t in turns for pair in t.drawn], dtype=np.float64), axis=0, weights=weights)
        drawn = [judge, people, judge - people]
    values = (mine, theirs, mine - theirs)
    kinds: tuple[Kind, ...] = ("correlation", "correlation", "points")
    alike = [_averaged([pair[side] for t in turns for pair in t.unseen], weights) for side in (0, 1)]
    of_judge, of_people, gap = (
        with_interval(v, d, resamples, n, n_dropped, kind=kind, unseen=u)
        for v, d, kind, u in zip(values, drawn, kinds, [*alike, None], strict=True)
    )
    return SecondReviewer(of_judge, of_people, gap)


def _estimate(judge: Scores, human: Scores, compute: Correlation, resamples: Resamples | None) -> Estimate:
    x, y, both = scored_by_both(judge, human)
    n, n_dropped = len(x), int((~both).sum())
    if why := why_no_correlation(x, y):
        return Estimate.missing(why, n, n_dropped)
    part = resamples and resamples.of(both)
    value, resampled = compute(x, y, part)
    unseen = _had_both_been_alike(compute, x, y, part)
    return with_interval(value, resampled, part, n, n_dropped, kind="correlation", unseen=unseen)


def why_no_correlation(x: Floats, y: Floats) -> str:
    if not len(x):
        return WHY_NONE
    if len(x) == 1:
        return "not defined, because only one output has both a judge score and a human one"
    for who, scores in (("the judge gives", x), ("people give", y)):
        if np.ptp(scores) == 0:
            return f"not defined, because {who} all {len(x)} outputs the score {scores[0]:g}"
    return ""


def _scaled(x: Floats) -> Floats:
    return np.asarray((x - x.mean()) / x.std())


def _pearson(x: Floats, y: Floats, resamples: Resamples | None) -> Resampled:
    columns = _moments(_scaled(x), _scaled(y))
    value = float(np.clip(correlation_of_sums(columns.sum(axis=0)[None])[0], -1, 1))
    return value, None if resamples is None else correlation_of_sums(resamples.sums(columns))


def _moments(x: Floats, y: Floats) -> Floats:
    return np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y]).T


def correlation_of_sums(sums: Floats) -> Floats:
    n, x, y, xx, yy, xy = sums.T
    return ratio(n * xy - x * y, np.sqrt(scatter(n, x, xx) * scatter(n, y, yy)))


def _spearman(x: Floats, y: Floats, resamples: Resamples | None) -> Resampled:
    return _spearman_of_codes(*score_codes(x), *score_codes(y), resamples)


def _spearman_of_codes(x_code: Ints, n_x: int, y_code: Ints, n_y: int, resamples: Resamples | None) -> Resampled:
    if n_x * n_y <= MAX_RANKED_CELLS and (resamples is None or resamples.fits(n_x * n_y)):
        cells = x_code * n_y + y_code
        return _of_whole_and_drawn(cells, (n_x, n_y), spearman_of_tables, resamples)
    return _spearman_of_pairs(x_code, y_code, n_x, n_y, resamples)


def _of_whole_and_drawn(
    cells: Ints, shape: tuple[int, int], of_tables: Callable[[Floats], Floats], resamples: Resamples | None
) -> Resampled:
    whole = np.bincount(cells, minlength=shape[0] * shape[1]).astype(np.float64).reshape(*shape, 1)
    if resamples is None:
        return float(np.clip(of_tables(whole)[0], -1, 1)), None
    drawn = resamples.counts_of(cells, shape[0] * shape[1]).T.reshape(*shape, -1)
    if resamples.is_drawn:
        return float(np.clip(of_tables(whole)[0], -1, 1)), of_tables(drawn)
    found = of_tables(np.concatenate([whole, drawn], axis=2))  # few tables: one pass
    return float(np.clip(found[0], -1, 1)), found[1:]


def spearman_of_tables(tables: Floats) -> Floats:
    """Return the rank correlation of each table of counts (x, y, b): (b,). Sums go over whole rows of b, the quick way."""
    margins = tables.sum(axis=1), tables.sum(axis=0)
    total = margins[0].sum(axis=0)
    x, y = (np.cumsum(margin, axis=0) - margin / 2 - total / 2 for margin in margins)
    moments = [(margin * ranks).sum(axis=0) for margin, ranks in zip(margins, (x, y), strict=True)]
    squares = [(margin * ranks**2).sum(axis=0) for margin, ranks in zip(margins, (x, y), strict=True)]
    together = ((tables * y).sum(axis=1) * x).sum(axis=0)
    return correlation_of_sums(np.stack([total, *moments, *squares, together], axis=1))


def _spearman_of_pairs(x_code: Ints, y_code: Ints, n_x: int, n_y: int, resamples: Resamples | None) -> Resampled:
    """Where the table of both sides is too large, but few of its cells occur; else with the ranks of the whole."""
    midranks = [_midranks(np.bincount(code).astype(np.float64)[None])[0] for code in (x_code, y_code)]
    ranks = midranks[0][x_code], midranks[1][y_code]
    pairs, cell = np.unique(x_code * n_y + y_code, return_inverse=True)
    if resamples is None or len(pairs) > MAX_RANKED_CELLS or not resamples.fits(len(pairs)):
        return _pearson(*ranks, resamples)
    value, _ = _pearson(*ranks, None)
    counts = resamples.counts_of(cell, len(pairs))
    x_ranks, y_ranks = (
        (_midranks(counts @ np.eye(size)[code]) - counts.sum(axis=1, keepdims=True) / 2)[:, code]
        for size, code in ((n_x, pairs // n_y), (n_y, pairs % n_y))
    )
    moments = [np.einsum("bk,bk->b", counts, m) for m in (x_ranks, y_ranks, x_ranks**2, y_ranks**2, x_ranks * y_ranks)]
    return value, correlation_of_sums(np.stack([counts.sum(axis=1), *moments], axis=1))


def score_codes(scores: Floats) -> tuple[Ints, int]:
    """Return each score's place among the different scores, and how many there are of them."""
    low, span = scores.min(), np.ptp(scores)
    if span <= MAX_SPAN and (scores == np.floor(scores)).all():  # whole numbers need no sort
        places = (scores - low).astype(np.int64)
        present = np.bincount(places) > 0
        return (np.cumsum(present) - 1)[places], int(present.sum())
    values, code = np.unique(scores, return_inverse=True)
    return code, len(values)


def _midranks(frequency: Floats) -> Floats:
    """Return the mean rank of each value (b, values), up to a constant."""
    return np.asarray(np.cumsum(frequency, axis=1) - frequency / 2)


def _kendall(x: Floats, y: Floats, resamples: Resamples | None) -> Resampled:
    (x_code, n_x), (y_code, n_y) = score_codes(x), score_codes(y)
    if resamples is not None and n_x * n_y <= MAX_RANKED_CELLS and resamples.fits(n_x * n_y):
        return _of_whole_and_drawn(x_code * n_y + y_code, (n_x, n_y), _table_tau, resamples)
    balance = _balance(x_code, y_code, n_x, n_y)
    untied = [len(x) - np.bincount(code)[code] for code in (x_code, y_code)]
    columns = np.stack([balance, *untied], axis=1).astype(np.float64)
    total = columns.sum(axis=0)
    value = float(np.clip(_tau(total[None])[0], -1, 1))
    return value, None if resamples is None else _tau(2 * resamples.sums(columns) - total)


def _tau(sums: Floats) -> Floats:
    """Return tau-b from the balance of pairs and the untied pairs of either side, each counted at both its outputs."""
    balance, x_untied, y_untied = sums.T
    return ratio(balance, np.sqrt(np.maximum(x_untied, 0) * np.maximum(y_untied, 0)))


def _table_tau(tables: Floats) -> Floats:
    """Return tau-b of each table of counts (x, y, b): (b,)."""
    x_lower = np.zeros_like(tables)  # outputs lower in x, then those of them that are lower in y too
    x_lower[1:] = np.cumsum(tables, axis=0)[:-1]
    lower = np.zeros_like(tables)
    lower[:, 1:] = np.cumsum(x_lower, axis=1)[:, :-1]
    balance = (tables * (2 * lower + x_lower - x_lower.sum(axis=1, keepdims=True))).sum(axis=(0, 1))
    margins = tables.sum(axis=1), tables.sum(axis=0)
    total = margins[0].sum(axis=0) ** 2
    untied = [total - (margin**2).sum(axis=0) for margin in margins]
    return _tau(np.stack([2 * balance, *untied], axis=1))


def _balance(x_code: Ints, y_code: Ints, n_x: int, n_y: int) -> Ints:
    """Return for each output the outputs in the same order to it on both sides, less those in opposite order."""
    order = np.argsort(x_code, kind="stable")
    ends = np.cumsum(np.bincount(x_code, minlength=n_x))
    below, everything = np.zeros(n_y, dtype=np.int64), np.bincount(y_code, minlength=n_y)
    balance, start = np.zeros(len(x_code), dtype=np.int64), 0
    for end in ends:
        rows = order[start:end]
        mine = np.bincount(y_code[rows], minlength=n_y)
        above = everything - below - mine
        sign_below, sign_above = (2 * np.cumsum(side) - side - side.sum() for side in (below, above))
        balance[rows] = (sign_below - sign_above)[y_code[rows]]
        below, start = below + mine, end
    return balance
