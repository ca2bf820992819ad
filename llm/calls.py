"""Finished calls, stored with request hash, usage and request id before anyone uses their result.

So whoever was killed asks only for what no server had answered. Calls is the face; the app keeps its own in its database
(reviewapp), the command line a SQLite file (here). All methods block and are called from one thread.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from llm.types import Reply, Usage


@dataclass(frozen=True)
class Totals:
    """What the calls of a scope came to. `unpriced` calls have no known cost and are not in `cost_usd`."""

    calls: int = 0
    usage: Usage = field(default_factory=Usage)
    cost_usd: float = 0.0
    unpriced: int = 0


class Calls(Protocol):
    """`scope` names what the calls were made for (a run): totals are by scope."""

    def find(self, sha256: str) -> Reply | None:
        """The reply to this request, if it was finished before."""
        ...

    def save(self, sha256: str, scope: str, reply: Reply) -> None:
        """Once this returns, the call is never made again. An empty hash is a call that was paid for and lost."""
        ...

    def totals(self, scope: str) -> Totals: ...

    def add_batch(self, batch_id: str, scope: str, hashes: Sequence[str]) -> None: ...

    def open_batches(self, scope: str) -> list[tuple[str, list[str]]]:
        """(batch id, request hashes) of batches whose results are not all stored, oldest first."""
        ...

    def end_batch(self, batch_id: str) -> None: ...

    def close(self) -> None: ...


TABLES = """
CREATE TABLE IF NOT EXISTS call (
    id INTEGER PRIMARY KEY, sha256 TEXT NOT NULL, scope TEXT NOT NULL, model TEXT NOT NULL, reply TEXT NOT NULL, request_id TEXT NOT NULL,
    input INTEGER NOT NULL, output INTEGER NOT NULL, cache_read INTEGER NOT NULL, cache_write INTEGER NOT NULL, thinking INTEGER NOT NULL,
    cost_usd REAL, made_at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS call_by_hash ON call (sha256);
CREATE INDEX IF NOT EXISTS call_by_scope ON call (scope);
CREATE TABLE IF NOT EXISTS batch (id TEXT PRIMARY KEY, scope TEXT NOT NULL, hashes TEXT NOT NULL, made_at REAL NOT NULL, ended_at REAL);
"""


class SqliteCalls:
    """A file of calls, for any number of processes of one machine."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(TABLES)

    def find(self, sha256: str) -> Reply | None:
        row = self._db.execute("SELECT reply FROM call WHERE sha256 = ? ORDER BY id LIMIT 1", (sha256,)).fetchone()
        return Reply.from_json(json.loads(row[0])) if row else None

    def save(self, sha256: str, scope: str, reply: Reply) -> None:
        used = reply.usage
        counts = (used.input, used.output, used.cache_read, used.cache_write, used.thinking)
        row = (sha256, scope, reply.model, json.dumps(reply.to_json()), reply.request_id, *counts, reply.cost_usd, time.time())
        self._db.execute(f"INSERT INTO call VALUES (NULL, {', '.join('?' * len(row))})", row)  # noqa: S608 - question marks

    def totals(self, scope: str) -> Totals:
        sums = "count(*), sum(input), sum(output), sum(cache_read), sum(cache_write), sum(thinking), sum(cost_usd), sum(cost_usd IS NULL)"
        row = self._db.execute(f"SELECT {sums} FROM call WHERE scope = ?", (scope,)).fetchone()  # noqa: S608 - a constant
        calls, *tokens, cost, unpriced = (value or 0 for value in row)
        return Totals(calls, Usage(*tokens), cost, unpriced)

    def add_batch(self, batch_id: str, scope: str, hashes: Sequence[str]) -> None:
        self._db.execute("INSERT INTO batch VALUES (?, ?, ?, ?, NULL)", (batch_id, scope, json.dumps(list(hashes)), time.time()))

    def open_batches(self, scope: str) -> list[tuple[str, list[str]]]:
        rows = self._db.execute("SELECT id, hashes FROM batch WHERE scope = ? AND ended_at IS NULL ORDER BY made_at", (scope,))
        return [(batch_id, json.loads(hashes)) for batch_id, hashes in rows]

    def end_batch(self, batch_id: str) -> None:
        self._db.execute("UPDATE batch SET ended_at = ? WHERE id = ?", (time.time(), batch_id))

    def close(self) -> None:
        self._db.close()
