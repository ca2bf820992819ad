"""The quantile of Student's t distribution."""

from __future__ import annotations

from statistics import NormalDist

MANY = 60


def student_quantile(freedom: float, p: float) -> float:
    """Return the p-quantile (0.5 <= p <= 0.999) for `freedom` degrees of freedom (above 0, maybe no whole number).

    From 60 on by the expansion about the normal quantile of Abramowitz and Stegun (1972), Handbook of Mathematical
    Functions, 26.7.5, which is right to 1e-7 there; below by scipy, which takes 0.3 s to import.

    Examples
    --------
    >>> round(student_quantile(4, 0.975), 4), round(student_quantile(100, 0.975), 4)
    (2.7764, 1.984)
    """
    if freedom < MANY:
        from scipy.special import stdtrit  # noqa: PLC0415 - 0.3 s to import

        return float(stdtrit(freedom, p))
    x = NormalDist().inv_cdf(p)
    terms = (
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return x + sum(term / freedom**power for power, term in enumerate(terms, 1))
