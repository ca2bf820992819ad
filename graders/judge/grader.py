"""The judge as a grader: k votes through the port, one grade with quotes, spread, cost and tries to steer it.

`grade` is for one output and blocks; `grade_with` is for hundreds at once in one event loop, on a port that they share.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from graders.grade import Grade, grade_of
from graders.judge import JudgeError
from graders.judge.form import JudgeAnswer, check_answer, schema_of
from graders.judge.injection import find_attempts
from graders.judge.judge import Judge, judged_criteria
from graders.judge.prompt import build_request
from graders.judge.votes import Vote, combine, spreads
from llm.budget import Budget
from llm.config import Config, read_config
from llm.errors import CallFailed, ModelError
from llm.port import Port, all_of, connect
from llm.structure import Structured, Unusable, ask_structured
from llm.types import Reply, Request, Usage
from tasks.task import Task, load_tasks

TIMEOUT_S = 600.0
UNKNOWN_SETTINGS = " (a server that knows no thinking needs JUDGE_THINKING=0 and JUDGE_EFFORT=none)"


@dataclass(frozen=True)
class Asking:
    """For what a judge is asked: the run that pays, the attempt that makes its votes differ from earlier ones."""

    scope: str = ""
    nonce: str = ""
    secret: bytes = b""
    budget: Budget | None = None
    timeout_s: float = TIMEOUT_S


class JudgeGrader:
    """One judge for every task that it is given. Its version is the hash of its settings and template."""

    kind = "llm_judge"
    runs_code = False

    def __init__(self, judge: Judge, tasks: Sequence[str]) -> None:
        self.judge = judge
        self.tasks = tuple(tasks)

    @property
    def name(self) -> str:
        return self.judge.name

    @cached_property
    def version(self) -> str:
        return self.judge.version

    @cached_property
    def sha256(self) -> str:
        return self.judge.sha256

    def criteria(self, task: str) -> tuple[str, ...]:
        plain = next(t for t in load_tasks(*task_folders()) if t.slug == task)
        return tuple(c.key for c in judged_criteria(plain))

    def grade(
        self,
        task: Task,
        source: str,
        *,
        timeout_s: float | None = None,
        backend: str = "auto",
        on_progress: Callable[[str], None] | None = None,
    ) -> Grade:
        """Grade one output with a port of its own. Raises JudgeError; `backend` has no meaning here."""
        config = ready_config()
        if on_progress:
            on_progress(f"asking {self.judge.model}")
        asking = Asking(scope="command line", secret=local_secret(config.folder), timeout_s=timeout_s or TIMEOUT_S)

        async def run() -> Grade:
            async with connect(config) as port:
                return await self.grade_with(port, task, source, asking)

        return asyncio.run(run())

    async def grade_with(self, port: Port, task: Task, content: str, asking: Asking) -> Grade:
        """Ask for all votes at once. Raises JudgeError when a vote could not be had for a reason of ours."""
        began = time.monotonic()
        criteria = judged_criteria(task)
        requests = self.requests(task, content, asking)
        results = await all_of(self._vote(port, request, task, asking) for request in requests)
        votes = [vote for vote, _ in results]
        replies = [reply for _, told in results for reply in told]
        return grade_of(
            task.slug,
            task.rubric,
            combine(task.rubric.criteria, criteria, votes, content),
            runs=None,
            duration_s=round(time.monotonic() - began, 3),
            rationale=next((vote.answer.summary for vote in votes if vote.answer), ""),
            cost_usd=_cost(replies),
            grader={"name": self.name, "version": self.version, "sha256": self.sha256},
            judge=self._facts(task, content, votes, replies),
        )

    def requests(self, task: Task, content: str, asking: Asking) -> list[Request]:
        """The calls of all votes, as they are sent when all goes well; what a batch submits."""
        return [
            build_request(self.judge, task, content, secret=asking.secret, nonce=f"{asking.nonce}/{n}", timeout_s=asking.timeout_s)
            for n in range(1, self.judge.votes + 1)
        ]

    async def _vote(self, port: Port, request: Request, task: Task, asking: Asking) -> tuple[Vote, Sequence[Reply]]:
        criteria = judged_criteria(task)
        schema = schema_of(criteria)
        try:
            found: Structured[JudgeAnswer] = await ask_structured(
                port, request, schema, lambda data: check_answer(data, criteria), scope=asking.scope, budget=asking.budget
            )
        except Unusable as error:
            thinking = error.replies[0].thinking
            return Vote(None, error.reason, str(error), thinking), error.replies
        except CallFailed as error:
            hint = UNKNOWN_SETTINGS if error.status in (400, 422) and (request.thinking or request.effort) else ""
            raise JudgeError(f"{self.judge.model}: {error}{hint}") from error
        except ModelError as error:
            raise JudgeError(str(error)) from error
        return Vote(found.answer, thinking=found.replies[0].thinking), found.replies

    def _facts(self, task: Task, content: str, votes: Sequence[Vote], replies: Sequence[Reply]) -> dict[str, Any]:
        usage = sum((reply.usage for reply in replies), Usage())
        return {
            **self.judge.identity(task),
            "votes": len(votes),
            "failed_votes": [{"reason": vote.reason, "text": vote.text[:500]} for vote in votes if vote.answer is None],
            "spread": {key: spread.to_json() for key, spread in spreads(judged_criteria(task), votes).items()},
            "attempts": [attempt.to_json() for attempt in find_attempts(content)],
            "thinking": next((vote.thinking for vote in votes if vote.thinking), "")[:20_000],
            "calls": len(replies),
            "usage": {"input": usage.input, "output": usage.output, "cache_read": usage.cache_read, "cache_write": usage.cache_write},
            "request_ids": [reply.request_id for reply in replies],
        }


def _cost(replies: Sequence[Reply]) -> float | None:
    """None if a call has no known price: a part of a sum is no sum."""
    costs = [reply.cost_usd for reply in replies]
    return None if None in costs else round(sum(cost or 0.0 for cost in costs), 8)


def ready_config() -> Config:
    """The configuration, or JudgeError with what is missing or wrong."""
    try:
        config = read_config()
        config.require_ready()
    except (ValueError, OSError, ModelError) as error:
        raise JudgeError(str(error)) from error
    return config


def local_secret(folder: Path) -> bytes:
    """The key of the boundaries, made once for this machine, however many threads and processes begin at once.

    It is part of each call's hash: whoever used another key than the one that stays would pay for its calls again.
    """
    path = folder / "boundary_key"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder, prefix="boundary_key.") as fresh:  # only its owner can read it
            fresh.write(secrets.token_hex(32))
            fresh.flush()
            with suppress(FileExistsError):
                os.link(fresh.name, path)  # the first one wins, whole; a rename would put the last one in its place
    return path.read_bytes()


def task_folders() -> list[Path]:
    """The shipped tasks and those of TASKS_DIRS, which a judge grades too."""
    from tasks.task import SHIPPED_TASKS  # noqa: PLC0415 - beside what it belongs to

    folders = [Path(part.strip()) for part in os.environ.get("TASKS_DIRS", "").split(",") if part.strip()]
    return [SHIPPED_TASKS, *folders]
