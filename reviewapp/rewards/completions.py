"""Grade completions that are no outputs of the workspace, for a trainer that asks what they are worth.

A completion is one job for a grader version and a rubric, named by the hash of its text: asked again it is the same job, and
its answer the same. The text stands in the job until a worker has graded it and then goes; hash and verdict stay KEPT.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Coroutine, Mapping
from datetime import timedelta
from functools import partial
from typing import Any

from django.conf import settings
from django.core.cache import cache
from django.db import connection
from django.db.models import Q
from django.utils import timezone

import tasks.task as spec
from graders.grade import CriterionScore, Evidence, Grade
from graders.judge.grader import Asking, JudgeGrader
from llm.budget import Budget
from llm.port import Port
from reviewapp.catalog.sync import spec_of
from reviewapp.jobs import wakeups
from reviewapp.jobs.handlers import JobError, Report
from reviewapp.jobs.queue import OPEN, Write, enqueue_rewards
from reviewapp.judges.calls import storable
from reviewapp.models import Grader, Job, Task, User
from reviewapp.outputs.jobs import check_grader, plain_grader

KEPT = timedelta(days=30)
LOG_CHARS = 2_000
FIRST_LOOK_S, LOOK_S = 0.05, 0.5
# A worker takes a job within a second of its wake-up, or within a sweep; after this long there is none.
NO_WORKER_S = 10.0


class NoWorkerError(RuntimeError):
    """The jobs wait, and nobody works."""


def hash_of(content: str) -> str:
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def ask(task: Task, grader: Grader, contents: Collection[str], *, user: User, limit_usd: float | None = None) -> dict[str, int]:
    """Job id by content, for contents that differ. Those that were graded before are done already."""
    _forget_old()
    scope = f"rewards {user.pk} {task.slug}"[:100]
    facts = {"task": task.pk, "rubric": task.rubric_id, "title": f"a completion of {task.slug}", "scope": scope}
    if limit_usd is not None:
        facts["limit_usd"] = limit_usd
    units = {content: f"{task.rubric_id}/{hash_of(content)}" for content in contents}
    ids = enqueue_rewards(grader, {unit: {**facts, "content": storable(content)} for content, unit in units.items()}, user=user)
    return {content: ids[unit] for content, unit in units.items()}


def open_jobs(ids: Collection[int]) -> set[int]:
    return set(Job.objects.filter(pk__in=list(ids), state__in=OPEN).values_list("pk", flat=True))


def wait(ids: Collection[int], timeout_s: float) -> None:
    """Until all have ended, or the time is up. Raises NoWorkerError when nobody has taken any of them and nobody works."""
    began, pause, left = time.monotonic(), FIRST_LOOK_S, len(ids)
    moved_at = began
    while still := open_jobs(ids):
        now = time.monotonic()
        if len(still) != left or _is_worked_on(still):
            moved_at, left = now, len(still)
        if now - moved_at > NO_WORKER_S:
            raise NoWorkerError
        if now - began > timeout_s:
            return
        let_go()
        time.sleep(min(pause, max(0.0, timeout_s - (now - began)) + 0.01))
        pause = min(2 * pause, LOOK_S)


def let_go() -> None:
    """Who waits holds no connection to the database: dozens may."""
    if not connection.in_atomic_block:
        connection.close()


def _is_worked_on(ids: Collection[int]) -> bool:
    """Whether one of these is in work, or another job of their queue is, behind which they wait."""
    working = Job.objects.filter(state=Job.State.RUNNING, lease_until__gt=timezone.now())
    queues = set(Job.objects.filter(pk__in=list(ids)).values_list("queue", flat=True))
    alike = Q(kind__in=(Job.Kind.GRADE, Job.Kind.REWARD), queue="") if "" in queues else Q(queue__in=wakeups.TOGETHER)
    return working.filter(Q(pk__in=list(ids)) | alike).exists()


# --- the work of a job ------------------------------------------------------------------------------------


def run(job: Job, report: Report) -> Write:
    """Grade the completion here, in the sandbox if it is code. Raises GraderError, JobError."""
    grader = plain_grader(Grader.objects.get(pk=job.grader_id))
    task = _task_of(job)
    check_grader(task.slug, grader, is_sample=False)
    return partial(_write, grader.grade(task, job.arguments["content"], on_progress=report))


def prepare(job: Job, judge: JudgeGrader, port: Port, budget: Budget | None) -> Coroutine[Any, Any, Write]:
    """The same by a judge, beside hundreds of others. The same completion asks the same, so no call is paid for twice."""
    task = _task_of(job)
    check_grader(task.slug, judge, is_sample=False)
    secret = settings.SECRET_KEY.encode()
    asking = Asking(scope=str(job.arguments["scope"]), nonce=f"reward {job.unit}", secret=secret, budget=budget)
    return _judge(judge, port, task, job.arguments["content"], asking)


async def _judge(judge: JudgeGrader, port: Port, task: spec.Task, content: str, asking: Asking) -> Write:
    return partial(_write, await judge.grade_with(port, task, content, asking))


def _task_of(job: Job) -> spec.Task:
    """The task as it was when the reward was asked for. Raises JobError if its rubric is another one by now."""
    task = Task.objects.select_related("rubric").prefetch_related("rubric__criteria").get(pk=job.arguments["task"])
    if task.rubric_id != job.arguments["rubric"]:
        raise JobError(f"the rubric of {task.slug} has changed since this was asked for: ask again")
    if "content" not in job.arguments:
        raise JobError("the completion is not kept any more: ask again")
    return spec_of(task, task.variants.filter(is_current=True).first())


def _write(plain: Grade, job: Job) -> Mapping[str, Any]:
    Job.objects.filter(pk=job.pk).update(arguments=_without_text(job))
    told = storable(plain.to_json())
    told |= {name: told[name][-LOG_CHARS:] for name in ("stdout", "stderr")}
    return {"text": "Graded.", "grade": told}


def _without_text(job: Job) -> dict[str, Any]:
    return {name: told for name, told in job.arguments.items() if name != "content"}


# --- what it found ----------------------------------------------------------------------------------------


def read(ids: Collection[int]) -> dict[int, Job]:
    """The jobs with what they found; a completion that could not be graded loses its text here."""
    jobs = {job.pk: job for job in Job.objects.filter(pk__in=list(ids))}
    for job in jobs.values():
        if job.state == Job.State.FAILED and "content" in job.arguments:
            Job.objects.filter(pk=job.pk, state=Job.State.FAILED).update(arguments=_without_text(job))
    return jobs


def grade_of(job: Job) -> Grade | None:
    """The plain grade that a done job holds."""
    told = job.result.get("grade")
    if job.state != Job.State.DONE or not told:
        return None
    names = ("task", "passed", "score", "runs", "failure_category", "error", "duration_s", "peak_memory_mb", "grader", "sandbox")
    more = ("stdout", "stderr", "rationale", "cost_usd", "judge", "course")
    fields = {name: told[name] for name in (*names, *more) if name in told}
    return Grade(criteria=tuple(_criterion(row) for row in told["criteria"]), **fields)


def _criterion(told: Mapping[str, Any]) -> CriterionScore:
    fields = {name: told[name] for name in ("key", "passed", "score", "weight", "rationale")}
    evidence = tuple(_evidence(row) for row in told["evidence"])
    return CriterionScore(**fields, evidence=evidence, unscored_reason=told.get("unscored_reason", ""))


def _evidence(told: Mapping[str, Any]) -> Evidence:
    place = (told["line_start"], told["line_end"])
    return Evidence(told["text"], told["kind"], *place, is_found=told.get("found", True), about=told.get("about", {}))


def _forget_old() -> None:
    """Once an hour and process: what was graded KEPT ago. Deleted twice does no harm."""
    if cache.add("rewards:forget", 1, 3600):
        old = Job.objects.filter(kind=Job.Kind.REWARD, finished_at__lt=timezone.now() - KEPT)
        Job.objects.filter(pk__in=list(old.order_by("pk").values_list("pk", flat=True)[:5_000])).delete()
