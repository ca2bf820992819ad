"""Compare a batch of records with what is there: what is new, what changed, which grades are missing. Only reads."""

from __future__ import annotations

import hashlib
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from reviewapp.interchange.records import GradeRecord, Record, merged
from reviewapp.models import Grade, Output


@dataclass(slots=True)
class Planned:
    """One output of the batch. `output_id` is that of the same content, `replaces` that of older content."""

    record: Record
    output_id: int | None = None
    replaces: int | None = None
    version: int = 1
    new_grades: dict[str, GradeRecord] = field(default_factory=dict)


def plan_batch(records: Iterable[Record], task_ids: Mapping[str, int | None]) -> list[Planned]:
    """One Planned for each output that the records name. `task_ids`: slug -> id, None for a task not made yet."""
    by_output: dict[tuple[str, str], Record] = {}
    for record in records:
        key = (record.task, record.external_id)
        by_output[key] = merged(by_output[key], record) if key in by_output else record
    found = _latest(by_output, task_ids)
    plans = [_compare(record, found.get(key)) for key, record in by_output.items()]
    _leave_out_known_grades(plans)
    return plans


def _latest(by_output: Mapping[tuple[str, str], Record], task_ids: Mapping[str, int | None]) -> dict[tuple[str, str], tuple[int, int, str]]:
    """(task slug, external id) -> (id, version, content hash) of the latest version. One query a task."""
    names: dict[str, list[str]] = defaultdict(list)
    for slug, external_id in by_output:
        names[slug].append(external_id)
    found = {}
    for slug, external_ids in names.items():
        if task_ids[slug] is None:
            continue
        rows = Output.objects.filter(task_id=task_ids[slug], is_latest=True, external_id__in=external_ids)
        # Without the model's ordering, for which SQLite would go through the whole task.
        for row in rows.order_by().values_list("external_id", "pk", "version", "content_hash"):
            found[slug, row[0]] = row[1:]
    return found


def _compare(record: Record, found: tuple[int, int, str] | None) -> Planned:
    if found is None:
        return Planned(record, new_grades=record.grades())
    output_id, version, content_hash = found
    if content_hash == record.content_hash:
        return Planned(record, output_id=output_id, version=version, new_grades=record.grades())
    return Planned(record, replaces=output_id, version=version + 1, new_grades=record.grades())


def _leave_out_known_grades(plans: Iterable[Planned]) -> None:
    same = {plan.output_id: plan for plan in plans if plan.output_id is not None and plan.new_grades}
    if not same:
        return
    known: dict[int, set[str]] = defaultdict(set)
    for output_id, key in Grade.objects.filter(output_id__in=list(same)).order_by().values_list("output_id", "key"):
        known[output_id].add(key)
    for output_id, plan in same.items():
        plan.new_grades = {key: grade for key, grade in plan.new_grades.items() if key not in known[output_id]}


class Seen:
    """What earlier lines of the file said. Kept on disk: memory stays the same however long the file is."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)  # a nameless file that goes with the connection
        self._db.execute("PRAGMA journal_mode=OFF")
        self._db.execute("BEGIN")
        self._db.execute("CREATE TABLE output (key BLOB PRIMARY KEY, hash TEXT, line INTEGER) WITHOUT ROWID")
        self._db.execute("CREATE TABLE grade (key BLOB PRIMARY KEY) WITHOUT ROWID")

    def close(self) -> None:
        self._db.close()

    def first_of(self, record: Record) -> tuple[int, str] | None:
        """(line, content hash) of the first line that named this output; None if it is this one."""
        key = _digest(record.task, record.external_id)
        values = (key, record.content_hash, record.line)
        if self._db.execute("INSERT OR IGNORE INTO output VALUES (?, ?, ?)", values).rowcount:
            return None
        line, content_hash = self._db.execute("SELECT line, hash FROM output WHERE key = ?", [key]).fetchone()
        return line, content_hash

    def is_new_grade(self, record: Record, key: str) -> bool:
        """Whether no earlier line gave this output the same grade."""
        values = (_digest(record.task, record.external_id, key),)
        return bool(self._db.execute("INSERT OR IGNORE INTO grade VALUES (?)", values).rowcount)


def _digest(*parts: str) -> bytes:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).digest()
