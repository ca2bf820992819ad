"""A paper as titled sections, and which of them are its introduction and its results."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

INTRODUCTION = re.compile(r"\bintroduction\b|^motivation\b", re.IGNORECASE)
# Where an introduction goes on to earlier work: used when no section is called one.
BEFORE = re.compile(r"\bbackground\b|\brelated work\b|\boverview\b", re.IGNORECASE)
RESULTS = re.compile(
    r"\bresults?\b|\bexperiment|\bevaluat|\bbenchmark|\bperformance\b|\bablation|\bempirical\b|\bcomparison\b|\banalysis\b", re.IGNORECASE
)
ABSTRACT = re.compile(r"^\W*abstract\W*$", re.IGNORECASE)
REFERENCES = re.compile(r"^\W*(?:\d+\W+)?(?:references|bibliography|literature cited)\W*$", re.IGNORECASE)
LONGEST = {"abstract": 5_000, "introduction": 40_000, "results": 80_000, "full_text": 400_000}


@dataclass(frozen=True)
class Section:
    """`level` 1 is a section, 2 a subsection; the text before the first heading has no title."""

    title: str
    text: str
    level: int = 1


@dataclass(frozen=True)
class Parts:
    """What a paper's file gave; empty where it has no such part."""

    abstract: str = ""
    introduction: str = ""
    results: str = ""
    full_text: str = ""
    title: str = ""


def parts_of(sections: Sequence[Section], *, title: str = "", abstract: str = "") -> Parts:
    kept = [section for section in sections if not REFERENCES.match(section.title)]
    texts = {
        "abstract": abstract or _under(kept, lambda section: bool(ABSTRACT.match(section.title))),
        "introduction": _under(kept, lambda section: bool(INTRODUCTION.search(section.title)), only_first=True)
        or _under(kept, lambda section: bool(BEFORE.search(section.title)), only_first=True),
        "results": _under(kept, lambda section: bool(RESULTS.search(section.title))),
        "full_text": "\n\n".join(_with_title(section) for section in kept),
    }
    return Parts(title=title, **{name: tidy(text)[: LONGEST[name]] for name, text in texts.items()})


def _under(sections: Sequence[Section], is_it: Callable[[Section], bool], *, only_first: bool = False) -> str:
    """The text of the sections that it is, each with those below it."""
    found: list[str] = []
    level = 0
    for section in sections:
        is_below = level and section.level > level
        if not is_below:
            if level and only_first:
                break
            level = section.level if is_it(section) else 0
        if level:
            found.append(_with_title(section) if is_below or not only_first else section.text)
    return "\n\n".join(part for part in found if part.strip())


def _with_title(section: Section) -> str:
    return f"{section.title}\n{section.text}".strip()


def tidy(text: str) -> str:
    """Without the empty space that layouts leave, and without what can't be stored."""
    text = text.replace("\r", "\n").encode("utf-8", "replace").decode("utf-8").replace("\0", "")
    text = re.sub(r"(?<=\d)[\u2009\u202f\u00a0](?=\d{3}(?!\d))", ",", text)
    text = re.sub(r"[ \t\u00a0\u2000-\u200a\u202f]+", " ", text)
    return re.sub(r"\n{3,}", "\n\n", re.sub(r" ?\n ?", "\n", text)).strip()
