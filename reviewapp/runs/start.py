"""Start a run: one row for what was asked for, and a job for each unit of its work.

A grading is one job an output (jobs/queue.py keeps it to one for each output, grader version and attempt); a rollout is one
job for each variant, model and number, so that asking for the same run's jobs twice makes none twice.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from django.db import transaction

from reviewapp.jobs import queue
from reviewapp.jobs.queue import Enqueued, enqueue_gradings
from reviewapp.judges.versions import keep_counting
from reviewapp.models import Grader, Job, Output, Run, Task, User, Variant
from reviewapp.runs import graded

ROLLOUT_QUEUE = "rollout"
MOST_UNITS = 10_000


def start_gradings(
    grader: Grader,
    outputs: Sequence[int],
    *,
    title: str,
    task: Task | None = None,
    user: User | None = None,
    again: bool = False,
    limit_usd: float | None = None,
    scope: str = "",
    asked: dict[str, Any] | None = None,
) -> tuple[Run | None, Enqueued]:
    """Have a grader grade these outputs; no run where nothing is left to do. `scope`: under which its calls are counted."""
    scope = scope or f"grade {uuid.uuid4().hex[:12]}"
    keep_counting([task] if task else _tasks_of(outputs), grader, user)
    about = {"task": task.slug if task else "", "grader": grader.name, "version": grader.version, **(asked or {})}
    run = Run.objects.create(kind=Run.Kind.GRADE, title=title[:200], scope=scope, created_by=user, arguments=about | _limit(limit_usd))
    arguments = {"scope": scope, **_limit(limit_usd)} if grader.kind == Grader.Kind.LLM_JUDGE else {}
    done = enqueue_gradings(outputs, grader, again=again, user=user, arguments=arguments, run=run)
    if not (done.new or done.retried):
        run.delete()
        return None, done
    if done.done or done.open:
        run.arguments |= {"already_done": len(done.done), "under_way": len(done.open)}
        run.save(update_fields=["arguments"])
    return run, done


@transaction.atomic
def start_rollouts(
    task: Task,
    variants: Sequence[Variant],
    models: Sequence[str],
    n: int,
    *,
    user: User | None = None,
    limit_usd: float | None = None,
    asked: dict[str, Any] | None = None,
    graders: Sequence[Grader] = (),
) -> Run:
    """n rollouts of each variant by each model, a job each. `graders` grade each output as soon as it is there."""
    names = [variant.name for variant in variants]
    about = {"task": task.slug, "variants": names, "models": list(models), "n": n, **(asked or {}), **_limit(limit_usd)}
    told = ", ".join(names) if len(names) < 3 else f"{len(names)} variants"
    title = f"{task.title}: {told} by {', '.join(models)}, {n} each"
    run = Run.objects.create(kind=Run.Kind.ROLLOUT, title=title[:200], created_by=user, arguments=about)
    run.scope = f"run {run.pk}"
    run.save(update_fields=["scope"])
    jobs = [
        Job(
            kind=Job.Kind.ROLLOUT,
            queue=ROLLOUT_QUEUE,
            run=run,
            unit=f"{variant.name}/{model}/{number}",
            created_by=user,
            arguments={"variant": variant.pk, "model": model, "number": number, "scope": run.scope, **_limit(limit_usd)},
        )
        for variant in variants
        for model in models
        for number in range(1, n + 1)
    ]
    Job.objects.bulk_create(jobs, batch_size=500)
    if graders:
        graded.ask_for(run, task, graders, user)
    queue.wake_first(run)
    return run


def _tasks_of(outputs: Sequence[int]) -> Iterator[Task]:
    ids: set[int] = set()
    for start in range(0, len(outputs), 500):
        ids |= set(Output.objects.filter(pk__in=outputs[start : start + 500]).order_by().values_list("task_id", flat=True).distinct())
    yield from Task.objects.filter(pk__in=ids)


def _limit(limit_usd: float | None) -> dict[str, float]:
    return {} if limit_usd is None else {"limit_usd": limit_usd}
