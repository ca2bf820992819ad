"""What the judges pages read: each version with what it has graded, and where it is the task's primary grader."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from django.db.models import Count, Max, Q

from graders import registry
from graders.judge.grader import JudgeGrader
from graders.judge.judge import Judge
from reviewapp.models import Grade, Grader, JudgeVersion, Output, Task


@dataclass(frozen=True)
class Row:
    """One version. `judge` None: it came with an import, or its settings are not known here any more."""

    grader: Grader
    judge: Judge | None
    version: JudgeVersion | None
    is_set_up: bool  # it is the one of the environment
    n_grades: int
    tasks: tuple[Task, ...]  # that it graded
    primary_of: tuple[Task, ...]


@dataclass(frozen=True)
class OnTask:
    """A version on one task: how many outputs it graded, and how many of those that people labelled."""

    task: Task
    n_graded: int
    n_labelled: int
    n_both: int
    is_primary: bool
    others: tuple[str, ...]  # versions to compare with, the primary one first

    @property
    def n_left(self) -> int:
        return self.n_labelled - self.n_both


def judge_rows() -> list[Row]:
    """Every version of every LLM judge, the newest first. Five queries."""
    graders = list(Grader.objects.filter(kind=Grader.Kind.LLM_JUDGE).order_by("name", "-id"))
    versions = {v.grader_id: v for v in JudgeVersion.objects.select_related("grader", "created_by")}
    tasks = {task.pk: task for task in Task.objects.order_by("slug")}
    counts = Grade.objects.filter(grader__in=graders, retraction__isnull=True).order_by().values("grader_id", "output__task_id")
    graded: dict[int, dict[int, int]] = defaultdict(dict)
    for row in counts.annotate(n=Count("id")):
        graded[row["grader_id"]][row["output__task_id"]] = row["n"]
    return [_row(grader, versions.get(grader.pk), graded[grader.pk], tasks, graders) for grader in graders]


def _row(grader: Grader, version: JudgeVersion | None, graded: dict[int, int], tasks: dict[int, Task], graders: list[Grader]) -> Row:
    setup = set_up_judge()
    is_set_up = setup is not None and (setup.name, setup.version) == (grader.name, grader.version)
    judge = version.judge if version else setup.judge if setup and is_set_up else None
    primary = [task for task in tasks.values() if is_primary(grader, task, graders, graded)]
    mine = tuple(tasks[pk] for pk in graded if pk in tasks)
    return Row(grader, judge, version, is_set_up, sum(graded.values()), mine, tuple(primary))


def is_primary(grader: Grader, task: Task, graders: Iterable[Grader], graded: dict[int, int]) -> bool:
    """Its verdicts are the task's: by name and version, or as the newest version of the name that has graded it."""
    if "@" in task.primary_grader:
        return task.primary_grader == f"{grader.name}@{grader.version}"
    if task.primary_grader != grader.name or task.pk not in graded:
        return False
    return all(g.pk <= grader.pk for g in graders if g.name == grader.name)


def set_up_judge() -> JudgeGrader | None:
    """The judge of the environment; None when its settings can't be read."""
    try:
        return next((g for g in registry.all_graders() if isinstance(g, JudgeGrader)), None)
    except registry.GraderError:
        return None


def on_tasks(grader: Grader, slugs: Iterable[str]) -> list[OnTask]:
    """On each task that it has graded, or could and that has labels. A few queries for all of them."""
    is_here = Q(is_latest=True)
    is_labelled = is_here & ~Q(label_state=Output.LabelState.NONE)
    mine = Grade.objects.filter(grader=grader, retraction__isnull=True).values("output_id")
    counts = (
        Output.objects.filter(is_here)
        .order_by()
        .values("task_id")
        .annotate(
            graded=Count("id", filter=Q(pk__in=mine)),
            labelled=Count("id", filter=is_labelled),
            both=Count("id", filter=is_labelled & Q(pk__in=mine)),
        )
    )
    found = {row["task_id"]: row for row in counts}
    others: dict[int, list[Grader]] = defaultdict(list)
    graders = Grader.objects.in_bulk()
    pairs = Grade.objects.filter(mode=Grade.Mode.AUTOMATIC, output__task__in=found).order_by().values("output__task_id", "grader_id")
    for row in pairs.annotate(newest=Max("id")):
        others[row["output__task_id"]].append(graders[row["grader_id"]])
    wanted = set(slugs)
    rows = []
    for task in Task.objects.filter(pk__in=found).order_by("slug"):
        row = found[task.pk]
        if not row["graded"] and not (row["labelled"] and task.slug in wanted):
            continue
        graded = {task.pk: row["graded"]} if row["graded"] else {}
        same = sorted((g for g in others[task.pk] if g.pk != grader.pk), key=lambda g: (-g.rank_for(task.primary_grader), -g.pk))
        primary = is_primary(grader, task, others[task.pk], graded)
        rows.append(OnTask(task, row["graded"], row["labelled"], row["both"], primary, tuple(f"{g.name}@{g.version}" for g in same)))
    return rows
