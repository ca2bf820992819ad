"""Lines and files for the import tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from reviewapp.interchange.importer import import_file
from reviewapp.interchange.problems import ImportRefused
from reviewapp.models import CriterionScore, Grade, Grader, Output, OutputBody, Prompt, Run, Task, Variant

TABLES = (Task, Variant, Grader, Run, Prompt, Output, OutputBody, Grade, CriterionScore)

RUBRIC = """
[task]
slug = "summaries"
title = "Summaries"

[rubric]
scale = [1, 5]
pass_threshold = 3.5

[[criterion]]
key = "coherence"
weight = 3

[[criterion]]
key = "fluency"
weight = 1

[[criterion]]
key = "verdict"
kind = "categorical"
values = ["model_a", "tie", "model_b"]

[[criterion]]
key = "grounded"
kind = "binary"
weight = 0
scale = [0, 1]
"""


def rubric_file(folder: Path, text: str = RUBRIC) -> Path:
    path = folder / "rubric.toml"
    path.write_text(text)
    return path


def grade(**fields: Any) -> dict[str, Any]:
    return {"grader": "geval", "kind": "llm_judge", "criteria": {"coherence": {"score": 4}, "fluency": {"score": 2}}, **fields}


def line(external_id: str = "doc-1/M1", **fields: Any) -> dict[str, Any]:
    return {"external_id": external_id, "task": "summaries", "content": "A summary.", **fields}


def jsonl(folder: Path, *lines: dict[str, Any] | bytes, name: str = "outputs.jsonl") -> Path:
    """A file of these lines; bytes go in as they are."""
    path = folder / name
    path.write_bytes(b"".join((row if isinstance(row, bytes) else orjson.dumps(row)) + b"\n" for row in lines))
    return path


def counts() -> dict[str, int]:
    return {model.__name__: model.objects.count() for model in TABLES}


def check_refused(path: Path, *said: str, rubric: Path | None = None) -> ImportRefused:
    """The import is refused, each of these words is in the message, and the database is as before."""
    before = counts()
    with pytest.raises(ImportRefused) as caught:
        import_file(path, rubric or rubric_file(path.parent))
    for words in said:
        assert words in str(caught.value)
    assert counts() == before
    return caught.value
