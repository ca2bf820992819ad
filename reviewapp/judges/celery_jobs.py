"""What Celery calls for the judges pages: the labels of a large task follow a promotion."""

from __future__ import annotations

from celery import shared_task

from reviewapp.judges.versions import relabel


@shared_task(name="judges.relabel", acks_late=True)
def relabel_task(task_id: int) -> int:
    return relabel(task_id)
