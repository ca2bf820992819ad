"""Find quotes in a text and mark them.

A judge quotes what it read, but rarely to the letter: Markdown signs, line ends and capitals differ. So only letters
and digits are compared. A quote that is not there is reported as such: it may have been made up.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

SHORTEST = 6  # letters and digits; a shorter quote is found everywhere
SEARCHED_CHARS = 400_000
TAG = re.compile(r'<(?:[^<>"]|"[^"]*")*>')
UNIT = re.compile(r"&#?\w+;|[^\W_]")
MATH = re.compile(r"\$\$.*?\$\$|\$[^$\n]+\$", re.DOTALL)
LINK_TARGET = re.compile(r"\]\([^)\s]*\)")
CLOSING = "%.)]”\"’'!?"
LIST_NUMBER = re.compile(r"^\s*\d+[.)]\s", re.MULTILINE)


@dataclass(frozen=True)
class Mark:
    """A piece of evidence to show in the output. `id` is its anchor in the page, `label` says of what and whose it is."""

    id: str
    who: Literal["judge", "human"]
    text: str
    label: str
    line_start: int | None = None
    line_end: int | None = None
    # The criterion's number in the rubric.
    number: int | None = None


@dataclass(frozen=True)
class _Span:
    start: int
    end: int
    mark: Mark


def letters(text: str) -> str:
    return "".join(u.casefold() for u in UNIT.findall(text) if len(u) == 1)


def letters_of_quote(text: str) -> str:
    """A quote's letters, without what formatting takes away: formulas, link targets, list numbers."""
    return letters(LIST_NUMBER.sub("", LINK_TARGET.sub("", MATH.sub("", text))))


def find_lines(content: str, quote: str) -> tuple[int, int] | None:
    """The first and last line (from 1) that a quote is found in."""
    wanted = letters(quote)
    if len(wanted) < SHORTEST or len(content) > SEARCHED_CHARS:
        return None
    seen, places = [], []
    for match in UNIT.finditer(content):
        if len(match[0]) == 1:
            folded = match[0].casefold()
            seen.append(folded)
            places.extend([match.start()] * len(folded))
    at = "".join(seen).find(wanted)
    if at < 0:
        return None
    first, last = places[at], places[at + len(wanted) - 1]
    start = content.count("\n", 0, first) + 1
    return start, start + content.count("\n", first, last)


def mark_quotes(html: str, marks: Sequence[Mark]) -> tuple[str, set[str]]:
    """(the HTML with the quotes marked, the ids of the marks that were found). `html` is ours, well formed."""
    if not marks or len(html) > SEARCHED_CHARS:
        return html, set()
    seen, places = _letters_of_html(html)
    spans = []
    for mark in marks:
        wanted = letters_of_quote(mark.text)
        at = seen.find(wanted) if len(wanted) >= SHORTEST else -1
        if at >= 0:
            spans.append(_Span(places[at], _end(html, places[at + len(wanted) - 1] + 1, mark.text), mark))
    return _wrap(html, spans), {span.mark.id for span in spans}


def _end(html: str, end: int, quote: str) -> int:
    """The end of a quote with the signs that follow its last letter, where the text has them too: 95%.”"""
    units = list(UNIT.finditer(quote))
    for sign in quote[units[-1].end() :] if units else "":
        end += sign in CLOSING and html.startswith(sign, end)
    return end


def _letters_of_html(html: str) -> tuple[str, list[int]]:
    """The letters of the text outside tags and formulas, and the place of each in the HTML."""
    seen: list[str] = []
    places: list[int] = []
    in_math = False
    for start, end, is_tag in _pieces(html):
        if is_tag:
            in_math = html.startswith("<math", start) or (in_math and not html.startswith("</math", start))
        elif not in_math:
            for match in UNIT.finditer(html, start, end):
                if len(match[0]) == 1:
                    folded = match[0].casefold()
                    seen.append(folded)
                    places.extend([match.start()] * len(folded))
    return "".join(seen), places


def _pieces(html: str) -> list[tuple[int, int, bool]]:
    """(start, end, is a tag) of each tag and each text between tags."""
    pieces, at = [], 0
    for tag in TAG.finditer(html):
        if tag.start() > at:
            pieces.append((at, tag.start(), False))
        pieces.append((tag.start(), tag.end(), True))
        at = tag.end()
    if at < len(html):
        pieces.append((at, len(html), False))
    return pieces


def _wrap(html: str, spans: Sequence[_Span]) -> str:
    """Put <mark> round the text inside the spans, piece by piece, so that tags stay well nested."""
    if not spans:
        return html
    cuts = sorted({edge for span in spans for edge in (span.start, span.end)})
    out: list[str] = []
    placed: set[str] = set()
    in_math = False
    for start, end, is_tag in _pieces(html):
        text = html[start:end]
        if is_tag:
            in_math = text.startswith("<math") or (in_math and not text.startswith("</math"))
        if is_tag or in_math or not text.strip():
            out.append(text)
            continue
        edges = [start, *(c for c in cuts if start < c < end), end]
        for left, right in pairwise(edges):
            covering = [s.mark for s in spans if s.start <= left and right <= s.end]
            out.append(_marked(html[left:right], covering, placed))
    return "".join(out)


def _marked(text: str, covering: Sequence[Mark], placed: set[str]) -> str:
    if not covering or not text.strip():
        return text
    fresh = [mark for mark in covering if mark.id not in placed]
    placed.update(mark.id for mark in fresh)
    anchors = "".join(f'<span id="{mark.id}"></span>' for mark in fresh[1:])
    own_id = f' id="{fresh[0].id}"' if fresh else ""
    return f'{anchors}<mark class="{covering[0].who}"{own_id}>{text}</mark>'
