"""From the judge's score to the score that people would give: a monotone map, how well it does, and how sure it is.

Fitted to labelled outputs, tested on prompts that it has not seen. Isotonic from 50 labelled outputs on, a straight line
below (a staircase of 30 outputs follows their noise), and refused below 20. Several criteria of one output are one label.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from graders.calibration.arrays import (
    Floats,
    Ints,
    Scores,
    check_level,
    check_range,
    check_scale,
    cluster_numbers,
    score_array,
    scored_by_both,
)
from graders.calibration.jackknife import UNSEEN, UNSEEN_OF_TWO, Kind
from graders.calibration.resample import ROUNDING, Resamples, ratio, with_interval
from graders.calibration.result import Estimate, outputs_have

MIN_LABELS = 20  # also what a 95 % interval for one prediction takes: 19 residuals
MIN_PROMPTS = 5
MIN_ISOTONIC = 50
N_FOLDS = 10
RARE = 5  # kinds of outputs too rare to have been seen: scores over the scale that people would give them
NO_WIDTH = "no interval: the labels lie exactly where the map puts them, and that does not show how far off others would be"

Method = Literal["isotonic", "linear"]


@dataclass(frozen=True)
class Calibrator:
    """A monotone map from judge score to expected human score, straight between its knots and level beyond them.

    Of new outputs of new prompts, about `level` have a mean human score within `half_width` of the prediction; `spread` is
    the root of the mean squared difference from it. Both in points, from prompts that the map has not seen. No half width
    (None) where it would be 0: NO_WIDTH says why.
    """

    method: Method
    judge: tuple[float, ...]
    human: tuple[float, ...]
    low: float
    high: float
    half_width: float | None
    level: float
    n: int
    spread: float

    def predict(self, judge: Scores) -> Floats:
        """Return the expected human score of each judge score (n,), NaN where it is NaN or None."""
        return _apply((np.array(self.judge), np.array(self.human)), score_array("judge", judge))

    def interval(self, judge: Scores) -> tuple[Floats, Floats]:
        """Return the ends of the interval of each single prediction, (n,) and (n,), kept on the scale; NaN where there is none."""
        middle, half = self.predict(judge), np.nan if self.half_width is None else self.half_width
        return np.clip(middle - half, self.low, self.high), np.clip(middle + half, self.low, self.high)


@dataclass(frozen=True)
class Recalibration:
    """A calibrator, or why there is none and how many labels more it takes; and judge before and after it.

    Before and after are on the same outputs, each predicted by a map fitted without its prompt. Errors in points.
    """

    calibrator: Calibrator | None
    labels_missing: int
    why_missing: str
    mae_before: Estimate
    mae_after: Estimate
    bias_before: Estimate
    bias_after: Estimate
    log_loss_before: Estimate
    log_loss_after: Estimate


def recalibrate(
    judge: Scores,
    human: Scores,
    passed: Scores,
    scale: tuple[float, float],
    clusters: Iterable[Hashable],
    *,
    rng: np.random.Generator,
    level: float = 0.95,
    resamples: Resamples | None = None,
    outputs: Iterable[Hashable] | None = None,
) -> Recalibration:
    """Return the calibrator of a judge, cross-validated by prompt.

    Parameters
    ----------
    judge : array (n,)
        Judge scores on the scale, NaN or None where unscored.
    human : array (n,) or (n, raters)
        Human scores on the scale; the mean of each row is what is predicted.
    passed : array (n,)
        What the majority of people decided, 1 or 0, NaN or None where there is no majority; for the log-loss.
    scale : (float, float)
        The ends of the scale.
    clusters : iterable (n,)
        The prompt of each output: outputs of one prompt are in one of ten folds.
    rng : numpy.random.Generator
        Which prompts share a fold.
    level : float
        How often the interval of a single prediction should hold the mean human score.
    resamples : Resamples of the n items, optional
        For the intervals of errors, with the maps taken as they are.
    outputs : iterable (n,), optional
        The output of each item, where its criteria are several items; by default each item is an output.

    Returns
    -------
    Recalibration
        Refused for fewer than 20 outputs with both scores, or fewer than 5 prompts. Isotonic (that of
        sklearn.isotonic.IsotonicRegression with out_of_bounds="clip") from 50 outputs on.

    Notes
    -----
    The interval for one prediction is split-conformal, each fold in turn being the split: the ceil((n + 1) level)-th
    smallest of the absolute errors on unseen prompts. It is exact for one split of independent outputs and close to it
    for ten. It is so over many sets of labels, not for each of them (Vovk 2013): where that error is 0, the labels show no
    error to go by, and there is no interval. Log-loss: before, the place of the judge's score on the scale is read as the
    chance of a pass; after, the same kind of map is fitted to passes. Chances are kept 1 / (2 n + 2) away from 0 and 1, so the
    loss has a largest value; before, the upper end allows for half an output of that (`jackknife.ends_of`). Intervals of the
    errors after the map are about the map that is returned, on outputs that it has not seen, and allow for its fit (`_with_fit`)
    and for outputs too rare to have been seen (`jackknife.ends_of`): where people give nearly all outputs a 5, it errs by the few
    that they would not, and twenty labels may hold none.

    References
    ----------
    Efron (1986), JASA 81:461-470, and Bates, Hastie and Tibshirani (2024), JASA 119:1434-1445, on errors by cross-validation.
    Zadrozny and Elkan (2002), KDD, on isotonic calibration. Vovk (2015), Annals of Mathematics and Artificial
    Intelligence 74:9-28, on cross-conformal prediction, and (2013), Machine Learning 92:349-376, on what holds given the
    labels. Lei et al. (2018), JASA 113:1094-1111, on the quantile.
    """
    check_level(level)
    check_scale(scale)
    x, y, both = scored_by_both(judge, human)
    check_range("judge", x, *scale)
    check_range("human", y, *scale)
    verdicts = score_array("passed", passed)[both]
    prompts = cluster_numbers("clusters", clusters, len(both))[both]
    of = np.arange(len(both)) if outputs is None else cluster_numbers("outputs", outputs, len(both))
    of, n, n_prompts = of[both], len(x), len(np.unique(prompts))
    n_outputs = len(np.unique(of))
    n_dropped = int((~both).sum())
    needed = max(MIN_LABELS, int(np.ceil(level / (1 - level) - 1e-9)))
    if why := _why_refused(n_outputs, n_prompts, needed):
        none = Estimate.missing(why, n, n_dropped)
        return Recalibration(None, max(needed - n_outputs, MIN_PROMPTS - n_prompts, 1), why, none, none, none, none, none, none)
    method = _method_for(n_outputs)
    folds = _folds(prompts, rng)
    after = np.clip(_unseen(x, y, folds, method), *scale)
    after = np.where(np.abs(after - y) <= ROUNDING, y, after)
    knots = _knots(x, y, method)
    half_width = _half_width(np.abs(after - y), level)
    spread = float(np.sqrt(np.mean((after - y) ** 2)))
    low, high = scale
    heights = np.clip(knots[1], low, high)
    calibrator = Calibrator(method, tuple(map(float, knots[0])), tuple(map(float, heights)), low, high, half_width, level, n, spread)
    part = resamples and resamples.of(both)
    mae_before, mae_after, bias_before, bias_after = _errors(x, after, y, scale, resamples=part, n_dropped=n_dropped)
    mae_after = _with_fit(mae_after, np.abs(np.clip(_apply(knots, x), *scale) - y))
    loss_before, loss_after = _log_losses(
        (x - low) / (high - low), x, verdicts, folds, of=of, method=method, resamples=part, n_dropped=n_dropped
    )
    return Recalibration(
        calibrator,
        0,
        "",
        mae_before=mae_before,
        mae_after=mae_after,
        bias_before=bias_before,
        bias_after=bias_after,
        log_loss_before=loss_before,
        log_loss_after=loss_after,
    )


def pass_chance(judge: Scores, passed: Scores) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return the map from judge score to the chance that people pass the output, as knots: scores, and chances.

    Isotonic from 50 outputs with both on, a line below; None with fewer than 20, or when people passed all or none.

    Examples
    --------
    >>> pass_chance([1, 2, 3, 4] * 5, [0, 0, 1, 1] * 5)
    ((1.0, 4.0), (0.0, 1.0))
    """
    x, y, _ = scored_by_both(judge, score_array("passed", passed))
    check_range("passed", y, 0, 1)
    if len(x) < MIN_LABELS or np.ptp(y) == 0:
        return None
    scores, chances = _knots(x, y, _method_for(len(x)))
    return tuple(scores.tolist()), tuple(np.clip(chances, 0, 1).tolist())


def _why_refused(n_outputs: int, n_prompts: int, needed: int) -> str:
    if n_outputs < needed:
        return f"not fitted, because {outputs_have(n_outputs)} both scores, and it takes {needed}: label {needed - n_outputs} more"
    if n_prompts < MIN_PROMPTS:
        missing = MIN_PROMPTS - n_prompts
        return f"not fitted, because the labels belong to {n_prompts} prompts, and it takes {MIN_PROMPTS}: label {missing} more"
    return ""


def _method_for(n_outputs: int) -> Method:
    return "isotonic" if n_outputs >= MIN_ISOTONIC else "linear"


def _half_width(errors: Floats, level: float) -> float | None:
    return float(np.sort(errors)[int(np.ceil((len(errors) + 1) * level)) - 1]) or None


def _folds(prompts: Ints, rng: np.random.Generator) -> Ints:
    """Return each output's fold; prompts are dealt out at random, one by one."""
    numbers = cluster_numbers("prompts", prompts, len(prompts))
    n_prompts = int(numbers.max()) + 1
    dealt = np.arange(n_prompts) % min(N_FOLDS, n_prompts)
    return np.asarray(rng.permutation(dealt)[numbers])


def _unseen(x: Floats, y: Floats, folds: Ints, method: Method) -> Floats:
    """Return the prediction of each output by a map fitted without its fold."""
    predicted = np.empty(len(x))
    if method == "linear":
        for fold in np.unique(folds):
            mine = folds == fold
            predicted[mine] = _apply(_knots(x[~mine], y[~mine], method), x[mine])
        return predicted
    values, code = np.unique(x, return_inverse=True)  # sums by score and fold: those of the others are what is left
    cells, shape = folds * len(values) + code, (int(folds.max()) + 1, len(values))
    counts, sums = (np.bincount(cells, w, minlength=shape[0] * shape[1]).reshape(shape) for w in (None, y))
    for fold in np.unique(folds):
        mine = folds == fold
        n_others, others = counts.sum(axis=0) - counts[fold], np.delete(sums, fold, axis=0).sum(axis=0)
        there = n_others > 0
        knots = values[there], _rising(others[there] / n_others[there], n_others[there])
        predicted[mine] = np.interp(values, *knots)[code[mine]]
    return predicted


def _knots(x: Floats, y: Floats, method: Method) -> tuple[Floats, Floats]:
    values, code, counts = np.unique(x, return_inverse=True, return_counts=True)
    means = np.bincount(code, weights=y) / counts
    if method == "isotonic":
        return values, _rising(means, counts)
    spread = float(((x - x.mean()) ** 2).sum())
    slope = max(float(((x - x.mean()) * (y - y.mean())).sum()) / spread, 0.0) if spread > 1e-12 else 0.0
    ends = values[[0, -1]] if len(values) > 1 else values
    return ends, y.mean() + slope * (ends - x.mean())


def _rising(means: Floats, counts: Ints) -> Floats:
    """Return the rising values that are nearest to the means, each weighted by its count; (n,), (n,) to (n,).

    Pool adjacent violators: a mean below the one before it is pooled with it, and that with its own one before it.
    What scipy.optimize.isotonic_regression gives, which the tests compare and which takes 0.5 s to import.
    """
    blocks: list[tuple[float, int, int]] = []  # the mean, its weight, how many means it stands for
    for mean, weight in zip(means.tolist(), counts.tolist(), strict=True):
        size = 1
        while blocks and blocks[-1][0] > mean:
            before, its_weight, its_size = blocks.pop()
            mean = (before * its_weight + mean * weight) / (its_weight + weight)  # noqa: PLW2901 - it grows by pooling
            weight, size = its_weight + weight, its_size + size  # noqa: PLW2901
        blocks.append((mean, weight, size))
    return np.repeat([mean for mean, _, _ in blocks], [size for _, _, size in blocks])


def _apply(knots: tuple[Floats, Floats], x: Floats) -> Floats:
    return np.asarray(np.where(np.isnan(x), np.nan, np.interp(np.nan_to_num(x), *knots)))


def _errors(
    x: Floats, after: Floats, y: Floats, scale: tuple[float, float], *, resamples: Resamples | None, n_dropped: int
) -> list[Estimate]:
    """Return mean absolute error before and after the map, then bias before and after it."""
    off = x - y, after - y
    rare = after[:, None] - np.linspace(*scale, RARE)  # how far off it would be, whatever people gave
    unseen = [
        (float(of_seen.sum()) + UNSEEN_OF_TWO * of_rare.mean(axis=0)) / (len(y) + UNSEEN_OF_TWO)
        for of_seen, of_rare in ((np.abs(off[1]), np.abs(rare)), (off[1], rare))
    ]
    kinds: tuple[Kind, ...] = ("size", "size", "points", "points")
    return _means([*map(np.abs, off), *off], resamples, n_dropped, kinds, (None, unseen[0], None, unseen[1]))


def _log_losses(
    stated: Floats, x: Floats, passed: Floats, folds: Ints, *, of: Ints, method: Method, resamples: Resamples | None, n_dropped: int
) -> tuple[Estimate, Estimate]:
    known = ~np.isnan(passed)
    n, n_outputs = int(known.sum()), len(np.unique(of[known]))
    n_dropped += len(passed) - n
    if n_outputs < MIN_LABELS or len(np.unique(folds[known])) < 2:
        why = f"not defined, because {outputs_have(n_outputs)} a majority of people, and it takes {MIN_LABELS}"
        none = Estimate.missing(why, n, n_dropped)
        return none, none
    y, part, edge = passed[known], resamples and resamples.of(known), 1 / (2 * n + 2)
    after = _unseen(x[known], y, folds[known], method)
    before, after = (np.clip(p, edge, 1 - edge) for p in (stated[known], after))
    seen = np.clip(_apply(_knots(x[known], y, method), x[known]), edge, 1 - edge)
    most = -float(np.log(edge))
    losses = [-(y * np.log(p) + (1 - y) * np.log(1 - p)) / most for p in (before, after, seen)]
    unseen = np.array([(float(losses[0].sum()) + UNSEEN) / (n + UNSEEN)])
    loss_before, loss_after = _means(losses[:2], part, n_dropped, ("mean", "mean"), (unseen, None))
    return _times(loss_before, most), _times(_with_fit(loss_after, losses[2]), most)


def _times(found: Estimate, unit: float) -> Estimate:
    value, low, high = (None if end is None else unit * end for end in (found.value, found.low, found.high))
    return replace(found, value=value, low=low, high=high)


def _with_fit(after: Estimate, seen: Floats) -> Estimate:
    """Return the mean error after a map with an interval that allows for the fit: by how much more it errs on unseen outputs.

    So much better the map is on the outputs that it was fitted to, and about so much its error on others depends on which
    these were; what is tested twice, ten times over, does not show that (Efron 1986; Bates, Hastie and Tibshirani 2024).
    """
    if after.value is None or after.low is None or after.high is None:
        return after
    fit = max(after.value - float(seen.mean()), 0.0)
    low, high = (float(np.hypot(end - after.value, fit)) for end in (after.low, after.high))
    return replace(after, low=max(after.value - low, 0.0), high=after.value + high)


def _means(
    columns: Sequence[Floats], resamples: Resamples | None, n_dropped: int, kinds: Sequence[Kind], unseen: Sequence[Floats | None] = ()
) -> list[Estimate]:
    """Return the mean of each of these columns (n,), from one pass over the resamples; `unseen` of `jackknife.ends_of`."""
    n = len(columns[0])
    drawn = None if resamples is None else resamples.sums(np.stack([np.ones(n), *columns]).T)
    means = [None if drawn is None else ratio(drawn[:, place], drawn[:, 0]) for place in range(1, len(columns) + 1)]
    return [
        with_interval(float(column.mean()), mean, resamples, n, n_dropped, kind=kind, unseen=rare)
        for column, mean, kind, rare in zip(columns, means, kinds, unseen or [None] * len(columns), strict=True)
    ]
