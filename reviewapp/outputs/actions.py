"""What is done from the outputs page: hide the judge, save a view, and grade or export a selection."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlencode

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.views.decorators.http import require_POST

from graders import registry
from reviewapp import access
from reviewapp.jobs.queue import Enqueued
from reviewapp.judges.known import row_of
from reviewapp.models import SavedView
from reviewapp.outputs.filters import MAX_IDS, Filters, is_id, parse_query
from reviewapp.outputs.paging import parse_order
from reviewapp.outputs.queries import filtered
from reviewapp.outputs.views import MOST_SELECTED, graders_for, load_choices, show_list, with_order
from reviewapp.runs.start import start_gradings

MAX_NAME, MAX_QUERY = 100, 2000


@require_POST
@access.role_required("adjudicator")
def hide_judge(request: HttpRequest) -> HttpResponse:
    """Reviewers have no such choice: the list would make their next grades assisted without their noticing."""
    request.user.show_judges(request.POST.get("hide") != "1")
    return _back(request)


@require_POST
@access.role_required("viewer")
def save_view(request: HttpRequest) -> HttpResponse:
    """Keep filters and order under a name; the same name again replaces it."""
    name, query = " ".join(request.POST.get("name", "").split()), _query(request)
    if not 0 < len(name) <= MAX_NAME or "\x00" in name:
        return _refuse(request, f"The name of the view is {name[:40]!r}, it must have 1 to {MAX_NAME} characters.")
    if len(query) > MAX_QUERY:
        return _refuse(request, f"The filters have {len(query)} characters, a view keeps at most {MAX_QUERY}.")
    SavedView.objects.update_or_create(owner=request.user, name=name, defaults={"query": query})
    messages.success(request, f"Saved the view “{name}”.")
    return _back(request)


@require_POST
@access.role_required("viewer")
def delete_view(request: HttpRequest, pk: int) -> HttpResponse:
    view = get_object_or_404(SavedView, pk=pk, owner=request.user)
    view.delete()
    messages.success(request, f"Deleted the view “{view.name}”.")
    return _back(request)


@require_POST
@access.role_required("viewer")
def export_selection(request: HttpRequest) -> HttpResponse:
    """To the datasets page, with the selection as its filter."""
    filters, problem = _selection(request)
    if problem:
        return _refuse(request, problem)
    return redirect(f"{reverse('datasets')}?{urlencode({'filter': filters.query})}")


@require_POST
@access.role_required("reviewer")
def queue_selection(request: HttpRequest) -> HttpResponse:
    """To the form of a new queue, with the selection as what it is drawn from."""
    filters, problem = _selection(request)
    if problem:
        return _refuse(request, problem)
    of_task = {"task": filters.task[0]} if len(filters.task) == 1 else {}
    return redirect(f"{reverse('new_queue')}?{urlencode({**of_task, 'filter': replace(filters, task=()).query})}")


@require_POST
@access.role_required("admin")
def grade_selection(request: HttpRequest) -> HttpResponse:
    """Have a grader grade the selection: a job for each output that it has not graded."""
    filters, problem = _selection(request)
    name, allowed = request.POST.get("grader", ""), graders_for(load_choices(), filters)
    if problem or name not in allowed:
        return _refuse(request, problem or f"grader is {name!r}, allowed: {', '.join(allowed) or 'none, these tasks have no grader here'}.")
    plain = allowed[name]
    if why := registry.why_not_ready(plain):
        return _refuse(request, f"The judge can't be asked: {why}.")
    outputs = filtered(filters, request.user)
    fitting = outputs.filter(task__slug__in=plain.tasks, content_missing="").order_by("pk")
    ids = list(fitting.values_list("pk", flat=True)[: MOST_SELECTED + 1])
    if len(ids) > MOST_SELECTED:
        return _refuse(request, f"More than {MOST_SELECTED:,} outputs match, at most that many can be graded at once: narrow the filters.")
    unfitting = outputs[: MOST_SELECTED + 1].count() - len(ids)
    title = f"{name} on {len(ids):,} selected outputs"
    run, done = start_gradings(row_of(plain), ids, title=title, user=request.user, asked={"filter": filters.query[:2000]})
    messages.success(request, _told(name, done, max(0, unfitting)))
    return redirect("run", run.pk) if run else redirect("jobs")


def _told(name: str, done: Enqueued, unfitting: int) -> str:
    parts = [
        (len(done.new), "queued"),
        (len(done.retried), "started again"),
        (len(done.open), "under way already"),
        (len(done.done), "graded already"),
        (unfitting, "left out, since it does not grade them"),
    ]
    return f"{name}: " + (", ".join(f"{n:,} {what}" for n, what in parts if n) or "nothing to grade") + "."


def _selection(request: HttpRequest) -> tuple[Filters, str]:
    """The ticked outputs or all that match, as filters; and what is wrong with it."""
    if request.POST.get("scope") == "all":
        return parse_query(request.POST.get("query", ""))[0], ""
    ids = [pk for pk in dict.fromkeys(request.POST.getlist("ids")) if is_id(pk)]
    if not ids:
        return Filters(), "No output is ticked. Tick some, or choose all that match."
    if len(ids) > MAX_IDS:
        return Filters(), f"{len(ids)} outputs are ticked, at most {MAX_IDS} can be. Filter, and choose all that match."
    return Filters(ids=tuple(map(int, ids))), ""


def _query(request: HttpRequest) -> str:
    """The page's query string that came with a form, as far as it can be read."""
    text = request.POST.get("query", "")
    filters, _ = parse_query(text)
    order, _ = parse_order(QueryDict(text).get("sort", ""))
    return with_order(filters.query, order)


def _back(request: HttpRequest) -> HttpResponseRedirect:
    return redirect(f"{reverse('outputs')}?{_query(request)}".rstrip("?"))


def _refuse(request: HttpRequest, problem: str) -> HttpResponse:
    return show_list(request, QueryDict(_query(request)), problem)
