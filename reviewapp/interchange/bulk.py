"""Many rows at once, past the ORM: executemany on SQLite, COPY on PostgreSQL.

Values go in as the database takes them: JSON as text, times by `as_time`. Constraints and triggers of the
database apply; model methods and signals don't. Call inside a transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import chain
from typing import Any

from django.db import connection
from django.db.models import Model

ROWS_A_STATEMENT = 32
CACHE_KIB = 112 * 1024


def insert_rows(model: type[Model], fields: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Insert tuples that hold these fields in this order. Fields left out get the database's default (id: the next)."""
    columns = [connection.ops.quote_name(model._meta.get_field(name).column) for name in fields]
    table = connection.ops.quote_name(model._meta.db_table)
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            with cursor.copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
            return
        _insert_many(cursor, table, columns, list(rows))


def _insert_many(cursor: Any, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """32 rows a statement, and a column that is the same in all rows as a literal: together three times as fast.

    Each statement also writes AUTOINCREMENT's counter, and each value that is bound is copied.
    """
    if not rows:
        return
    literals, bound = [], []
    for values in zip(*rows, strict=True):
        literals.append(_literal(values))
        if literals[-1] is None:
            bound.append(values)
    insert = f"INSERT INTO {table} ({', '.join(columns)}) VALUES"
    one = f"({', '.join(text or '%s' for text in literals)})"
    rows = list(zip(*bound, strict=True)) if bound else [()] * len(rows)
    whole = len(rows) - len(rows) % ROWS_A_STATEMENT
    if whole:
        groups = [list(chain.from_iterable(rows[i : i + ROWS_A_STATEMENT])) for i in range(0, whole, ROWS_A_STATEMENT)]
        cursor.executemany(f"{insert} {', '.join([one] * ROWS_A_STATEMENT)}", groups)
    if whole < len(rows):
        cursor.executemany(f"{insert} {one}", rows[whole:])


def _literal(values: Sequence[Any]) -> str | None:
    """The SQL literal of a column that holds one short value only; None if it has to be bound."""
    first = values[0]
    if first != values[-1] or values.count(first) != len(values):
        return None
    if first is None:
        return "NULL"
    if isinstance(first, bool | int):
        return str(int(first))
    if isinstance(first, str) and len(first) <= 100 and first.isprintable():
        quoted = first.replace("'", "''").replace("%", "%%")
        return f"'{quoted}'"
    return None


def reserve_ids(model: type[Model], n: int) -> Sequence[int]:
    """n ids that no other row has or will get, ascending.

    SQLite: those after the highest ever given; the transaction holds the only write lock, and inserting them moves
    the counter on. PostgreSQL: drawn from the sequence, which is safe beside other writers.
    """
    if not n:
        return ()
    table, column = model._meta.db_table, model._meta.pk.column
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT nextval(pg_get_serial_sequence(%s, %s)) FROM generate_series(1, %s)", [table, column, n])
            return [row[0] for row in cursor.fetchall()]
        cursor.execute("SELECT seq FROM sqlite_sequence WHERE name = %s", [table])
        row = cursor.fetchone()
        first = (row[0] if row else 0) + 1
        return range(first, first + n)


@contextmanager
def roomy_cache() -> Iterator[None]:
    """On SQLite a larger page cache for one big transaction: fewer changed pages are written twice."""
    if connection.vendor != "sqlite":
        yield
        return
    with connection.cursor() as cursor:
        before = cursor.execute("PRAGMA cache_size").fetchone()[0]
        cursor.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"PRAGMA cache_size = {before}")


def as_time(value: datetime) -> Any:
    return connection.ops.adapt_datetimefield_value(value)
