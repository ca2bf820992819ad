"""What does the work of each kind of job.

A handler does the slow part outside of any transaction and returns what writes the result, which then runs inside
the transaction that ends the job:

    def run(job: Job, report: Report) -> Write

`report(stage, done, total)` shows progress, and raises heartbeat.LeaseLost when the work is no longer wanted.
A handler raises JobError, or GraderError, with a text for people when the work can't be done.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from reviewapp.jobs.queue import Write
from reviewapp.models import Job

Report = Callable[..., None]
Handler = Callable[[Job, Report], Write]

# By path, so that a module that can't be imported fails its own kind of job only.
HANDLERS = {
    Job.Kind.GRADE: "reviewapp.outputs.jobs.run",
    Job.Kind.IMPORT: "reviewapp.interchange.jobs.run",
    Job.Kind.EXPORT: "reviewapp.datasets.jobs.run",
    Job.Kind.REWARD: "reviewapp.rewards.completions.run",
}


class JobError(RuntimeError):
    """The job can't be done, for a reason that its text tells a person."""


def handler_of(kind: str) -> Handler:
    """The handler; raises JobError saying why there is none."""
    path = HANDLERS[Job.Kind(kind)]
    module, _, name = path.rpartition(".")
    try:
        handler: Handler = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise JobError(f"{Job.Kind(kind).label} jobs can't be done here: {path} can't be loaded ({error})") from error
    return handler
