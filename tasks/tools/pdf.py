"""A paper's PDF to sections of plain text, by pypdf (pure Python: a hostile file can't write where it should not).

Headings are guessed from lines that look like them. Scanned pages have no text and give none.
"""

from __future__ import annotations

import io
import logging
import re

from pypdf import PdfReader
from pypdf.errors import PyPdfError

from tasks.tools.errors import ExtractError
from tasks.tools.sections import Parts, Section, parts_of

logging.getLogger("pypdf").setLevel(logging.ERROR)

MOST_PAGES = 100
LONGEST_TEXT = 1_000_000
NUMBERED = re.compile(r"^(?P<number>\d{1,2}(?:\.\d{1,2}){0,2}|[IVX]{1,5}|[A-H](?:\.\d{1,2})?)\.?\s+(?P<title>[A-Z][^.!?]{2,80})$")
BARE = re.compile(
    r"^(?:abstract|introduction|related work|results|experiments?|evaluation|conclusions?|discussion|references)\W*$", re.IGNORECASE
)
BROKEN_WORD = re.compile(r"(?<=[a-z])-\n(?=[a-z])")
LIGATURES = str.maketrans({"\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl"})


def parts_of_pdf(data: bytes) -> Parts:
    """Raises ExtractError if it is no PDF, is locked, or has no text in it."""
    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise ExtractError("the PDF is locked by a password")
        pages = [_page(reader, number) for number in range(min(len(reader.pages), MOST_PAGES))]
        title = str(reader.metadata.title or "") if reader.metadata else ""
    except ExtractError:
        raise
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError, AssertionError, IndexError) as error:
        raise ExtractError(f"the PDF can't be read: {type(error).__name__}: {str(error)[:150]}") from error
    text = BROKEN_WORD.sub("", "\n".join(pages))[:LONGEST_TEXT]
    if not text.strip():
        raise ExtractError("the PDF has no text in it (scanned pages?)")
    return parts_of(_sections(text), title=title if len(title.split()) > 1 else "")


def _page(reader: PdfReader, number: int) -> str:
    try:
        return reader.pages[number].extract_text().translate(LIGATURES)
    except Exception:  # one broken page should not cost the paper
        return ""


def _sections(text: str) -> list[Section]:
    sections: list[Section] = []
    title, level, lines = "", 1, list[str]()
    for line in text.split("\n"):
        heading = _heading(line.strip())
        if heading is None:
            lines.append(line)
            continue
        sections.append(Section(title, "\n".join(lines), level))
        (title, level), lines = heading, []
        if title.lower().startswith("references"):
            return sections  # what follows are appendices at best; numbers of other papers are not this one's
    return [*sections, Section(title, "\n".join(lines), level)]


def _heading(line: str) -> tuple[str, int] | None:
    if BARE.match(line):
        return line.strip(" :."), 1
    if (match := NUMBERED.match(line)) and len(match["title"].split()) <= 10 and not re.search(r"\d[.,]?\d", match["title"]):
        return match["title"], match["number"].count(".") + 1
    return None
