"""The heartbeat of a job: a thread that extends its lease and writes its progress while the work goes on."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from threading import Event, Thread
from types import TracebackType

from django.conf import settings
from django.db import DatabaseError, connection

from reviewapp.jobs import queue
from reviewapp.models import Job

PROGRESS_S = 0.5

log = logging.getLogger(__name__)


class LeaseLost(Exception):
    """The job was cancelled, or another worker has it: what was computed here is of no use any more."""


@dataclass(frozen=True)
class Progress:
    stage: str = ""
    done: int = 0
    total: int = 0


class Heartbeat:
    """Use it as a context around the work. The work calls `report`, which raises LeaseLost once the lease is gone."""

    def __init__(self, job: Job) -> None:
        self.job_id, self.token = job.pk, job.lease_token
        self.progress = self.written = Progress(job.stage)
        self.is_lost = False
        self._stop = Event()
        self._thread = Thread(target=self._run, name=f"heartbeat of job {job.pk}", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def report(self, stage: str, done: int = 0, total: int = 0) -> None:
        """Say how far the work is. Cheap: the thread writes it, at most twice a second."""
        self.progress = Progress(stage[:200], done, total)
        if self.is_lost:
            raise LeaseLost(f"job {self.job_id}")

    def _run(self) -> None:
        extend_s = settings.JOB_LEASE_S / 3
        extended_at = time.monotonic()
        try:
            while not self._stop.wait(min(PROGRESS_S, extend_s)) and not self.is_lost:
                if self.progress != self.written or time.monotonic() - extended_at >= extend_s:
                    self._beat()
                    extended_at = time.monotonic()
        finally:
            connection.close()

    def _beat(self) -> None:
        progress = self.progress
        fields = {"stage": progress.stage, "done_units": progress.done, "total_units": progress.total}
        try:
            self.is_lost = not queue.held(self.job_id, self.token).update(lease_until=queue.lease_end(), **fields)
            self.written = progress
        except DatabaseError as error:
            # The lease may still be ours: the next beat, or the end of the job, will tell.
            log.warning("job %s: no heartbeat, the database said: %s", self.job_id, error)
            connection.close()
