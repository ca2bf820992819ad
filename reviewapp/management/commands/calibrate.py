"""Print how far the judges of a task can be trusted: what the calibration page shows.

Exit code 2: there is no such task or judge, or an option has a value that is not allowed.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from graders.calibration.recalibration import NO_WIDTH
from reviewapp.calibration.calibrators import Fit, current_fit
from reviewapp.calibration.grades import MODES, judges_of
from reviewapp.calibration.labels import study_with_labels
from reviewapp.calibration.study import DEFAULT_EPSILON, StudyError
from reviewapp.calibration.table import table_of
from reviewapp.models import Grader, Task


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--task", required=True, metavar="SLUG")
        parser.add_argument("--judge", default="", metavar="NAME[@VERSION]", help="one judge, its newest version by default; else all")
        parser.add_argument("--mode", default="blind", help=f"which human grades, one of: {', '.join(MODES)} (default blind)")
        parser.add_argument(
            "--epsilon", type=float, default=DEFAULT_EPSILON, help="what being cheaper is worth: .2 against experts, .15 skilled, .1 crowd"
        )
        parser.add_argument("--fit", action="store_true", help="fit and keep the calibrator that exports use, and tell it instead")
        parser.add_argument("--json", action="store_true", help="one object a line for each judge")

    def handle(self, *args: Any, **options: Any) -> None:
        task = Task.objects.select_related("rubric").filter(slug=options["task"]).first()
        if task is None:
            known = ", ".join(Task.objects.values_list("slug", flat=True)) or "there is none yet"
            raise CommandError(f"no task {options['task']!r}; tasks: {known}", returncode=2)
        judges = [find_judge(task, options["judge"])] if options["judge"] else judges_of(task) or [None]
        if options["fit"]:
            for judge in filter(None, judges):
                told = fit_to_json(judge, current_fit(task, judge.name, judge.version))
                self.stdout.write(json.dumps(told, allow_nan=False) if options["json"] else fit_to_text(told))
            return
        for judge in judges:
            try:
                found = study_with_labels(task, judge, options["mode"], options["epsilon"])
            except StudyError as error:
                raise CommandError(str(error), returncode=2) from error
            self.stdout.write(json.dumps(found, allow_nan=False) if options["json"] else table_of(found))


def fit_to_json(judge: Grader, fit: Fit) -> dict[str, Any]:
    made = fit.calibrator
    told = {"judge": f"{judge.name}@{judge.version}", "sha256": made and made.sha256, "map": made and made.map}
    told |= {"report": made and made.report, "labels_missing": fit.labels_missing, "why_missing": fit.why_missing or None}
    return told | {"why_no_interval": NO_WIDTH if made and made.half_width is None else None}


def fit_to_text(told: dict[str, Any]) -> str:
    if told["why_missing"]:
        return f"{told['judge']}: {told['why_missing']}"
    report, fitted = told["report"], told["map"]
    within = told["why_no_interval"] or f"95 of 100 labels are within {fitted['half_width']:.3g}"
    return (
        f"{told['judge']}: calibrator {told['sha256'][:12]}, {fitted['method']}, of {fitted['n']:,} labels. On unseen prompts it is off by "
        f"{report['mae_after']['value']:.3g} points (the judge itself by {report['mae_before']['value']:.3g}), "
        f"and {within}."
    )


def find_judge(task: Task, wanted: str) -> Grader:
    """NAME, or NAME@VERSION; a name may hold an @ itself."""
    name, _, version = wanted.rpartition("@")
    graders = Grader.objects.filter(grades__output__task=task).exclude(kind=Grader.Kind.HUMAN).order_by("-pk")
    found = graders.filter(name=wanted).first() or graders.filter(name=name, version=version).first()
    if found is None:
        known = sorted({f"{g.name}@{g.version}" for g in graders.distinct()})
        raise CommandError(f"no judge {wanted!r} graded {task.slug}; judges: {', '.join(known) or 'none yet'}", returncode=2)
    return found
