"""The small tables that every row refers to, read once: tasks, variants, rubrics, criteria, graders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from reviewapp.models import Criterion, Grader, Rubric, Task, Variant
from reviewapp.rewards.spec import SpecError


@dataclass(frozen=True)
class TaskFacts:
    id: int
    slug: str
    title: str
    primary_grader: str


@dataclass(frozen=True)
class CriterionFacts:
    key: str
    title: str
    weight: float
    kind: str
    scale: tuple[float, float]


@dataclass(frozen=True)
class RubricFacts:
    task_id: int
    version: int
    sha256: str
    scale: tuple[float, float]
    criteria: list[CriterionFacts] = field(default_factory=list)

    @cached_property
    def weights(self) -> tuple[tuple[str, float], ...]:
        return tuple((c.key, c.weight) for c in self.criteria)


class Known(dict[int, Any]):
    """Row id -> what is known of it; read again when an id is asked for that came after the last reading."""

    def __init__(self, read: Callable[[], dict[int, Any]]) -> None:
        super().__init__(read())
        self._read = read

    def __missing__(self, pk: int) -> Any:
        found = self._read()
        self.update(found)
        return found[pk]


@dataclass(frozen=True)
class Catalog:
    """`tasks` are those of the export, by slug; the rest is the whole workspace's, by row id."""

    tasks: tuple[TaskFacts, ...]
    variants: Mapping[int, str]
    rubrics: Mapping[int, RubricFacts]
    criterion_keys: Mapping[int, str]
    graders: Mapping[int, tuple[str, str, str]]

    @cached_property
    def criteria(self) -> dict[str, bool]:
        """Criterion key -> is it a number in every rubric; all rubric versions of the export's tasks, oldest first."""
        found: dict[str, bool] = {}
        ids = {task.id for task in self.tasks}
        for rubric in self.rubrics.values():
            if rubric.task_id in ids:
                for c in rubric.criteria:
                    found[c.key] = found.get(c.key, True) and c.kind != "categorical"
        return found


def read_catalog(slugs: tuple[str, ...]) -> Catalog:
    """Six queries. Raises SpecError naming a task that isn't there."""
    rows = [TaskFacts(*row) for row in Task.objects.order_by("slug").values_list("id", "slug", "title", "primary_grader")]
    known = [task.slug for task in rows]
    for slug in slugs:
        if slug not in known:
            raise SpecError("tasks", f"task {slug!r} is unknown, there are: {', '.join(known) or 'none yet'}")
    return Catalog(
        tasks=tuple(task for task in rows if not slugs or task.slug in slugs),
        variants=Known(lambda: dict(Variant.objects.values_list("id", "name"))),
        rubrics=Known(_read_rubrics),
        criterion_keys=Known(lambda: dict(Criterion.objects.values_list("id", "key"))),
        graders=Known(lambda: {pk: tuple(rest) for pk, *rest in Grader.objects.values_list("id", "name", "version", "kind")}),
    )


def _read_rubrics() -> dict[int, RubricFacts]:
    fields = ("id", "task_id", "version", "sha256", "scale_low", "scale_high")
    rubrics = {
        pk: RubricFacts(task_id, version, sha256, (low, high))
        for pk, task_id, version, sha256, low, high in Rubric.objects.order_by("task__slug", "version").values_list(*fields)
    }
    criteria = Criterion.objects.filter(rubric_id__in=list(rubrics)).order_by("rubric_id", "position")
    for rubric_id, key, title, weight, kind, low, high in criteria.values_list(
        "rubric_id", "key", "title", "weight", "kind", "scale_low", "scale_high"
    ):
        rubrics[rubric_id].criteria.append(CriterionFacts(key, title, weight, kind, (low, high)))
    return rubrics
