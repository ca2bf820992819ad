"""A grader that takes a while, so that a worker can be killed in the middle of its work.

It does as the first line of the source says: `# sleep 0.3`, `# hang`, `# die`, `# no sandbox`, `# crash`.
"""

from __future__ import annotations

import os
import signal
import time

from graders import registry
from graders.grade import CriterionScore, Grade, GraderError, grade_of
from reviewapp.models import Output, Task
from tests.make import make_output


class SlowGrader:
    name = "slow"
    version = "1"
    kind = "code"
    runs_code = False
    tasks = ("code",)
    sha256 = "5" * 64

    def criteria(self, task: str) -> tuple[str, ...]:
        return ("memory_class", "surprise_gate", "learnable_decay")

    def grade(self, task, source, *, timeout_s=None, backend="auto", on_progress=None) -> Grade:
        order, _, value = source.splitlines()[0].removeprefix("# ").partition(" ")
        if order == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if order == "no":
            raise GraderError("no sandbox to run untrusted code in: install bubblewrap")
        if order == "crash":
            raise ZeroDivisionError("division by zero")
        end = time.monotonic() + (float(value) if order == "sleep" else 3600)
        while time.monotonic() < end:
            on_progress("running the program")
            time.sleep(0.02)
        rows = [CriterionScore(c.key, True, c.scale[1], c.weight, "it slept") for c in task.rubric.criteria]
        return grade_of(task.slug, task.rubric, rows, runs=True)


def register() -> None:
    real = registry.all_graders()
    registry.all_graders = lambda: (*real, SlowGrader())


def slow_output(order: str = "sleep 0", **fields) -> Output:
    return make_output(Task.objects.get(slug="code"), f"# {order}\n", **fields)
