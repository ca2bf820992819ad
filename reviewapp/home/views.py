"""Home: the summary table of the tasks, running jobs, and what to do next."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from reviewapp.home.queries import left_to_review, task_summaries
from reviewapp.jobs.queries import running
from reviewapp.models import Output
from reviewapp.queues.adjudication import to_settle


@require_GET
def home(request: HttpRequest) -> HttpResponse:
    summaries = task_summaries()
    context = {
        "summaries": summaries,
        "has_outputs": any(summary.n_outputs for _, summary in summaries),
        "running": running(),
        "sample_idea": Output.objects.filter(is_sample=True, task__slug="idea_proposal", is_latest=True).order_by("id").first(),
        "to_settle": to_settle(request.user),
        "to_review": left_to_review(request.user, sum(summary.n_outputs for _, summary in summaries)),
    }
    return render(request, "home/home.html", context)
