"""Which output a reviewer gets next, and how far they are.

Outputs with the fewest human grades first, so that reviewers spread; among those, by content hash from a place of
the reviewer's own: an order as good as random, the same each time, and read off an index.
"""

from __future__ import annotations

import hashlib

from django.db.models import Exists, OuterRef, Q, QuerySet

from reviewapp.models import Grade, Output, Skip, Task, User


def next_output(user: User, task: Task) -> Output | None:
    """The next output of this task that this person has neither graded nor skipped; None when all are done."""
    waiting = _reviewable(task).filter(
        ~Exists(Grade.objects.filter(output=OuterRef("pk"), rater=user, retraction__isnull=True)),
        ~Exists(Skip.objects.filter(output=OuterRef("pk"), reviewer=user)),
    )
    fewest = waiting.order_by("human_count").values_list("human_count", flat=True).first()
    if fewest is None:
        return None
    level = waiting.filter(human_count=fewest).order_by("content_hash", "id").only("pk", "task_id", "human_count")
    return level.filter(content_hash__gte=_start(user, task)).first() or level.first()


def next_anywhere(user: User) -> Output | None:
    """The next output that no person has graded, of the task that this person graded last if it has one; else any."""
    last = Grade.objects.filter(rater=user).order_by("-created_at").values_list("output__task_id", flat=True).first()
    tasks = sorted(Task.objects.filter(rubric__isnull=False), key=lambda task: (task.pk != last, task.slug))
    second_best = None
    for task in tasks:
        found = next_output(user, task)
        if found and not found.human_count:
            return found
        second_best = second_best or found
    return second_best


def progress(user: User, task: Task) -> tuple[int, int]:
    """(how many of the task's outputs this person has reviewed, how many there are)."""
    graded = Grade.objects.filter(rater=user, output__task=task, output__is_latest=True, retraction__isnull=True)
    return graded.values("output_id").distinct().count(), _reviewable(task).count()


def _reviewable(task: Task) -> QuerySet[Output]:
    return Output.objects.filter(task=task, is_latest=True).filter(Q(content_missing=""))


def _start(user: User, task: Task) -> str:
    return hashlib.sha256(f"{user.pk}:{task.pk}".encode()).hexdigest()
