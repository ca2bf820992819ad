"""Agreement and ranking as they would be over all outputs, from labels that were drawn with unequal probabilities.

Each output counts as often as its weight says, one over the probability with which it was drawn: in the table of labels, in
the sums of a correlation, in the ranks, and as a unit of alpha (a design-weighted figure; Pfeffermann 1993). Weights are
scaled to the effective number of labels, (sum w)^2 / sum w^2 (Kish 1965), so that equal ones change no digit. Intervals
come from leaving out each prompt with its weights (`jackknife`), or from draws of prompts (`resample`). Where a fixed number
was drawn in each stratum, the others of a stratum take the place of what is left out (Rust and Rao 1996). That alone is about
the outputs that were drawn from. With `population` an interval is about others of their kind too: how many outputs of each
stratum a prompt has is chance as well (a sample in two phases; Kim, Navarro and Fuller 2006).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from graders.calibration.agreement import (
    ac2_of_tables,
    kappa_without_each,
    kappas_of_tables,
    labels_of_both,
    quadratic_weights,
    why_no_kappa,
)
from graders.calibration.alpha import Metric, alpha_of_tables, coded_scores, had_all_been_alike, is_habit, units_of
from graders.calibration.arrays import Floats, Ints, Scores, cluster_numbers, score_array, scored_by_both
from graders.calibration.drawn import Drawn, Population, drawn_labels
from graders.calibration.jackknife import UNSEEN, UNSEEN_OF_TWO, Kind
from graders.calibration.rank import MAX_RANKED_CELLS, correlation_of_sums, score_codes, spearman_of_tables, why_no_correlation
from graders.calibration.resample import ONE_OUTPUT, TOO_ALIKE, Mask, Resamples, mean_statistic
from graders.calibration.result import Estimate

NO_WEIGHT = "not defined, because no output with both scores was drawn with a known probability"
Correlation = Literal["pearson", "spearman"]


def mean_by_chance(
    values: Scores,
    weights: Scores,
    resamples: Resamples,
    kind: Kind,
    *,
    strata: Iterable[Hashable] | None = None,
    population: Population | None = None,
    most: float | None = None,
) -> Estimate:
    """Return the mean over all outputs of a number that each labelled one has, such as judge less people.

    Parameters
    ----------
    values : array (n,)
        NaN or None where there is none.
    weights, resamples, strata, population
        As in `kappa_by_chance`.
    kind : Kind
        What the number is (`jackknife.ends_of`): "points", "size" for one of 0 or more, or "mean" for one from 0 to `most`.
    most : float, optional
        With "mean", such as for squared errors: the largest that there can be. Large ones are rare and may not have been seen:
        the upper end allows for half an output more with a quarter of it (of an error, half of the scale).

    Examples
    --------
    >>> mean_by_chance([2, 0, 1], [1, 1, 2], Resamples(range(3), rng=np.random.default_rng(0)), "points").value
    1.0
    """
    given = score_array("values", values)
    heavy = _weights(weights, len(given))
    used = ~np.isnan(given) & ~np.isnan(heavy)
    n, n_dropped = int(used.sum()), int((~used).sum())
    if not n:
        return Estimate.missing(NO_WEIGHT, 0, n_dropped)
    sample = drawn_labels(heavy, used, resamples, strata, population)
    unit = most or 1.0
    whole, drawn = sample.sums(np.stack([np.ones(n), given[used] / unit], axis=1))
    value = float(mean_statistic(whole[None])[0])
    rare = None if most is None else np.array([(whole[1] + UNSEEN / 4) / (whole[0] + UNSEEN)])
    found = sample.estimate(value, mean_statistic(drawn), n_dropped, kind, rare)
    in_points, low, high = (None if end is None else unit * end for end in (found.value, found.low, found.high))
    return replace(found, value=in_points, low=low, high=high)


def kappa_by_chance(
    judge: Scores,
    human: Scores,
    labels: Sequence[float],
    weights: Scores,
    resamples: Resamples,
    *,
    strata: Iterable[Hashable] | None = None,
    population: Population | None = None,
) -> Estimate:
    """Return the quadratic-weighted Cohen kappa over all outputs: `agreement.weighted_kappa` of the weighted table of labels.

    Parameters
    ----------
    judge, human, labels
        As in `agreement.weighted_kappa`.
    weights : array (n,)
        One over the probability with which each output was drawn, up to a common factor. A label without a weight is left
        out and counted in n_dropped.
    resamples : Resamples of the n outputs
    strata : iterable (n,), optional
        The stratum of each, where a fixed number was drawn in each. One with fewer than two labels is taken together with
        its neighbour.
    population : Population, optional
        With it, in place of strata: the interval is about other outputs of the kind, and not only about those drawn from.

    Returns
    -------
    Estimate
        n counts the labels used. Not defined, and without an interval, where the plain kappa would be.

    References
    ----------
    Pfeffermann (1993), The Role of Sampling Weights when Modeling Survey Data, International Statistical Review 61:317-337.
    Kish (1965), Survey Sampling. Rust and Rao (1996), Statistical Methods in Medical Research 5:283-310, for the jackknife of
    strata. Kim, Navarro and Fuller (2006), JASA 101:312-320, for that of samples in two phases.

    Examples
    --------
    The two outputs on which both differ were drawn at half the chance: they count twice.

    >>> draws = Resamples(range(6), rng=np.random.default_rng(0))
    >>> judge, human = [1, 1, 0, 0, 1, 0], [1, 1, 0, 0, 0, 1]
    >>> round(kappa_by_chance(judge, human, (0, 1), [1, 1, 1, 1, 1, 1], draws).value, 4)
    0.3333
    >>> kappa_by_chance(judge, human, (0, 1), [1, 1, 1, 1, 2, 2], draws).value
    0.0
    """
    scale = np.asarray(labels, dtype=np.float64)
    judged, median, used, heavy = _labels_drawn(judge, human, scale, weights)
    n, n_dropped = len(judged), int((~used).sum())
    if why := why_no_kappa(judged, median, scale) if n else NO_WEIGHT:
        return Estimate.missing(why, n, n_dropped)
    cells, squares = median * len(scale) + judged, quadratic_weights(len(scale))
    sample = drawn_labels(heavy, used, resamples, strata, population)
    table, tables = sample.tables(cells, squares.size)
    drawn = kappas_of_tables(tables, squares)
    if not sample.resamples.is_drawn:
        value = float(kappas_of_tables(table[None], squares)[0])
        return kappa_without_each(cells, sample.resamples, squares, n_dropped, table=table, drawn=sample.scaled(value, drawn))
    return sample.estimate(float(kappas_of_tables(table[None], squares)[0]), drawn, n_dropped, "correlation")


def ac2_by_chance(
    judge: Scores,
    human: Scores,
    labels: Sequence[float],
    weights: Scores,
    resamples: Resamples,
    *,
    strata: Iterable[Hashable] | None = None,
    population: Population | None = None,
) -> Estimate:
    """Return Gwet's AC2 over all outputs: `agreement.gwet_ac2` of the weighted table of labels. Arguments as in `kappa_by_chance`."""
    scale = np.asarray(labels, dtype=np.float64)
    judged, median, used, heavy = _labels_drawn(judge, human, scale, weights)
    n_dropped = int((~used).sum())
    if len(judged) < 2:
        return Estimate.missing(ONE_OUTPUT if len(judged) else NO_WEIGHT, len(judged), n_dropped)
    cells, squares = median * len(scale) + judged, quadratic_weights(len(scale))
    sample = drawn_labels(heavy, used, resamples, strata, population)
    table, tables = sample.tables(cells, squares.size)
    return sample.estimate(float(ac2_of_tables(table[None], squares)[0]), ac2_of_tables(tables, squares), n_dropped, "agreement")


def alpha_by_chance(
    ratings: Scores,
    metric: Metric,
    weights: Scores,
    resamples: Resamples,
    labels: Sequence[float] = (),
    *,
    judge: Scores | None = None,
    strata: Iterable[Hashable] | None = None,
    population: Population | None = None,
) -> Estimate:
    """Return Krippendorff's alpha over all outputs: a unit counts as often as its weight says.

    Parameters
    ----------
    ratings, metric, labels
        As in `alpha.krippendorff_alpha`.
    weights, resamples, strata, population
        As in `kappa_by_chance`.
    judge : array (n,), optional
        With it, the alpha of the judge against single people (`alpha.judge_alpha`).

    Examples
    --------
    >>> draws = Resamples(range(4), rng=np.random.default_rng(0))
    >>> table = [[1, 1], [1, 2], [2, 2], [3, 3]]
    >>> [round(alpha_by_chance(table, "interval", w, draws).value, 3) for w in ([1, 1, 1, 1], [1, 4, 1, 1])]
    [0.821, 0.53]
    """
    table = score_array("ratings", ratings, ndim=(2,))
    heavy = _weights(weights, len(table))
    given = ~np.isnan(table)
    own = None if judge is None else score_array("judge", judge)
    if own is not None:
        if len(own) != len(table):
            raise ValueError(f"judge has {len(own)} outputs, human {len(table)}; one row an output in both")
        given &= ~np.isnan(own)[:, None]
    used: Mask = np.asarray((given.sum(axis=1) >= (2 if own is None else 1)) & ~np.isnan(heavy))
    n, n_dropped = int(used.sum()), int((~used).sum())
    if not n:
        return Estimate.missing(NO_WEIGHT, 0, n_dropped)
    table, given, sample = table[used], given[used], drawn_labels(heavy, used, resamples, strata, population)
    part = sample.resamples
    if own is not None:
        table, given = np.column_stack([own[used], table]), np.column_stack([np.ones(n, dtype=bool), given])
    values, codes = coded_scores(table, given)
    if len(values) == 1:
        why = f"not defined, because no two scores differ: all {int(given.sum())} are {values[0]:g}"
        return Estimate.missing(why, n, n_dropped)
    if n == 1:
        return Estimate.missing(ONE_OUTPUT, n, n_dropped)
    units = units_of(codes, len(values), part) if own is None else units_of(codes[:, 1:], len(values), part, codes[:, 0])
    if units is None:
        return Estimate.missing(f"not defined, because {len(values)} different scores are too many to weight", n, n_dropped)
    whole, drawn = sample.sums(units.columns[units.kind])
    value = float(alpha_of_tables(whole[:, None], values, metric)[0])
    n_units, more = float(sample.sizes.sum()), UNSEEN if own is None else UNSEEN_OF_TWO
    unseen = None if part.is_drawn else had_all_been_alike(whole, values, metric, labels, n_units=n_units, unseen=more)
    found = sample.estimate(value, alpha_of_tables(np.ascontiguousarray(drawn.T), values, metric), n_dropped, "correlation", unseen)
    too_alike = own is not None and is_habit(codes[:, 0], codes[:, 1:], part)
    return found.without_interval(TOO_ALIKE) if too_alike else found


def correlation_by_chance(
    name: Correlation,
    judge: Scores,
    human: Scores,
    weights: Scores,
    resamples: Resamples,
    *,
    groups: Iterable[Hashable] | None = None,
    strata: Iterable[Hashable] | None = None,
    population: Population | None = None,
) -> Estimate:
    """Return Pearson's or Spearman's correlation of judge and mean human scores over all outputs.

    The sums of a correlation, and the ranks of Spearman's, count each output as often as its weight says. With groups
    (criteria), the mean of the correlations inside each, as in `rank.within`.

    Parameters
    ----------
    name : "pearson" or "spearman"
    judge, human, groups
        As in `rank.pearson` and `rank.within`.
    weights, resamples, strata, population
        As in `kappa_by_chance`.

    Examples
    --------
    An output with the weight 2 counts as two.

    >>> draws = Resamples(range(4), rng=np.random.default_rng(0))
    >>> round(correlation_by_chance("spearman", [1, 2, 3, 4], [1, 3, 2, 4], [1, 1, 1, 2], draws).value, 4)
    0.8947
    """
    x, y, both = scored_by_both(judge, human)
    heavy = _weights(weights, len(both))
    kept = ~np.isnan(heavy)[both]
    x, y, used = x[kept], y[kept], both & ~np.isnan(heavy)
    n, n_dropped = len(x), int((~used).sum())
    if not n:
        return Estimate.missing(NO_WEIGHT, 0, n_dropped)
    numbers = np.zeros(n, dtype=np.int64) if groups is None else cluster_numbers("groups", groups, len(both))[used]
    sample = drawn_labels(heavy, used, resamples, strata, population)
    why, found, rows = "", [], np.zeros(n, dtype=bool)
    for group in np.unique(numbers):
        mine = numbers == group
        if why_not := why_no_correlation(x[mine], y[mine]):
            why = why_not
            continue
        rows |= mine
        found.append((float(sample.sizes[mine].sum()), *_correlation(name, x[mine], y[mine], sample.of(mine))))
    if not found:
        return Estimate.missing(why if groups is None else "not defined, because it is defined in no criterion", n, n_dropped)
    shares = np.array([share for share, *_ in found]) / sum(share for share, *_ in found)
    value, drawn = (np.average([one[place] for one in found], axis=0, weights=shares) for place in (1, 2))
    one_more = [value + share * (unseen - own) for share, (_, own, _, unseen) in zip(shares.tolist(), found, strict=True)]  # in a group
    alike = None if resamples.is_drawn else np.concatenate(one_more)
    return sample.of(rows).estimate(float(value), drawn, n_dropped + int((~rows).sum()), "correlation", alike)


def _correlation(name: Correlation, x: Floats, y: Floats, sample: Drawn) -> tuple[float, Floats, Floats]:
    """Return a correlation, that of each resample, and with half an output more that both put lowest, or highest."""
    if name == "spearman":
        (x_code, n_x), (y_code, n_y) = score_codes(x), score_codes(y)
        if n_x * n_y <= MAX_RANKED_CELLS and sample.resamples.fits(n_x * n_y):
            shape, (whole, tables) = (n_x, n_y, -1), sample.tables(x_code * n_y + y_code, n_x * n_y)
            more = np.zeros((2, n_x * n_y))
            more[0, 0] = more[1, -1] = UNSEEN
            value = float(np.clip(spearman_of_tables(whole.reshape(shape))[0], -1, 1))
            return value, spearman_of_tables(tables.T.reshape(shape)), spearman_of_tables((whole + more).T.reshape(shape))
        x, y = (_midranks(code, n_codes, sample.sizes) for code, n_codes in ((x_code, n_x), (y_code, n_y)))
    x, y = ((side - np.average(side, weights=sample.sizes)) / side.std() for side in (x, y))
    whole, drawn = sample.sums(_moments(x, y))
    ends = UNSEEN * _moments(*(np.array([side.min(), side.max()]) for side in (x, y)))
    value = float(np.clip(correlation_of_sums(whole[None])[0], -1, 1))
    return value, correlation_of_sums(drawn), correlation_of_sums(whole + ends)


def _moments(x: Floats, y: Floats) -> Floats:
    return np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], axis=1)


def _midranks(codes: Ints, n_codes: int, sizes: Floats) -> Floats:
    frequency = np.bincount(codes, sizes, minlength=n_codes)
    return np.asarray((np.cumsum(frequency) - frequency / 2)[codes])


def _labels_drawn(judge: Scores, human: Scores, scale: Floats, weights: Scores) -> tuple[Ints, Ints, Mask, Floats]:
    """Return the places of both labels of the outputs that have them and a weight, which those are, and the weights of all."""
    judged, median, both = labels_of_both(judge, human, scale)
    heavy = _weights(weights, len(both))
    kept, used = ~np.isnan(heavy)[both], both & ~np.isnan(heavy)
    return judged[kept], median[kept], used, heavy


def _weights(weights: Scores, length: int) -> Floats:
    given = score_array("weights", weights)
    if len(given) != length:
        raise ValueError(f"weights has {len(given)} entries, must have one an output: {length}")
    if (given <= 0).any():
        raise ValueError(f"weights has {given[given <= 0][0]:g}, must be above 0: one over the probability of being drawn")
    return given
