"""Work on one job: claim it, do it under a heartbeat, end it."""

from __future__ import annotations

import logging
import os
import socket

from django.db import InterfaceError, OperationalError, connection

from graders.grade import GraderError
from reviewapp.jobs import queue
from reviewapp.jobs.handlers import JobError, handler_of
from reviewapp.jobs.heartbeat import Heartbeat, LeaseLost
from reviewapp.models import Job

log = logging.getLogger(__name__)


def work_on(job_id: int) -> Job | None:
    """Do the job if it is free; the job as it is then, or None if it was not free."""
    # The token is there before the claim, so that a stop at any moment can hand back what was claimed.
    job, token = Job(pk=job_id), queue.new_token()
    try:
        if not (claimed := queue.claim(job_id, f"{socket.gethostname()}:{os.getpid()}", token)):
            return None
        job = claimed
        _do(job, token)
    except (LeaseLost, Job.DoesNotExist):
        log.info("job %s: cancelled, or taken by another worker; the work is dropped", job_id)
    except (GraderError, JobError) as error:
        queue.fail(job, token, str(error))
    except (OperationalError, InterfaceError) as error:
        # The database was away or locked: that passes. It counts as a claim, so it does not go on for ever.
        log.warning("job %s: later again, the database said: %s", job_id, error)
        connection.close_if_unusable_or_obsolete()
        if job.lease_token:
            queue.hand_back(job, token, f"the database said: {error}")
    except Exception as error:
        log.exception("job %s failed", job_id)
        queue.fail(job, token, f"An error in the program, {type(error).__name__}: {error}")
    except BaseException:  # the worker was asked to stop
        connection.close()  # it may have been in the middle of a query
        queue.hand_back(job, token)
        raise
    job.refresh_from_db()
    return job


def _do(job: Job, token: str) -> None:
    with Heartbeat(job) as heartbeat:
        write = handler_of(job.kind)(job, heartbeat.report)
    # No heartbeat from here on: it would wait for the row that the finishing transaction holds.
    if not queue.finish(job, token, write):
        raise LeaseLost
