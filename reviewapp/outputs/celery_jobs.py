"""What Celery calls for the outputs page: the search index of SQLite follows behind what comes in."""

from __future__ import annotations

from celery import shared_task
from django.conf import settings

from reviewapp.outputs import search


@shared_task(name="search.index_new")
def index_new() -> int:
    """Every JOB_SWEEP_S, and no longer than that at once: the next one goes on where this one ended."""
    return search.index_new(most_s=settings.JOB_SWEEP_S)
