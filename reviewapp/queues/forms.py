"""The form of a new queue: what it was given, and the wish it makes or what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reviewapp.calibration.grades import judge_versions
from reviewapp.models import Grader, Queue, Task
from reviewapp.queues.draw import QueueError, Wish

NAMES = ("task", "policy", "size", "judge", "filter", "overlap", "seed", "title")
DEFAULTS = {"policy": "random", "size": "50", "overlap": "1"}
POLICY_TEXTS = {
    "random": "Every output has the same chance. Right for all figures of calibration.",
    "stratified": "More where people and judge differ more, by the judge's score: fewer labels for the same pass rate.",
    "active": "Each output with a chance in proportion to how far off the judge is expected to be. For pass rates alone.",
    "disagreement": "Where judges differ most, the worst first. To find faults; these labels are in no figure.",
}


class QueueForm:
    """`values` are as they were given; `errors` by field; `wish` when there are none. A judge is NAME@VERSION."""

    def __init__(self, data: Mapping[str, str]) -> None:
        self.values = {name: data.get(name, "").strip() or DEFAULTS.get(name, "") for name in NAMES}
        self.errors: dict[str, str] = {}
        self.task = Task.objects.select_related("rubric").filter(slug=self.values["task"], rubric__isnull=False).first()
        self.judges = [f"{judge.name}@{judge.version}" for judge in _judges(self.task)]

    @property
    def policies(self) -> dict[str, str]:
        return POLICY_TEXTS

    def read(self) -> Wish | None:
        """The wish, or None with `errors` filled."""
        if self.task is None:
            known = Task.objects.filter(rubric__isnull=False).values_list("slug", flat=True)
            self.errors["task"] = f"task is {self.values['task']!r}, allowed: {', '.join(known) or 'none, no task has a rubric'}"
            return None
        wish = Wish(
            task=self.task,
            policy=self.values["policy"],
            size=self._whole("size") or 0,
            judge=self._judge(),
            filter=self.values["filter"],
            overlap=self._whole("overlap") or 0,
            seed=self._whole("seed"),
            title=self.values["title"],
        )
        try:
            wish.check()
        except QueueError as error:
            self.errors.setdefault(error.field, str(error))
        return None if self.errors else wish

    def _judge(self) -> Grader | None:
        wanted = self.values["judge"]
        judges = {f"{judge.name}@{judge.version}": judge for judge in _judges(self.task)}
        if wanted and wanted not in judges:
            self.errors["judge"] = f"judge is {wanted!r}, allowed: {', '.join(judges) or 'none, no judge graded this task'}"
        primary = self.task.primary_grader if self.task else ""
        return judges.get(wanted) or max(judges.values(), key=lambda judge: (judge.rank_for(primary), judge.pk), default=None)

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
