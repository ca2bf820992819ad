"""Ask for a run of rollouts once more: the same run goes on, with what failed, and with more of them if more are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import transaction

from reviewapp.jobs import queue
from reviewapp.models import Grader, Job, Run, Task, Variant
from reviewapp.runs import graded
from reviewapp.runs.start import ROLLOUT_QUEUE


def find_run(task: Task, variant: Variant, model: str, asked: dict[str, Any]) -> Run | None:
    """The newest run of exactly this: the prompt as it is now, the model, the settings."""
    wanted = {"task": task.slug, "variants": [variant.name], "models": [model], **asked}
    for run in Run.objects.filter(kind=Run.Kind.ROLLOUT, arguments__task=task.slug).order_by("-pk")[:200]:
        if all(run.arguments.get(name) == value for name, value in wanted.items()):
            return run
    return None


@transaction.atomic
def ask_again(run: Run, variant: Variant, model: str, n: int, *, limit_usd: float | None, graders: Sequence[Grader]) -> None:
    """Add jobs up to n, and queue again what failed, was cancelled or is paused. A limit that is given takes the old one's place.

    `graders` grade the outputs that are there, too.
    """
    if limit_usd is not None:
        run.arguments |= {"limit_usd": limit_usd}
        for job in run.jobs.exclude(state=Job.State.DONE):
            job.arguments |= {"limit_usd": limit_usd}
            job.save(update_fields=["arguments"])
    limit = {"limit_usd": run.arguments["limit_usd"]} if "limit_usd" in run.arguments else {}
    about = {"variant": variant.pk, "model": model, "scope": run.scope, **limit}
    for number in range(1, n + 1):
        unit = f"{variant.name}/{model}/{number}"
        fields = {"kind": Job.Kind.ROLLOUT, "queue": ROLLOUT_QUEUE, "arguments": {**about, "number": number}}
        Job.objects.get_or_create(run=run, unit=unit, defaults=fields)
    for job in run.jobs.filter(state__in=("failed", "cancelled", "paused")):
        queue.retry(job)
    run.arguments |= {"n": max(n, run.arguments.get("n", 0))}
    run.save(update_fields=["arguments"])
    if graders:
        graded.ask_for(run, variant.task, graders)
    queue.wake_first(run)
