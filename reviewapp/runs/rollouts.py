"""A rollout as a job: the agent of tasks/agent.py, whose output enters like an imported one, with its transcript.

Finished calls and results of tools are stored as they come, so a job that starts again after a crash, or that is tried again
after it failed, goes on where it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Coroutine, Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from django.db import IntegrityError
from django.db.models import F
from django.utils import timezone

import tasks.task as spec
from graders.run_code import run_code_tool
from llm.budget import Budget
from llm.errors import ModelError
from llm.port import Port
from reviewapp.catalog.sync import spec_of
from reviewapp.jobs.handlers import JobError
from reviewapp.jobs.queue import Write
from reviewapp.judges.calls import patiently, storable
from reviewapp.models import Job, Output, OutputBody, Prompt, Run, Task, ToolResult, Variant
from reviewapp.runs import graded
from tasks.agent import Limits, Notes, Rollout, Settings, roll_out
from tasks.tools.config import Sources, read_sources
from tasks.tools.literature import Literature
from tasks.tools.tool import Tool


def prepare(job: Job, port: Port, budget: Budget | None) -> Coroutine[Any, Any, Write]:
    """Read what the job needs; the work itself, for the event loop. Raises JobError."""
    variant = Variant.objects.select_related("task__rubric").get(pk=job.arguments["variant"])
    task, plain = spec_of(variant.task, variant), spec.Variant(variant.name, variant.prompt)
    tools, settings = tools_for(variant.task), settings_for(job, budget)
    return _written(job, variant, roll_out(port, task, plain, tools, settings, notes=DatabaseNotes(job.pk)))


def settings_for(job: Job, budget: Budget | None) -> Settings:
    """The same job asks the same again; another one of the same prompt asks something new.

    What a person may set stands in Run.arguments["settings"]: effort, thinking, turns, tokens, seconds, answer_tokens.
    """
    told = dict(job.run.arguments.get("settings") or {}) if job.run else {}
    limits = Limits(**{name: told[name] for name in ("turns", "tokens", "seconds", "answer_tokens") if name in told})
    scope = str(job.arguments.get("scope", ""))[:100]
    nonce = f"run {job.run_id}/{job.unit}"
    return Settings(job.arguments["model"], limits, told.get("effort"), bool(told.get("thinking")), scope, nonce, budget)


def tools_for(task: Task) -> list[Tool]:
    """The tools that the task names. Raises JobError for one that there is none of."""
    if not task.tools:
        return []
    try:
        known = {tool.name: tool for tool in [*_literature(read_sources()).tools(), run_code_tool()]}
    except ValueError as error:
        raise JobError(str(error)) from error
    if unknown := [name for name in task.tools if name not in known]:
        raise JobError(f"{task.slug} asks for the tool {unknown[0]!r}; there are: {', '.join(known)}")
    return [known[name] for name in task.tools]


@lru_cache(maxsize=4)
def _literature(sources: Sources) -> Literature:
    """One a process, so that its rollouts know together that a service is down."""
    return Literature(sources)


async def _written(job: Job, variant: Variant, work: Coroutine[Any, Any, Rollout]) -> Write:
    try:
        rollout = await work
    except ModelError as error:
        raise JobError(str(error)) from error
    if rollout.stop_reason == "usd":
        raise JobError(f"{rollout.missing}; what was answered is kept, and trying again with a higher limit goes on from there")

    def write(job: Job) -> Mapping[str, Any]:
        output = save_output(job, variant, rollout)
        Job.objects.filter(pk=job.pk).update(output=output)
        ToolResult.objects.filter(job_id=job.pk).delete()
        if job.run_id and not output.content_missing:
            graded.grade(Run.objects.get(pk=job.run_id), [output.pk])
        return {"text": told_of(rollout), "output": output.pk, "stop_reason": rollout.stop_reason}

    return write


def save_output(job: Job, variant: Variant, rollout: Rollout) -> Output:
    """The output of this job; a second delivery returns the first one's. Its name tells neither model nor variant."""
    external_id = f"run-{job.run_id}/{job.pk}"
    if found := Output.objects.filter(task=variant.task, external_id=external_id).first():
        return found
    sha256 = hashlib.sha256(variant.prompt.encode()).hexdigest()
    prompt, _ = Prompt.objects.get_or_create(task=variant.task, sha256=sha256, defaults={"text": variant.prompt})
    content = storable(rollout.output)
    output = Output.objects.create(
        task=variant.task,
        variant=variant,
        prompt=prompt,
        run=job.run,
        external_id=external_id,
        content_hash=hashlib.sha256(content.encode()).hexdigest(),
        model=job.arguments["model"],
        format=variant.task.output_format,
        length=len(content),
        content_missing=storable(rollout.missing)[:500],
        metadata={"rollout": facts_of(rollout), "sample": job.arguments.get("number")},
        created_at=timezone.now(),
    )
    OutputBody.objects.create(output=output, content=content, transcript=storable(list(rollout.transcript)))
    Task.objects.filter(pk=variant.task_id).update(revision=F("revision") + 1)
    return output


def facts_of(rollout: Rollout) -> dict[str, Any]:
    """Without the model's name, which a blind reviewer must not see."""
    facts = {name: getattr(rollout, name) for name in ("stop_reason", "turns", "tool_calls", "cost_usd", "duration_s")}
    return {**facts, "tokens": asdict(rollout.usage)}


def told_of(rollout: Rollout) -> str:
    end = "Handed in" if rollout.stop_reason == "handed_in" else f"Ended by {rollout.stop_reason.replace('_', ' ')}"
    cost = "" if rollout.cost_usd is None else f", ${rollout.cost_usd:.4f}"
    return f"{end} after {rollout.turns} turns and {rollout.tool_calls} tool calls, {rollout.usage.total:,} tokens{cost}."


class DatabaseNotes(Notes):
    """Called in the port's own thread, whose connection the calls use, too."""

    def __init__(self, job_id: int) -> None:
        self.job_id = job_id
        self.count = 0

    def find(self, key: str) -> tuple[str, bool] | None:
        rows = ToolResult.objects.filter(job_id=self.job_id, key=key)
        return patiently(lambda: rows.values_list("text", "is_error").first())

    def save(self, key: str, text: str, is_error: bool) -> None:
        self.count += 1
        stage = f"turn {key.partition('.')[0]}, {self.count} tool calls"
        try:
            patiently(lambda: ToolResult.objects.create(job_id=self.job_id, key=key, text=storable(text), is_error=is_error))
        except IntegrityError:
            return  # another worker has this job by now; its answer stands
        patiently(lambda: Job.objects.filter(pk=self.job_id, state=Job.State.RUNNING).update(stage=stage))
