"""Judge an output through the scripted server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from graders.grade import Grade
from graders.judge.grader import Asking, JudgeGrader
from graders.judge.judge import Judge, judged_criteria
from llm.port import Port, connect
from tasks.task import SHIPPED_TASKS, Task, load_task
from tests.graders.injections import IDEA
from tests.llm.calling import config_for
from tests.messages_api import MessagesApi, Says

ASKING = Asking(scope="test", nonce="1", secret=b"secret of the tests")


def shipped(slug: str = "idea_proposal") -> Task:
    return load_task(SHIPPED_TASKS / slug)


def answer(task: Task, scores: Any = 6.0, quotes: list[str] | None = None, **criteria: Any) -> Says:
    """An answer that gives each criterion this score or verdict, but for those named."""
    rows = {}
    for c in judged_criteria(task):
        said = criteria.get(c.key, scores)
        decision = {"verdict": said} if c.kind == "binary" else {"score": said}
        rows[c.key] = {"rationale": f"Because of {c.key}.", "quotes": quotes or [], **decision}
    return Says(json.dumps({"criteria": rows, "summary": "Ordinary."}))


def judge_output(api: MessagesApi, folder: Any, content: str = IDEA, task: Task | None = None, **settings: Any) -> Grade:
    task = task or shipped()
    grader = JudgeGrader(Judge(**{"votes": 1, **settings}), [task.slug])

    async def run() -> Grade:
        async with connect(config_for(api, folder)) as port:
            port.first_wait_s = 0.01
            return await grader.grade_with(port, task, content, ASKING)

    return asyncio.run(run())


def run_with_port(api: MessagesApi, folder: Any, work: Any) -> Any:
    async def run() -> Any:
        async with connect(config_for(api, folder)) as port:
            return await work(port)

    return asyncio.run(run())


__all__ = ["ASKING", "Port", "answer", "judge_output", "run_with_port", "shipped"]
