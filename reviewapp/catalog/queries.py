"""What the task page shows beside the task's own words."""

from __future__ import annotations

from django.db.models import Count, Exists, OuterRef, Q

from reviewapp.models import Grade, Output, Task, User


def counts_by_variant(task: Task) -> dict[int, dict[str, int]]:
    """variant id -> outputs, and those that the label passes and fails."""
    rows = (
        Output.objects.filter(task=task, is_latest=True)
        .values("variant_id")
        .annotate(n=Count("id"), passes=Count("id", filter=Q(label_passed=True)), fails=Count("id", filter=Q(label_passed=False)))
    )
    return {row["variant_id"]: row for row in rows}


def examples(task: Task, passed: bool, user: User, limit: int = 4) -> list[Output]:
    """Outputs that the label passes or fails, those labelled by people first; who works blind sees those they have graded."""
    found = Output.objects.filter(task=task, is_latest=True, label_passed=passed).select_related("variant")
    if user.hides_judges:
        found = found.filter(Exists(Grade.objects.filter(output=OuterRef("pk"), rater=user)))
    return list(found.order_by("-human_count", "-id")[:limit])
