"""How far queues are, and how far the people in them agree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from django.utils import timezone

from graders.calibration.alpha import krippendorff_alpha
from graders.calibration.resample import Resamples
from graders.calibration.result import Estimate
from reviewapp.models import Grade, Queue, QueueItem, User
from reviewapp.queues.claims import not_theirs_yet, with_counts


@dataclass(frozen=True)
class Progress:
    """Of a queue's items: with all grades that are wanted, at hand with somebody now, and waiting for this person."""

    queue: Queue
    done: int
    at_hand: int
    mine: int

    @property
    def width(self) -> str:
        return f"{100 * self.done / max(self.queue.size, 1):.2f}%"

    @property
    def is_done(self) -> bool:
        return self.done >= self.queue.size


def progress_of(queues: Sequence[Queue], user: User) -> list[Progress]:
    """Two queries, for however many queues."""
    done: dict[int, int] = defaultdict(int)
    at_hand: dict[int, int] = defaultdict(int)
    mine: dict[int, int] = defaultdict(int)
    overlap = {queue.pk: queue.overlap for queue in queues}
    items = QueueItem.objects.filter(queue__in=queues).order_by()
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
    return [Progress(queue, done[queue.pk], at_hand[queue.pk], mine[queue.pk]) for queue in queues]


def agreement_of(queue: Queue) -> Estimate:
    """Krippendorff's alpha (interval) of the overall scores that people gave blind to the queue's outputs."""
    blind = Grade.objects.filter(output__queue_items__queue=queue, mode=Grade.Mode.BLIND, retraction__isnull=True, overall__isnull=False)
    scores: dict[int, dict[str, float]] = defaultdict(dict)
    for output_id, name, overall in blind.order_by("id").values_list("output_id", "rater_name", "overall"):
        scores[output_id][name] = overall
    people = sorted({name for given in scores.values() for name in given})
    table = np.array([[given.get(name, np.nan) for name in people] for given in scores.values()]).reshape(len(scores), len(people))
    draws = Resamples(range(len(scores)), rng=np.random.default_rng(0), n_boot=1000)
    return krippendorff_alpha(table, "interval", draws)
