"""Fill the local corpus: from a JSONL file, from a folder of papers, from an arXiv query. Doing it again changes nothing.

JSONL: one object a line with the fields of papers.Paper; `{"id": ..., "missing": "who looked"}` says that there is no such paper.
Folder: .pdf, .tex, .html, and LaTeX sources as .tar.gz or .gz; a file named by an arXiv number (2309.12307v1.pdf) is that paper.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tasks.tools.corpus import Corpus
from tasks.tools.errors import ExtractError, ToolError
from tasks.tools.extract import extract
from tasks.tools.literature import Literature
from tasks.tools.papers import Paper, canonical, paper_of
from tasks.tools.sections import Parts

READERS = {".pdf": "pdf", ".html": "html", ".htm": "html"} | dict.fromkeys((".tex", ".ltx", ".gz", ".tgz", ".tar"), "latex")
NAMES = {"latex": "LaTeX source", "html": "HTML", "pdf": "PDF"}
LARGEST_FILE = 60 << 20
ARXIV_NAME = re.compile(r"(?:arxiv[._-]?)?(\d{4}\.\d{4,5})(?:v\d+)?", re.IGNORECASE)
NOT_IN_NAMES = re.compile(r"[^\w.\-/ ]")
BATCH = 500

Say = Callable[[int, int, str], None]


class FillError(ValueError):
    """What was asked for can't be read at all."""


@dataclass
class Report:
    """`changed`: papers that are new or of which more is known now. `failed`: what could not be read, and why."""

    seen: int = 0
    changed: int = 0
    missing: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)


def fill_from_jsonl(corpus: Corpus, path: Path, say: Say = lambda done, total, text: None) -> Report:
    """All or nothing: a wrong line aborts it. Raises FillError naming the lines (the first 20)."""
    try:
        rows = list(_rows(path))
    except (OSError, UnicodeDecodeError) as error:
        raise FillError(f"{path}: {error}") from error
    wrong = [f"line {number}: {row}" for number, row in rows if isinstance(row, str)]
    if wrong:
        raise FillError(f"{path}: {'; '.join(wrong[:20])}")
    report = Report(seen=len(rows))
    papers = [row for _, row in rows if isinstance(row, Paper)]
    for start in range(0, len(papers), BATCH):
        report.changed += corpus.add_all(papers[start : start + BATCH])
        say(min(start + BATCH, len(papers)), len(papers), "")
    for _, row in rows:
        if isinstance(row, tuple):
            report.missing += 1
            corpus.add_missing(*row, is_kept=True)
    return report


def _rows(path: Path) -> Iterator[tuple[int, Paper | tuple[str, str] | str]]:
    """(line number, a paper, or an identifier that does not exist and who says so, or what is wrong with the line)."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                data = json.loads(line)
                if not isinstance(data, dict):
                    raise ValueError("must be a JSON object")
                yield number, _missing(data) if "missing" in data else paper_of(data)
            except ValueError as error:
                yield number, str(error)


def _missing(data: dict[str, Any]) -> tuple[str, str]:
    paper_id = canonical(str(data.get("id", "")))
    if paper_id is None or set(data) != {"id", "missing"} or not isinstance(data["missing"], str):
        raise ValueError("a missing paper has an id and `missing`, a text that says who looked, and nothing else")
    return paper_id, data["missing"]


def fill_from_folder(corpus: Corpus, folder: Path, say: Say = lambda done, total, text: None) -> Report:
    """Raises FillError if it is no folder. Links are not followed."""
    if not folder.is_dir():
        raise FillError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in READERS and path.is_file() and not path.is_symlink())
    report = Report()
    for number, path in enumerate(files, 1):
        name = str(path.relative_to(folder))
        say(number, len(files), name)
        report.seen += 1
        try:
            report.changed += corpus.add(_paper_of_file(path, name))
        except (ExtractError, OSError) as error:
            report.failed.append((name, str(error)))
    return report


def _paper_of_file(path: Path, name: str) -> Paper:
    if path.stat().st_size > LARGEST_FILE:
        raise ExtractError(f"larger than {LARGEST_FILE >> 20} MiB")
    kind = READERS[path.suffix.lower()]
    parts = extract(kind, path.read_bytes())
    match = ARXIV_NAME.fullmatch(path.name.split(path.suffix)[0].removesuffix(".tar"))
    paper_id = f"arXiv:{match[1]}" if match else f"file:{NOT_IN_NAMES.sub('_', name)[:200]}"
    return _with_parts(Paper(paper_id, source=f"file {name}"), parts, f"{NAMES[kind]}, file {name}", path.stem)


def _with_parts(paper: Paper, parts: Parts, text_source: str, title: str = "") -> Paper:
    return replace(
        paper,
        title=paper.title or parts.title or title,
        abstract=paper.abstract or parts.abstract,
        introduction=parts.introduction,
        results=parts.results,
        full_text=parts.full_text,
        text_source=text_source,
    )


def fill_from_arxiv(
    literature: Literature, query: str, limit: int, *, with_text: bool = True, say: Say = lambda done, total, text: None
) -> Report:
    """The papers that arXiv finds, with their texts unless they are here. Raises ServiceError if arXiv can't be asked."""
    papers = literature.arxiv.search(query, limit)
    report = Report(seen=len(papers))
    for number, paper in enumerate(papers, 1):
        say(number, len(papers), paper.id)
        is_new = literature.corpus.add(paper)
        known = literature.corpus.get(paper.id) or paper
        if with_text and not known.full_text:
            try:
                literature.with_text(known)
                is_new = True
            except ToolError as error:
                report.failed.append((paper.id, str(error)))
        report.changed += is_new
    return report
