"""Chances of a pass: an exact interval for one rate, and pass@k over several outputs a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graders.calibration.arrays import Floats, Ints, check_level
from graders.calibration.jackknife import UNSEEN, ends_of
from graders.calibration.resample import NO_RESAMPLES, ONE_PROMPT, Resamples, all_agree
from graders.calibration.result import Estimate
from graders.calibration.wilson import wilson_bounds

HALFWAY = 0.5  # of one output a prompt; of several, prompts mostly have a pass or never one


def clopper_pearson(passes: int, n: int, level: float = 0.95) -> Estimate:
    """Return the pass rate passes / n with its exact interval: it never covers less often than it says, mostly more.

    Wilson's (`rates.wilson`) is shorter and right on average. Assumes independent outputs; not defined when n is 0.

    References
    ----------
    Clopper and Pearson (1934), Biometrika 26:404-413. The numbers: Newcombe (1998), Statistics in Medicine 17:857-872,
    table I, method 5.

    Examples
    --------
    >>> for passes, n in ((81, 263), (15, 148), (0, 20), (1, 29)):
    ...     rate = clopper_pearson(passes, n)
    ...     print(f"{rate.value:.4f} {rate.low:.4f} {rate.high:.4f}")
    0.3080 0.2527 0.3676
    0.1014 0.0578 0.1617
    0.0000 0.0000 0.1684
    0.0345 0.0009 0.1776
    """
    check_level(level)
    if not 0 <= passes <= n:
        raise ValueError(f"passes is {passes} of n = {n}, must lie in 0 to n")
    if n == 0:
        return Estimate.missing("not defined, because no output is scored")
    from scipy.special import betaincinv  # noqa: PLC0415 - 0.4 s to import

    tail = (1 - level) / 2
    low = float(betaincinv(passes, n - passes + 1, tail)) if passes else 0.0
    high = float(betaincinv(passes + 1, n - passes, 1 - tail)) if passes < n else 1.0
    return Estimate(passes / n, low, high, n, method="Clopper-Pearson")


def pass_at_k(n: Sequence[int], passes: Sequence[int], k: int, resamples: Resamples | None = None) -> Estimate:
    """Return pass@k: the chance that at least one of k outputs of a prompt passes, averaged over prompts.

    The unbiased estimator 1 - C(n - c, k) / C(n, k) of each prompt.

    Parameters
    ----------
    n, passes : sequence of int, one entry a prompt
        How many outputs the prompt has, and how many of them pass.
    k : int
        How many outputs one may try.
    resamples : Resamples of the prompts, optional
        For the interval; it is about other prompts of this kind.

    Returns
    -------
    Estimate
        0 to 1. n counts prompts with k outputs or more; the others have no pass@k and are counted in n_dropped. Not
        defined when there is none.

    References
    ----------
    Chen et al. (2021), Evaluating Large Language Models Trained on Code, arXiv 2107.03374, equation 1.

    Examples
    --------
    2 of 4 pass: of the 6 pairs one holds no pass. 0 of 4: all. The third prompt has one output only.

    >>> round(pass_at_k([4, 4, 1], [2, 0, 1], 2).value, 4)
    0.4167
    """
    tried, passed = np.asarray(n, dtype=np.int64), np.asarray(passes, dtype=np.int64)
    if k < 1:
        raise ValueError(f"k is {k}, must be at least 1")
    if tried.shape != passed.shape or (passed < 0).any() or (passed > tried).any():
        raise ValueError("n and passes: one entry a prompt in both, and passes between 0 and n")
    used = tried >= k
    if not used.any():
        why = f"not defined, because no prompt has {k} scored outputs" if len(tried) else "not defined, because no output is scored"
        return Estimate.missing(why, 0, len(tried))
    chances = _chances(tried[used], passed[used], k)
    value, n_dropped = float(chances.mean()), int((~used).sum())
    if resamples is None:
        return Estimate(value, None, None, len(chances), why_missing=NO_RESAMPLES, n_dropped=n_dropped)
    return _with_interval(chances, value, resamples.of(used), n_dropped, rare=1.0 if k > 1 else HALFWAY)


def _with_interval(chances: Floats, value: float, resamples: Resamples, n_dropped: int, rare: float) -> Estimate:
    """Return the mean of the chances with its interval: that of the chance that none passes, whose spread grows with it.

    Its upper end allows for half a prompt more (`jackknife.ends_of`) with the chance `rare` that none passes.
    """
    n, (_, number) = len(chances), np.unique(resamples.clusters, return_inverse=True)
    n_prompts = int(number.max()) + 1
    if value in (0, 1):
        low, high = wilson_bounds(value, n_prompts, resamples.level)
        return Estimate(value, low, high, n, method=f"Wilson on {n_prompts} prompts", n_dropped=n_dropped)
    if n_prompts < 2:
        return Estimate(value, None, None, n, why_missing=ONE_PROMPT, n_dropped=n_dropped)
    misses, each = np.bincount(number, weights=1 - chances), np.bincount(number)
    without = (misses.sum() - misses) / (n - each)
    unseen = np.array([((1 - value) * n + UNSEEN * rare) / (n + UNSEEN)])
    ends = ends_of(1 - value, without, "chance", resamples.level, unseen)
    if ends is None:
        return Estimate(value, None, None, n, why_missing=all_agree(n), n_dropped=n_dropped)
    method = f"{n_prompts} prompts, each left out once"
    return Estimate(value, min(1 - ends[1], value), max(1 - ends[0], value), n, method=method, n_dropped=n_dropped)


def _chances(n: Ints, passes: Ints, k: int) -> Floats:
    """Return 1 - C(n - c, k) / C(n, k), as a product of k factors that are never large."""
    none = np.ones(len(n))
    for drawn in range(k):
        none *= np.maximum(n - passes - drawn, 0) / (n - drawn)
    return np.asarray(1 - none)
