"""Outputs whose raters differ: which they are, and how a queue of them is made and kept up to date.

Raters differ when their newest grades lie further apart than the queue's `max_difference`, or when some pass what others
fail. An output leaves when an adjudication labels it (rewards/labels.py says when), and comes back when that is undone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from django.core.cache import cache
from django.db import transaction
from django.db.models import Count, Max, Min

from reviewapp.models import Grade, Output, Queue, QueueItem, Rubric, Task, User
from reviewapp.queues.rater import Known, RaterRow, rater_rows
from reviewapp.rewards import labels

MAX_AGE_S = 3600
MOST_WAITING = 10_000  # in a queue at once
ROUNDING = 1e-9
DEFAULT_SHARE = 0.2  # of the scale
PEOPLE = (Grade.Mode.BLIND, Grade.Mode.ASSISTED, Grade.Mode.OVERRIDE)


@dataclass(frozen=True)
class Scope:
    """Where to look: the items of a sample queue, or all outputs of a task (`source` None)."""

    task: Task
    source: int | None
    max_difference: float

    @property
    def key(self) -> str:
        return f"differ:{self.task.pk}:{self.task.revision}:{self.source}:{self.max_difference!r}"


def scope_of(queue: Queue) -> Scope:
    """Of an adjudication queue its own; of a sample queue its items, with the difference that is usual on the scale."""
    if queue.is_adjudication:
        return Scope(queue.task, queue.source_id, queue.max_difference or 0.0)
    return Scope(queue.task, queue.pk, usual_difference(queue.task.rubric))


def usual_difference(rubric: Rubric | None) -> float:
    return round(DEFAULT_SHARE * (rubric.scale_high - rubric.scale_low), 2) if rubric else 0.0


def differing(scopes: Collection[Scope]) -> dict[Scope, list[int]]:
    """The ids of each scope's outputs whose raters differ, those furthest apart first. Kept until the task changes.

    Two queries for however many scopes.
    """
    found = {scope: cache.get(scope.key) for scope in scopes}
    unknown = [scope for scope, ids in found.items() if ids is None]
    if unknown:
        spreads = _spreads({scope.task.pk for scope in unknown})
        members = _members({scope.source for scope in unknown if scope.source}, spreads)
        for scope in unknown:
            found[scope] = ids = [
                pk
                for pk, (task_id, is_conflict, spread) in spreads.items()
                if task_id == scope.task.pk
                and (scope.source is None or pk in members[scope.source])
                and (is_conflict or spread > scope.max_difference + ROUNDING)
            ]
            cache.set(scope.key, ids, MAX_AGE_S)
    return {scope: ids or [] for scope, ids in found.items()}


def waiting_of(queues: Sequence[Queue]) -> dict[int, list[int]]:
    """queue id -> the outputs that wait for an adjudicator in it."""
    scopes = {queue.pk: scope_of(queue) for queue in queues}
    found = differing(set(scopes.values()))
    return {pk: found[scope] for pk, scope in scopes.items()}


def _spreads(task_ids: Collection[int]) -> dict[int, tuple[int, bool, float]]:
    """output id -> (task, whether verdicts differ, how far apart scores are), where two people graded and none has settled."""
    open_outputs = Output.objects.filter(task__in=task_ids, is_latest=True, human_count__gte=2, content_missing="")
    open_outputs = open_outputs.exclude(label_state=Output.LabelState.ADJUDICATED).order_by()
    grades = Grade.objects.filter(output__in=open_outputs.values("pk"), mode__in=PEOPLE, retraction__isnull=True).order_by()
    newest = grades.values("output_id", "rater_name").annotate(newest=Max("id")).values("newest")
    by_output = Grade.objects.filter(pk__in=newest).order_by("output_id").values("output_id", "output__task_id", "output__label_state")
    ends = by_output.annotate(low=Min("overall"), high=Max("overall"), n=Count("pk")).filter(n__gte=2)
    rows = sorted(ends, key=lambda row: -_apart(row))
    return {
        row["output_id"]: (
            row["output__task_id"],
            row["output__label_state"] == Output.LabelState.CONFLICT,
            _apart(row),
        )
        for row in rows
    }


def _apart(row: dict[str, float | None]) -> float:
    return 0.0 if row["high"] is None or row["low"] is None else row["high"] - row["low"]


def _members(sources: Collection[int], outputs: Collection[int]) -> dict[int, set[int]]:
    """queue id -> those of these outputs that were drawn into it."""
    members: dict[int, set[int]] = defaultdict(set)
    if sources and outputs:
        for queue_id, pk in QueueItem.objects.filter(queue__in=sources, is_gold=False).values_list("queue_id", "output_id"):
            members[queue_id].add(pk)
    return members


# --- the queue --------------------------------------------------------------------------------------------


@transaction.atomic
def make_adjudication(scope: Scope, user: User | None, title: str = "") -> Queue:
    """The open queue of this scope and difference; made if there is none."""
    same = {
        "kind": Queue.Kind.ADJUDICATION,
        "task": scope.task,
        "source_id": scope.source,
        "max_difference": scope.max_difference,
    }
    if found := Queue.objects.filter(**same, closed_at=None).first():
        return found
    where = f"queue {scope.source}" if scope.source else scope.task.title
    queue = Queue.objects.create(
        **same,
        title=title[:200] or f"Adjudication of {where}",
        policy=Queue.Policy.DISAGREEMENT,
        seed=0,
        size=len(differing([scope])[scope]),
        population=Output.objects.filter(task=scope.task, is_latest=True).count(),
        created_by=user,
    )
    add_items(queue)
    return queue


def add_items(queue: Queue) -> list[int]:
    """Take in outputs whose raters differ since; answers with all that wait. Call it with the queue locked."""
    waiting = waiting_of([queue])[queue.pk][:MOST_WAITING]
    there = set(queue.items.values_list("output_id", flat=True))
    new = [pk for pk in waiting if pk not in there]
    start = queue.items.aggregate(last=Max("position"))["last"] or 0
    QueueItem.objects.bulk_create(
        [QueueItem(queue=queue, output_id=pk, position=position) for position, pk in enumerate(new, start + 1)], batch_size=1000
    )
    return waiting


def settled_rows(queue: Queue) -> list[RaterRow]:
    """How each rater's newest grade compares with the adjudication, over the queue's items that are settled."""
    settled = queue.items.filter(output__label_state=Output.LabelState.ADJUDICATED)
    given: dict[str, list[tuple[Known, Known]]] = defaultdict(list)
    for facts in labels.read_facts(list(settled.values_list("output_id", flat=True))).values():
        label = labels.human_label(facts)
        newest = {fact.rater: fact for fact in facts if fact.mode in PEOPLE}
        for name, fact in newest.items():
            if fact.id not in label.grade_ids:
                given[name].append((Known(fact.overall, fact.passed), Known(label.score, label.passed)))
    return rater_rows(given, queue.task.rubric, "settled item", "the adjudication")


@dataclass(frozen=True)
class ToSettle:
    """What differs and waits for an adjudicator: in an open queue, or in a task that has none (`queue` None)."""

    task: Task
    n: int
    queue: Queue | None = None


def to_settle(user: User) -> list[ToSettle]:
    """For the home page of an adjudicator. Four queries at most, however many queues and tasks."""
    if not user.has_role(User.Role.ADJUDICATOR):
        return []
    queues = list(Queue.objects.filter(kind=Queue.Kind.ADJUDICATION, closed_at=None).select_related("task__rubric"))
    waiting = waiting_of(queues)
    found = [ToSettle(queue.task, len(waiting[queue.pk]), queue) for queue in queues if waiting[queue.pk]]
    conflicts = Output.objects.filter(is_latest=True, label_state=Output.LabelState.CONFLICT).order_by()
    conflicts = conflicts.exclude(task__in={queue.task_id for queue in queues})
    tasks = dict(conflicts.values_list("task_id").annotate(n=Count("pk")))
    return found + [ToSettle(task, tasks[task.pk]) for task in Task.objects.filter(pk__in=tasks, rubric__isnull=False)]
