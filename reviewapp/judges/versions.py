"""Judge versions that people write, and which grader's verdict is the task's. Both are only ever added to.

A version is named by the hash of its name, model, settings and prompt template (graders/judge/judge.py); the same content is
the same version. The rubric is the task's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

from celery import current_app
from django.db import transaction
from django.db.models import F
from django.http import QueryDict

from graders.judge.judge import MOST_VOTES, PLACES, Judge
from llm.types import EFFORTS, Effort
from reviewapp.catalog.sync import save_grader
from reviewapp.models import Grade, Grader, JudgeVersion, Promotion, Task, User
from reviewapp.rewards import labels

LONGEST_NAME, LONGEST_MODEL, LONGEST_TEMPLATE, LONGEST_NOTE = 60, 200, 100_000, 500
MOST_TOKENS = 200_000
AT_ONCE = 1_000  # outputs whose labels are recomputed within the request


class PromotionError(ValueError):
    """It can't be promoted, or undone; the text says why."""


@dataclass
class JudgeForm:
    """A judge as a form gives it; `errors` by field."""

    params: QueryDict
    start: Judge
    errors: dict[str, str] = field(default_factory=dict)

    def value(self, name: str) -> str:
        if name in self.params:
            return self.params.get(name, "")
        value = getattr(self.start, name, "")
        if name == "effort":
            return value or "none"
        return {True: "1", False: "0"}.get(value, str(value)) if isinstance(value, bool) else str(value)

    @property
    def values(self) -> dict[str, str]:
        return {name: self.value(name) for name in ("name", "model", "effort", "thinking", "votes", "max_tokens", "template", "note")}

    def judge(self) -> Judge | None:
        """The judge, or None with what is wrong in `errors`."""
        told = self.values
        name, model = " ".join(told["name"].split()), told["model"].strip()
        if not 0 < len(name) <= LONGEST_NAME or "@" in name or "/" in name or "\x00" in name:
            self.refuse("name", name, f"1 to {LONGEST_NAME} characters without @ and /")
        if not 0 < len(model) <= LONGEST_MODEL or "\x00" in model:
            self.refuse("model", model, f"1 to {LONGEST_MODEL} characters")
        effort = told["effort"] or "none"
        if effort not in (*EFFORTS, "none"):
            self.refuse("effort", effort, f"{', '.join(EFFORTS)}, none")
        votes = self.whole("votes", MOST_VOTES)
        max_tokens = self.whole("max_tokens", MOST_TOKENS)
        template = told["template"].replace("\r\n", "\n")
        missing = [place for place in PLACES if place not in template]
        if missing:
            self.errors["template"] = f"The prompt lacks {missing[0]}, it must hold: {', '.join(PLACES)}."
        elif len(template) > LONGEST_TEMPLATE or "\x00" in template:
            self.refuse("template", template, f"at most {LONGEST_TEMPLATE:,} characters")
        if self.errors:
            return None
        is_thinking = told["thinking"] == "1"
        chosen = None if effort == "none" else cast(Effort, effort)
        return Judge(name, model, chosen, is_thinking, votes, max_tokens, template)

    def whole(self, name: str, most: int) -> int:
        text = self.value(name).strip()
        if text.isdecimal() and 1 <= int(text[:9]) <= most:
            return int(text)
        self.refuse(name, text, f"a whole number from 1 to {most:,}")
        return 1

    def refuse(self, name: str, value: str, allowed: str) -> None:
        self.errors.setdefault(name, f"{name} is {value[:60]!r}, allowed: {allowed}.")


@transaction.atomic
def save_version(judge: Judge, *, note: str = "", user: User | None = None) -> tuple[JudgeVersion, bool]:
    """The version with this content; True if it is new."""
    row = save_grader(judge.name, judge.version, Grader.Kind.LLM_JUDGE, judge.sha256)
    found = JudgeVersion.objects.filter(grader=row).first()
    if found:
        return found, False
    settings = {"thinking": judge.thinking, "votes": judge.votes, "max_tokens": judge.max_tokens, "template": judge.template}
    about = {"model": judge.model, "effort": judge.effort or "", "note": note[:LONGEST_NOTE], "created_by": user}
    return JudgeVersion.objects.create(grader=row, **settings, **about), True


@transaction.atomic
def promote(task: Task, primary: str, *, user: User | None = None, reason: str = "", undoes: Promotion | None = None) -> Promotion:
    """Make it the task's primary grader ("name" or "name@version"), and its verdicts the judge's in lists and labels."""
    task = Task.objects.select_for_update().get(pk=task.pk)
    if primary == task.primary_grader:
        raise PromotionError(f"{primary} is the primary grader of {task.title} already.")
    made = Promotion.objects.create(
        task=task, primary_grader=primary, before=task.primary_grader, undoes=undoes, reason=reason[:LONGEST_NOTE], by=user
    )
    Task.objects.filter(pk=task.pk).update(primary_grader=primary, revision=F("revision") + 1)
    if task.outputs.count() <= AT_ONCE:
        relabel(task.pk)
    else:
        transaction.on_commit(lambda: current_app.send_task("judges.relabel", args=[task.pk], queue="export", retry=False))
    return made


def undo(promotion: Promotion, *, user: User | None = None) -> Promotion:
    """Back to what was before it; one more row. Raises PromotionError when it is not the newest of its task."""
    newest = Promotion.objects.filter(task=promotion.task).order_by("-id").first()
    if newest is None or newest.pk != promotion.pk:
        raise PromotionError("Only the newest promotion of a task can be undone: another one came after it.")
    return promote(promotion.task, promotion.before, user=user, reason="Undone", undoes=promotion)


def relabel(task_id: int) -> int:
    """Compute the labels of the task's outputs again; doing it twice does no harm."""
    ids = list(Task.objects.get(pk=task_id).outputs.order_by("id").values_list("pk", flat=True))
    labels.refresh(ids)
    return len(ids)


def keep_counting(tasks: Iterable[Task], grader: Grader, user: User | None = None) -> None:
    """Before a judge that people wrote grades outputs of these tasks: the version whose verdicts count goes on counting."""
    if JudgeVersion.objects.filter(grader=grader).exists():
        for task in tasks:
            keep_primary(task, grader, user)


def keep_primary(task: Task, grader: Grader, user: User | None = None) -> Promotion | None:
    """Before another version of the primary judge grades some outputs: hold on to the version whose verdicts count now.

    Else a version that is only tried would give the labels wherever it has graded.
    """
    if task.primary_grader != grader.name:
        return None
    mine = Grade.objects.filter(output__task=task, mode=Grade.Mode.AUTOMATIC, grader__name=grader.name)
    others = mine.exclude(grader__version=grader.version)
    newest = others.order_by("-grader_id").values_list("grader__version", flat=True).first()
    if newest is None or mine.filter(grader__version=grader.version).exists():
        return None
    return promote(task, f"{grader.name}@{newest}", user=user, reason="Kept while another version is tried")
