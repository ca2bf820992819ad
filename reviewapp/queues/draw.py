"""Draw a queue: which outputs, in which order, each with the probability with which it was drawn.

The sample is drawn from every output that the filter keeps, labelled ones too: these are done already and cost nothing,
and the sample then stands for all. It is made larger by them, so that about `size` are left to grade.

Gold is drawn apart, from those outputs alone whose answer is known, and changes nothing of the sample.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np
from django.db import transaction
from django.db.models import F, Max, Q

from graders.calibration.arrays import Floats
from graders.calibration.sampling import Sample, draw, predicted_error, score_cuts, strata_by
from reviewapp.models import Grade, Grader, Output, Queue, QueueItem, Task, User
from reviewapp.models.queues import MOST_GOLD
from reviewapp.outputs.filters import parse_query
from reviewapp.outputs.queries import filtered
from reviewapp.queues.claims import with_counts
from reviewapp.queues.design import newest_scores
from reviewapp.queues.gold import gold_pairs

MOST_ITEMS, MOST_OVERLAP, MAX_SEED, LONGEST_FILTER = 10_000, 20, 2**31 - 1, 2_000
N_STRATA = 5
Drawn = list[tuple[int, float | None]]  # output id, with which chance


class QueueError(ValueError):
    """A queue that can't be drawn. `field` is the name of the part at fault."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True)
class Wish:
    """What somebody asks for. `judge` draws the sample; `seed` None takes one at random, and the queue tells which."""

    task: Task
    policy: str = Queue.Policy.RANDOM
    size: int = 50
    judge: Grader | None = None
    filter: str = ""
    overlap: int = 1
    seed: int | None = None
    title: str = ""
    # Percent of what each reviewer is handed that is gold, and whether they are told after the submit.
    gold: int = 0
    tells_gold: bool = False

    def check(self) -> None:
        check_policy(self.policy)
        for name, value, most in (("size", self.size, MOST_ITEMS), ("overlap", self.overlap, MOST_OVERLAP)):
            if not 1 <= value <= most:
                raise QueueError(name, f"{name} is {value}, allowed: 1 to {most:,}")
        if not 0 <= self.gold <= MOST_GOLD:
            raise QueueError("gold", f"gold is {self.gold} %, allowed: 0 to {MOST_GOLD}")
        if len(self.filter) > LONGEST_FILTER:
            raise QueueError(
                "filter", f"filter has {len(self.filter):,} characters, at most {LONGEST_FILTER:,}: name fewer outputs by their ids"
            )
        if self.seed is not None and not 0 <= self.seed <= MAX_SEED:
            raise QueueError("seed", f"seed is {self.seed}, allowed: 0 to {MAX_SEED:,}")
        if self.policy != Queue.Policy.RANDOM and self.judge is None:
            raise QueueError("judge", f"policy {self.policy} draws by a judge's scores, and no judge is named")


def check_policy(policy: str) -> None:
    if policy not in Queue.Policy.values:
        raise QueueError("policy", f"policy is {policy[:40]!r}, allowed: {', '.join(Queue.Policy.values)}")


def draw_queue(wish: Wish, user: User | None) -> Queue:
    """Draw and keep it. Raises QueueError with what is wrong; then nothing is kept."""
    wish.check()
    ids = _population(wish, user)
    done = _is_done(wish, ids)
    open_outputs = int((~done).sum())
    if not len(ids):
        found = "with content is kept by this filter" if wish.filter else "has its content here"
        raise QueueError("filter", f"no output of {wish.task.slug} {found}: nothing to draw from")
    if not open_outputs:
        raise QueueError("size", f"each of the {len(ids):,} outputs has its blind grades ({wish.overlap}): nothing is left to label")
    seed = secrets.randbelow(MAX_SEED) if wish.seed is None else wish.seed
    cuts: tuple[float, ...] = ()
    if wish.policy == Queue.Policy.DISAGREEMENT:
        chosen = _draw_worst(wish, ids[~done])
    else:
        size = min(len(ids), ceil(wish.size * len(ids) / open_outputs))
        cuts, sample = _draw_by_judge(wish, ids, size, np.random.default_rng(seed))
        chosen = [(int(ids[i]), float(sample.probabilities[i])) for i in dict.fromkeys(sample.indices.tolist())]
    is_done = dict(zip(ids.tolist(), done.tolist(), strict=True))
    gold = _draw_gold(wish, ids, {pk for pk, _ in chosen if not is_done[pk]}, np.random.default_rng([seed, 1])) if wish.gold else []
    return _keep(wish, user, chosen, gold, seed=seed, population=len(ids), cuts=cuts)


@transaction.atomic
def _keep(wish: Wish, user: User | None, chosen: Drawn, gold: Drawn, *, seed: int, population: int, cuts: tuple[float, ...]) -> Queue:
    queue = Queue.objects.create(
        task=wish.task,
        judge=wish.judge,
        title=wish.title[:200] or f"{Queue.Policy(wish.policy).label} {len(chosen)} of {wish.task.title}",
        policy=wish.policy,
        filter=wish.filter,
        seed=seed,
        size=len(chosen),
        population=population,
        overlap=wish.overlap,
        cuts=list(cuts),
        gold_share=wish.gold,
        tells_gold=wish.tells_gold,
        created_by=user,
    )
    items = (
        QueueItem(queue=queue, output_id=pk, position=position, probability=chance and min(chance, 1.0), is_gold=position > len(chosen))
        for position, (pk, chance) in enumerate([*chosen, *gold], start=1)
    )
    QueueItem.objects.bulk_create(items, batch_size=1000)
    return queue


def _population(wish: Wish, user: User | None) -> np.ndarray:
    filters, problems = parse_query(wish.filter)
    if problems:
        raise QueueError("filter", " ".join(problems).replace(" It was left out.", ""))
    outputs = filtered(filters, user).filter(task=wish.task, content_missing="").order_by("id")
    return np.fromiter(outputs.values_list("id", flat=True), dtype=np.int64)


def _draw_gold(wish: Wish, ids: np.ndarray, to_grade: set[int], rng: np.random.Generator) -> Drawn:
    """Outputs of the filter whose answer is known, each with the chance that one of them had. `to_grade`: the sample's open ones.

    What still has to be graded for a sample is no gold: who had it as gold could not grade it for the sample.
    """
    known = Output.objects.filter(Q(label_state=Output.LabelState.ADJUDICATED) | Q(gold_answer__isnull=False), task=wish.task)
    open_items = QueueItem.objects.filter(queue__task=wish.task, queue__kind=Queue.Kind.SAMPLE, queue__closed_at=None, is_gold=False)
    wanted = with_counts(open_items.filter(output__in=known)).filter(raters__lt=F("queue__overlap")).values_list("output_id", flat=True)
    kept, asked = set(ids.tolist()), to_grade | set(wanted)
    in_filter = [pk for pk in known.order_by("pk").values_list("pk", flat=True) if pk in kept]
    found = [pk for pk in in_filter if pk not in asked]
    if in_filter and not found:
        raise QueueError("gold", f"gold: the {len(in_filter):,} outputs with a known answer are all asked for by a sample")
    if not found:
        raise QueueError("gold", "gold: no output that this filter keeps has a known answer. Adjudicate some, or set what you expect")
    n = min(len(found), ceil(max(1, len(to_grade)) * wish.overlap * wish.gold / (100 - wish.gold)))
    return [(found[i], n / len(found)) for i in rng.permutation(len(found))[:n].tolist()]


def _is_done(wish: Wish, ids: np.ndarray) -> np.ndarray:
    """Which outputs have as many blind grades as are wanted."""
    raters: dict[int, set[str]] = defaultdict(set)
    for pk, name, _, _ in _blind(wish.task):
        raters[pk].add(name)
    return np.array([len(raters.get(pk, ())) >= wish.overlap for pk in ids.tolist()], dtype=bool)


def _draw_by_judge(wish: Wish, ids: np.ndarray, size: int, rng: np.random.Generator) -> tuple[tuple[float, ...], Sample]:
    judge = newest_scores(wish.task, wish.judge, ids) if wish.judge else np.full(len(ids), np.nan)
    cuts = score_cuts(judge, N_STRATA)
    strata = strata_by(cuts, judge)
    verdicts, scores = _by_people(wish.task, ids)
    if np.isfinite(verdicts).any():
        error = predicted_error(judge, verdicts, strata.tolist(), (0, 1))
    else:
        rubric = wish.task.rubric
        error = predicted_error(judge, scores, strata.tolist(), (rubric.scale_low, rubric.scale_high) if rubric else (0, 1))
    sample = draw(wish.policy, judge, error, strata, size, rng=rng)  # type: ignore[arg-type]
    return (cuts if wish.policy == Queue.Policy.STRATIFIED else ()), sample


def _draw_worst(wish: Wish, ids: np.ndarray) -> Drawn:
    """The outputs on which graders, or a grader and people, differ most."""
    scores: dict[int, dict[int, float]] = defaultdict(dict)
    automatic = Grade.objects.filter(output__task=wish.task, mode=Grade.Mode.AUTOMATIC, retraction__isnull=True, overall__isnull=False)
    for pk, grader, overall in automatic.order_by("id").values_list("output_id", "grader_id", "overall").iterator(5000):
        scores[pk][grader] = overall
    people = dict(Output.objects.filter(task=wish.task, is_latest=True, disagreement__isnull=False).values_list("id", "disagreement"))
    spread = [max(scores[pk].values()) - min(scores[pk].values()) if len(scores.get(pk, ())) > 1 else np.nan for pk in ids.tolist()]
    differs = np.fmax(np.array(spread), np.array([people.get(pk, np.nan) for pk in ids.tolist()]))
    if not np.isfinite(differs).any():
        raise QueueError("policy", "no output was graded by two judges, or by a judge and a person: nothing to disagree about")
    sample = draw("disagreement", differs, differs, np.zeros(len(ids), dtype=np.int64), wish.size, rng=np.random.default_rng(0))
    return [(int(ids[i]), None) for i in sample.indices if np.isfinite(differs[i])]


def _by_people(task: Task, ids: np.ndarray) -> tuple[Floats, Floats]:
    """The share of people who passed each output, and their mean score; from blind grades."""
    verdicts, scores = defaultdict(list), defaultdict(list)
    for pk, _, passed, overall in _blind(task):
        if passed is not None:
            verdicts[pk].append(float(passed))
        if overall is not None:
            scores[pk].append(overall)
    return tuple(np.array([np.mean(found[pk]) if pk in found else np.nan for pk in ids.tolist()]) for found in (verdicts, scores))


def _blind(task: Task) -> Iterator[tuple[int, str, bool | None, float | None]]:
    """(output id, name, verdict, overall) of the newest blind grade of each person on each output; not of gold."""
    blind = Grade.objects.filter(output__task=task, output__is_latest=True, mode=Grade.Mode.BLIND, retraction__isnull=True)
    newest = blind.order_by().values("output_id", "rater_name").annotate(newest=Max("id")).values("newest")
    gold = gold_pairs(task)
    for row in Grade.objects.filter(pk__in=newest).order_by().values_list("output_id", "rater_name", "passed", "overall"):
        if row[:2] not in gold:
            yield row
