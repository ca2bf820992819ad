"""A judge version tried on outputs that people have labelled: how many, up to what it may cost, and what it will cost.

Each version meets the same outputs in the same order, drawn by chance, so that trials of the same size can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from django.http import QueryDict

from graders.judge.grader import JudgeGrader
from reviewapp.jobs import batch
from reviewapp.judges.chance import by_chance
from reviewapp.judges.queries import OnTask
from reviewapp.models import Grade, Grader, Task
from reviewapp.runs.estimate import Plan, plan_gradings
from reviewapp.runs.forms import RunForm


@dataclass
class Trial(RunForm):
    """What a form asks for on one task. `left`: the labelled outputs that this version has not graded, as they are drawn."""

    left: list[int] = field(default_factory=list)
    plan: Plan | None = None

    @cached_property
    def n(self) -> int:
        text = self.value("n")
        if not text:
            return len(self.left)
        if text.isdecimal() and 1 <= int(text[:9]) <= len(self.left):
            return int(text)
        self.refuse("n", text, f"a whole number from 1 to {len(self.left):,}, or empty for all")
        return 0

    @property
    def chosen(self) -> list[int]:
        return self.left[: self.n]

    @property
    def within_limit(self) -> int | None:
        """About so many outputs are graded before the limit stops it; None if it does not."""
        limit, cost = self.limit_usd, self.plan.cost_usd if self.plan else None
        return int(self.n * limit / cost) if limit and cost and cost > limit else None


def trial_of(on: OnTask, row: Grader, plain: JudgeGrader | None, params: QueryDict) -> Trial | None:
    """The trial on a task with its estimate; `params` hold for the task that they name. None where there is nothing to try."""
    if plain is None or not on.n_left:
        return None
    mine = params if params.get("task") == on.task.slug else QueryDict()
    trial = Trial(mine, [on.task], left=left_to_try(on.task, row))
    trial.plan = plan_gradings(on.task, plain, trial.chosen) if trial.n else None
    _ = trial.limit_usd  # so that its error is told
    return trial


def left_to_try(task: Task, row: Grader) -> list[int]:
    graded = set(Grade.objects.filter(grader=row, output__task=task, retraction__isnull=True).values_list("output_id", flat=True))
    left = (pk for pk in batch.select_outputs(task, row, "labelled") if pk not in graded)
    return sorted(left, key=by_chance)
