"""Who gets which item of a queue next. A claim lasts `CLAIM_S` and then falls back; a grade makes it final."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.utils import timezone

from reviewapp.models import Claim, Grade, Output, Queue, QueueItem, Skip, User
from reviewapp.queues.adjudication import add_items
from reviewapp.queues.gold import is_gold_turn

CLAIM_S = 2 * 3600


@transaction.atomic
def claim_next(queue: Queue, user: User) -> Output | None:
    """The item that this person has at hand, else the next that still needs a grader; None when there is none for them."""
    Queue.objects.select_for_update().only("pk").get(pk=queue.pk)  # one at a time: an item is given to nobody twice
    now = timezone.now()
    waiting = not_theirs_yet(queue.items, user).order_by("position")
    if queue.is_adjudication:
        waiting = waiting.filter(output__in=add_items(queue))
    at_hand = waiting.filter(claims__reviewer=user, claims__grade__isnull=True).first()
    item = at_hand or _next_item(queue, waiting, user, now)
    if item is None:
        return None
    Claim.objects.update_or_create(item=item, reviewer=user, defaults={"until": now + timedelta(seconds=CLAIM_S)})
    return Output.objects.only("pk").get(pk=item.output_id)


def _next_item(queue: Queue, waiting: QuerySet[QueueItem], user: User, now: datetime) -> QueueItem | None:
    """The next item that is not taken. When nothing but gold is left there is none: it would be known for what it is."""
    counted = with_counts(waiting.filter(is_gold=False), now, besides=user)
    if queue.is_adjudication:
        return counted.filter(claimed=0).first()
    ordinary = counted.filter(raters__lt=queue.overlap - F("claimed")).first()
    if ordinary and is_gold_turn(queue, user):
        return waiting.filter(is_gold=True).first() or ordinary
    return ordinary


def settle(grade: Grade) -> None:
    """Tie a person's grade to the item of a queue that it was made for."""
    claims = _open_claims(grade.rater, grade.output_id)
    if grade.mode == Grade.Mode.ADJUDICATION:
        claim = claims.filter(item__queue__kind=Queue.Kind.ADJUDICATION).first()
    else:
        claim = claims.filter(item__queue__kind=Queue.Kind.SAMPLE, grade__isnull=True).first()
    if claim:
        claim.grade = grade
        claim.save(update_fields=["grade"])


def queue_at_hand(user: User, output_id: int) -> Queue | None:
    """The queue that brought this person to the output."""
    claim = Claim.objects.filter(reviewer=user, item__output_id=output_id).select_related("item__queue").order_by("-until").first()
    return claim.item.queue if claim and claim.item.queue.closed_at is None else None


def with_counts(items: QuerySet[QueueItem], now: datetime | None = None, besides: User | None = None) -> QuerySet[QueueItem]:
    """Items with `raters`, the people whose blind grade stands, and `claimed`, those who have it at hand now.

    Who graded the output as gold is no rater of it.
    """
    blind = Grade.objects.filter(output=OuterRef("output"), mode=Grade.Mode.BLIND, retraction__isnull=True).order_by()
    as_gold = Claim.objects.filter(grade=OuterRef("pk"), item__is_gold=True)
    raters = blind.filter(~Exists(as_gold)).values("output").annotate(n=Count("rater_name", distinct=True)).values("n")
    at_hand = Claim.objects.filter(item=OuterRef("pk"), until__gt=now or timezone.now(), grade__isnull=True).order_by()
    at_hand = at_hand.filter(~Exists(Skip.objects.filter(output=OuterRef("item__output"), reviewer=OuterRef("reviewer"))))
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


def to_adjudicate(user: User, output: Output) -> Queue | None:
    """The open queue in which this person has the output to settle; None once it is settled."""
    if not user.has_role(User.Role.ADJUDICATOR) or output.label_state == Output.LabelState.ADJUDICATED:
        return None
    claims = _open_claims(user, output.pk).filter(item__queue__kind=Queue.Kind.ADJUDICATION, item__queue__closed_at=None)
    claim = claims.select_related("item__queue").first()
    return claim.item.queue if claim else None


def _open_claims(user: User | None, output_id: int) -> QuerySet[Claim]:
    """Of this person on the output, the latest first; one whose grade was taken back is open again."""
    is_open = Q(grade__isnull=True) | Q(grade__retraction__isnull=False)
    return Claim.objects.filter(is_open, reviewer=user, item__output_id=output_id).order_by("-until")
