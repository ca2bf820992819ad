"""Calls and limits in the app's database, for llm/: what the command line keeps in files.

Both are used from the port's own thread, so they have a connection of their own, and close it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from django.db import InterfaceError, OperationalError, close_old_connections, connection
from django.db.models import Count, Q, Sum
from django.utils import timezone

from llm.calls import Calls, Totals
from llm.config import Config
from llm.limits import Buckets, SqliteBuckets
from llm.types import Reply, Usage
from reviewapp.models import LlmBatch, LlmCall

TRIES, WAIT_S = 6, 1.0
TOKENS = ("input", "output", "cache_read", "cache_write", "thinking")

Result = TypeVar("Result")


class DatabaseCalls(Calls):
    def find(self, sha256: str) -> Reply | None:
        calls = LlmCall.objects.filter(request_sha256=sha256).order_by("id")
        found = patiently(lambda: calls.values_list("reply", flat=True).first())
        return Reply.from_json(found) if found else None

    def save(self, sha256: str, scope: str, reply: Reply) -> None:
        fields = {f"{name}_tokens": getattr(reply.usage, name) for name in TOKENS}
        fields |= {"model": reply.model[:200], "request_id": reply.request_id[:200], "cost_usd": reply.cost_usd}
        row = LlmCall(request_sha256=sha256, scope=scope, reply=storable(reply.to_json()), **fields)
        patiently(lambda: row.save(force_insert=True))  # it is paid for: a database that is away for a moment must not lose it

    def totals(self, scope: str) -> Totals:
        return totals_of(scope)

    def add_batch(self, batch_id: str, scope: str, hashes: Sequence[str]) -> None:
        row = LlmBatch(batch_id=batch_id, scope=scope, request_hashes=list(hashes))
        patiently(lambda: row.save(force_insert=True))

    def open_batches(self, scope: str) -> list[tuple[str, list[str]]]:
        rows = LlmBatch.objects.filter(scope=scope, ended_at__isnull=True).order_by("id")
        return [(row.batch_id, row.request_hashes) for row in rows]

    def end_batch(self, batch_id: str) -> None:
        LlmBatch.objects.filter(batch_id=batch_id).update(ended_at=timezone.now())

    def close(self) -> None:
        connection.close()


class DatabaseBuckets(Buckets):
    """One row a limit, moved on by one statement: for workers on several machines. Their clocks must agree to a second."""

    def shift(self, name: str, at_least: float, by: float) -> float:
        sql = (
            "INSERT INTO reviewapp_ratebucket (name, free_at) VALUES (%s, %s) "
            "ON CONFLICT (name) DO UPDATE SET free_at = greatest(reviewapp_ratebucket.free_at, %s) + %s RETURNING free_at"
        )

        def move() -> float:
            with connection.cursor() as cursor:
                cursor.execute(sql, [name, at_least + by, at_least, by])
                return float(cursor.fetchone()[0])

        return patiently(move)

    def close(self) -> None:
        connection.close()


def buckets_for(config: Config) -> Buckets:
    """Rows where the database serves several machines; with SQLite, whose writers queue, a file beside it."""
    if connection.vendor == "sqlite":
        return SqliteBuckets(config.folder / "limits.sqlite3")
    return DatabaseBuckets()


def totals_of(scope: str) -> Totals:
    """What the calls of a scope came to. One query."""
    sums = {name: Sum(f"{name}_tokens") for name in TOKENS}
    row = LlmCall.objects.filter(scope=scope).aggregate(
        calls=Count("id"), cost=Sum("cost_usd"), unpriced=Count("id", filter=Q(cost_usd__isnull=True)), **sums
    )
    usage = Usage(**{name: row[name] or 0 for name in TOKENS})
    return Totals(row["calls"], usage, row["cost"] or 0.0, row["unpriced"])


def storable(value: Any) -> Any:
    """PostgreSQL's JSON takes neither NUL nor half a surrogate pair."""
    if isinstance(value, str):
        return value.replace("\x00", "�").encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    return [storable(item) for item in value] if isinstance(value, list | tuple) else value


def patiently(act: Callable[[], Result]) -> Result:
    for number in range(1, TRIES):
        try:
            close_old_connections()
            return act()
        except (OperationalError, InterfaceError):
            connection.close()
            time.sleep(WAIT_S * number)
    return act()
