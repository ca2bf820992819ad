"""The forms of a new queue, of an adjudication queue and of an expected answer: what was given, and what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any
from urllib.parse import urlencode

from reviewapp.calibration.grades import judge_versions
from reviewapp.models import GoldAnswer, Grader, Output, Queue, Rubric, Task, User
from reviewapp.models.queues import MOST_GOLD
from reviewapp.queues.adjudication import Scope, usual_difference
from reviewapp.queues.draw import QueueError, Wish, check_policy

NAMES = ("task", "policy", "size", "judge", "filter", "overlap", "seed", "title", "gold", "tells_gold")
DEFAULTS = {"policy": "random", "size": "50", "overlap": "1", "gold": "0"}
VERDICTS = {"": None, "pass": True, "fail": False}
POLICY_TEXTS = {
    "random": "Every output has the same chance. Right for all figures of calibration.",
    "stratified": "More where people and judge differ more, by the judge's score: fewer labels for the same pass rate.",
    "active": "Each output with a chance in proportion to how far off the judge is expected to be. For pass rates alone.",
    "disagreement": "Where judges differ most, the worst first. To find faults; these labels are in no figure.",
}


def query_of_random_queue(task: Task, judge: Grader | None, **given: Any) -> str:
    """The query with which the form of a new queue begins: random draws for this judge."""
    wish = {"task": task.slug, "policy": "random", "judge": judge and f"{judge.name}@{judge.version}", **given}
    return urlencode({name: value for name, value in wish.items() if value})


class QueueForm:
    """`values` are as they were given; `errors` by field; `wish` when there are none. A judge is NAME@VERSION."""

    most_gold = MOST_GOLD

    def __init__(self, data: Mapping[str, str], user: User) -> None:
        self.may_mix_gold = user.has_role(User.Role.ADJUDICATOR)
        self.values = {name: data.get(name, "").strip() or DEFAULTS.get(name, "") for name in NAMES}
        self.errors: dict[str, str] = {}
        self.task = Task.objects.select_related("rubric").filter(slug=self.values["task"], rubric__isnull=False).first()
        self.judges = [f"{judge.name}@{judge.version}" for judge in _judges(self.task)]

    @property
    def policies(self) -> dict[str, str]:
        return POLICY_TEXTS

    def read(self) -> Wish | None:
        """The wish, or None with `errors` filled."""
        size, overlap, seed, gold = self._whole("size"), self._whole("overlap"), self._whole("seed"), self._gold()
        self._refuse_if(lambda: check_policy(self.values["policy"]))
        if self.task is None:
            known = Task.objects.filter(rubric__isnull=False).values_list("slug", flat=True)
            self.errors["task"] = f"task is {self.values['task'][:80]!r}, allowed: {', '.join(known) or 'none, no task has a rubric'}"
            return None
        wish = Wish(
            task=self.task,
            policy=self.values["policy"],
            size=size or 0,
            judge=self._judge(),
            filter=self.values["filter"],
            overlap=overlap or 0,
            seed=seed,
            title=self.values["title"],
            gold=gold,
            tells_gold=bool(self.values["tells_gold"]),
        )
        self._refuse_if(wish.check)
        return None if self.errors else wish

    def check_address(self, given: Collection[str]) -> None:
        """Fill `errors` for what an address gives, and put the default in its place: a link fills in a part of the form."""
        self.read()
        self.errors = {name: error for name, error in self.errors.items() if name in given}
        self.values |= {name: DEFAULTS.get(name, "") for name in self.errors}

    def _refuse_if(self, check: Callable[[], None]) -> None:
        try:
            check()
        except QueueError as error:
            self.errors.setdefault(error.field, str(error))

    def _judge(self) -> Grader | None:
        wanted = self.values["judge"]
        judges = {f"{judge.name}@{judge.version}": judge for judge in _judges(self.task)}
        if wanted and wanted not in judges:
            self.errors["judge"] = f"judge is {wanted!r}, allowed: {', '.join(judges) or 'none, no judge graded this task'}"
        primary = self.task.primary_grader if self.task else ""
        return judges.get(wanted) or max(judges.values(), key=lambda judge: (judge.rank_for(primary), judge.pk), default=None)

    def _gold(self) -> int:
        share = self._whole("gold") or 0
        if share and not self.may_mix_gold:
            self.errors["gold"] = f"gold is {share} %, allowed: 0. Only adjudicators and admins mix gold items in"
            return 0
        return share

    def _whole(self, name: str) -> int | None:
        text = self.values[name]
        if not text:
            return None
        if not text.isdecimal() or len(text) > 18:
            self.errors[name] = f"{name} is {text[:40]!r}, must be a whole number"
            return None
        return int(text)


def _judges(task: Task | None) -> list[Grader]:
    return judge_versions(task) if task else []


def tasks_to_choose() -> list[Task]:
    return list(Task.objects.filter(rubric__isnull=False).only("slug", "title"))


def context_of(form: QueueForm) -> dict[str, Any]:
    return {"form": form, "tasks": tasks_to_choose(), "default_policy": Queue.Policy.RANDOM.value}


class AdjudicationForm:
    """Which outputs to settle: of a task, or of one sample queue of it (`source`), and how far raters may differ."""

    def __init__(self, data: Mapping[str, str]) -> None:
        self.values = {name: data.get(name, "").strip() for name in ("task", "source", "difference", "title")}
        self.errors: dict[str, str] = {}
        self.source = self._source()
        tasks = Task.objects.select_related("rubric").filter(rubric__isnull=False)
        self.task = self.source.task if self.source else tasks.filter(slug=self.values["task"]).first()
        if self.source:
            self.values["task"] = self.source.task.slug
        self.usual = usual_difference(self.task.rubric if self.task else None)

    def read(self) -> Scope | None:
        """The scope, or None with `errors` filled."""
        if self.task is None:
            known = Task.objects.filter(rubric__isnull=False).values_list("slug", flat=True)
            self.errors["task"] = f"task is {self.values['task'][:80]!r}, allowed: {', '.join(known) or 'none, no task has a rubric'}"
            return None
        difference = self._difference(self.task.rubric)
        if self.errors or difference is None:
            return None
        return Scope(self.task, self.source.pk if self.source else None, difference)

    def _source(self) -> Queue | None:
        number = self.values["source"]
        if not number:
            return None
        pk = int(number) if number.isdecimal() and len(number) < 19 else 0
        found = Queue.objects.select_related("task__rubric").filter(pk=pk, kind=Queue.Kind.SAMPLE).first()
        if found is None:
            self.errors["source"] = (
                f"source is {number[:40]!r}, allowed: the number of a queue that was drawn, or nothing for the whole task"
            )
        return found

    def _difference(self, rubric: Rubric) -> float | None:
        text, span = self.values["difference"], rubric.scale_high - rubric.scale_low
        if not text:
            return self.usual
        value = read_number(text)
        if value is None or not 0 <= value <= span:
            self.errors["difference"] = f"difference is {text[:40]!r}, allowed: a number of points from 0 to {span:g}"
            return None
        return value


def read_answer(data: Mapping[str, str], output: Output, user: User) -> tuple[GoldAnswer | None, str]:
    """(the expected answer of a form, what is wrong with it)."""
    rubric, text, verdict = output.task.rubric, data.get("overall", "").strip(), data.get("passed", "")
    overall = read_number(text)
    if rubric is None:
        return None, "The task has no rubric, so there is no scale for an answer."
    if text and (overall is None or not rubric.scale_low <= overall <= rubric.scale_high):
        return None, f"overall is {text[:40]!r}, allowed: a number from {rubric.scale_low:g} to {rubric.scale_high:g}, or nothing"
    if verdict not in VERDICTS:
        return None, f"passed is {verdict[:40]!r}, allowed: pass, fail, or nothing"
    if overall is None and not verdict:
        return None, "The expected answer is empty: give an overall score, a verdict, or both."
    return GoldAnswer(output=output, overall=overall, passed=VERDICTS[verdict], note=data.get("note", "").strip()[:500], set_by=user), ""


def read_number(text: str) -> float | None:
    """A finite number; None for anything else."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
