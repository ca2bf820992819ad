"""Resamples of prompts, made once and shared by every figure of a study, and the interval that they give.

A figure is a function of sums over outputs. A resample weighs each prompt by how often it was drawn, so two thousand
resamples of such sums are one matrix product. Figures made from the same Resamples are paired. Up to two hundred prompts,
each is left out once in place of drawing: with few, a bootstrap holds the true figure less often than it says.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from graders.calibration.arrays import Floats, Ints, check_level, cluster_numbers, sums_by
from graders.calibration.jackknife import Kind, ends_of
from graders.calibration.result import Estimate
from graders.calibration.student import student_quantile

# With more, prompts are drawn in groups formed at random: valid too. The width of an interval is then off by 1 in 30 at
# random (the root of 1 / (2 x 500)), as it is for drawing 2,000 resamples and not all there are.
MAX_PROMPTS = 500
FEW_PROMPTS = 200  # up to so many each is left out once
CHUNK_CELLS = 4_000_000  # of a table by kind held at once: 32 MB
DRAWN_CELLS = 100_000  # counted at once: what fits into the processor's cache is counted in half the time
MAX_CELLS = 20_000_000  # of a table with a row a prompt: 160 MB
EXACT_IN_SINGLE = 2**24  # whole numbers below are exact in single precision
MIN_SHARE_DEFINED = 0.5  # of the resamples; with fewer there is no interval
ONE_OUTPUT = "not defined, because one output alone shows no agreement beyond chance"
NO_RESAMPLES = "no interval was asked for"
ONE_PROMPT = "no interval: all outputs belong to one prompt"
HINGES = "no interval: without one of the prompts it is not defined, so too few outputs differ"
FEWEST_RARE = 3  # prompts, without which no interval of agreement beyond chance holds the truth as often as it says
TOO_ALIKE = f"no interval: judge or people give another label than their most frequent on fewer than {FEWEST_RARE} prompts"
ROUNDING = 1e-9  # resamples that differ by less are the same
ROUNDED = 1e-11  # of a sum of squares: what is left of it when equal numbers' mean is taken away

Statistic = Callable[[Floats], Floats]
Mask = npt.NDArray[np.bool_]


class Resamples:
    """How often each prompt was drawn in each resample; of few prompts, each resample lacks one.

    Parameters
    ----------
    clusters : iterable (n,)
        The prompt of each item (an output, or an output x criterion).
    rng : numpy.random.Generator
        Where the draws come from.
    n_boot : int
        How many resamples are drawn of more than 200 prompts.
    level : float
        How often an interval should hold the true figure over many studies.

    Attributes
    ----------
    clusters : array (n,)
        The prompt of each item, as a number from 0.
    counts : array (n_boot, prompts)
        How often each prompt was drawn.
    is_drawn : bool
        False where each prompt is left out once: then there are as many resamples as prompts.
    unit : str
        What was drawn: "prompts", or "groups of prompts" when there are over 500 of them.
    """

    def __init__(self, clusters: Iterable[Hashable], *, rng: np.random.Generator, n_boot: int = 2000, level: float = 0.95):
        check_level(level)
        if n_boot < 1:
            raise ValueError(f"n_boot is {n_boot}, must be at least 1")
        named = clusters if isinstance(clusters, np.ndarray) else list(clusters)
        self.clusters: Ints = cluster_numbers("clusters", named, len(named))
        n_prompts = int(self.clusters.max()) + 1 if len(named) else 0
        self.unit = "prompts"
        if n_prompts > MAX_PROMPTS:
            self.unit = "groups of prompts"
            self.clusters = (rng.permutation(n_prompts) % MAX_PROMPTS)[self.clusters]
            n_prompts = MAX_PROMPTS
        self.level = level
        self.is_drawn = n_prompts > FEW_PROMPTS
        self.counts = _draw(n_prompts, n_boot, rng) if self.is_drawn else 1.0 - np.eye(n_prompts)
        self.counts_single = self.counts.astype(np.float32)  # for tables of whole numbers: as exact, in half the time

    @property
    def n_boot(self) -> int:
        """How many resamples there are."""
        return len(self.counts)

    @property
    def n_drawn_from(self) -> int:
        """How many prompts (or groups of prompts) the items belong to."""
        return int(np.count_nonzero(np.bincount(self.clusters)))

    def of(self, rows: Mask | Ints) -> Resamples:
        """Return the same draws for some of the items (a mask, or their numbers in any order)."""
        part = object.__new__(Resamples)
        part.clusters, part.level, part.unit = self.clusters[rows], self.level, self.unit
        part.counts, part.counts_single, part.is_drawn = self.counts, self.counts_single, self.is_drawn
        return part

    def at_level(self, level: float) -> Resamples:
        """Return the same draws for intervals of another level."""
        check_level(level)
        same = self.of(np.arange(len(self.clusters)))
        same.level = level
        return same

    def sums(self, columns: Floats) -> Floats:
        """Return the sums of columns (n, k) over the items of each resample: (n_boot, k)."""
        n_prompts = self.counts.shape[1]
        return self._weigh(sums_by(self.clusters, columns, n_prompts))

    def sums_by_kind(self, kind: Ints, columns: Floats) -> Floats:
        """Return the sums over the items of each resample: (n_boot, k). `kind` (n,) is each item's row of columns (kinds, k)."""
        n_prompts, n_kinds = self.counts.shape[1], len(columns)
        if n_prompts * n_kinds > CHUNK_CELLS:
            return self.sums(columns[kind])
        by_prompt = np.bincount(self.clusters * n_kinds + kind, minlength=n_prompts * n_kinds).reshape(n_prompts, n_kinds)
        return self._weigh(by_prompt.astype(np.float64) @ columns)

    def counts_of(self, cells: Ints, n_cells: int, values: Floats | None = None) -> Floats:
        """Return how many items of each resample lie in each cell, or the sum of their values: (n_boot, n_cells).

        `cells` (n,) is each item's.
        """
        n_prompts = self.counts.shape[1]
        by_prompt = np.bincount(self.clusters * n_cells + cells, weights=values, minlength=n_prompts * n_cells)
        table = by_prompt.reshape(n_prompts, n_cells)
        if values is None and not self.is_drawn:  # all but one prompt: whole numbers, taken off exactly
            return np.asarray((table.sum(axis=0)[:, None] - table.T).astype(np.float64, order="C").T)
        if values is None and n_prompts and table.sum(axis=1).max() * n_prompts < EXACT_IN_SINGLE:
            counts, there = np.zeros((n_cells, self.n_boot)), np.flatnonzero(table.any(axis=0))  # of many cells few are used
            counts[there] = table.T[there].astype(np.float32) @ self.counts_single.T
            return counts.T
        return self._weigh(table.astype(np.float64))

    def fits(self, n_cells: int) -> bool:
        """Whether a table with this many cells a prompt can be held."""
        return bool(n_cells * max(self.counts.shape) <= MAX_CELLS)

    def _weigh(self, by_prompt: Floats) -> Floats:
        return np.asarray((by_prompt.T @ self.counts.T).T)  # a column in one piece, and half the time of counts @ by_prompt


def all_agree(n: int) -> str:
    """Return why a figure has no interval that is the same whichever outputs are drawn."""
    return f"no interval: it is the same whichever of the {n:,} is left out, so they can't tell how sure it is"


def bootstrap(
    columns: Floats,
    statistic: Statistic,
    resamples: Resamples | None,
    n_dropped: int = 0,
    *,
    kind: Kind = "points",
    unseen: Floats | None = None,
) -> Estimate:
    """Return a statistic of sums of columns (n, k) with its interval; `resamples` are those of the same n items.

    The statistic takes sums (b, k) and returns (b,), NaN where it is not defined. On the whole it has to be defined:
    the caller has seen to that, and says why where it is not.
    """
    value = float(statistic(columns.sum(axis=0)[None])[0])
    resampled = None if resamples is None else statistic(resamples.sums(columns))
    return with_interval(value, resampled, resamples, len(columns), n_dropped, kind=kind, unseen=unseen)


def with_interval(
    value: float,
    resampled: Floats | None,
    resamples: Resamples | None,
    n: int,
    n_dropped: int = 0,
    *,
    kind: Kind = "points",
    unseen: Floats | None = None,
) -> Estimate:
    """Return the value with its interval from its resampled values (n_boot,).

    Up to 200 prompts it is that of `jackknife.ends_of`, to which `kind` and `unseen` go. Above, the expanded percentile
    interval: the percentiles are moved outward for few prompts: to the normal probability of the Student quantile with C - 1
    degrees of freedom, times the root of C / (C - 1), for C prompts (Hesterberg 2015, The American Statistician
    69:371-386, section 5.3). `resamples` are those of the items that the value rests on. Where all resamples give the
    same there is no interval: outputs that all agree don't show how seldom others would not.
    """
    if resamples is None or resampled is None:
        return Estimate(value, None, None, n, why_missing=NO_RESAMPLES, n_dropped=n_dropped)
    n_prompts = resamples.n_drawn_from
    if n_prompts < 2:
        return Estimate(value, None, None, n, why_missing=ONE_PROMPT, n_dropped=n_dropped)
    if not resamples.is_drawn:
        without = resampled[np.bincount(resamples.clusters, minlength=len(resampled)) > 0]  # other prompts change nothing
        ends = ends_of(value, without, kind, resamples.level, unseen) if np.isfinite(without).all() else None
        method = f"{n_prompts} {resamples.unit}, each left out once"
        if ends is not None:
            return Estimate(value, min(ends[0], value), max(ends[1], value), n, method=method, n_dropped=n_dropped)
        why = all_agree(n) if np.isfinite(without).all() else HINGES
        return Estimate(value, None, None, n, why_missing=why, n_dropped=n_dropped)
    defined = resampled[np.isfinite(resampled)]
    if len(defined) < max(1.0, MIN_SHARE_DEFINED * len(resampled)):
        why = f"no interval: it is not defined in {len(resampled) - len(defined)} of {len(resampled)} resamples: too few outputs"
        return Estimate(value, None, None, n, why_missing=why, n_dropped=n_dropped)
    tail = _expanded_tail(resamples.level, n_prompts)
    low, high = _percentiles(defined, tail)
    if high - low <= ROUNDING * max(1.0, abs(value)):
        return Estimate(value, None, None, n, why_missing=all_agree(n), n_dropped=n_dropped)
    method = f"bootstrap of {n_prompts} {resamples.unit}, {len(resampled)} resamples"
    return Estimate(value, min(low, value), max(high, value), n, method=method, n_dropped=n_dropped)


def are_too_alike(resamples: Resamples, *others: Mask) -> bool:
    """Whether on one of the sides too few prompts have an output with another label than its most frequent: `others` are these."""
    return any(resamples.of(other).n_drawn_from < FEWEST_RARE for other in others)


def _percentiles(values: Floats, tail: float) -> tuple[float, float]:
    """Return numpy.quantile(values, [tail, 1 - tail]), at a fifth of its time."""
    rising = np.sort(values)
    places = [tail * (len(rising) - 1), (1 - tail) * (len(rising) - 1)]
    low, high = np.interp(places, np.arange(len(rising)), rising)
    return float(low), float(high)


def _expanded_tail(level: float, n_prompts: int) -> float:
    student = student_quantile(n_prompts - 1, (1 + level) / 2) * (n_prompts / (n_prompts - 1)) ** 0.5
    return NormalDist().cdf(-student)


def _draw(n_prompts: int, n_boot: int, rng: np.random.Generator) -> Floats:
    """Return the counts, by drawing prompts one by one: ten times as fast as rng.multinomial."""
    counts = np.zeros((n_boot, n_prompts), dtype=np.float64)
    step = max(1, DRAWN_CELLS // max(1, n_prompts))
    for start in range(0, n_boot if n_prompts else 0, step):
        rows = min(step, n_boot - start)
        drawn = rng.integers(n_prompts, size=(rows, n_prompts), dtype=np.int32)
        drawn += np.arange(rows, dtype=np.int32)[:, None] * n_prompts
        counts[start : start + rows] = np.bincount(drawn.ravel(), minlength=rows * n_prompts).reshape(rows, n_prompts)
    return counts


def mean_statistic(sums: Floats) -> Floats:
    """Return the mean from sums (b, 2) of ones and values, NaN for a resample without items."""
    return ratio(sums[:, 1], sums[:, 0])


def scatter(count: Floats, total: Floats, squares: Floats) -> Floats:
    """Return count * squares - total^2, the variance times count^2, of sums of numbers; 0 where it is rounding, as of equal numbers."""
    whole = count * squares
    found = whole - total * total
    return np.where(found > ROUNDED * whole, found, 0.0)


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Return the quotient, NaN where the denominator is not above 0 (rounding included)."""
    return np.asarray(np.divide(numerator, denominator, out=np.full(np.shape(denominator), np.nan), where=denominator > 1e-12))
