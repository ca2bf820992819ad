"""Many jobs at once in one process: those that mostly wait for a model.

A session is woken by one job, claims others of these queues beside it until it has as many as it can do at once, and goes on
claiming as they end. All of them are held by one token, whose lease one UPDATE extends. They end one by one as any job
does, each in a transaction of its own; a killed session loses the leases, and the next one asks only what no model had
answered, since finished calls are stored.

One session a machine (a lock on a file), so that gradings of code keep their processes.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import queue as plain_queue
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F, Q
from django.db.models.functions import Coalesce
from django.utils import timezone

from reviewapp.jobs import queue, wakeups
from reviewapp.jobs.queue import State, Write
from reviewapp.jobs.stop import Stop, WorkerStopping
from reviewapp.judges.session import JudgeSession
from reviewapp.models import Job

LOOK_S = 0.5
GROUP = 25

log = logging.getLogger(__name__)

Result = TypeVar("Result")
# What becomes of a job whose work ended with an error: jobs/work.py.
End = Callable[[Job, str, Exception], None]


def is_for_session(job_id: int) -> bool:
    return Job.objects.filter(pk=job_id, queue__in=wakeups.TOGETHER).exists()


def work_session(job_id: int, stop: Stop, end: End, tell: Callable[[], None] | None = None) -> bool:
    """Do this job and all others of these queues that are free; False if a session is on here, or the job was not free.

    A stop that is asked for hands back what is in work and is raised on.
    """
    with _only_session() as is_ours:
        if not is_ours:
            return False
        token = queue.new_token()
        first = queue.claim(job_id, _worker(), token)
        if first is None:
            return False
        try:
            _Session(token, stop, end, tell or (lambda: None)).run(first)
        except BaseException:
            connection.close()  # it may have been in the middle of a query
            queue.hand_back_all(token)
            raise
        return True


@dataclass
class _Session:
    token: str
    stop: Stop
    end: End
    tell: Callable[[], None]
    in_work: dict[int, tuple[Job, Future[Write]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ended: plain_queue.SimpleQueue[int] = plain_queue.SimpleQueue()
        self.looked_at = self.extended_at = time.monotonic()

    def run(self, first: Job) -> None:
        try:
            session = JudgeSession()
        except Exception as error:  # no model is set up: each job says so
            self.end(first, self.token, error)
            self.tell()
            return
        with _loop() as run:
            run(session.open()).result()
            try:
                self._start(first, session, run)
                self._go_on(session, run)
            finally:
                for _, work in self.in_work.values():
                    work.cancel()
                run(session.close()).result()

    def _go_on(self, session: JudgeSession, run: Callable[[Coroutine[Any, Any, Any]], Future[Any]]) -> None:
        while True:
            if not (self.stop.is_asked or self.stop.is_closing()):
                jobs = claim_more(session.most_jobs - len(self.in_work), self.token)
                session.load(jobs)
                for job in jobs:
                    self._start(job, session, run)
            if not self.in_work:
                return
            with self.stop.interruptible():
                job_id = self._wait()
            while job_id is not None:
                ended = [job_id, *self._ended_too()]
                self._finish(ended)
                job_id = self._next()
            self._beat()

    def _start(self, job: Job, session: JudgeSession, run: Callable[[Coroutine[Any, Any, Any]], Future[Any]]) -> None:
        try:
            work = session.prepare(job)
        except Exception as error:
            self.end(job, self.token, error)
            self.tell()
            return
        future = run(work)
        self.in_work[job.pk] = (job, future)
        future.add_done_callback(lambda _: self.ended.put(job.pk))

    def _wait(self) -> int | None:
        try:
            return self.ended.get(timeout=LOOK_S)
        except plain_queue.Empty:
            return None

    def _ended_too(self) -> list[int]:
        """What ended meanwhile: written in one transaction, since each one of its own costs as much as ten jobs."""
        more = []
        while len(more) < GROUP - 1 and not self.ended.empty():
            more.append(self.ended.get())
        return more

    def _next(self) -> int | None:
        """The next job that has ended by now; a long row of them must not keep the lease from being extended."""
        if time.monotonic() - self.looked_at > LOOK_S:
            return None
        try:
            return self.ended.get_nowait()
        except plain_queue.Empty:
            return None

    def _finish(self, job_ids: Sequence[int]) -> None:
        done = []
        for job_id in job_ids:
            job, work = self.in_work.pop(job_id, (None, None))
            if job is None or work is None:
                continue
            try:
                done.append((job, work.result()))
            except CancelledError:
                log.info("job %s: cancelled", job_id)
            except Exception as error:
                self.end(job, self.token, error)
        try:
            self._write(done)
        except Exception:  # one of them can't be written: each for itself then
            log.warning("%s jobs could not be written together", len(done), exc_info=True)
            for row in done:
                self._write_one(*row)
        self.tell()

    def _write(self, done: Sequence[tuple[Job, Write]]) -> None:
        for job in queue.finish_all(done, self.token):
            log.info("job %s: cancelled, or taken by another worker; the work is dropped", job.pk)

    def _write_one(self, job: Job, write: Write) -> None:
        try:
            self._write([(job, write)])
        except Exception as error:
            self.end(job, self.token, error)

    def _beat(self) -> None:
        """Keep the lease, and drop the work on jobs that are no longer ours."""
        now = time.monotonic()
        if now - self.looked_at < LOOK_S:
            return
        self.looked_at = now
        held = Job.objects.filter(lease_token=self.token, state=State.RUNNING)
        if now - self.extended_at >= settings.JOB_LEASE_S / 3:
            held.update(lease_until=queue.lease_end())
            self.extended_at = now
        for job_id in set(self.in_work) - set(held.values_list("pk", flat=True)):
            self.in_work[job_id][1].cancel()


def claim_more(most: int, token: str) -> list[Job]:
    """Claim up to so many free jobs of the queue, the oldest first, under one token."""
    if most <= 0:
        return []
    now = timezone.now()
    # Not our own, should their lease have run out while this process stood still.
    is_free = Q(state=State.QUEUED) | (Q(state=State.RUNNING, lease_until__lt=now) & ~Q(lease_token=token))
    free = Job.objects.filter(is_free, queue__in=wakeups.TOGETHER, state__in=queue.OPEN, claims__lt=F("max_claims")).order_by("pk")
    with transaction.atomic():
        if connection.features.has_select_for_update_skip_locked:
            free = free.select_for_update(skip_locked=True)
        ids = list(free.values_list("pk", flat=True)[:most])
        if not ids:
            return []
        Job.objects.filter(is_free, pk__in=ids).update(
            state=State.RUNNING,
            lease_token=token,
            lease_until=queue.lease_end(),
            claims=F("claims") + 1,
            started_at=Coalesce(F("started_at"), now),
            stage=f"asking the model, on {_worker()}"[:200],
        )
    return list(Job.objects.filter(pk__in=ids, lease_token=token))


def _worker() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


@contextmanager
def _only_session() -> Iterator[bool]:
    """True for one process of this machine at a time; a killed one lets go."""
    path = settings.DATA_DIR / "judge_session.lock"
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


@contextmanager
def _loop() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Future[Any]]]:
    """An event loop in a thread of its own; what is yielded starts a coroutine in it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="judges", daemon=True)
    thread.start()
    try:
        yield lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


__all__ = ["WorkerStopping", "claim_more", "is_for_session", "work_session"]
