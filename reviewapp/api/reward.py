"""POST reward: what completions are worth, for a trainer that waits for it.

The grading is a job for the workers (rewards/completions.py): code in the sandbox, judges with many calls in flight. This
process asks and waits; a thread that waits takes no more than its place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import BoundedSemaphore
from typing import Any

from django.conf import settings
from django.http import Http404, HttpRequest
from ninja import Schema

from graders import registry
from reviewapp.api.app import api
from reviewapp.api.auth import Bearer
from reviewapp.api.calibration import find_task
from reviewapp.api.errors import ApiError, Problem, refused
from reviewapp.api.reward_body import Asked, RewardBody, check_names, read_body
from reviewapp.calibration.calibrators import Fit
from reviewapp.interchange.problems import ImportRefused
from reviewapp.judges.known import find, graders_of, row_of
from reviewapp.models import Grader, Job, Task
from reviewapp.rewards import completions
from reviewapp.rewards.reward import Reward, UnknownCalibratorError, fit_for, reward_of
from reviewapp.rewards.store import store_completions
from tasks.agent import output_of

AT_ONCE = max(1, settings.WEB_THREADS * 3 // 4)
_waiting = BoundedSemaphore(AT_ONCE)
NO_WORKER = (
    "No worker has taken these gradings, so there is no reward. Start one with `make worker`; they wait, and are graded once when "
    "it is there: ask again then."
)


@dataclass
class Batch:
    """The completions of one task in a call, and who grades them."""

    task: Task
    grader: Grader
    fit: Fit | None
    contents: dict[int, str] = field(default_factory=dict)  # place in the call -> what is graded
    jobs: dict[str, int] = field(default_factory=dict)  # content -> job


class RewardAnswer(Schema):
    """`scores` are the rewards again, and `extra_logs` each criterion that all have a score for: OpenRLHF reads both."""

    rewards: list[float | None]
    scores: list[float | None]
    extra_logs: dict[str, list[float]] = {}
    components: list[dict[str, Any]]


@api.post("reward", auth=Bearer("reward", takes_basic=True), tags=["reward"], response=RewardAnswer, exclude_unset=True)
def reward(request: HttpRequest, body: RewardBody, task: str = "") -> dict[str, Any]:
    """One reward in [0, 1] for each completion, in order, with what it is made of; null with a reason where there is no verdict.

    Takes `{"task", "prompts", "completions"}`, and the body of OpenRLHF's `--reward.remote_url` (then `?task=` or the labels name
    the task, and the token may stand in the address as a password). The same completion is graded once by a grader version.
    """
    check_names(request.body)
    asked = read_body(body, task)
    batches = _batches(asked, body)
    for batch in batches:
        batch.jobs = completions.ask(batch.task, batch.grader, set(batch.contents.values()), user=request.user, limit_usd=body.limit_usd)
    ids = [pk for batch in batches for pk in batch.jobs.values()]
    _wait(ids, body.timeout_s)
    jobs = completions.read(ids)
    found = _rewards(asked, batches, jobs, body.timeout_s)
    if body.store:
        for place, pk in _store(request, asked, batches, jobs, body.model).items():
            found[place].components["output"] = pk
    completions.let_go()
    return _answer(found, is_openrlhf=body.query is not None)


def _batches(asked: Sequence[Asked], body: RewardBody) -> list[Batch]:
    """By task. Raises ApiError when a task or its grader is not there."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, one in enumerate(asked):
        places[one.task].append(place)
    batches = []
    for slug, rows in places.items():
        task = _task(slug)
        plain = _grader(task, body.grader)
        row = row_of(plain)
        try:
            batch = Batch(task, row, fit_for(task, row, body.calibrator))
        except UnknownCalibratorError as error:
            raise refused("body.calibrator", body.calibrator, str(error)) from error
        for place in rows:
            if not asked[place].why_not:
                text = asked[place].completion
                # Without a program in it the grader is shown what there is, and says what it makes of that.
                batch.contents[place] = output_of(text, task.output_format) or text
        batches.append(batch)
    return batches


def _task(slug: str) -> Task:
    if not slug:
        raise refused("body.task", None, "the slug of a task; with OpenRLHF ?task= in the address, or in each label")
    try:
        task = find_task(slug)
    except Http404 as error:
        raise ApiError(422, str(error), [Problem("body.task", slug, str(error).partition("There are: ")[2])]) from error
    if task.rubric is None:
        raise refused("body.task", slug, "a task that has a rubric")
    return task


def _grader(task: Task, wanted: str) -> registry.Grader:
    """The one that is asked for, else the task's primary grader, which may be one whose grades were imported."""
    known = graders_of(task.slug)
    allowed = ", ".join(f"{g.name}@{g.version}" for g in known) or f"none: no grader here grades {task.slug}"
    name = wanted or task.primary_grader or next(iter(task.graders), "")
    found = find(known, name) if name else next(iter(known), None)
    if found is None:
        seen = wanted or f"not given, and {name or 'no grader'}, the task's, does not run here"
        raise refused("body.grader", seen, allowed)
    return found


def _wait(ids: Sequence[int], timeout_s: float) -> None:
    """Raises ApiError when there is no worker, or when too many calls wait in this process."""
    if not completions.open_jobs(ids):
        return
    if not _waiting.acquire(blocking=False):
        text = f"{AT_ONCE} calls wait for rewards in this server process, which is the most. What was asked for is being graded: ask again."
        raise ApiError(
            429, text, [Problem("calls that wait", AT_ONCE + 1, f"at most {AT_ONCE} (WEB_THREADS)")], headers={"Retry-After": "1"}
        )
    try:
        completions.wait(ids, timeout_s)
    except completions.NoWorkerError as error:
        raise ApiError(503, NO_WORKER, headers={"Retry-After": "10"}) from error
    finally:
        _waiting.release()


def _rewards(asked: Sequence[Asked], batches: Sequence[Batch], jobs: dict[int, Job], timeout_s: float) -> list[Reward]:
    found = [Reward(None, one.why_not, {}) for one in asked]
    for batch in batches:
        by_content = {content: _reward(batch, content, jobs[pk], timeout_s) for content, pk in batch.jobs.items()}
        for place, content in batch.contents.items():
            made = by_content[content]
            found[place] = Reward(made.value, made.reason, dict(made.components))
    return found


def _reward(batch: Batch, content: str, job: Job, timeout_s: float) -> Reward:
    plain = completions.grade_of(job)
    about = {"content_sha256": completions.hash_of(content), "grading": job.pk}
    if plain is not None:
        made = reward_of(plain, batch.task, batch.grader, batch.fit)
        return Reward(made.value, made.reason, made.components | about)
    if job.is_open:
        why = f"not graded within {timeout_s:g} s: the work goes on, ask again"
    else:
        why = job.error or f"the grading was {job.state}: ask again"
    return Reward(None, why, {"grader": f"{batch.grader.name}@{batch.grader.version}", **about})


def _store(request: HttpRequest, asked: Sequence[Asked], batches: Sequence[Batch], jobs: dict[int, Job], model: str) -> dict[int, int]:
    """Those that were graded become outputs: output id by place."""
    stored: dict[int, int] = {}
    for batch in batches:
        rows = {}
        for place, content in batch.contents.items():
            plain = completions.grade_of(jobs[batch.jobs[content]])
            if plain is not None:
                rows[place] = (asked[place].prompt, content, plain)
        name = request.auth.name  # type: ignore[attr-defined]
        try:
            stored |= store_completions(batch.task, batch.grader, rows, user=request.user, token=name, model=model)
        except ImportRefused as error:
            raise ApiError(503, f"They are graded, but could not be stored: {error} Ask again.", headers={"Retry-After": "2"}) from error
    return stored


def _answer(found: Sequence[Reward], *, is_openrlhf: bool) -> dict[str, Any]:
    rewards = [one.value for one in found]
    told: dict[str, Any] = {"rewards": rewards, "scores": rewards}
    if is_openrlhf:
        told["extra_logs"] = _logs(found)
    return told | {"components": [one.components | ({"reason": one.reason} if one.reason else {}) for one in found]}


def _logs(found: Sequence[Reward]) -> dict[str, list[float]]:
    """Each criterion's score that all of them have: OpenRLHF makes tensors of these."""
    rows = [{key: told["score"] for key, told in one.components.get("criteria", {}).items() if told["score"] is not None} for one in found]
    shared = set.intersection(*(set(row) for row in rows)) if rows else set()
    return {key: [row[key] for row in rows] for key in sorted(shared)}
