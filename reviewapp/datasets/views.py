"""Datasets: build an export and see its first rows, write it as a snapshot, download snapshots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.http import FileResponse, Http404, HttpRequest, HttpResponse, HttpResponseBadRequest
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST
from django_htmx.http import HttpResponseStopPolling

from reviewapp import access
from reviewapp.datasets.forms import SPLITS, SpecForm
from reviewapp.datasets.preview import Preview, preview_of
from reviewapp.jobs import queue
from reviewapp.models import Job, Snapshot, User
from reviewapp.review.rendering.markdown import render_markdown
from reviewapp.rewards.card import CARD_TITLE
from reviewapp.rewards.export import CARD, MANIFEST
from reviewapp.rewards.formats import FORMATS, LATER
from reviewapp.rewards.spec import POLICY_TEXTS, Spec, SpecError

CHOICES = {"formats": list(FORMATS.values()), "later": LATER, "policies": POLICY_TEXTS, "splits": SPLITS}
PAGE = 20
SLOW_START_S = 5


@require_GET
@access.role_required("viewer")
def datasets(request: HttpRequest) -> HttpResponse:
    form = SpecForm(request.GET, request.user.pk)
    context = {"form": form, "preview": _preview(form), **CHOICES}
    status = 422 if form.errors else 200
    if request.htmx:
        return render(request, "datasets/datasets.html#preview", context, status=status)
    before = request.GET.get("before", "")
    if before and not before.isdecimal():
        return HttpResponseBadRequest(f"before is {before!r}, must be the number of a snapshot")
    return render(request, "datasets/datasets.html", {**context, **_snapshots(before)}, status=status)


@require_POST
@access.role_required("reviewer")
def write_dataset(request: HttpRequest) -> HttpResponse:
    """Have a worker write the snapshot of this spec."""
    form = SpecForm(request.POST, request.user.pk)
    if not form.is_valid() or form.spec is None:
        context = {"form": form, "preview": None, **CHOICES, **_snapshots("")}
        return render(request, "datasets/datasets.html", context, status=422)
    return redirect("dataset", pk=start_snapshot(form.spec, request.user).pk)


@transaction.atomic
def start_snapshot(spec: Spec, user: User) -> Snapshot:
    """The row, and the job that writes its files."""
    snapshot = Snapshot.objects.create(spec=spec.to_json(), created_by=user)
    title = f"dataset {snapshot.pk}, {spec.format}"
    snapshot.job = queue.enqueue(Job.Kind.EXPORT, arguments={"snapshot": snapshot.pk, "title": title}, user=user)
    snapshot.save(update_fields=["job"])
    return snapshot


@require_GET
@access.role_required("viewer")
def dataset(request: HttpRequest, pk: int) -> HttpResponse:
    """A snapshot: its progress until it is written, then its card and files."""
    snapshot = get_object_or_404(Snapshot.objects.select_related("job", "created_by"), pk=pk)
    job = snapshot.job
    context: dict[str, Any] = {"snapshot": snapshot, "job": job, "manifest_name": MANIFEST}
    if snapshot.sha256:
        context["card"] = _rendered_card(snapshot)
    elif job and job.state == Job.State.QUEUED:
        context["is_waiting_long"] = job.elapsed_s > SLOW_START_S
    if not request.htmx:
        return render(request, "datasets/dataset.html", context)
    response = render(request, "datasets/dataset.html#snapshot", context)
    return response if job and job.is_open else HttpResponseStopPolling(response.content)


@require_GET
@access.role_required("viewer")
def dataset_file(request: HttpRequest, pk: int, name: str) -> FileResponse:
    """A file that the manifest names, as a download."""
    snapshot = get_object_or_404(Snapshot, pk=pk)
    if name != MANIFEST and name not in {file["path"] for file in snapshot.manifest.get("files", ())}:
        raise Http404(f"snapshot {pk} has no file {name!r}")
    path = _folder(snapshot) / name
    if not path.is_file():
        raise Http404(f"{name!r} of snapshot {pk} is not on the disk any more")
    Snapshot.objects.filter(pk=pk).update(downloads=F("downloads") + 1)
    filename = f"touchstone-{pk}-{path.name}"
    response = FileResponse(path.open("rb"), as_attachment=True, filename=filename, content_type="application/octet-stream")
    response["X-Content-Type-Options"] = "nosniff"
    return response


def _preview(form: SpecForm) -> Preview | None:
    if not form.is_valid() or form.spec is None:
        return None
    try:
        return preview_of(form.spec)
    except SpecError as error:
        form.add_spec_error(error)
        return None


def _snapshots(before: str) -> dict[str, Any]:
    """One page of snapshots, newest first."""
    rows = Snapshot.objects.select_related("job", "created_by")
    if before:
        rows = rows.filter(pk__lt=int(before))
    page = list(rows[: PAGE + 1])
    return {"snapshots": page[:PAGE], "older": page[PAGE - 1].pk if len(page) > PAGE else None, "before": before}


def _folder(snapshot: Snapshot) -> Path:
    return Path(settings.DATA_DIR) / snapshot.folder


def _rendered_card(snapshot: Snapshot) -> str:
    path = _folder(snapshot) / CARD
    if not path.is_file():
        return ""
    _, _, body = path.read_text(encoding="utf-8").removeprefix("---\n").partition("\n---\n")
    return render_markdown(body.lstrip().removeprefix(CARD_TITLE))[0]
