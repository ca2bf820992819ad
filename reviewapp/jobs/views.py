"""The jobs pages, and the buttons that start, retry and cancel a job. The verdict of a grading is never shown here:

the page is open to reviewers who have yet to grade the output blind.
"""

from __future__ import annotations

from typing import Any

from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST
from django_htmx.http import HttpResponseStopPolling, trigger_client_event

from graders import registry
from reviewapp import access
from reviewapp.jobs import queries, queue
from reviewapp.judges import known
from reviewapp.judges.versions import keep_counting
from reviewapp.models import Job, Output, User

SLOW_START_S = 10


@require_GET
@access.role_required("viewer")
def jobs(request: HttpRequest) -> HttpResponse:
    state, before = request.GET.get("state", ""), request.GET.get("before", "")
    if state and state not in Job.State.values:
        return HttpResponseBadRequest(f"state is {state!r}, allowed: {', '.join(Job.State.values)}")
    if before and not before.isdecimal():
        return HttpResponseBadRequest(f"before is {before!r}, must be the id of a job")
    found = _filtered(request)
    counts = queries.counts(found)
    page = queries.page(found.filter(state=state) if state else found, int(before) if before else None)
    context = {
        "page": page,
        "state": state,
        "states": [(value, label, counts[value]) for value, label in Job.State.choices],
        "total": sum(counts.values()),
        "kind": request.GET.get("kind", ""),
        "run": request.GET.get("run", ""),
        "task": request.GET.get("task", ""),
        "grader": request.GET.get("grader", ""),
        "is_live": not before and bool(counts["queued"] or counts["running"]),
        "here": request.get_full_path(),
    }
    return render(request, "jobs/jobs.html#jobs" if request.htmx else "jobs/jobs.html", context)


@require_GET
@access.role_required("viewer")
def jobs_running(request: HttpRequest) -> HttpResponse:
    """The part of the home page that follows the open jobs; it stops asking when there are none."""
    if not request.htmx:
        return redirect("jobs")
    running = queries.running()
    response = render(request, "jobs/running.html", {"running": running})
    return response if running.jobs else HttpResponseStopPolling(response.content)


@require_GET
@access.role_required("viewer")
def job(request: HttpRequest, pk: int) -> HttpResponse:
    job = get_object_or_404(queries.with_names(), pk=pk)
    response = _show(request, job)
    if not request.htmx or job.is_open:
        return response
    response.status_code = HttpResponseStopPolling.status_code
    event = "graded" if job.kind == Job.Kind.GRADE and job.state == Job.State.DONE else "job-ended"
    return trigger_client_event(response, event, {"job": job.pk})


@require_POST
@access.role_required("reviewer")
def grade_output(request: HttpRequest, pk: int) -> HttpResponse:
    """Have a grader grade this output: the job that is under way, or a new one."""
    output = get_object_or_404(Output.objects.select_related("task"), pk=pk)
    name, able = request.POST.get("grader", ""), known.graders_of(output.task.slug)
    plain = known.find(able, name)
    if plain is None:
        allowed = ", ".join(f"{g.name}@{g.version}" for g in able) or "none: only people and imported judges grade this task"
        return _show(request, None, refused=f"grader is {name!r}, allowed for {output.task.title}: {allowed}", status=422)
    if why := registry.why_not_ready(plain):
        return _show(request, None, refused=f"The judge can't be asked: {why}.", status=422)
    grader = known.row_of(plain)
    keep_counting([output.task], grader, request.user)
    attempt = queries.next_attempt(output, grader)
    job = queue.enqueue(Job.Kind.GRADE, output=output, grader=grader, attempt=attempt, user=request.user)
    return _show(request, job) if request.htmx else redirect("job", pk=job.pk)


@require_POST
@access.role_required("reviewer")
def retry_job(request: HttpRequest, pk: int) -> HttpResponse:
    return _change(request, pk, queue.retry)


@require_POST
@access.role_required("reviewer")
def cancel_job(request: HttpRequest, pk: int) -> HttpResponse:
    return _change(request, pk, queue.cancel)


def _change(request: HttpRequest, pk: int, act: Any) -> HttpResponse:
    """Retry or cancel; if the job was past that already, the page that comes back shows how it is."""
    job = get_object_or_404(queries.with_names(), pk=pk)
    if not _may_change(request.user, job):
        raise PermissionDenied("Imports and exports are retried and cancelled by who started them, or by an admin.")
    act(job)
    job.refresh_from_db()
    return _show(request, job) if request.htmx else redirect("job", pk=pk)


def _may_change(user: User, job: Job) -> bool:
    return job.kind == Job.Kind.GRADE or job.created_by_id == user.pk or user.has_role("admin")


def _show(request: HttpRequest, job: Job | None, *, refused: str = "", status: int = 200) -> HttpResponse:
    context = {
        "job": job,
        "refused": refused,
        "may_change": job and request.user.has_role("reviewer") and _may_change(request.user, job),
        "is_waiting_long": job and job.state == Job.State.QUEUED and job.elapsed_s > SLOW_START_S,
    }
    return render(request, "jobs/job.html#job" if request.htmx else "jobs/job.html", context, status=status)


def _filtered(request: HttpRequest) -> QuerySet[Job]:
    jobs = queries.with_names()
    # A trainer asks for rewards by the thousand: they stand apart.
    jobs = jobs.filter(kind=Job.Kind.REWARD) if request.GET.get("kind") == Job.Kind.REWARD else jobs.exclude(kind=Job.Kind.REWARD)
    if (run := request.GET.get("run", "")) and run.isdecimal() and len(run) < 19:
        jobs = jobs.filter(run=int(run))
    if task := request.GET.get("task", ""):
        jobs = jobs.filter(output__task__slug=task)
    if grader := request.GET.get("grader", ""):
        name, _, version = grader.partition("@")
        jobs = jobs.filter(grader__name=name, **({"grader__version": version} if version else {}))
    return jobs
