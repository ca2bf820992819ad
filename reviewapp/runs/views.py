"""Runs: what was asked for together, how far it is, what it costs, and what holds it up.

No verdict is shown here: the pages are open to reviewers who have yet to grade the outputs blind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBadRequest
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_POST
from django_htmx.http import HttpResponseStopPolling

from reviewapp import access
from reviewapp.jobs import queue
from reviewapp.models import Job, Output, Run, Task, Variant
from reviewapp.runs.forms import RunForm
from reviewapp.runs.progress import KINDS, Progress, page_of, parts_of, progress_of, reasons_of


@require_GET
@access.role_required("viewer")
def runs(request: HttpRequest) -> HttpResponse:
    kind, before = request.GET.get("kind", ""), request.GET.get("before", "")
    if kind and kind not in KINDS:
        return HttpResponseBadRequest(f"kind is {kind[:60]!r}, allowed: {', '.join(KINDS)}")
    if before and not before.isdecimal():
        return HttpResponseBadRequest(f"before is {before[:60]!r}, must be the id of a run")
    found, next_before = page_of(kind, int(before) if before else None)
    is_live = not before and any(progress.is_open for progress in found)
    context = {"found": found, "next_before": next_before, "kind": kind, "kinds": [(k.value, k.label) for k in KINDS], "is_live": is_live}
    context |= {"here": request.get_full_path(), "may_start": request.user.has_role("admin")}
    return render(request, "runs/runs.html#runs" if request.htmx else "runs/runs.html", context)


@require_GET
@access.role_required("viewer")
def run(request: HttpRequest, pk: int) -> HttpResponse:
    """The page of a run, or the part that follows it; htmx is told to stop once nothing is open."""
    found = get_object_or_404(Run.objects.select_related("created_by"), pk=pk)
    if found.kind not in KINDS:
        return redirect(f"{reverse('outputs')}?{urlencode({'run': pk})}")
    (progress,) = progress_of([found])
    response = show(request, progress)
    if request.htmx and not progress.is_open:
        response.status_code = HttpResponseStopPolling.status_code
    return response


def show(request: HttpRequest, progress: Progress, *, status: int = 200, problem: str = "") -> HttpResponse:
    found = progress.run
    context = {"run": found, "progress": progress, "reasons": reasons_of(found), "problem": problem, **about(found)}
    context |= {"states": [(value, label, progress.counts.get(value, 0)) for value, label in Job.State.choices]}
    context["may_act"] = request.user.has_role("admin")
    return render(request, "runs/run.html#run" if request.htmx else "runs/run.html", context, status=status)


def about(found: Run) -> dict[str, Any]:
    """What it was asked for, and where its results are seen."""
    told = found.arguments
    task = Task.objects.filter(slug=told.get("task", "")).first()
    if found.kind == Run.Kind.GRADE:
        return {"task": task, "grader": f"{told.get('grader')}@{told.get('version')}"}
    parts = parts_of(found)
    variants = Variant.objects.in_bulk([part["arguments__variant"] for part in parts if part["arguments__variant"]])
    named = [part | {"variant": variants.get(part["arguments__variant"]), "model": part["arguments__model"]} for part in parts]
    return {"task": task, "parts": named, "n_outputs": Output.objects.filter(run=found, is_latest=True).count()}


ACTIONS: dict[str, tuple[Callable[[Run], int], str]] = {
    "pause": (queue.pause_run, "{n} wait until you resume; what is in work ends."),
    "resume": (queue.resume_run, "{n} are queued again."),
    "cancel": (queue.cancel_run, "{n} cancelled. What is done stays."),
    "retry": (queue.retry_run, "{n} queued again. Calls that a model answered are not made, or paid, again."),
}


@require_POST
@access.role_required("admin")
def change_run(request: HttpRequest, pk: int, action: str) -> HttpResponse:
    """Pause, resume, cancel, or try the failed units again, with another spending limit if one is given."""
    found = get_object_or_404(Run.objects.select_related("created_by"), pk=pk, kind__in=KINDS)
    if action not in ACTIONS:
        raise Http404(f"a run can't be {action}")
    form = RunForm(request.POST, [])
    if action == "retry" and form.value("limit_usd"):
        limit = form.limit_usd
        if limit is None:
            return show(request, *progress_of([found]), status=422, problem=form.errors["limit_usd"])
        count = raise_limit(found, limit)
    else:
        count = ACTIONS[action][0](found)
    if not request.htmx:
        messages.success(request, ACTIONS[action][1].format(n=f"{count:,}"))
        return redirect("run", pk)
    return show(request, *progress_of([found]))


def raise_limit(found: Run, limit_usd: float) -> int:
    """Let the run spend up to this, from its failed units on."""
    found.arguments |= {"limit_usd": limit_usd}
    found.save(update_fields=["arguments"])
    for job in list(Job.objects.filter(run=found, state__in=(*queue.OPEN, *queue.STOPPED)).only("id", "arguments")):
        Job.objects.filter(pk=job.pk).update(arguments=job.arguments | {"limit_usd": limit_usd})
    return queue.retry_run(found)
