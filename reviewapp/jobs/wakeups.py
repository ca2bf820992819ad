"""Wake-ups: the Celery messages that tell a worker to look at a job. Losing or repeating one does no harm."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from celery import current_app
from kombu.exceptions import ChannelError

from reviewapp.models import Job

QUEUE_OF = {
    **{Job.Kind.GRADE: "grade-cpu", Job.Kind.REWARD: "grade-cpu", Job.Kind.IMPORT: "export", Job.Kind.EXPORT: "export"},
    Job.Kind.ROLLOUT: "rollout",
}
GPU = "grade-gpu"
# Gradings and rollouts wait for a model and not for a processor: one process does hundreds of them at once (jobs/together.py).
JUDGE = "judge"
ROLLOUT = "rollout"
TOGETHER = (JUDGE, ROLLOUT)
# As many messages as a queue may hold at most through us: the sweeper tops it up as jobs are worked off.
MOST_WAITING = 200

log = logging.getLogger(__name__)


def queue_of(kind: str, queue: str = "") -> str:
    """The queue of a job of this kind, or the one that it was given."""
    return queue or QUEUE_OF[Job.Kind(kind)]


def send(jobs: Iterable[tuple[int, str]]) -> int:
    """Send a wake-up for each (job id, queue); how many were sent. A broker that is down is logged, not raised.

    The request that made the job must not fail for it: the job stands in the table, and the sweeper sends again.
    """
    sent = 0
    for job_id, queue in jobs:
        try:
            current_app.send_task("jobs.wake", args=[job_id], queue=queue, retry=False)
        except Exception as error:  # each broker has exceptions of its own
            log.warning("no wake-up for job %s, the broker can't be reached and will be asked again: %s", job_id, error)
            break
        sent += 1
    return sent


def count_waiting(queue: str) -> int:
    """How many messages the broker holds in this queue; those that a worker has taken do not count."""
    with current_app.connection_for_write() as connection:
        try:
            return connection.default_channel.queue_declare(queue, passive=True).message_count
        except ChannelError:  # some brokers know a queue only while it holds something
            return 0
