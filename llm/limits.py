"""Requests and tokens a minute, never more, over all workers that share a place to keep two numbers.

A bucket is one number, `free_at`: the moment until which the limit is spoken for. Taking moves it on by the cost of what
is taken, and whoever took waits until then. One atomic step serves every use, so any shared store will do: a SQLite file
for the workers of one machine (here), a table of the app's database for several (reviewapp).

Of the limit, a twentieth may go at once after a pause, and the rest comes evenly over 61 s, so that no minute as the
server sees it holds more than the limit, even if requests travel for a second. That costs 7 % of the rate.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

WINDOW_S = 61.0
BURST_SHARE = 0.05


class Buckets(Protocol):
    """Where the buckets are kept. `name` is at most 200 characters."""

    def shift(self, name: str, at_least: float, by: float) -> float:
        """free_at = max(free_at, at_least) + by, in one step that nobody can come between; the new free_at."""
        ...

    def close(self) -> None: ...


class SqliteBuckets:
    """A file that the processes of one machine share. Losing it does no harm."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.execute("CREATE TABLE IF NOT EXISTS bucket (name TEXT PRIMARY KEY, free_at REAL NOT NULL)")

    def shift(self, name: str, at_least: float, by: float) -> float:
        sql = (
            "INSERT INTO bucket (name, free_at) VALUES (?1, ?2 + ?3) "
            "ON CONFLICT (name) DO UPDATE SET free_at = max(free_at, ?2) + ?3 RETURNING free_at"
        )
        with self._lock:  # a statement is a transaction; the lock keeps our own threads off one cursor
            return float(self._db.execute(sql, (name, at_least, by)).fetchone()[0])

    def close(self) -> None:
        self._db.close()


class Limiter:
    """The limits of one account. None is no limit. `clock` tells seconds that all sharers agree on."""

    def __init__(
        self,
        buckets: Buckets,
        *,
        requests: int | None = None,
        tokens: int | None = None,
        account: str = "default",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.buckets, self.requests, self.tokens = buckets, requests, tokens
        self.account, self.clock = account, clock

    def take(self, tokens: int) -> float:
        """Take a request of about that many tokens; the seconds to wait before it may be sent."""
        now = self.clock()
        start = max(now, self.buckets.shift(f"{self.account}/pause", 0.0, 0.0))
        ends = [start]
        if self.requests:
            ends.append(self._take("requests", self.requests, 1, start))
        if self.tokens:
            ends.append(self._take("tokens", self.tokens, min(tokens, self.tokens), start))
        return max(0.0, max(ends) - now)

    def settle(self, taken: int, used: int) -> None:
        """The tokens that a request really used, in place of those that were taken for it."""
        if self.tokens:
            by = (min(used, self.tokens) - min(taken, self.tokens)) / self._rate(self.tokens)
            self.buckets.shift(f"{self.account}/tokens", 0.0, by)

    def pause(self, seconds: float) -> None:
        """The server asked for silence: everyone who takes from now on waits that long."""
        self.buckets.shift(f"{self.account}/pause", self.clock() + seconds, 0.0)

    def _take(self, what: str, limit: int, cost: int, start: float) -> float:
        rate = self._rate(limit)
        return self.buckets.shift(f"{self.account}/{what}", start - _burst(limit) / rate, cost / rate)

    @staticmethod
    def _rate(limit: int) -> float:
        return max(limit - _burst(limit), 0.5) / WINDOW_S


def _burst(limit: int) -> float:
    return max(1.0, BURST_SHARE * limit)
