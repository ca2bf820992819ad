"""Work on one job: claim it, do it under a heartbeat, end it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable

from django.db import InterfaceError, OperationalError, connection

from graders.grade import GraderError
from reviewapp.jobs import queue, together
from reviewapp.jobs.handlers import JobError, handler_of
from reviewapp.jobs.heartbeat import Heartbeat, LeaseLost
from reviewapp.jobs.stop import Stop, WorkerStopping
from reviewapp.models import Job

log = logging.getLogger(__name__)


def work_on(job_id: int, stop: Stop | None = None, tell: Callable[[], None] | None = None) -> Job | None:
    """Do the job if it is free; the job as it is then, or None if it was not free.

    A stop that is asked for, or Ctrl-C, hands the job back and is raised on. A job that is done together with others
    (jobs/together.py) takes along all of them that are free; `tell` is called as each of these ends.
    """
    stop = stop or Stop()
    if together.is_for_session(job_id):
        return Job.objects.get(pk=job_id) if together.work_session(job_id, stop, _end, tell) else None
    # The token is there before the claim, so that whatever ends this can tell whether the job is ours.
    job, token = Job(pk=job_id), queue.new_token()
    try:
        if not (claimed := queue.claim(job_id, f"{socket.gethostname()}:{os.getpid()}", token)):
            return None
        job = claimed
        _do(job, token, stop)
    except Exception as error:
        if stop.is_asked and not isinstance(error, LeaseLost):
            _hand_back(job, token)  # the request to stop may have surfaced as another error
            raise WorkerStopping from error
        _end(job, token, error)
    except BaseException:
        _hand_back(job, token)
        raise
    job.refresh_from_db()
    return job


def _do(job: Job, token: str, stop: Stop) -> None:
    with Heartbeat(job) as heartbeat, stop.interruptible():
        write = handler_of(job.kind)(job, heartbeat.report)
    # No heartbeat from here on: it would wait for the row that the finishing transaction holds.
    if not queue.finish(job, token, write):
        raise LeaseLost


def _end(job: Job, token: str, error: Exception) -> None:
    """What becomes of a job whose work ended with an error."""
    if isinstance(error, LeaseLost | Job.DoesNotExist):
        log.info("job %s: cancelled, or taken by another worker; the work is dropped", job.pk)
    elif isinstance(error, GraderError | JobError):
        queue.fail(job, token, str(error))
    elif isinstance(error, OperationalError | InterfaceError):
        # The database was away or locked: that passes. It counts as a claim, so it does not go on for ever.
        log.warning("job %s: later again, the database said: %s", job.pk, error)
        connection.close_if_unusable_or_obsolete()
        if job.lease_token:
            queue.hand_back(job, token, f"the database said: {error}")
    else:
        log.error("job %s failed", job.pk, exc_info=error)
        queue.fail(job, token, f"An error in the program, {type(error).__name__}: {error}")


def _hand_back(job: Job, token: str) -> None:
    connection.close()  # it may have been in the middle of a query
    queue.hand_back(job, token)
