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


def check_level(level: float) -> None:
    """Raise ValueError unless level is a probability such as 0.95."""
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, must lie between 0 and 1, such as 0.95")


def cluster_numbers(name: str, clusters: Iterable[Hashable], length: int) -> Ints:
    """Return clusters (prompt ids of any kind) as whole numbers from 0, in order of first appearance."""
    number: dict[Hashable, int] = {}
    numbers = np.fromiter((number.setdefault(c, len(number)) for c in clusters), dtype=np.int64)
    if len(numbers) != length:
        raise ValueError(f"{name} has {len(numbers)} entries, must have one an output: {length}")
    return numbers
