"""Agreement of a judge with humans beyond chance: quadratic-weighted Cohen kappa, Gwet's AC2, and their intervals.

Computed from confusion tables, so that a thousand bootstrap resamples are a few matrix products. Point values are
those of sklearn.metrics.cohen_kappa_score, which the tests compare; it is not imported here (2 s).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from graders.calibration.arrays import (
    Floats,
    Ints,
    Scores,
    check_level,
    check_range,
    cluster_numbers,
    score_array,
)
from graders.calibration.jackknife import UNSEEN_OF_TWO
from graders.calibration.rank import WHY_NONE
from graders.calibration.resample import FEW_PROMPTS, NO_RESAMPLES, ONE_OUTPUT, TOO_ALIKE, Resamples, are_too_alike, with_interval
from graders.calibration.result import Estimate
from graders.calibration.wilson import wilson_bounds

CHUNK_CELLS = 4_000_000  # resample weights held at once: 32 MB
RULE_OF_THREE = 3.0  # outputs of a kind that there may be at most, 95 in 100, where none was seen
MIN_SHARE_DEFINED = 0.5  # of the resamples; with fewer there is no interval


def weighted_kappa(
    judge: Scores,
    human: Scores,
    labels: Sequence[float],
    *,
    rng: np.random.Generator,
    level: float = 0.95,
    clusters: Iterable[Hashable] | None = None,
    n_boot: int = 1000,
    resamples: Resamples | None = None,
) -> Estimate:
    """Return the quadratic-weighted Cohen kappa of a judge against the median human.

    1 - (sum of w_ij o_ij) / (sum of w_ij e_ij): o the share of outputs with human label i and judge label j, e that
    share if the two were independent, w_ij = (i - j)^2 with i, j the places of the labels on the scale (so labels count
    as equally far apart). 1 is full agreement, 0 what chance gives, below 0 is worse than chance.

    Parameters
    ----------
    judge : array (n,)
        Judge scores on the scale of labels, rounded here to the nearest label, half up; NaN or None is unscored.
    human : array (n,) or (n, raters)
        Human scores on the same scale, NaN or None where a rater gave none; the median of each row is taken and
        rounded in the same way. With two raters a tie goes up: pass against fail counts as a pass.
    labels : sequence of float
        The scale, rising, such as (1, 2, 3, 4, 5).
    rng : numpy.random.Generator
        Where the resamples come from.
    level : float
        How often the interval should hold the true kappa over many studies.
    clusters : iterable (n,), optional
        The prompt of each output. Outputs of one prompt are resampled together.
    n_boot : int
        How many resamples; none for 0, and then no interval.
    resamples : Resamples of the n outputs, optional
        Used in place of clusters and n_boot, so that many figures share their draws.

    Returns
    -------
    Estimate
        A kappa from -1 to 1; n counts the outputs with both scores, n_dropped the others. Not defined when there is
        none, or when the judge or the humans use one label only (kappa is then 0 or 0/0 whatever the agreement).

    Notes
    -----
    Up to 200 prompts the interval comes from leaving out each (`jackknife.ends_of`), on Fisher's z scale; where all agree it
    is Wilson's. There is none where the judge or the people give another label than their most frequent on fewer than three
    prompts. With more it is a percentile bootstrap over prompts; one made-up prompt is added to the pool that is drawn from:
    a pair of labels drawn evenly, with the weight of the square root of the mean number of outputs a prompt.

    References
    ----------
    Cohen (1968), Psychological Bulletin 70:213-220. Fleiss and Cohen (1973), Educational and Psychological Measurement
    33:613-619, on quadratic weights.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> round(weighted_kappa([1, 2, 3, 3], [1, 2, 3, 2], (1, 2, 3), rng=rng).value, 4)
    0.8
    >>> weighted_kappa([3, 3, 3], [1, 2, 3], (1, 2, 3), rng=rng).why_missing
    'not defined, because the judge gives all 3 outputs the label 3'
    """
    check_level(level)
    scale = _check_labels(labels)
    judged, median, both = labels_of_both(judge, human, scale)
    groups = None if clusters is None else cluster_numbers("clusters", clusters, len(both))[both]
    n, n_dropped = int(both.sum()), int((~both).sum())
    if why := why_no_kappa(judged, median, scale):
        return Estimate.missing(why, n, n_dropped)
    cells, weights = median * len(scale) + judged, quadratic_weights(len(scale))
    table = np.bincount(cells, minlength=len(scale) ** 2).astype(np.float64)
    value = float(kappas_of_tables(table[None], weights)[0])
    part = resamples and resamples.of(both)
    if part is None and n_boot and (n if groups is None else len(np.unique(groups))) <= FEW_PROMPTS:
        part = Resamples(np.arange(n) if groups is None else groups, rng=rng, level=level)
    if part is not None and not part.is_drawn:
        drawn = kappas_of_tables(part.counts_of(cells, weights.size), weights)
        return kappa_without_each(cells, part, weights, n_dropped, table=table, drawn=drawn)
    level = level if part is None else part.level
    resampled = _bootstrap(cells, groups, weights, rng, n_boot) if part is None else _of_resamples(cells, part, weights, rng)
    return _with_interval(value, resampled, level, n, n_dropped)


def cohen_kappa(
    judge: Scores,
    human: Scores,
    *,
    rng: np.random.Generator,
    level: float = 0.95,
    clusters: Iterable[Hashable] | None = None,
    n_boot: int = 1000,
) -> Estimate:
    """Return Cohen's kappa of pass (1) and fail (0) verdicts: `weighted_kappa` with the labels (0, 1).

    With two labels every weight is 0 or 1, so this is the unweighted kappa of Cohen (1960).

    Examples
    --------
    Of 50 outputs both pass 20, both fail 15: they agree on .7, by chance on .5, so kappa is .2 / .5.

    >>> judge, human = [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15, [1] * 25 + [0] * 25
    >>> round(cohen_kappa(judge, human, rng=np.random.default_rng(0)).value, 4)
    0.4
    """
    return weighted_kappa(judge, human, (0, 1), rng=rng, level=level, clusters=clusters, n_boot=n_boot)


def resampled_kappa(
    judge: Scores, human: Scores, labels: Sequence[float], resamples: Resamples, rng: np.random.Generator
) -> tuple[Estimate, Floats, Floats]:
    """Return `weighted_kappa` without its interval, the kappa of each resample, and `unseen` of `jackknife.ends_of`.

    For what is made of several.
    """
    scale = _check_labels(labels)
    judged, median, both = labels_of_both(judge, human, scale)
    n, n_dropped = int(both.sum()), int((~both).sum())
    if why := why_no_kappa(judged, median, scale):
        return Estimate.missing(why, n, n_dropped), np.empty(0), np.empty(0)
    cells, weights = median * len(scale) + judged, quadratic_weights(len(scale))
    table = np.bincount(cells, minlength=len(scale) ** 2).astype(np.float64)
    value = Estimate(float(kappas_of_tables(table[None], weights)[0]), None, None, n, why_missing=NO_RESAMPLES, n_dropped=n_dropped)
    part = resamples.of(both)
    drawn = _of_resamples(cells, part, weights, rng) if part.is_drawn else kappas_of_tables(part.counts_of(cells, weights.size), weights)
    return value, drawn, kappas_of_tables(table + had_both_been_alike(weights), weights)


def gwet_ac2(judge: Scores, human: Scores, labels: Sequence[float], resamples: Resamples | None = None) -> Estimate:
    """Return Gwet's AC2 of a judge against the median human, with quadratic weights.

    (pa - pe) / (1 - pe): pa the weighted share of agreement, of weights 1 - (i - j)^2 / (k - 1)^2; pe what chance gives
    when a rater guesses as often as labels are in doubt: the sum of weights times the sum of p (1 - p), over k (k - 1),
    p the mean share of each label over both sides. Kappa falls towards 0 when nearly all scores are alike, however well
    the two agree; AC2 does not. On even scores both say the same.

    Parameters
    ----------
    judge, human, labels
        As in `weighted_kappa`, rounded in the same way.
    resamples : Resamples of the n items, optional
        For the interval.

    Returns
    -------
    Estimate
        1 is full agreement, 0 chance; of three labels or more it may lie below -1. Defined also when one side, or both, uses
        one label. Not defined when one output has both scores, or none. irrCAC.raw.CAC(ratings, "quadratic", categories=labels).gwet().

    References
    ----------
    Gwet (2014), Handbook of Inter-Rater Reliability, 4th ed., chapter 5.

    Examples
    --------
    Both give 18 of 20 a pass, and never the other two alike: kappa is below 0, AC2 high. pa = .8 and p = .9, .1, so
    pe = 2 (2 * .9 * .1) / 2 = .18.

    >>> judge, human = [1] * 16 + [0, 0, 1, 1] , [1] * 16 + [1, 1, 0, 0]
    >>> round(gwet_ac2(judge, human, (0, 1)).value, 4), round((0.8 - 0.18) / (1 - 0.18), 4)
    (0.7561, 0.7561)
    """
    scale = _check_labels(labels)
    judged, median, both = labels_of_both(judge, human, scale)
    n, n_dropped = len(judged), int((~both).sum())
    if not n:
        return Estimate.missing(WHY_NONE, 0, n_dropped)
    if n == 1:
        return Estimate.missing(ONE_OUTPUT, n, n_dropped)
    cells, n_cells, weights = median * len(scale) + judged, len(scale) ** 2, quadratic_weights(len(scale))
    value = float(ac2_of_tables(np.bincount(cells, minlength=n_cells)[None].astype(np.float64), weights)[0])
    part = None if resamples is None else resamples.of(both)
    resampled = None if part is None else ac2_of_tables(part.counts_of(cells, n_cells), weights)
    return with_interval(value, resampled, part, n, n_dropped, kind="agreement")


def labels_of_both(judge: Scores, human: Scores, scale: Floats) -> tuple[Ints, Ints, npt.NDArray[np.bool_]]:
    """Return the places of both labels of the outputs that have them, and which those are; ValueError when unfit."""
    scores, ratings = score_array("judge", judge), score_array("human", human, ndim=(1, 2))
    ratings = ratings if ratings.ndim == 2 else ratings[:, None]
    if len(scores) != len(ratings):
        raise ValueError(f"judge has {len(scores)} outputs, human {len(ratings)}; one row an output in both")
    for name, array in (("judge", scores), ("human", ratings)):
        check_range(name, array, scale[0], scale[-1])
    both = ~np.isnan(scores) & ~np.isnan(ratings).all(axis=1)
    judged = _nearest_label(scores[both], scale)
    return judged, _nearest_label(_row_medians(ratings[both]), scale), both


def _row_medians(ratings: Floats) -> Floats:
    """Return the median of the scores in each row: numpy.nanmedian, at a tenth of its time where NaN occur."""
    if not len(ratings):
        return np.empty(0)
    rising, rows = np.sort(ratings, axis=1), np.arange(len(ratings))  # NaN come last
    count = (~np.isnan(ratings)).sum(axis=1)
    return np.asarray((rising[rows, (count - 1) // 2] + rising[rows, count // 2]) / 2)


def _check_labels(labels: Sequence[float]) -> Floats:
    scale = score_array("labels", labels)
    if len(scale) < 2 or not (np.diff(scale) > 0).all():
        raise ValueError(f"labels is {list(labels)}, must be two or more, rising, such as 1, 2, 3, 4, 5")
    return scale


def _nearest_label(scores: Floats, scale: Floats) -> Ints:
    """Return the place of the nearest label; a score halfway between two goes to the upper."""
    return np.searchsorted((scale[:-1] + scale[1:]) / 2, scores, side="right").astype(np.int64)


def why_no_kappa(judged: Ints, median: Ints, scale: Floats) -> str:
    if not len(judged):
        return WHY_NONE
    for who, places in (("the judge gives", judged), ("the humans give", median)):
        if (places == places[0]).all():
            count = f"all {len(places)} outputs" if len(places) > 1 else "the only output"
            return f"not defined, because {who} {count} the label {scale[places[0]]:g}"
    return ""


def quadratic_weights(n_labels: int) -> Floats:
    place = np.arange(n_labels, dtype=np.float64)
    return np.asarray((place[:, None] - place[None, :]) ** 2)


def kappas_of_tables(tables: Floats, weights: Floats) -> Floats:
    """Return the kappa of each confusion table (b, k * k), NaN where it is 0/0."""
    square = tables.reshape(-1, *weights.shape)
    rows, columns, total = square.sum(axis=2), square.sum(axis=1), np.maximum(tables.sum(axis=1), 1e-12)
    observed = tables @ weights.ravel() / total
    expected = ((rows @ weights) * columns).sum(axis=1) / total**2
    return np.asarray(1 - np.divide(observed, expected, out=np.full_like(observed, np.nan), where=expected > 0))


def ac2_of_tables(tables: Floats, distances: Floats) -> Floats:
    """Return Gwet's AC2 of each confusion table (b, k * k), NaN where it is empty."""
    size, alike = len(distances), 1 - distances / distances.max()
    shares = tables.reshape(-1, size, size) / np.maximum(tables.sum(axis=1), 1e-12)[:, None, None]
    mean = (shares.sum(axis=1) + shares.sum(axis=2)) / 2
    agreed = (shares * alike).sum(axis=(1, 2))
    chance = alike.sum() * (mean * (1 - mean)).sum(axis=1) / (size * (size - 1))
    found = (agreed - chance) / (1 - chance)
    return np.asarray(np.where(tables.sum(axis=1) > 0, found, np.nan))


def _bootstrap(cells: Ints, clusters: Ints | None, weights: Floats, rng: np.random.Generator, n_boot: int) -> Floats:
    """Return the kappas of n_boot resamples of prompts, the made-up one among them (Notes of weighted_kappa)."""
    n_cells, even = weights.size, np.full(weights.size, 1 / weights.size)
    if clusters is None:  # each output is its own prompt: draw the cells of the table directly
        share = (np.bincount(cells, minlength=n_cells) + even) / (len(cells) + 1)
        return kappas_of_tables(rng.multinomial(len(cells), share, size=n_boot).astype(np.float64), weights)
    numbers = np.unique(clusters, return_inverse=True)[1]
    n_clusters = int(numbers.max()) + 1
    tables = np.bincount(numbers * n_cells + cells, minlength=n_clusters * n_cells).reshape(n_clusters, n_cells)
    share, weight = np.full(n_clusters + 1, 1 / (n_clusters + 1)), (len(cells) / n_clusters) ** 0.5
    kappas = []
    for start in range(0, n_boot, step := max(1, CHUNK_CELLS // n_clusters)):
        drawn = rng.multinomial(n_clusters, share, size=min(step, n_boot - start))
        added = rng.multinomial(drawn[:, -1], even) * weight
        kappas.append(kappas_of_tables(drawn[:, :-1].astype(np.float64) @ tables.astype(np.float64) + added, weights))
    return np.concatenate(kappas)


def _of_resamples(cells: Ints, resamples: Resamples, weights: Floats, rng: np.random.Generator) -> Floats:
    """Return the kappas of draws made already; the made-up prompt takes the place of its share of each."""
    n_clusters = resamples.n_drawn_from
    made_up = rng.binomial(n_clusters, 1 / (n_clusters + 1), size=resamples.n_boot)
    added = rng.multinomial(made_up, np.full(weights.size, 1 / weights.size)) * (len(cells) / n_clusters) ** 0.5
    tables = resamples.counts_of(cells, weights.size) * (1 - made_up / n_clusters)[:, None]
    return kappas_of_tables(tables + added, weights)


def kappa_without_each(cells: Ints, resamples: Resamples, weights: Floats, n_dropped: int, *, table: Floats, drawn: Floats) -> Estimate:
    """Return the kappa of a table (k * k,) with its interval from `drawn` (C,), the kappa without each prompt.

    Where all outputs agree it is Wilson's for as many outputs as prompts have another label than the most frequent: kappa
    read as the share of these on which the two agree for a reason and not by chance. Where the two never agree on a pass (or
    a fail), the upper end allows for three outputs on which they do (Hanley and Lippman-Hand 1983, JAMA 249:1743-1745).
    """
    value, n = float(kappas_of_tables(table[None], weights)[0]), len(cells)
    square = table.reshape(weights.shape)
    of_people, of_judge = cells // len(weights) != np.argmax(square.sum(axis=1)), cells % len(weights) != np.argmax(square.sum(axis=0))
    if are_too_alike(resamples, of_people, of_judge):
        return Estimate(value, None, None, n, TOO_ALIKE, n_dropped=n_dropped)
    found = with_interval(
        value, drawn, resamples, n, n_dropped, kind="correlation", unseen=kappas_of_tables(table + had_both_been_alike(weights), weights)
    )
    if len(weights) == 2 and found.high is not None and not square.diagonal().all():
        more = RULE_OF_THREE * np.diag(square.diagonal() == 0)
        return replace(found, high=max(found.high, float(kappas_of_tables((table + more.ravel())[None], weights)[0])))
    if value < 1 or resamples.n_drawn_from < 2:
        return found
    rare = resamples.of(cells != np.argmax(table)).n_drawn_from
    low, _ = wilson_bounds(1.0, rare, resamples.level)
    return Estimate(value, low, value, n, method=f"Wilson on {rare} {resamples.unit}", n_dropped=n_dropped)


def had_both_been_alike(weights: Floats) -> Floats:
    """Return a part of an output more in each place of the table where both give the same: (labels, k * k)."""
    return np.asarray(UNSEEN_OF_TWO * np.eye(weights.size)[:: len(weights) + 1])


def _with_interval(value: float, resampled: Floats, level: float, n: int, n_dropped: int) -> Estimate:
    if not len(resampled):
        return Estimate(value, None, None, n, why_missing=NO_RESAMPLES, n_dropped=n_dropped)
    defined = resampled[np.isfinite(resampled)]
    if len(defined) < max(1, MIN_SHARE_DEFINED * len(resampled)):
        why = f"no interval: kappa is not defined in {len(resampled) - len(defined)} of {len(resampled)} resamples: too few outputs"
        return Estimate(value, None, None, n, why_missing=why, n_dropped=n_dropped)
    low, high = (float(q) for q in np.quantile(defined, [(1 - level) / 2, (1 + level) / 2]))
    method = f"bootstrap, {len(resampled)} resamples"
    return Estimate(value, min(low, value), max(high, value), n, method=method, n_dropped=n_dropped)
