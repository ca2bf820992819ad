"""The citations of a Markdown text, and the numbers that stand with them.

A citation is an arXiv number, a DOI, a Semantic Scholar identifier, a link to one of these, an author with a year, or a title
with a year. Its sentence's numbers are its claims; a sentence without a citation goes on about the work cited before it in
the same paragraph. The list of references says what a work is called; it makes no claims.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from graders.citations.quantities import Quantity, plain, read_quantities
from tasks.tools.papers import ARXIV, DOI, S2, canonical_of, folded

ID = re.compile(
    rf"""(?:\[?arxiv[:\s]\s?|https?://(?:www\.|export\.)?arxiv\.org/(?:abs|pdf|html)/){ARXIV}(?:\.pdf)?\]?
    |\[{ARXIV.replace("(?P<arxiv>", "(?P<bare>")}\]
    |\[?(?:doi:\s?|https?://(?:dx\.)?doi\.org/|(?<![\w/.])){DOI}\]?
    |\[?(?:s2:\s?|https?://(?:www\.)?semanticscholar\.org/paper/(?:[^/\s)]+/)?){S2}\]?""",
    re.VERBOSE | re.IGNORECASE,
)
NAME = r"(?<!\w)(?:(?:van|von|de|der|den|di|da|la|le|el|al)\s){0,3}[A-ZÀ-ÖØ-Þ][\w'’\-]{1,40}"
YEAR = r"(?P<year>(?:19|20)\d{2})[a-z]?"
AUTHOR_YEAR = re.compile(
    rf"(?P<first>{NAME})(?:\s{{1,3}}(?P<etal>et\s{{1,3}}al\.?)|(?:,\s{{1,3}}{NAME}){{0,6}},?\s{{1,3}}(?:and|&)\s{{1,3}}(?P<second>{NAME}))?(?P<gap>,?\s{{1,3}}\(?|\s{{0,3}}\(){YEAR}(?=[,;:)\].]|\s|$)"
)
TITLE_YEAR = re.compile(rf"[\"“*_](?P<title>[A-Z][^\"“”*_\n]{{14,200}}?)[.,]?[\"”*_]{{1,2}},?\s*\((?:[^()\d]{{0,60}},\s*)?{YEAR}\)")
LINK = re.compile(r"\[(?P<label>[^\[\]\n]{1,300})\]\((?P<url>https?://[^\s()]{1,400}(?:\([^\s()]{0,60}\)[^\s()]{0,60}){0,4})\)")
HEADING = re.compile(r"^\s{0,3}(#{1,6})[ \t]+(\S[^\n]*)")
REFERENCES = re.compile(r"^\W*(?:\d+\W+)?(?:references|bibliography|works cited|literature|sources)\W*$", re.IGNORECASE)
BULLET = re.compile(r"^\s*(?:[-*+]|\d{1,3}[.)]|\[\d{1,3}\])\s+")
TABLE_ROW = re.compile(r"^\s*\|.*\|\s*$")
FENCE = ("```", "~~~")
SIMPLE_MATH = re.compile(r"\$\s*~?([\d.,]+)\s*(\\times|\\%|\\,?)?\s*(\\text\{[^{}$]*\})?\s*\$")
MATH = re.compile(r"\$\$.*?\$\$|\$[^$\n]+\$", re.DOTALL)
CODE = re.compile(r"`[^`\n]+`")
END = re.compile(r"[.!?][\"”’)\]*_]{0,4}\s{1,4}(?=[A-Z0-9À-Þ\[\"“*_(])")
ABBREVIATIONS = re.compile(r"(?:\bet al|\be\.g|\bi\.e|\bcf|\bvs|\bFigs?|\bEqs?|\bSec|\bNos?|\bapprox|\bresp|\bDr|\b[A-Z])\.$")
BETWEEN = re.compile(r"(?:\s{0,2}[,;:])?\s{0,2}\(?\[?$")
LONGEST_TEXT = 400_000
LONGEST_SENTENCE = 20_000  # a longer one is no sentence, and its citations would be those of all its numbers
LONGEST_BRACKET, LONGEST_BARE = 2_000, 300
MOST_BEFORE = 8
# "Section 3", "Table 2", "version 1": numbers that say where, not how much.
PLACE = r"sections?|tables?|figures?|figs?\.?|eqs?\.?|equations?|chapters?|appendix|versions?|pages?|part|no\.|§|top"
PLACES = re.compile(rf"(?:\b(?:{PLACE})|§)\s*[-(]?(?:\d+(?:\.\d+)?\s?(?:,|and|or|to|-)\s?)*$", re.IGNORECASE)


@dataclass(frozen=True)
class Citation:
    """One mention. `id` is canonical or "", and then `title` or `names` and `year` say which work is meant."""

    text: str
    start: int
    end: int
    id: str = ""
    names: tuple[str, ...] = ()
    year: int | None = None
    title: str = ""

    @property
    def key(self) -> str:
        """The same for each mention of a work."""
        if self.id:
            return self.id
        return f"title:{folded(self.title)}" if self.title else f"author:{folded(' '.join(self.names[:1]))} {self.year}"


@dataclass(frozen=True)
class Sentence:
    """`text` as it was typed; `citations` and `numbers` in order. `before`: the citations before it in its paragraph, last first.

    A sentence without a citation of its own (`is_carried`) is about the last of those.
    """

    text: str
    start: int
    line_start: int
    line_end: int
    citations: tuple[Citation, ...]
    numbers: tuple[Quantity, ...]
    before: tuple[Citation, ...] = ()

    @property
    def is_carried(self) -> bool:
        return not self.citations


@dataclass(frozen=True)
class Reference:
    """An entry of the list of references."""

    text: str
    start: int
    line: int
    citation: Citation


@dataclass
class Found:
    sentences: list[Sentence] = field(default_factory=list)
    references: list[Reference] = field(default_factory=list)


def find_citations(text: str) -> Found:
    """The sentences that have a citation or go on about one, and the list of references, of the first LONGEST_TEXT signs."""
    text = text[:LONGEST_TEXT]
    masked = _mask(text)
    found, lines = Found(), _Lines(text)
    in_references, level = False, 0
    for start, end, kind in _blocks(masked):
        block = masked[start:end]
        if kind == "heading" and (heading := HEADING.match(block)):
            if REFERENCES.match(heading[2][:80].rstrip("# \r")):
                in_references, level = True, len(heading[1])
            elif in_references and len(heading[1]) <= level:
                in_references = False
        elif in_references:
            found.references += _references(text, masked, start, end, lines)
        elif kind != "heading":
            found.sentences += _sentences(text[start:end], masked[start:end], start, lines, is_row=kind == "row")
    return found


def _mask(text: str) -> str:
    """As long as the text, without code and formulas; a formula that is a number stays one."""

    def blank(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", match[0])

    def number(match: re.Match[str]) -> str:
        sign = {"\\times": "x", "\\%": "%"}.get(match[2] or "", "")
        return f" {match[1]}{sign}".ljust(len(match[0]))

    return MATH.sub(blank, SIMPLE_MATH.sub(number, CODE.sub(blank, _without_fences(text))))


def _without_fences(text: str) -> str:
    parts, open_by = [], ""
    for line in text.splitlines(keepends=True):
        mark = line[:3]
        is_edge = mark in FENCE and open_by in ("", mark)
        parts.append(re.sub(r"[^\n]", " ", line) if open_by or is_edge else line)
        if is_edge:
            open_by = "" if open_by else mark
    return "".join(parts)


class _Lines:
    """Which line (from 1) a place of the text is in."""

    def __init__(self, text: str) -> None:
        self.ends = [match.start() for match in re.finditer("\n", text)]

    def of(self, at: int) -> int:
        return bisect_left(self.ends, at) + 1


def _blocks(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, kind) of each paragraph, list item, row of a table and heading."""
    at, begun = 0, -1
    for line in text.splitlines(keepends=True):
        kind = "heading" if HEADING.match(line) else "row" if TABLE_ROW.match(line) else "item" if BULLET.match(line) else ""
        if begun >= 0 and (kind or not line.strip()):
            yield begun, at, "text"
            begun = -1
        if kind in ("heading", "row"):
            yield at, at + len(line), kind
        elif line.strip() and begun < 0:
            begun = at
        at += len(line)
    if begun >= 0:
        yield begun, at, "text"


def _references(text: str, masked: str, start: int, end: int, where: _Lines) -> Iterator[Reference]:
    """An entry a block; a paragraph of lines that each have an identifier is an entry a line."""
    lines = [match for match in re.finditer(r"[^\n]+", masked[start:end])]
    several = sum(bool(ID.search(line[0])) for line in lines) > 1
    for line in lines if several else [re.match(r".*", masked[start:end], re.DOTALL)]:
        if line is None:
            continue
        at = start + line.start()
        citation = _reference(line[0], at)
        if citation:
            yield Reference(text[at : at + len(line[0])].strip(), at, where.of(at), citation)


def _reference(entry: str, start: int) -> Citation | None:
    """What an entry says of its work: identifier, title, year."""
    match = next((match for match in ID.finditer(entry)), None)
    words = ID.sub(" ", LINK.sub(lambda link: link["label"], BULLET.sub("", entry)))
    years = re.findall(r"\b(?:19|20)\d{2}\b", words)
    title = _title_of(words)
    if not match and not title:
        return None
    paper_id = _id_of(match) if match else ""
    return Citation(entry.strip(), start, start + len(entry), paper_id, year=int(years[-1]) if years else None, title=title)


def _title_of(entry: str) -> str:
    """In quotation marks or italics, else the second of "Authors. Title. Year."; "" if there is none of four words."""
    if quoted := re.search(r"[\"“*_]([^\"“”*_]{10,300}?)[.,]?[\"”*_]", entry):
        return quoted[1].strip()
    # The dot of an initial ends the authors only in "Packer, C. MemGPT: ...".
    entry = re.sub(r"(?:(?<!, )\b([A-Z])\.|\b([A-Z])\.(?=\s+[\w'’-]+,|,|-))", r"\1\2", entry.replace("et al.", "et al"))
    parts = [part.strip(" ,.;:()[]") for part in re.split(r"\.\s+|\(\d{4}[a-z]?\)\.?", entry)]
    titles = [part for part in parts[1:] if len(part.split()) >= 3 and not re.match(r"(?:In\b|arXiv|Proceedings|https?:)", part)]
    return titles[0] if titles else ""


def _sentences(text: str, masked: str, start: int, lines: _Lines, *, is_row: bool) -> Iterator[Sentence]:
    """The sentences of a block that have citations, and after them those that go on."""
    last: tuple[Citation, ...] = ()
    for at, stop in [(0, len(masked))] if is_row else _split(masked):
        part = masked[at:stop]
        citations = tuple(_citations(part, start + at)) if len(part) <= LONGEST_SENTENCE else ()
        numbers = tuple(_numbers(part, start + at, citations)) if citations or last else ()
        if not citations and not (last and numbers):
            continue
        typed = text[at:stop].rstrip()
        first_line = lines.of(start + at)
        yield Sentence(typed, start + at, first_line, first_line + typed.count("\n"), citations, numbers, last)
        last = (*citations, *last)[:MOST_BEFORE]


def _split(block: str) -> list[tuple[int, int]]:
    """(start, end) of each sentence. One that is nothing but a citation belongs to the one before it."""
    cuts, at, seen = [], 0, 0
    depth = {"(": 0, "[": 0}
    for match in END.finditer(block):
        between = block[seen : match.start() + 1]
        seen = match.start() + 1
        depth = {sign: depth[sign] + between.count(sign) - between.count(other) for sign, other in ("()", "[]")}
        is_inside = max(depth.values()) > 0 and match.start() - at < LONGEST_BRACKET
        if not is_inside and not ABBREVIATIONS.search(block[max(0, seen - 12) : seen]):
            cuts.append((at, match.end()))
            at = seen = match.end()
            depth = {"(": 0, "[": 0}
    cuts.append((at, len(block)))
    parts: list[tuple[int, int]] = []
    for first, stop in cuts:
        is_short = parts and stop - first < LONGEST_BARE and first - parts[-1][0] < LONGEST_BRACKET
        if is_short and ID.search(block[first:stop]) and not re.search(r"[A-Za-z]{2}", ID.sub("", block[first:stop])):
            parts[-1] = (parts[-1][0], stop)
        else:
            parts.append((first, stop))
    return parts


def _citations(part: str, offset: int) -> Iterator[Citation]:
    """The mentions in a sentence. An author with a year next to an identifier is one mention."""
    taken: list[tuple[int, int]] = []
    for citation in [*_with_id(part), *_titled(part), *_named(part)]:
        if any(citation.start < end and start < citation.end for start, end in taken):
            continue
        taken.append((citation.start, citation.end))
        yield _moved(citation, offset)


def _with_id(part: str) -> Iterator[Citation]:
    links = {link.start("url"): link for link in LINK.finditer(part)}
    named = {match.end(): match for match in AUTHOR_YEAR.finditer(part)}
    for match in ID.finditer(part):
        link = links.get(match.start())
        start, end = (link.start(), link.end()) if link else (match.start(), match.end())
        label = link["label"] if link and len(link["label"].split()) >= 3 and not ID.search(link["label"]) else ""
        gap = BETWEEN.search(part, max(0, start - 8), start)
        before = named.get(gap.start()) if gap else None
        names, year = _who(before) if before else ((), None)
        start = before.start() if before else start
        yield Citation(part[start:end], start, end, _id_of(match), names, year, label)
    for at, link in links.items():
        # A link elsewhere whose label reads as a title.
        if not ID.match(part, at) and len(link["label"].split()) >= 5 and link["label"][0].isupper():
            yield Citation(link[0], link.start(), link.end(), title=link["label"])


def _titled(part: str) -> Iterator[Citation]:
    for match in TITLE_YEAR.finditer(part):
        if len(match["title"].split()) >= 3:
            yield Citation(match[0], match.start(), match.end(), year=int(match["year"]), title=match["title"].strip())


def _named(part: str) -> Iterator[Citation]:
    """An author and a year; without "et al." or a second name only in brackets: "In March 2023" is no citation."""
    for match in AUTHOR_YEAR.finditer(part):
        is_plain = not match["etal"] and not match["second"]
        before = part[: match.start()]
        in_brackets = "(" in match["gap"] or before.count("(") > before.count(")")
        if is_plain and (not in_brackets or match["first"] in MONTHS):
            continue
        names, year = _who(match)
        yield Citation(match[0].rstrip(), match.start(), match.end(), names=names, year=year)


MONTHS = frozenset("January February March April May June July August September October November December In Since Until".split())


def _who(match: re.Match[str]) -> tuple[tuple[str, ...], int]:
    return tuple(name for name in (match["first"], match["second"]) if name), int(match["year"])


def _id_of(match: re.Match[str]) -> str:
    groups = match.groupdict()
    return f"arXiv:{groups['bare']}" if groups.get("bare") else canonical_of(match)


def _moved(citation: Citation, offset: int) -> Citation:
    told = {name: getattr(citation, name) for name in ("text", "id", "names", "year", "title")}
    return Citation(start=citation.start + offset, end=citation.end + offset, **told)


def _numbers(part: str, offset: int, citations: Sequence[Citation]) -> Iterator[Quantity]:
    """The numbers that a sentence states: not those of its citations, of places, years and names."""
    signs = list(part)
    for citation in citations:
        first, end = citation.start - offset, citation.end - offset
        signs[first:end] = " " * (end - first)
    part = plain(LINK.sub(lambda link: link["label"].ljust(len(link[0])), "".join(signs)))
    bullet = BULLET.match(part)
    begin = bullet.end() if bullet else 0
    for number in read_quantities(part):
        if (
            number.start >= begin
            and number.text[0].isdigit()
            and not _is_no_claim(number, part[max(0, number.start - 60) : number.start].rstrip("("))
        ):
            yield number


def _is_no_claim(number: Quantity, before: str) -> bool:
    is_plain = not number.unit and not number.scale
    if PLACES.search(before):
        return True
    if is_plain and number.step == 1 and 1900 <= number.value <= 2100 and "," not in number.text:
        return True
    is_named = re.search(r"[A-Za-z]\w*\s$", before) and re.search(r"\b[A-Z]\w*\s$", before)
    return bool(is_plain and is_named and number.value < 20)


__all__ = ["Citation", "Found", "Reference", "Sentence", "find_citations"]
