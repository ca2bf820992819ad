"""The ends of a rate's Wilson interval."""

from __future__ import annotations

from statistics import NormalDist


def wilson_bounds(rate: float, n: float, level: float) -> tuple[float, float]:
    """Return the Wilson interval of a rate seen in n outputs; n need not be whole (an effective sample size).

    That of scipy.stats.binomtest, which the tests compare; it takes whole numbers only, and statsmodels 1.5 s to import.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (rate * (1 - rate) / n + z * z / (4 * n * n)) ** 0.5
    return min(max(middle - half, 0.0), rate), max(min(middle + half, 1.0), rate)
