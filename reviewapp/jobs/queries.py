"""What the pages read about jobs. Lists page by id, newest first."""

from __future__ import annotations

from dataclasses import dataclass

from django.db.models import Count, QuerySet

from reviewapp.models import Grader, Job, Output

PAGE = 50
SHOWN = 4


@dataclass(frozen=True)
class Running:
    """The open jobs for the home page: those in work first, and how many there are in all."""

    jobs: list[Job]
    n_running: int
    n_queued: int

    @property
    def n_more(self) -> int:
        return self.n_running + self.n_queued - len(self.jobs)


@dataclass(frozen=True)
class JobPage:
    jobs: list[Job]
    next_before: int | None


def with_names() -> QuerySet[Job]:
    """Jobs with all that a line about one shows."""
    return Job.objects.select_related("output__task", "grader", "created_by")


def running() -> Running:
    """Two queries."""
    rows = dict(Job.objects.filter(state__in=("queued", "running")).order_by().values_list("state").annotate(n=Count("id")))
    jobs = with_names().filter(state__in=("queued", "running")).order_by("-state", "id")[:SHOWN] if rows else []
    return Running(list(jobs), rows.get("running", 0), rows.get("queued", 0))


def counts(jobs: QuerySet[Job]) -> dict[str, int]:
    """State -> number of these jobs, zero where there are none."""
    rows = dict(jobs.order_by().values_list("state").annotate(n=Count("id")))
    return {state: rows.get(state, 0) for state in Job.State.values}


def page(jobs: QuerySet[Job], before: int | None = None) -> JobPage:
    """One page of these jobs, those with an id below `before`."""
    if before is not None:
        jobs = jobs.filter(pk__lt=before)
    rows = list(jobs.order_by("-pk")[: PAGE + 1])
    return JobPage(rows[:PAGE], rows[PAGE - 1].pk if len(rows) > PAGE else None)


def next_attempt(output: Output, grader: Grader) -> int:
    """Which attempt a person means who asks for a grading: one that is under way or stopped, else another one."""
    done = Job.objects.filter(kind=Job.Kind.GRADE, output=output, grader=grader, state=Job.State.DONE)
    return (done.order_by("-attempt").values_list("attempt", flat=True).first() or 0) + 1
