"""The grading of one output by one grader, as a job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.conf import settings

from graders import registry, sandbox
from reviewapp.catalog.sync import spec_of
from reviewapp.grading import record_grader_grade
from reviewapp.jobs.handlers import JobError, Report
from reviewapp.jobs.queue import Write
from reviewapp.judges.known import plain_of
from reviewapp.models import Grader, Job, Output


def run(job: Job, report: Report) -> Write:
    """Grade the output; the write step adds the grade. Raises GraderError, JobError: no grade then."""
    output = Output.objects.select_related("task__rubric", "variant", "body").get(pk=job.output_id)
    row = Grader.objects.get(pk=job.grader_id)
    grader = plain_grader(row)
    check_can_grade(output, grader)
    # The rubric as it is now: should it change meanwhile, the grade still belongs to the one that was used.
    rubric = output.task.rubric
    task = spec_of(output.task, output.variant)
    plain = grader.grade(task, output.body.content, on_progress=report)

    def write(job: Job) -> Mapping[str, Any]:
        job.grade = record_grader_grade(output, row, plain, attempt=job.attempt, rubric=rubric)
        return {"text": "Graded."}  # the verdict is for those who may see it, on the review page

    return write


def plain_grader(row: Grader) -> registry.Grader:
    """The grader's code, which must be the version that the job was made for. Raises GraderError, JobError."""
    grader = plain_of(row)
    if grader.sha256 != row.sha256:
        raise JobError(
            f"{row} has changed since this was asked for (then {row.sha256[:12]}, now {grader.sha256[:12]}): "
            "run `manage.py sync_tasks` and grade again"
        )
    return grader


def check_can_grade(output: Output, grader: registry.Grader) -> None:
    """Raises JobError, or SandboxError when there is nothing to run code in."""
    check_grader(output.task.slug, grader, is_sample=output.is_sample)
    if output.content_missing:
        raise JobError(f"there is no content to grade: {output.content_missing}")


def check_grader(slug: str, grader: registry.Grader, *, is_sample: bool) -> None:
    """Raises JobError, or SandboxError when there is nothing to run code in."""
    if slug not in grader.tasks:
        raise JobError(f"{grader.name} does not grade {slug}, it grades: {', '.join(grader.tasks)}")
    if settings.DEMO and not is_sample and grader.runs_code and sandbox.choose_backend() == "process":
        raise JobError(
            "This machine has no sandbox, so the demo runs only its own samples. "
            "Install bubblewrap (apt-get install bubblewrap) and start the demo again"
        )
