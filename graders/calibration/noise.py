"""The noise ceiling: how reliable the human scores are that a judge is held to, and how many reviews it would take."""

from __future__ import annotations

import math

from graders.calibration.result import Estimate

ENOUGH = 0.8  # a reliability that the field calls good (Nunnally 1978)


def spearman_brown(reliability: float, reviews: float) -> float:
    """Return the reliability of the mean of so many reviews, given that of one (Spearman 1910, Brown 1910).

    Examples
    --------
    >>> round(spearman_brown(0.5, 3), 4)
    0.75
    """
    return reviews * reliability / (1 + (reviews - 1) * reliability)


def reviews_needed(single: Estimate, target: float = ENOUGH) -> Estimate:
    """Return how many reviews an output it takes for their mean to reach a reliability.

    target (1 - r) / (r (1 - target)), r the reliability of one review; a whole number, rounded up, at least 1.

    Parameters
    ----------
    single : Estimate
        The reliability of one review, 0 to 1: ICC(1), or interval alpha among people.
    target : float
        The reliability to reach, above 0 and below 1.

    Returns
    -------
    Estimate
        Reviews an output; the interval is that of `single`, turned over. Not defined when people agree no more than by
        chance: no number of reviews helps. No interval when chance lies in that of `single`: it has no upper end.

    Examples
    --------
    >>> one = Estimate(0.1, 0.05, 0.2, n=147)
    >>> found = reviews_needed(one)
    >>> found.value, found.low, found.high
    (36.0, 16.0, 76.0)
    >>> reviews_needed(Estimate(-0.1, -0.2, 0.1, n=40)).why_missing
    'not defined, because people agree no more than by chance: no number of reviews would be enough'
    """
    if not 0 < target < 1:
        raise ValueError(f"target is {target}, must lie between 0 and 1, such as 0.8")
    if single.value is None:
        return Estimate.missing(single.why_missing, single.n, single.n_dropped)
    if single.value <= 0:
        why = "not defined, because people agree no more than by chance: no number of reviews would be enough"
        return Estimate.missing(why, single.n, single.n_dropped)
    value = _needed(single.value, target)
    if single.low is None or single.high is None:
        return Estimate(value, None, None, single.n, single.why_missing, n_dropped=single.n_dropped)
    if single.low <= 0:
        why = "no interval: people may agree no more than by chance, so it has no upper end"
        return Estimate(value, None, None, single.n, why, n_dropped=single.n_dropped)
    low, high = _needed(single.high, target), _needed(single.low, target)
    return Estimate(value, low, high, single.n, method="Spearman-Brown", n_dropped=single.n_dropped)


def _needed(reliability: float, target: float) -> float:
    if reliability >= target:
        return 1.0
    return float(math.ceil(target * (1 - reliability) / (reliability * (1 - target)) - 1e-9))
