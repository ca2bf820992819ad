"""Grader name and version -> grader. The one place that knows which graders exist."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

from graders.citations.grader import CitationsGrader
from graders.code.fsdp_training import FSDPTrainingGrader
from graders.code.memory_optimization import MemoryOptimizationGrader
from graders.code.neural_memory import NeuralMemoryGrader
from graders.code.text_match import TextMatchGrader
from graders.grade import Grade, GraderError
from graders.judge.grader import JudgeGrader, ready_config, task_folders
from graders.judge.judge import judged_criteria, read_judge
from tasks.task import Task, load_tasks

Progress = Callable[[str], None]


class Grader(Protocol):
    """What every grader offers. `sha256` names the exact source that judges, its probes included."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def runs_code(self) -> bool: ...  # it runs what was handed in, so it needs a sandbox
    @property
    def tasks(self) -> tuple[str, ...]: ...
    @property
    def sha256(self) -> str: ...

    def criteria(self, task: str) -> tuple[str, ...]:
        """The keys of the criteria that it scores for a task."""
        ...

    def grade(
        self,
        task: Task,
        source: str,
        *,
        timeout_s: float | None = None,
        backend: str = "auto",
        on_progress: Progress | None = None,
    ) -> Grade:
        """Grade one submission. Raises GraderError when it can't for a reason of ours."""
        ...


@lru_cache(maxsize=1)
def all_graders() -> tuple[Grader, ...]:
    """Every grader, the newest version of a name last. Raises GraderError if the judge's settings are wrong."""
    try:
        judge = JudgeGrader(read_judge(), [task.slug for task in load_tasks(*task_folders()) if judged_criteria(task)])
    except ValueError as error:
        raise GraderError(str(error)) from error
    return (NeuralMemoryGrader(), FSDPTrainingGrader(), MemoryOptimizationGrader(), CitationsGrader(), TextMatchGrader(), judge)


def why_not_ready(grader: Grader) -> str:
    """What keeps a judge from working, as things are set up now; "" for a grader that can start."""
    if grader.kind != "llm_judge":
        return ""
    try:
        ready_config()
    except GraderError as error:
        return str(error)
    return ""


def get(name: str, version: str | None = None) -> Grader:
    """The grader of that name; without `version` its newest. Raises GraderError naming those that exist."""
    found = [g for g in all_graders() if g.name == name and version in (None, g.version)]
    if not found:
        known = ", ".join(f"{g.name}@{g.version}" for g in all_graders())
        raise GraderError(f"no grader {name}{f'@{version}' if version else ''}; there are: {known}")
    return found[-1]


def for_task(slug: str) -> list[Grader]:
    """The graders that can grade a task, the most thorough first; empty when only people and judges can."""
    return [g for g in all_graders() if slug in g.tasks]
