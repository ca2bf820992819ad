"""What the citations grader found, as rows of a table: a row a cited work and a cited number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reviewapp.models import CriterionScore

# What needs no look: it gets no mark in the output, which would be one mark else.
SETTLED = ("found", "number_supported", "not_checkable")
WORDS = {
    "found": ("found", "pass"),
    "number_supported": ("in the paper", "pass"),
    "not_found": ("not found", "fail"),
    "number_not_supported": ("not in the paper", "fail"),
    "not_checkable": ("not checkable", "unsure"),
}


@dataclass(frozen=True)
class Cited:
    """One check. `number` is empty for a work; `anchor` is the place in the output, for what needs a look."""

    verdict: str
    css: str
    line: int | None
    anchor: str
    work: str
    title: str
    year: str
    url: str
    number: str
    why: str


def is_settled(item: Mapping[str, Any]) -> bool:
    return _status(item) in SETTLED


def cited_rows(row: CriterionScore, base: str) -> Sequence[Cited]:
    """What is wrong first. Empty for every other grader."""
    items = [(item, f"{base}#e-{row.pk}-{i}") for i, item in enumerate(row.evidence) if _status(item) in WORDS]
    return [_cited(item, anchor) for item, anchor in sorted(items, key=lambda pair: is_settled(pair[0]))]


def _status(item: Mapping[str, Any]) -> str:
    return str((item.get("about") or {}).get("status", ""))


def _cited(item: Mapping[str, Any], anchor: str) -> Cited:
    about = item["about"]
    verdict, css = WORDS[about["status"]]
    return Cited(
        verdict=verdict,
        css=css,
        line=item.get("line_start"),
        anchor="" if is_settled(item) else anchor,
        work=str(about.get("work", "")),
        title=str(about.get("title", "")),
        year=str(about.get("year", "")),
        url=str(about.get("url", "")),
        number=str(about.get("number", "")),
        why="" if about["status"] == "found" else str(about.get("why", "")),
    )
