"""Scores as they arrive, checked and made into arrays. Missing is NaN (or None) in, and never goes further."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Scores = npt.NDArray[np.generic] | Sequence[float | None] | Sequence[Sequence[float | None]]


def score_array(name: str, scores: Scores, ndim: tuple[int, ...] = (1,)) -> Floats:
    """Return scores as floats with NaN where there is none; ValueError on a wrong shape or an infinite score."""
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim not in ndim:
        raise ValueError(f"{name} has {array.ndim} dimensions, must have {' or '.join(map(str, ndim))}")
    if np.isinf(array).any():
        raise ValueError(f"{name} has an infinite score; unscored is None or NaN")
    return array


def check_range(name: str, scores: Floats, low: float, high: float) -> None:
    """Raise ValueError unless every score that is there lies in [low, high]."""
    outside = scores[(scores < low) | (scores > high)]
    if outside.size:
        raise ValueError(f"{name} has {outside[0]:g}, must lie in {low:g} to {high:g}")


def check_scale(scale: tuple[float, float]) -> None:
    """Raise ValueError unless scale is a range such as 1 to 5."""
    low, high = scale
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(f"scale is {low:g} to {high:g}, must be a range such as 1 to 5")


def check_level(level: float) -> None:
    """Raise ValueError unless level is a probability such as 0.95."""
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, must lie between 0 and 1, such as 0.95")


def cluster_numbers(name: str, clusters: Iterable[Hashable], length: int) -> Ints:
    """Return clusters (prompt ids of any kind) as whole numbers from 0, in order of first appearance."""
    if isinstance(clusters, np.ndarray) and clusters.ndim == 1 and clusters.dtype.kind in "iu":
        numbers = _numbered(clusters.astype(np.int64, copy=False))
    else:
        number: dict[Hashable, int] = {}
        numbers = np.fromiter((number.setdefault(c, len(number)) for c in clusters), dtype=np.int64)
    if len(numbers) != length:
        raise ValueError(f"{name} has {len(numbers)} entries, must have one an output: {length}")
    return numbers


def sums_by(numbers: Ints, columns: Floats, n: int = 0) -> Floats:
    """Return the sums of columns (items, k) over the items of each number: (n or as many as there are, k)."""
    return np.stack([np.bincount(numbers, column, n) for column in columns.T], axis=1).astype(np.float64, copy=False)


def stratum_numbers(name: str, strata: Iterable[Hashable], length: int) -> Ints:
    """Return strata as whole numbers from 0; those that are whole numbers keep their order, so that neighbours stay so."""
    named = strata if isinstance(strata, np.ndarray) else list(strata)
    array = np.asarray(named) if len(named) else np.empty(0, dtype=np.int64)
    if array.ndim == 1 and array.dtype.kind in "iu" and len(array) == length:
        return rising_numbers(array.astype(np.int64, copy=False))
    return cluster_numbers(name, named, length)


def rising_numbers(ids: Ints) -> Ints:
    """Return whole numbers as numbers from 0 that keep their order: numpy.unique's inverse, without a sort where they are small."""
    if not len(ids) or ids.min() < 0 or ids.max() > 8 * len(ids):
        return np.asarray(np.unique(ids, return_inverse=True)[1], dtype=np.int64)
    return np.asarray((np.cumsum(np.bincount(ids) > 0) - 1)[ids])


def how_many(numbers: Ints) -> int:
    """Return how many different whole numbers from 0 there are."""
    return int(np.count_nonzero(np.bincount(numbers)))


def _numbered(ids: Ints) -> Ints:
    """Return whole numbers as numbers from 0 in order of first appearance: as by a dictionary, at a hundredth of its time."""
    if not len(ids):
        return ids
    if ids.min() < 0 or ids.max() > 8 * len(ids):
        ids = np.asarray(np.unique(ids, return_inverse=True)[1], dtype=np.int64)
    first = np.full(int(ids.max()) + 1, len(ids), dtype=np.int64)
    first[ids[::-1]] = np.arange(len(ids) - 1, -1, -1)  # of several assignments the last one stays
    place = np.empty(len(first), dtype=np.int64)
    place[np.argsort(first)] = np.arange(len(first))
    return place[ids]


def mean_human(human: Scores) -> Floats:
    """Return the mean human score of each output, (n,) or (n, raters) in; NaN where nobody scored it."""
    table = score_array("human", human, ndim=(1, 2))
    if table.ndim == 1:
        return table
    given = ~np.isnan(table)
    count = given.sum(axis=1)
    total = np.where(given, table, 0.0).sum(axis=1)
    return np.asarray(np.divide(total, count, out=np.full(len(table), np.nan), where=count > 0))


def scored_by_both(judge: Scores, human: Scores) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
    """Return judge and mean human scores of the outputs that have both, and which those are; ValueError on lengths."""
    scores, people = score_array("judge", judge), mean_human(human)
    if len(scores) != len(people):
        raise ValueError(f"judge has {len(scores)} outputs, human {len(people)}; one row an output in both")
    both = ~np.isnan(scores) & ~np.isnan(people)
    return scores[both], people[both], both
