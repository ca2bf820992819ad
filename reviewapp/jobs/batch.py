"""Grade many outputs from the command line: which ones, how far they are, and what went wrong."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from django.db.models import QuerySet

from reviewapp.jobs import queue
from reviewapp.jobs.work import work_on
from reviewapp.models import Grade, Grader, Job, Output, Task

WHICH = ("all", "ungraded", "labelled")
BATCH = 500
POLL_S = 0.5
NO_WORKER_S = 5

Say = Callable[[Counter[str]], None]


class SelectionError(ValueError):
    """What was asked for does not exist; the text says what was seen and what is allowed."""


@dataclass(frozen=True)
class Failure:
    """A grading that did not end well, and why."""

    job: int
    output: int
    external_id: str
    reason: str


def select_outputs(task: Task, grader: Grader, which: str) -> list[int]:
    """Ids of the task's outputs, in their newest version: all, those this grader has not graded, those people have, or some ids."""
    outputs = task.outputs.filter(is_latest=True).order_by("id")
    if which == "ungraded":
        outputs = outputs.exclude(pk__in=Grade.objects.filter(grader=grader, output__task=task).values("output_id"))
    elif which == "labelled":
        outputs = outputs.exclude(label_state=Output.LabelState.NONE)
    elif which != "all":
        return _by_ids(task.outputs.order_by("id"), which)
    return list(outputs.values_list("pk", flat=True))


def _by_ids(outputs: QuerySet[Output], which: str) -> list[int]:
    parts = [part.strip() for part in which.split(",")]
    if wrong := [part for part in parts if not part.isdecimal()]:
        raise SelectionError(f"outputs has {wrong[0]!r}, allowed: {', '.join(WHICH)} or ids like 3,14,15")
    ids = sorted({int(part) for part in parts})
    found = {
        pk for start in range(0, len(ids), BATCH) for pk in outputs.filter(pk__in=ids[start : start + BATCH]).values_list("pk", flat=True)
    }
    if missing := [pk for pk in ids if pk not in found]:
        raise SelectionError(f"output {missing[0]} is not one of this task's")
    return ids


def wait_for_jobs(ids: Sequence[int], say: Say, warn: Callable[[], None]) -> None:
    """Until all have ended. `say` hears the counts by state; `warn` is called once if no worker seems to run."""
    began, is_warned = time.monotonic(), False
    chunks = [ids[start : start + BATCH] for start in range(0, len(ids), BATCH)]
    ended: Counter[str] = Counter()
    while True:
        asked_at = time.monotonic()
        now, chunks = _look(chunks, ended)
        say(now + ended)
        if not chunks:
            return
        if not is_warned and now["running"] == 0 and not ended and time.monotonic() - began > NO_WORKER_S:
            warn()
            is_warned = True
        time.sleep(max(POLL_S, 5 * (time.monotonic() - asked_at)))


def count_states(ids: Sequence[int]) -> Counter[str]:
    states: Counter[str] = Counter()
    for start in range(0, len(ids), BATCH):
        states += Counter(Job.objects.filter(pk__in=ids[start : start + BATCH]).values_list("state", flat=True))
    return states


def _look(chunks: Sequence[Sequence[int]], ended: Counter[str]) -> tuple[Counter[str], list[Sequence[int]]]:
    """Count the chunks' jobs by state; chunks that have ended go into `ended` and are asked for no more."""
    now: Counter[str] = Counter()
    left = []
    for chunk in chunks:
        states = Counter(Job.objects.filter(pk__in=chunk).values_list("state", flat=True))
        if states["queued"] + states["running"]:
            now += states
            left.append(chunk)
        else:
            ended += states
    return now, left


def work_here(ids: Sequence[int], say: Say) -> None:
    """Do the jobs in this process, beside any workers, until all have ended."""
    left, ended = list(ids), Counter[str]()
    told_at = [0.0]

    def tell() -> None:
        """While a session does many at once: how all of them stand, now and then."""
        if time.monotonic() - told_at[0] > POLL_S:
            told_at[0] = time.monotonic()
            say(count_states(ids))

    while left:
        busy = []
        for job_id in left:
            job = Job.objects.get(pk=job_id)
            if job.is_open:  # a session that did another one may have done it too
                job = work_on(job_id, tell=tell) or Job.objects.get(pk=job_id)
            if job.is_open:
                busy.append(job_id)  # a worker has it, or it went back into the queue
                continue
            ended[job.state] += 1
            say(ended + Counter(queued=len(ids) - ended.total()))
        left = busy
        if left:
            queue.sweep()
            time.sleep(POLL_S)


def failures(ids: Sequence[int]) -> Iterator[Failure]:
    for start in range(0, len(ids), BATCH):
        jobs = Job.objects.filter(pk__in=ids[start : start + BATCH], state__in=queue.STOPPED).select_related("output").order_by("pk")
        for job in jobs:
            yield Failure(job.pk, job.output_id, job.output.external_id, job.error or "cancelled")
