"""Make prompts, write an export by the command, and read its files back with independent readers."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path
from typing import Any

from django.core.management import call_command
from pyarrow import parquet

from reviewapp.models import Prompt, Task


def make_prompt(task: Task, text: str) -> Prompt:
    return Prompt.objects.create(task=task, sha256=hashlib.sha256(text.encode()).hexdigest(), text=text)


def export(folder: Path, *arguments: str, file_format: str = "scalar-jsonl") -> Path:
    call_command("export", "--format", file_format, "--out", str(folder), *arguments, stdout=io.StringIO(), stderr=io.StringIO())
    return folder


def rows_of(folder: Path, split: str = "train") -> list[dict[str, Any]]:
    """The rows of one side, whatever the format."""
    path = next((folder / "data").glob(f"{split}.*"), None)
    if path is None:
        return []
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    return parquet.read_table(path).to_pylist()


def manifest_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def only_row(folder: Path, *arguments: str, file_format: str = "scalar-jsonl") -> dict[str, Any]:
    rows = rows_of(export(folder, *arguments, file_format=file_format))
    assert len(rows) == 1
    return rows[0]
