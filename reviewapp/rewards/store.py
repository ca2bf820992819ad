"""Completions that were graded for a reward, kept as outputs of the workspace because that was asked for."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from pathlib import Path

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from graders.grade import Grade
from reviewapp.grading import record_grader_grade
from reviewapp.interchange.importer import import_file
from reviewapp.judges.calls import storable
from reviewapp.models import Grader, Job, Output, Task, User
from reviewapp.rewards import labels

OTHER = "other"  # the variant of a prompt that is none of the task's


def store_completions(
    task: Task, grader: Grader, rows: Mapping[int, tuple[str, str, Grade]], *, user: User, token: str, model: str = ""
) -> dict[int, int]:
    """Output id by place. `rows`: (prompt, content, grade) by place. Kept twice it is one output with one grade."""
    if not rows:
        return {}
    variants = {v.prompt.strip(): v.name for v in task.variants.filter(is_current=True)}
    names = {place: _name_of(prompt, content, model) for place, (prompt, content, _) in rows.items()}
    lines = {}
    for place, (prompt, content, _) in rows.items():
        told = {"external_id": names[place], "task": task.slug, "content": content, "variant": variants.get(prompt.strip(), OTHER)}
        told |= {"metadata": {"reward": {"token": token}}}
        told |= {name: text for name, text in (("prompt", prompt), ("model", model)) if text}
        lines[names[place]] = storable(told)
    _import(list(lines.values()), user, f"Stored with rewards by {token}")
    outputs = {o.external_id: o for o in Output.objects.filter(task=task, external_id__in=list(lines), is_latest=True)}
    with transaction.atomic(), labels.refreshed_once():
        for place, (_, _, plain) in rows.items():
            _record(outputs[names[place]], grader, plain, task, user)
    return {place: outputs[name].pk for place, name in names.items()}


def _name_of(prompt: str, content: str, model: str) -> str:
    return "reward/" + hashlib.sha256(json.dumps([prompt, content, model]).encode()).hexdigest()[:32]


def _import(lines: list[dict[str, object]], user: User, title: str) -> None:
    """By the one way in, which makes nothing twice."""
    path = Path(settings.MEDIA_ROOT) / f"rewards-{secrets.token_hex(8)}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        import_file(path, user=user, title=title)
    finally:
        path.unlink(missing_ok=True)


def _record(output: Output, grader: Grader, plain: Grade, task: Task, user: User) -> None:
    """The grade, and a finished job for it, so that nobody grades it again unasked."""
    if Job.objects.filter(kind=Job.Kind.GRADE, output=output, grader=grader).exists():
        return
    grade = record_grader_grade(output, grader, plain, attempt=1, rubric=task.rubric)
    now = timezone.now()
    ended = {"state": Job.State.DONE, "started_at": now, "finished_at": now, "result": {"text": "Graded."}}
    Job.objects.create(kind=Job.Kind.GRADE, output=output, grader=grader, grade=grade, created_by=user, **ended)
