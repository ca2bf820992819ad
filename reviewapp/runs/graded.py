"""Gradings that a run of rollouts asks for: each output is graded when its rollout ends, as jobs of the same run.

They are made in the transaction that ends the rollout, so none is lost or made twice; they pause, stop and are paid with the
run. A judge's wait in its queue, a code grader's in that of the sandbox. An output without content is not graded.
"""

from __future__ import annotations

from collections.abc import Sequence

from graders import registry
from graders.judge.grader import JudgeGrader
from reviewapp.jobs.queue import enqueue_gradings
from reviewapp.judges import known
from reviewapp.judges.versions import keep_counting
from reviewapp.models import Grader, Job, Output, Run, Task, User


def default_of(task: Task, able: Sequence[registry.Grader]) -> registry.Grader | None:
    """The task's primary grader, if it runs here."""
    return known.find(able, task.primary_grader) if task.primary_grader else None


def ask_for(run: Run, task: Task, graders: Sequence[Grader], user: User | None = None) -> None:
    """Have these graders grade the run's outputs, too: those that are there now, and each one to come."""
    ids = list(dict.fromkeys([*run.arguments.get("grader_ids", []), *(grader.pk for grader in graders)]))
    named = dict.fromkeys([*run.arguments.get("graders", []), *(f"{grader.name}@{grader.version}" for grader in graders)])
    models = [plain.judge.model for plain in map(known.plain_of, graders) if isinstance(plain, JudgeGrader)]
    run.arguments |= {"grader_ids": ids, "graders": list(named), "judged_by": [*run.arguments.get("judged_by", []), *models]}
    run.save(update_fields=["arguments"])
    for grader in graders:
        keep_counting([task], grader, user)
    done = Output.objects.filter(run=run, is_latest=True, content_missing="").order_by("pk")
    grade(run, list(done.values_list("pk", flat=True)))


def grade(run: Run, outputs: Sequence[int]) -> None:
    """Queue the gradings that the run asks for of these outputs. What is graded or under way already stays."""
    limit = {"limit_usd": run.arguments["limit_usd"]} if "limit_usd" in run.arguments else {}
    is_paused = Job.objects.filter(run=run, state=Job.State.PAUSED).exists()
    for grader in Grader.objects.filter(pk__in=run.arguments.get("grader_ids", [])) if outputs else ():
        arguments = {"scope": run.scope, **limit} if grader.kind == Grader.Kind.LLM_JUDGE else {}
        made = enqueue_gradings(outputs, grader, arguments=arguments, run=run)
        if is_paused:
            Job.objects.filter(pk__in=made.new, state=Job.State.QUEUED).update(state=Job.State.PAUSED, woken_at=None)
