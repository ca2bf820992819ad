"""Have an export written by a worker, follow it, download its files: the spec is that of the datasets page."""

from __future__ import annotations

from typing import Any

from django.http import FileResponse, Http404, HttpRequest
from django.urls import reverse
from django.utils.datastructures import MultiValueDict
from ninja import Schema, Status
from pydantic import ConfigDict

from reviewapp.api.app import api
from reviewapp.api.auth import Bearer, need_role
from reviewapp.api.errors import ApiError, Problem
from reviewapp.datasets import views
from reviewapp.datasets.forms import SpecForm
from reviewapp.models import Job, Snapshot
from reviewapp.outputs.filters import LARGEST_ID
from reviewapp.rewards.export import MANIFEST

FIELDS = {"task": "tasks", "no_samples": "include_samples"}  # the form's name of a field that has another name here


class ExportBody(Schema):
    """All may be left out; docs/exports.md tells what each is."""

    model_config = ConfigDict(extra="forbid")
    format: str = ""
    tasks: list[str] = []
    policy: str = ""
    split: str = ""
    seed: int = 0
    filter: str = ""
    include_samples: bool = True
    license: str = ""


@api.post("exports", auth=Bearer("export"), tags=["exports"], response={202: dict[str, Any]})
def start_export(request: HttpRequest, body: ExportBody) -> Status:
    """202: a worker writes it. Ask for `url` until `state` is done; then `files` can be downloaded."""
    need_role(request, "reviewer")
    told = {name: [str(value)] for name, value in body.dict().items() if name not in ("tasks", "include_samples")}
    data: MultiValueDict[str, str] = MultiValueDict({**told, "task": body.tasks})
    if not body.include_samples:
        data["no_samples"] = "1"
    form = SpecForm(data, request.user.pk)
    if not form.is_valid() or form.spec is None:
        raise _refusal(form, body)
    return Status(202, _told(request, views.start_snapshot(form.spec, request.user)))


@api.get("exports/{int:pk}", auth=Bearer("export", "read"), tags=["exports"])
def read_export(request: HttpRequest, pk: int) -> dict[str, Any]:
    """How far it is; once it is done, its manifest and the address of each file."""
    snapshot = Snapshot.objects.select_related("job").filter(pk=min(pk, LARGEST_ID)).first()
    if snapshot is None:
        raise Http404(f"There is no export {pk}.")
    return _told(request, snapshot)


@api.get("exports/{int:pk}/files/{path:name}", auth=Bearer("export", "read"), tags=["exports"], url_name="export_file")
def download_file(request: HttpRequest, pk: int, name: str) -> FileResponse:
    """A file that the manifest names, or the manifest itself."""
    response: FileResponse = views.dataset_file(request, min(pk, LARGEST_ID), name)
    return response


def _told(request: HttpRequest, snapshot: Snapshot) -> dict[str, Any]:
    job = snapshot.job
    state = Job.State.DONE.value if snapshot.sha256 else job.state if job else Job.State.FAILED.value
    waits = job and job.state == Job.State.QUEUED and job.elapsed_s > views.SLOW_START_S
    names = [*(file["path"] for file in snapshot.manifest.get("files", ())), MANIFEST] if snapshot.sha256 else []
    return {
        "id": snapshot.pk,
        "state": state,
        "url": request.build_absolute_uri(reverse("api-1:read_export", args=[snapshot.pk])),
        "spec": snapshot.spec,
        "done": job.done_units if job else 0,
        "to_do": job.total_units if job else 0,
        "error": job.error if job and not snapshot.sha256 else "",
        "note": "No worker has taken it yet; `make worker` starts one." if waits else "",
        "rows": snapshot.rows,
        "sha256": snapshot.sha256,
        "manifest": snapshot.manifest or None,
        "files": [{"path": name, "url": _file_url(request, snapshot, name)} for name in names],
        "created_at": snapshot.created_at,
    }


def _file_url(request: HttpRequest, snapshot: Snapshot, name: str) -> str:
    return request.build_absolute_uri(reverse("api-1:export_file", args=[snapshot.pk, name]))


def _refusal(form: SpecForm, body: ExportBody) -> ApiError:
    """The form's words on each field, in the names of the API."""
    given, problems = body.dict(), []
    for field, errors in form.errors.items():
        name = FIELDS.get(field, field)
        problems += [Problem(f"body.{name}".removesuffix(".__all__"), given.get(name), str(error)) for error in errors]
    return ApiError(422, " ".join(problem.allowed for problem in problems), problems)
