"""Queues: what people are asked to grade blind, how far they are, and the next output in one."""

from __future__ import annotations

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from reviewapp import access
from reviewapp.models import Queue
from reviewapp.queues.claims import claim_next
from reviewapp.queues.draw import QueueError, draw_queue
from reviewapp.queues.forms import POLICY_TEXTS, QueueForm, context_of
from reviewapp.queues.progress import agreement_of, progress_of

PAGE = 30


@require_GET
@access.role_required("viewer")
def queues(request: HttpRequest) -> HttpResponse:
    before = request.GET.get("before", "")
    if before and not before.isdecimal():
        return HttpResponseBadRequest(f"before is {before[:40]!r}, must be the number of a queue")
    found = Queue.objects.select_related("task", "judge", "created_by")
    found = found.filter(pk__lt=int(before)) if before else found
    page = list(found[: PAGE + 1])
    context = {"rows": progress_of(page[:PAGE], request.user), "older": page[PAGE - 1].pk if len(page) > PAGE else None}
    return render(request, "queues/queues.html", context)


@require_http_methods(["GET", "POST"])
@access.role_required("reviewer")
def new_queue(request: HttpRequest) -> HttpResponse:
    form = QueueForm(request.POST if request.method == "POST" else request.GET)
    if request.method == "GET":
        return render(request, "queues/new.html", context_of(form))
    wish = form.read()
    try:
        made = draw_queue(wish, request.user) if wish else None
    except QueueError as error:
        form.errors[error.field] = str(error)
        made = None
    if made is None:
        return render(request, "queues/new.html", context_of(form), status=422)
    messages.success(request, f"Queue {made.pk} is drawn: {made.size:,} of {made.population:,} outputs, seed {made.seed}.")
    return redirect(made)


@require_GET
@access.role_required("viewer")
def queue(request: HttpRequest, pk: int) -> HttpResponse:
    found = get_object_or_404(Queue.objects.select_related("task", "judge", "created_by"), pk=pk)
    context = {
        "queue": found,
        "progress": progress_of([found], request.user)[0],
        "agreement": agreement_of(found),
        "policy_text": POLICY_TEXTS[found.policy],
        "may_close": _may_close(request, found),
    }
    return render(request, "queues/queue.html", context)


@require_GET
@access.role_required("reviewer")
def queue_next(request: HttpRequest, pk: int) -> HttpResponse:
    """To the output that this person has at hand in the queue, or gets next."""
    found = get_object_or_404(Queue, pk=pk)
    output = claim_next(found, request.user) if found.closed_at is None else None
    if output:
        return redirect("review", pk=output.pk)
    messages.info(request, "The queue is closed." if found.closed_at else "Nothing waits for you in this queue.")
    return redirect(found)


@require_POST
@access.role_required("reviewer")
def close_queue(request: HttpRequest, pk: int) -> HttpResponse:
    """Ask for no more of its items; once more opens it again. Its labels and their probabilities stay."""
    found = get_object_or_404(Queue, pk=pk)
    if not _may_close(request, found):
        raise PermissionDenied("Who made a queue closes it, or an adjudicator.")
    found.closed_at = None if found.closed_at else timezone.now()
    found.save(update_fields=["closed_at"])
    messages.info(request, f"Queue {pk} is {'closed' if found.closed_at else 'open again'}.")
    return redirect(found)


def _may_close(request: HttpRequest, queue: Queue) -> bool:
    return queue.created_by_id == request.user.pk or request.user.has_role("adjudicator")
