"""Who gets which item of a queue next. A claim lasts `CLAIM_S` and then falls back; a grade makes it final."""

from __future__ import annotations

from datetime import timedelta

from django.db import transaction
from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.utils import timezone

from reviewapp.models import Claim, Grade, Output, Queue, QueueItem, Skip, User

CLAIM_S = 2 * 3600


@transaction.atomic
def claim_next(queue: Queue, user: User) -> Output | None:
    """The item that this person has at hand, else the next that still needs a grader; None when there is none for them."""
    Queue.objects.select_for_update().only("pk").get(pk=queue.pk)  # one at a time: an item is given to nobody twice
    now = timezone.now()
    waiting = not_theirs_yet(queue.items, user).order_by("position")
    at_hand = waiting.filter(claims__reviewer=user, claims__grade__isnull=True).first()
    item = at_hand or with_counts(waiting, now, besides=user).filter(raters__lt=queue.overlap - F("claimed")).first()
    if item is None:
        return None
    Claim.objects.update_or_create(item=item, reviewer=user, defaults={"until": now + timedelta(seconds=CLAIM_S)})
    return Output.objects.only("pk").get(pk=item.output_id)


def settle(grade: Grade) -> None:
    """Tie a person's grade to the item of a queue that it was made for."""
    claim = _open_claims(grade.rater, grade.output_id).first()
    if claim:
        claim.grade = grade
        claim.save(update_fields=["grade"])


def queue_at_hand(user: User, output_id: int) -> Queue | None:
    """The queue that brought this person to the output."""
    claim = Claim.objects.filter(reviewer=user, item__output_id=output_id).select_related("item__queue").order_by("-until").first()
    return claim.item.queue if claim and claim.item.queue.closed_at is None else None


def with_counts(items: QuerySet[QueueItem], now=None, besides: User | None = None) -> QuerySet[QueueItem]:
    """Items with `raters`, the people whose blind grade stands, and `claimed`, those who have it at hand now."""
    blind = Grade.objects.filter(output=OuterRef("output"), mode=Grade.Mode.BLIND, retraction__isnull=True).order_by()
    raters = blind.values("output").annotate(n=Count("rater_name", distinct=True)).values("n")
    at_hand = Claim.objects.filter(item=OuterRef("pk"), until__gt=now or timezone.now(), grade__isnull=True).order_by()
    if besides:
        at_hand = at_hand.exclude(reviewer=besides)
    claimed = at_hand.values("item").annotate(n=Count("pk")).values("n")
    return items.annotate(raters=Coalesce(Subquery(raters), 0), claimed=Coalesce(Subquery(claimed), 0))


def not_theirs_yet(items: QuerySet[QueueItem], user: User) -> QuerySet[QueueItem]:
    """Items that this person has neither graded nor skipped; an output that was replaced since is left out."""
    return items.filter(
        ~Exists(Grade.objects.filter(output=OuterRef("output"), rater=user, retraction__isnull=True)),
        ~Exists(Skip.objects.filter(output=OuterRef("output"), reviewer=user)),
        Q(output__is_latest=True),
    )


def _open_claims(user: User | None, output_id: int) -> QuerySet[Claim]:
    return Claim.objects.filter(reviewer=user, item__output_id=output_id, grade__isnull=True).order_by("-until")
