"""The import page: upload, look at what would come in or at every bad line, import, see what came in."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.core.exceptions import BadRequest
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST
from django_htmx.http import HttpResponseStopPolling

from reviewapp import access
from reviewapp.interchange.forms import UploadForm
from reviewapp.interchange.jobs import IMPORT, PREVIEW, WRITING
from reviewapp.interchange.problems import as_lines
from reviewapp.interchange.uploads import OUTPUTS, folder_of, remove_upload, save_upload
from reviewapp.jobs import queue
from reviewapp.models import Job

RECENT = 10
SLOW_START_S = 5


@require_http_methods(["GET", "POST"])
@access.role_required("admin")
def import_page(request: HttpRequest) -> HttpResponse:
    form = UploadForm(request.POST or None, request.FILES or None)
    if request.method == "POST":
        form = UploadForm(request.POST, request.FILES)
        if form.is_valid():
            upload = save_upload(form.cleaned_data["file"], form.cleaned_data["rubric"])
            arguments = {"action": PREVIEW, "upload": upload, "title": form.cleaned_data["file"].name[:150]}
            return redirect("import_job", pk=queue.enqueue(Job.Kind.IMPORT, arguments=arguments, user=request.user).pk)
    recent = Job.objects.filter(kind=Job.Kind.IMPORT).select_related("created_by")[:RECENT]
    return render(request, "interchange/import.html", {"form": form, "recent": recent}, status=422 if form.errors else 200)


@require_GET
@access.role_required("admin")
def import_job(request: HttpRequest, pk: int) -> HttpResponse:
    """A preview or an import: its progress, then what it found or did."""
    job = get_object_or_404(Job.objects.select_related("created_by"), pk=pk, kind=Job.Kind.IMPORT)
    context = _about(job)
    if not request.htmx:
        return render(request, "interchange/job.html", context)
    response = render(request, "interchange/job.html#import", context)
    return response if job.is_open else HttpResponseStopPolling(response.content)


@require_POST
@access.role_required("admin")
def start_import(request: HttpRequest, pk: int) -> HttpResponse:
    """Import what was previewed. Pressed twice, it is one import."""
    with transaction.atomic():
        preview = get_object_or_404(Job.objects.select_for_update(), pk=pk, kind=Job.Kind.IMPORT, arguments__action=PREVIEW)
        if "report" not in preview.result:
            raise BadRequest("Only a file whose check has ended well can be imported.")
        imports = Job.objects.filter(kind=Job.Kind.IMPORT, arguments__action=IMPORT, arguments__upload=preview.arguments["upload"])
        job = imports.first()
        if job is None:
            job = queue.enqueue(Job.Kind.IMPORT, arguments={**preview.arguments, "action": IMPORT}, user=request.user)
    return redirect("import_job", pk=job.pk)


@require_POST
@access.role_required("admin")
def discard_upload(request: HttpRequest, pk: int) -> HttpResponse:
    """Delete the uploaded files of a preview that nobody wants to import."""
    job = get_object_or_404(Job, pk=pk, kind=Job.Kind.IMPORT, arguments__action=PREVIEW)
    queue.cancel(job)
    remove_upload(job.arguments["upload"])
    messages.success(request, f"{job.arguments['title']} was discarded. Nothing was imported.")
    return redirect("import")


@require_GET
@access.role_required("admin")
def import_problems(request: HttpRequest, pk: int) -> HttpResponse:
    """What is wrong with the file, as text."""
    job = get_object_or_404(Job, pk=pk, kind=Job.Kind.IMPORT)
    if "refused" not in job.result:
        raise Http404(f"import {pk} has no problems")
    text = f"{job.arguments['title']}\n{as_lines(job.result['refused'])}\n"
    response = HttpResponse(text, content_type="text/plain; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="import-{pk}-problems.txt"'
    return response


def _about(job: Job) -> dict[str, Any]:
    action, upload = job.arguments["action"], job.arguments["upload"]
    report = job.result.get("report")
    imported = None
    if action == PREVIEW and report:
        imported = Job.objects.filter(kind=Job.Kind.IMPORT, arguments__action=IMPORT, arguments__upload=upload).first()
    return {
        "job": job,
        "is_preview": action == PREVIEW,
        "report": report,
        "refused": job.result.get("refused"),
        "imported": imported,
        "to_import": report and report["outputs_new"] + report["outputs_new_version"],
        "has_changes": report and (report["outputs_new"] or report["outputs_new_version"] or report["grades_new"]),
        "has_file": (folder_of(upload) / OUTPUTS).is_file(),
        "is_writing": job.stage == WRITING,
        "is_waiting_long": job.state == Job.State.QUEUED and job.elapsed_s > SLOW_START_S,
    }
