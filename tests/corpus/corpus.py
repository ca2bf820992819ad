"""Labelled submissions of the code tasks, against which the graders are measured. README.md says how they were labelled.

Reads only: nothing here runs a submission. Each part of a task is a folder of files and a labels.toml.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Part = Literal["build", "held_out"]

ROOT = Path(__file__).parent
TASKS = tuple(sorted(path.name for path in ROOT.iterdir() if (path / "build" / "labels.toml").is_file()))
PARTS: tuple[Part, ...] = ("build", "held_out")


@dataclass(frozen=True)
class Submission:
    """One file and what a right grader says about it. `criteria` maps every criterion key of the task to its verdict."""

    task: str
    part: Part
    path: Path
    style: str
    adversarial: bool
    runs: bool
    passed: bool
    criteria: dict[str, bool]
    why: str

    @property
    def name(self) -> str:
        return f"{self.part}/{self.path.stem}"

    @property
    def source(self) -> str:
        return self.path.read_text(encoding="utf-8")


def parts(task: str) -> list[Part]:
    """The parts that a task has: between two rounds of writing it may have nothing held out."""
    return [part for part in PARTS if (ROOT / task / part / "labels.toml").is_file()]


def read(task: str, part: Part) -> list[Submission]:
    """The labelled submissions of one part, in order of file name."""
    folder = ROOT / task / part
    rows = tomllib.loads((folder / "labels.toml").read_text(encoding="utf-8"))["submission"]
    found = [Submission(task=task, part=part, path=folder / row.pop("file"), **row) for row in rows]
    return sorted(found, key=lambda submission: submission.path)
