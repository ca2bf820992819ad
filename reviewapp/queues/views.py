"""Queues: what people are asked to grade blind or to settle, how far they are, and the next output in one."""

from __future__ import annotations

from dataclasses import dataclass

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from reviewapp import access
from reviewapp.models import GoldAnswer, Output, Queue, User
from reviewapp.queues.adjudication import Scope, differing, make_adjudication, scope_of, settled_rows
from reviewapp.queues.claims import claim_next
from reviewapp.queues.draw import QueueError, draw_queue
from reviewapp.queues.forms import POLICY_TEXTS, AdjudicationForm, QueueForm, context_of, read_answer, tasks_to_choose
from reviewapp.queues.gold import gold_report
from reviewapp.queues.progress import agreement_of, progress_of

PAGE = 30


@require_GET
@access.role_required("viewer")
def queues(request: HttpRequest) -> HttpResponse:
    before = request.GET.get("before", "")
    if before and not before.isdecimal():
        return HttpResponseBadRequest(f"before is {before[:40]!r}, must be the number of a queue")
    found = Queue.objects.select_related("task__rubric", "judge", "created_by")
    found = found.filter(pk__lt=int(before)) if before else found
    page = list(found[: PAGE + 1])
    context = {"rows": progress_of(page[:PAGE], request.user), "older": page[PAGE - 1].pk if len(page) > PAGE else None}
    context["may_settle"] = request.user.has_role(User.Role.ADJUDICATOR)
    return render(request, "queues/queues.html", context)


@require_http_methods(["GET", "POST"])
@access.role_required("reviewer")
def new_queue(request: HttpRequest) -> HttpResponse:
    form = QueueForm(request.POST if request.method == "POST" else request.GET, request.user)
    if request.method == "GET":
        form.check_address(request.GET)
        return render(request, "queues/new.html", context_of(form), status=422 if form.errors else 200)
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


@require_http_methods(["GET", "POST"])
@access.role_required("adjudicator")
def new_adjudication(request: HttpRequest) -> HttpResponse:
    """A queue of what raters differ on: of a whole task, or of the items of one queue."""
    form = AdjudicationForm(request.POST if request.method == "POST" else request.GET)
    scope = form.read() if request.method == "POST" or form.task else None
    if request.method == "POST" and scope:
        made = make_adjudication(scope, request.user, form.values["title"])
        messages.success(request, f"Queue {made.pk} holds what differs: now, and as people grade on.")
        return redirect(made)
    context = {"form": form, "tasks": tasks_to_choose(), "n_differ": len(differing([scope])[scope]) if scope else None}
    return render(request, "queues/new_adjudication.html", context, status=422 if request.method == "POST" else 200)


@require_GET
@access.role_required("viewer")
def queue(request: HttpRequest, pk: int) -> HttpResponse:
    found = get_object_or_404(Queue.objects.select_related("task__rubric", "judge", "created_by", "source"), pk=pk)
    may_settle = request.user.has_role(User.Role.ADJUDICATOR)
    context = {
        "queue": found,
        "progress": progress_of([found], request.user)[0],
        "agreement": agreement_of(found),
        "policy_text": POLICY_TEXTS[found.policy],
        "may_close": _may_close(request, found),
        "may_settle": may_settle,
    }
    if found.is_adjudication:
        context["settled"] = settled_rows(found) if may_settle else []
    elif may_settle:
        context["gold"] = gold_report(found) if found.gold_share else None
        context["differ"] = _what_differs(found)
    return render(request, "queues/queue.html", context)


@require_GET
@access.role_required("reviewer")
def queue_next(request: HttpRequest, pk: int) -> HttpResponse:
    """To the output that this person has at hand in the queue, or gets next."""
    found = get_object_or_404(Queue.objects.select_related("task__rubric"), pk=pk)
    if found.is_adjudication and not request.user.has_role(User.Role.ADJUDICATOR):
        raise PermissionDenied(f"To settle what raters differ on needs the role of adjudicator or higher; yours is {request.user.role}.")
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


@require_POST
@access.role_required("admin")
def gold_answer(request: HttpRequest, pk: int) -> HttpResponse:
    """Set the answer that is expected of an output, which makes it gold; with `remove`, take it off."""
    output = get_object_or_404(Output.objects.select_related("task__rubric"), pk=pk)
    if request.POST.get("remove"):
        GoldAnswer.objects.filter(output=output).delete()
        messages.info(request, "No answer is expected of this output any more.")
        return redirect(output)
    answer, problem = read_answer(request.POST, output, request.user)
    if answer is None:
        return HttpResponse(problem, status=422, content_type="text/plain; charset=utf-8")
    fields = {name: getattr(answer, name) for name in ("overall", "passed", "note", "set_by")}
    GoldAnswer.objects.update_or_create(output=output, defaults=fields)
    messages.success(request, f"The expected answer of output {pk} is set: queues with gold items may mix it in.")
    return redirect(output)


@dataclass(frozen=True)
class Differing:
    """What differs among a queue's items: how many, by more than how many points, and the queue that settles them."""

    n: int
    scope: Scope
    settled_in: Queue | None


def _what_differs(queue: Queue) -> Differing:
    settled_in = queue.adjudications.filter(closed_at=None).select_related("task__rubric").first()
    scope = scope_of(settled_in or queue)
    return Differing(len(differing([scope])[scope]), scope, settled_in)


def _may_close(request: HttpRequest, queue: Queue) -> bool:
    return queue.created_by_id == request.user.pk or request.user.has_role("adjudicator")
