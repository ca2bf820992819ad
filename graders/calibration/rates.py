"""A pass rate and its Wilson interval. One group of independent outputs; nothing about a judge."""

from __future__ import annotations

from dataclasses import replace

from graders.calibration.arrays import check_level
from graders.calibration.resample import Resamples, all_agree
from graders.calibration.result import Estimate
from graders.calibration.wilson import wilson_bounds


def wilson(passes: int, n: int, level: float = 0.95) -> Estimate:
    """Return the pass rate passes / n with its Wilson score interval.

    The interval assumes independent outputs. It stays inside 0 to 1 and keeps a width when all or none pass.

    Parameters
    ----------
    passes, n : int
        How many passed, of how many; unscored outputs are in neither.
    level : float
        How often the interval should hold the true rate over many studies.

    Returns
    -------
    Estimate
        A rate from 0 to 1. Not defined when n is 0.

    References
    ----------
    Wilson (1927), JASA 22:209-212. The numbers below: Newcombe (1998), Statistics in Medicine 17:857-872, table I,
    method 3.

    Examples
    --------
    >>> for passes, n in ((81, 263), (15, 148), (0, 20), (1, 29)):
    ...     rate = wilson(passes, n)
    ...     print(f"{rate.value:.4f} {rate.low:.4f} {rate.high:.4f}")
    0.3080 0.2553 0.3662
    0.1014 0.0624 0.1605
    0.0000 0.0000 0.1611
    0.0345 0.0061 0.1718
    >>> wilson(0, 0).why_missing
    'no scored output'
    """
    check_level(level)
    if not 0 <= passes <= n:
        raise ValueError(f"passes is {passes} of n = {n}, must lie in 0 to n")
    if n == 0:
        return Estimate.missing("no scored output")
    low, high = wilson_bounds(passes / n, n, level)
    return Estimate(passes / n, low, high, n, method="Wilson")


def with_some_width(rate: Estimate, resamples: Resamples) -> Estimate:
    """Return a bootstrapped rate of 0 or 1, the same in every resample, with Wilson's interval on as many outputs as prompts.

    Another estimate is returned as it is. `resamples` are those of the outputs that the rate is a share of.
    """
    n_prompts = resamples.n_drawn_from
    if rate.value not in (0, 1) or (n_prompts > 1 and rate.why_missing != all_agree(rate.n)):
        return rate
    low, high = wilson_bounds(rate.value, n_prompts, resamples.level)
    return replace(rate, low=low, high=high, why_missing="", method=f"Wilson on {n_prompts} {resamples.unit}")
