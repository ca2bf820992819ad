"""A judge asked which of two outputs of one prompt is better, in both orders; and what that tells of the judge.

Where the quality of the outputs decides, it decides in both orders alike. What is left when the two are added up is the place:
so the bias needs no labels.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from django.conf import settings
from django.db.models import F

from graders.calibration.probes import position_bias
from graders.calibration.result import Estimate
from graders.judge import JudgeError
from graders.judge.grader import Asking, JudgeGrader, ready_config
from graders.judge.pairwise import Comparison, compare
from llm.budget import Budget
from llm.port import Port, connect
from reviewapp.catalog.sync import spec_of
from reviewapp.judges.calls import DatabaseCalls, buckets_for, patiently, storable
from reviewapp.judges.chance import by_chance
from reviewapp.models import Grader, JudgedPair, OutputBody, Task
from tasks.task import Task as PlainTask

SAYS = {"first": 1.0, "tie": 0.0, "second": -1.0}
Pair = tuple[int, int]


@dataclass
class Compared:
    """What became of the pairs: how many have a verdict now, and why others have none."""

    done: int = 0
    failed: dict[Pair, str] = field(default_factory=dict)


def choose(task: Task, grader: Grader, limit: int) -> list[Pair]:
    """Pairs of outputs of one prompt that this judge has not compared, drawn by chance, each output about as often."""
    groups: dict[Any, list[int]] = defaultdict(list)
    outputs = task.outputs.filter(is_latest=True, content_missing="").order_by("pk")
    for pk, prompt, variant in outputs.values_list("pk", "prompt_id", "variant_id"):
        groups[prompt or ("variant", variant)].append(pk)
    known = set(JudgedPair.objects.filter(grader=grader, task=task).values_list("first", "second"))
    found: list[Pair] = []
    for pair in _in_rounds([sorted(group, key=by_chance) for group in groups.values()]):
        if len(found) == limit:
            break
        if pair not in known and pair[::-1] not in known:
            found.append(pair)
            known.add(pair)
    return found


def _in_rounds(groups: Sequence[Sequence[int]]) -> Iterator[Pair]:
    """Each output with its next, then each with the one after that, and so on."""
    for step in range(1, max(map(len, groups), default=0)):
        for group in groups:
            if step < len(group):
                yield from ((output, group[(place + step) % len(group)]) for place, output in enumerate(group))


def compare_all(
    task: Task, row: Grader, judge: JudgeGrader, pairs: Sequence[Pair], *, scope: str, limit_usd: float | None, say: Callable[[int], None]
) -> Compared:
    """Ask about all pairs; each verdict is stored as it comes. Finished calls are not made again. Raises JudgeError without a model."""
    config, made = ready_config(), Compared()
    budget = None if limit_usd is None else Budget(usd=limit_usd)
    plain = spec_of(task)

    async def run() -> None:
        async with connect(config, calls=DatabaseCalls(), buckets=buckets_for(config)) as port:
            places = asyncio.Semaphore(config.in_flight)
            await asyncio.gather(*(one(port, places, pair) for pair in pairs))

    async def one(port: Port, places: asyncio.Semaphore, pair: Pair) -> None:
        async with places:
            asking = Asking(scope=scope, nonce=f"pair {pair[0]}/{pair[1]}", secret=settings.SECRET_KEY.encode(), budget=budget)
            try:
                found = await _ask(port, judge, plain, pair, asking)
            except JudgeError as error:
                made.failed[pair] = str(error)
            else:
                await port.blocking(_save, task, row, pair, found)
                made.done += 1
            say(made.done + len(made.failed))

    asyncio.run(run())
    Task.objects.filter(pk=task.pk).update(revision=F("revision") + 1)  # the calibration page shows the place's influence
    return made


async def _ask(port: Port, judge: JudgeGrader, task: PlainTask, pair: Pair, asking: Asking) -> Comparison:
    bodies = await port.blocking(lambda: patiently(lambda: dict(OutputBody.objects.filter(pk__in=pair).values_list("pk", "content"))))
    return await compare(port, judge.judge, task, (bodies[pair[0]], bodies[pair[1]]), asking)


def _save(task: Task, row: Grader, pair: Pair, found: Comparison) -> None:
    facts = {name: getattr(found, name) for name in ("is_consistent", "unscored_reason", "cost_usd")}
    facts |= {"winner": found.winner or "", "rationale": storable(found.rationale)}
    facts |= {"by_order": list(found.by_order), "criteria": dict(found.criteria)}
    key = {"grader": row, "first_id": pair[0], "second_id": pair[1]}
    patiently(lambda: JudgedPair.objects.get_or_create(**key, defaults={"task": task, **facts}))


def position_of(grader: Grader, task: Task) -> Estimate:
    """How much more often the judge prefers what stands first, quality apart. Each order of a pair is a comparison."""
    rows = list(JudgedPair.objects.filter(grader=grader, task=task).order_by("pk").values_list("winner", "by_order"))
    if not rows:
        return Estimate.missing("not defined, because nothing is compared in pairs")
    # Told by output; the second order shows the second output first.
    places = np.array([[SAYS[one], -SAYS[two]] for winner, (one, two) in rows if winner])
    if not len(places):
        return Estimate.missing("not defined, because no answer about a pair could be used")
    return position_bias(places.ravel(), np.zeros(places.size), np.repeat(np.arange(len(places)), 2).tolist())


def summary_of(grader: Grader, task: Task) -> dict[str, Any]:
    """What the verdicts come to. Counts are of pairs."""
    rows = list(JudgedPair.objects.filter(grader=grader, task=task).values_list("winner", "is_consistent"))
    place = position_of(grader, task)
    return {
        "pairs": len(rows),
        "decided": sum(winner in ("first", "second") for winner, _ in rows),
        "ties": sum(winner == "tie" and same for winner, same in rows),
        "contradicted": sum(bool(winner) and not same for winner, same in rows),
        "unusable": sum(not winner for winner, _ in rows),
        "position": place,
    }


def newest_of(grader: Grader, n: int = 10) -> list[JudgedPair]:
    return list(JudgedPair.objects.filter(grader=grader).select_related("first", "second", "task").order_by("-pk")[:n])


def tasks_of(grader: Grader) -> list[Task]:
    return list(Task.objects.filter(judged_pairs__grader=grader).distinct().order_by("slug"))
