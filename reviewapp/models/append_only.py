"""Rows that are facts: they can be added, never changed or deleted.

Three fences: the model's save and delete, the query set's update and delete, and triggers in the database
(migrations install them by `install_triggers`), which also stop raw SQL and the admin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper

APPEND_ONLY_TABLES = (
    *("reviewapp_grade", "reviewapp_criterionscore", "reviewapp_retraction", "reviewapp_calibrator"),
    *("reviewapp_judgeversion", "reviewapp_promotion", "reviewapp_judgedpair"),
)


class AppendOnlyError(TypeError):
    """A fact was about to be changed or deleted."""


class AppendOnlyQuerySet(models.QuerySet):
    def update(self, **kwargs: Any) -> int:
        raise AppendOnlyError(f"{self.model.__name__} rows are facts and can't be changed: add a new one")

    def delete(self) -> tuple[int, dict[str, int]]:
        raise AppendOnlyError(f"{self.model.__name__} rows are facts and can't be deleted: add a retraction")

    def bulk_update(self, *args: Any, **kwargs: Any) -> int:
        return self.update()


class AppendOnlyModel(models.Model):
    objects = AppendOnlyQuerySet.as_manager()

    class Meta:
        abstract = True
        base_manager_name = "objects"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise AppendOnlyError(f"{type(self).__name__} {self.pk} is a fact and can't be changed: add a new one")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        raise AppendOnlyError(f"{type(self).__name__} {self.pk} is a fact and can't be deleted: add a retraction")


def install_triggers(connection: BaseDatabaseWrapper) -> None:
    """Make UPDATE and DELETE of the append-only tables fail in the database itself."""
    with connection.cursor() as cursor:
        for sql in _statements(connection.vendor, _tables(connection), create=True):
            cursor.execute(sql)


def remove_triggers(connection: BaseDatabaseWrapper) -> None:
    """For the reverse migration, and for a test database that must be emptied."""
    with connection.cursor() as cursor:
        for sql in _statements(connection.vendor, _tables(connection), create=False):
            cursor.execute(sql)


def _tables(connection: BaseDatabaseWrapper) -> list[str]:
    """Those that are there: a migration runs this before later ones have made theirs."""
    there = connection.introspection.table_names()
    return [table for table in APPEND_ONLY_TABLES if table in there]


def _statements(vendor: str, tables: Sequence[str], *, create: bool) -> list[str]:
    statements = []
    if vendor == "postgresql" and create:
        statements.append(
            "CREATE OR REPLACE FUNCTION reviewapp_append_only() RETURNS trigger AS $$ BEGIN "
            "RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation'; "
            "END $$ LANGUAGE plpgsql"
        )
    for table in tables:
        for event in ("UPDATE", "DELETE"):
            name = f"{table}_no_{event.lower()}"
            if vendor == "postgresql":
                statements.append(f"DROP TRIGGER IF EXISTS {name} ON {table}")
                body = f"BEFORE {event} ON {table} FOR EACH ROW EXECUTE FUNCTION reviewapp_append_only()"
            else:
                statements.append(f"DROP TRIGGER IF EXISTS {name}")
                body = f"BEFORE {event} ON {table} BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            if create:
                statements.append(f"CREATE TRIGGER {name} {body}")
    return statements
