"""Paper, and the identifiers by which one is known: arXiv, DOI, Semantic Scholar.

A canonical identifier is one of `arXiv:2309.12307`, `arXiv:cs/0112017`, `doi:10.1000/xyz`, `s2:<40 hex>`, or what a local
file calls itself (`file:name`). Versions of an arXiv paper are one paper.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

ARXIV = r"(?P<arxiv>\d{4}\.\d{4,5}|[a-z][a-z-]{1,20}(?:\.[A-Za-z]{2})?/\d{7})(?:v\d{1,2})?"
DOI = r"(?P<doi>10\.\d{4,9}/[^\s\"<>{}|\\^`\[\]]{1,300})"
S2 = r"(?P<s2>[0-9a-f]{40})"
WHOLE = (
    re.compile(rf"(?:arxiv:\s*|https?://(?:www\.|export\.)?arxiv\.org/(?:abs|pdf|html|src|e-print)/)?{ARXIV}(?:\.pdf)?", re.IGNORECASE),
    re.compile(rf"(?:doi:\s*|https?://(?:dx\.)?doi\.org/)?{DOI}", re.IGNORECASE),
    re.compile(rf"(?:s2:\s*|https?://(?:www\.)?semanticscholar\.org/paper/(?:[^/\s]+/)?)?{S2}", re.IGNORECASE),
)
LOCAL = re.compile(r"(?:file|local):[\w.\-/ ]{1,200}")
ARXIV_DOI = re.compile(r"10\.48550/arxiv\.(.+)", re.IGNORECASE)


@dataclass(frozen=True)
class Paper:
    """`facts`: figures that someone read in the paper, in their own words, where its text may not be kept here.

    `source` says where title and authors come from, `text_source` where the text does (LaTeX source, HTML, PDF, ...).
    """

    id: str
    title: str = ""
    authors: tuple[str, ...] = ()
    year: int | None = None
    abstract: str = ""
    introduction: str = ""
    results: str = ""
    full_text: str = ""
    facts: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    source: str = ""
    text_source: str = ""

    @property
    def text(self) -> str:
        """Everything of it that is here."""
        whole = self.full_text or "\n".join((self.introduction, self.results))
        return "\n".join(
            part for part in (f"{self.title}.", self.abstract, whole, *(f"{fact}." for fact in self.facts)) if part.strip(". ")
        )

    @property
    def line(self) -> str:
        names = ", ".join(self.authors[:3]) + (" et al." if len(self.authors) > 3 else "")
        return ". ".join(part for part in (names, self.title, str(self.year or "")) if part) + "."

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value}


def paper_of(data: Mapping[str, Any]) -> Paper:
    """A Paper out of parsed JSON. Raises ValueError naming the field, the value seen and what is allowed."""
    known = {field.name for field in fields(Paper)}
    if unknown := sorted(set(data) - known):
        raise ValueError(f"unknown field {unknown[0]!r}, allowed: {', '.join(sorted(known))}")
    found = canonical(data["id"]) if isinstance(data.get("id"), str) else None
    if found is None:
        raise ValueError(f"id is {data.get('id')!r}, must be like arXiv:2309.12307, doi:10.1000/xyz, s2:<40 hex> or file:NAME")
    values: dict[str, Any] = {"id": found}
    for name in known & set(data) - {"id"}:
        values[name] = _checked(name, data[name])
    return Paper(**values)


def _checked(name: str, value: Any) -> Any:
    if name == "year":
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 1500 < value < 2200):
            raise ValueError(f"year is {value!r}, must be a year like 2023")
        return value
    if name in ("authors", "facts", "aliases"):
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ValueError(f"{name} is {str(value)[:80]!r}, must be a list of texts")
        return tuple(value)
    if not isinstance(value, str):
        raise ValueError(f"{name} is {str(value)[:80]!r}, must be a text")
    return value


def canonical(text: str) -> str | None:
    """The canonical identifier that a text is, or None. A version (v2) is left out."""
    text = text.strip()
    for pattern in WHOLE:
        if match := pattern.fullmatch(text):
            return canonical_of(match)
    return text if LOCAL.fullmatch(text) else None


def canonical_of(match: re.Match[str]) -> str:
    """The canonical identifier of a match with the groups arxiv, doi, s2."""
    groups = match.groupdict()
    if groups.get("arxiv"):
        return f"arXiv:{groups['arxiv'].lower() if '/' in groups['arxiv'] else groups['arxiv']}"
    if groups.get("s2"):
        return f"s2:{groups['s2'].lower()}"
    doi = trimmed_doi(groups["doi"])
    if arxiv := ARXIV_DOI.fullmatch(doi):
        return canonical(arxiv[1]) or f"doi:{doi.lower()}"
    return f"doi:{doi.lower()}"


def trimmed_doi(doi: str) -> str:
    """Without the signs that belong to the sentence round it."""
    doi = doi.rstrip(".,;:!?'\"*_")
    while doi.endswith(")") and doi.count("(") < doi.count(")"):
        doi = doi[:-1].rstrip(".,;:!?'\"*_")
    return doi


def url_of(paper_id: str) -> str:
    """Where people read it, or ""."""
    kind, _, name = paper_id.partition(":")
    if kind == "arXiv":
        return f"https://arxiv.org/abs/{name}"
    if kind == "doi":
        return f"https://doi.org/{name}"
    return f"https://www.semanticscholar.org/paper/{name}" if kind == "s2" else ""


def folded(text: str) -> str:
    """Letters and digits alone, without accents and case: for comparing titles and names."""
    plain = unicodedata.normalize("NFKD", text.replace("ß", "ss").replace("ø", "o").replace("ł", "l"))
    return " ".join(re.findall(r"[^\W_]+", "".join(c for c in plain if not unicodedata.combining(c)).casefold()))


def surname(author: str) -> str:
    """The family name, folded: of "Ashish Vaswani" and of "Vaswani, A."."""
    name = author.split(",", maxsplit=1)[0] if "," in author else author
    words = folded(name).split()
    return words[-1] if words else ""


def has_author(paper: Paper, name: str) -> bool:
    """Is someone of this surname among its authors? A double name may be cited by its last part."""
    wanted = folded(name)
    return bool(wanted) and any(f" {folded(author)} ".endswith(f" {wanted} ") or wanted == surname(author) for author in paper.authors)


def same_title(one: str, other: str) -> bool:
    """The same words, or one is the other without its subtitle."""
    first, second = folded(one).split(), folded(other).split()
    if not first or not second:
        return False
    if first == second:
        return True
    short, long = sorted((first, second), key=len)
    if len(short) >= 4 and long[: len(short)] == short:
        return True
    return _overlap(first, second) >= 0.85


def _overlap(first: Sequence[str], second: Sequence[str]) -> float:
    """Shared words over all words."""
    one, other = set(first), set(second)
    return len(one & other) / len(one | other)
