"""Have a grader grade outputs of a task, by the workers. What is graded already is left alone; what failed is tried again.

Exit 0: all ended well (or, without --wait, all are queued). 2: bad usage. 3: some failed, listed with reasons.
"""

from __future__ import annotations

import json
import math
import sys
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import urlencode

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.urls import reverse

from graders import registry
from graders.grade import GraderError
from llm.types import BatchState
from reviewapp.jobs import batch
from reviewapp.jobs.queue import Enqueued
from reviewapp.judges.calls import totals_of
from reviewapp.judges.known import find, graders_of, plain_of, row_of
from reviewapp.models import Grader, Task
from reviewapp.runs.start import start_gradings

LINE_S = 2.0


class Command(BaseCommand):
    help = __doc__
    again = False
    default_outputs = "all"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--task", required=True, metavar="SLUG")
        parser.add_argument("--grader", required=True, metavar="NAME[@VERSION]")
        parser.add_argument("--outputs", default=self.default_outputs, metavar="all|ungraded|labelled|ID,...", help="default: %(default)s")
        parser.add_argument("--wait", action="store_true", help="until all have ended, with progress")
        parser.add_argument("--here", action="store_true", help="do the work in this process, for want of a worker; waits")
        parser.add_argument("--limit-usd", type=float, metavar="USD", help="a judge's spending limit for these gradings")
        parser.add_argument("--batch", action="store_true", help="ask a judge by message batches: half the price, may take a day; waits")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        task, grader = find_task(options["task"]), find_grader(options["grader"], options["task"])
        try:
            outputs = batch.select_outputs(task, grader, options["outputs"])
        except batch.SelectionError as error:
            raise CommandError(str(error), returncode=2) from error
        spending = self.spending(grader, options)
        if options["batch"]:
            self.ask_in_batches(outputs, grader, **spending)
        title = f"{task.title}: {grader.name} on {len(outputs):,} {'output' if len(outputs) == 1 else 'outputs'}"
        told = {"outputs": options["outputs"][:200], "again": self.again}
        limits = {"scope": spending.get("scope", ""), "limit_usd": options["limit_usd"]}
        run, asked = start_gradings(grader, outputs, title=title, task=task, again=self.again, asked=told, **limits)
        query = urlencode({"task": task.slug, "grader": f"{grader.name}@{grader.version}"})
        url = reverse("run", args=[run.pk]) if run else f"{reverse('jobs')}?{query}"
        facts = {"task": task.slug, "grader": grader.name, "version": grader.version, "run": run and run.pk, "url": url}
        facts |= {"outputs": len(outputs), "queued": len(asked.to_do), "already_done": len(asked.done), "jobs": asked.to_do}
        facts |= spending
        if not (options["wait"] or options["here"]):
            self.tell(options, facts, f"{len(asked.to_do)} gradings queued, {len(asked.done)} done before: {facts['url']}")
            return
        self.wait(asked, options["here"])
        failed = list(batch.failures(asked.to_do))
        facts |= {"done": len(asked.to_do) - len(failed), "failed": [asdict(failure) for failure in failed]}
        facts |= self.costs(spending)
        lines = [f"{facts['done']} graded, {len(failed)} failed, {len(asked.done)} done before: {facts['url']}"]
        lines += [f"{facts['calls']} calls, {facts['tokens']:,} tokens, {cost_text(facts)}"] if "calls" in facts else []
        lines += [f"  {failure.external_id} (output {failure.output}): {failure.reason}" for failure in failed]
        self.tell(options, facts, "\n".join(lines))
        if failed:
            sys.exit(3)

    def spending(self, grader: Grader, options: dict[str, Any]) -> dict[str, Any]:
        """What a judge's jobs carry: the scope under which their calls are counted, and their limit."""
        limit = options["limit_usd"]
        if grader.kind != Grader.Kind.LLM_JUDGE:
            if limit is not None or options["batch"]:
                raise CommandError(f"{grader.name} asks no model: --limit-usd and --batch are for judges", returncode=2)
            return {}
        if limit is not None and not (math.isfinite(limit) and limit > 0):
            raise CommandError(f"limit-usd is {limit}, must be above 0", returncode=2)
        if why := registry.why_not_ready(plain_of(grader)):
            raise CommandError(why, returncode=3)
        # Batches are found again by their scope; else each command counts for itself.
        scope = f"batch {options['task']} {grader.version}" if options["batch"] else f"grade {uuid.uuid4().hex[:12]}"
        return {"scope": scope, **({"limit_usd": limit} if limit is not None else {})}

    def ask_in_batches(self, outputs: Sequence[int], grader: Grader, scope: str, limit_usd: float | None = None) -> None:
        """Before there are jobs, which would ask at once and at the full price; they find the answers in the store."""
        from reviewapp.judges.batches import ask_in_batches, attempts_to_make  # noqa: PLC0415 - for judges alone

        def say(state: BatchState) -> None:
            self.stderr.write(f"batch {state.id}: {state.processing} in work, {state.succeeded} answered, {state.failed} failed")

        attempts = attempts_to_make(outputs, grader, again=self.again)
        try:
            report = ask_in_batches(attempts, plain_of(grader), scope, say, limit_usd=limit_usd)  # type: ignore[arg-type]
        except GraderError as error:
            raise CommandError(str(error), returncode=3) from error
        for reason in sorted(set(report.failed.values())):
            self.stderr.write(f"asked one by one: {reason}")

    def costs(self, spending: dict[str, Any]) -> dict[str, Any]:
        if not spending:
            return {}
        found = totals_of(spending["scope"])
        cost = None if found.unpriced else round(found.cost_usd, 6)
        return {"calls": found.calls, "tokens": found.usage.total, "cost_usd": cost}

    def wait(self, asked: Enqueued, here: bool) -> None:
        say = ProgressLine(len(asked.to_do), self.stderr)
        if here:
            batch.work_here(asked.to_do, say)
        else:
            batch.wait_for_jobs(asked.to_do, say, self.warn)
        say.end()

    def warn(self) -> None:
        self.stderr.write(
            "No worker has taken a job yet. Start one by `make worker`, or stop this and add --here to do the work in this process."
        )

    def tell(self, options: dict[str, Any], facts: dict[str, Any], text: str) -> None:
        self.stdout.write(json.dumps(facts) if options["json"] else text)


def cost_text(facts: dict[str, Any]) -> str:
    return "cost unknown: a model has no price (LLM_PRICES)" if facts["cost_usd"] is None else f"${facts['cost_usd']:.4f}"


class ProgressLine:
    """Counts on stderr: one line that changes in a terminal, else a line every now and then."""

    def __init__(self, total: int, stream: Any) -> None:
        self.total, self.stream = total, stream
        self.is_terminal = stream.isatty()
        self.said, self.said_at = "", 0.0

    def __call__(self, counts: Counter[str]) -> None:
        ended = counts["done"] + counts["failed"] + counts["cancelled"]
        line = f"{ended} of {self.total} ended, {counts['running']} running, {counts['failed']} failed"
        if line == self.said or (not self.is_terminal and ended < self.total and time.monotonic() - self.said_at < LINE_S):
            return
        self.stream.write(f"\r{line:<70}" if self.is_terminal else line, ending="" if self.is_terminal else "\n")
        self.said, self.said_at = line, time.monotonic()

    def end(self) -> None:
        if self.is_terminal and self.said:
            self.stream.write("")


def find_task(slug: str) -> Task:
    task = Task.objects.filter(slug=slug).first()
    if task is None:
        known = ", ".join(Task.objects.values_list("slug", flat=True)) or "none: run sync_tasks"
        raise CommandError(f"task is {slug!r}, allowed: {known}", returncode=2)
    return task


def find_grader(text: str, task: str) -> Grader:
    """The row of the grader that is named; without a version of its newest."""
    name, _, version = text.partition("@")
    try:
        if able := find(graders_of(task), text):
            return row_of(able)
        plain = registry.get(name, version or None)
    except GraderError as error:
        raise CommandError(str(error), returncode=2) from error
    allowed = ", ".join(grader.name for grader in graders_of(task)) or "none"
    raise CommandError(f"{plain.name} does not grade {task}; graders of {task}: {allowed}", returncode=2)
