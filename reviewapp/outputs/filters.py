"""The filters of the outputs page, read from a query string and written back to one.

A value that can't be read is named in `problems` with what is allowed, and left out; the others hold.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import urlencode

from django.http import QueryDict

from reviewapp.models import Grader, Output, Run, Task, Variant

VERDICTS = ("pass", "fail", "undecided")
LABEL_STATES = tuple(Output.LabelState.values)
SCORES = ("label", "judge", "human")
YES_NO = ("yes", "no")
# What the page itself adds to the query string.
PAGE_NAMES = ("sort", "after")
LARGEST_ID = 2**63 - 1
LARGEST_SCORE = 1e12
MAX_TEXT = 255
MAX_SEARCH = 500
MAX_IDS = 400


@dataclass(frozen=True)
class Filters:
    """Which outputs. Empty fields keep everything."""

    task: tuple[str, ...] = ()
    model: str = ""
    variant: str = ""
    run: int | None = None
    grader: str = ""
    passed: str = ""
    judge: str = ""
    score_of: str = ""
    score_min: float | None = None
    score_max: float | None = None
    label: str = ""
    reviewer: str = ""
    disagreement_min: float | None = None
    failure: str = ""
    sample: str = ""
    flagged: str = ""
    ids: tuple[int, ...] = ()
    q: str = ""

    @property
    def query(self) -> str:
        """The query string that is read as these filters; empty when there are none."""
        pairs: list[tuple[str, Any]] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "ids" and value:
                pairs.append(("ids", ".".join(map(str, value))))
            elif isinstance(value, tuple):
                pairs += [(field.name, one) for one in value]
            elif isinstance(value, float):
                pairs.append((field.name, f"{value:g}" if float(f"{value:g}") == value else repr(value)))
            elif value not in ("", None):
                pairs.append((field.name, value))
        return urlencode(pairs)

    def without(self, name: str, value: str = "") -> Filters:
        """These filters less one; of several tasks, less that one."""
        if name == "task" and value:
            return replace(self, task=tuple(slug for slug in self.task if slug != value))
        names = ("score_min", "score_max", "score_of") if name == "score_of" else (name,)
        defaults = Filters()
        return replace(self, **{one: getattr(defaults, one) for one in names})

    def __bool__(self) -> bool:
        return replace(self, score_of="") != Filters()


NAMES = tuple(field.name for field in fields(Filters))
# Filters that tell what the judge, or another reviewer, said of an output.
TELLING = ("passed", "judge", "score_of", "score_min", "score_max", "disagreement_min", "failure")


@dataclass(frozen=True)
class Choices:
    """What the named filters can be: four small queries."""

    tasks: tuple[Task, ...]
    variants: tuple[str, ...]
    graders: tuple[str, ...]
    runs: tuple[Run, ...]

    @property
    def revision(self) -> int:
        """Goes up with every change of any task's outputs or grades."""
        return sum(task.revision for task in self.tasks) + len(self.tasks)


RUNS_LISTED = 100


def load_choices() -> Choices:
    return Choices(
        tasks=tuple(Task.objects.only("id", "slug", "title", "revision", "graders")),
        variants=tuple(Variant.objects.order_by("name").values_list("name", flat=True).distinct()),
        graders=tuple(Grader.objects.order_by("name").values_list("name", flat=True).distinct()),
        runs=tuple(Run.objects.only("id", "title", "created_at")[:RUNS_LISTED]),
    )


def parse(params: QueryDict, choices: Choices | None = None) -> tuple[Filters, list[str]]:
    """The filters, and a sentence on each value that was left out."""
    choices = choices or load_choices()
    read = _Reader(params)
    filters = Filters(
        task=read.several("task", [task.slug for task in choices.tasks]),
        model=read.text("model"),
        variant=read.one_of("variant", choices.variants),
        run=_run(read, choices),
        grader=read.one_of("grader", choices.graders),
        passed=read.one_of("passed", VERDICTS),
        judge=read.one_of("judge", VERDICTS),
        score_of=read.one_of("score_of", SCORES),
        score_min=read.number("score_min"),
        score_max=read.number("score_max"),
        label=read.one_of("label", LABEL_STATES),
        reviewer=read.text("reviewer"),
        disagreement_min=read.number("disagreement_min"),
        failure=read.text("failure"),
        sample=read.one_of("sample", YES_NO),
        flagged=read.one_of("flagged", YES_NO),
        ids=_ids(read),
        q=read.text("q", MAX_SEARCH),
    )
    low, high = filters.score_min, filters.score_max
    if low is not None and high is not None and low > high:
        read.refuse("score_min", f"{low:g}", f"at most score_max, which is {high:g}")
        filters = filters.without("score_of")
    if unknown := [name for name in params if name not in NAMES and name not in PAGE_NAMES]:
        read.problems.append(f"{_shown(', '.join(unknown))} is no filter. There are: {', '.join(NAMES)}.")
    return filters, read.problems


def parse_query(query: str) -> tuple[Filters, list[str]]:
    """The same from a query string, such as a saved view or a dataset has."""
    try:
        return parse(QueryDict(query.lstrip("?")))
    except Exception as error:  # too many fields: Django has no common base for what it refuses
        return Filters(), [f"The filter {_shown(query)} can't be read: {error}."]


class _Reader:
    """Reads one value at a time. An empty one is none given, as forms send it."""

    def __init__(self, params: QueryDict) -> None:
        self._params = params
        self.problems: list[str] = []

    def refuse(self, name: str, value: str, allowed: str) -> None:
        self.problems.append(f"{name} is {_shown(value)}, allowed: {allowed}. It was left out.")

    def text(self, name: str, limit: int = MAX_TEXT) -> str:
        value = self._params.get(name, "").strip()
        if len(value) > limit:
            self.refuse(name, value, f"at most {limit} characters")
            return ""
        if "\x00" in value:
            self.refuse(name, value, "text without null characters")
            return ""
        return value

    def one_of(self, name: str, allowed: Collection[str]) -> str:
        value = self.text(name)
        if value and value not in allowed:
            self.refuse(name, value, _listed(allowed))
            return ""
        return value

    def several(self, name: str, allowed: Collection[str]) -> tuple[str, ...]:
        values = [value.strip() for value in dict.fromkeys(self._params.getlist(name)) if value.strip()]
        for value in values:
            if value not in allowed:
                self.refuse(name, value, _listed(allowed))
        return tuple(dict.fromkeys(value for value in values if value in allowed))

    def number(self, name: str) -> float | None:
        value = self.text(name)
        if not value:
            return None
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not abs(number) <= LARGEST_SCORE:
            self.refuse(name, value, "a number such as 6.5")
            return None
        return number

    def whole(self, name: str) -> int | None:
        value = self.text(name)
        if value and not is_id(value):
            self.refuse(name, value, "a whole number such as 12")
            return None
        return int(value) if value else None


def is_id(text: str) -> bool:
    return bool(re.fullmatch(r"[0-9]{1,19}", text)) and int(text) <= LARGEST_ID


def _run(read: _Reader, choices: Choices) -> int | None:
    run = read.whole("run")
    if run is None or run in {known.pk for known in choices.runs} or Run.objects.filter(pk=run).exists():
        return run
    read.refuse("run", str(run), "the id of a run")
    return None


def _ids(read: _Reader) -> tuple[int, ...]:
    text = read.text("ids", 20 * MAX_IDS)
    found = [part for part in re.split(r"[.,\s]+", text) if part]
    if not all(is_id(part) for part in found):
        read.refuse("ids", text, "ids of outputs with dots between them, such as 12.15.19")
        return ()
    if len(found) > MAX_IDS:
        read.refuse("ids", f"{len(found)} ids", f"at most {MAX_IDS}")
        return ()
    return tuple(dict.fromkeys(int(part) for part in found))


def _listed(allowed: Iterable[str], limit: int = 12) -> str:
    names = list(allowed)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "none, there are none yet") + more


def _shown(value: str, limit: int = 60) -> str:
    return repr(value if len(value) <= limit else value[:limit] + "…")
