"""The task of a page whose figures are those of a rubric's criteria."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render

from reviewapp.models import Task


def needs_rubric(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Give the view the task in place of its slug; where the task has no criteria, answer with what to do about it."""

    @wraps(view)
    def answer(request: HttpRequest, slug: str, **rest: Any) -> HttpResponse:
        task = get_object_or_404(Task.objects.select_related("rubric").prefetch_related("rubric__criteria"), slug=slug)
        if task.rubric is None or not task.rubric.criteria.all():
            return render(request, "calibration/no_rubric.html", {"task": task})
        return view(request, task, **rest)

    return answer
