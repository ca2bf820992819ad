"""Bring tasks, variants, rubrics and graders into the database as immutable versions.

The same content is the same version; other content is a new version, and what was there stays as it was.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from django.conf import settings
from django.db import transaction
from django.db.models import Max

import tasks.task as spec
from graders import registry
from reviewapp.models import Criterion, Grader, Rubric, Task, Variant


@dataclass
class SyncReport:
    """What a sync changed, as lines for a person."""

    lines: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.lines.append(line)


@transaction.atomic
def sync_tasks() -> SyncReport:
    """Read the shipped tasks, those of TASKS_DIRS, and the graders that run here. Raises tasks.task.TaskError."""
    report = SyncReport()
    for task in spec.load_tasks(spec.SHIPPED_TASKS, *settings.TASKS_DIRS):
        save_task(task, report)
    for grader in registry.all_graders():
        save_plain_grader(grader)
    return report


@transaction.atomic
def save_task(task: spec.Task, report: SyncReport | None = None) -> Task:
    """The task's row, with today's rubric and variants. A task without variants keeps those it has."""
    report = report or SyncReport()
    fields = {
        "title": task.title,
        "description": task.description,
        "output_format": task.output_format,
        "tools": list(task.tools),
        "graders": list(task.graders),
        "primary_grader": task.primary_grader,
        "band_low": task.target_band[0],
        "band_high": task.target_band[1],
    }
    row, created = Task.objects.get_or_create(slug=task.slug, defaults=fields)
    if created:
        report.say(f"{task.slug}: new task")
    else:
        if row.promotions.exists():
            del fields["primary_grader"]  # people have chosen since
        changed = [name for name, value in fields.items() if getattr(row, name) != value and value not in ("", [])]
        for name in changed:
            setattr(row, name, fields[name])
        if changed:
            report.say(f"{task.slug}: {', '.join(changed)} changed")
    row.rubric = save_rubric(row, task.rubric, task.judge_instructions, report)
    row.save()
    if task.variants:
        for position, variant in enumerate(task.variants):
            save_variant(row, variant, starter=task.starter, position=position, report=report)
        row.variants.filter(is_current=True).exclude(name__in=[v.name for v in task.variants]).update(is_current=False)
    return row


def save_rubric(task: Task, rubric: spec.Rubric, judge_instructions: str = "", report: SyncReport | None = None) -> Rubric:
    """The version with this content, made if it is new."""
    sha256 = spec.sha256_of([asdict(rubric), judge_instructions])
    if found := task.rubrics.filter(sha256=sha256).first():
        return found
    version = (task.rubrics.aggregate(last=Max("version"))["last"] or 0) + 1
    row = Rubric.objects.create(
        task=task,
        version=version,
        sha256=sha256,
        scale_low=rubric.scale[0],
        scale_high=rubric.scale[1],
        pass_rule=rubric.pass_rule,
        pass_threshold=rubric.pass_threshold,
        min_passed=rubric.min_passed,
        requires_run=rubric.requires_run,
        judge_instructions=judge_instructions,
    )
    Criterion.objects.bulk_create(
        Criterion(
            rubric=row,
            key=c.key,
            title=c.title,
            description=c.description,
            weight=c.weight,
            kind=c.kind,
            scale_low=c.scale[0],
            scale_high=c.scale[1],
            values=list(c.values),
            position=position,
        )
        for position, c in enumerate(rubric.criteria)
    )
    if report:
        report.say(f"{task.slug}: rubric v{version}")
    return row


def save_variant(task: Task, variant: spec.Variant, *, starter: str = "", position: int = 0, report: SyncReport | None = None) -> Variant:
    """The current version of a variant, with this prompt and starter."""
    sha256 = spec.sha256_of([variant.prompt, starter])
    found = task.variants.filter(name=variant.name, sha256=sha256).first()
    if found and found.is_current:
        Variant.objects.filter(pk=found.pk).update(title=variant.title, description=variant.description, position=position)
        return found
    task.variants.filter(name=variant.name, is_current=True).update(is_current=False)
    if found:
        found.is_current = True
        found.save()
        return found
    version = (task.variants.filter(name=variant.name).aggregate(last=Max("version"))["last"] or 0) + 1
    if report:
        report.say(f"{task.slug}: variant {variant.name} v{version}")
    return Variant.objects.create(
        task=task,
        name=variant.name,
        version=version,
        sha256=sha256,
        title=variant.title,
        description=variant.description,
        prompt=variant.prompt,
        starter=starter,
        position=position,
    )


def save_grader(name: str, version: str, kind: str, sha256: str = "", *, is_sample: bool = False) -> Grader:
    """The grader version with this content; an imported one is known by name, version and kind alone."""
    sha256 = sha256 or spec.sha256_of([name, version, kind])
    row, _ = Grader.objects.get_or_create(name=name, version=version, sha256=sha256, defaults={"kind": kind, "is_sample": is_sample})
    return row


def save_plain_grader(grader: registry.Grader) -> Grader:
    """The row of a grader that runs here, in the version that it has now."""
    return save_grader(grader.name, grader.version, grader.kind, grader.sha256)


def spec_of(task: Task, variant: Variant | None = None) -> spec.Task:
    """The plain task that graders take."""
    if task.rubric is None:
        raise spec.TaskError(f"{task.slug}: has no rubric: run sync_tasks or import one")
    return spec.Task(
        slug=task.slug,
        title=task.title,
        description=task.description,
        rubric=task.rubric.spec,
        output_format=task.output_format,
        starter=variant.starter if variant else "",
        judge_instructions=task.rubric.judge_instructions,
        graders=tuple(task.graders),
        primary_grader=task.primary_grader,
    )
