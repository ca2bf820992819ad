"""Gradings by the Message Batches API: the judge's calls are made as batches at half the price, then graded as always.

The answers go into the call store, where the ordinary grading of each output finds them. Stopped and run again, it finds
its batches by their scope and goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence

from django.conf import settings

from graders.judge import JudgeError
from graders.judge.form import schema_of
from graders.judge.grader import Asking, JudgeGrader, ready_config
from graders.judge.judge import judged_criteria
from llm.batches import Batches, BatchReport
from llm.port import connect, worst_usage
from llm.structure import WAYS, in_way
from llm.types import BatchState, Request
from reviewapp.catalog.sync import spec_of
from reviewapp.judges.calls import DatabaseCalls, buckets_for
from reviewapp.judges.session import nonce_of
from reviewapp.models import Grader, Job, Output

CHUNK = 200
POLL_S = 30.0


def attempts_to_make(outputs: Sequence[int], grader: Grader, *, again: bool) -> dict[int, int]:
    """Output -> the attempt that jobs/queue.py will make of it; without those that are done."""
    latest: dict[int, tuple[int, str]] = {}
    for start in range(0, len(outputs), CHUNK):
        jobs = Job.objects.filter(kind=Job.Kind.GRADE, grader=grader, output_id__in=outputs[start : start + CHUNK]).order_by("attempt")
        latest |= {output: (attempt, state) for output, attempt, state in jobs.values_list("output_id", "attempt", "state")}
    attempts = {}
    for output in outputs:
        attempt, state = latest.get(output, (1, ""))
        if state != Job.State.DONE or again:
            attempts[output] = attempt + (state == Job.State.DONE)
    return attempts


def ask_in_batches(
    attempts: Mapping[int, int],
    judge: JudgeGrader,
    scope: str,
    say: Callable[[BatchState], None],
    *,
    limit_usd: float | None = None,
    poll_s: float = POLL_S,
) -> BatchReport:
    """Have the judge's first calls of these gradings (output -> attempt) answered in batches. Raises JudgeError when no model is set up.

    With a limit only so many at once as fit in it at worst; when these have ended and money is left, more.
    """
    config = ready_config()
    way = WAYS[0] if config.structure == "auto" else config.structure

    async def run() -> BatchReport:
        async with connect(config, calls=DatabaseCalls(), buckets=buckets_for(config)) as port:
            batches = Batches(port, poll_s=poll_s, say=say)
            if limit_usd is not None:
                return await _ask_within(
                    limit_usd, batches, lambda: (requests_of(part, judge, scope, way) for part in _parts(attempts)), scope
                )
            for part in _parts(attempts):
                await batches.submit_missing(await port.blocking(requests_of, part, judge, scope, way), scope)
            return await batches.collect(scope)

    return asyncio.run(run())


async def _ask_within(limit_usd: float, batches: Batches, read: Callable[[], Iterator[list[Request]]], scope: str) -> BatchReport:
    port, report, is_more = batches.port, await batches.collect(scope), True
    while is_more:
        is_more, parts = False, read()
        room = limit_usd - (await port.blocking(batches.calls.totals, scope)).cost_usd
        while (part := await port.blocking(lambda: next(parts, None))) is not None:  # noqa: B023 - it is awaited here
            wanted = []
            for request in part:
                cost = port.prices.cost(request.model, worst_usage(request), is_batch=True)
                if cost is None:
                    raise JudgeError(f"{request.model} has no known price, so it can't keep to a limit: give one in LLM_PRICES")
                is_new = request.sha256 not in report.failed and await port.blocking(batches.calls.find, request.sha256) is None
                if is_new and cost <= room:
                    wanted.append(request)
                    room -= cost
            if wanted:
                is_more = True
                await batches.submit_missing(wanted, scope)
        ended = await batches.collect(scope)
        report.stored |= ended.stored
        report.failed |= ended.failed
    return report


def _parts(attempts: Mapping[int, int]) -> list[dict[int, int]]:
    pairs = list(attempts.items())
    return [dict(pairs[start : start + CHUNK]) for start in range(0, len(pairs), CHUNK)]


def requests_of(attempts: Mapping[int, int], judge: JudgeGrader, scope: str, way: str) -> list[Request]:
    """The calls that the gradings will make, each as it is made when all goes well."""
    requests: list[Request] = []
    outputs = Output.objects.filter(pk__in=attempts, content_missing="").select_related("task__rubric", "variant", "body").order_by("pk")
    for output in outputs:
        task = spec_of(output.task, output.variant)
        schema = schema_of(judged_criteria(task))
        asking = Asking(scope=scope, nonce=nonce_of(output.pk, attempts[output.pk]), secret=settings.SECRET_KEY.encode())
        requests += [in_way(request, schema, way) for request in judge.requests(task, output.body.content, asking)]
    return requests
