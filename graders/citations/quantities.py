"""Numbers as people write them, and whether a text bears one: units, rounding, separators, words, ranges.

A number bears another when it says the same at the precision of the claim: 92.46% bears "92.5%", 131,072 and 128k bear
"128K tokens", "two million" bears "2M". A bare small whole number ("13 tasks") stands in every text, so it also needs a word
in common next to it. Not covered: sums, differences, conversions of units, and figures that are only drawn.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import lru_cache

SCALES = {"k": 3, "m": 6, "b": 9, "t": 12, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
BINARY = {3: Decimal(1024) / 1000, 6: Decimal(1024**2) / 1000**2}
ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
WORDS = {word: n for n, word in enumerate(ONES.split())} | {word: 20 + 10 * n for n, word in enumerate(TENS.split())}
WORD = "|".join(sorted(WORDS, key=len, reverse=True))
QUANTITY = re.compile(
    rf"""(?<![\w.])(?<!\d,)(?:(?P<factor>factor\ of\ )?)
    (?:(?P<digits>\d{{1,3}}(?:,\d{{3}}){{1,5}}(?!\d)|\d{{1,15}}(?!\d))(?P<fraction>\.\d{{1,12}}(?!\d))?|(?P<word>\b(?:{WORD})(?:-(?:{WORD}))?(?=\b|fold\b)))
    (?:(?P<letter>[KkMBT])(?![A-Za-z])|[\s-]?(?P<scale>thousand|million|billion|trillion)s?\b)?
    (?:\s?(?P<percent>%|percent\b|per\ cent\b)|(?P<times>\s?×|\s?[xX](?![A-Za-z0-9])|[\s-]times\b(?!\s+\d)|-?fold\b))?
    (?P<plus>\+)?""",
    re.VERBOSE | re.IGNORECASE,
)
ROUGHLY = re.compile(
    r"(?:about|around|roughly|nearly|almost|over|above|some|up to|more than|less than|fewer than|under|below|at least|at most"
    r"|approximately|beyond|≈|~|>|<)\s*\$?$",
    re.IGNORECASE,
)
LINKS = re.compile(r"\s?(?:-|to|and|or|/|→|vs\.?|versus|against)\s?", re.IGNORECASE)
THIN = re.compile(r"(?<=\d)[\u2009\u202f\u00a0](?=\d{3}(?!\d))")  # separates thousands
BRACKETED = re.compile(r"\[\d{1,3}(?:\s?[,–-]\s?\d{1,3})*\]|<cit\.>|<ref>")
TOKEN = re.compile(r"[^\W\d_]{2,}")
EMPTY_WORDS = frozenset(
    "the and for with from than that this its are was were has have had into over per less more fewer faster slower lower higher better "
    "worse longer shorter larger smaller times percent about around nearly almost roughly only all each both other while which when but "
    "not also our their one two three up to of in on at by as is it or an be we".split()
)
NEAR = 6  # words on each side


@dataclass(frozen=True)
class Quantity:
    """`value` is scaled (128K is 128000) and `unit` is %, x or nothing. `step`: the smallest difference that its form can show."""

    text: str
    value: Decimal
    unit: str
    step: Decimal
    start: int
    end: int
    scale: int = 0
    is_rough: bool = False
    in_table: bool = False
    near: frozenset[str] = field(default_factory=frozenset)
    head: str = ""  # the first word after it that says of what it is

    @property
    def is_small_count(self) -> bool:
        return not self.unit and not self.scale and self.step == 1 and self.value < 1000

    @property
    def half(self) -> Decimal:
        """How far off a number may be that this one stands for."""
        if not self.is_rough or self.step != 1 or self.value < 10:
            return self.step / 2
        digits = str(int(self.value))
        return Decimal(10) ** (len(digits) - len(digits.rstrip("0"))) / 2


@dataclass(frozen=True)
class Finding:
    """What a text says about a number.

    `verdict` is borne, absent, other (it has another number for the same thing), or elsewhere (a small count that stands in the
    text, and of other things).
    """

    verdict: str
    said: str = ""


def plain(text: str) -> str:
    """With one form of each sign, as long as it was."""
    table = {"\u2212": "-", "\u2010": "-", "\u2011": "-", "\u2013": "-", "\u2014": "-", "\u00a0": " ", "\u2009": " ", "\u202f": " "}
    text = "".join(table.get(sign, sign) for sign in THIN.sub(",", text))
    return "".join(folded if len(folded := unicodedata.normalize("NFKC", sign)) == 1 else sign for sign in text)


def read_quantities(text: str) -> list[Quantity]:
    """Every number of a text, in order. A unit at the end of a range or a pair belongs to both numbers."""
    text = plain(text)
    text = BRACKETED.sub(lambda match: " " * len(match[0]), text)
    matches = [match for match in QUANTITY.finditer(text) if _is_number(match, text)]
    tables = _Tables(text, [match.start() for match in matches])
    found = [_quantity(match, text, tables) for match in matches]
    for at in range(len(found) - 2, -1, -1):
        first, second = found[at], found[at + 1]
        if LINKS.fullmatch(text[first.end : second.start]) and not first.unit and (second.unit or second.scale):
            found[at] = _with_unit_of(first, second)
    return found


def _is_number(match: re.Match[str], text: str) -> bool:
    """Not the number in a name: GPT-4, Llama-2-7B, A100, top-5."""
    before = text[max(0, match.start() - 30) : match.start()]
    if match["factor"] is None and before.endswith("-"):
        word = re.search(r"\S+$", before)
        return word is None or not re.search(r"[A-Za-z]", word[0])
    return True


def _quantity(match: re.Match[str], text: str, tables: _Tables) -> Quantity:
    if match["word"]:
        value = Decimal(sum(WORDS[part] for part in match["word"].lower().split("-")))
        places = 0
    else:
        value = Decimal(re.sub(r"[^\d]", "", match["digits"]) + (match["fraction"] or ""))
        places = len(match["fraction"] or ".") - 1
    scale = SCALES[(match["letter"] or match["scale"]).lower()] if match["letter"] or match["scale"] else 0
    unit = "%" if match["percent"] else "x" if match["times"] or match["factor"] else ""
    before, after = text[max(0, match.start() - 80) : match.start()], text[match.end() : match.end() + 80]
    follow = _words(re.split(r"[.;:,]\s", after)[0])
    return Quantity(
        text=match[0].strip(),
        value=value * Decimal(10) ** scale,
        unit=unit,
        step=Decimal(10) ** (scale - places),
        start=match.start(),
        end=match.start() + len(match[0].rstrip()),
        scale=scale,
        is_rough=bool(match["plus"] or ROUGHLY.search(before)),
        in_table=tables.has(match.start()),
        near=frozenset(_words(before)[-NEAR:] + follow[:NEAR]),
        head=follow[0] if follow else "",
    )


def _words(text: str) -> list[str]:
    return [_stem(word.lower()) for word in TOKEN.findall(text) if word.lower() not in EMPTY_WORDS]


def _stem(word: str) -> str:
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word


def _with_unit_of(first: Quantity, second: Quantity) -> Quantity:
    factor = Decimal(10) ** second.scale if second.scale and not first.scale else Decimal(1)
    scale = first.scale or second.scale
    return replace(first, unit=second.unit, value=first.value * factor, step=first.step * factor, scale=scale, head=second.head)


class _Tables:
    """The lines of a text that are mostly numbers, as rows of tables come out of a paper."""

    def __init__(self, text: str, numbers: Sequence[int]) -> None:
        self.starts = [0, *(match.end() for match in re.finditer("\n", text))]
        counts = [0] * len(self.starts)
        for number in numbers:
            counts[bisect_right(self.starts, number) - 1] += 1
        ends = [*self.starts[1:], len(text) + 1]
        self.rows = [
            count >= 2 and ("|" in text[start:end] or 2 * count >= len(text[start:end].split()) - count)
            for start, end, count in zip(self.starts, ends, counts, strict=True)
        ]

    def has(self, at: int) -> bool:
        return self.rows[bisect_right(self.starts, at) - 1]


class Bearing:
    """What a paper's text says about numbers."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.found = _read_cached(text)

    def find(self, claim: Quantity) -> Finding:
        """Does the text bear it? `other`: it does not, and it has another number with the same unit and the same word after it."""
        same = [number for number in self.found if _is_same(claim, number)]
        if claim.is_small_count:
            beside = [number for number in same if claim.near & number.near or number.in_table]
            if beside:
                return Finding("borne", self._around(beside[0]))
            if same:
                return Finding("elsewhere", self._around(same[0]))
        elif same:
            return Finding("borne", self._around(max(same, key=lambda number: len(claim.near & number.near))))
        others = [number for number in self.found if _is_other(claim, number)]
        return Finding("other", self._around(others[0])) if others else Finding("absent")

    def _around(self, number: Quantity) -> str:
        start, end = max(0, number.start - 60), min(len(self.text), number.end + 60)
        before, after = self.text[start : number.start], self.text[number.end : end]
        if start:
            before = "… " + before.partition(" ")[2]
        if end < len(self.text):
            after = after.rpartition(" ")[0] + " …"
        return " ".join(f"{before}{self.text[number.start : number.end]}{after}".split())


@lru_cache(maxsize=128)
def _read_cached(text: str) -> tuple[Quantity, ...]:
    return tuple(read_quantities(text))


def _is_same(claim: Quantity, number: Quantity) -> bool:
    if claim.unit == "%" and not number.unit and not number.scale:
        if number.step < 1 and number.value <= 1 and abs(number.value * 100 - claim.value) <= claim.half:
            return True  # 0.925 is 92.5%
        return (claim.step < 1 or number.in_table) and _is_close(claim, number)
    if claim.unit == number.unit:
        return _is_close(claim, number)
    # A table's "18.3" may be meant in the unit of its head, and a text may write the unit that a claim leaves out.
    return not claim.unit and (claim.step < 1 or number.in_table) and not claim.scale and _is_close(claim, number)


def _is_close(claim: Quantity, number: Quantity) -> bool:
    if abs(claim.value - number.value) <= claim.half:
        # A rounder number does not bear a finer one: 90% is not 92%. But 4,000 bears "4K".
        return number.step <= max(claim.step, claim.half * 2) or number.value == claim.value
    factor = BINARY.get(claim.scale)
    return bool(factor and not number.scale and abs(claim.value * factor - number.value) <= claim.half * factor)


def _is_other(claim: Quantity, number: Quantity) -> bool:
    """Another number for what seems to be the same thing."""
    if claim.unit != number.unit or not (claim.unit or claim.scale or claim.step < 1):
        return False
    return bool(claim.head) and claim.head == number.head
