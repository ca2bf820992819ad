"""The two jobs of an upload: a preview, which checks and counts, and the import.

Job.arguments: action ("preview" or "import"), upload (its folder), title (the file's name).
Job.result: `report` as ImportReport.to_json, or `refused` as ImportRefused.to_json; `text` and `url` for the jobs page.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from django.db import transaction
from django.urls import reverse

from reviewapp.interchange.importer import CheckedFile, check_file, write_file
from reviewapp.interchange.problems import ImportRefused
from reviewapp.interchange.uploads import OUTPUTS, RUBRIC, folder_of, remove_upload
from reviewapp.jobs.handlers import JobError, Report
from reviewapp.jobs.queue import Write, held
from reviewapp.models import Job

PREVIEW, IMPORT = "preview", "import"
WRITING = "Writing"


def run(job: Job, report: Report) -> Write:
    """Check the file here; a preview's counts or an import's rows are written by what is returned."""
    folder = folder_of(job.arguments["upload"])
    if not (folder / OUTPUTS).is_file():
        raise JobError("The uploaded file is not here any more: upload it again.")
    rubric = folder / RUBRIC
    is_preview = job.arguments["action"] == PREVIEW
    options: dict[str, Any] = {"dry_run": is_preview, "on_progress": report, "title": job.arguments["title"]}
    try:
        checked = check_file(folder / OUTPUTS, rubric if rubric.exists() else None, **options)
    except ImportRefused as refused:
        return partial(_refuse, refused)
    if is_preview:
        return partial(_preview, checked)
    # From here on the rows are written in one transaction with the job's end: no progress comes out of that.
    held(job.pk, job.lease_token).update(stage=WRITING)
    return partial(_import, checked)


def _preview(checked: CheckedFile, job: Job) -> Mapping[str, Any]:
    report = checked.report
    text = f"{report.outputs_new + report.outputs_new_version:,} outputs are new or changed, {report.outputs_unchanged:,} are here already."
    return {"report": report.to_json(), "text": text, "url": reverse("import_job", args=[job.pk])}


def _import(checked: CheckedFile, job: Job) -> Mapping[str, Any]:
    try:
        with transaction.atomic():
            report = write_file(checked, user=job.created_by)
    except ImportRefused as refused:
        return _refuse(refused, job)
    transaction.on_commit(lambda: remove_upload(job.arguments["upload"]))
    text = f"{report.outputs_new + report.outputs_new_version:,} outputs and {report.grades_new:,} grades are imported."
    return {"report": report.to_json(), "text": text, "url": reverse("import_job", args=[job.pk])}


def _refuse(refused: ImportRefused, job: Job) -> Mapping[str, Any]:
    """Nothing can come of these files any more: mended ones are a new upload."""
    transaction.on_commit(lambda: remove_upload(job.arguments["upload"]))
    text = f"Nothing was imported: {refused.n_problems:,} problem{'' if refused.n_problems == 1 else 's'}."
    return {"refused": refused.to_json(), "text": text, "url": reverse("import_job", args=[job.pk])}
