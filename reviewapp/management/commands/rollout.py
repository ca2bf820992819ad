"""Have agents do a task: n rollouts of a prompt variant by a model, by the workers; each becomes an output.

Asked for again, it is the same run: what is done stays, what failed is tried again (finished calls are not paid twice), and a
larger n adds to it. --new starts another one.
Exit 0: all ended well (or, without --wait, all are queued). 2: bad usage. 3: some failed, listed with reasons, or no model is
set up.
"""

from __future__ import annotations

import json
import math
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.urls import reverse

from llm.config import read_config
from llm.errors import NotConfigured
from llm.types import EFFORTS
from reviewapp.jobs import batch, queue
from reviewapp.jobs.handlers import JobError
from reviewapp.judges.calls import totals_of
from reviewapp.management.commands.grade import ProgressLine, cost_text, find_grader, find_task
from reviewapp.models import Grader, Job, Run, Task, Variant
from reviewapp.runs.again import ask_again, find_run
from reviewapp.runs.rollouts import tools_for
from reviewapp.runs.start import MOST_UNITS, start_rollouts
from tasks.agent import Limits

DEFAULTS = Limits()


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--task", required=True, metavar="SLUG")
        parser.add_argument("--variant", required=True, metavar="V", help="the prompt variant")
        parser.add_argument("--model", required=True, metavar="M", help="the model's name, as the server knows it")
        parser.add_argument("--n", type=int, default=1, metavar="N", help="rollouts (default: %(default)s)")
        parser.add_argument(
            "--grader", action="append", default=[], metavar="NAME[@VERSION]", help="grade each output as it ends; may repeat"
        )
        parser.add_argument("--limit-usd", type=float, metavar="USD", help="spending limit of the run, its gradings included")
        parser.add_argument("--effort", choices=EFFORTS, help="how hard to think, for models that know it")
        parser.add_argument("--thinking", action="store_true", help="have the model think, and keep what it shows of it")
        parser.add_argument("--turns", type=int, default=DEFAULTS.turns, help="calls of the model a rollout (default: %(default)s)")
        parser.add_argument("--tokens", type=int, default=DEFAULTS.tokens, help="tokens a rollout (default: %(default)s)")
        parser.add_argument("--seconds", type=float, default=DEFAULTS.seconds, help="seconds a rollout (default: %(default)s)")
        parser.add_argument("--answer-tokens", type=int, default=DEFAULTS.answer_tokens, help="tokens a call (default: %(default)s)")
        parser.add_argument("--new", action="store_true", help="another run, even if there is one of this kind")
        parser.add_argument("--wait", action="store_true", help="until all have ended, with progress")
        parser.add_argument("--here", action="store_true", help="do the work in this process, for want of a worker; waits")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        task = find_task(options["task"])
        variant = find_variant(task, options["variant"])
        check_numbers(options)
        graders = [find_grader(text, task.slug) for text in options["grader"]]
        check_ready(task)
        run = self.run_for(task, variant, graders, options)
        jobs = run.jobs.filter(kind=Job.Kind.ROLLOUT)
        to_do = list(jobs.filter(state__in=queue.OPEN).order_by("pk").values_list("pk", flat=True))
        facts: dict[str, Any] = {"run": run.pk, "url": reverse("run", args=[run.pk])}
        facts |= {"task": task.slug, "variant": variant.name, "model": options["model"], "n": jobs.count()}
        facts |= {"queued": len(to_do), "done_before": jobs.filter(state=Job.State.DONE).count()}
        facts |= {"graders": run.arguments.get("graders", [])}
        if not (options["wait"] or options["here"]):
            self.tell(options, facts, f"run {run.pk}: {len(to_do)} queued, {facts['done_before']} done before: {facts['url']}")
            return
        self.wait(to_do, options["here"])
        while open_jobs := list(run.jobs.filter(state__in=queue.OPEN).order_by("pk").values_list("pk", flat=True)):
            self.wait(open_jobs, options["here"])  # gradings of what came out
        facts |= self.results(run)
        graded = f", {facts['graded']} graded" if facts["graders"] else ""
        lines = [f"run {run.pk}: {len(facts['outputs'])} done{graded}, {len(facts['failed'])} failed: {facts['url']}"]
        lines += [f"{facts['calls']} calls, {facts['tokens']:,} tokens, {cost_text(facts)}"]
        lines += [f"  {row['unit']}: {row['reason']}" for row in facts["failed"]]
        self.tell(options, facts, "\n".join(lines))
        if facts["failed"]:
            sys.exit(3)

    def run_for(self, task: Task, variant: Variant, graders: list[Grader], options: dict[str, Any]) -> Run:
        settings = {name: options[name] for name in ("effort", "thinking", "turns", "tokens", "seconds", "answer_tokens")}
        asked = {"settings": settings, "variant_ids": [variant.pk]}
        found = None if options["new"] else find_run(task, variant, options["model"], asked)
        if found:
            ask_again(found, variant, options["model"], options["n"], limit_usd=options["limit_usd"], graders=graders)
            return found
        limit = options["limit_usd"]
        return start_rollouts(task, [variant], [options["model"]], options["n"], limit_usd=limit, asked=asked, graders=graders)

    def wait(self, jobs: list[int], here: bool) -> None:
        say = ProgressLine(len(jobs), self.stderr)
        if here:
            batch.work_here(jobs, say)
        else:
            batch.wait_for_jobs(jobs, say, self.warn)
        say.end()

    def results(self, run: Run) -> dict[str, Any]:
        done = run.jobs.filter(state=Job.State.DONE).order_by("pk")
        failed = run.jobs.exclude(state=Job.State.DONE).order_by("pk").select_related("grader", "output")
        total = totals_of(run.scope)
        return {
            "outputs": list(done.filter(kind=Job.Kind.ROLLOUT).values_list("output", flat=True)),
            "graded": done.filter(kind=Job.Kind.GRADE).count(),
            "failed": [{"job": job.pk, "unit": unit_of(job), "reason": job.error or job.state} for job in failed],
            "calls": total.calls,
            "tokens": total.usage.total,
            "cost_usd": None if total.unpriced else round(total.cost_usd, 6),
        }

    def warn(self) -> None:
        self.stderr.write(
            "No worker has taken a job yet. Start one by `make worker`, or stop this and add --here to do the work in this process."
        )

    def tell(self, options: dict[str, Any], facts: dict[str, Any], text: str) -> None:
        self.stdout.write(json.dumps(facts) if options["json"] else text)


def unit_of(job: Job) -> str:
    return job.unit or f"{job.output.external_id} graded by {job.grader}"


def find_variant(task: Task, name: str) -> Variant:
    variants = {variant.name: variant for variant in task.variants.filter(is_current=True).exclude(prompt="")}
    if name not in variants:
        known = ", ".join(variants) or "none: the task came with an import, and has no prompt of its own"
        raise CommandError(f"variant is {name!r}, allowed: {known}", returncode=2)
    return variants[name]


def check_numbers(options: dict[str, Any]) -> None:
    """Raises CommandError naming the option, the value seen and what is allowed."""
    if not 1 <= options["n"] <= MOST_UNITS:
        raise CommandError(f"n is {options['n']}, allowed: 1 to {MOST_UNITS:,}", returncode=2)
    if not options["model"].strip() or len(options["model"]) > 200:
        raise CommandError("model is empty or longer than 200 characters", returncode=2)
    for name in ("turns", "tokens", "seconds", "answer_tokens", "limit_usd"):
        value = options[name]
        if value is not None and not (math.isfinite(value) and value > 0):
            raise CommandError(f"{name.replace('_', '-')} is {value}, must be above 0", returncode=2)


def check_ready(task: Task) -> None:
    """Before anything is queued: a model, and the tools of the task."""
    try:
        read_config().require_ready()
        tools_for(task)
    except (NotConfigured, JobError) as error:
        raise CommandError(str(error), returncode=3) from error
    except ValueError as error:
        raise CommandError(str(error), returncode=2) from error
