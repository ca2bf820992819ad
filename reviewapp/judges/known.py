"""Every grader that can grade here: those of the code and the environment (graders/registry.py), and judges that people wrote."""

from __future__ import annotations

from collections.abc import Sequence

from graders import registry
from graders.grade import GraderError
from graders.judge.grader import JudgeGrader
from reviewapp.catalog.sync import save_plain_grader
from reviewapp.models import Grader, JudgeVersion, Task


def saved_judges() -> list[JudgeGrader]:
    """The judge versions that people wrote, oldest first; each grades every task that has a rubric. Two queries."""
    versions = list(JudgeVersion.objects.select_related("grader").order_by("id"))
    tasks = _tasks_with_rubric() if versions else ()
    return [JudgeGrader(version.judge, tasks) for version in versions]


def graders_of(slug: str) -> list[registry.Grader]:
    """The graders that can grade a task, each version once."""
    found = {(g.name, g.version): g for g in registry.for_task(slug)}
    for judge in saved_judges():
        if slug in judge.tasks:
            found.setdefault((judge.name, judge.version), judge)
    return list(found.values())


def saved_of(slug: str) -> list[JudgeGrader]:
    """The judges that people wrote which can grade a task, without the one that is set up here, newest first."""
    setup = {(g.name, g.version) for g in registry.for_task(slug)}
    return [judge for judge in reversed(saved_judges()) if slug in judge.tasks and (judge.name, judge.version) not in setup]


def find(graders: Sequence[registry.Grader], text: str) -> registry.Grader | None:
    """The one named "name@version"; by the name alone the one that is set up here, else the newest that people wrote."""
    exact = [g for g in graders if f"{g.name}@{g.version}" == text]
    named = [g for g in graders if g.name == text]
    setup = {(g.name, g.version) for g in registry.all_graders()} if named else set()
    return next(iter([*exact, *(g for g in named if (g.name, g.version) in setup), *reversed(named)]), None)


def plain_of(row: Grader) -> registry.Grader:
    """The grader of a row, in the version that the row has. Raises GraderError."""
    version = JudgeVersion.objects.select_related("grader").filter(grader=row).first()
    if version is None:
        return registry.get(row.name, row.version)
    try:
        return JudgeGrader(version.judge, _tasks_with_rubric())
    except ValueError as error:
        raise GraderError(f"{row} can't be made any more: {error}") from error


def row_of(plain: registry.Grader) -> Grader:
    return save_plain_grader(plain)


def _tasks_with_rubric() -> tuple[str, ...]:
    return tuple(Task.objects.filter(rubric__isnull=False).order_by("slug").values_list("slug", flat=True))
