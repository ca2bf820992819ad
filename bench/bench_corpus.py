"""The code graders against the labelled corpus: each criterion's precision and recall, for each task and part.

Graded as anybody would, by `python -m graders grade`, two files at a time. A criterion left undecided is not right.
Precision: of what the grader passes, the share that is labelled a pass; recall: of what is labelled a pass, the share
that the grader passes. CORPUS=fsdp_training/build,neural_memory takes some of it only: whoever still works on a grader
keeps off held_out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.corpus.corpus import TASKS, Part, Submission, parts, read

ROOT = Path(__file__).resolve().parents[1]
ACCURACY_BAR, JOBS = 98.0, 2
Graded = tuple[Submission, dict[str, Any]]


def run(n: int) -> list[dict[str, Any]]:
    """The size is that of the corpus: n, the outputs of the workspace, does not matter."""
    return [row for task, part in wanted() for row in rows(f"{task}/{part}", grade(task, read(task, part)))]


def wanted() -> Iterator[tuple[str, Part]]:
    asked = [part for part in os.environ.get("CORPUS", "").split(",") if part]
    for task in TASKS:
        for part in parts(task):
            if not asked or task in asked or f"{task}/{part}" in asked:
                yield task, part


def grade(task: str, submissions: Sequence[Submission]) -> list[Graded]:
    """Each submission with its grade as JSON; one that could not be graded has no criteria."""
    command = [sys.executable, "-m", "graders", "grade", task, "--json", "--jobs", str(JOBS), *(str(s.path) for s in submissions)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    sys.stderr.write(done.stderr)
    grades = {row["file"]: row for row in map(json.loads, done.stdout.splitlines())}
    return [(s, grades.get(str(s.path), {"runs": None, "passed": None, "criteria": []})) for s in submissions]


def rows(name: str, graded: Sequence[Graded]) -> list[dict[str, Any]]:
    said = [(s, key, label, verdict_of(g, key)) for s, g in graded for key, label in s.criteria.items()]
    right = sum(label is verdict for _, _, label, verdict in said)
    fooled = sum(bool(s.adversarial and not s.passed and g["passed"]) for s, g in graded)
    passes = {"value": 100 * sum((g["passed"] is True) is s.passed for s, g in graded) / len(graded), "unit": "%"}
    runs = {"value": 100 * sum(g["runs"] is s.runs for s, g in graded) / len(graded), "unit": "%"}
    undecided = sum(verdict is None for _, _, _, verdict in said)
    found = [
        {"name": f"{name}, criteria right", "value": 100 * right / len(said), "unit": "%", "bar": ACCURACY_BAR, "better": "higher"},
        {"name": f"{name}, adversarial passed", "value": float(fooled), "unit": "files", "bar": 0, "better": "lower"},
        {"name": f"{name}, criteria undecided", "value": float(undecided), "unit": f"of {len(said)}"},
        {"name": f"{name}, pass or fail right", **passes},
        {"name": f"{name}, runs right", **runs},
    ]
    for key in dict.fromkeys(key for _, key, _, _ in said):
        pairs = [(label, verdict) for _, k, label, verdict in said if k == key]
        for what, figure in (("precision", precision), ("recall", recall)):
            if (value := figure(pairs)) is not None:
                found.append({"name": f"  {key} {what}", "value": value, "unit": "%"})
    _show_wrong(name, said)
    return found


def verdict_of(graded: dict[str, Any], key: str) -> bool | None:
    return next((c["passed"] for c in graded["criteria"] if c["key"] == key), None)


Pairs = Sequence[tuple[bool, bool | None]]


def precision(pairs: Pairs) -> float | None:
    return _share(pairs, lambda pair: pair[1] is True, lambda pair: pair[0])


def recall(pairs: Pairs) -> float | None:
    return _share(pairs, lambda pair: pair[0], lambda pair: pair[1] is True)


def _share(pairs: Pairs, among: Callable[[Any], bool], counts: Callable[[Any], bool]) -> float | None:
    """Percent of some pairs; None where there are none of them."""
    chosen = [pair for pair in pairs if among(pair)]
    return 100 * sum(counts(pair) for pair in chosen) / len(chosen) if chosen else None


def _show_wrong(name: str, said: Sequence[tuple[Submission, str, bool, bool | None]]) -> None:
    for submission, key, label, verdict in said:
        if label is not verdict:
            print(f"  wrong in {name}: {submission.path.name} {key} is {label}, graded {verdict}")
