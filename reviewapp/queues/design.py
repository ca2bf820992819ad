"""How the labelled outputs of a task came to be labelled, and what follows for an estimate from them.

- Labels from random queues, and those that no queue asked for, are taken as a random sample. Of the latter nobody knows
  how they were chosen, which is said.
- Labels from a stratified or active queue count with one over their probability. Of a queue that is not done, what is
  before its first open item counts: items are in random order, so that is a sample of the same kind.
- Several samples together: each is weighted to stand for all outputs, and has a say in proportion to its effective size.
- What only a disagreement queue asked for is in no estimate.
- Gold items are no part of a sample, and what people gave gold is not among the labels at all (queues/gold.py): an output
  that was drawn and labelled, and serves as gold since, keeps the weight and the labels that it had.
- An adjudication draws nothing: it takes the place of labels, which keep the weight with which their output was drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from graders.calibration.arrays import Floats, Ints
from graders.calibration.sampling import combined_weights, strata_by
from reviewapp.models import Claim, Grade, Grader, Queue, QueueItem, Skip, Task

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Design:
    """For l labelled outputs: which count, and with which weight (None: all alike).

    `strata` of each output of the task (o,) when all labels come from one stratified queue. `counts`: policy -> labels.
    """

    is_counted: np.ndarray  # (l,)
    weights: Floats | None = None  # (l,)
    strata: Ints | None = None  # (o,)
    counts: tuple[tuple[str, int], ...] = ()
    left_out: int = 0
    # Labels of queues whose filter kept some outputs only.
    from_some: int = 0

    def counted(self) -> Design:
        """The same for the labels that count alone."""
        weights = None if self.weights is None else self.weights[self.is_counted]
        left_out = self.left_out or int((~self.is_counted).sum())
        return replace(self, is_counted=self.is_counted[self.is_counted], weights=weights, left_out=left_out)

    @property
    def text(self) -> str:
        """How the labels were chosen, for the page."""
        if not self.counts:
            return ""
        parts = [f"{n:,} {'without a queue' if policy == UNKNOWN else f'by a queue, {policy}'}" for policy, n in self.counts]
        said = f"Labels: {', '.join(parts)}."
        if any(policy == UNKNOWN for policy, _ in self.counts):
            said += " How those without a queue were chosen is not known: they are taken as a random sample."
        if self.weights is not None:
            said += " Figures by chances, and pass rates, weight each label by one over the probability with which its output was drawn."
        if self.from_some:
            said += f" {self.from_some:,} are of queues that drew from some outputs only (a filter), and are taken to stand for all."
        left_out = self.left_out or int((~self.is_counted).sum())
        return said + (f" {left_out:,} that no lottery chose, or whose queue is not that far, are in no figure." if left_out else "")


def read_design(task: Task, outputs: Ints, labelled: Ints, raters: Sequence[int], *, with_adjudications: bool = False) -> Design:
    """The design of labelled outputs, each with how many people labelled it. `outputs` are all of the task; both are ids.

    `with_adjudications`: whether those who settled an output are among its people. One query when the task has no queue.
    """
    drawn = Queue.objects.filter(task=task, kind=Queue.Kind.SAMPLE)
    queues = {queue.pk: queue for queue in drawn.select_related("task", "judge")}
    if not queues or not len(labelled):
        return Design(np.ones(len(labelled), dtype=bool), counts=((UNKNOWN, len(labelled)),) if len(labelled) else ())
    place = {pk: i for i, pk in enumerate(labelled.tolist())}
    samples = _samples(queues, place)
    origin = _origins(queues, place, raters, _settlers(task) if with_adjudications else set())
    even = np.array([bool(found & {UNKNOWN, Queue.Policy.RANDOM.value}) for found in origin], dtype=bool)
    for pk, sample in samples.items():
        if queues[pk].policy == Queue.Policy.RANDOM:
            even[list(sample)] = True
    weighted = {pk: s for pk, s in samples.items() if s and queues[pk].policy in (Queue.Policy.STRATIFIED, Queue.Policy.ACTIVE)}
    counted = even.copy()
    for sample in weighted.values():
        counted[list(sample)] = True
    counts = Counter(_named(found, bool(is_even)) for found, is_even in zip(origin, even, strict=True))
    told = tuple(sorted(counts.items()))
    from_some = len(set().union(*(sample for pk, sample in samples.items() if queues[pk].filter)))
    if not weighted:
        return Design(counted, counts=told, from_some=from_some)
    parts = [(np.flatnonzero(even), np.ones(int(even.sum())))]
    parts += [(np.array(list(sample)), np.array(list(sample.values()))) for sample in weighted.values()]
    weights = combined_weights(parts, len(labelled))
    only = queues[next(iter(weighted))] if len(weighted) == 1 and not even.any() else None
    return Design(counted, weights, _strata(only, outputs), told, from_some=from_some)


def _strata(queue: Queue | None, outputs: Ints) -> Ints | None:
    if queue is None or queue.policy != Queue.Policy.STRATIFIED or queue.judge is None:
        return None
    return strata_by(queue.cuts, newest_scores(queue.task, queue.judge, outputs))


def newest_scores(task: Task, judge: Grader, ids: Ints) -> Floats:
    """The overall score of the judge's newest grade of each output, NaN where there is none."""
    grades = Grade.objects.filter(output__task=task, mode=Grade.Mode.AUTOMATIC, grader__name=judge.name, grader__version=judge.version)
    found = dict(grades.filter(retraction__isnull=True).order_by("id").values_list("output_id", "overall").iterator(5000))
    return np.array([np.nan if (score := found.get(pk)) is None else score for pk in ids.tolist()], dtype=np.float64)


def _samples(queues: dict[int, Queue], place: dict[int, int]) -> dict[int, dict[int, float]]:
    """queue id -> place of a labelled output -> its probability, up to the first item that is still open."""
    drawn = [pk for pk, queue in queues.items() if queue.is_for_estimates]
    items = QueueItem.objects.filter(queue__in=drawn, is_gold=False, output__is_latest=True).order_by("queue_id", "position")
    skipped = set(Skip.objects.filter(output__queue_items__queue__in=queues).values_list("output_id", flat=True))
    found: dict[int, dict[int, float]] = {pk: {} for pk in queues}
    ended: set[int] = set()
    for queue_id, output_id, chance in items.values_list("queue_id", "output_id", "probability"):
        if queue_id in ended:
            continue
        if output_id in place:
            found[queue_id][place[output_id]] = chance
        elif output_id not in skipped:
            ended.add(queue_id)
    return found


def _settlers(task: Task) -> set[tuple[int, str]]:
    """(output id, name) of those who adjudicated an output: a queue of what differs asked them, and no lottery."""
    grades = Grade.objects.filter(output__task=task, mode=Grade.Mode.ADJUDICATION, retraction__isnull=True)
    return set(grades.values_list("output_id", "rater_name"))


def _origins(queues: dict[int, Queue], place: dict[int, int], raters: Sequence[int], settlers: set[tuple[int, str]]) -> list[set[str]]:
    """The policies of the queues that asked for each output's labels; `unknown` where a label has no queue."""
    found: list[set[str]] = [set() for _ in place]
    asked: list[set[str]] = [set() for _ in place]
    claims = Claim.objects.filter(item__queue__in=queues, item__is_gold=False, grade__isnull=False, grade__retraction__isnull=True)
    for output_id, queue_id, name in claims.values_list("item__output_id", "item__queue_id", "reviewer__username"):
        if output_id in place:
            found[place[output_id]].add(queues[queue_id].policy)
            asked[place[output_id]].add(name)
    for output_id, name in settlers:
        if output_id in place:
            asked[place[output_id]].add(name)
    for i, names in enumerate(asked):
        if len(names) < raters[i]:
            found[i].add(UNKNOWN)
    return found


def _named(found: set[str], is_even: bool) -> str:
    """The word under which a label is counted: the evenest of its origins."""
    if UNKNOWN in found:
        return UNKNOWN
    order = (Queue.Policy.RANDOM, Queue.Policy.STRATIFIED, Queue.Policy.ACTIVE, Queue.Policy.DISAGREEMENT)
    return next((policy.value for policy in order if policy in found), Queue.Policy.RANDOM.value if is_even else UNKNOWN)
