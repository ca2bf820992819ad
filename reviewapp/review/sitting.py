"""A reviewer at an output: what they have done, and from that what they may see.

Blind until they have committed: whoever has neither submitted a grade of this output nor asked to see the judge
gets nothing of what others said about it. An undone grade still means that the judge was seen.

Two exceptions. Who settles an output for an adjudication queue sees its raters' grades, and no judge's. And who had an
output as gold never sees what other people said of it, unless the queue tells or they may know of gold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from django.db.models import Prefetch, Q, QuerySet, prefetch_related_objects
from django.shortcuts import get_object_or_404

from reviewapp.models import Criterion, CriterionScore, Draft, Grade, Grader, Output, Queue, Rubric, User
from reviewapp.queues.claims import to_adjudicate
from reviewapp.queues.gold import as_if_alone, had_as_gold
from reviewapp.rewards.labels import is_llm_judge

HISTORY_ROWS = 100
JUDGES_SHOWN = 4
PEOPLE_SHOWN = 20
SCORES = Prefetch("criterion_scores", CriterionScore.objects.select_related("criterion"))


@dataclass
class Sitting:
    """`mode` is blind, assisted, override, adjudication (a form), reveal (theirs beside the judge's) or read (a viewer)."""

    output: Output
    user: User
    draft: Draft | None
    # This person's grades of the output, newest first, those taken back too.
    mine: Sequence[Grade]
    grades: list[Grade] = field(default_factory=list)
    # The queue for which this person is to settle the output.
    settles_for: Queue | None = None
    # Whether they graded it as gold, in a queue that tells.
    is_told_gold: bool = False

    @property
    def standing(self) -> Grade | None:
        """This person's newest grade that was not taken back."""
        return next((grade for grade in self.mine if not is_retracted(grade)), None)

    @property
    def base(self) -> int:
        """The grade that a submit follows: the same form sent twice names the same one, and makes one grade."""
        return self.mine[0].pk if self.mine else 0

    @property
    def mode(self) -> str:
        if not self.user.has_role(User.Role.REVIEWER):
            return "read"
        if self.settles_for:
            return "adjudication"
        if self.draft and self.draft.mode == Grade.Mode.ADJUDICATION:
            return "assisted"  # somebody else has settled it since
        if self.draft and self.draft.mode != Grade.Mode.BLIND:
            return self.draft.mode
        if self.standing:
            return "reveal"
        has_seen = self.mine or self.user.may_have_seen_judge(self.output.created_at)
        return "assisted" if has_seen else "blind"

    @property
    def is_form(self) -> bool:
        return self.mode in ("blind", "assisted", "override", "adjudication")

    @property
    def sees_judge(self) -> bool:
        return self.mode not in ("blind", "adjudication")

    @property
    def names_raters(self) -> bool:
        """Whether the raters whose grades are to be settled are named: to admins, who answer for the whole."""
        return self.user.has_role(User.Role.ADMIN)

    @property
    def target(self) -> Grade | None:
        """The judge's grade that an override takes the place of."""
        return self.draft.supersedes if self.draft and self.mode == "override" else None

    @cached_property
    def rubric(self) -> Rubric | None:
        rubric = self.target.rubric if self.target else self.output.task.rubric
        if rubric:
            prefetch_related_objects([rubric], "criteria")
        return rubric

    @cached_property
    def criteria(self) -> list[Criterion]:
        return list(self.rubric.criteria.all()) if self.rubric else []

    @property
    def seen(self) -> int:
        """The newest grade that this page knows of."""
        return self.grades[0].pk if self.grades else 0

    @cached_property
    def judges(self) -> list[Grade]:
        """The newest grade of each grader, the task's primary one first, a code grader beside a judge last."""
        newest: dict[str, Grade] = {}
        primary = self.output.task.primary_grader
        for grade in self.grades:
            if not grade.is_human and not is_retracted(grade):
                known = newest.setdefault(grade.grader.name, grade)
                if grade.grader.rank_for(primary) > known.grader.rank_for(primary):
                    newest[grade.grader.name] = grade  # the version that was promoted, though another one graded later
        is_aside = {g.pk: is_llm_judge(primary) and g.grader.kind == Grader.Kind.CODE for g in newest.values()}
        return sorted(newest.values(), key=lambda g: (-g.grader.rank_for(primary), is_aside[g.pk], -g.pk))[:JUDGES_SHOWN]

    @cached_property
    def judge(self) -> Grade | None:
        return self.target or (self.judges[0] if self.judges else None)

    @cached_property
    def people(self) -> list[Grade]:
        """The newest standing grade of each other person; of an output to settle, those of its raters."""
        newest: dict[str, Grade] = {}
        for grade in self.grades:
            if grade.is_human and grade.rater_id != self.user.pk and not is_retracted(grade):
                newest.setdefault(grade.rater_name, grade)
        return list(newest.values())[:PEOPLE_SHOWN]


def is_retracted(grade: Grade) -> bool:
    return hasattr(grade, "retraction")


def sit_down(user: User, pk: int, *, lock: bool = False) -> Sitting:
    """Load what this person may see of output `pk`, and nothing else. `lock` is for who is going to write."""
    outputs = Output.objects.select_related("task__rubric", "variant", "prompt", "run")
    if lock:
        # One writer an output: a form sent twice at once makes one grade.
        Output.objects.select_for_update().only("pk").filter(pk=pk).first()
    output = get_object_or_404(outputs, pk=pk)
    draft = Draft.objects.filter(output=output, reviewer=user).select_related("supersedes__rubric", "supersedes__grader").first()
    mine = output.grades.filter(rater=user).select_related("retraction", "grader", "rubric").defer("run_log").order_by("-id")
    sitting = Sitting(output, user, draft, list(mine), settles_for=to_adjudicate(user, output))
    if sitting.sees_judge or sitting.settles_for:
        sitting.grades = list(_visible_grades(sitting)[:HISTORY_ROWS])
        _load_scores(sitting)
    elif sitting.standing:
        prefetch_related_objects([sitting.standing], SCORES)
    return sitting


def _visible_grades(sitting: Sitting) -> QuerySet[Grade]:
    grades = sitting.output.grades.select_related("grader", "rater", "rubric", "retraction__by").defer("run_log").order_by("-id")
    if sitting.settles_for:
        return grades.exclude(mode=Grade.Mode.AUTOMATIC)
    is_secret, sitting.is_told_gold = had_as_gold(sitting.user, sitting.output)
    if is_secret:
        as_if_alone([sitting.output], sitting.user)
        return grades.filter(Q(mode=Grade.Mode.AUTOMATIC) | Q(rater=sitting.user))
    return grades


def _load_scores(sitting: Sitting) -> None:
    """The scores of the grades that the panel shows, in one query."""
    shown = [*sitting.judges, *sitting.people]
    shown += [grade for grade in (sitting.standing, sitting.target) if grade]
    # The same grade can stand here twice as two objects; each needs its scores.
    prefetch_related_objects(shown, SCORES)
