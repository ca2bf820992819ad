"""Where a judge's quote stands in the output, or that it does not.

Exact text is looked for first, then the letters and digits alone: judges drop Markdown signs and line ends. A quote with
gaps (...) is there if its parts are, in order. Whatever else differs is not a quote.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SHORTEST = 6  # letters and digits; a shorter text is found everywhere
GAP = re.compile(r"\s*(?:\[\s*(?:\.{3}|…)\s*\]|\.{3,}|…)\s*")
HIDDEN_MARK = re.compile(r"\[U\+[0-9A-F]{4,6}\]")
LETTER = re.compile(r"[^\W_]")


@dataclass(frozen=True)
class Place:
    """Offsets of characters (end is after the last) and lines from 1."""

    start: int
    end: int
    line_start: int
    line_end: int


class Finder:
    """Looks for many quotes in one output."""

    def __init__(self, content: str) -> None:
        self.content = content
        self._letters: tuple[str, list[int]] | None = None

    def find(self, quote: str) -> Place | None:
        """The quote's place; None when the output does not hold it."""
        if len(LETTER.findall(quote)) < SHORTEST:
            at = self.content.find(quote.strip()) if quote.strip() else -1
            return self._place(at, at + len(quote.strip())) if at >= 0 else None
        if (at := self.content.find(quote)) >= 0:
            return self._place(at, at + len(quote))
        parts = [part for part in GAP.split(HIDDEN_MARK.sub("", quote)) if LETTER.search(part)]
        places: list[tuple[int, int]] = []
        for part in parts:
            found = self._find_letters(part, places[-1][1] if places else 0)
            if found is None:
                return None
            places.append(found)
        return self._place(places[0][0], places[-1][1]) if places else None

    def _find_letters(self, part: str, after: int) -> tuple[int, int] | None:
        if self._letters is None:
            self._letters = _letters_of(self.content)
        text, offsets = self._letters
        wanted = "".join(letter.casefold() for letter in LETTER.findall(part))
        at = text.find(wanted)
        while at >= 0 and offsets[at] < after:
            at = text.find(wanted, at + 1)
        return (offsets[at], offsets[at + len(wanted) - 1] + 1) if at >= 0 else None

    def _place(self, start: int, end: int) -> Place:
        first = self.content.count("\n", 0, start) + 1
        return Place(start, end, first, first + self.content.count("\n", start, end))


def _letters_of(content: str) -> tuple[str, list[int]]:
    """Letters and digits, folded, and the offset of each in the content."""
    letters, offsets = [], []
    for match in LETTER.finditer(content):
        folded = match[0].casefold()
        letters.append(folded)
        offsets.extend([match.start()] * len(folded))
    return "".join(letters), offsets
