"""Factories: functions that make rows the way the app makes them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

from django.db import transaction
from django.utils import timezone

import tasks.task as spec
from graders.grade import CriterionScore, grade_of
from reviewapp.catalog.sync import save_grader, save_task, save_variant, spec_of
from reviewapp.grading import Answer, record_grader_grade, record_human_grade
from reviewapp.models import Grade, Grader, Output, OutputBody, Prompt, Task, User
from reviewapp.rewards.labels import refreshed_once

_numbers = itertools.count(1)


def at_once(make: Callable[..., Any]) -> Callable[..., Any]:
    """For who makes many grades: what outputs show of them is computed once, at the end, as an import does it."""

    @functools.wraps(make)
    def made(*args: Any, **kwargs: Any) -> Any:
        with transaction.atomic(), refreshed_once():
            return make(*args, **kwargs)

    return made


def make_user(username: str = "ana", role: str = "reviewer", password: str = "correct horse battery") -> User:
    return User.objects.create_user(username, password=password, role=role, is_staff=role == "admin")


def idea_rubric() -> spec.Rubric:
    weights = {"viability": 0.30, "upside": 0.25, "success": 0.30, "novelty": 0.15}
    return spec.Rubric(criteria=tuple(spec.Criterion(key=k, title=k.title(), weight=w) for k, w in weights.items()), pass_threshold=7.0)


def code_rubric() -> spec.Rubric:
    keys = ("memory_class", "surprise_gate", "learnable_decay")
    criteria = tuple(spec.Criterion(key=k, title=k.replace("_", " ").capitalize(), kind="binary") for k in keys)
    return spec.Rubric(criteria=criteria, pass_rule="count", min_passed=3, requires_run=True)


def make_task(slug: str = "ideas", rubric: spec.Rubric | None = None, **fields: Any) -> Task:
    """A task with one variant, "default"."""
    fields = {"title": slug.replace("_", " ").capitalize(), "description": "", "primary_grader": "judge", **fields}
    variants = (spec.Variant(name="default", prompt=f"The prompt of {slug}."),)
    return save_task(spec.Task(slug=slug, rubric=rubric or idea_rubric(), variants=variants, **fields))


def make_output(task: Task | None = None, content: str = "# An idea\n\nSome text.", **fields: Any) -> Output:
    task = task or Task.objects.first() or make_task()
    current = fields.pop("variant", None) or task.variants.filter(is_current=True).first()
    variant = current or save_variant(task, spec.Variant(name="default", prompt=""))
    prompt, _ = Prompt.objects.get_or_create(task=task, sha256=variant.sha256, defaults={"text": variant.prompt})
    number = next(_numbers)
    transcript, reference = fields.pop("transcript", []), fields.pop("reference", "")
    defaults = {"external_id": f"output-{number}", "content_hash": f"{number:064d}", "model": "model-a", "format": task.output_format}
    output = Output.objects.create(
        task=task, variant=variant, **{"prompt": prompt, "length": len(content), "created_at": timezone.now(), **defaults, **fields}
    )
    OutputBody.objects.create(output=output, content=content, transcript=transcript, reference=reference)
    return output


def make_grader(name: str = "judge", version: str = "1", kind: str = Grader.Kind.LLM_JUDGE, **fields: Any) -> Grader:
    return save_grader(name, version, kind, **fields)


def make_judge_grade(output: Output, scores: dict[str, float | None], grader: Grader | None = None, **fields: Any) -> Grade:
    """A judge's grade. `scores`: criterion key -> score; `rationales`: criterion key -> text."""
    rationales = fields.pop("rationales", {})
    rubric = spec_of(output.task).rubric
    rows = []
    for key, score in scores.items():
        criterion = rubric.criterion(key)
        passed = None if score is None or criterion.kind != "binary" else score > sum(criterion.scale) / 2
        rows.append(CriterionScore(key, passed, score, criterion.weight, rationales.get(key, f"The judge on {key}.")))
    plain = grade_of(output.task.slug, rubric, rows, runs=fields.pop("runs", None), **fields)
    return record_grader_grade(output, grader or make_grader(), plain, attempt=next(_numbers))


def make_human_grade(output: Output, rater: User, scores: dict[str, float | None], mode: str = "blind", **fields: Any) -> Grade:
    answers = {key: Answer(score=score) for key, score in scores.items()}
    return record_human_grade(output, rater, mode, answers, key=fields.pop("key", f"test-{next(_numbers)}"), **fields)
