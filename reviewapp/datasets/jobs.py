"""The job that writes a snapshot's files. DATA_DIR must be one folder for web server and workers."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.conf import settings
from django.urls import reverse

from reviewapp.jobs.handlers import JobError, Report
from reviewapp.jobs.queue import Write
from reviewapp.models import Job, Snapshot
from reviewapp.rewards.export import MANIFEST, ExportError, write_export
from reviewapp.rewards.spec import Spec, SpecError

SNAPSHOTS = "snapshots"


def run(job: Job, report: Report) -> Write:
    """Write the files to a folder of this claim's own; the snapshot points at it once the job ends."""
    snapshot = Snapshot.objects.filter(pk=job.arguments["snapshot"]).first()
    if snapshot is None:
        raise JobError(f"snapshot {job.arguments['snapshot']} is not there any more")
    if snapshot.sha256:
        return lambda job: _result(snapshot)
    root = settings.DATA_DIR / SNAPSHOTS
    _remove_unfinished(root, snapshot)
    name = f"{snapshot.pk}-{job.lease_token[:8]}"
    try:
        manifest = write_export(Spec.from_json(snapshot.spec), root / name, report)
    except (SpecError, ExportError) as error:
        raise JobError(str(error)) from error

    def write(job: Job) -> Mapping[str, Any]:
        snapshot.manifest = manifest
        snapshot.rows = manifest["rows"]
        snapshot.sha256 = hashlib.sha256((root / name / MANIFEST).read_bytes()).hexdigest()
        snapshot.folder = f"{SNAPSHOTS}/{name}"
        snapshot.save(update_fields=["manifest", "rows", "sha256", "folder"])
        return _result(snapshot)

    return write


def _result(snapshot: Snapshot) -> dict[str, Any]:
    return {"text": f"{snapshot.rows:,} rows are written.", "url": reverse("dataset", args=[snapshot.pk])}


def _remove_unfinished(root: Path, snapshot: Snapshot) -> None:
    """What earlier claims wrote and never handed over: their workers were killed, or lost the lease."""
    for pattern in (f"{snapshot.pk}-*", f".{snapshot.pk}-*.part"):
        for folder in root.glob(pattern):
            shutil.rmtree(folder, ignore_errors=True)
