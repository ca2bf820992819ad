"""The local corpus: papers in one SQLite file with full-text search (FTS5, BM25). Needs no network and no server.

For any number of processes of one machine. Adding a paper again changes only what it brings; what is there is never
replaced by less. It also keeps which identifiers were looked up and do not exist.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tasks.tools.papers import Paper, folded, has_author, same_title, surname

TEXTS = ("title", "abstract", "introduction", "results", "full_text")
SEARCHED = ("title", "authors", "abstract", "introduction", "results", "facts", "full_text")
WEIGHTS = "10, 5, 5, 2, 2, 3, 1"
STORED = ("id", *SEARCHED, "year", "aliases", "source", "text_source", "added_at")
MISSING_S = 30 * 24 * 3600.0  # an identifier that did not exist may have been given since
COMMON = frozenset("a an and are as at by for from how in is it its of on or that the to use used using via what with".split())
TABLES = f"""
CREATE TABLE IF NOT EXISTS paper (
    key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, {", ".join(f"{name} TEXT NOT NULL DEFAULT ''" for name in SEARCHED)},
    year INTEGER, aliases TEXT NOT NULL DEFAULT '[]', source TEXT NOT NULL DEFAULT '', text_source TEXT NOT NULL DEFAULT '',
    added_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS alias (id TEXT PRIMARY KEY, paper TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS named (surname TEXT NOT NULL, year INTEGER, paper TEXT NOT NULL, PRIMARY KEY (surname, year, paper));
CREATE TABLE IF NOT EXISTS missing (id TEXT PRIMARY KEY, source TEXT NOT NULL, looked_up_at REAL NOT NULL, is_kept INTEGER NOT NULL);
CREATE VIRTUAL TABLE IF NOT EXISTS paper_text USING fts5(
    {", ".join(SEARCHED)}, content='paper', content_rowid='key', tokenize='porter unicode61 remove_diacritics 2'
);
"""


class Corpus:
    """A connection an operation: cheap in SQLite, and any thread may call."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def exists(self) -> bool:
        return self.path.is_file()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        is_new = not self.exists
        self.path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        db.row_factory = sqlite3.Row
        try:
            if is_new:
                db.execute("PRAGMA journal_mode=WAL")
            db.executescript(TABLES)
            yield db
        finally:
            db.close()

    # --- writing ---

    def add(self, paper: Paper) -> bool:
        """Keep it; True if that changed anything."""
        return self.add_all([paper]) == 1

    def add_all(self, papers: Iterable[Paper]) -> int:
        """Keep them, in one transaction; how many changed anything."""
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                changed = sum(_save(db, paper) for paper in papers)
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")
        return changed

    def add_missing(self, paper_id: str, source: str, *, is_kept: bool = False) -> None:
        """Remember that there is no such paper; for a month, or for good."""
        with self._open() as db:
            db.execute("INSERT OR REPLACE INTO missing VALUES (?, ?, ?, ?)", (paper_id, source, time.time(), is_kept))

    # --- reading ---

    def get(self, paper_id: str) -> Paper | None:
        if not self.exists:
            return None
        with self._open() as db:
            row = _find(db, paper_id)
        return _paper(row) if row else None

    def why_missing(self, paper_id: str) -> str:
        """Who said that there is no such paper, or ""."""
        if not self.exists:
            return ""
        with self._open() as db:
            row = db.execute("SELECT * FROM missing WHERE id = ?", (paper_id,)).fetchone()
        return str(row["source"]) if row and (row["is_kept"] or time.time() - row["looked_up_at"] < MISSING_S) else ""

    def count(self) -> int:
        if not self.exists:
            return 0
        with self._open() as db:
            return int(db.execute("SELECT count(*) FROM paper").fetchone()[0])

    def search(self, query: str, limit: int = 10) -> list[Paper]:
        """The papers that fit the words best, by BM25; a title weighs most."""
        words = [word for word in re.findall(r"[^\W_]+", query.casefold()) if word not in COMMON][:30]
        if not words or not self.exists:
            return []
        match = " OR ".join(f'"{word}"' for word in dict.fromkeys(words))
        by_fit = f"""SELECT paper.* FROM paper_text JOIN paper ON paper.key = paper_text.rowid
            WHERE paper_text MATCH ? ORDER BY bm25(paper_text, {WEIGHTS}) LIMIT ?"""  # noqa: S608 - constants
        with self._open() as db:
            return [_paper(row) for row in db.execute(by_fit, (match, limit))]

    def by_title(self, title: str, year: int | None = None) -> Paper | None:
        """The paper of this title; a year may be off by one, as preprints and proceedings are."""
        for paper in self.search(title, 5):
            if same_title(paper.title, title) and _years_fit(paper.year, year):
                return paper
        return None

    def by_author(self, names: Sequence[str], year: int) -> list[Paper]:
        """Papers of the year whose first author is the first name, and which all named people wrote."""
        if not self.exists or not names:
            return []
        asked = "SELECT paper.* FROM named JOIN paper ON paper.id = named.paper WHERE named.surname = ? AND named.year = ?"
        with self._open() as db:
            found = [_paper(row) for row in db.execute(asked, (folded(names[0]).split(" ")[-1], year))]
        return [paper for paper in found if all(has_author(paper, name) for name in names)]


def _years_fit(one: int | None, other: int | None) -> bool:
    return one is None or other is None or abs(one - other) <= 1


def _find(db: sqlite3.Connection, paper_id: str) -> sqlite3.Row | None:
    asked = "SELECT * FROM paper WHERE id = ? OR id = (SELECT paper FROM alias WHERE alias.id = ?)"
    row: sqlite3.Row | None = db.execute(asked, (paper_id, paper_id)).fetchone()
    return row


INSERT_TEXT = f"INSERT INTO paper_text (rowid, {', '.join(SEARCHED)}) VALUES (?{', ?' * len(SEARCHED)})"  # noqa: S608 - constants
# An FTS5 table over another one must be told the old words to forget them.
FORGET_TEXT = INSERT_TEXT.replace("(rowid,", "(paper_text, rowid,").replace("(?", "('delete', ?")


def _save(db: sqlite3.Connection, paper: Paper) -> bool:
    ids = (paper.id, *paper.aliases)
    row = next((row for paper_id in ids if (row := _find(db, paper_id))), None)
    before = _paper(row) if row else None
    merged = _merged(before, paper) if before else paper
    if merged == before:
        return False
    told = _row(merged)
    if row:
        db.execute(FORGET_TEXT, (row["key"], *(row[name] for name in SEARCHED)))
        db.execute("DELETE FROM named WHERE paper = ?", (merged.id,))
        sets = ", ".join(f"{name} = ?" for name in told)
        db.execute(f"UPDATE paper SET {sets} WHERE key = ?", (*told.values(), row["key"]))  # noqa: S608 - column names of ours
        key = row["key"]
    else:
        marks = ", ".join("?" * len(told))
        key = db.execute(f"INSERT INTO paper ({', '.join(told)}) VALUES ({marks})", tuple(told.values())).lastrowid  # noqa: S608
    db.execute(INSERT_TEXT, (key, *(told[name] for name in SEARCHED)))
    db.executemany("INSERT OR REPLACE INTO alias VALUES (?, ?)", [(alias, merged.id) for alias in merged.aliases])
    db.executemany("DELETE FROM missing WHERE id = ?", [(paper_id,) for paper_id in ids])
    if merged.authors:
        db.execute("INSERT OR REPLACE INTO named VALUES (?, ?, ?)", (surname(merged.authors[0]), merged.year, merged.id))
    return True


def _merged(old: Paper, new: Paper) -> Paper:
    """What is known of both: the longer text, the older name, facts and identifiers of both."""
    aliases = [alias for alias in dict.fromkeys((*old.aliases, new.id, *new.aliases)) if alias != old.id]
    texts = {name: max(getattr(old, name), getattr(new, name), key=len) for name in TEXTS}
    return replace(
        old,
        **texts,
        authors=old.authors if len(old.authors) >= len(new.authors) else new.authors,
        year=old.year or new.year,
        facts=tuple(dict.fromkeys((*old.facts, *new.facts))),
        aliases=tuple(aliases),
        source=old.source or new.source,
        text_source=new.text_source if len(new.full_text) > len(old.full_text) else old.text_source,
    )


def _row(paper: Paper) -> dict[str, object]:
    lists = {name: json.dumps(list(getattr(paper, name)), ensure_ascii=False) for name in ("authors", "facts", "aliases")}
    plain = {name: getattr(paper, name) for name in STORED if name not in lists and name != "added_at"}
    return {**plain, **lists, "added_at": time.time()}


def _paper(row: sqlite3.Row) -> Paper:
    values: dict[str, Any] = {name: row[name] for name in STORED if name != "added_at"}
    return Paper(**values | {name: tuple(json.loads(row[name] or "[]")) for name in ("authors", "facts", "aliases")})
