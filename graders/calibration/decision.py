"""Pass or fail: what the judge decides against what the majority of people decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from graders.calibration.arrays import Floats, Scores, check_range, score_array
from graders.calibration.rates import share_by_prompt, with_some_width
from graders.calibration.resample import Resamples, ratio, with_interval
from graders.calibration.result import Estimate


@dataclass(frozen=True)
class Decision:
    """How the judge's passes and fails compare with people's. The four counts are outputs; the rest are 0 to 1.

    precision: of what the judge passes, people pass so much. recall: of what people pass, the judge passes so much.
    f1: their harmonic mean. false_pass_rate: of what people fail, the judge passes so much. agreement: the share of
    outputs on which both decide alike.
    """

    true_pass: int
    false_pass: int
    false_fail: int
    true_fail: int
    precision: Estimate
    recall: Estimate
    f1: Estimate
    false_pass_rate: Estimate
    agreement: Estimate

    @property
    def n(self) -> int:
        """How many outputs both decided on."""
        return self.true_pass + self.false_pass + self.false_fail + self.true_fail


def majority(passes: Scores) -> Floats:
    """Return the majority verdict of each row (n, raters): 1, 0, or NaN for a tie or where nobody decided.

    Examples
    --------
    >>> majority([[1, 1, 0], [1, 0, None], [0, None, None]]).tolist()
    [1.0, nan, 0.0]
    """
    table = score_array("passes", passes, ndim=(2,))
    check_range("passes", table, 0, 1)
    lead = np.where(np.isnan(table), 0.0, 2 * table - 1).sum(axis=1)
    return np.where(lead > 0, 1.0, np.where(lead < 0, 0.0, np.nan))


def decide(judge: Scores, human: Scores, resamples: Resamples | None = None) -> Decision:
    """Return the confusion table of pass decisions, and what follows from it.

    Parameters
    ----------
    judge : array (n,)
        1 where the judge passes the output, 0 where it fails it, NaN or None where it did not decide.
    human : array (n,)
        The same of people: the majority of their verdicts (see `majority`), NaN or None where there is none.
    resamples : Resamples of the n items, optional
        For the intervals.

    Returns
    -------
    Decision
        precision is not defined when the judge passes nothing, recall when people pass nothing, f1 when neither passes
        anything, false_pass_rate when people fail nothing. sklearn.metrics.precision_recall_fscore_support.

    Examples
    --------
    >>> made = decide([1, 1, 1, 0, 0, None], [1, 1, 0, 1, 0, 1])
    >>> made.true_pass, made.false_pass, made.false_fail, made.true_fail
    (2, 1, 1, 1)
    >>> round(made.precision.value, 3), round(made.recall.value, 3), made.false_pass_rate.value
    (0.667, 0.667, 0.5)
    >>> decide([0, 0], [1, 0]).precision.why_missing
    'not defined, because the judge passes no output'
    """
    said, truth = score_array("judge", judge), score_array("human", human)
    if len(said) != len(truth):
        raise ValueError(f"judge has {len(said)} outputs, human {len(truth)}; one row an output in both")
    both = ~np.isnan(said) & ~np.isnan(truth)
    j, h, n_dropped = _verdicts("judge", said[both]), _verdicts("human", truth[both]), int((~both).sum())
    cells, part, n = (3 - 2 * j - h).astype(np.int64), resamples and resamples.of(both), len(j)
    whole = np.bincount(cells, minlength=4)[None].astype(np.float64)
    drawn = None if part is None else part.counts_of(cells, 4)
    true_pass, false_pass, false_fail, true_fail = (int(count) for count in whole[0])

    def share(hits: Sequence[int], others: Sequence[int], why: str, *, is_f1: bool = False) -> Estimate:
        """The share of hits among hits and others, kinds of outputs; of f1 it is the share f1 / (2 - f1), brought back."""
        among = np.isin(cells, (*hits, *others))
        if not n:
            why = "no output has both a verdict of the judge and a majority of people"
        if not among.any():
            return Estimate.missing(f"not defined, because {why}", n, n_dropped)
        passes, counted = np.isin(cells[among], hits).astype(np.float64), part and part.of(among)
        value = _f1(passes.mean()) if is_f1 else float(passes.mean())
        if counted is None or drawn is None or counted.is_drawn:
            resampled = None if drawn is None else ratio(drawn[:, hits].sum(axis=1), drawn[:, [*hits, *others]].sum(axis=1))
            resampled = _f1(resampled) if is_f1 and resampled is not None else resampled
            made = with_interval(value, resampled, counted, n, n_dropped)
            return made if counted is None else with_some_width(made, counted)
        ends = share_by_prompt(passes, counted)
        if ends is None:
            return with_interval(value, passes, counted, n, n_dropped)  # says why
        low, high = (_f1(end) for end in ends) if is_f1 else ends
        prompts = f"{counted.n_drawn_from} {counted.unit}"
        method = f"Wilson on {prompts}" if value in (0, 1) else f"Wilson, {len(passes)} outputs of {prompts}"
        return Estimate(value, min(low, value), max(high, value), n, method=method, n_dropped=n_dropped)

    return Decision(
        true_pass,
        false_pass,
        false_fail,
        true_fail,
        precision=share([0], [1], "the judge passes no output"),
        recall=share([0], [2], "people pass no output"),
        f1=share([0], [1, 2], "neither side passes an output", is_f1=True),
        false_pass_rate=share([1], [3], "people fail no output"),
        agreement=share([0, 3], [1, 2], ""),
    )


@overload
def _f1(share: float) -> float: ...
@overload
def _f1(share: Floats) -> Floats: ...
def _f1(share: float | Floats) -> float | Floats:
    """Return f1 from the share of outputs passed by both, of those passed by either (Jaccard's index): it rises with it."""
    return 2 * share / (1 + share)


def _verdicts(name: str, passes: Floats) -> Floats:
    if not np.isin(passes, (0, 1)).all():
        raise ValueError(f"{name} has {passes[~np.isin(passes, (0, 1))][0]:g}, must be 1 (pass) or 0 (fail)")
    return passes
