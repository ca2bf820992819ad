"""What a new run is asked for, read from a form; each field that can't be read says what it saw and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from django.http import QueryDict

from graders import registry
from llm.types import EFFORTS
from reviewapp.jobs import batch
from reviewapp.judges import known
from reviewapp.models import Grade, Grader, Task, User, Variant
from reviewapp.outputs.filters import parse_query
from reviewapp.outputs.queries import filtered
from reviewapp.runs.graded import default_of
from reviewapp.runs.start import MOST_UNITS

MOST_MODELS, LONGEST_MODEL, MOST_N, MOST_TURNS = 20, 200, 1_000, 500
WHICH = {
    "ungraded": "those that this grader has not graded",
    "labelled": "those that people have graded",
    "all": "all, newest version of each",
    "filter": "those that match a filter",
}


@dataclass
class RunForm:
    """`values` as they were given, for the form; `errors` by field."""

    params: QueryDict
    tasks: Sequence[Task]
    errors: dict[str, str] = field(default_factory=dict)

    def value(self, name: str, default: str = "") -> str:
        return self.params.get(name, default).strip()

    @cached_property
    def task(self) -> Task | None:
        slugs = {task.slug: task for task in self.tasks}
        slug = self.value("task")
        if slug and slug not in slugs:
            self.refuse("task", slug, ", ".join(slugs) or "none, there are none yet")
        return slugs.get(slug) or (self.tasks[0] if self.tasks else None)

    @cached_property
    def limit_usd(self) -> float | None:
        text = self.value("limit_usd")
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if math.isfinite(value) and 0 < value <= 1e6:
            return value
        self.refuse("limit_usd", text, "an amount of US dollars above 0, or empty")
        return None

    def refuse(self, name: str, value: str, allowed: str) -> None:
        self.errors.setdefault(name, f"{name} is {value[:60]!r}, allowed: {allowed}.")


@dataclass
class GradingForm(RunForm):
    """Which grader on which outputs of a task."""

    user: User | None = None

    @cached_property
    def graders(self) -> list[registry.Grader]:
        return known.graders_of(self.task.slug) if self.task else []

    @cached_property
    def grader(self) -> registry.Grader | None:
        text = self.value("grader")
        found = known.find(self.graders, text) if text else None
        if text and found is None and self.value("task_was") in ("", self.task.slug if self.task else ""):
            self.refuse("grader", text, ", ".join(f"{g.name}@{g.version}" for g in self.graders) or "none grades this task here")
        return found or (self.graders[0] if self.graders else None)

    @cached_property
    def row(self) -> Grader | None:
        return known.row_of(self.grader) if self.grader else None

    @property
    def which(self) -> str:
        which = self.value("which", "ungraded") or "ungraded"
        if which in WHICH:
            return which
        self.refuse("which", which, ", ".join(WHICH))
        return "ungraded"

    @property
    def again(self) -> bool:
        return self.value("again") == "1"

    @cached_property
    def output_ids(self) -> list[int]:
        if self.task is None or self.row is None:
            return []
        if self.which == "filter":
            filters, problems = parse_query(self.value("filter"))
            if problems:
                self.errors.setdefault("filter", " ".join(problems))
                return []
            outputs = filtered(filters, self.user).filter(task=self.task)
            ids = list(outputs.order_by("pk").values_list("pk", flat=True)[: MOST_UNITS + 1])
        else:
            ids = batch.select_outputs(self.task, self.row, self.which)
        if not self.again:
            graded = set(Grade.objects.filter(grader=self.row, output__task=self.task).values_list("output_id", flat=True))
            ids = [pk for pk in ids if pk not in graded]
        if len(ids) > MOST_UNITS:
            self.errors.setdefault("which", f"{len(ids):,} outputs, at most {MOST_UNITS:,} in one run: take a filter.")
        return ids

    def check(self) -> bool:
        """Read everything; True if a run can be started."""
        ids, _ = self.output_ids, self.limit_usd
        if not ids and not self.errors:
            self.errors["which"] = "No output is left to grade: choose others, or tick “again”."
        if self.grader and (why := registry.why_not_ready(self.grader)):
            self.errors.setdefault("grader", f"The judge can't be asked: {why}.")
        return not self.errors


@dataclass
class RolloutForm(RunForm):
    """Task x variants x models x n."""

    @cached_property
    def all_variants(self) -> list[Variant]:
        return list(self.task.variants.filter(is_current=True).exclude(prompt="")) if self.task else []

    @cached_property
    def variants(self) -> list[Variant]:
        wanted = self.params.getlist("variant")
        names = {variant.name: variant for variant in self.all_variants}
        if self.value("task_was") not in ("", self.task.slug if self.task else ""):
            return self.all_variants  # the task was changed, and the ticks are the other one's
        if unknown := [name for name in wanted if name not in names]:
            self.refuse("variant", unknown[0], ", ".join(names) or "none, this task has no prompts here")
        return [names[name] for name in dict.fromkeys(wanted) if name in names]

    @cached_property
    def models(self) -> list[str]:
        found = list(dict.fromkeys(part.strip() for part in self.value("models").replace("\n", ",").split(",") if part.strip()))
        if len(found) > MOST_MODELS or any(len(name) > LONGEST_MODEL or "/" in name[:1] or "\x00" in name for name in found):
            self.refuse("models", ", ".join(found), f"1 to {MOST_MODELS} names with commas between them")
            return []
        return found

    @cached_property
    def all_graders(self) -> list[registry.Grader]:
        return known.graders_of(self.task.slug) if self.task else []

    @cached_property
    def graders(self) -> list[registry.Grader]:
        """Those that are ticked; of a form that is not filled in yet, or whose task was changed, the task's primary one."""
        was_changed = self.value("task_was") not in ("", self.task.slug if self.task else "")
        if self.task and (was_changed or not self.is_filled):
            primary = default_of(self.task, self.all_graders)
            return [primary] if primary else []
        names = {f"{g.name}@{g.version}": g for g in self.all_graders}
        wanted = dict.fromkeys(self.params.getlist("grader"))
        if unknown := [name for name in wanted if name not in names]:
            self.refuse("grader", unknown[0], ", ".join(names) or "none grades this task here")
        return [names[name] for name in wanted if name in names]

    @property
    def is_filled(self) -> bool:
        return bool(self.params.get("models") or self.params.getlist("variant"))

    @cached_property
    def n(self) -> int:
        text = self.value("n", "10") or "10"
        if text.isdecimal() and 1 <= int(text[:9]) <= MOST_N:
            return int(text)
        self.refuse("n", text, f"a whole number from 1 to {MOST_N:,}")
        return 1

    @cached_property
    def turns(self) -> int | None:
        text = self.value("turns")
        if text and not (text.isdecimal() and 1 <= int(text[:9]) <= MOST_TURNS):
            self.refuse("turns", text, f"a whole number from 1 to {MOST_TURNS}, or empty")
            return None
        return int(text) if text else None

    @property
    def effort(self) -> str:
        effort = self.value("effort", "none") or "none"
        if effort not in (*EFFORTS, "none"):
            self.refuse("effort", effort, f"{', '.join(EFFORTS)}, none")
            return "none"
        return effort

    @property
    def settings(self) -> dict[str, object]:
        """How the agent works, as runs/rollouts.py reads it; what is left as usual is left out."""
        told = {"effort": self.effort if self.effort != "none" else None, "thinking": self.value("thinking") == "1", "turns": self.turns}
        return {name: value for name, value in told.items() if value}

    @property
    def units(self) -> int:
        return len(self.variants) * len(self.models) * self.n

    def check(self) -> bool:
        _ = self.task, self.limit_usd, self.settings, self.graders
        if not self.variants:
            self.errors.setdefault("variant", "No prompt variant is ticked.")
        if not self.models:
            self.errors.setdefault("models", "No model is named.")
        if self.units > MOST_UNITS:
            self.errors.setdefault("n", f"{self.units:,} rollouts, at most {MOST_UNITS:,} in one run.")
        return not self.errors
