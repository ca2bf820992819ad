"""Agreement and ranking as they would be over all outputs, from labels that were drawn with unequal probabilities.

Each output counts as often as its weight says, one over the probability with which it was drawn: in the table of labels, in
the sums of a correlation, in the ranks, and as a unit of alpha (a design-weighted figure; Pfeffermann 1993). Weights are
scaled to the effective number of labels, (sum w)^2 / sum w^2 (Kish 1965), so that equal ones change no digit. Intervals
come from leaving out each prompt with its weights (`jackknife`), or from draws of prompts (`resample`); that the strata were
fixed is not used, which can make them a little long, not short.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
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
from graders.calibration.alpha import Metric, alpha_of_tables, coded_scores, had_all_been_alike, units_of
from graders.calibration.arrays import Floats, Ints, Scores, cluster_numbers, score_array, scored_by_both
from graders.calibration.jackknife import UNSEEN
from graders.calibration.rank import MAX_RANKED_CELLS, correlation_of_sums, score_codes, spearman_of_tables, why_no_correlation
from graders.calibration.resample import Mask, Resamples, with_interval
from graders.calibration.result import Estimate

NO_WEIGHT = "not defined, because no output with both scores was drawn with a known probability"
Correlation = Literal["pearson", "spearman"]


def kappa_by_chance(judge: Scores, human: Scores, labels: Sequence[float], weights: Scores, resamples: Resamples) -> Estimate:
    """Return the quadratic-weighted Cohen kappa over all outputs: `agreement.weighted_kappa` of the weighted table of labels.

    Parameters
    ----------
    judge, human, labels
        As in `agreement.weighted_kappa`.
    weights : array (n,)
        One over the probability with which each output was drawn, up to a common factor. A label without a weight is left
        out and counted in n_dropped.
    resamples : Resamples of the n outputs

    Returns
    -------
    Estimate
        n counts the labels used. Not defined, and without an interval, where the plain kappa would be.

    References
    ----------
    Pfeffermann (1993), The Role of Sampling Weights when Modeling Survey Data, International Statistical Review 61:317-337.
    Kish (1965), Survey Sampling, section 11.7.

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
    judged, median, used, sizes = _labels_drawn(judge, human, scale, weights)
    n, n_dropped = len(judged), int((~used).sum())
    if why := why_no_kappa(judged, median, scale) if n else NO_WEIGHT:
        return Estimate.missing(why, n, n_dropped)
    cells, squares, part = median * len(scale) + judged, quadratic_weights(len(scale)), resamples.of(used)
    if not part.is_drawn:
        return kappa_without_each(cells, part, squares, n_dropped, sizes)
    table = _table(cells, sizes, squares.size)
    drawn = kappas_of_tables(part.counts_of(cells, squares.size, sizes), squares)
    return with_interval(float(kappas_of_tables(table[None], squares)[0]), drawn, part, n, n_dropped, kind="correlation")


def ac2_by_chance(judge: Scores, human: Scores, labels: Sequence[float], weights: Scores, resamples: Resamples) -> Estimate:
    """Return Gwet's AC2 over all outputs: `agreement.gwet_ac2` of the weighted table of labels. Arguments as in `kappa_by_chance`."""
    scale = np.asarray(labels, dtype=np.float64)
    judged, median, used, sizes = _labels_drawn(judge, human, scale, weights)
    n, n_dropped = len(judged), int((~used).sum())
    if not n:
        return Estimate.missing(NO_WEIGHT, 0, n_dropped)
    cells, squares, part = median * len(scale) + judged, quadratic_weights(len(scale)), resamples.of(used)
    value = float(ac2_of_tables(_table(cells, sizes, squares.size)[None], squares)[0])
    drawn = ac2_of_tables(part.counts_of(cells, squares.size, sizes), squares)
    return with_interval(value, drawn, part, n, n_dropped, kind="correlation")


def alpha_by_chance(
    ratings: Scores, metric: Metric, weights: Scores, resamples: Resamples, labels: Sequence[float] = (), *, judge: Scores | None = None
) -> Estimate:
    """Return Krippendorff's alpha over all outputs: a unit counts as often as its weight says.

    Parameters
    ----------
    ratings, metric, labels
        As in `alpha.krippendorff_alpha`.
    weights, resamples
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
    table, given, part, sizes = table[used], given[used], resamples.of(used), _sizes(heavy[used])
    if own is not None:
        table, given = np.column_stack([own[used], table]), np.column_stack([np.ones(n, dtype=bool), given])
    values, codes = coded_scores(table, given)
    if len(values) == 1:
        why = f"not defined, because no two scores differ: all {int(given.sum())} are {values[0]:g}"
        return Estimate.missing(why, n, n_dropped)
    units = units_of(codes, len(values), part) if own is None else units_of(codes[:, 1:], len(values), part, codes[:, 0])
    if units is None:
        return Estimate.missing(f"not defined, because {len(values)} different scores are too many to weight", n, n_dropped)
    whole = np.bincount(units.kind, sizes, minlength=len(units.columns)) @ units.columns
    drawn = part.sums(units.columns[units.kind] * sizes[:, None]).T
    value = float(alpha_of_tables(whole[:, None], values, metric)[0])
    unseen = None if part.is_drawn else had_all_been_alike(whole, values, metric, labels, float(sizes.sum()))
    resampled = alpha_of_tables(np.ascontiguousarray(drawn), values, metric)
    return with_interval(value, resampled, part, n, n_dropped, kind="correlation", unseen=unseen)


def correlation_by_chance(
    name: Correlation, judge: Scores, human: Scores, weights: Scores, resamples: Resamples, *, groups: Iterable[Hashable] | None = None
) -> Estimate:
    """Return Pearson's or Spearman's correlation of judge and mean human scores over all outputs.

    The sums of a correlation, and the ranks of Spearman's, count each output as often as its weight says. With groups
    (criteria), the mean of the correlations inside each, as in `rank.within`.

    Parameters
    ----------
    name : "pearson" or "spearman"
    judge, human, groups
        As in `rank.pearson` and `rank.within`.
    weights, resamples
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
    sizes, part = _sizes(heavy[used]), resamples.of(used)
    why, found, rows = "", [], np.zeros(n, dtype=bool)
    for group in np.unique(numbers):
        mine = numbers == group
        if why_not := why_no_correlation(x[mine], y[mine]):
            why = why_not
            continue
        rows |= mine
        found.append((float(sizes[mine].sum()), *_correlation(name, x[mine], y[mine], sizes[mine], part.of(mine))))
    if not found:
        return Estimate.missing(why if groups is None else "not defined, because it is defined in no criterion", n, n_dropped)
    shares = [share for share, *_ in found]
    value, drawn, unseen = (np.average([one[place] for one in found], axis=0, weights=shares) for place in (1, 2, 3))
    alike = None if part.is_drawn else unseen
    n_dropped += int((~rows).sum())
    return with_interval(float(value), drawn, part.of(rows), int(rows.sum()), n_dropped, kind="correlation", unseen=alike)


def _correlation(name: Correlation, x: Floats, y: Floats, sizes: Floats, resamples: Resamples) -> tuple[float, Floats, Floats]:
    """Return a correlation, that of each resample, and with half an output more that both put lowest, or highest."""
    if name == "spearman":
        (x_code, n_x), (y_code, n_y) = score_codes(x), score_codes(y)
        if n_x * n_y <= MAX_RANKED_CELLS and resamples.fits(n_x * n_y):
            cells, shape = x_code * n_y + y_code, (n_x, n_y, -1)
            whole = _table(cells, sizes, n_x * n_y)
            drawn = resamples.counts_of(cells, n_x * n_y, sizes).T.reshape(shape)
            more = np.zeros((2, n_x * n_y))
            more[0, 0] = more[1, -1] = UNSEEN
            value = float(np.clip(spearman_of_tables(whole.reshape(shape))[0], -1, 1))
            return value, spearman_of_tables(drawn), spearman_of_tables((whole + more).T.reshape(shape))
        x, y = (_midranks(code, n_codes, sizes) for code, n_codes in ((x_code, n_x), (y_code, n_y)))
    x, y = ((side - np.average(side, weights=sizes)) / side.std() for side in (x, y))
    columns = _moments(x, y) * sizes[:, None]
    ends = UNSEEN * _moments(*(np.array([side.min(), side.max()]) for side in (x, y)))
    value = float(np.clip(correlation_of_sums(columns.sum(axis=0)[None])[0], -1, 1))
    return value, correlation_of_sums(resamples.sums(columns)), correlation_of_sums(columns.sum(axis=0) + ends)


def _table(cells: Ints, sizes: Floats, n_cells: int) -> Floats:
    return np.bincount(cells, sizes, minlength=n_cells).astype(np.float64)


def _moments(x: Floats, y: Floats) -> Floats:
    return np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], axis=1)


def _midranks(codes: Ints, n_codes: int, sizes: Floats) -> Floats:
    frequency = np.bincount(codes, sizes, minlength=n_codes)
    return np.asarray((np.cumsum(frequency) - frequency / 2)[codes])


def _labels_drawn(judge: Scores, human: Scores, scale: Floats, weights: Scores) -> tuple[Ints, Ints, Mask, Floats]:
    """Return the places of both labels of the outputs that have them and a weight, which those are, and their sizes."""
    judged, median, both = labels_of_both(judge, human, scale)
    heavy = _weights(weights, len(both))
    kept, used = ~np.isnan(heavy)[both], both & ~np.isnan(heavy)
    return judged[kept], median[kept], used, _sizes(heavy[used])


def _weights(weights: Scores, length: int) -> Floats:
    given = score_array("weights", weights)
    if len(given) != length:
        raise ValueError(f"weights has {len(given)} entries, must have one an output: {length}")
    if (given <= 0).any():
        raise ValueError(f"weights has {given[given <= 0][0]:g}, must be above 0: one over the probability of being drawn")
    return given


def _sizes(weights: Floats) -> Floats:
    """Return how many outputs each label stands for: weights that sum to the effective number of labels."""
    return np.asarray(weights * (weights.sum() / (weights**2).sum())) if len(weights) else weights
