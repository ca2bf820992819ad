"""A pass rate and its Wilson interval, of independent outputs or of outputs by prompt; nothing about a judge."""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist

import numpy as np

from graders.calibration.arrays import Floats, check_level
from graders.calibration.jackknife import Ends
from graders.calibration.resample import Resamples, all_agree
from graders.calibration.result import Estimate
from graders.calibration.student import student_quantile
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
    'not defined, because no output is scored'
    """
    check_level(level)
    if not 0 <= passes <= n:
        raise ValueError(f"passes is {passes} of n = {n}, must lie in 0 to n")
    if n == 0:
        return Estimate.missing("not defined, because no output is scored")
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


def share_by_prompt(passes: Floats, resamples: Resamples) -> Ends | None:
    """Return Wilson's interval of the mean of passes (n,), each 0 or 1, where outputs of a prompt may be alike.

    The number of outputs is divided by 1 + (d - 1) (t / z)^2: d the design effect, the variance by prompt over that of
    independent outputs, 1 at least; t and z Student's quantile for the prompts and the normal one. So what prompts add has
    the uncertainty of few prompts, and what independent outputs would vary by has not. A share of 0 or 1 shows no design
    effect: each prompt counts as one output. None where outputs of one prompt differ.

    References
    ----------
    Kish (1965), Survey Sampling, section 8.2, the design effect. Korn and Graubard (1998), Survey Methodology 24:193-201.

    Examples
    --------
    Eight outputs of eight prompts count as such. Of four prompts, all of whose two outputs are alike, they count as fewer.

    >>> passes, rng = np.array([1, 1, 1, 1, 0, 0, 1, 1.0]), np.random.default_rng(0)
    >>> [round(end, 3) for end in share_by_prompt(passes, Resamples(range(8), rng=rng))]
    [0.409, 0.929]
    >>> [round(end, 3) for end in share_by_prompt(passes, Resamples([0, 0, 1, 1, 2, 2, 3, 3], rng=rng))]
    [0.182, 0.976]
    """
    n, n_prompts, rate = len(passes), resamples.n_drawn_from, float(passes.mean())
    if rate in (0, 1):
        return wilson_bounds(rate, n_prompts, resamples.level)
    if n_prompts < 2:
        return None
    effect = 1.0
    if n_prompts < n:
        by_prompt = np.bincount(resamples.clusters, weights=passes - rate)
        together = float(by_prompt @ by_prompt) * n_prompts / (n_prompts - 1) / n**2
        effect = max(together * (n - 1) / (rate * (1 - rate)), 1.0)
    tail = (1 + resamples.level) / 2
    lengthened = (student_quantile(n_prompts - 1, tail) / NormalDist().inv_cdf(tail)) ** 2 if effect > 1 else 1.0
    return wilson_bounds(rate, n / (1 + (effect - 1) * lengthened), resamples.level)
