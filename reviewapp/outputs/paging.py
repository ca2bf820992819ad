"""Paging by key: a page begins after a row, named by its sort value and its id, wherever that row now stands.

Rows without a value come last in either direction. A page is read in up to three ranges, each of which an index on
(column, id) holds in order: the rest of the rows with the same value, those beyond it, those without one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connection
from django.db.models import F, Func, QuerySet
from django.utils.dateparse import parse_datetime

from reviewapp.models import Output
from reviewapp.outputs.filters import LARGEST_SCORE, is_id

PAGE_SIZE = 50


@dataclass(frozen=True)
class Column:
    """A column that the list can be sorted by. `read` is its value from a cursor; it raises ValueError."""

    title: str
    field: str
    read: Callable[[str], Any]
    has_gaps: bool = False  # rows without a value
    is_telling: bool = False  # the order tells what the judge, or another reviewer, said


def _number(text: str) -> float:
    value = float(text)
    if not abs(value) <= LARGEST_SCORE:
        raise ValueError(text)
    return value


def _whole(text: str) -> int:
    if not is_id(text):
        raise ValueError(text)
    return int(text)


def _time(text: str) -> datetime:
    value = parse_datetime(text)
    if value is None or value.tzinfo is None or not 1900 < value.year < 9000:
        raise ValueError(text)
    return value


COLUMNS = {
    "id": Column("Newest", "id", _whole),
    "judge": Column("Judge", "judge_score", _number, has_gaps=True, is_telling=True),
    "human": Column("Human", "human_score", _number, has_gaps=True, is_telling=True),
    "disagreement": Column("Differ", "disagreement", _number, has_gaps=True, is_telling=True),
    "length": Column("Length", "length", _whole),
    "date": Column("Date", "created_at", _time),
}
SORTS = tuple(f"{sign}{key}" for key in COLUMNS for sign in ("-", ""))


@dataclass(frozen=True)
class Order:
    key: str = "id"
    descending: bool = True

    @property
    def column(self) -> Column:
        return COLUMNS[self.key]

    def __str__(self) -> str:
        return f"{'-' if self.descending else ''}{self.key}"


DEFAULT_ORDER = Order()


@dataclass(frozen=True)
class Cursor:
    """The row that a page begins after; `value` is None where the row has none."""

    value: Any
    pk: int

    def __str__(self) -> str:
        value = "" if self.value is None else self.value.isoformat() if isinstance(self.value, datetime) else repr(self.value)
        return f"{value}~{self.pk}"


@dataclass(frozen=True)
class Page:
    rows: list[Output]
    next: Cursor | None


def parse_order(text: str) -> tuple[Order, str]:
    """The order, and what was wrong with the text; the default order then."""
    if not text:
        return DEFAULT_ORDER, ""
    if text not in SORTS:
        return DEFAULT_ORDER, f"sort is {text[:60]!r}, allowed: {', '.join(SORTS)}. It was left out."
    return Order(text.removeprefix("-"), text.startswith("-")), ""


def parse_cursor(text: str, order: Order) -> tuple[Cursor | None, str]:
    """The cursor of this order, and what was wrong with the text; none then, which is the first page."""
    if not text:
        return None, ""
    value, _, pk = text.rpartition("~")
    try:
        is_plain = not value and (order.column.has_gaps or order.key == "id")
        return Cursor(None if is_plain else order.column.read(value), _whole(pk)), ""
    except (ValueError, OverflowError):
        return None, f"after is {text[:60]!r}, which is no place in a list sorted by {order.column.title.lower()}. This is its beginning."


class Unindexed(Func):
    """A column that SQLite does not look up in an index: the unary plus does nothing else."""

    template = "+%(expressions)s"
    arity = 1


def read_page(outputs: QuerySet[Output], order: Order, cursor: Cursor | None, *, is_few: bool = False, size: int = PAGE_SIZE) -> Page:
    """One row more than a page is read, to know whether there is a next one.

    `is_few`: the filters keep few of many rows. SQLite then finds and sorts them, in place of looking for them in
    the order of an index, which may lead it through the whole table row by row.
    """
    field = order.column.field
    if is_few and order.key != "id" and connection.vendor == "sqlite":
        outputs, field = outputs.alias(sort_value=Unindexed(F(field))), "sort_value"
    rows: list[Output] = []
    for part in ranges(outputs, order, cursor, field):
        rows += part[: size + 1 - len(rows)]
        if len(rows) > size:
            last = rows[size - 1]
            value = None if order.key == "id" else getattr(last, order.column.field)
            return Page(rows[:size], Cursor(value, last.pk))
    return Page(rows, None)


def ranges(outputs: QuerySet[Output], order: Order, cursor: Cursor | None, field: str) -> Iterator[QuerySet[Output]]:
    sign, beyond = ("-", "lt") if order.descending else ("", "gt")
    if field == "id":
        yield (outputs.filter(**{f"id__{beyond}": cursor.pk}) if cursor else outputs).order_by(f"{sign}id")
        return
    # The column stays in the order even where it is the same for all: PostgreSQL then knows the index for it.
    outputs = outputs.order_by(f"{sign}{field}", f"{sign}id")
    if cursor is None:
        yield outputs.filter(**{f"{field}__isnull": False}) if order.column.has_gaps else outputs
    elif cursor.value is not None:
        yield outputs.filter(**{field: cursor.value, f"id__{beyond}": cursor.pk})
        yield outputs.filter(**{f"{field}__{beyond}": cursor.value})
    if order.column.has_gaps:
        gaps = outputs.filter(**{f"{field}__isnull": True})
        yield gaps if cursor is None or cursor.value is not None else gaps.filter(**{f"id__{beyond}": cursor.pk})
