"""Task and Variant: what an agent is asked, read from a folder.

A task is a folder: task.toml, rubric.toml, prompts/<variant>.md, and if it has them starter.py and judge.md.
A folder written by a user and the five shipped ones are read by the same code. Everything here is immutable;
docs/adding-a-task.md describes the files field by field.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.fields import TaskError, check_fields, check_slug, read_text, read_toml, scale_of, texts, title_of
from tasks.rubric import (
    Criterion,
    CriterionKind,
    PassRule,
    Rubric,
    count_passed,
    is_pass,
    load_rubric,
    parse_rubric,
    sha256_of,
    weighted_overall,
)

__all__ = [
    "SHIPPED_TASKS",
    "Criterion",
    "CriterionKind",
    "PassRule",
    "Rubric",
    "Task",
    "TaskError",
    "Variant",
    "check_slug",
    "count_passed",
    "is_pass",
    "load_rubric",
    "load_task",
    "load_task_of_rubric",
    "load_tasks",
    "parse_rubric",
    "sha256_of",
    "weighted_overall",
]

SHIPPED_TASKS = Path(__file__).parent
OUTPUT_FORMATS = ("markdown", "python", "text")
JUDGE = "judge"  # the LLM judge: any task can name it, the other graders are listed in `graders`
TASK_FIELDS = {
    "slug", "title", "description", "output_format", "tools", "graders", "primary_grader", "target_band", "variant",
}  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """One wording of a task's prompt, for ablations."""

    name: str
    prompt: str
    title: str = ""
    description: str = ""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.prompt.encode()).hexdigest()


@dataclass(frozen=True)
class Task:
    """What an agent is asked. `output_format` is markdown, python or text."""

    slug: str
    title: str
    description: str
    rubric: Rubric
    variants: tuple[Variant, ...] = ()
    output_format: str = "markdown"
    starter: str = ""
    judge_instructions: str = ""
    tools: tuple[str, ...] = ()
    graders: tuple[str, ...] = ()
    primary_grader: str = ""
    target_band: tuple[float, float] = (0.05, 0.30)


def load_tasks(*roots: Path) -> list[Task]:
    """Every task folder below the roots (default: the shipped ones), in order of slug. Raises TaskError."""
    found: dict[str, Path] = {}
    tasks = []
    for root in roots or (SHIPPED_TASKS,):
        if not root.is_dir():
            raise TaskError(f"{root}: no such folder of tasks")
        for folder in sorted(f for f in root.iterdir() if (f / "task.toml").is_file()):
            task = load_task(folder)
            if task.slug in found:
                raise TaskError(f"{folder / 'task.toml'}: slug {task.slug!r} is taken by {found[task.slug]}")
            found[task.slug] = folder
            tasks.append(task)
    return sorted(tasks, key=lambda task: task.slug)


def load_task(folder: Path) -> Task:
    """Read one task folder. Raises TaskError naming the file and field."""
    where = str(folder / "task.toml")
    meta = read_toml(folder / "task.toml")
    check_fields(meta, TASK_FIELDS, where)
    slug = str(meta.get("slug", folder.name))
    check_slug(slug, where)
    graders = texts(meta.get("graders", []), f"{where}: graders")
    primary = str(meta.get("primary_grader", ""))
    if primary and primary not in (*graders, JUDGE):
        raise TaskError(f"{where}: primary_grader is {primary!r}, allowed: {', '.join((*graders, JUDGE))}")
    return Task(
        slug=slug,
        title=title_of(meta.get("title", slug), where),
        description=str(meta.get("description", "")).strip(),
        rubric=load_rubric(folder / "rubric.toml"),
        variants=_load_variants(folder, meta.get("variant", []), where),
        output_format=_output_format(meta.get("output_format", "markdown"), where),
        starter=_read_if_there(folder / "starter.py"),
        judge_instructions=_read_if_there(folder / "judge.md"),
        tools=texts(meta.get("tools", []), f"{where}: tools"),
        graders=graders,
        primary_grader=primary,
        target_band=_band(meta.get("target_band", [0.05, 0.30]), where),
    )


def load_task_of_rubric(path: Path) -> Task:
    """A task defined by a rubric file alone, its [task] table giving slug, title and description."""
    data = read_toml(path)
    meta = data.get("task")
    if not isinstance(meta, dict) or "slug" not in meta:
        raise TaskError(f"{path}: a rubric for a new task needs a [task] table with slug, title, description")
    check_fields(meta, {"slug", "title", "description", "output_format"}, f"{path} [task]")
    check_slug(str(meta["slug"]), f"{path} [task]")
    return Task(
        slug=str(meta["slug"]),
        title=title_of(meta.get("title", meta["slug"]), f"{path} [task]"),
        description=str(meta.get("description", "")).strip(),
        output_format=_output_format(meta.get("output_format", "text"), f"{path} [task]"),
        rubric=parse_rubric(data, str(path)),
    )


def _load_variants(folder: Path, rows: Any, where: str) -> tuple[Variant, ...]:
    """Variants in the order of the [[variant]] tables, then the prompt files that no table names."""
    told = _variant_rows(rows, where)
    files = {p.stem: p for p in sorted((folder / "prompts").glob("*.md"))}
    if missing := [name for name in told if name not in files]:
        raise TaskError(f"{where}: variant {missing[0]!r} has no prompts/{missing[0]}.md")
    names = [*told, *(name for name in files if name not in told)]
    if not names:
        raise TaskError(f"{folder}/prompts: needs at least one <variant>.md")
    variants = []
    for name in names:
        check_slug(name, str(files[name]))
        prompt = read_text(files[name])
        if not prompt.strip():
            raise TaskError(f"{files[name]}: the prompt is empty")
        row = told.get(name, {})
        title = title_of(row.get("title", name), f"{where}: variant {name}")
        variants.append(Variant(name, prompt, title, str(row.get("description", "")).strip()))
    return tuple(variants)


def _variant_rows(rows: Any, where: str) -> dict[str, Mapping[str, Any]]:
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise TaskError(f"{where}: `variant` is {rows!r}, must be [[variant]] tables")
    told: dict[str, Mapping[str, Any]] = {}
    for i, row in enumerate(rows, 1):
        here = f"{where} [[variant]] {i}"
        check_fields(row, {"name", "title", "description"}, here)
        name = str(row.get("name", ""))
        check_slug(name, f"{here} name")
        if name in told:
            raise TaskError(f"{here}: variant names must differ, {name!r} is there twice")
        told[name] = row
    return told


def _band(value: Any, where: str) -> tuple[float, float]:
    low, high = scale_of(value, f"{where}: target_band")
    if low < 0 or high > 1:
        raise TaskError(f"{where}: target_band is {list(value)}, must be two rates like [0.05, 0.30]")
    return low, high


def _output_format(value: Any, where: str) -> str:
    if value not in OUTPUT_FORMATS:
        raise TaskError(f"{where}: output_format is {value!r}, allowed: {', '.join(OUTPUT_FORMATS)}")
    return str(value)


def _read_if_there(path: Path) -> str:
    return read_text(path) if path.is_file() else ""
