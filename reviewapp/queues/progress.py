"""How far queues are, and how far the people in them agree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from django.db.models import Count, Exists, OuterRef
from django.utils import timezone

from graders.calibration.alpha import krippendorff_alpha
from graders.calibration.resample import Resamples
from graders.calibration.result import Estimate
from reviewapp.models import Claim, Grade, Output, Queue, QueueItem, Skip, User
from reviewapp.queues.adjudication import waiting_of
from reviewapp.queues.claims import not_theirs_yet, with_counts
from reviewapp.queues.gold import gold_to_come


@dataclass(frozen=True)
class Progress:
    """Of a queue's items: with all grades that are wanted, at hand with somebody now, and waiting for this person.

    `is_own`: `done` and `total` are of what this person is handed. So a queue with gold shows reviewers how far they are:
    a count of the items themselves would stand still at gold, and tell it.
    """

    queue: Queue
    done: int
    total: int
    at_hand: int
    mine: int
    is_own: bool = False

    @property
    def width(self) -> str:
        return f"{100 * self.done / max(self.total, 1):.2f}%"

    @property
    def is_done(self) -> bool:
        return self.done >= self.total


@dataclass
class _Mine:
    """What one person had of a queue with gold, and has at hand. `gold_left` are gold items that they have not had."""

    turns: int = 0
    graded: int = 0
    gold_left: int = 0
    has_gold: bool = False
    has_other: bool = False


def progress_of(queues: Sequence[Queue], user: User) -> list[Progress]:
    """Two queries for however many queues; two more when one has gold, and six when one is of adjudications."""
    samples = [queue for queue in queues if not queue.is_adjudication]
    found = _of_samples(samples, user) | _of_adjudications([queue for queue in queues if queue.is_adjudication], user)
    return [found[queue.pk] for queue in queues]


def _of_samples(queues: Sequence[Queue], user: User) -> dict[int, Progress]:
    if not queues:
        return {}
    done: dict[int, int] = defaultdict(int)
    at_hand: dict[int, int] = defaultdict(int)
    mine: dict[int, int] = defaultdict(int)
    overlap = {queue.pk: queue.overlap for queue in queues}
    items = QueueItem.objects.filter(queue__in=queues, is_gold=False).order_by()
    rows = with_counts(items, timezone.now()).values_list("id", "queue_id", "raters", "claimed")
    open_items = set()
    for pk, queue_id, raters, claimed in rows:
        is_done = raters >= overlap[queue_id]
        done[queue_id] += is_done
        at_hand[queue_id] += bool(claimed)
        if not is_done:
            open_items.add(pk)
    for pk, queue_id in not_theirs_yet(items, user).values_list("id", "queue_id"):
        mine[queue_id] += pk in open_items
    found = {queue.pk: Progress(queue, done[queue.pk], queue.size, at_hand[queue.pk], mine[queue.pk]) for queue in queues}
    with_gold = [queue for queue in queues if queue.gold_share]
    return found | {pk: _with_gold(found[pk], had, user) for pk, had in _had(with_gold, user).items()}


def _with_gold(plain: Progress, had: _Mine, user: User) -> Progress:
    """With the gold that comes to this person among the rest. Whoever may not know of gold sees their own count alone."""
    to_come = gold_to_come(plain.queue, user, turn=had.turns, ordinary=max(0, plain.mine - had.has_other))
    mine = plain.mine + had.has_gold + min(had.gold_left - had.has_gold, to_come)
    if user.has_role(User.Role.ADJUDICATOR):
        return replace(plain, mine=mine)
    return replace(plain, done=had.graded, total=had.graded + mine, mine=mine, is_own=True)


def _had(queues: Sequence[Queue], user: User) -> dict[int, _Mine]:
    if not queues:
        return {}
    found = {queue.pk: _Mine() for queue in queues}
    left = not_theirs_yet(QueueItem.objects.filter(queue__in=queues).order_by(), user)
    waiting = set()
    for pk, queue_id, is_gold in left.values_list("id", "queue_id", "is_gold"):
        waiting.add(pk)
        found[queue_id].gold_left += is_gold
    claims = Claim.objects.filter(reviewer=user, item__queue__in=queues)
    for pk, queue_id, is_gold, grade in claims.values_list("item_id", "item__queue_id", "item__is_gold", "grade_id"):
        had = found[queue_id]
        had.turns += 1
        had.graded += grade is not None
        is_at_hand = grade is None and pk in waiting
        had.has_gold |= is_at_hand and is_gold
        had.has_other |= is_at_hand and not is_gold
    return found


def _of_adjudications(queues: Sequence[Queue], user: User) -> dict[int, Progress]:
    if not queues:
        return {}
    waiting = waiting_of(queues)
    settled = QueueItem.objects.filter(queue__in=queues, output__label_state=Output.LabelState.ADJUDICATED)
    done = dict(settled.order_by().values_list("queue_id").annotate(n=Count("pk")))
    claims = Claim.objects.filter(item__queue__in=queues, until__gt=timezone.now(), grade__isnull=True)
    at_hand = dict(
        claims.exclude(item__output__label_state=Output.LabelState.ADJUDICATED).values_list("item__queue_id").annotate(n=Count("pk"))
    )
    tasks = {queue.task_id for queue in queues}
    graded = Grade.objects.filter(rater=user, output__task__in=tasks, output__human_count__gte=2, retraction__isnull=True)
    skipped = Skip.objects.filter(reviewer=user, output__task__in=tasks)
    not_mine = {*graded.values_list("output_id", flat=True), *skipped.values_list("output_id", flat=True)}
    found = {}
    for queue in queues:
        ids, n_done = waiting[queue.pk], done.get(queue.pk, 0)
        mine = sum(pk not in not_mine for pk in ids) if user.has_role(User.Role.ADJUDICATOR) else 0
        found[queue.pk] = Progress(queue, n_done, n_done + len(ids), at_hand.get(queue.pk, 0), mine)
    return found


def agreement_of(queue: Queue) -> Estimate:
    """Krippendorff's alpha (interval) of the overall scores that people gave blind to the queue's outputs.

    Gold is left out: it was chosen. Of an adjudication queue it is that of the raters whose grades are settled.
    """
    items = queue.items.filter(is_gold=False).values("output_id")
    blind = Grade.objects.filter(output__in=items, mode=Grade.Mode.BLIND, retraction__isnull=True, overall__isnull=False)
    blind = blind.filter(~Exists(Claim.objects.filter(grade=OuterRef("pk"), item__is_gold=True)))
    scores: dict[int, dict[str, float]] = defaultdict(dict)
    for output_id, name, overall in blind.order_by("id").values_list("output_id", "rater_name", "overall"):
        scores[output_id][name] = overall
    people = sorted({name for given in scores.values() for name in given})
    table = np.array([[given.get(name, np.nan) for name in people] for given in scores.values()]).reshape(len(scores), len(people))
    draws = Resamples(range(len(scores)), rng=np.random.default_rng(0), n_boot=1000)
    return krippendorff_alpha(table, "interval", draws)
