"""The second stage of the coverage benches: a cell in doubt is simulated again, by new seeds, and again if still in doubt.

Of hundreds of cells with 2,000 studies some are "cautious" or "below" by the luck of the draw. Others are cautious because too
few studies keep a neighbour from counting: shortened, it holds the truth 91 times in 100, but a third of one judge's studies is
222, where three standard errors are five points. So every such cell is simulated again together with its neighbours (the same
figure, size and way of labelling) and judged by the same rules on the new studies alone; the other cells stay as they are.

12,000 studies settle most. Those that they leave in doubt get 60,000, 20,000 by each judge: three standard errors of the
smallest part that counts, a third of one judge's studies, are then 0.9 points, and two of a cell a seventh of a point. Each
look has seeds of its own: a cell that was picked for having been off must not be judged by the studies that it was picked for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np

AT_ONCE = 250  # studies made from one seed
IN_DOUBT = ("cautious", "below")

Where = TypeVar("Where", bound=Hashable)
Key = TypeVar("Key", bound=Hashable)
Simulate = Callable[..., Mapping[str, Any]]  # of a place, studies and seed, and `only` some figures: the cell of each of them


@dataclass(frozen=True)
class Look:
    """So many studies of a cell, shared among the judges; their seeds begin at `seed`."""

    studies: int
    seed: int


LOOKS = (Look(12_000, 200_000), Look(60_000, 300_000))  # the first stage's seeds are less than ten


@dataclass(frozen=True)
class Said:
    """What is said of a cell: the share that hold the truth, a word, what shows it, and in how many studies there is an interval."""

    held: float
    word: str
    why: str
    with_interval: float = 1.0


def judged_again(said: dict[Key, Said], judge: Callable[[list[Key], Look], dict[Key, Said]]) -> dict[Key, Said]:
    """Return what is said of all cells, of those in doubt by `judge`, which simulates them again, once a look."""
    for look in LOOKS:
        doubtful = [key for key, one in said.items() if one.word in IN_DOUBT]
        again = judge(doubtful, look) if doubtful else {}
        for key, one in again.items():
            was = said[key]
            text = f"{100 * was.held:.1f} {was.word}, of {look.studies:,} {100 * one.held:.1f} {one.word} {one.why}".rstrip()
            print(f"    {key}: {text}", file=sys.stderr, flush=True)
        said = said | again
    return said


def made_again(
    pool: Executor | None, simulate: Simulate, wanted: Mapping[Where, Collection[str]], studies: int, seed: int
) -> dict[Where, dict[str, Any]]:
    """Return the cells of the figures `wanted` at each place, so many studies each, made in pieces."""
    tasks = [
        (simulate, where, min(AT_ONCE, studies - begun), seed + begun // AT_ONCE, only)
        for where, only in wanted.items()
        for begun in range(0, studies, AT_ONCE)
    ]
    pieces = (pool.map if pool else map)(_piece, *zip(*tasks, strict=True))
    found: dict[Where, dict[str, list[Any]]] = {where: {} for where in wanted}
    for (_, where, *_), piece in zip(tasks, pieces, strict=True):
        for name, cell in piece.items():
            found[where].setdefault(name, []).append(cell)
    return {where: {name: together(cells) for name, cells in mine.items()} for where, mine in found.items()}


def _piece(simulate: Simulate, where: Any, studies: int, seed: int, only: Collection[str]) -> Mapping[str, Any]:
    return simulate(where, studies, seed, only=only)


def together(parts: Iterable[Any]) -> Any:
    """Return one cell of many pieces of it: what is of each study one after the other, numbers of studies summed."""
    every = list(parts)
    columns = [[getattr(part, field.name) for part in every] for field in fields(every[0])]
    return type(every[0])(*(np.concatenate(c) if isinstance(c[0], np.ndarray) else sum(c) for c in columns))
