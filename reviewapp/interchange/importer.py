"""Import a JSONL file: the one way in, behind the command, the page and the HTTP API.

Two readings. The first checks every line and writes nothing; the second writes all in one transaction, after
making sure, batch by batch, that the bytes are those that were checked. Memory does not grow with the file.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import orjson
from django.db import DataError, IntegrityError, OperationalError, connection, transaction

import tasks.task as spec
from reviewapp.catalog.sync import SyncReport, save_task
from reviewapp.interchange.bulk import roomy_cache
from reviewapp.interchange.check import Rules, check_line
from reviewapp.interchange.lines import MAX_LINE_BYTES, Batch, read_batches, what_it_looks_like
from reviewapp.interchange.plan import Planned, Seen, plan_batch
from reviewapp.interchange.problems import ImportRefused, Problem, Problems, show
from reviewapp.interchange.records import Record, record_of
from reviewapp.interchange.report import LISTED, ImportReport
from reviewapp.interchange.write import Writer
from reviewapp.models import Task, User
from tasks.fields import read_toml

# (what is being done, bytes done, bytes in all)
Progress = Callable[[str, int, int], None]
ADVISORY_LOCK = 7_221_883  # one import at a time on PostgreSQL; SQLite has one writer anyway
PREVIEW_ROWS = 5
LARGE = 1000  # rows after which statistics are gathered anew


@dataclass
class CheckedFile:
    """A file with what its lines may refer to, and after the first reading what it holds."""

    path: Path
    size: int
    task: spec.Task | None  # what the rubric file defines
    rules: dict[str, Rules]
    task_ids: dict[str, int | None]
    on_progress: Progress
    report: ImportReport
    digests: list[bytes] = field(default_factory=list)


def import_file(
    path: str | Path,
    rubric: str | Path | None = None,
    dry_run: bool = False,
    user: User | None = None,
    on_progress: Progress | None = None,
    *,
    sample: bool = False,
    title: str = "",
) -> ImportReport:
    """Import all of a file or nothing. Raises ImportRefused with every problem.

    `sample` marks outputs and graders as written for the demo. `title` is the run's, by default the file's name.
    """
    checked = check_file(path, rubric, dry_run=dry_run, on_progress=on_progress, title=title)
    if dry_run:
        return checked.report
    try:
        return write_file(checked, user=user, sample=sample)
    except OperationalError as error:
        raise _refused(f"the database is busy or away, import again: {error}") from error


def check_file(
    path: str | Path, rubric: str | Path | None = None, *, dry_run: bool = False, on_progress: Progress | None = None, title: str = ""
) -> CheckedFile:
    """The first reading. Writes nothing; a dry run also counts what is new. Raises ImportRefused with every problem."""
    path = Path(path)
    report = ImportReport(file=title or path.name, dry_run=dry_run)
    try:
        source = _open(path, Path(rubric) if rubric else None, report, on_progress or (lambda stage, done, total: None))
        with _rare_collections():
            _check(source, report)
    except OSError as error:
        raise _refused(f"{path}: {error.strerror or error}") from error
    except spec.TaskError as error:
        raise _refused(f"rubric: {str(error).replace(str(rubric), Path(rubric or '').name)}") from error
    return source


def write_file(checked: CheckedFile, *, user: User | None = None, sample: bool = False) -> ImportReport:
    """The second reading, in one transaction. Raises ImportRefused, or OperationalError when another try may succeed."""
    try:
        with _rare_collections(), roomy_cache():
            _write(checked, checked.report, user=user, sample=sample)
    except OSError as error:
        raise _refused(f"{checked.path}: {error.strerror or error}") from error
    except IntegrityError as error:
        raise _refused(f"someone else wrote the same rows at the same moment, import again: {error}") from error
    except DataError as error:
        raise _refused(f"the database did not take it: {error}") from error
    return checked.report


def _refused(reason: str) -> ImportRefused:
    return ImportRefused([Problem(None, "", reason)])


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Rows make no reference cycles: looking for some in every batch takes a fifth of the time."""
    before = gc.get_threshold()
    gc.set_threshold(200_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _open(path: Path, rubric: Path | None, report: ImportReport, on_progress: Progress) -> CheckedFile:
    """Raises ImportRefused when it is something else than JSON lines, OSError, or TaskError when the rubric is bad."""
    size = path.stat().st_size
    if looks := what_it_looks_like(path):
        raise _refused(f"{report.file} {looks}")
    task = _task_of_rubric(rubric) if rubric else None
    rows = list(Task.objects.filter(rubric__isnull=False).select_related("rubric").prefetch_related("rubric__criteria"))
    rules = {row.slug: Rules.of(row.rubric.spec) for row in rows}
    task_ids: dict[str, int | None] = dict(Task.objects.values_list("slug", "pk"))
    if task:
        rules[task.slug] = Rules.of(task.rubric)
        task_ids.setdefault(task.slug, None)
    return CheckedFile(path, size, task, rules, task_ids, on_progress, report)


def _task_of_rubric(path: Path) -> spec.Task:
    """The task that a rubric file defines; of one that is there already it keeps what the file does not say."""
    task = spec.load_task_of_rubric(path)
    row = Task.objects.filter(slug=task.slug).select_related("rubric").first()
    if row is None:
        return task
    says_format = "output_format" in read_toml(path)["task"]
    return replace(
        task,
        output_format=task.output_format if says_format else row.output_format,
        judge_instructions=row.rubric.judge_instructions if row.rubric else "",
        tools=tuple(row.tools),
        graders=tuple(row.graders),
        primary_grader=row.primary_grader,
        target_band=(row.band_low, row.band_high),
    )


# --- first reading ---


def _check(source: CheckedFile, report: ImportReport) -> None:
    """Check every line, count, and for a dry run compare with what is there. Raises ImportRefused."""
    problems, seen = Problems(), Seen()
    try:
        for batch in read_batches(source.path):
            source.digests.append(batch.digest)
            checked = _check_batch(batch, source.rules, seen, problems)
            report.lines += len(batch.lines)
            _count(report, checked)
            if report.dry_run and not problems.count:
                _count_new(report, checked, seen, source.task_ids)
            source.on_progress("Checking", batch.end, source.size)
    finally:
        seen.close()
    if not report.lines:
        problems.add(None, [("", f"{report.file} is empty: it needs at least one line")])
    problems.raise_if_any()
    if source.task and source.task.slug in report.tasks and source.task_ids[source.task.slug] is None:
        report.tasks_new.append(source.task.slug)
    if source.task and source.task.slug not in report.tasks:
        report.notes.append(f"The rubric file defines the task {source.task.slug}, but no line is of it: it was left out.")


def _check_batch(batch: Batch, rules: Mapping[str, Rules], seen: Seen, problems: Problems) -> list[tuple[Record, bool]]:
    """The records of good lines, each with whether it is the first of its output."""
    checked = []
    for number, raw, length in batch.lines:
        if length > MAX_LINE_BYTES:
            limit = f"allowed: at most {MAX_LINE_BYTES / 2**20:g} MiB a line"
            problems.add(number, [("", f"is {length / 2**20:,.1f} MiB long, {limit}")])
            continue
        record, found = check_line(number, raw, rules)
        first = seen.first_of(record) if record else None
        if record and first and first[1] != record.content_hash:
            where = f"{show(record.external_id)} was on line {first[0]} with other content"
            found = [("external_id", f"{where}, allowed: one content an external_id in a file")]
        problems.add(number, found)
        if record and not found:
            checked.append((record, first is None))
    return checked


def _count(report: ImportReport, checked: Iterable[tuple[Record, bool]]) -> None:
    for record, is_first in checked:
        report.outputs += is_first
        report.grades += len(record.raw_grades)
        report.tasks[record.task] = report.tasks.get(record.task, 0) + 1
        if len(report.rows) < PREVIEW_ROWS:
            report.rows.append(_preview_row(record))


def _count_new(report: ImportReport, checked: list[tuple[Record, bool]], seen: Seen, task_ids: Mapping[str, int | None]) -> None:
    firsts = {(record.task, record.external_id) for record, is_first in checked if is_first}
    for plan in plan_batch([record for record, _ in checked], task_ids):
        if (plan.record.task, plan.record.external_id) in firsts:
            _tally_output(report, plan)
        report.grades_new += sum([seen.is_new_grade(plan.record, key) for key in plan.new_grades])


def _tally_output(report: ImportReport, plan: Planned) -> None:
    if plan.replaces is not None:
        report.outputs_new_version += 1
        if len(report.new_versions) < LISTED:
            report.new_versions.append(plan.record.external_id)
    elif plan.output_id is None:
        report.outputs_new += 1


def _preview_row(record: Record) -> dict[str, Any]:
    names = ("line", "external_id", "task", "variant", "model", "content_missing")
    row = {name: getattr(record, name) for name in names}
    row["grades"] = [
        {
            "grader": grade.grader[0],
            "kind": grade.grader[2],
            "rater": grade.rater,
            "overall": grade.overall,
            "scores": {key: given["score"] for key, given in grade.criteria.items()},
        }
        for grade in list(record.grades().values())[:10]
    ]
    return {**row, "content": record.content[:300], "n_grades": len(record.raw_grades)}


# --- second reading ---


@transaction.atomic
def _write(source: CheckedFile, report: ImportReport, *, user: User | None, sample: bool) -> None:
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [ADVISORY_LOCK])
    tasks = _save_tasks(source, report)
    task_ids: dict[str, int | None] = {task.slug: task.pk for task in tasks}
    writer = Writer(tasks, title=report.file, user=user, sample=sample)
    for batch in _same_batches(source):
        plans = plan_batch([record_of(number, orjson.loads(raw)) for number, raw, _ in batch.lines], task_ids)
        for plan in plans:
            _tally_output(report, plan)
            report.grades_new += len(plan.new_grades)
        writer.write(plans)
        source.on_progress("Writing", batch.end, source.size)
    writer.finish()
    report.run_id = writer.run.pk if writer.run else None
    if connection.vendor == "postgresql" and report.outputs_new + report.grades_new > LARGE:
        # Its planner goes by statistics: without those of the new rows a page over them takes minutes.
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE reviewapp_prompt, reviewapp_output, reviewapp_grade, reviewapp_criterionscore")


def _save_tasks(source: CheckedFile, report: ImportReport) -> list[Task]:
    """The tasks of the file, with the rubrics that its lines were checked by."""
    if source.task and source.task.slug in report.tasks:
        changes = SyncReport()
        save_task(source.task, changes)
        report.notes += changes.lines
    rows = Task.objects.filter(slug__in=report.tasks).select_related("rubric").prefetch_related("rubric__criteria")
    tasks = list(rows)
    for task in tasks:
        if task.rubric.spec != source.rules[task.slug].rubric:
            raise _refused(f"the rubric of {task.slug} changed while the file was being read: import again")
    return tasks


def _same_batches(source: CheckedFile) -> Iterator[Batch]:
    """The batches again. Raises ImportRefused at the first that is not what was checked."""
    for batch, digest in zip_longest(read_batches(source.path), source.digests):
        if batch is None or batch.digest != digest:
            raise _refused(f"{source.report.file} changed while it was being read: import again")
        yield batch
