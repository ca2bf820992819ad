"""The life of a job: queued, claimed under a lease, and ended exactly once.

Every step is one conditional UPDATE, so that of any number of processes which try it, one succeeds. Whoever works
on a job holds its lease (a token, and a time to which it reaches). A worker that was killed lets it run out, and the
job may be claimed again. Only who still holds the lease can end the job, in the transaction that also writes the
result: what a worker computed after it lost its lease is thrown away.

A clock that is wrong on one machine makes work be repeated, never written twice: the token decides, not the time.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Coalesce
from django.utils import timezone

from reviewapp.celery import QUEUES
from reviewapp.jobs import wakeups
from reviewapp.models import Grader, Job, Output, Run, User
from reviewapp.rewards import labels

State = Job.State
OPEN = (State.QUEUED, State.RUNNING)
# Asked for again, or retried, these start anew.
STOPPED = (State.FAILED, State.CANCELLED, State.PAUSED)
NO_LEASE = {"lease_token": "", "lease_until": None}
FRESH = {
    **{**NO_LEASE, "state": State.QUEUED, "claims": 0, "error": "", "stage": ""},
    **{"done_units": 0, "total_units": 0, "started_at": None, "finished_at": None},
}
BATCH = 500
# Messages above what there is to do: sweeps wait in the same queues.
SLACK = 5

log = logging.getLogger(__name__)

# Runs inside the finishing transaction; what it returns becomes job.result.
Write = Callable[[Job], Mapping[str, Any] | None]


@dataclass
class Enqueued:
    """What became of the gradings that were asked for, as job ids."""

    new: list[int] = field(default_factory=list)
    retried: list[int] = field(default_factory=list)
    open: list[int] = field(default_factory=list)
    done: list[int] = field(default_factory=list)

    @property
    def to_do(self) -> list[int]:
        return sorted(self.new + self.retried + self.open)


def enqueue(
    kind: str,
    *,
    output: Output | None = None,
    grader: Grader | None = None,
    arguments: Mapping[str, Any] | None = None,
    user: User | None = None,
    attempt: int | None = None,
) -> Job:
    """A job for this work, and a wake-up once the transaction is through.

    A grading is one job for each output, grader version and attempt (None: the latest there is, else the first):
    asked for again, it is the same job, and starts again if it had failed or was cancelled.
    """
    if kind != Job.Kind.GRADE:
        job = Job.objects.create(kind=kind, arguments=dict(arguments or {}), created_by=user, woken_at=timezone.now())
        _wake_on_commit([(job.pk, wakeups.queue_of(kind))])
        return job
    if output is None or grader is None:
        raise ValueError(f"a grading needs an output and a grader, got {output} and {grader}")
    gradings = Job.objects.filter(kind=kind, output=output, grader=grader)
    if attempt is None:
        attempt = gradings.order_by("-attempt").values_list("attempt", flat=True).first() or 1
    fields = {"arguments": dict(arguments or {}), "created_by": user, "woken_at": timezone.now(), "queue": _queue_for(grader)}
    job, is_new = Job.objects.get_or_create(kind=kind, output=output, grader=grader, attempt=attempt, defaults=fields)
    if is_new:
        _wake_on_commit([(job.pk, wakeups.queue_of(kind, job.queue))])
    elif retry(job):
        job.refresh_from_db()
    return job


def enqueue_gradings(
    output_ids: Sequence[int],
    grader: Grader,
    *,
    again: bool = False,
    user: User | None = None,
    arguments: Mapping[str, Any] | None = None,
    run: Run | None = None,
) -> Enqueued:
    """A grading of each output, a transaction a batch. `again`: one more attempt where the last one is done.

    `arguments` and `run` go to the jobs that are new or start again.
    """
    result = Enqueued()
    new = Job(kind=Job.Kind.GRADE, grader=grader, created_by=user, queue=_queue_for(grader), arguments=dict(arguments or {}), run=run)
    for start in range(0, len(output_ids), BATCH):
        _enqueue_batch(output_ids[start : start + BATCH], new, again, result)
    to_wake = result.to_do[: wakeups.MOST_WAITING]  # the sweeper wakes the others as these are worked off
    Job.objects.filter(pk__in=to_wake).update(woken_at=timezone.now())
    _wake_on_commit([(pk, wakeups.queue_of(new.kind, new.queue)) for pk in to_wake])
    return result


@transaction.atomic
def _enqueue_batch(output_ids: Sequence[int], new: Job, again: bool, result: Enqueued) -> None:
    """`new` is what each new job is like."""
    gradings = Job.objects.filter(kind=new.kind, grader=new.grader, output_id__in=output_ids)
    latest = {job.output_id: job for job in gradings.order_by("attempt")}
    stopped = [job.pk for job in latest.values() if job.state in STOPPED]
    Job.objects.filter(pk__in=stopped, state__in=STOPPED).update(**FRESH, arguments=new.arguments, run=new.run)
    result.retried += stopped
    result.open += [job.pk for job in latest.values() if job.is_open]
    done = {pk: job for pk, job in latest.items() if job.state == State.DONE}
    attempts = {pk: latest[pk].attempt + 1 if pk in latest else 1 for pk in output_ids if pk not in latest or (again and pk in done)}
    result.done += [job.pk for pk, job in done.items() if pk not in attempts]
    same = {name: getattr(new, name) for name in ("kind", "queue", "grader", "created_by", "arguments", "run")}
    rows = [Job(**same, output_id=pk, attempt=n) for pk, n in attempts.items()]
    Job.objects.bulk_create(rows, ignore_conflicts=True)  # someone else may have asked for the same this moment
    made = gradings.filter(output_id__in=attempts).order_by("attempt").values_list("output_id", "attempt", "pk")
    result.new += [pk for output_id, attempt, pk in made if attempts[output_id] == attempt]


@transaction.atomic
def enqueue_rewards(grader: Grader, arguments: Mapping[str, Mapping[str, Any]], *, user: User | None = None) -> dict[str, int]:
    """A job for each unit (its arguments by unit), as job ids by unit: the one that is there, started again if it had stopped."""
    known = Job.objects.filter(kind=Job.Kind.REWARD, grader=grader, unit__in=list(arguments))
    states = dict(known.values_list("unit", "state"))
    now, same = timezone.now(), {"kind": Job.Kind.REWARD, "queue": _queue_for(grader), "grader": grader, "created_by": user}
    new = [
        Job(**same, unit=unit, arguments=dict(told), woken_at=now, max_claims=3) for unit, told in arguments.items() if unit not in states
    ]
    Job.objects.bulk_create(new, ignore_conflicts=True)  # someone else may have asked for the same this moment
    stopped = [unit for unit, state in states.items() if state in STOPPED]
    for unit in stopped:
        known.filter(unit=unit, state__in=STOPPED).update(**FRESH, arguments=dict(arguments[unit]), woken_at=now)
    ids = dict(known.values_list("unit", "pk"))
    to_wake = [ids[unit] for unit in (*(job.unit for job in new), *stopped)][: wakeups.MOST_WAITING]
    _wake_on_commit([(pk, wakeups.queue_of(Job.Kind.REWARD, _queue_for(grader))) for pk in to_wake])
    return ids


def _queue_for(grader: Grader) -> str:
    if grader.kind == Grader.Kind.LLM_JUDGE:
        return wakeups.JUDGE
    return wakeups.GPU if grader.name in settings.GPU_GRADERS else ""


def claim(job_id: int, worker: str, token: str = "") -> Job | None:
    """Take the job's lease: the job with its new token, or None when it is not free (or not there)."""
    now = timezone.now()
    is_free = Q(state=State.QUEUED) | Q(state=State.RUNNING, lease_until__lt=now)
    free = Job.objects.filter(is_free, pk=job_id, claims__lt=F("max_claims"))
    with transaction.atomic():
        if connection.features.has_select_for_update_skip_locked:
            # Else we would wait for a worker that is writing its result, only to find the job done.
            free = Job.objects.filter(pk__in=free.select_for_update(skip_locked=True).values("pk"))
        taken = free.update(
            state=State.RUNNING,
            lease_token=token or new_token(),
            lease_until=lease_end(),
            claims=F("claims") + 1,
            started_at=Coalesce(F("started_at"), now),
            stage=f"started on {worker}"[:200],
        )
    return Job.objects.get(pk=job_id) if taken else None


def new_token() -> str:
    return str(uuid.uuid4())


def lease_end() -> datetime:
    return timezone.now() + timedelta(seconds=settings.JOB_LEASE_S)


def held(job_id: int, token: str) -> QuerySet[Job]:
    """The job, if this token is still its lease. Every write of a worker goes through here."""
    return Job.objects.filter(pk=job_id, lease_token=token, state=State.RUNNING)


def finish(job: Job, token: str, write: Write) -> bool:
    """End the job and write its result in one transaction; False, and nothing is written, if the lease is lost."""
    with transaction.atomic():
        if not _finish(job, token, write):
            return False
    job.refresh_from_db()
    return True


def finish_all(work: Sequence[tuple[Job, Write]], token: str) -> list[Job]:
    """The same for several in one transaction, all or none, with their outputs' labels computed once; those that were lost."""
    with transaction.atomic(), labels.refreshed_once():
        return [job for job, write in work if not _finish(job, token, write)]


def _finish(job: Job, token: str, write: Write) -> bool:
    end = {"state": State.DONE, "stage": "", "error": "", "finished_at": timezone.now(), **NO_LEASE}
    if not held(job.pk, token).update(**end):
        return False
    result = dict(write(job) or {})
    Job.objects.filter(pk=job.pk).update(result=result, grade=job.grade_id)
    return True


def fail(job: Job, token: str, error: str) -> bool:
    """End the job with a text for people; False if the lease is lost."""
    return bool(held(job.pk, token).update(state=State.FAILED, error=error, finished_at=timezone.now(), **NO_LEASE))


def hand_back(job: Job, token: str, error: str = "") -> bool:
    """Put the job back into the queue. Without an error (the worker was asked to stop) the claim does not count."""
    claims = F("claims") if error else F("claims") - 1
    return bool(held(job.pk, token).update(state=State.QUEUED, claims=claims, error=error, stage="", woken_at=None, **NO_LEASE))


def hand_back_all(token: str) -> int:
    """Put all jobs that this token holds back into the queue; the claims do not count."""
    rows = Job.objects.filter(lease_token=token, state=State.RUNNING)
    return rows.update(state=State.QUEUED, claims=F("claims") - 1, stage="", woken_at=None, **NO_LEASE)


def retry(job: Job) -> bool:
    """Queue a failed, cancelled or paused job again, with all its claims; False if it is none of these."""
    if not Job.objects.filter(pk=job.pk, state__in=STOPPED).update(**FRESH, woken_at=timezone.now()):
        return False
    _wake_on_commit([(job.pk, wakeups.queue_of(job.kind, job.queue))])
    return True


def cancel(job: Job) -> bool:
    """Take the job out of the queue, or its lease from the worker; False if it has ended."""
    end = {"state": State.CANCELLED, "finished_at": timezone.now(), **NO_LEASE}
    return bool(Job.objects.filter(pk=job.pk, state__in=(*OPEN, State.PAUSED)).update(**end))


def pause_run(run: Run) -> int:
    """Hold back the run's jobs that wait; those in work end. How many."""
    return Job.objects.filter(run=run, state=State.QUEUED).update(state=State.PAUSED, woken_at=None)


def wake_first(run: Run) -> None:
    """Wake the first of the run's new jobs; the sweeper wakes the others as these are worked off."""
    _queue_again(Job.objects.filter(run=run, state=State.QUEUED), {"state": State.QUEUED})


def resume_run(run: Run) -> int:
    """Queue the run's paused jobs again; how many."""
    return _queue_again(Job.objects.filter(run=run, state=State.PAUSED), {"state": State.QUEUED})


def cancel_run(run: Run) -> int:
    """Cancel all of the run's jobs that have not ended; how many."""
    end = {"state": State.CANCELLED, "finished_at": timezone.now(), **NO_LEASE}
    return Job.objects.filter(run=run, state__in=(*OPEN, State.PAUSED)).update(**end)


def retry_run(run: Run, arguments: Mapping[str, Any] | None = None) -> int:
    """Queue the run's failed jobs again, with new arguments if there are any; how many. Finished calls are not paid again."""
    fields = FRESH | ({} if arguments is None else {"arguments": dict(arguments)})
    return _queue_again(Job.objects.filter(run=run, state=State.FAILED), fields)


def _queue_again(jobs: QuerySet[Job], fields: Mapping[str, Any]) -> int:
    """The first of them are woken at once; the sweeper wakes the others as these are worked off."""
    first = list(jobs.order_by("pk")[: wakeups.MOST_WAITING])
    count = jobs.update(**fields, woken_at=None)
    Job.objects.filter(pk__in=[job.pk for job in first]).update(woken_at=timezone.now())
    _wake_on_commit([(job.pk, wakeups.queue_of(job.kind, job.queue)) for job in first])
    return count


def sweep() -> dict[str, int]:
    """Give up jobs that ended no claim, and send the wake-ups that may have been lost. Any number may run at once."""
    gave_up = _give_up()
    return {"gave_up": gave_up, "woken": sum(_top_up(queue) for queue in QUEUES)}


def _give_up() -> int:
    """Fail the jobs that were claimed as often as allowed and never ended."""
    now = timezone.now()
    is_over = Q(state=State.RUNNING, lease_until__lt=now) | Q(state=State.QUEUED)
    count = 0
    for job in Job.objects.filter(is_over, state__in=OPEN, claims__gte=F("max_claims")):
        end = {"state": State.FAILED, "error": _why_given_up(job), "finished_at": now, **NO_LEASE}
        count += Job.objects.filter(is_over, pk=job.pk, claims__gte=F("max_claims")).update(**end)
    return count


def _why_given_up(job: Job) -> str:
    tries = f"Given up after {job.claims} {'try' if job.claims == 1 else 'tries'}"
    if job.state == State.QUEUED:
        return f"{tries}: {job.error}"
    stage = f" It was last seen at: {job.stage}." if job.stage else ""
    return f"{tries}: each time the worker stopped before the end (killed, out of memory, or its machine restarted).{stage}"


def _top_up(queue: str) -> int:
    """Wake the jobs of a queue that wait longest, but never send more than there is to do."""
    kinds = [kind for kind, name in wakeups.QUEUE_OF.items() if name == queue]
    now = timezone.now()
    is_idle = Q(state=State.QUEUED) | Q(state=State.RUNNING, lease_until__lt=now)
    is_here = Q(queue=queue) | Q(queue="", kind__in=kinds)
    waiting = Job.objects.filter(is_idle, is_here, state__in=OPEN, claims__lt=F("max_claims"))
    to_do = waiting[: wakeups.MOST_WAITING].count()
    if not to_do:
        return 0
    try:
        room = to_do + SLACK - wakeups.count_waiting(queue)
    except Exception as error:  # each broker has exceptions of its own
        log.warning("the broker can't be reached, %s jobs wait in %s: %s", to_do, queue, error)
        return 0
    is_silent = Q(woken_at__isnull=True) | Q(woken_at__lt=now - timedelta(seconds=settings.JOB_SWEEP_S))
    silent = waiting.filter(is_silent).order_by(F("woken_at").asc(nulls_first=True), "pk")
    jobs = list(silent.values_list("pk", flat=True)[: max(room, 0)])
    sent = wakeups.send((pk, queue) for pk in jobs)
    Job.objects.filter(pk__in=jobs[:sent]).update(woken_at=now)
    return sent


def _wake_on_commit(jobs: Sequence[tuple[int, str]]) -> None:
    """Of each job its id and its queue."""
    if jobs:
        transaction.on_commit(lambda: wakeups.send(jobs))
