"""Estimate: a figure with its interval, or the reason why there is none.

A figure that is not defined has value None and says why; it is never NaN and never a silent 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


def outputs_have(n: int) -> str:
    return "1 output has" if n == 1 else f"{n} outputs have"


@dataclass(frozen=True)
class Estimate:
    """One figure of the calibration.

    Parameters
    ----------
    value : float or None
        The figure in its own unit (a rate is 0 to 1, a kappa -1 to 1); None where it is not defined.
    low, high : float or None
        The interval; both None where the figure has none.
    n : int
        How many outputs it rests on.
    why_missing : str
        Why the value ("not defined, because ..."), or the interval alone ("no interval: ..."), is None; empty when both are there.
    method : str
        How it was made, in words for the page.
    n_dropped : int
        How many outputs were left out because one side has no score for them.

    Examples
    --------
    >>> Estimate(0.5, 0.1, 0.9, n=4).value
    0.5
    >>> Estimate.missing("not defined, because no output is scored").why_missing
    'not defined, because no output is scored'
    >>> Estimate(float("nan"), None, None, n=4)
    Traceback (most recent call last):
        ...
    ValueError: value is nan, must be a finite number, or None with why_missing
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    why_missing: str = ""
    method: str = ""
    n_dropped: int = 0

    def __post_init__(self) -> None:
        for name in ("value", "low", "high"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise ValueError(f"{name} is {number}, must be a finite number, or None with why_missing")
        if (self.low is None) != (self.high is None) or (self.value is None and self.low is not None):
            raise ValueError(f"value {self.value}, interval {self.low} to {self.high}: an interval has both ends")
        if (self.value is None or self.low is None) != bool(self.why_missing):
            raise ValueError(f"value {self.value}, low {self.low}: why_missing is {self.why_missing!r}")
        if self.value is not None and self.low is not None and self.high is not None:
            if not self.low <= self.value <= self.high:
                raise ValueError(f"value {self.value} lies outside its interval {self.low} to {self.high}")

    @classmethod
    def missing(cls, why: str, n: int = 0, n_dropped: int = 0) -> Estimate:
        """Return an estimate that is not defined, with the reason in words for the page."""
        return cls(None, None, None, n, why_missing=why, n_dropped=n_dropped)

    def within(self, low: float, high: float) -> Estimate:
        """Return it with its interval cut off where the figure can't lie: no difference of scores is larger than their scale."""
        return self if self.low is None or self.high is None else replace(self, low=max(self.low, low), high=min(self.high, high))

    def without_interval(self, why: str) -> Estimate:
        """Return the value alone, with the reason in words for the page; one that had no interval as it is."""
        return self if self.low is None else replace(self, low=None, high=None, why_missing=why, method="")
