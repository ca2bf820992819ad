"""Have a judge say which of two outputs of one prompt is better, each pair asked in both orders; and how much the place decides.

Pairs are drawn by chance, without those that this judge has compared. The work is done in this process. Stopped and run again,
it pays for no finished call twice.
Exit 0: all pairs have a verdict. 2: bad usage. 3: some could not be asked, listed with reasons, or no model is set up.
"""

from __future__ import annotations

import json
import math
import sys
import uuid
from collections import Counter
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.urls import reverse

from graders.grade import GraderError
from graders.judge.grader import JudgeGrader
from reviewapp.calibration.figures import figure
from reviewapp.calibration.words import with_interval
from reviewapp.judges import pairs
from reviewapp.judges.calls import totals_of
from reviewapp.judges.known import plain_of
from reviewapp.management.commands.grade import ProgressLine, cost_text, find_grader, find_task
from reviewapp.words import percent

MOST_PAIRS = 10_000


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--task", required=True, metavar="SLUG")
        parser.add_argument("--judge", required=True, metavar="NAME[@VERSION]")
        parser.add_argument("--limit", type=int, default=50, metavar="N", help="pairs at most (default: %(default)s)")
        parser.add_argument("--limit-usd", type=float, metavar="USD", help="spending limit")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        task, row = find_task(options["task"]), find_grader(options["judge"], options["task"])
        judge = plain_of(row)
        if not isinstance(judge, JudgeGrader):
            raise CommandError(f"{row} asks no model: only judges compare", returncode=2)
        check_numbers(options)
        chosen = pairs.choose(task, row, options["limit"])
        scope, line = f"pairs {uuid.uuid4().hex[:12]}", ProgressLine(len(chosen), self.stderr)
        try:
            made = pairs.compare_all(
                task, row, judge, chosen, scope=scope, limit_usd=options["limit_usd"], say=lambda ended: line(Counter(done=ended))
            )
        except GraderError as error:
            raise CommandError(str(error), returncode=3) from error
        line.end()
        found, total = pairs.summary_of(row, task), totals_of(scope)
        facts: dict[str, Any] = {
            "task": task.slug,
            "judge": f"{row.name}@{row.version}",
            "url": reverse("judge", args=[row.name, row.version]),
        }
        facts |= {"asked": len(chosen), "done": made.done, **found, "position": figure(found["position"])}
        facts |= {"failed": [{"first": a, "second": b, "reason": why} for (a, b), why in made.failed.items()]}
        facts |= {"calls": total.calls, "tokens": total.usage.total, "cost_usd": None if total.unpriced else round(total.cost_usd, 6)}
        self.stdout.write(json.dumps(facts) if options["json"] else told(facts))
        if made.failed:
            sys.exit(3)


def told(facts: dict[str, Any]) -> str:
    place = facts["position"]
    bias = f"prefers the first by {with_interval(place, percent)}" if place["value"] is not None else place["why_missing"]
    lines = [f"{facts['done']} pairs compared, {len(facts['failed'])} failed: {facts['url']}"]
    counts = f"{facts['decided']} decided, {facts['ties']} ties, {facts['contradicted']} contradicted by the other order"
    counts += f", {facts['unusable']} without a usable answer" if facts["unusable"] else ""
    lines += [f"of {facts['pairs']} in all {counts}"]
    lines += [f"the place: {bias}", f"{facts['calls']} calls, {facts['tokens']:,} tokens, {cost_text(facts)}"]
    return "\n".join([*lines, *(f"  {row['first']} and {row['second']}: {row['reason']}" for row in facts["failed"])])


def check_numbers(options: dict[str, Any]) -> None:
    if not 1 <= options["limit"] <= MOST_PAIRS:
        raise CommandError(f"limit is {options['limit']}, allowed: 1 to {MOST_PAIRS:,}", returncode=2)
    limit = options["limit_usd"]
    if limit is not None and not (math.isfinite(limit) and limit > 0):
        raise CommandError(f"limit-usd is {limit}, must be above 0", returncode=2)
