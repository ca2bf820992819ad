"""The interval of a figure from what it would be without each prompt in turn: for few prompts, where a bootstrap is too short.

The standard error is the jackknife's. Student's quantile has fewer degrees of freedom where a few prompts make most of it
(Satterthwaite). A figure with bounds is put on a scale on which it has none, and the ends are brought back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

import numpy as np

from graders.calibration.arrays import Floats
from graders.calibration.student import student_quantile
from graders.calibration.wilson import wilson_bounds

# A mean or a difference; one that is as likely off upwards as downwards; a figure from -1 to 1; such a one that is nearly a mean;
# a share of outputs; a mean of numbers from 0 to 1; of such that are mostly near 0 or 1; a size of 0 or more.
Kind = Literal["points", "shift", "correlation", "agreement", "share", "mean", "chance", "size"]
FEWEST_DEGREES = 2.0
# Of an output more; of kappa, a judge's alpha and a map's errors, which compare two sides; of figures in which a large difference
# counts by its square.
UNSEEN, UNSEEN_OF_TWO, UNSEEN_SPREAD = 0.5, 0.4, 0.25
EVENED = 4.0  # `lessened` of `spread_of` for figures that are put on a scale
EDGE = 1e-4  # how near to 1 a correlation is put on Fisher's scale
NEGLIGIBLE = 1e-9

Ends = tuple[float, float]


@dataclass(frozen=True)
class Spread:
    """A standard error, and the degrees of freedom that it has: of the prompts, and fewer where some count for most."""

    error: float
    prompts: int
    degrees: float

    def is_negligible(self, value: float) -> bool:
        return self.error <= NEGLIGIBLE * max(1.0, abs(value))

    def half(self, level: float, *, by_prompts: bool = False) -> float:
        """Return half the width of an interval of that level."""
        return self.error * student_quantile(self.prompts - 1 if by_prompts else self.degrees, (1 + level) / 2)


def spread_of(without: Floats, lessened: float = 2.0, growth: float = 0.0) -> Spread:
    """Return the spread of a figure from its values without each prompt (C,), C at least 2.

    Degrees of freedom are those of a chi square with the variance that the squares' sum is seen to have,
    2 / (g / C + 2 / (C - 1)), g the excess kurtosis: C - 1 at most, and 2 at least. Few numbers hardly show their kurtosis: its
    share `lessened` / C is left out, a larger one of figures that are put on a scale on which they are more evenly spread.
    `growth` is by how much the logarithm of the variance grows with the figure, where an interval allows for that (`growth_of`):
    then the squares count as far as they differ from what the figure alone would make them.

    References
    ----------
    Efron and Stein (1981), Annals of Statistics 9:586-596, the variance. Satterthwaite (1946), Biometrics Bulletin
    2:110-114. Joanes and Gill (1998), The Statistician 47:183-189, G2, for the kurtosis.

    Examples
    --------
    Without each of the numbers 1, 2, 3, 6 their mean is 11/3, 10/3, 3, 2: the standard error is that of a mean, 1.08.

    >>> round(spread_of(np.array([11, 10, 9, 6]) / 3).error, 4), round(float(np.std([1, 2, 3, 6], ddof=1)) / 2, 4)
    (1.0801, 1.0801)

    One pass of 20: by the kurtosis the variance is hardly known, by the rate itself it is.

    >>> without = (1 - np.eye(20)[0]) / 19
    >>> [round(spread_of(without, growth=growth).degrees, 1) for growth in (0, growth_of(1 / 20))]
    [2.0, 19.0]
    """
    n = len(without)
    off = without - without.sum() / n
    square = off * off
    squares = float(square.sum())
    error = ((n - 1) / n * squares) ** 0.5
    if squares <= 0 or n < 4:
        return Spread(error, n, max(n - 1.0, 1.0))
    excess = n * float(square @ square) / squares**2 - 3
    grown = growth * (n - 1)
    excess += 2 * grown * float(square @ off) / squares + grown**2 * squares / n
    excess = (n - 1) / ((n - 2) * (n - 3)) * ((n + 1) * excess + 6)
    degrees = 2 / max((1 - lessened / n) * excess / n + 2 / (n - 1), 1e-9)
    return Spread(error, n, min(max(degrees, FEWEST_DEGREES), n - 1.0))


def growth_of(share: float) -> float:
    """Return by how much the logarithm of p (1 - p), the variance of a share, grows with p; 0 at 0 and 1, where there is none."""
    return (1 - 2 * share) / (share * (1 - share)) if 0 < share < 1 else 0.0


def degrees_left(own: Floats, sums: Floats, together: Floats) -> float:
    """Return the degrees of freedom of a variance made of one square a prompt, by what the design alone says (Satterthwaite).

    Each square is that of a linear form of the errors: of their quadratic form's matrix, the trace squared over the trace of
    the square. The form of a prompt has the variance own (C,) - s'Ts and with another the covariance -s'Tu, with s and u the rows
    of sums (C, k), and T together (k, k).

    References
    ----------
    Bell and McCaffrey (2002), Survey Methodology 28:169-181; McCaffrey and Bell (2006), Statistics in Medicine 25:4081-4098.
    """
    shared = together @ (sums.T @ sums)
    trace = float(own.sum() - np.trace(shared))
    square = float((own**2).sum() - 2 * (own * ((sums @ together) * sums).sum(axis=1)).sum() + np.trace(shared @ shared))
    return trace**2 / square


def ends_of(value: float, without: Floats, kind: Kind, level: float, unseen: Floats | None = None) -> Ends | None:
    """Return the interval of a figure, None where it is the same without each prompt.

    Parameters
    ----------
    value : float
        The figure.
    without : array (C,)
        What it is without each of the prompts, C at least 2.
    kind : Kind
        "points": value and standard error as they are. "shift": the same, with one degree of freedom less than prompts, however few make
        most of it: of a law alike on both sides Student's interval errs to the safe side (Efron). "correlation": on Fisher's z
        scale. "share": Wilson's interval for as many independent outputs as would have that standard error, with one degree of
        freedom less than prompts. "mean": the same, with fewer degrees where a few prompts count for most. "chance": the same,
        where these are fewer only as far as the squares are not those of a share (`growth_of`). "agreement": as a "mean" that goes
        from -1 to 1: it falls short of 1 by the mean of what each output adds, whose variance grows with it, not with its square
        as on Fisher's scale. Below -1, where it may come to lie too, it is as "points". "size": a mean without an upper bound, for
        which the variance grows with the mean.
    level : float
        How often it should hold the true figure over many studies.
    unseen : array (m,), optional
        Of any but an agreement: what it would be with half an output more (or less: `UNSEEN`) of each of m kinds, such
        as one to which everybody gives the same score. Where that would move it by much, outputs of such a kind are too rare to
        have been seen, and the upper end (in points both, and of a size) is moved out by the root of the mean square of that: times
        the normal quantile, as a part of an error that is not estimated has no degrees of freedom to lose (Satterthwaite), of a
        mean times Student's, since a square or a logarithm may lie further out still.

    References
    ----------
    Efron (1969), JASA 64:1278-1302, for "shift". Fisher (1921), Metron 1:3-32. Arvesen and Schmitz (1970), Biometrics 26:677-686, a
    jackknife on such a scale. Korn and Graubard (1998), Survey Methodology 24:193-201, for "share".
    """
    growth = growth_of(value) if kind == "chance" else 0.0
    spread = spread_of(without) if kind in ("points", "shift") else spread_of(without, EVENED, growth)
    if spread.is_negligible(value):
        return None
    if kind == "correlation":
        return _on_fishers_scale(value, spread, level, unseen)
    half = spread.half(level, by_prompts=kind in ("share", "shift"))
    if kind == "agreement" and value > -1:
        low, high = _share((1 + value) / 2, half / 2, level)
        return 2 * low - 1, 2 * high - 1
    if kind in ("share", "mean", "chance"):
        low, high = _share(value, half, level)
        times = NormalDist().inv_cdf((1 + level) / 2) if kind == "chance" else half / spread.error
        rise = 0.0 if unseen is None else (float(unseen.max()) - value) * times
        return low, min(value + ((high - value) ** 2 + max(rise, 0.0) ** 2) ** 0.5, 1.0)
    low, high = _size(value, half) if kind == "size" else (value - half, value + half)
    return (low, high) if unseen is None else _moved_out(value, low, high, unseen - value, level)


def ends_of_difference(
    values: tuple[float, float], without: tuple[Floats, Floats], level: float, unseen: tuple[Floats | None, Floats | None] = (None, None)
) -> Ends | None:
    """Return the interval of the second of two correlations less the first, both made from the same outputs.

    Each has its own interval on Fisher's z scale, and the two are put together by how the z move together (MOVER): so the
    difference of two high correlations is as lopsided as they are. Each takes Student's quantile by the degrees of freedom of
    the difference where these are more than its own: a prompt that makes most of both may cancel out. None where one of them has
    none. An output more, to which everybody gives the same (`unseen` of `ends_of`), moves both: each end is moved out by what that
    would do to the difference.

    References
    ----------
    Zou (2007), Psychological Methods 12:399-413, Toward Using Confidence Intervals to Compare Correlations. Satterthwaite (1946),
    Biometrics Bulletin 2:110-114, for the degrees of freedom.

    Examples
    --------
    Two that move together entirely differ by what they differ by, where their own intervals reach as far up as down.

    >>> without = np.array([-0.1, 0, 0.1])
    >>> [round(end, 3) for end in ends_of_difference((0, 0), (without, without), 0.95)]
    [0.0, 0.0]
    """
    spreads = [spread_of(w, EVENED) for w in without]
    if any(spread.is_negligible(value) for spread, value in zip(spreads, values, strict=True)):
        return None
    degrees = spread_of(without[1] - without[0], EVENED).degrees
    of_one, of_other = (
        _on_fishers_scale(value, replace(spread, degrees=max(degrees, spread.degrees)), level, None)
        for value, spread in zip(values, spreads, strict=True)
    )
    z = [np.arctanh(np.clip(w, -1 + EDGE, 1 - EDGE)) for w in without]
    off = [side - side.mean() for side in z]
    squares = float((off[0] @ off[0]) * (off[1] @ off[1]))
    together = float(off[0] @ off[1]) / squares**0.5 if squares > 0 else 0.0
    (low_a, high_a), (low_b, high_b), (a, b) = of_one, of_other, values

    def half(one: float, other: float) -> float:
        return float(max(one**2 + other**2 - 2 * together * one * other, 0.0) ** 0.5)

    moved = np.zeros(0) if unseen[0] is None or unseen[1] is None else (unseen[1] - b) - (unseen[0] - a)
    return _moved_out(b - a, b - a - half(b - low_b, high_a - a), b - a + half(high_b - b, a - low_a), moved, level)


def _on_fishers_scale(value: float, spread: Spread, level: float, unseen: Floats | None) -> Ends:
    value = min(max(value, -1 + EDGE), 1 - EDGE)
    middle, half = np.arctanh(value), spread.half(level) / (1 - value**2)
    square = 0.0 if unseen is None else _unseen_square(np.arctanh(np.clip(unseen, -1 + EDGE, 1 - EDGE)) - middle, level)
    return float(np.tanh(middle - half)), float(np.tanh(middle + (half**2 + square) ** 0.5))


def _moved_out(value: float, low: float, high: float, moved: Floats, level: float) -> Ends:
    """Return both ends moved out by what each kind of output too rare to have been seen moves the figure by (m,)."""
    down, up = (value - low) ** 2 + _unseen_square(-moved, level), (high - value) ** 2 + _unseen_square(moved, level)
    return value - down**0.5, value + up**0.5


def _unseen_square(moved: Floats, level: float) -> float:
    """Return the square of what outputs too rare to have been seen move an end out by: each kind of m moves the figure by this."""
    defined = moved[np.isfinite(moved)]
    mean = float(np.mean(np.maximum(defined, 0.0) ** 2)) if len(defined) else 0.0
    return mean * NormalDist().inv_cdf((1 + level) / 2) ** 2


def _share(value: float, half: float, level: float) -> Ends:
    """Wilson's, of as many outputs as give a rate of that value half the width z sqrt(value (1 - value) / n)."""
    value = min(max(value, 0.0), 1.0)
    ratio = half**2 / max(value * (1 - value), NEGLIGIBLE)
    return wilson_bounds(value, NormalDist().inv_cdf((1 + level) / 2) ** 2 / ratio, level)


def _size(value: float, half: float) -> Ends:
    """The roots of (m - value)^2 = half^2 m / value."""
    if value <= NEGLIGIBLE:
        return 0.0, value + half
    ratio = half**2 / value
    reach = (ratio * value + ratio**2 / 4) ** 0.5
    return max(value + ratio / 2 - reach, 0.0), value + ratio / 2 + reach


def ends_of_limit(middle: Floats, deviation: Floats, times: float, level: float) -> Ends | None:
    """Return the interval of a mean plus so many standard deviations, from both: the whole's first, then without each prompt.

    The interval of the mean, and that of the deviation on a log scale, are put together with their correlation (MOVER), which
    counts in part where it narrows the interval and prompts are few, as the kurtosis does in `spread_of`. A deviation of few
    numbers is far too small more often than far too large, so chi square's limits, which Zou takes, are nearer below than above:
    below by less than the normal quantile of standard errors at any degrees of freedom, which is taken there; Student's above.
    None where nothing differs, or would not without one of the prompts.

    References
    ----------
    Zou (2013), Statistical Methods in Medical Research 22:630-642.
    """
    if not (deviation > NEGLIGIBLE).all():
        return None
    logs = np.log(deviation[1:])
    of_mean, of_log = spread_of(middle[1:]), spread_of(logs)
    off = middle[1:] - middle[1:].mean(), logs - logs.mean()
    squares = float((off[0] ** 2).sum() * (off[1] ** 2).sum())
    together = float((off[0] * off[1]).sum()) / squares**0.5 if squares > 0 else 0.0
    together *= np.sign(times) * (1.0 if times * together > 0 else max(1 - 3 / len(logs), 0.0))
    half, smaller, larger = of_mean.half(level), -of_log.error * NormalDist().inv_cdf((1 + level) / 2), of_log.half(level)
    ends = []
    for side in (-1.0, 1.0):
        moved = times * float(deviation[0]) * (np.exp(larger if side * times > 0 else smaller) - 1)
        square = half**2 + moved**2 + 2 * together * half * abs(moved)
        ends.append(float(middle[0]) + times * float(deviation[0]) + side * max(square, 0.0) ** 0.5)
    return ends[0], ends[1]
