"""What Celery calls: look at one job, and sweep. And how a worker that is asked to stop hands back its jobs."""

from __future__ import annotations

import mmap
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from billiard.process import current_process
from celery import shared_task
from celery.signals import worker_ready, worker_shutting_down
from celery.worker import state as worker_state
from django.conf import settings

from reviewapp.jobs import broker, queue
from reviewapp.jobs.stop import Stop, WorkerStopping
from reviewapp.jobs.work import work_on

# One byte that the processes of the pool, forked later, share with the worker: 1 once it is asked to stop.
_stopping = mmap.mmap(-1, 1)
_worker: dict[str, Any] = {"consumer": None}


@shared_task(name="jobs.wake", acks_late=True)
def wake(job_id: int) -> str:
    """Claim and do one job; nothing if it is not free."""
    if _stopping[0]:
        return "stopping"
    stop = Stop(is_closing=lambda: bool(_stopping[0]))
    try:
        with _listening(stop):
            job = work_on(job_id, stop)
    except WorkerStopping:
        return "handed back"
    return job.state if job else "not free"


@shared_task(name="jobs.sweep")
def sweep_jobs() -> dict[str, int]:
    """Every JOB_SWEEP_S, from every worker with a beat: sweeping twice does no harm."""
    if settings.CELERY_BROKER_URL == "filesystem://":
        broker.delete_leftovers(Path(settings.BROKER_DIR))
    return queue.sweep()


@worker_ready.connect
def sweep_at_start(sender: Any, **_: Any) -> None:
    """What was left over from before the start is found at once."""
    _worker["consumer"] = sender
    sweep_jobs.apply_async(queue="export", expires=settings.JOB_SWEEP_S)


@contextmanager
def _listening(stop: Stop) -> Iterator[None]:
    """In a process of the pool, SIGTERM asks for a stop, on which work_on hands the job back."""
    if current_process()._name == "MainProcess":
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: stop.ask())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@worker_shutting_down.connect
def stop_in_time(**_: Any) -> None:
    """Celery's warm shutdown waits for the jobs in work as long as they take; we wait JOB_STOP_S."""
    if not _stopping[0]:
        _stopping[0] = 1
        threading.Thread(target=_stop_active, name="stop jobs", daemon=True).start()


def _stop_active() -> None:
    time.sleep(settings.JOB_STOP_S)
    for request in tuple(worker_state.active_requests):
        request.cancel(_worker["consumer"].pool, emit_retry=False)
