"""Tasks: what agents are asked, and by what they are judged."""

from __future__ import annotations

import difflib

from django.db.models import Count, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_GET

from graders import registry
from reviewapp.catalog.queries import counts_by_variant, examples
from reviewapp.models import Task


@require_GET
def tasks(request: HttpRequest) -> HttpResponse:
    latest = Q(outputs__is_latest=True)
    rows = (
        Task.objects.select_related("rubric")
        .prefetch_related("rubric__criteria", "variants")
        .annotate(n_outputs=Count("outputs", filter=latest))
        .order_by("slug")
    )
    return render(request, "catalog/tasks.html", {"tasks": rows})


@require_GET
def task(request: HttpRequest, slug: str) -> HttpResponse:
    task = get_object_or_404(Task.objects.select_related("rubric").prefetch_related("rubric__criteria"), slug=slug)
    variants = [v for v in task.variants.all() if v.is_current]
    by_name = {v.name: v for v in variants}
    shown = by_name.get(request.GET.get("variant", ""), variants[0] if variants else None)
    against = by_name.get(request.GET.get("against", ""))
    counts = counts_by_variant(task)
    context = {
        "task": task,
        "variants": [(v, counts.get(v.pk)) for v in variants],
        "shown": shown,
        "against": against,
        "diff": diff_lines(against.prompt, shown.prompt) if shown and against else None,
        "passes": examples(task, True, request.user),
        "fails": examples(task, False, request.user),
        "graders": [(grader, registry.why_not_ready(grader)) for grader in registry.for_task(task.slug)],
        "n_outputs": sum(row["n"] for row in counts.values()),
    }
    return render(request, "catalog/task.html", context)


def diff_lines(before: str, after: str) -> list[tuple[str, str]]:
    """(kind, line) of a whole-text diff; kind is add, del or same."""
    kinds = {"+ ": "add", "- ": "del", "  ": "same"}
    lines = difflib.ndiff(before.splitlines(), after.splitlines())
    return [(kinds[line[:2]], line[2:]) for line in lines if line[:2] in kinds]
