"""Gold items: outputs whose answer is known, mixed into a queue to watch its reviewers.

- The answer is what an admin expects of the output, else its adjudication.
- Each reviewer is handed gold among the rest, one item in so many, at places that nobody can foresee.
- A reviewer is not told which items are gold: not before their grade and, unless the queue says so, not after it.
- What people gave gold is left out of every estimate, and out of what a queue waits for: it was chosen because its answer
  is known, not by a lottery.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from django.utils.crypto import salted_hmac

from reviewapp.models import Claim, GoldAnswer, Grade, Output, Queue, QueueItem, Task, User
from reviewapp.queues.rater import Known, RaterRow, rater_rows
from reviewapp.rewards import labels


def known_answers(output_ids: Collection[int]) -> dict[int, Known]:
    """output id -> its known answer; an output without one is not in it."""
    found = {}
    for pk, facts in labels.read_facts(list(output_ids)).items():
        label = labels.human_label(facts)
        if label.source == "adjudicated":
            found[pk] = Known(label.score, label.passed)
    expected = GoldAnswer.objects.filter(output__in=output_ids)
    return found | {pk: Known(overall, passed) for pk, overall, passed in expected.values_list("output_id", "overall", "passed")}


def gold_pairs(task: Task) -> frozenset[tuple[int, str]]:
    """(output id, name) of each person who graded an output as gold: their grades of it are in no estimate."""
    claims = Claim.objects.filter(item__is_gold=True, item__queue__task=task, grade__isnull=False)
    return frozenset(claims.values_list("item__output_id", "reviewer__username"))


# --- when it comes ----------------------------------------------------------------------------------------


def gold_before(queue: Queue, user: User, turn: int) -> int:
    """How many of the first `turn` items that this person is handed are gold: one in each block, at a place of its own."""
    share = queue.gold_share
    if not share:
        return 0
    block = turn * share // 100
    while _start(block + 1, share) <= turn:
        block += 1
    width = _start(block + 1, share) - _start(block, share)
    secret = salted_hmac("gold", f"{queue.pk}:{user.pk}:{block}").hexdigest()
    return block + (_start(block, share) + int(secret[:12], 16) % width < turn)


def is_gold_turn(queue: Queue, user: User) -> bool:
    """Whether the next item that this person is handed is to be gold."""
    if not queue.gold_share:
        return False
    turn = Claim.objects.filter(reviewer=user, item__queue=queue).count()
    return gold_before(queue, user, turn + 1) > gold_before(queue, user, turn)


def gold_to_come(queue: Queue, user: User, *, turn: int, ordinary: int) -> int:
    """How many gold items come between this turn and the last of so many ordinary ones."""
    first, low, high = gold_before(queue, user, turn), turn + ordinary, turn + 2 * ordinary + 2
    while low < high:  # the first turn by which all ordinary ones have come
        middle = (low + high) // 2
        if middle - turn - (gold_before(queue, user, middle) - first) >= ordinary:
            high = middle
        else:
            low = middle + 1
    return gold_before(queue, user, low) - first


def _start(block: int, share: int) -> int:
    return block * 100 // share


# --- who may know -----------------------------------------------------------------------------------------


def secrets_of(user: User, output_ids: Iterable[int]) -> set[int]:
    """Those of these outputs that this person had as gold and is not told about: others' grades of them stay hidden."""
    ids = list(output_ids)
    if not ids or user.has_role(User.Role.ADJUDICATOR):
        return set()
    had = Claim.objects.filter(reviewer=user, item__is_gold=True, item__queue__tells_gold=False, item__output__in=ids)
    return set(had.values_list("item__output_id", flat=True))


def had_as_gold(user: User, output: Output) -> tuple[bool, bool]:
    """(whether this person had the output as gold and is not told, whether they graded it as gold and are told). One query."""
    had = Claim.objects.filter(reviewer=user, item__is_gold=True, item__output=output)
    found = list(had.values_list("item__queue__tells_gold", "grade_id"))
    is_secret = not user.has_role(User.Role.ADJUDICATOR) and any(not tells for tells, _ in found)
    return is_secret, any(tells and grade for tells, grade in found)


def may_find_gold(user: User) -> bool:
    """Whether a list that told which outputs people have labelled would tell this person which are gold."""
    if user.has_role(User.Role.ADJUDICATOR):
        return False
    return QueueItem.objects.filter(is_gold=True, queue__closed_at=None, queue__tells_gold=False).exists()


def hide_gold(outputs: Sequence[Output], user: User) -> None:
    """Hide what other people said of those of these outputs that this person had as gold."""
    secret = secrets_of(user, [output.pk for output in outputs])
    if secret:
        as_if_alone([output for output in outputs if output.pk in secret], user)


def as_if_alone(outputs: Sequence[Output], user: User) -> None:
    """Make these outputs look as if, of all people, this one alone had graded them. Nothing is saved."""
    facts = labels.read_facts([output.pk for output in outputs])
    for output in outputs:
        seen = [fact for fact in facts.get(output.pk, ()) if not fact.is_human or fact.rater == user.username]
        summary = labels.summarise(seen, output.task.primary_grader)
        for name in labels.SUMMARY_FIELDS:
            setattr(output, name, getattr(summary, name))


# --- how the reviewers do ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class GoldReport:
    """How each reviewer of a queue does on its gold. `n_items` have an answer; `lost` have none any more."""

    n_items: int
    lost: int
    rows: list[RaterRow]


def gold_report(queue: Queue) -> GoldReport:
    """Each person's blind grades of the queue's gold items against the answers that are known now."""
    ids = list(queue.items.filter(is_gold=True).values_list("output_id", flat=True))
    known = known_answers(ids)
    claims = Claim.objects.filter(item__queue=queue, item__is_gold=True, grade__mode=Grade.Mode.BLIND, grade__retraction__isnull=True)
    given: dict[str, list[tuple[Known, Known]]] = defaultdict(list)
    for name, pk, overall, passed in claims.values_list("reviewer__username", "item__output_id", "grade__overall", "grade__passed"):
        if pk in known:
            given[name].append((Known(overall, passed), known[pk]))
    rows = rater_rows(given, queue.task.rubric, "gold item", "the known answer")
    return GoldReport(n_items=len(known), lost=len(ids) - len(known), rows=rows)
