"""Factories: a task folder and a rubric as a user would write them."""

from __future__ import annotations

import tomllib
from pathlib import Path

from tasks.task import Criterion, Rubric, parse_rubric

RUBRIC = """
[rubric]
pass_threshold = 7.0

[[criterion]]
key = "clarity"
"""
IDEA_WEIGHTS = {"viability": 0.30, "upside": 0.25, "success": 0.30, "novelty": 0.15}


def make_folder(
    root: Path,
    name: str = "essay",
    task: str = "",
    rubric: str = RUBRIC,
    prompts: dict[str, str] | None = None,
) -> Path:
    """A task folder with the given texts; the defaults load."""
    folder = root / name
    (folder / "prompts").mkdir(parents=True)
    (folder / "task.toml").write_text(task, encoding="utf-8")
    (folder / "rubric.toml").write_text(rubric, encoding="utf-8")
    for variant, prompt in ({"default": "Write an essay."} if prompts is None else prompts).items():
        (folder / "prompts" / f"{variant}.md").write_text(prompt, encoding="utf-8")
    return folder


def rubric_of(text: str) -> Rubric:
    return parse_rubric(tomllib.loads(text), "rubric.toml")


def idea_rubric() -> Rubric:
    return Rubric(tuple(Criterion(key, key, weight=weight) for key, weight in IDEA_WEIGHTS.items()), pass_threshold=7.0)


def count_rubric(n: int = 3, min_passed: int | None = None, requires_run: bool = True) -> Rubric:
    """n binary criteria named a, b, c, ..."""
    criteria = tuple(Criterion(key, key, kind="binary") for key in "abcdefghij"[:n])
    return Rubric(criteria, pass_rule="count", min_passed=min_passed, requires_run=requires_run)
