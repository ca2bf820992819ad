"""What the coverage benches print: a line for each cell, the lowest of each figure, and how many cells are what."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bench.coverage_again import IN_DOUBT, Said

WORDS = ("within", "as near as can be", "above by chance", "below by chance", "cautious", "below", "none")
OF_A_JUDGE = ("within", "below", "below by chance", "above")

Row = dict[str, Any]
Line = tuple[str, Said, str]  # where a cell is, what is said of it, and how often each judge's intervals held


def rows_of(figures: Iterable[tuple[str, Iterable[Line]]], what: str, *, of_judges: Iterable[str] = ()) -> Iterator[Row]:
    """Two rows for each figure, and the counts of all cells; the lines go to standard error.

    `of_judges`: the words of cells in which each judge's studies are counted on their own.
    """
    counted: Counter[str] = Counter()
    for label, lines in figures:
        words, lowest = Counter[str](), (1.0, "")
        for place, one, each in lines:
            words[one.word] += 1
            told = f"{100 * one.held:.1f} {each}{one.word} {one.why}".rstrip()
            print(f"    {label}, {place}: {told}, {100 * one.with_interval:.0f} with", file=sys.stderr, flush=True)
            if one.word != "none":
                lowest = min(lowest, (one.held, place))
        counted += words
        yield {"name": f"{label}, lowest ({lowest[1]})", "value": 100 * lowest[0], "unit": "%", "better": "higher"}
        rest = ", ".join(f"{words[word]} {word}" for word in WORDS[1:] if words[word])
        yield {"name": f"{label}: cells within", "value": words["within"], "unit": f"of {words.total()}{rest and '; '}{rest}"}
    if of_each := Counter(of_judges):
        for word in OF_A_JUDGE:
            yield {"name": f"{what}: of {of_each.total()} cells of one judge {word}", "value": of_each[word], "unit": "cells"}
    yield from counts_of(counted, what)


def counts_of(counted: Counter[str], what: str, missed: Sequence[str] = IN_DOUBT) -> Iterator[Row]:
    """How many cells there are of each word, and last those that miss the bar."""
    total = counted.total()
    for word in dict.fromkeys((*(word for word in WORDS if counted[word]), *counted)):
        yield {"name": f"{what}: of all {total} cells {word}", "value": counted[word], "unit": "cells"}
    amiss = sum(counted[word] for word in missed)
    yield {"name": f"{what}: cells that miss the bar ({' or '.join(missed)})", "value": amiss, "unit": f"of {total}", "bar": 0}
