"""One process that asks models for hundreds of jobs at once, gradings by judges and rollouts: the port, the budgets, the work.

What reads or writes tables runs in the process's main thread (prepare, and the Write that it leads to); what waits for a
model runs in an event loop in a thread of its own.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings

from graders import registry
from graders.judge.grader import Asking, JudgeGrader, ready_config
from llm.budget import Amount, Budget
from llm.port import Port, connect
from reviewapp.catalog.sync import spec_of
from reviewapp.grading import record_grader_grade
from reviewapp.jobs.handlers import JobError
from reviewapp.jobs.queue import Write
from reviewapp.judges.calls import DatabaseCalls, buckets_for, totals_of
from reviewapp.judges.money import DatabaseLedger
from reviewapp.models import Grader, Job, Output
from reviewapp.outputs.jobs import check_can_grade, plain_grader
from reviewapp.rewards import completions
from reviewapp.runs import rollouts
from tasks.task import Task

OUTPUTS = Output.objects.select_related("task__rubric", "variant", "body").prefetch_related("task__rubric__criteria")


@dataclass
class JudgeSession:
    """`open` and `close` belong to the event loop. Raises GraderError when no model is set up."""

    port: Port | None = None
    budgets: dict[str, Budget] = field(default_factory=dict)
    graders: dict[int, tuple[Grader, registry.Grader]] = field(default_factory=dict)
    outputs: dict[int, Output] = field(default_factory=dict)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    def __post_init__(self) -> None:
        self.config = ready_config()
        self.buckets = buckets_for(self.config)

    @property
    def most_jobs(self) -> int:
        """Jobs in work at once: enough to keep all calls in flight, few enough to keep memory small."""
        return self.config.in_flight

    async def open(self) -> None:
        self.port = await self._stack.enter_async_context(connect(self.config, calls=DatabaseCalls(), buckets=self.buckets))

    async def close(self) -> None:
        await self._stack.aclose()

    def load(self, jobs: Sequence[Job]) -> None:
        """Read the outputs of these jobs at once; prepare takes them from here."""
        ids = [job.output_id for job in jobs if job.kind == Job.Kind.GRADE]
        self.outputs = {output.pk: output for output in OUTPUTS.filter(pk__in=ids)} if ids else {}

    def prepare(self, job: Job) -> Coroutine[Any, Any, Write]:
        """Read what the job needs; the work itself, for the event loop. Raises GraderError, JobError."""
        if job.kind == Job.Kind.ROLLOUT:
            assert self.port is not None
            return rollouts.prepare(job, self.port, self._budget(job))
        if job.kind == Job.Kind.REWARD:
            assert self.port is not None
            return completions.prepare(job, self._grader(job)[1], self.port, self._budget(job))
        output = self.outputs.pop(job.output_id, None) or OUTPUTS.get(pk=job.output_id)
        row, judge = self._grader(job)
        check_can_grade(output, judge)
        asking = asking_for(job, self._budget(job))
        task = spec_of(output.task, output.variant)
        return self._judge(output, task, row, judge, asking)

    def _grader(self, job: Job) -> tuple[Grader, JudgeGrader]:
        if job.grader_id not in self.graders:
            found = Grader.objects.get(pk=job.grader_id)
            self.graders[job.grader_id] = found, plain_grader(found)
        row, judge = self.graders[job.grader_id]
        if not isinstance(judge, JudgeGrader):
            raise JobError(f"{row} is no judge that runs here")
        return row, judge

    async def _judge(self, output: Output, task: Task, row: Grader, judge: JudgeGrader, asking: Asking) -> Write:
        assert self.port is not None
        plain = await judge.grade_with(self.port, task, output.body.content, asking)

        def write(job: Job) -> Mapping[str, Any]:
            # The rubric that was used, should the task have another one by now.
            job.grade = record_grader_grade(output, row, plain, attempt=job.attempt, rubric=output.task.rubric)
            return {"text": "Graded."}

        return write

    def _budget(self, job: Job) -> Budget | None:
        """The budget of the job's scope, shared by its jobs everywhere; what is spent already counts."""
        scope, limit = scope_of(job), job.arguments.get("limit_usd")
        if limit is None:
            return None
        if scope not in self.budgets:
            found = totals_of(scope)
            spent = Amount(found.cost_usd, found.usage.total, found.calls)
            self.budgets[scope] = Budget(usd=float(limit), spent=spent, ledger=DatabaseLedger(scope, job.lease_token))
        self.budgets[scope].usd = float(limit)  # it may have been raised since
        return self.budgets[scope]


def scope_of(job: Job) -> str:
    return str(job.arguments.get("scope", ""))[:100]


def asking_for(job: Job, budget: Budget | None = None) -> Asking:
    """The same job asks the same thing again after a crash, and another attempt of it something new."""
    return Asking(scope=scope_of(job), nonce=nonce_of(job.output_id, job.attempt), secret=settings.SECRET_KEY.encode(), budget=budget)


def nonce_of(output_id: int, attempt: int) -> str:
    return f"output {output_id}/{attempt}"
