"""What the page is asked for, read from its address; a value that is not allowed is named, and the default holds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.http import QueryDict

from reviewapp.calibration.grades import MODES, judge_versions
from reviewapp.calibration.report import Question, remembered
from reviewapp.calibration.study import DEFAULT_EPSILON
from reviewapp.home.queries import pick_judge
from reviewapp.models import Grader, Task

NAMES = ("judge", "mode", "criterion", "epsilon")
EPSILONS = ((0.2, "experts"), (0.15, "skilled workers"), (0.1, "crowd workers"))


@dataclass(frozen=True)
class Asked:
    question: Question
    problems: tuple[str, ...]
    versions: tuple[Grader, ...]  # every judge that graded the task, oldest first

    def query(self, **changes: Any) -> str:
        """The address of this page with some of it changed; what is the default is left out."""
        asked = self.question
        values: dict[str, Any] = {
            "judge": asked.judge and f"{asked.judge.name}@{asked.judge.version}",
            "mode": asked.mode,
            "criterion": asked.criterion,
            "epsilon": f"{asked.epsilon:g}",
        } | changes
        defaults = {"mode": MODES[0], "criterion": "", "epsilon": f"{DEFAULT_EPSILON:g}"}
        return urlencode({name: value for name, value in values.items() if value and value != defaults.get(name)})

    @property
    def judges(self) -> list[Grader]:
        """The newest version of each judge, but of the one in question that version."""
        newest = {g.name: g for g in self.versions}
        if self.question.judge:
            newest[self.question.judge.name] = self.question.judge
        return sorted(newest.values(), key=lambda g: g.name)


def ask(task: Task, params: QueryDict) -> Asked:
    versions = tuple(remembered(task, "judges", lambda: judge_versions(task)))
    problems: list[str] = []
    judge = pick_judge(versions, task.primary_grader)
    if wanted := params.get("judge", ""):
        names = {f"{g.name}@{g.version}": g for g in versions} | {g.name: g for g in versions}
        judge = names.get(wanted, judge)
        if wanted not in names:
            problems.append(_refusal("judge", wanted, [f"{g.name}@{g.version}" for g in versions] or ["none, nothing was graded yet"]))
    mode = _one_of(params, "mode", MODES, MODES[0], problems)
    keys = [c.key for c in task.rubric.criteria.all()] if task.rubric else []
    criterion = _one_of(params, "criterion", keys, "", problems)
    question = Question(task, judge, mode, criterion, _epsilon(params, problems))
    problems += [f"{name} is no part of this page's address. There are: {', '.join(NAMES)}." for name in params if name not in NAMES]
    return Asked(question, tuple(problems), versions)


def _one_of(params: QueryDict, name: str, allowed: Iterable[str], default: str, problems: list[str]) -> str:
    value = params.get(name, "") or default
    if value == default or value in allowed:
        return value
    problems.append(_refusal(name, value, list(allowed)))
    return default


def _epsilon(params: QueryDict, problems: list[str]) -> float:
    text = params.get("epsilon", "")
    try:
        value = float(text) if text else DEFAULT_EPSILON
    except ValueError:
        value = -1.0
    if 0 <= value <= 1:
        return value
    problems.append(_refusal("epsilon", text, ["a number from 0 to 1, such as 0.2"]))
    return DEFAULT_EPSILON


def _refusal(name: str, value: str, allowed: list[str]) -> str:
    return f"{name} is {value[:60]!r}, allowed: {', '.join(allowed[:12])}. The default is shown."
