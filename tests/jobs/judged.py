"""Outputs for judges, and a server that judges them."""

from __future__ import annotations

from reviewapp.catalog.sync import save_plain_grader, save_task, sync_tasks
from reviewapp.models import Grader, Output, Task
from tasks.task import SHIPPED_TASKS, load_task
from tests.graders.judging import answer, shipped
from tests.make import make_output
from tests.messages_api import Says

TEXT = "# Idea {n}\n\nWe observed that {n} probes fail. A cheap test comes first.\n"


def make_idea_task() -> Task:
    return save_task(load_task(SHIPPED_TASKS / "idea_proposal"))


def make_ideas(n: int, task: Task | None = None) -> list[Output]:
    task = task or make_idea_task()
    return [make_output(task, TEXT.format(n=i)) for i in range(n)]


def judges(score: float = 6.0, wait_s: float = 0.0, quote: str = "A cheap test comes first."):
    """What the server says to every request."""
    said = answer(shipped(), score, quotes=[quote])
    return lambda body: Says(said.text, wait_s=wait_s)


__all__ = ["Grader", "judges", "make_idea_task", "make_ideas", "save_plain_grader", "sync_tasks"]
